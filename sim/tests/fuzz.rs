//! The fuzz targets under `cargo test` (V6): every input of the committed
//! corpus, and pseudo-random ones from fixed seeds.

use std::path::{Path, PathBuf};

use arbitrary::Unstructured;
use arbtest::arbtest;
use dispatch_sim::fuzz::{TARGETS, Target};

fn corpus(name: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let entries = std::fs::read_dir(&dir).expect("every target has a corpus");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable corpus").path())
        .collect();
    files.sort();
    files
}

fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.expect("a target of this name").1
}

fn replays_its_corpus(name: &str) {
    let target = target(name);
    let files = corpus(name);
    assert!(
        files.len() >= 10,
        "the corpus of {name} has only {} inputs",
        files.len()
    );
    for file in files {
        let bytes = std::fs::read(&file).expect("a readable input");
        let outcome = std::panic::catch_unwind(|| target(&mut Unstructured::new(&bytes)).is_ok());
        assert!(
            outcome.is_ok(),
            "{} breaks a property of {name}",
            file.display()
        );
    }
}

/// By count, not by time: the same inputs on every machine. A failure prints
/// the seed; `arbtest(target).seed(..).minimize()` shrinks it.
fn holds_for_drawn_inputs(name: &str, inputs: u64, largest_bytes: u64) {
    let target = target(name);
    for n in 0..inputs {
        let bytes = 8 + n * largest_bytes / inputs;
        arbtest(target).seed((n << 32) | bytes).run();
    }
}

#[test]
fn v6_p2_sse_framing_is_the_same_in_any_chunks_as_by_the_book() {
    replays_its_corpus("sse");
    holds_for_drawn_inputs("sse", 20_000, 512);
}

#[test]
fn v6_p2_chat_completions_decode_the_same_in_any_chunks() {
    replays_its_corpus("chat");
    holds_for_drawn_inputs("chat", 20_000, 512);
}

#[test]
fn v6_t4_refusals_are_judged_by_the_rules() {
    replays_its_corpus("classify");
    holds_for_drawn_inputs("classify", 20_000, 512);
}

#[test]
fn v6_t12_whatever_a_history_holds_a_strict_provider_accepts_the_request() {
    replays_its_corpus("request");
    holds_for_drawn_inputs("request", 20_000, 1_024);
}

#[test]
fn v6_o3_a_journal_is_read_again_and_damage_is_noticed() {
    replays_its_corpus("journal");
    holds_for_drawn_inputs("journal", 10_000, 2_048);
}

#[test]
fn v6_the_dispatcher_keeps_its_invariants_and_comes_to_rest_after_any_storm() {
    replays_its_corpus("dispatcher");
    holds_for_drawn_inputs("dispatcher", 2_000, 1_024);
}

#[test]
fn v6_every_corpus_has_a_target_and_stays_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut bytes = 0;
    for entry in std::fs::read_dir(root).expect("a corpus") {
        let name = entry.expect("a readable corpus").file_name();
        let name = name.to_str().expect("a target's name");
        target(name);
        for file in corpus(name) {
            bytes += file.metadata().expect("a readable input").len();
        }
    }
    assert!(
        bytes < 300 * 1024,
        "the corpora have {bytes} bytes: minimise them"
    );
}
