//! Every oracle against worlds that break its promise: an oracle that cannot
//! fail is no oracle.

mod lines;
mod links;
mod others;
mod rows;
mod turns;

use std::collections::BTreeSet;
use std::rc::Rc;

use dispatch_core::admission::{AdmissionView, Gate, Head, WaiterKey};
use dispatch_core::event::{AgentEvent, Chunk, ChunkKind, EventBody};
use dispatch_core::ids::{ConversationId, EndpointId, Epoch, Owner, ProviderId, TurnId};
use dispatch_core::io::{Answer, ToolEnd};
use dispatch_core::store::{ApplyGrants, Granted, Receipt, Rejection, TurnRow, TurnState};
use dispatch_core::time::Timestamp;
use dispatch_core::transcript::Usage;
use dispatch_core::webhook::{Delivery, EndpointRow, Wanted};

use super::{Breach, Oracle, Terms, all};
use crate::fact::{Cause, Fact, Leftovers, Life, Moment, Request, Waiting};
use crate::script::Script;

const SEED: u64 = 1;

fn terms() -> Rc<Terms> {
    Rc::new(Terms {
        scripts: (0..50).map(|token| Script::of(SEED, token)).collect(),
        repeats_cuts: false,
        seals: false,
        resume_limit: 3,
        retry_budget_ms: 8 * 3_600_000,
        step_limit_bytes: 1_000,
        step_limit: 2,
        endpoints: vec![EndpointRow {
            id: hook(),
            wanted: Wanted::ALL,
        }],
        computers: 0,
    })
}

/// A run's oracles, of which only one is asked.
struct Court {
    oracle: Box<dyn Oracle>,
    at_ms: u64,
}

impl Court {
    fn of(name: &str) -> Court {
        let mut oracles = all(&terms());
        let at = oracles.iter().position(|oracle| oracle.name() == name);
        Court {
            oracle: oracles.swap_remove(at.unwrap()),
            at_ms: 0,
        }
    }

    fn see(&mut self, fact: Fact<'_>) -> Result<(), Breach> {
        let moment = Moment {
            at: self.at_ms * 1_000,
            store_now: Timestamp(self.at_ms),
            calm: false,
        };
        self.oracle.see(&moment, &fact)
    }

    fn agrees(&mut self, fact: Fact<'_>) {
        let shown = format!("{fact:?}");
        assert_eq!(self.see(fact), Ok(()), "{shown}");
    }

    fn objects(&mut self, fact: Fact<'_>) {
        let shown = format!("{fact:?}");
        assert!(self.see(fact).is_err(), "not objected to: {shown}");
    }
}

fn published(event: &AgentEvent, decided_at_ms: u64) -> Fact<'_> {
    Fact::Published {
        replica: 0,
        event,
        decided_at: Timestamp(decided_at_ms),
    }
}

fn hook() -> EndpointId {
    "hook-0".try_into().unwrap()
}

fn talk() -> ConversationId {
    "talk".try_into().unwrap()
}

fn north() -> ProviderId {
    "north".try_into().unwrap()
}

fn event(seq: u64, turn: u128, epoch: u64, body: EventBody) -> AgentEvent {
    AgentEvent {
        seq: (seq > 0).then_some(seq),
        conversation: talk(),
        turn: TurnId(turn),
        epoch: Epoch(epoch),
        at: Timestamp(0),
        body,
    }
}

fn start(token: u32) -> EventBody {
    EventBody::TurnStart {
        message: Script::message(token),
        model: "north/model-1".into(),
        workspace_id: "default".try_into().unwrap(),
    }
}

fn done() -> EventBody {
    EventBody::Done {
        finish_reason: "stop".into(),
        usage: Default::default(),
        duration_ms: 0,
    }
}

fn error(code: &str, cause: &str) -> EventBody {
    EventBody::Error {
        code: code.into(),
        message: String::new(),
        cause: cause.into(),
        retryable: true,
    }
}

fn aborted() -> EventBody {
    EventBody::Aborted {
        by: "client".into(),
        reason: None,
    }
}

fn tool_call(step: u32, id: &str) -> EventBody {
    EventBody::ToolCall {
        step,
        call_id: id.into(),
        name: "bash".into(),
        input: "{}".into(),
    }
}

fn retry(attempt: u32, delay_ms: u64) -> EventBody {
    EventBody::ProviderRetry {
        attempt,
        delay_ms,
        due_at: Timestamp(delay_ms),
        message: String::new(),
        code: None,
        source: "schedule".into(),
    }
}

fn restart() -> EventBody {
    EventBody::StepRestart {
        step: 0,
        reason: String::new(),
    }
}

fn text_delta(offset: u64, text: &str) -> EventBody {
    EventBody::TextDelta {
        step: 0,
        offset,
        text: text.into(),
    }
}

fn step_complete(step: u32, text: &str, reasoning: &str, partial: bool) -> EventBody {
    let chunk = |kind, text: &str| Chunk {
        kind,
        text: text.into(),
    };
    EventBody::StepComplete {
        step,
        chunks: vec![
            chunk(ChunkKind::Reasoning, reasoning),
            chunk(ChunkKind::Text, text),
        ],
        usage: Default::default(),
        duration_ms: 0,
        partial,
    }
}

fn row(turn: u128, state: TurnState, epoch: u64) -> TurnRow {
    TurnRow {
        turn: TurnId(turn),
        conversation: talk(),
        ordinal: 0,
        provider: north(),
        model: "model-1".into(),
        state,
        key: WaiterKey {
            unstarred: true,
            started_at: Timestamp(0),
            seq: 0,
        },
        due_at: Timestamp(0),
        owner: state.is_owned().then(|| Owner {
            node: "node-0".into(),
            boot: 7,
            incarnation: 0,
        }),
        lease_until: Timestamp(60_000),
        epoch: Epoch(epoch),
        step: 0,
        items: 0,
        restarts: Default::default(),
        retry: Default::default(),
        resumes: 0,
        abort: None,
        bound: None,
        computer: None,
        accepted_at: Timestamp(0),
        since: Timestamp(0),
        timing: Default::default(),
        usage: Default::default(),
    }
}

fn lives(state: Life) -> Fact<'static> {
    Fact::Lives {
        replica: 0,
        life: 1,
        boot: 7,
        state,
    }
}

fn request(stream: u32, turn: u128) -> Request {
    Request {
        stream,
        replica: 0,
        life: 1,
        provider: north(),
        turn: TurnId(turn),
        step: 0,
        offers_tools: true,
        verdict: Ok(()),
    }
}

fn refused() -> Cause {
    Cause::Refused {
        cause: "http-503".into(),
        retry_after_ms: None,
    }
}

fn finished<'l>(leftovers: &'l Leftovers, cursors: &'l [(u64, u64)]) -> Fact<'l> {
    Fact::Finished { leftovers, cursors }
}

/// A token whose script has one step and no reasoning.
fn plain_token() -> u32 {
    let plain = |script: &&Script| script.steps.len() == 1 && script.steps[0].reasoning.is_empty();
    terms().scripts.iter().find(plain).unwrap().token
}

fn plain_text() -> String {
    Script::of(SEED, plain_token()).steps[0].text.clone()
}

/// The tests name their oracles as text: none may be forgotten.
#[test]
fn every_oracle_has_its_doctored_world() {
    let pages = [
        include_str!("turns.rs"),
        include_str!("lines.rs"),
        include_str!("links.rs"),
        include_str!("others.rs"),
        include_str!("rows.rs"),
    ];
    let named: BTreeSet<&str> = pages
        .iter()
        .flat_map(|page| page.split("Court::of(\"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let all: BTreeSet<&str> = super::names().into_iter().collect();
    assert_eq!(named.intersection(&all).count(), all.len(), "{all:?}");
}
