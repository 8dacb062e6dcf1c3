use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Action, DEFAULT_CHUNK, Plan, Rule, RulePlan, ScriptError, Speech, When, is_hold_name};

const MAX_LIST: usize = 10_000;
const MAX_TEXT_BYTES: usize = 64 * 1024 * 1024;
const MAX_DELAY_MS: u64 = 24 * 3_600_000;
const VERBS: [&str; 16] = [
    "text",
    "reasoning",
    "tool_call",
    "usage",
    "finish",
    "status",
    "open",
    "cut",
    "hang",
    "hold",
    "delay_ms",
    "malformed",
    "error_event",
    "no_terminator",
    "json",
    "raw",
];

pub(super) fn parse_rule(value: &Value, at: &Place) -> Result<Rule, ScriptError> {
    let mut fields = Fields::of(value, at)?;
    let when = match fields.take("when") {
        Some(value) => parse_when(value, &at.key("when"))?,
        None => When::default(),
    };
    let plan = match (fields.take("do"), fields.take("steps")) {
        (Some(actions), None) => RulePlan::Actions(parse_actions(actions, &at.key("do"))?),
        (None, Some(steps)) => RulePlan::Steps(Plan::from_value(steps, &at.key("steps"))?),
        (None, None) | (Some(_), Some(_)) => {
            return Err(at.error("needs either \"do\" (actions) or \"steps\" (a list of steps)"));
        }
    };
    fields.finish(&["when", "do", "steps"])?;
    Ok(Rule { when, plan })
}

fn parse_when(value: &Value, at: &Place) -> Result<When, ScriptError> {
    let mut fields = Fields::of(value, at)?;
    let when = When {
        contains: fields.text("contains")?,
        equals: fields.text("equals")?,
        prefix: fields.text("prefix")?,
        model: fields.text("model")?,
        step: fields.small("step")?,
        attempt: fields.small("attempt")?,
    };
    fields.finish(&["contains", "equals", "prefix", "model", "step", "attempt"])?;
    Ok(when)
}

/// A list of actions, or one alone.
pub(super) fn parse_actions(value: &Value, at: &Place) -> Result<Vec<Action>, ScriptError> {
    let actions = match value {
        Value::Array(_) => parse_list(value, at, parse_action)?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            vec![parse_action(value, at)?]
        }
    };
    check_order(&actions, at)?;
    Ok(actions)
}

/// What could never be seen by a client is a mistake in the script.
fn check_order(actions: &[Action], at: &Place) -> Result<(), ScriptError> {
    let is_json = actions.contains(&Action::Json);
    let mut is_open = false;
    let mut said_bytes = 0usize;
    let mut last = None;
    for (n, action) in actions.iter().enumerate() {
        let at = at.index(n);
        if let Some(last) = last {
            return Err(at.error(&format!("can never happen: {last} ends the response")));
        }
        if let Action::Say(speech)
        | Action::Think(speech)
        | Action::ToolCall {
            arguments: speech, ..
        } = action
        {
            said_bytes = said_bytes.saturating_add(speech.total_bytes());
        }
        if said_bytes > MAX_TEXT_BYTES {
            return Err(at.error("makes more than 64 MiB of text"));
        }
        match action {
            Action::Status { .. } if is_open || is_json => {
                return Err(at.error("\"status\" must come before any content"));
            }
            Action::Status { .. } => last = Some("\"status\""),
            Action::Cut => last = Some("\"cut\""),
            Action::Hang => last = Some("\"hang\""),
            Action::Open | Action::Malformed(_) | Action::Raw(_) if is_json => {
                return Err(at.error("has no place in a \"json\" response"));
            }
            Action::Say(_)
            | Action::Think(_)
            | Action::ToolCall { .. }
            | Action::Usage(_)
            | Action::Open
            | Action::Malformed(_)
            | Action::ErrorEvent(_)
            | Action::Raw(_)
            | Action::Finish(Some(_)) => is_open = true,
            Action::Finish(None)
            | Action::Hold(_)
            | Action::Delay(_)
            | Action::NoTerminator
            | Action::Json => {}
        }
    }
    Ok(())
}

fn parse_action(value: &Value, at: &Place) -> Result<Action, ScriptError> {
    if let Value::String(text) = value {
        return Ok(Action::Say(Speech::plain(text.clone())));
    }
    let mut fields = Fields::of(value, at)?;
    // `delay_ms` is an action of its own only where nothing else is there for
    // it to slow down.
    let verb = VERBS
        .iter()
        .copied()
        .filter(|verb| *verb != "delay_ms")
        .find(|verb| fields.has(verb))
        .or_else(|| fields.has("delay_ms").then_some("delay_ms"))
        .ok_or_else(|| at.error(&format!("is no action; known are: {}", VERBS.join(", "))))?;
    match verb {
        "text" | "reasoning" => {
            let text = fields.required_text(verb)?;
            let speech = parse_speech(text, &mut fields)?;
            fields.finish(&[verb, "chunk", "delay_ms", "repeat"])?;
            Ok(match verb {
                "text" => Action::Say(speech),
                _ => Action::Think(speech),
            })
        }
        "tool_call" => {
            let call = fields.take(verb);
            fields.finish(&[verb])?;
            parse_tool_call(call.unwrap_or(&Value::Null), &at.key(verb))
        }
        "status" => {
            let status = fields.take(verb);
            fields.finish(&[verb])?;
            parse_status(status.unwrap_or(&Value::Null), &at.key(verb))
        }
        _ => {
            let argument = fields.take(verb).unwrap_or(&Value::Null);
            fields.finish(&[verb])?;
            parse_simple(verb, argument, &at.key(verb))
        }
    }
}

fn parse_simple(verb: &str, argument: &Value, at: &Place) -> Result<Action, ScriptError> {
    match verb {
        "usage" | "error_event" => {
            let is_message = verb == "error_event" && argument.is_string();
            if !is_message && !argument.is_object() {
                return Err(at.error("must be an object"));
            }
            Ok(match verb {
                "usage" => Action::Usage(argument.clone()),
                _ => Action::ErrorEvent(argument.clone()),
            })
        }
        "finish" => match argument {
            Value::Null => Ok(Action::Finish(None)),
            Value::String(reason) => Ok(Action::Finish(Some(reason.clone()))),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(at.error("must be a finish reason, or null for none"))
            }
        },
        "hold" => match argument.as_str() {
            Some(name) if is_hold_name(name) => Ok(Action::Hold(name.to_owned())),
            Some(_) | None => Err(at.error("must be a name of 1 to 64 letters, digits, - and _")),
        },
        "delay_ms" => match argument.as_u64() {
            Some(ms) if ms <= MAX_DELAY_MS => Ok(Action::Delay(Duration::from_millis(ms))),
            Some(_) | None => Err(at.error("must be a number of milliseconds, at most a day's")),
        },
        "malformed" => match argument {
            Value::Bool(true) => Ok(Action::Malformed("{\"choices\":[{\"delta\":".to_owned())),
            Value::String(text) if !text.contains(['\n', '\r']) => {
                Ok(Action::Malformed(text.clone()))
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => Err(at.error("must be true, or the broken data on one line")),
        },
        "raw" => parse_raw(argument, at).map(Action::Raw),
        _ if *argument != Value::Bool(true) => Err(at.error("must be true")),
        "open" => Ok(Action::Open),
        "cut" => Ok(Action::Cut),
        "hang" => Ok(Action::Hang),
        "no_terminator" => Ok(Action::NoTerminator),
        _ => Ok(Action::Json),
    }
}

fn parse_speech(text: String, fields: &mut Fields<'_>) -> Result<Speech, ScriptError> {
    let at = fields.at.clone();
    let repeat = fields.small("repeat")?.unwrap_or(1);
    let chunk = fields.small("chunk")?.map_or(DEFAULT_CHUNK, |chunk| {
        usize::try_from(chunk).unwrap_or(usize::MAX)
    });
    if chunk == 0 {
        return Err(at.key("chunk").error("must be at least 1 character"));
    }
    let delay_ms = u64::from(fields.small("delay_ms")?.unwrap_or(0));
    if delay_ms > MAX_DELAY_MS {
        return Err(at.key("delay_ms").error("is more than a day"));
    }
    Ok(Speech {
        text,
        repeat,
        chunk,
        delay: Duration::from_millis(delay_ms),
    })
}

fn parse_tool_call(value: &Value, at: &Place) -> Result<Action, ScriptError> {
    let mut fields = Fields::of(value, at)?;
    let name = fields.required_text("name")?;
    let id = fields.text("id")?;
    let arguments = match fields.take("arguments") {
        None => "{}".to_owned(),
        // A string is sent as it stands: vendors do send broken arguments.
        Some(Value::String(text)) => text.clone(),
        Some(
            value @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_)),
        ) => value.to_string(),
    };
    let arguments = parse_speech(arguments, &mut fields)?;
    fields.finish(&["id", "name", "arguments", "chunk", "delay_ms", "repeat"])?;
    Ok(Action::ToolCall {
        id,
        name,
        arguments,
    })
}

fn parse_status(value: &Value, at: &Place) -> Result<Action, ScriptError> {
    let (code, headers, body) = if value.is_number() {
        (value.as_u64(), Vec::new(), None)
    } else {
        let mut fields = Fields::of(value, at)?;
        let code = fields.take("code").and_then(Value::as_u64);
        let headers = match fields.take("headers") {
            None => Vec::new(),
            Some(headers) => parse_headers(headers, &at.key("headers"))?,
        };
        let body = fields.take("body").map(|body| match body {
            Value::String(text) => Bytes::from(text.clone()),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => Bytes::from(body.to_string()),
        });
        fields.finish(&["code", "headers", "body"])?;
        (code, headers, body)
    };
    let code = code
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| (200..=599).contains(code))
        .ok_or_else(|| at.error("needs a code from 200 to 599"))?;
    Ok(Action::Status {
        code,
        headers,
        body,
    })
}

fn parse_headers(value: &Value, at: &Place) -> Result<Vec<(String, String)>, ScriptError> {
    let fields = Fields::of(value, at)?;
    let mut headers = Vec::new();
    for (name, value) in fields.map {
        let at = at.key(name);
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                return Err(at.error("must be a string or a number"));
            }
        };
        let is_valid = http::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && http::HeaderValue::from_str(&value).is_ok();
        if !is_valid {
            return Err(at.error("is no valid HTTP header"));
        }
        headers.push((name.to_ascii_lowercase(), value));
    }
    Ok(headers)
}

fn parse_raw(value: &Value, at: &Place) -> Result<Bytes, ScriptError> {
    let wrong = || at.error("must be a string, or a list of byte values for what is no UTF-8");
    match value {
        Value::String(text) => Ok(Bytes::from(text.clone())),
        Value::Array(bytes) => bytes
            .iter()
            .map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()))
            .collect::<Option<Vec<u8>>>()
            .map(Bytes::from)
            .ok_or_else(wrong),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Err(wrong()),
    }
}

pub(super) fn parse_list<T>(
    value: &Value,
    at: &Place,
    parse: impl Fn(&Value, &Place) -> Result<T, ScriptError>,
) -> Result<Vec<T>, ScriptError> {
    let list = value.as_array().ok_or_else(|| at.error("must be a list"))?;
    if list.len() > MAX_LIST {
        return Err(at.error("has more than 10,000 entries"));
    }
    list.iter()
        .enumerate()
        .map(|(n, value)| parse(value, &at.index(n)))
        .collect()
}

#[derive(Clone)]
pub(super) struct Place(pub(super) String);

impl Place {
    pub(super) fn key(&self, key: &str) -> Place {
        Place(format!("{}.{key}", self.0))
    }

    pub(super) fn index(&self, n: usize) -> Place {
        Place(format!("{}[{n}]", self.0))
    }

    pub(super) fn error(&self, reason: &str) -> ScriptError {
        ScriptError {
            at: self.0.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// An object's fields; what nobody took is an error.
pub(super) struct Fields<'a> {
    at: Place,
    map: &'a Map<String, Value>,
    taken: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(value: &'a Value, at: &Place) -> Result<Fields<'a>, ScriptError> {
        let map = value
            .as_object()
            .ok_or_else(|| at.error("must be an object"))?;
        Ok(Fields {
            at: at.clone(),
            map,
            taken: Vec::new(),
        })
    }

    fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(super) fn take(&mut self, key: &str) -> Option<&'a Value> {
        self.taken.push(key.to_owned());
        self.map.get(key)
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, ScriptError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_),
            ) => Err(self.at.key(key).error("must be a string")),
        }
    }

    fn required_text(&mut self, key: &str) -> Result<String, ScriptError> {
        self.text(key)?
            .ok_or_else(|| self.at.error(&format!("needs {key:?}")))
    }

    fn small(&mut self, key: &str) -> Result<Option<u32>, ScriptError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.at.key(key).error("must be a whole number")),
        }
    }

    pub(super) fn finish(self, known: &[&str]) -> Result<(), ScriptError> {
        match self.map.keys().find(|key| !self.taken.contains(key)) {
            None => Ok(()),
            Some(key) => Err(self.at.key(key).error(&format!(
                "is not known here; known are: {}",
                known.join(", ")
            ))),
        }
    }
}
