//! What one client has seen of one turn.

use std::collections::BTreeMap;

use serde_json::Value;

/// A turn as its client sees it, event by event.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// The last logged event's number: where to go on after a cut.
    pub(super) cursor: u64,
    /// Number and type of each logged event of the turn, as they came.
    pub(super) logged: Vec<(u64, String)>,
    /// The text of each step, as shown.
    shown: BTreeMap<u64, String>,
    /// Places in line, as they changed.
    pub(super) positions: Vec<u64>,
    /// The terminal event was seen.
    pub(super) ended: bool,
    /// What no client should ever see.
    pub(super) faults: Vec<String>,
    /// Streams that broke and were taken up again.
    pub(super) reconnects: u32,
}

/// Whether a type of event ends its turn.
pub(super) fn is_terminal(kind: &str) -> bool {
    matches!(kind, "done" | "error" | "aborted")
}

/// The text of a `step-complete`.
pub(super) fn complete_text(event: &Value) -> String {
    let chunks = event["chunks"].as_array().map_or(&[][..], Vec::as_slice);
    chunks
        .iter()
        .filter(|chunk| chunk["type"] == "text")
        .filter_map(|chunk| chunk["text"].as_str())
        .collect()
}

impl View {
    /// Takes the next event; tells which text is new on the screen.
    pub(super) fn take(&mut self, event: &Value) -> Option<String> {
        let kind = event["type"].as_str().unwrap_or_default();
        match event["seq"].as_u64() {
            Some(seq) if kind != "synced" => self.take_logged(seq, kind, event),
            Some(_) | None => self.take_passing(kind, event),
        }
    }

    fn take_logged(&mut self, seq: u64, kind: &str, event: &Value) -> Option<String> {
        if seq <= self.cursor {
            self.faults.push(format!("event {seq} came twice"));
        }
        if self.ended {
            self.faults.push(format!("{kind} came after the end"));
        }
        self.cursor = seq;
        self.logged.push((seq, kind.to_owned()));
        let step = event["step"].as_u64().unwrap_or_default();
        match kind {
            "step-restart" => {
                self.shown.remove(&step);
            }
            "step-complete" => {
                let text = complete_text(event);
                let shown = self.shown.insert(step, text.clone()).unwrap_or_default();
                let Some(rest) = text.strip_prefix(&shown) else {
                    self.faults
                        .push(format!("step {step} was shown otherwise than it is"));
                    return None;
                };
                return (!rest.is_empty()).then(|| rest.to_owned());
            }
            _ => self.ended |= is_terminal(kind),
        }
        None
    }

    fn take_passing(&mut self, kind: &str, event: &Value) -> Option<String> {
        let step = event["step"].as_u64().unwrap_or_default();
        let text = event["text"].as_str().unwrap_or_default();
        match kind {
            "text-delta" => {
                let offset = event["offset"].as_u64().unwrap_or(u64::MAX);
                let shown = self.shown.entry(step).or_default();
                if offset != shown.len() as u64 {
                    let fault = format!("step {step}: text at {offset}, {} shown", shown.len());
                    self.faults.push(fault);
                    return None;
                }
                shown.push_str(text);
                Some(text.to_owned())
            }
            "snapshot" => {
                let shown = self.shown.insert(step, text.to_owned()).unwrap_or_default();
                let rest = text.strip_prefix(&shown)?;
                (!rest.is_empty()).then(|| rest.to_owned())
            }
            "status" => {
                let position = event["position"].as_u64()?;
                if self.positions.last() != Some(&position) {
                    self.positions.push(position);
                }
                None
            }
            _ => {
                if is_terminal(kind) {
                    self.faults
                        .push(format!("{kind} came without being logged"));
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn taken(events: &[Value]) -> View {
        let mut view = View::default();
        for event in events {
            view.take(event);
        }
        view
    }

    #[test]
    fn text_is_placed_by_offset_and_confirmed_by_the_complete_step() {
        let view = taken(&[
            json!({"type": "turn-start", "seq": 1}),
            json!({"type": "text-delta", "step": 0, "offset": 0, "text": "ab"}),
            json!({"type": "text-delta", "step": 0, "offset": 2, "text": "c"}),
            json!({"type": "step-complete", "seq": 2, "step": 0, "chunks": [{"type": "text", "text": "abc"}]}),
            json!({"type": "done", "seq": 3}),
        ]);
        assert!(view.faults.is_empty(), "{:?}", view.faults);
        assert!(view.ended);
        assert_eq!(view.cursor, 3);
    }

    #[test]
    fn a_restarted_step_begins_anew_and_a_snapshot_replaces_what_was_shown() {
        let view = taken(&[
            json!({"type": "text-delta", "step": 0, "offset": 0, "text": "abcdef"}),
            json!({"type": "snapshot", "step": 0, "text": "abc"}),
            json!({"type": "text-delta", "step": 0, "offset": 3, "text": "d"}),
            json!({"type": "step-restart", "seq": 2, "step": 0}),
            json!({"type": "text-delta", "step": 0, "offset": 0, "text": "x"}),
        ]);
        assert!(view.faults.is_empty(), "{:?}", view.faults);
        assert_eq!(view.shown[&0], "x");
    }

    #[test]
    fn everything_that_no_client_should_see_is_a_fault() {
        let hole = json!({"type": "text-delta", "step": 0, "offset": 5, "text": "x"});
        let start = json!({"type": "turn-start", "seq": 1});
        let done = json!({"type": "done", "seq": 2});
        let late = json!({"type": "step-restart", "seq": 3, "step": 0});
        let said = json!({"type": "text-delta", "step": 0, "offset": 0, "text": "x"});
        let other = json!({"type": "step-complete", "seq": 1, "step": 0, "chunks": [{"type": "text", "text": "y"}]});
        let unlogged = json!({"type": "error", "code": "x"});
        for events in [
            vec![hole],
            vec![start.clone(), start],
            vec![done, late],
            vec![said, other],
            vec![unlogged],
        ] {
            assert_eq!(taken(&events).faults.len(), 1, "{events:?}");
        }
    }
}
