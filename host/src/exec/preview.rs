//! What is shown of a command's output while it runs, wherever it runs.

use std::time::Duration;

use dispatch_core::output::LossyDecoder;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{OutputStream, PREVIEW_BYTES, ToolEvent};

/// Shortest time between two pieces.
const PAUSE: Duration = Duration::from_millis(100);

/// What has been shown of a running command's output.
#[derive(Debug, Default)]
pub(super) struct Preview {
    read_bytes: u64,
    shown_bytes: usize,
    decoder: LossyDecoder,
    last: Option<Instant>,
}

impl Preview {
    /// One whose first bytes were shown by somebody else.
    pub(super) fn continued(shown_bytes: u64) -> Preview {
        let most = PREVIEW_BYTES as u64;
        Preview {
            read_bytes: shown_bytes,
            shown_bytes: usize::try_from(shown_bytes.min(most)).unwrap_or(PREVIEW_BYTES),
            ..Preview::default()
        }
    }

    /// Where to read on, if it is time to.
    pub(super) fn wants(&self) -> Option<u64> {
        let rested = self.last.is_none_or(|last| last.elapsed() >= PAUSE);
        (rested && self.shown_bytes < PREVIEW_BYTES).then_some(self.read_bytes)
    }

    pub(super) fn send(&mut self, bytes: &[u8], events: &mpsc::Sender<ToolEvent>) {
        let mut text = String::new();
        self.decoder.push(bytes, |piece| text.push_str(piece));
        self.read_bytes += bytes.len() as u64;
        let mut end = text.len().min(PREVIEW_BYTES - self.shown_bytes);
        if end < text.len() {
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push('…');
        }
        if text.is_empty() {
            return;
        }
        self.last = Some(Instant::now());
        let offset = self.shown_bytes as u64;
        self.shown_bytes = (self.shown_bytes + text.len()).min(PREVIEW_BYTES);
        let _receiver_is_slow = events.try_send(ToolEvent::Output {
            stream: OutputStream::Combined,
            offset,
            text,
        });
    }
}
