//! What the core needs to know of a configuration. Credentials and addresses
//! are not among it: they stay with the host (P4).

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::computer::SshTerms;
use crate::ids::{Owner, ProviderId};
use crate::liveness::{LeaseTerms, OnCrash, SweepPolicy};
use crate::store::ProviderSettings;
use crate::webhook::EndpointRow;

/// Everything that a Dispatcher is told at its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// This life of this replica.
    pub owner: Owner,
    /// Greater than the number of every earlier life of its node.
    pub life: u64,
    /// At least one; the first one is the default.
    pub providers: Vec<Provider>,
    /// T10.
    pub deadlines: Deadlines,
    /// L3.
    pub lease: LeaseTerms,
    /// T3.
    pub retry: RetryTerms,
    /// L4.
    pub on_crash: OnCrash,
    /// Takeovers without a completed step between them before a turn is given up.
    pub resume_limit: u32,
    /// T11.
    pub on_cut: OnCut,
    /// Steps of a turn; 0: no limit (T7).
    pub step_limit: u32,
    /// Owned time of a turn: a backstop (T7).
    pub hard_limit_ms: u64,
    /// One step's content (T8).
    pub step_limit_bytes: usize,
    /// Open turns in the store (O5).
    pub max_open_turns: u64,
    /// One message (O5).
    pub max_message_bytes: usize,
    /// How often the core looks at a line that nothing has moved.
    pub ask_ms: u64,
    /// How often it asks for abort requests of the turns that it owns.
    pub requests_ms: u64,
    /// How often open steps are checkpointed.
    pub checkpoint_ms: u64,
    /// How long an abort request may go unacknowledged before anyone may carry it out.
    pub abort_patience_ms: u64,
    /// How long what runs may end by itself once a shutdown was asked for (L8).
    pub drain_ms: u64,
    /// How long the node that a turn is bound to may be away (L9).
    pub node_patience_ms: u64,
    /// The build, as other replicas see it.
    pub version: String,
    /// Sent before every transcript; empty: none.
    pub system_prompt: String,
    /// Who is told of terminal events (C7).
    pub webhooks: Vec<Webhook>,
    /// How often the core looks for deliveries that nothing has announced to it.
    pub outbox_ms: u64,
    /// S4.
    pub ssh: SshTerms,
}

/// One endpoint as the core sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Its name, and what it is told.
    pub endpoint: EndpointRow,
    /// From the beginning of a try to its answer.
    pub timeout_ms: u64,
}

/// One provider as the core sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Its line.
    pub settings: ProviderSettings,
    /// At least one; the first one is the default.
    pub models: Vec<String>,
}

/// Deadlines of everything in flight (T10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// To an open connection.
    pub connect_ms: u64,
    /// From there to a computer that has let us in.
    pub handshake_ms: u64,
    /// From the request to its first byte.
    pub first_byte_ms: u64,
    /// Between two bytes of a stream.
    pub idle_ms: u64,
    /// One tool call.
    pub tool_ms: u64,
    /// From a kill to the end of what was killed.
    pub kill_ms: u64,
    /// One store verb.
    pub store_ms: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            connect_ms: 10_000,
            handshake_ms: 15_000,
            first_byte_ms: 120_000,
            idle_ms: 120_000,
            tool_ms: 600_000,
            // Longer than a supervisor needs to be given up on and buried.
            kill_ms: 20_000,
            store_ms: 30_000,
        }
    }
}

/// The retry schedule and its budget (T3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryTerms {
    /// `delay_for(0)`, `delay_for(1)`, ...; the last one repeats while the budget lasts.
    pub schedule_ms: Vec<u64>,
    /// What the scheduled waits of one step may add up to.
    pub budget_ms: u64,
}

impl Default for RetryTerms {
    fn default() -> Self {
        let minutes = |m: u64| m * 60_000;
        RetryTerms {
            schedule_ms: Vec::from([
                5_000,
                10_000,
                30_000,
                minutes(1),
                minutes(5),
                minutes(10),
                minutes(15),
                minutes(30),
            ]),
            budget_ms: 8 * minutes(60),
        }
    }
}

/// What a cut after content costs (T11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnCut {
    /// The turn, with what was said kept.
    Error,
    /// One repetition of the step, then the turn.
    Restart,
}

impl Config {
    /// The documented defaults around one replica and its providers.
    pub fn new(owner: Owner, providers: Vec<Provider>) -> Config {
        Config {
            owner,
            life: 0,
            providers,
            deadlines: Deadlines::default(),
            lease: LeaseTerms::default(),
            retry: RetryTerms::default(),
            on_crash: OnCrash::Resume,
            resume_limit: 3,
            on_cut: OnCut::Error,
            step_limit: 0,
            hard_limit_ms: 24 * 3_600_000,
            step_limit_bytes: 4 * 1024 * 1024,
            max_open_turns: 100_000,
            max_message_bytes: 1024 * 1024,
            ask_ms: 1_000,
            requests_ms: 250,
            checkpoint_ms: 1_000,
            abort_patience_ms: 10_000,
            drain_ms: 10_000,
            node_patience_ms: 600_000,
            version: env!("CARGO_PKG_VERSION").to_string(),
            system_prompt: String::new(),
            webhooks: Vec::new(),
            outbox_ms: 5_000,
            ssh: SshTerms::default(),
        }
    }

    /// A configured provider.
    pub fn provider(&self, id: &ProviderId) -> Option<&Provider> {
        self.providers.iter().find(|p| p.settings.id == *id)
    }

    /// What to do with turns whose owner is gone.
    pub fn sweep_policy(&self) -> SweepPolicy {
        SweepPolicy {
            on_crash: self.on_crash,
            resume_limit: self.resume_limit,
            counts: true,
            node_patience_ms: self.node_patience_ms,
        }
    }
}
