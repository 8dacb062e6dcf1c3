mod parse;

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::facts::Facts;
use parse::{Fields, Place, parse_actions, parse_list, parse_rule};

/// A script file: rules, the first of which that fits answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    rules: Vec<Rule>,
}

impl Script {
    /// Parses a script file's text; the module's documentation has the format.
    ///
    /// # Errors
    /// [`ScriptError`] with the place and the remedy.
    pub fn parse(json: &str) -> Result<Script, ScriptError> {
        let value: Value = serde_json::from_str(json).map_err(|error| ScriptError {
            at: "the script".to_owned(),
            reason: format!("is not JSON: {error}"),
        })?;
        let at = Place("script".to_owned());
        let mut fields = Fields::of(&value, &at)?;
        let rules = at.key("rules");
        let rules = match fields.take("rules") {
            Some(list) => parse_list(list, &rules, parse_rule)?,
            None => return Err(at.error("has no \"rules\" list")),
        };
        fields.finish(&["rules"])?;
        Ok(Script { rules })
    }

    /// The actions for this request, when a rule fits.
    pub(crate) fn find(&self, facts: &Facts, attempt: u32) -> Option<Vec<Action>> {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.when.fits(facts, attempt))?;
        Some(match &rule.plan {
            RulePlan::Actions(actions) => actions.clone(),
            RulePlan::Steps(plan) => plan.actions(facts.step, attempt),
        })
    }
}

/// What a turn's steps answer, one entry a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan(Vec<StepPlan>);

impl Plan {
    /// The plan that a user message carries after `script:`, plain or in a
    /// code fence. `None` when it carries none.
    pub(crate) fn in_message(message: &str) -> Option<Result<Plan, ScriptError>> {
        let (_, rest) = message.split_once("script:")?;
        let mut rest = rest.trim_start();
        if let Some(fenced) = rest.strip_prefix("```") {
            rest = fenced
                .trim_start_matches(|c: char| c.is_ascii_alphanumeric())
                .trim_start();
        }
        if !rest.starts_with(['[', '{']) {
            return None;
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let value = match values.next()? {
            Ok(value) => value,
            Err(error) => {
                return Some(Err(ScriptError {
                    at: "what follows \"script:\" in the message".to_owned(),
                    reason: format!("is not JSON: {error}"),
                }));
            }
        };
        Some(Plan::from_value(&value, &Place("script".to_owned())))
    }

    /// The actions of one step. Attempts beyond the last one get the last one;
    /// steps beyond the last one say that the script is over.
    pub(crate) fn actions(&self, step: u32, attempt: u32) -> Vec<Action> {
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        let attempt = usize::try_from(attempt).unwrap_or(usize::MAX);
        match self.0.get(step) {
            None => vec![Action::Say(Speech::plain("Done.".to_owned()))],
            Some(StepPlan(attempts)) => attempts
                .get(attempt)
                .or(attempts.last())
                .cloned()
                .unwrap_or_default(),
        }
    }

    fn from_value(value: &Value, at: &Place) -> Result<Plan, ScriptError> {
        match value {
            Value::Array(_) => Ok(Plan(parse_list(value, at, StepPlan::from_value)?)),
            Value::Object(_) => Ok(Plan(vec![StepPlan::from_value(value, at)?])),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                Err(at.error("must be a list of steps"))
            }
        }
    }
}

/// One thing that a response does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Say(Speech),
    Think(Speech),
    ToolCall {
        id: Option<String>,
        name: String,
        arguments: Speech,
    },
    Usage(Value),
    /// `None`: no finish chunk at all.
    Finish(Option<String>),
    Status {
        code: u16,
        headers: Vec<(String, String)>,
        body: Option<Bytes>,
    },
    Open,
    Cut,
    Hang,
    Hold(String),
    Delay(Duration),
    Malformed(String),
    ErrorEvent(Value),
    NoTerminator,
    Json,
    Raw(Bytes),
}

/// Text in pieces.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Speech {
    pub(crate) text: String,
    /// How often the text is said in a row.
    pub(crate) repeat: u32,
    /// Characters a piece.
    pub(crate) chunk: usize,
    /// Between two pieces.
    pub(crate) delay: Duration,
}

impl Speech {
    pub(crate) fn plain(text: String) -> Speech {
        Speech {
            text,
            repeat: 1,
            chunk: DEFAULT_CHUNK,
            delay: Duration::ZERO,
        }
    }

    fn total_bytes(&self) -> usize {
        usize::try_from(self.repeat)
            .unwrap_or(usize::MAX)
            .saturating_mul(self.text.len())
    }
}

/// A script that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at} {reason}")]
pub struct ScriptError {
    at: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    when: When,
    plan: RulePlan,
}

#[derive(Clone, Debug, PartialEq)]
enum RulePlan {
    Actions(Vec<Action>),
    Steps(Plan),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct When {
    contains: Option<String>,
    equals: Option<String>,
    prefix: Option<String>,
    model: Option<String>,
    step: Option<u32>,
    attempt: Option<u32>,
}

impl When {
    fn fits(&self, facts: &Facts, attempt: u32) -> bool {
        let message = facts.message.as_str();
        let fits = |wanted: &Option<String>, test: fn(&str, &str) -> bool| {
            wanted.as_deref().is_none_or(|wanted| test(message, wanted))
        };
        fits(&self.contains, |message, wanted| message.contains(wanted))
            && fits(&self.equals, |message, wanted| message == wanted)
            && fits(&self.prefix, |message, wanted| message.starts_with(wanted))
            && self
                .model
                .as_ref()
                .is_none_or(|wanted| *wanted == facts.model)
            && self.step.is_none_or(|wanted| wanted == facts.step)
            && self.attempt.is_none_or(|wanted| wanted == attempt)
    }
}

/// The attempts of one step.
#[derive(Clone, Debug, PartialEq)]
struct StepPlan(Vec<Vec<Action>>);

impl StepPlan {
    fn from_value(value: &Value, at: &Place) -> Result<StepPlan, ScriptError> {
        let Some(attempts) = value.get("attempts") else {
            return Ok(StepPlan(vec![parse_actions(value, at)?]));
        };
        let mut fields = Fields::of(value, at)?;
        fields.take("attempts");
        fields.finish(&["attempts"])?;
        let at = at.key("attempts");
        let attempts = parse_list(attempts, &at, parse_actions)?;
        if attempts.is_empty() {
            return Err(at.error("must not be empty"));
        }
        Ok(StepPlan(attempts))
    }
}

const DEFAULT_CHUNK: usize = 16;
const MAX_NAME_BYTES: usize = 64;

/// A name that `hold` and the control endpoint agree on.
pub(crate) fn is_hold_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests;
