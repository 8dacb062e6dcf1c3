//! What is fuzzed, as plain functions over bytes, so that a corpus can be
//! replayed without a fuzzer.

use dispatch_core::journal::{Reader, Tail};
use dispatch_core::wire::assemble::StepAssembler;
use dispatch_core::wire::chat::{ChatDecoder, ChatLimits, json_completion};
use dispatch_core::wire::sse::SseDecoder;

const LIMIT_BYTES: usize = 64 * 1024;

/// The first byte says where to cut, the rest is the stream.
fn split(data: &[u8]) -> Option<(impl Iterator<Item = &[u8]>, &[u8])> {
    let (size, stream) = data.split_first()?;
    Some((stream.chunks(usize::from(*size).max(1)), stream))
}

/// SSE framing: any chunking gives the same events as one chunk.
pub fn sse(data: &[u8]) {
    let Some((pieces, whole)) = split(data) else {
        return;
    };
    let events = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = SseDecoder::new(LIMIT_BYTES);
        let mut events = Vec::new();
        for piece in pieces {
            let outcome = decoder.push(piece, |event| {
                events.push((
                    event.event.to_owned(),
                    event.data.to_owned(),
                    event.id.to_owned(),
                ));
            });
            if outcome.is_err() {
                return (events, true);
            }
        }
        (events, false)
    };
    assert_eq!(events(&mut { pieces }), events(&mut std::iter::once(whole)));
}

/// Chat Completions: any chunking assembles the same step as one chunk, and no
/// body makes the decoder fail.
pub fn chat(data: &[u8]) {
    let Some((pieces, whole)) = split(data) else {
        return;
    };
    let step = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = ChatDecoder::new(ChatLimits {
            event_bytes: LIMIT_BYTES,
        });
        let mut assembler = StepAssembler::new(0, LIMIT_BYTES, Default::default());
        let mut events = Vec::new();
        for piece in pieces {
            decoder.push(piece, &mut events);
            for event in events.drain(..) {
                let _ = assembler.apply(event);
            }
        }
        (assembler.verdict(true), assembler.finish())
    };
    assert_eq!(step(&mut { pieces }), step(&mut std::iter::once(whole)));
    json_completion(whole, &mut Vec::new());
}

/// The journal: whatever the bytes, reading ends in entries, a torn tail or a
/// named reason, and the chunking does not matter.
pub fn journal(data: &[u8]) {
    let Some((pieces, whole)) = split(data) else {
        return;
    };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut reader = Reader::default();
        let mut entries = 0u64;
        for piece in pieces {
            reader.feed(piece);
            loop {
                match reader.entry() {
                    Ok(Some(_)) => entries += 1,
                    Ok(None) => break,
                    Err(unreadable) => return (entries, Some(unreadable), None),
                }
            }
        }
        let tail: Tail = reader.tail();
        (entries, None, Some(tail))
    };
    assert_eq!(read(&mut { pieces }), read(&mut std::iter::once(whole)));
}
