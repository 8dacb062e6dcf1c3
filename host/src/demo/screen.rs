//! What the demo prints: colours and moving lines on a terminal, plain lines
//! in order everywhere else.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Heading,
    Good,
    Bad,
    Notice,
    Tool,
    Quiet,
}

/// The terminal, or a pipe.
#[derive(Debug)]
pub(super) struct Screen {
    colour: bool,
    moving: bool,
    /// Lines of the board that stands at the end of the output.
    board: usize,
    /// Text without a line feed stands there.
    in_line: bool,
}

impl Screen {
    pub(super) fn new() -> Screen {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let moving = io::stdout().is_terminal() && !dumb;
        Screen {
            colour: moving && !is_set("NO_COLOR"),
            moving,
            board: 0,
            in_line: false,
        }
    }

    /// Whether lines can be written over.
    pub(super) fn is_moving(&self) -> bool {
        self.moving
    }

    /// The text in its colour, where there are colours.
    pub(super) fn paint(&self, tone: Tone, text: impl Display) -> String {
        let code = match tone {
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Bad => "1;31",
            Tone::Notice => "33",
            Tone::Tool => "36",
            Tone::Quiet => "2",
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    pub(super) fn heading(&mut self, text: &str) {
        let text = self.paint(Tone::Heading, text);
        self.line(format!("\n{text}"));
    }

    pub(super) fn say(&mut self, tone: Tone, text: impl Display) {
        let text = self.paint(tone, text);
        self.line(format!("  {text}"));
    }

    /// A line of its own.
    pub(super) fn line(&mut self, text: impl Display) {
        self.end_line();
        self.put(format!("{text}\n"));
        self.board = 0;
    }

    /// More of a text that grows.
    pub(super) fn text(&mut self, text: &str) {
        if !self.in_line {
            self.put("    ".to_owned());
            self.in_line = true;
        }
        self.put(text.replace('\n', "\n    "));
    }

    pub(super) fn end_line(&mut self) {
        if std::mem::take(&mut self.in_line) {
            self.put("\n".to_owned());
        }
    }

    /// A line that the next one replaces; nothing where lines cannot be replaced.
    pub(super) fn passing(&mut self, text: impl Display) {
        if self.moving {
            self.end_line();
            self.put(format!("\r\x1b[2K  {text}\r"));
        }
    }

    /// Clears what [`Screen::passing`] left.
    pub(super) fn clear_passing(&mut self) {
        if self.moving {
            self.put("\r\x1b[2K".to_owned());
        }
    }

    /// Lines that replace those of the last call, where they can.
    pub(super) fn board(&mut self, lines: &[String]) {
        self.end_line();
        let mut out = String::new();
        if self.moving && self.board > 0 {
            out.push_str(&format!("\x1b[{}A", self.board));
        }
        for line in lines {
            if self.moving {
                out.push_str("\x1b[2K");
            }
            out.push_str(&format!("  {line}\n"));
        }
        self.board = lines.len();
        self.put(out);
    }

    fn put(&mut self, text: String) {
        let mut out = io::stdout().lock();
        // Whoever reads may have had enough; the demo still ends in order.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
