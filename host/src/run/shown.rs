//! What `dispatch run` has shown of a turn: the answer on standard output,
//! everything about it on standard error.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{FAILED, tell};

/// See the module's page.
pub(super) struct Shown {
    json: bool,
    on_terminal: bool,
    /// Somebody watches standard output; a program gets each step's text once
    /// it is certain, because what is written to a pipe cannot be taken back.
    is_watched: bool,
    cursor: u64,
    /// The step on the screen, and how much of its text.
    step: u64,
    text: String,
    /// The cursor stands behind a text that has not ended its line.
    mid_line: bool,
    /// A countdown on the screen, and its end.
    countdown: Option<(String, Instant)>,
    progress: bool,
    end: Option<u8>,
}

impl Shown {
    pub(super) fn new(json: bool, on_terminal: bool, cursor: u64) -> Shown {
        Shown {
            json,
            on_terminal,
            is_watched: std::io::stdout().is_terminal(),
            cursor,
            step: 0,
            text: String::new(),
            mid_line: false,
            countdown: None,
            progress: false,
            end: None,
        }
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The exit code, once the terminal event was seen.
    pub(super) fn end(&self) -> Option<u8> {
        self.end
    }

    /// Whether anything came since this was last asked.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Moves a countdown; pends for ever where there is none to move.
    pub(super) async fn tick(&mut self) {
        let Some((what, until)) = self.countdown.clone().filter(|_| self.on_terminal) else {
            return std::future::pending().await;
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        let left_s = until.saturating_duration_since(Instant::now()).as_secs();
        let _ = write!(std::io::stderr(), "\r\x1b[K{what}, {left_s} s left");
    }

    pub(super) fn take(&mut self, event: &Value) {
        self.progress = true;
        if self.json {
            let _ = writeln!(std::io::stdout(), "{event}");
            let _ = std::io::stdout().flush();
        }
        let kind = event["type"].as_str().unwrap_or_default();
        if kind != "synced"
            && let Some(seq) = event["seq"].as_u64()
        {
            self.cursor = self.cursor.max(seq);
        }
        match kind {
            "text-delta" => self.piece(event),
            "snapshot" if self.is_watched => {
                self.rest_of(event["step"].as_u64(), text(event, "text"))
            }
            "step-complete" => self.complete(event),
            "step-restart" => self.restart(event),
            "status" => self.status(event),
            "provider-retry" => self.retry(event),
            "tool-call" => self.note(&format!("{} {}", text(event, "name"), event["input"])),
            "tool-result" => self.tool_result(event),
            "warning" => self.note(text(event, "message")),
            "done" => self.ended(0, None),
            "error" => {
                let message = format!("{}: {}", text(event, "code"), text(event, "message"));
                self.ended(FAILED, Some(&message));
            }
            "aborted" => self.ended(FAILED, Some("aborted")),
            _ => {}
        }
    }

    fn piece(&mut self, event: &Value) {
        if !self.is_watched {
            return;
        }
        let step = event["step"].as_u64().unwrap_or_default();
        if step != self.step {
            self.step = step;
            self.text.clear();
        }
        // A piece that was shown before the connection broke may come again.
        let offset =
            usize::try_from(event["offset"].as_u64().unwrap_or_default()).unwrap_or(usize::MAX);
        let known = self.text.len().checked_sub(offset);
        if let Some(fresh) = known.and_then(|known| text(event, "text").get(known..)) {
            let fresh = fresh.to_owned();
            self.say(&fresh);
        }
    }

    /// All of a step's text so far: shows what is not on the screen yet.
    fn rest_of(&mut self, step: Option<u64>, whole: &str) {
        if step.is_some_and(|step| step != self.step) {
            self.step = step.unwrap_or_default();
            self.text.clear();
        }
        match whole.strip_prefix(self.text.as_str()) {
            Some(rest) => {
                let rest = rest.to_owned();
                self.say(&rest);
            }
            // After a crash the answer may begin anew, shorter or otherwise.
            None => {
                let whole = whole.to_owned();
                self.note("the answer begins anew");
                self.text.clear();
                self.say(&whole);
            }
        }
    }

    fn complete(&mut self, event: &Value) {
        let chunks = event["chunks"].as_array().map_or(&[][..], Vec::as_slice);
        let whole: String = chunks
            .iter()
            .filter(|chunk| chunk["type"] == "text")
            .filter_map(|chunk| chunk["text"].as_str())
            .collect();
        self.rest_of(event["step"].as_u64(), &whole);
        self.end_line();
        self.text.clear();
    }

    fn restart(&mut self, event: &Value) {
        if !self.text.is_empty() {
            self.note(&format!(
                "the answer begins anew: {}",
                text(event, "reason")
            ));
        }
        self.text.clear();
    }

    fn status(&mut self, event: &Value) {
        if let (Some("queued"), Some(position)) =
            (event["state"].as_str(), event["position"].as_u64())
        {
            self.note(&format!("waiting, number {position} in line"));
        }
    }

    fn retry(&mut self, event: &Value) {
        let delay_ms = event["delayMs"].as_u64().unwrap_or_default();
        let what = format!(
            "the provider refused ({}); attempt {} in {} s",
            text(event, "message"),
            event["attempt"].as_u64().unwrap_or_default() + 2,
            delay_ms / 1_000
        );
        self.note(&what);
        let until = Instant::now() + Duration::from_millis(delay_ms);
        self.countdown = Some((what, until)).filter(|_| self.on_terminal && !self.json);
    }

    fn tool_result(&mut self, event: &Value) {
        let output = text(event, "output").trim_end();
        let first = output.lines().next().unwrap_or_default();
        let more = output.lines().count().saturating_sub(1);
        let more = if more > 0 {
            format!(" (and {more} more lines)")
        } else {
            String::new()
        };
        let mark = if event["ok"] == true { "  =" } else { "  !" };
        self.note(&format!("{mark} {first}{more}"));
    }

    fn ended(&mut self, code: u8, message: Option<&str>) {
        self.end_line();
        if let Some(message) = message {
            self.note(message);
        }
        self.end = Some(code);
    }

    fn say(&mut self, fresh: &str) {
        if fresh.is_empty() {
            return;
        }
        self.clear_countdown();
        self.text.push_str(fresh);
        if !self.json {
            let _ = write!(std::io::stdout(), "{fresh}");
            let _ = std::io::stdout().flush();
            self.mid_line = !fresh.ends_with('\n');
        }
    }

    fn note(&mut self, line: &str) {
        if self.json {
            return;
        }
        self.clear_countdown();
        self.end_line();
        tell(line);
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.mid_line) {
            let _ = writeln!(std::io::stdout());
        }
    }

    fn clear_countdown(&mut self) {
        if self.countdown.take().is_some() {
            tell("");
        }
    }
}

fn text<'a>(event: &'a Value, name: &str) -> &'a str {
    event[name].as_str().unwrap_or_default()
}
