//! What a run leaves: a digest of everything that went into and came out of
//! the Dispatchers, and, where asked for, a readable trace.

use dispatch_core::io::{Effect, Input};
use dispatch_core::time::Now;
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use crate::clock::Us;
use crate::timeline::Watch;

/// Takes the lines of a trace.
pub type Sink<'s> = Box<dyn FnMut(&str) + 's>;

/// See the module's page.
pub(crate) struct Recorder<'s> {
    digest: Xxh3,
    scratch: Vec<u8>,
    sink: Option<Sink<'s>>,
    pub(crate) watch: Option<Box<dyn Watch + 's>>,
}

impl<'s> Recorder<'s> {
    pub(crate) fn new(sink: Option<Sink<'s>>) -> Recorder<'s> {
        Recorder {
            digest: Xxh3::new(),
            scratch: Vec::new(),
            sink,
            watch: None,
        }
    }

    pub(crate) fn input(&mut self, at: Us, replica: usize, now: Now, input: &Input) {
        self.take(&(at, replica, now));
        self.take(input);
        self.line(at, || format!("r{replica} <- {}", shown(input)));
    }

    pub(crate) fn effect(&mut self, at: Us, replica: usize, effect: &Effect) {
        self.take(effect);
        self.line(at, || format!("r{replica} -> {}", shown_effect(effect)));
        self.watched(|watch| watch.effect(at, replica, effect));
    }

    /// Of everything so far.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.digest()
    }

    /// Tells who looks on; costs nothing without one.
    pub(crate) fn watched(&mut self, tell: impl FnOnce(&mut dyn Watch)) {
        if let Some(watch) = &mut self.watch {
            tell(watch.as_mut());
        }
    }

    /// A line of the trace; costs nothing without one.
    pub(crate) fn line(&mut self, at: Us, line: impl FnOnce() -> String) {
        if let Some(sink) = &mut self.sink {
            sink(&format!("{} {}", shown_time(at), line()));
        }
    }

    fn take(&mut self, value: &impl Serialize) {
        let scratch = std::mem::take(&mut self.scratch);
        // Every type here serialises; a failure would show as a changed digest.
        let scratch = postcard::to_extend(value, scratch).unwrap_or_default();
        self.digest.update(&scratch);
        self.scratch = scratch;
        self.scratch.clear();
    }
}

/// `h:mm:ss.mmm` of simulated time.
pub(crate) fn shown_time(at: Us) -> String {
    let ms = at / 1_000;
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{h}:{m:02}:{s:02}.{:03}", ms % 1_000)
}

const LINE_CHARS: usize = 400;

fn shown(input: &Input) -> String {
    match input {
        Input::ProviderBytes { id, bytes } => {
            format!(
                "ProviderBytes {}: {:?}",
                id.n,
                String::from_utf8_lossy(bytes)
            )
        }
        other => bounded(&format!("{other:?}")),
    }
}

fn shown_effect(effect: &Effect) -> String {
    match effect {
        Effect::Publish { event } => format!("Publish {}", event.to_json()),
        Effect::OpenProvider { id, turn, .. } => format!("OpenProvider {} for {turn}", id.n),
        other => bounded(&format!("{other:?}")),
    }
}

fn bounded(text: &str) -> String {
    text.chars().take(LINE_CHARS).collect()
}
