//! The board of turns in line: one line a turn, rewritten on a terminal; a
//! line for each change where lines cannot be rewritten.

use std::cell::RefCell;

use super::plan::{LIMIT, Planned, STARRED};
use super::screen::{Screen, Tone};
use super::stage::News;

/// See the module's page.
pub(super) struct Board<'a> {
    screen: &'a RefCell<Screen>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    label: String,
    workspace: &'static str,
    state: State,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Waiting(Option<u64>),
    Streaming,
    Ended(String),
}

impl<'a> Board<'a> {
    pub(super) fn new(line: &[Planned], screen: &'a RefCell<Screen>) -> Board<'a> {
        let rows = line
            .iter()
            .map(|planned| Row {
                label: planned.label.clone(),
                workspace: planned.workspace.unwrap_or("default"),
                state: State::Waiting(None),
                text: String::new(),
            })
            .collect();
        Board { screen, rows }
    }

    /// Every turn beyond the limit has been told its place.
    pub(super) fn all_have_places(&self) -> bool {
        let waiting = self.rows.iter().skip(LIMIT);
        waiting
            .into_iter()
            .all(|row| row.state != State::Waiting(None))
    }

    pub(super) fn take(&mut self, n: usize, news: &News<'_>) {
        let News::Event(event, text) = news else {
            return;
        };
        let row = &mut self.rows[n];
        let before = row.state.clone();
        match event["type"].as_str().unwrap_or_default() {
            "status" if event["state"] == "queued" => {
                if let Some(place) = event["position"].as_u64() {
                    row.state = State::Waiting(Some(place));
                }
            }
            "text-delta" | "snapshot" => row.state = State::Streaming,
            kind @ ("done" | "error" | "aborted") => row.state = State::Ended(kind.to_owned()),
            _ => {}
        }
        row.text.push_str(text.as_deref().unwrap_or_default());
        if self.screen.borrow().is_moving() {
            self.draw();
        } else if self.rows[n].state != before {
            let mut screen = self.screen.borrow_mut();
            let text = self.rows[n].shown(&screen);
            screen.line(format!("  {text}"));
        }
    }

    pub(super) fn draw(&mut self) {
        let mut screen = self.screen.borrow_mut();
        if screen.is_moving() {
            let lines: Vec<String> = self.rows.iter().map(|row| row.shown(&screen)).collect();
            screen.board(&lines);
        }
    }
}

impl Row {
    fn shown(&self, screen: &Screen) -> String {
        let star = if self.workspace == STARRED { "*" } else { " " };
        let name = format!("{} {star} {:<8}", self.label, self.workspace);
        let (tone, state) = match &self.state {
            State::Waiting(None) => (Tone::Quiet, "in line".to_owned()),
            State::Waiting(Some(place)) => (Tone::Notice, format!("in line, place {place}")),
            State::Streaming => (Tone::Tool, "streaming".to_owned()),
            State::Ended(kind) if kind == "done" => (Tone::Good, kind.clone()),
            State::Ended(kind) => (Tone::Bad, kind.clone()),
        };
        let tail = tail(&self.text, TAIL_CHARS);
        let state = screen.paint(tone, format!("{state:<17}"));
        format!("{name}  {state}  {}", screen.paint(Tone::Quiet, tail))
            .trim_end()
            .to_owned()
    }
}

const TAIL_CHARS: usize = 34;

/// The end of a text, from the beginning of a word on.
fn tail(text: &str, chars: usize) -> String {
    let skip = text.chars().count().saturating_sub(chars);
    if skip == 0 {
        return text.to_owned();
    }
    let end: String = text.chars().skip(skip).collect();
    let words = end.split_once(' ').map_or(end.as_str(), |(_, words)| words);
    format!("... {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_shown_from_a_word_on() {
        assert_eq!(tail("one two three", 20), "one two three");
        assert_eq!(tail("one two three", 8), "... three");
        assert_eq!(tail("0123456789", 4), "... 6789");
    }
}
