//! Verbs as a server asks them, for turns of a plain world: one provider,
//! a conversation a turn.

use dispatch_core::admission::{AdmissionView, plan_grants};
use dispatch_core::ids::{ConversationId, Owner, ProviderId, TurnId};
use dispatch_core::liveness::{OnCrash, SweepPolicy};
use dispatch_core::store::{
    Accept, ApplyGrants, Boot, Election, Fence, ProviderSettings, StepRecord, Terminal, ToolAnswer,
    Verb,
};
use dispatch_core::transcript::{ToolCall, Usage};

/// What a server that runs turns calls itself.
pub(crate) const NODE: &str = "node-bench";
const LEASE_MS: u64 = 60_000;

/// The one provider.
pub(crate) fn provider() -> ProviderId {
    ProviderId::try_from("bench").unwrap()
}

fn owner() -> Owner {
    Owner {
        node: NODE.into(),
        boot: 1,
        incarnation: 0,
    }
}

/// So many streams may be in flight.
pub(crate) fn boot(limit: u32) -> Verb {
    Verb::Boot(Boot {
        owner: owner(),
        life: 1,
        providers: vec![ProviderSettings {
            id: provider(),
            limit,
            cooldown_ms: 200,
        }],
        policy: SweepPolicy {
            on_crash: OnCrash::Resume,
            resume_limit: 3,
            counts: true,
            node_patience_ms: 600_000,
        },
        seal: None,
        version: "1".to_owned(),
        webhooks: Vec::new(),
    })
}

/// Turn `n`, in a conversation of its own.
pub(crate) fn accept(n: u64, message: &str) -> Verb {
    Verb::Accept(Box::new(Accept {
        turn: TurnId(u128::from(n)),
        conversation: ConversationId::try_from(format!("c-{n}").as_str()).unwrap(),
        workspace: None,
        model: None,
        default_model: (provider(), "scripted".to_owned()),
        message: message.to_owned(),
        cwd: None,
        computer: None,
        idempotency: None,
        configured: vec![provider()],
        max_open_turns: u64::MAX,
    }))
}

/// What a grant is decided on.
pub(crate) fn view() -> Verb {
    Verb::AdmissionView {
        provider: provider(),
        live_ms: 60_000,
    }
}

/// What the core decides on it.
pub(crate) fn grants(view: &AdmissionView) -> ApplyGrants {
    let plan = plan_grants(view, &owner().node);
    ApplyGrants {
        provider: provider(),
        version: view.version,
        fair: plan.fair,
        owner: owner(),
        grants: plan.grants,
        lease_ms: LEASE_MS,
    }
}

fn call_id(step: u32) -> String {
    format!("call_{step:024}")
}

fn record(step: u32, calls: Vec<ToolCall>) -> StepRecord {
    StepRecord {
        step,
        text: "Let me look at what the directory holds before I change anything. ".repeat(6),
        reasoning: String::new(),
        calls,
        partial: false,
        usage: Usage {
            input_tokens: 2_000,
            output_tokens: 100,
            cached_tokens: 1_500,
            reasoning_tokens: 0,
        },
        duration_ms: 2_000,
        warnings: Vec::new(),
    }
}

/// A step with one tool call of some hundred bytes.
pub(crate) fn commit_step(fence: Fence, step: u32) -> Verb {
    let call = ToolCall {
        call_id: call_id(step),
        name: "bash".to_owned(),
        input: r#"{"command":"ls -la && cat README.md | head -n 40"}"#.to_owned(),
    };
    Verb::CommitStep {
        fence,
        step: record(step, vec![call]),
    }
}

/// Its tool starts.
pub(crate) fn tools_started(fence: Fence, step: u32) -> Verb {
    Verb::ToolsStarted {
        fence,
        calls: vec![call_id(step)],
    }
}

/// And answers with a kilobyte.
pub(crate) fn tools_finished(fence: Fence, step: u32) -> Verb {
    Verb::ToolsFinished {
        fence,
        answers: vec![ToolAnswer {
            call_id: call_id(step),
            ok: true,
            output: "-rw-r--r-- 1 me me 12345 Jan  1 00:00 a-file-of-some-length.txt\n".repeat(16),
            duration_ms: 30,
            spilled: None,
        }],
    }
}

/// Back in line.
pub(crate) fn park(fence: Fence) -> Verb {
    Verb::Park {
        fence,
        restart: None,
    }
}

/// The last step and the end, in one.
pub(crate) fn finish(fence: Fence, step: u32) -> Verb {
    Verb::Elect(Box::new(Election {
        fence,
        step: Some(record(step, Vec::new())),
        answers: Vec::new(),
        terminal: Terminal::Done {
            finish_reason: "stop".to_owned(),
        },
    }))
}
