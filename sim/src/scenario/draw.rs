//! How a scenario is drawn from a seed.

use dispatch_core::ids::{ConversationId, Slug};

use super::{
    Act, Chaos, Conversation, DOCUMENTED_STEP_BYTES, FLOOD_LIMIT_BYTES, Fault, Faults, HIT_AT,
    HIT_DELIVERY_AT, HOUR, Hook, MINUTE, Message, Profile, SECOND, Scenario, StormKind, When,
};
use crate::clock::Us;
use crate::rng::{Purpose, Rng};
use crate::script::Script;

const FAULTS: [(Fault, u64); 20] = [
    (Fault::RateLimited, 10),
    (Fault::RetryAfter, 8),
    (Fault::Unavailable, 8),
    (Fault::Unauthorized, 1),
    (Fault::Quota, 1),
    (Fault::Refused, 6),
    (Fault::ConnectTimeout, 4),
    (Fault::Hang, 4),
    (Fault::CutBefore, 6),
    (Fault::CutAfter, 6),
    (Fault::EndAfter, 3),
    (Fault::StallBefore, 3),
    (Fault::StallAfter, 3),
    (Fault::OverloadedBefore, 4),
    (Fault::OverloadedAfter, 2),
    (Fault::MalformedBefore, 2),
    (Fault::MalformedAfter, 2),
    (Fault::Empty, 5),
    (Fault::NoTerminator, 4),
    (Fault::CutAtEnd, 4),
];

impl Scenario {
    pub(crate) fn of(seed: u64, profile: Profile) -> Scenario {
        let rng = &mut Rng::new(seed, Purpose::Scenario);
        // What came later has draws of its own, so that the rest stays as it was.
        let more = &mut Rng::keyed(seed, Purpose::Scenario, 1, 0);
        let is_storm = profile == Profile::Storm;
        let replicas = match is_storm {
            true => 3,
            false => rng.weighted(&[(1, 4), (2, 4), (3, 2)]),
        };
        let is_long = !is_storm && rng.chance(100);
        let calm_at = match (is_storm, is_long) {
            (true, _) => HOUR,
            (false, true) => rng.range(10 * HOUR, 14 * HOUR),
            (false, false) => rng.spread(6 * MINUTE, 2 * HOUR),
        };
        let providers = rng.weighted(&[(1, 4), (2, 1)]);
        let (talks, count) = match is_storm {
            true => (rng.range(30, 40), rng.range(100, 120)),
            false => (rng.range(3, 14), rng.range(10, 40)),
        };
        let conversations = conversations(rng, talks, providers);
        let messages = (0..count)
            .map(|token| Message {
                conversation: rng.index(conversations.len()),
                keyed: rng.chance(6_000),
                doubled: rng.chance(1_500),
                script: script(seed, token),
            })
            .collect();
        let mut scenario = Scenario {
            replicas,
            limits: (0..providers)
                .map(|_| rng.weighted(&[(1, 3), (2, 3), (4, 4), (8, 1)]))
                .collect(),
            // Polling is what a long run mostly consists of.
            ask_ms: match calm_at > 20 * MINUTE {
                true => *rng.pick(&[20_000, 60_000]),
                false => *rng.pick(&[1_000, 5_000, 10_000, 20_000]),
            },
            requests_ms: match calm_at > 20 * MINUTE {
                true => *rng.pick(&[1_000, 2_000]),
                false => *rng.pick(&[250, 500, 1_000]),
            },
            seals: rng.chance(1_000),
            repeats_cuts: rng.chance(3_000),
            retry_budget_ms: retry_budget_ms(more),
            lingers: false,
            slow_tools: false,
            step_limit_bytes: DOCUMENTED_STEP_BYTES,
            step_limit: 0,
            webhooks: Vec::new(),
            computers: 0,
            calm_at,
            acts: Vec::new(),
            chaos: Vec::new(),
            faults: Faults::of(rng),
            conversations,
            messages,
        };
        scenario.plan_clients(rng, seed);
        scenario.plan_chaos(rng, is_long);
        scenario.seals |= more.chance(1_500);
        scenario.slow_tools = more.chance(2_500);
        if more.chance(1_000) {
            scenario.step_limit = u32::try_from(more.range(1, 3)).unwrap_or(1);
        }
        if more.chance(2_000) {
            scenario.faults.store_echo = more.range(50, 1_000);
        }
        if is_storm && !scenario.has_storm() {
            let during = rng.spread(10 * MINUTE, 40 * MINUTE);
            let kind = StormKind::RateLimited;
            let storm = Chaos::Storm { during, kind };
            scenario.chaos.push((rng.range(0, 20 * MINUTE), storm));
        }
        scenario.plan_wedges(more);
        scenario.plan_panics(more);
        scenario.plan_floods(more);
        scenario.plan_rushes(more);
        if more.chance(1_500) {
            let fault = (Fault::EmptyCut, 10);
            scenario.faults.provider_kinds.push(fault);
            scenario.faults.provider = scenario.faults.provider.max(1_000);
        }
        scenario.lingers = more.chance(3_000);
        scenario.plan_drips(more);
        scenario.plan_webhooks(more);
        scenario.plan_absences(more);
        scenario.plan_rot(more);
        scenario.plan_stillbirths(more);
        scenario.plan_computers(more);
        scenario
    }

    fn has_storm(&self) -> bool {
        let mut chaos = self.chaos.iter();
        chaos.any(|(_, chaos)| matches!(chaos, Chaos::Storm { .. }))
    }

    fn plan_rot(&mut self, rng: &mut Rng) {
        if !rng.chance(800) {
            return;
        }
        let conversation = rng.index(self.conversations.len());
        let at = rng.range(0, self.calm_at.min(2 * HOUR));
        self.chaos.push((at, Chaos::Rot { conversation }));
    }

    fn plan_webhooks(&mut self, rng: &mut Rng) {
        if !rng.chance(4_000) {
            return;
        }
        for _ in 0..rng.range(1, 3) {
            self.webhooks.push(Hook {
                trouble: match rng.chance(6_000) {
                    true => rng.range(500, 9_000),
                    false => 0,
                },
                is_dead: rng.chance(500),
                done_only: rng.chance(2_000),
            });
        }
        if self.webhooks.iter().any(|hook| hook.is_dead) {
            // Thirty tries take most of a day.
            self.ask_ms = 60_000;
        }
        if rng.chance(5_000) {
            for _ in 0..rng.range(1, 4) {
                let kill = Chaos::Kill {
                    replica: rng.index(self.replicas),
                    when: When::At((*rng.pick(&HIT_DELIVERY_AT)).to_owned()),
                    down: rng.spread(SECOND, 2 * MINUTE),
                };
                self.chaos.push((rng.range(0, self.calm_at), kill));
            }
        }
    }

    fn plan_clients(&mut self, rng: &mut Rng, seed: u64) {
        let span = self.calm_at.min(HOUR) - MINUTE;
        let aborts = rng.chance(4_000);
        let bursts = rng.chance(5_000);
        let mut burst_at = rng.range(SECOND, span);
        for token in 0..self.messages.len() {
            let token = u32::try_from(token).unwrap_or(u32::MAX);
            let at = match bursts && !rng.chance(2_000) {
                true => burst_at,
                false => rng.range(0, span),
            };
            if rng.chance(1_500) {
                burst_at = rng.range(SECOND, span);
            }
            self.acts.push((at, Act::Submit { token }));
            if aborts && rng.chance(2_500) {
                let act = Act::Abort {
                    token,
                    by_conversation: rng.chance(2_000),
                };
                self.acts.push((at + rng.spread(1_000, 20 * MINUTE), act));
            }
        }
        if rng.chance(6_000) {
            for _ in 0..rng.range(1, 8) {
                let conversation = rng.pick(&self.conversations);
                let act = Act::Star {
                    slug: conversation.workspace.clone(),
                    starred: rng.chance(6_000),
                };
                self.acts.push((rng.range(0, span), act));
            }
        }
        if rng.chance(4_000) {
            for _ in 0..rng.range(1, 6) {
                let act = Act::Limit {
                    provider: rng.index(self.limits.len()),
                    limit: rng.weighted(&[(1, 4), (2, 2), (4, 2), (6, 1)]),
                };
                self.acts.push((rng.range(0, span), act));
            }
        }
        // A few in the calm: nothing hinders these.
        for nth in 1..=3 {
            let at = self.calm_at + nth * 3 * SECOND;
            let token = self.messages.len() as u64;
            self.messages.push(Message {
                conversation: rng.index(self.conversations.len()),
                keyed: true,
                doubled: false,
                script: script(seed, token),
            });
            let token = u32::try_from(token).unwrap_or(u32::MAX);
            self.acts.push((at, Act::Submit { token }));
        }
    }

    fn plan_chaos(&mut self, rng: &mut Rng, is_long: bool) {
        let (crashes, pauses, partitions) =
            (rng.chance(4_000), rng.chance(3_000), rng.chance(2_500));
        let (shutdowns, jumps, zombies) = (rng.chance(2_000), rng.chance(2_000), rng.chance(1_500));
        let end = self.calm_at.min(2 * HOUR);
        for replica in 0..self.replicas {
            let mut befall = |happens: bool, mean: Us, what: &mut dyn FnMut(&mut Rng) -> Chaos| {
                let mut at = rng.range(0, 2 * mean);
                while happens && at < end {
                    self.chaos.push((at, what(rng)));
                    at += rng.range(mean / 4, 2 * mean);
                }
            };
            befall(crashes, 12 * MINUTE, &mut |rng| Chaos::Kill {
                replica,
                when: When::drawn(rng),
                down: rng.spread(SECOND / 2, 2 * MINUTE),
            });
            befall(pauses, 12 * MINUTE, &mut |rng| Chaos::Pause {
                replica,
                when: When::Now,
                during: rng.spread(SECOND, 5 * MINUTE),
            });
            // Between two effects of one batch, past the lease: a zombie in the making.
            befall(zombies, 10 * MINUTE, &mut |rng| Chaos::Pause {
                replica,
                when: When::At((*rng.pick(&HIT_AT)).to_owned()),
                during: rng.range(MINUTE, 3 * MINUTE),
            });
            befall(partitions, 15 * MINUTE, &mut |rng| Chaos::Partition {
                replica,
                during: rng.spread(2 * SECOND, 3 * MINUTE),
            });
            befall(shutdowns, 20 * MINUTE, &mut |rng| Chaos::Shutdown {
                replica,
                down: rng.spread(SECOND, MINUTE),
                killed_after: rng
                    .chance(3_000)
                    .then(|| rng.spread(SECOND / 100, 12 * SECOND)),
            });
            befall(jumps, 15 * MINUTE, &mut |rng| Chaos::WallJump {
                replica,
                by_ms: i64::try_from(rng.below(7_200_000)).unwrap_or(0) - 3_600_000,
            });
        }
        let storms = match is_long {
            true => 1,
            false => rng.weighted(&[(0u64, 5), (1, 3), (2, 2)]),
        };
        for _ in 0..storms {
            let kind = *rng.pick(&[
                StormKind::RateLimited,
                StormKind::RateLimitedWithRetryAfter,
                StormKind::Unavailable,
                StormKind::Unreachable,
            ]);
            let (at, during) = match is_long {
                true => (rng.range(0, 20 * MINUTE), rng.range(8 * HOUR, 10 * HOUR)),
                false => (rng.range(0, end), rng.spread(10 * SECOND, 40 * MINUTE)),
            };
            self.chaos.push((at, Chaos::Storm { during, kind }));
        }
    }
}

fn script(seed: u64, token: u64) -> Script {
    Script::of(seed, u32::try_from(token).unwrap_or(u32::MAX))
}

impl Scenario {
    fn plan_wedges(&mut self, rng: &mut Rng) {
        if !rng.chance(1_500) {
            return;
        }
        for replica in 0..self.replicas {
            let mut at = rng.range(0, 15 * MINUTE);
            while at < self.calm_at.min(2 * HOUR) {
                let during = rng.spread(20 * SECOND, 8 * MINUTE);
                self.chaos.push((at, Chaos::Wedge { replica, during }));
                at += during + rng.range(5 * MINUTE, 30 * MINUTE);
            }
        }
    }

    /// Nodes that stay away for longer than turns wait for them.
    fn plan_absences(&mut self, rng: &mut Rng) {
        if !rng.chance(1_500) {
            return;
        }
        for replica in 0..self.replicas {
            let at = rng.range(0, 20 * MINUTE);
            let down = rng.range(8 * MINUTE, 25 * MINUTE);
            let when = When::Now;
            let kill = Chaos::Kill {
                replica,
                when,
                down,
            };
            self.chaos.push((at, kill));
        }
    }

    /// Processes that die with their boot on its way.
    fn plan_stillbirths(&mut self, rng: &mut Rng) {
        if !rng.chance(1_500) {
            return;
        }
        for replica in 0..self.replicas {
            let at = rng.range(0, self.calm_at.min(20 * MINUTE));
            let down = rng.range(SECOND, 20 * SECOND);
            let born = at + down;
            for (at, down) in [(at, down), (born + rng.range(10, 2_000), SECOND)] {
                let when = When::Now;
                let kill = Chaos::Kill {
                    replica,
                    when,
                    down,
                };
                self.chaos.push((at, kill));
            }
        }
    }

    fn plan_panics(&mut self, rng: &mut Rng) {
        if !rng.chance(1_500) {
            return;
        }
        for replica in 0..self.replicas {
            let mut at = rng.range(0, 10 * MINUTE);
            while at < self.calm_at.min(HOUR) {
                let after_inputs = u32::try_from(rng.below(60)).unwrap_or(0);
                let panic = Chaos::Panic {
                    replica,
                    after_inputs,
                };
                self.chaos.push((at, panic));
                at += rng.spread(SECOND, 20 * MINUTE);
            }
        }
    }

    /// A model that does not stop, against a bound that is soon reached.
    fn plan_floods(&mut self, rng: &mut Rng) {
        if rng.chance(1_500) {
            self.step_limit_bytes = FLOOD_LIMIT_BYTES;
            self.faults.provider = self.faults.provider.max(1_500);
            self.faults.provider_kinds.push((Fault::Flood, 10));
        }
    }

    /// Streams that outlast a lease, and a store that cannot be reached meanwhile.
    fn plan_drips(&mut self, rng: &mut Rng) {
        if !rng.chance(2_000) {
            return;
        }
        self.faults.provider = self.faults.provider.max(2_000);
        self.faults.provider_kinds.push((Fault::Drip, 25));
        for replica in 0..self.replicas {
            let mut at = rng.range(0, 10 * MINUTE);
            while at < self.calm_at.min(HOUR) {
                let during = rng.range(MINUTE, 3 * MINUTE);
                self.chaos.push((at, Chaos::Partition { replica, during }));
                at += during + rng.range(2 * MINUTE, 15 * MINUTE);
            }
        }
    }

    /// Everybody acts in the same moments.
    fn plan_rushes(&mut self, rng: &mut Rng) {
        if !rng.chance(3_500) {
            return;
        }
        // A line is contended where it is short of slots and not all are equal.
        for limit in &mut self.limits {
            *limit = (*limit).min(u32::try_from(rng.range(1, 4)).unwrap_or(1));
        }
        let slug = rng.pick(&self.conversations).workspace.clone();
        let starred = true;
        self.acts.push((SECOND, Act::Star { slug, starred }));
        let slowest = rng.range(20, 400) * 1_000;
        self.faults.store_slowest = self.faults.store_slowest.max(slowest);
        let every = rng.range(MINUTE, 5 * MINUTE);
        let within = *rng.pick(&[10_000, 50_000, 300_000]);
        for (at, _) in self.acts.iter_mut().filter(|(at, _)| *at < self.calm_at) {
            *at = *at - *at % every + rng.below(within);
        }
    }
}

/// Mostly the documented 8 h, of which a storm that is short enough to be met
/// often spends nothing; else little, also just what some waits add up to.
fn retry_budget_ms(rng: &mut Rng) -> u64 {
    let budget_s = match rng.chance(2_000) {
        true => *rng.pick(&[105, 120, 405, 500, 1_005, 1_200]),
        false => 8 * 3_600,
    };
    budget_s * 1_000
}

fn conversations(rng: &mut Rng, few: u64, providers: usize) -> Vec<Conversation> {
    let slugs: Vec<Slug> = ["default", "docs", "urgent", "night"]
        .into_iter()
        .filter_map(|name| Slug::try_from(name).ok())
        .collect();
    let shown = usize::try_from(rng.range(1, 4)).unwrap_or(1);
    (0..few)
        .map(|n| Conversation {
            id: match rng.chance(8_500) {
                true => ConversationId::try_from(format!("talk-{n}").as_str()).ok(),
                false => None,
            },
            workspace: rng.pick(&slugs[..shown]).clone(),
            provider: rng.index(providers),
            computer: None,
        })
        .collect()
}

impl When {
    fn drawn(rng: &mut Rng) -> When {
        match rng.below(10) {
            0..4 => When::Now,
            4..7 => When::AfterEffects(u32::try_from(rng.below(12)).unwrap_or(0)),
            _ => When::At((*rng.pick(&HIT_AT)).to_owned()),
        }
    }
}

impl Faults {
    fn of(rng: &mut Rng) -> Faults {
        let mut provider_kinds: Vec<(Fault, u64)> =
            FAULTS.into_iter().filter(|_| rng.chance(5_000)).collect();
        if provider_kinds.is_empty() {
            provider_kinds.push((Fault::RateLimited, 1));
        }
        let mut rate = |happens: u64, most: u64| match rng.chance(happens) {
            true => rng.range(1, most),
            false => 0,
        };
        Faults {
            provider: rate(7_500, 4_000),
            provider_kinds,
            store_unknown: rate(3_500, 300),
            store_failed: rate(3_000, 300),
            store_stall: rate(2_500, 150),
            store_twice: rate(3_000, 300),
            store_echo: 0,
            tool_hang: rate(3_000, 1_500),
            tool_end_lost: rate(2_000, 500),
            tool_fails: rate(5_000, 3_000),
            store_slowest: rate(3_000, 400) * 1_000 + 4_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_repeats_and_no_kind_of_trouble_is_left_out_of_many() {
        let text = |seed| format!("{:?}", Scenario::of(seed, Profile::Swarm));
        assert_eq!(text(4), text(4));
        let many: Vec<Scenario> = (0..1_000)
            .map(|seed| Scenario::of(seed, Profile::Swarm))
            .collect();
        let some = |met: &dyn Fn(&Chaos) -> bool| {
            many.iter()
                .any(|s| s.chaos.iter().any(|(_, chaos)| met(chaos)))
        };
        assert!(some(&|c| matches!(c, Chaos::Kill { .. })));
        assert!(some(&|c| matches!(c, Chaos::Shutdown { .. })));
        assert!(some(&|c| matches!(c, Chaos::Pause { .. })));
        assert!(some(&|c| matches!(c, Chaos::Partition { .. })));
        assert!(some(&|c| matches!(c, Chaos::Storm { .. })));
        assert!(some(&|c| matches!(c, Chaos::WallJump { .. })));
        assert!(some(&|c| matches!(c, Chaos::Wedge { .. })));
        assert!(some(&|c| matches!(c, Chaos::Panic { .. })));
        assert!(some(&|c| matches!(c, Chaos::Rot { .. })));
        assert!(some(&|c| matches!(c, Chaos::Computer { .. })));
        assert!(many.iter().any(|s| s.retry_budget_ms == 105_000));
        assert!(many.iter().any(|s| s.calm_at >= 10 * HOUR));
        for (fault, _) in FAULTS {
            let drawn = many.iter().any(|s| {
                s.faults
                    .provider_kinds
                    .iter()
                    .any(|(kind, _)| *kind == fault)
            });
            assert!(drawn, "{fault:?}");
        }
    }
}
