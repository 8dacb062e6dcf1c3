//! Whether the log holds what was promised, and clients saw the log.

use std::collections::BTreeMap;

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{ConversationId, Seq, TurnId};

use super::{Breach, Case, run_ms};
use crate::network::fact::Fact;
use crate::script::Script;

/// `one-terminal` (T2): every accepted turn has exactly one terminal event in
/// its conversation's log, nothing after it, and `GET /turns/{id}` agrees.
pub(super) fn one_terminal(case: &Case<'_>) -> Result<(), Breach> {
    for (turn, conversation) in case.accepted() {
        let Some(log) = case.logs.get(conversation) else {
            return Breach::new(
                0,
                format!("a log of {conversation} with the end of {turn}"),
                "no log",
            );
        };
        let own: Vec<&AgentEvent> = log.iter().filter(|event| event.turn == turn).collect();
        let ends = own.iter().filter(|event| event.is_terminal()).count();
        let is_last = own.last().is_some_and(|event| event.is_terminal());
        if ends != 1 || !is_last {
            let kinds: Vec<_> = own.iter().map(|event| event.kind()).collect();
            return Breach::new(
                own.last().map_or(0, |event| run_ms(event.at)),
                format!("one terminal event of {turn}, the last one of the turn"),
                format!("{kinds:?}"),
            );
        }
        let end = own.last().copied();
        for seen in case.seen {
            if let Fact::Ended {
                turn: of, terminal, ..
            } = &seen.fact
                && *of == turn
                && terminal.as_deref() != end
            {
                return Breach::new(
                    seen.at_ms,
                    format!("GET /turns/{turn} with {:?}", end.map(AgentEvent::to_json)),
                    format!("{:?}", terminal.as_ref().map(|end| end.to_json())),
                );
            }
        }
    }
    Ok(())
}

/// `sequence` (C5): a log's events are numbered from 1 on, without gap.
pub(super) fn sequence(case: &Case<'_>) -> Result<(), Breach> {
    for log in case.logs.values() {
        for (wanted, event) in (1..).zip(log.iter()) {
            if event.seq != Some(wanted) {
                return Breach::new(run_ms(event.at), format!("event {wanted}"), event.to_json());
            }
        }
    }
    Ok(())
}

struct Reader<'a> {
    conversation: &'a ConversationId,
    turn: Option<TurnId>,
    cursor: Seq,
    is_over: bool,
}

/// `client-view` (C5): what a stream shows is the log from its cursor on,
/// whole and in order; one that follows a turn shows that turn's events.
pub(super) fn client_view(case: &Case<'_>) -> Result<(), Breach> {
    let mut readers: BTreeMap<u32, Reader<'_>> = BTreeMap::new();
    for seen in case.seen {
        match &seen.fact {
            Fact::Reading {
                reader,
                conversation,
                turn,
                after,
            } => {
                let begun = Reader {
                    conversation,
                    turn: *turn,
                    cursor: *after,
                    is_over: false,
                };
                readers.insert(*reader, begun);
            }
            Fact::Showed { reader, event } => {
                if let Some(reader) = readers.get_mut(reader) {
                    look(case, seen.at_ms, reader, event)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn look(
    case: &Case<'_>,
    at_ms: u64,
    reader: &mut Reader<'_>,
    event: &AgentEvent,
) -> Result<(), Breach> {
    if reader.is_over || event.conversation != *reader.conversation {
        return Breach::new(at_ms, "nothing after the end", event.to_json());
    }
    if reader.turn.is_some_and(|turn| turn != event.turn) {
        let wanted = format!("events of {:?} only", reader.turn);
        return Breach::new(at_ms, wanted, event.to_json());
    }
    let Some(seq) = event.seq else {
        return match event.is_terminal() {
            true => Breach::new(at_ms, "an end that the log holds", event.to_json()),
            false => Ok(()),
        };
    };
    let log = case.logs.get(reader.conversation).copied();
    let next = log.unwrap_or_default().iter().find(|logged| {
        logged.seq > Some(reader.cursor) && reader.turn.is_none_or(|turn| turn == logged.turn)
    });
    if next != Some(event) {
        return Breach::new(
            at_ms,
            format!(
                "after {}: {:?}",
                reader.cursor,
                next.map(AgentEvent::to_json)
            ),
            event.to_json(),
        );
    }
    reader.cursor = seq;
    reader.is_over = reader.turn.is_some() && event.is_terminal();
    Ok(())
}

/// `accepted-once` (C6): a message sent again under its key is the same turn,
/// in the log once.
pub(super) fn accepted_once(case: &Case<'_>) -> Result<(), Breach> {
    let mut turns: BTreeMap<u32, TurnId> = BTreeMap::new();
    for (at_ms, token, turn, _) in &case.acked {
        let first = *turns.entry(*token).or_insert(*turn);
        if first != *turn {
            return Breach::new(
                *at_ms,
                format!("message {token} is turn {first}"),
                format!("it is turn {turn} as well"),
            );
        }
    }
    let mut starts: BTreeMap<u32, u32> = BTreeMap::new();
    for event in case.events() {
        let EventBody::TurnStart { message, .. } = &event.body else {
            continue;
        };
        let Some(token) = Script::token_in(message) else {
            return Breach::new(run_ms(event.at), "a message that was sent", event.to_json());
        };
        let times = starts.entry(token).or_default();
        *times += 1;
        if *times > 1 {
            return Breach::new(
                run_ms(event.at),
                format!("message {token} once in the log"),
                event.to_json(),
            );
        }
    }
    Ok(())
}
