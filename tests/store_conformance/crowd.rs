//! Plain verbs of a plain world: one provider, many conversations.

use dispatch_core::admission::{AdmissionView, plan_grants};
use dispatch_core::ids::{ConversationId, Owner, ProviderId, TurnId};
use dispatch_core::liveness::{OnCrash, SweepPolicy};
use dispatch_core::store::{
    Accept, ApplyGrants, Boot, Failure, Fence, Granted, ProviderSettings, Retry, Verb,
};

fn alpha() -> ProviderId {
    ProviderId::try_from("alpha").unwrap()
}

pub(super) fn owner() -> Owner {
    Owner {
        node: "here".into(),
        boot: 1,
        incarnation: 0,
    }
}

pub(super) fn boot() -> Verb {
    Verb::Boot(Boot {
        owner: owner(),
        life: 1,
        providers: vec![ProviderSettings {
            id: alpha(),
            limit: 64,
            cooldown_ms: 0,
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

pub(super) fn accept(n: u64) -> Verb {
    Verb::Accept(Box::new(Accept {
        turn: TurnId(u128::from(n)),
        conversation: ConversationId::try_from(format!("c-{}", n % 1_024).as_str()).unwrap(),
        workspace: None,
        model: None,
        default_model: (alpha(), "m".to_owned()),
        message: format!("message {n}"),
        cwd: None,
        computer: None,
        idempotency: None,
        configured: vec![alpha()],
        max_open_turns: u64::MAX,
    }))
}

pub(super) fn view() -> Verb {
    Verb::AdmissionView {
        provider: alpha(),
        live_ms: 60_000,
    }
}

pub(super) fn grant(view: &AdmissionView) -> Verb {
    let plan = plan_grants(view, &owner().node);
    Verb::ApplyGrants(ApplyGrants {
        provider: alpha(),
        version: view.version,
        fair: plan.fair,
        owner: owner(),
        grants: plan.grants,
        lease_ms: 60_000,
    })
}

pub(super) fn retry(granted: Granted, delay_ms: u64) -> Verb {
    Verb::ScheduleRetry {
        fence: Fence {
            turn: granted.turn,
            epoch: granted.epoch,
        },
        retry: Retry {
            attempt: 0,
            delay_ms,
            counted_ms: delay_ms,
            failure: Failure {
                message: "busy".to_owned(),
                code: None,
                cause: "http-503".to_owned(),
            },
            source: "schedule".to_owned(),
        },
    }
}
