//! Draws verbs as a busy, failing and repeating world would ask them.

use std::sync::Arc;

use dispatch_core::admission::plan_grants;
use dispatch_core::ids::{
    ComputerId, ConversationId, EndpointId, Epoch, Owner, ProviderId, Slug, TurnId,
};
use dispatch_core::liveness::{OnCrash, SweepPolicy};
use dispatch_core::store::{
    AbortOf, Accept, ApplyGrants, Boot, Election, Failure, Fence, Model, ProviderSettings, Reply,
    RestartCause, Retry, Segment, StepRecord, TakeDeliveries, Terminal, ToolAnswer, TurnRow, Verb,
    WantedDeliveries,
};
use dispatch_core::transcript::{ToolCall, Usage};
use dispatch_core::webhook::{DeliveryRow, EndpointRow, Tried, Wanted};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const MINUTE_MS: u64 = 60_000;
const LEASE_MS: u64 = MINUTE_MS;

/// What happens next.
pub(super) enum Op {
    /// Store time moves on.
    Wait(u64),
    /// A verb is asked.
    Ask(Box<Verb>),
}

/// See the module's page. Knows the Model, because only verbs that fit the
/// state reach the interesting branches; a share of them does not fit on purpose.
pub(super) struct Ops {
    rng: ChaCha8Rng,
    asked: Vec<Verb>,
    boot: u64,
}

impl Ops {
    pub(super) fn new(seed: u64) -> Ops {
        Ops {
            rng: ChaCha8Rng::seed_from_u64(seed),
            asked: Vec::new(),
            boot: 1,
        }
    }

    /// The first verb of every run.
    pub(super) fn boot(&mut self) -> Verb {
        let providers = ["alpha", "beta"].map(|id| ProviderSettings {
            id: provider(id),
            limit: 1 + self.below(4) as u32,
            cooldown_ms: self.pick(&[0, 200, 200, 5_000]),
        });
        Verb::Boot(Boot {
            owner: self.owner(),
            // Now and then one that has lingered on its way.
            life: self.boot + u64::from(self.below(4) > 0),
            providers: providers.to_vec(),
            policy: self.policy(),
            seal: None,
            version: "1".into(),
            webhooks: self.webhooks(),
        })
    }

    /// The next operation on a store in the Model's state.
    pub(super) fn next(&mut self, model: &Model) -> Op {
        if self.below(4) == 0 {
            return Op::Wait(self.pick(&[
                1, 1, 7, 200, 900, 5_000, 30_000, LEASE_MS, 70_000, 3_700_000, 90_000_000,
            ]));
        }
        let verb = self.verb(model);
        if self.asked.len() == 64 {
            self.asked.remove(0);
        }
        self.asked.push(verb.clone());
        Op::Ask(Box::new(verb))
    }

    fn verb(&mut self, model: &Model) -> Verb {
        match self.below(36) {
            0..=5 => self.accept(),
            6 => Verb::AdmissionView {
                provider: self.provider(),
                live_ms: self.live_ms(),
            },
            7..=12 => self.grants(model),
            13..=22 => self.owned(model),
            23 => self.abort(model),
            24 => Verb::SweepOne {
                policy: self.policy(),
            },
            25 => self.reboot(model),
            26 => self.workspace(),
            27 => Verb::SetLimit {
                provider: self.provider(),
                limit: self.below(6) as u32,
            },
            28 => self.renew(model),
            29 | 30 => self.take(model),
            31 | 32 => self.settle(model),
            _ => self.again(),
        }
    }

    /// An earlier verb, as after an unknown outcome.
    fn again(&mut self) -> Verb {
        match self.asked.len() {
            0 => self.accept(),
            n => {
                let back = 1 + self.below(n.min(12) as u64) as usize;
                self.asked[n - back].clone()
            }
        }
    }

    fn accept(&mut self) -> Verb {
        let conversation = format!("c-{}", self.below(7));
        let known = self.below(12) != 0;
        let (given, cwd, keyed) = (self.below(4), self.below(6), self.below(4));
        Verb::Accept(Box::new(Accept {
            turn: TurnId(u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64())),
            workspace: (self.below(3) == 0).then(|| self.slug()),
            model: (given == 0).then(|| {
                let id = if known {
                    self.provider()
                } else {
                    provider("gone")
                };
                (id, self.text())
            }),
            default_model: (conversation_home(&conversation), "m-1".to_owned()),
            conversation: ConversationId::try_from(conversation.as_str()).unwrap(),
            message: self.text(),
            cwd: (cwd == 0).then(|| self.text()),
            computer: self.computer(),
            idempotency: (keyed == 0)
                .then(|| (format!("key {}", self.below(9)), self.below(2) << 63 | 5)),
            configured: ["alpha", "beta", "unknown"]
                .into_iter()
                .take(self.pick(&[3, 3, 3, 1]))
                .map(provider)
                .collect(),
            max_open_turns: self.pick(&[40, 40, 40, 12]),
        }))
    }

    fn grants(&mut self, model: &Model) -> Verb {
        let provider = self.provider();
        let asked = Verb::AdmissionView {
            provider: provider.clone(),
            live_ms: self.live_ms(),
        };
        let Reply::View(view) = model.clone().apply(&asked) else {
            return asked;
        };
        let owner = self.owner();
        let plan = plan_grants(&view, &owner.node);
        let stale = self.below(8);
        let mut grants = plan.grants;
        if self.below(10) == 0 {
            grants.reverse();
        }
        if let (0, Some(first)) = (self.below(16), grants.first_mut()) {
            first.epoch.0 += 1;
        }
        Verb::ApplyGrants(ApplyGrants {
            provider,
            version: view.version.saturating_sub(u64::from(stale == 0)),
            fair: plan.fair,
            owner,
            grants,
            lease_ms: LEASE_MS,
        })
    }

    /// What the owner of some turn asks, or somebody who believes to own it.
    fn owned(&mut self, model: &Model) -> Verb {
        let Some((row, fence)) = self.owned_turn(model) else {
            return self.accept();
        };
        let (turn, epoch) = (fence.turn, fence.epoch);
        match self.below(12) {
            0 => Verb::Load { turn, epoch },
            1 => self.checkpoint(&row, fence),
            2 | 3 => Verb::CommitStep {
                fence,
                step: self.step(&row, 3),
            },
            4 => Verb::RestartStep {
                fence,
                step: row.step,
                reason: self.text(),
                by: match self.below(2) {
                    0 => RestartCause::Empty(row.restarts.empty + 1),
                    _ => RestartCause::Cut(row.restarts.cut + 1),
                },
            },
            5 => Verb::ToolsStarted {
                fence,
                calls: self.open_calls(model, &row),
            },
            6 | 7 => Verb::ToolsFinished {
                fence,
                answers: self.answers(model, &row),
            },
            8 => Verb::Park {
                fence,
                restart: (self.below(3) == 0).then(|| self.text()),
            },
            9 => self.retry(&row, fence),
            _ => self.elect(model, &row, fence),
        }
    }

    fn owned_turn(&mut self, model: &Model) -> Option<(TurnRow, Fence)> {
        let owned: Vec<&TurnRow> = model
            .turns
            .values()
            .filter(|row| row.state.is_owned() || self.below(40) == 0)
            .collect();
        let n = self.below(owned.len().max(1) as u64) as usize;
        let row = (*owned.get(n)?).clone();
        let off = self.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, u64::MAX]);
        let fence = Fence {
            turn: row.turn,
            epoch: Epoch(row.epoch.0.wrapping_add(off)),
        };
        Some((row, fence))
    }

    fn checkpoint(&mut self, row: &TurnRow, fence: Fence) -> Verb {
        let segments = (0..1 + self.below(3)).map(|_| Segment {
            turn: fence.turn,
            epoch: fence.epoch,
            step: row.step + u32::from(self.below(9) == 0),
            text_offset: self.below(1_000),
            text: self.text(),
            reasoning_offset: self.below(1_000),
            reasoning: self.text(),
        });
        Verb::Checkpoint {
            segments: segments.collect(),
        }
    }

    fn step(&mut self, row: &TurnRow, most_calls: u64) -> StepRecord {
        let calls = (0..self.below(most_calls + 1)).map(|n| ToolCall {
            call_id: format!("call-{}-{n}", row.step),
            name: self.pick(&["bash", "read", "no such tool"]).to_owned(),
            input: self
                .pick(&[
                    r#"{"command":"ls"}"#,
                    r#"{ "b": 1, "a": [1.50, null] }"#,
                    "{\"cut\":",
                    "\"quoted\"",
                    "",
                ])
                .to_owned(),
        });
        StepRecord {
            calls: calls.collect(),
            step: row.step.saturating_sub(u32::from(self.below(12) == 0)),
            text: self.text(),
            reasoning: self.text(),
            partial: self.below(4) == 0,
            usage: Usage {
                input_tokens: self.below(100_000),
                output_tokens: self.pick(&[3, u64::MAX]),
                cached_tokens: self.below(10),
                reasoning_tokens: self.below(10),
            },
            duration_ms: self.below(100_000),
            warnings: (0..self.below(2))
                .map(|_| ("odd-thing".to_owned(), self.text()))
                .collect(),
        }
    }

    fn open_calls(&mut self, model: &Model, row: &TurnRow) -> Vec<String> {
        let calls = model.calls.values().filter(|call| call.turn == row.turn);
        let mut ids: Vec<String> = calls.map(|call| call.call_id.clone()).collect();
        ids.retain(|_| self.below(3) != 0);
        ids
    }

    fn answers(&mut self, model: &Model, row: &TurnRow) -> Vec<ToolAnswer> {
        let calls = self.open_calls(model, row).into_iter();
        calls
            .map(|call_id| ToolAnswer {
                call_id,
                ok: self.below(2) == 0,
                output: self.text(),
                duration_ms: self.below(10_000),
                spilled: (self.below(3) == 0).then(|| self.text()),
            })
            .collect()
    }

    fn retry(&mut self, row: &TurnRow, fence: Fence) -> Verb {
        let delay_ms = self.pick(&[0, 5_000, 10_000, 30_000, 7_200_000, u64::MAX / 4]);
        Verb::ScheduleRetry {
            fence,
            retry: Retry {
                attempt: row.retry.attempt,
                delay_ms,
                counted_ms: delay_ms.min(30_000),
                failure: Failure {
                    message: self.text(),
                    code: (self.below(2) == 0).then(|| "429".to_owned()),
                    cause: "http-429".to_owned(),
                },
                source: "schedule".to_owned(),
            },
        }
    }

    fn elect(&mut self, model: &Model, row: &TurnRow, fence: Fence) -> Verb {
        let terminal = match self.below(3) {
            0 => Terminal::Done {
                finish_reason: "stop".to_owned(),
            },
            1 => Terminal::Error {
                code: "provider-error".to_owned(),
                message: self.text(),
                cause: "http-400".to_owned(),
                retryable: self.below(2) == 0,
            },
            _ => Terminal::Aborted {
                by: self.text(),
                reason: (self.below(2) == 0).then(|| self.text()),
            },
        };
        Verb::Elect(Box::new(Election {
            fence,
            step: (self.below(2) == 0).then(|| self.step(row, 0)),
            answers: self.answers(model, row),
            terminal,
        }))
    }

    fn abort(&mut self, model: &Model) -> Verb {
        let n = self.below(model.turns.len().max(1) as u64) as usize;
        let turn = model.turns.keys().nth(n).copied();
        let conversation = format!("c-{}", self.below(8));
        let conversation = ConversationId::try_from(conversation.as_str()).unwrap();
        let (turn, conversation) = match self.below(8) {
            0 => (None, None),
            1 => (turn, Some(conversation)),
            2 | 3 => (turn, None),
            _ => (None, Some(conversation)),
        };
        Verb::RequestAbort(AbortOf {
            turn,
            conversation,
            by: self.text(),
            reason: (self.below(2) == 0).then(|| self.text()),
            patience_ms: 10_000,
        })
    }

    fn reboot(&mut self, model: &Model) -> Verb {
        let mut verb = self.boot();
        if self.below(3) == 0 {
            self.boot += 1;
        }
        let sealed = self.owned_turn(model).map(|(row, _)| row.turn);
        if let Verb::Boot(boot) = &mut verb {
            boot.seal = sealed.filter(|_| self.below(3) == 0);
        }
        verb
    }

    fn computer(&mut self) -> Option<ComputerId> {
        let named = ["build-box", "user@10.0.0.1:22", "local"].get(self.below(9) as usize);
        named.map(|name| ComputerId::try_from(*name).unwrap())
    }

    fn workspace(&mut self) -> Verb {
        let slug = self.slug();
        match self.below(4) {
            0 => Verb::PutWorkspace {
                slug,
                title: (self.below(2) == 0).then(|| self.text()),
                cwd: (self.below(2) == 0).then(|| self.text()),
                computer: self.computer(),
            },
            _ => Verb::Star {
                slug,
                starred: self.below(2) == 0,
            },
        }
    }

    /// Mostly both endpoints, now and then one, or one that wants less.
    fn webhooks(&mut self) -> Vec<EndpointRow> {
        let mut webhooks = ["ops.example:8443", "pager"].map(|id| EndpointRow {
            id: endpoint(id),
            wanted: Wanted {
                done: self.below(8) != 0,
                error: self.below(8) != 0,
                aborted: self.below(8) != 0,
            },
        });
        webhooks.reverse();
        let known = self.pick(&[2, 2, 2, 2, 1, 0]);
        webhooks.into_iter().take(known).collect()
    }

    fn take(&mut self, model: &Model) -> Verb {
        let wants = ["ops.example:8443", "pager", "unheard-of"].map(|id| WantedDeliveries {
            endpoint: endpoint(id),
            at_once: self.below(5) as u32,
            lease_ms: 45_000,
        });
        let owner = self.owner();
        let ours = |row: &&DeliveryRow| row.owner.as_ref() == Some(&owner);
        let held = model.outbox.values().filter(ours);
        let holding = held.filter(|_| self.below(4) != 0);
        let holding = holding.map(|row| (row.delivery.endpoint.clone(), row.delivery.turn));
        Verb::TakeDeliveries(Box::new(TakeDeliveries {
            holding: holding.collect(),
            wants: wants.into_iter().skip(self.below(2) as usize).collect(),
            owner,
        }))
    }

    fn settle(&mut self, model: &Model) -> Verb {
        let taken = |row: &&DeliveryRow| row.owner.is_some() || self.below(20) == 0;
        let rows: Vec<&DeliveryRow> = model.outbox.values().filter(taken).collect();
        let n = self.below(rows.len().max(1) as u64) as usize;
        let unknown = (endpoint("pager"), TurnId(1), 1);
        let (endpoint, turn, tries) = rows.get(n).map_or(unknown, |row| {
            let of = &row.delivery;
            (of.endpoint.clone(), of.turn, of.tries)
        });
        let tried = match self.below(3) {
            0 => Tried::Delivered,
            _ => Tried::Failed,
        };
        Verb::SettleDelivery {
            endpoint,
            turn,
            tries: tries.saturating_sub(u32::from(self.below(8) == 0)),
            tried,
        }
    }

    fn renew(&mut self, model: &Model) -> Verb {
        let turns: Vec<Fence> = (0..3)
            .filter_map(|_| self.owned_turn(model))
            .map(|(_, fence)| fence)
            .collect();
        match self.below(4) {
            0 => Verb::Requests { turns },
            3 => Verb::Audit,
            1 => Verb::Ended {
                turns: turns.iter().map(|fence| fence.turn).collect(),
            },
            _ => Verb::Renew {
                owner: self.owner(),
                turns,
                lease_ms: LEASE_MS,
                serving: self.below(4) != 0,
            },
        }
    }

    /// Short enough that some have been silent for longer.
    fn live_ms(&mut self) -> u64 {
        self.pick(&[LEASE_MS, 2_000])
    }

    fn policy(&mut self) -> SweepPolicy {
        SweepPolicy {
            on_crash: self.pick(&[OnCrash::Resume, OnCrash::Resume, OnCrash::Seal]),
            resume_limit: 2,
            counts: self.below(4) != 0,
            node_patience_ms: self.pick(&[10 * MINUTE_MS, 10 * MINUTE_MS, 5_000]),
        }
    }

    fn owner(&mut self) -> Owner {
        Owner {
            node: Arc::from(self.pick(&["node-a", "node-a", "node-b"])),
            boot: self.boot | 1 << 63,
            incarnation: 0,
        }
    }

    fn provider(&mut self) -> ProviderId {
        provider(self.pick(&["alpha", "alpha", "alpha", "beta", "beta", "unknown"]))
    }

    fn slug(&mut self) -> Slug {
        Slug::try_from(self.pick(&["default", "red", "blue", "never-used"])).unwrap()
    }

    /// Texts that a careless column, quote or codec would damage.
    fn text(&mut self) -> String {
        let n = self.below(1_000);
        match self.below(6) {
            0 => String::new(),
            1 => format!("plain {n}"),
            2 => format!("it's \"quoted\"; -- {n}\n\tand\r\nbroken"),
            3 => format!("nul \0 and bell \u{7} {n}"),
            4 => format!("naïve 日本 🦀 \u{2028} {n}"),
            _ => format!("{{\"json\": [{n}]}}"),
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn endpoint(id: &str) -> EndpointId {
    EndpointId::try_from(id).unwrap()
}

fn provider(id: &str) -> ProviderId {
    ProviderId::try_from(id).unwrap()
}

/// A fixed provider a conversation, so that lines of both have waiters.
fn conversation_home(conversation: &str) -> ProviderId {
    match conversation.as_bytes().last() {
        Some(b'0'..=b'4') => provider("alpha"),
        Some(_) | None => provider("beta"),
    }
}
