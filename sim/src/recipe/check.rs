//! Whether a recipe can be played: what it refers to is there, and no number is
//! one that no run can have. Which of its mishaps then befall anything, only
//! the run can tell.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use dispatch_core::store::Verb;

use super::Recipe;
use crate::clock::Us;
use crate::luck::Mishap;
use crate::scenario::{Act, Chaos, HOUR, Message, Scenario, When};

const MOST_REPLICAS: usize = 9;
const MOST_PROVIDERS: usize = 2;
const MOST_COMPUTERS: usize = 16;
/// Nothing happens later, and nothing lasts longer.
const MOST_US: Us = 30 * 24 * HOUR;
const MOST_MS: u64 = MOST_US / 1_000;
/// The store's fastest answer.
const LEAST_STORE_US: Us = 200;

/// What else [`When::At`] may wait for.
const OTHER_EFFECTS: [&str; 19] = [
    "open-provider",
    "close-provider",
    "start-tool",
    "kill-tool",
    "adopt-tool",
    "leave-tool",
    "find-unattended",
    "end-unattended",
    "connect-computer",
    "ping-computer",
    "close-computer",
    "deliver",
    "cancel-delivery",
    "publish",
    "wake",
    "answer",
    "trace",
    "ready",
    "drained",
];

/// Names what is wrong.
type Checked = Result<(), String>;

impl Recipe {
    /// Whether it can be played.
    ///
    /// # Errors
    /// Which field cannot be as it is.
    pub(crate) fn check(&self) -> Checked {
        let scenario = &self.scenario;
        settings(scenario)?;
        talks(scenario)?;
        for (at, act) in &scenario.acts {
            within("the time of an act", *at, 0..=MOST_US)?;
            check_act(scenario, act)?;
        }
        for (at, chaos) in &scenario.chaos {
            within("the time of what befalls a process", *at, 0..=MOST_US)?;
            check_chaos(scenario, chaos)?;
        }
        self.mishaps
            .iter()
            .try_for_each(|mishap| self.check_mishap(mishap))
    }

    /// Drops mishaps of what is no longer there: of a message that was dropped,
    /// a step of its script, a replica.
    pub(crate) fn forget_the_impossible(&mut self) {
        let mishaps = std::mem::take(&mut self.mishaps);
        let possible = |mishap: &Mishap| self.check_mishap(mishap).is_ok();
        self.mishaps = mishaps.into_iter().filter(possible).collect();
    }

    fn check_mishap(&self, mishap: &Mishap) -> Checked {
        let scenario = &self.scenario;
        match mishap {
            Mishap::Store {
                at,
                replica,
                verb,
                nth,
                ..
            }
            | Mishap::Echo {
                at,
                replica,
                verb,
                nth,
                ..
            } => {
                within("`at` of a mishap", *at, 0..=MOST_US)?;
                within(
                    "`nth` of a mishap",
                    u64::from(*nth),
                    1..=u64::from(u32::MAX),
                )?;
                check_replica(scenario, *replica, mishap)?;
                ensure(Verb::NAMES.contains(&verb.as_str()), || {
                    format!(
                        "the store has no verb `{verb}`; its verbs: {}",
                        Verb::NAMES.join(" ")
                    )
                })?;
                match mishap {
                    Mishap::Echo { after, .. } => within("`after` of an echo", *after, 0..=MOST_US),
                    _ => Ok(()),
                }
            }
            Mishap::Answer { token, .. } => check_token(scenario, *token, mishap),
            Mishap::Tool { command, .. } => ensure(commands(scenario).contains(&**command), || {
                format!("no script calls for the command `{command}` of a mishap")
            }),
        }
    }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Checked {
    match holds {
        true => Ok(()),
        false => Err(why()),
    }
}

fn within(field: &str, value: u64, range: RangeInclusive<u64>) -> Checked {
    ensure(range.contains(&value), || {
        let (least, most) = (range.start(), range.end());
        format!("{field} is {value}; {least} to {most} can be played")
    })
}

fn settings(scenario: &Scenario) -> Checked {
    let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    within(
        "`replicas`",
        count(scenario.replicas),
        1..=count(MOST_REPLICAS),
    )?;
    within(
        "the number of `limits`",
        count(scenario.limits.len()),
        1..=count(MOST_PROVIDERS),
    )?;
    for limit in &scenario.limits {
        within("one of `limits`", u64::from(*limit), 1..=1_000)?;
    }
    within("`askMs`", scenario.ask_ms, 1..=MOST_MS)?;
    within("`requestsMs`", scenario.requests_ms, 1..=MOST_MS)?;
    within("`retryBudgetMs`", scenario.retry_budget_ms, 0..=MOST_MS)?;
    within(
        "`stepLimitBytes`",
        count(scenario.step_limit_bytes),
        1..=1 << 30,
    )?;
    within(
        "the number of `webhooks`",
        count(scenario.webhooks.len()),
        0..=16,
    )?;
    within(
        "`computers`",
        count(scenario.computers),
        0..=count(MOST_COMPUTERS),
    )?;
    within("`calmAt`", scenario.calm_at, 0..=MOST_US)?;
    within(
        "`storeSlowest`",
        scenario.faults.store_slowest,
        LEAST_STORE_US..=MOST_US,
    )
}

fn talks(scenario: &Scenario) -> Checked {
    for talk in &scenario.conversations {
        ensure(talk.provider < scenario.limits.len(), || {
            "a conversation is for a provider that is not there".to_owned()
        })?;
        let is_there = talk.computer.is_none_or(|n| n < scenario.computers);
        ensure(is_there, || {
            "a conversation is for a computer that is not there".to_owned()
        })?;
    }
    let real = |message: &&Message| !message.is_blank();
    for message in scenario.messages.iter().filter(real) {
        ensure(message.conversation < scenario.conversations.len(), || {
            let token = message.script.token;
            format!("message {token} is for a conversation that is not there")
        })?;
    }
    Ok(())
}

fn check_act(scenario: &Scenario, act: &Act) -> Checked {
    match act {
        Act::Submit { token } | Act::SubmitAgain { token } | Act::Abort { token, .. } => {
            check_token(scenario, *token, act)
        }
        Act::Limit { provider, limit } => {
            within("the limit of an act", u64::from(*limit), 1..=1_000)?;
            ensure(*provider < scenario.limits.len(), || not_there(act))
        }
        Act::Test { computer } => ensure(*computer < scenario.computers, || not_there(act)),
        Act::Star { .. } => Ok(()),
    }
}

fn check_chaos(scenario: &Scenario, chaos: &Chaos) -> Checked {
    if let Some(replica) = chaos.replica() {
        check_replica(scenario, replica, chaos)?;
    }
    within("how long something lasts", chaos.lasts(), 0..=MOST_US)?;
    match chaos {
        Chaos::Kill { when, down, .. } => {
            within("`down` of a kill", *down, 0..=MOST_US)?;
            check_when(when)
        }
        Chaos::Pause { when, .. } => check_when(when),
        Chaos::Shutdown {
            down, killed_after, ..
        } => {
            within("`down` of a shutdown", *down, 0..=MOST_US)?;
            let after = killed_after.unwrap_or_default();
            within("`killedAfter` of a shutdown", after, 0..=MOST_US)
        }
        Chaos::WallJump { by_ms, .. } => within(
            "`byMs` of a wall-jump, by its size",
            by_ms.unsigned_abs(),
            0..=MOST_MS,
        ),
        Chaos::Rot { conversation } => ensure(*conversation < scenario.conversations.len(), || {
            not_there(chaos)
        }),
        Chaos::Computer { computer, .. } => {
            ensure(*computer < scenario.computers, || not_there(chaos))
        }
        Chaos::Partition { .. }
        | Chaos::Storm { .. }
        | Chaos::Panic { .. }
        | Chaos::Wedge { .. } => Ok(()),
    }
}

fn check_when(when: &When) -> Checked {
    let When::At(name) = when else {
        return Ok(());
    };
    let is_known = Verb::NAMES.contains(&name.as_str()) || OTHER_EFFECTS.contains(&name.as_str());
    ensure(is_known, || {
        format!("there is no effect `{name}` to be hit at")
    })
}

fn check_token(scenario: &Scenario, token: u32, of: &impl Debug) -> Checked {
    let message = scenario.messages.get(token as usize);
    let is_there = message.is_some_and(|message| !message.is_blank());
    ensure(is_there, || not_there(of))
}

fn check_replica(scenario: &Scenario, replica: usize, of: &impl Debug) -> Checked {
    ensure(replica < scenario.replicas, || not_there(of))
}

fn not_there(of: &impl Debug) -> String {
    format!("{of:?} is about something that is not there")
}

fn commands(scenario: &Scenario) -> BTreeSet<&str> {
    let steps = scenario.messages.iter().flat_map(|m| &m.script.steps);
    steps
        .flat_map(|step| &step.calls)
        .map(|call| call.command.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::Fate;
    use crate::run::{Profile, record};

    fn refused(change: impl FnOnce(&mut Recipe)) -> String {
        let (_, mut recipe) = record(3, Profile::Swarm);
        recipe.check().expect("what was drawn can be played");
        change(&mut recipe);
        recipe.check().expect_err("refused")
    }

    #[test]
    fn what_is_drawn_can_be_played() {
        for seed in 0..40 {
            let (_, recipe) = record(seed, Profile::Swarm);
            assert_eq!(recipe.check(), Ok(()), "seed {seed}");
        }
    }

    #[test]
    fn a_number_that_no_run_can_have_is_refused_by_the_name_of_its_field() {
        let told = refused(|recipe| recipe.scenario.faults.store_slowest = 0);
        assert!(told.contains("storeSlowest"), "{told}");
        let told = refused(|recipe| recipe.scenario.requests_ms = 0);
        assert!(told.contains("requestsMs"), "{told}");
        let told = refused(|recipe| recipe.scenario.limits = vec![0]);
        assert!(told.contains("limits"), "{told}");
        let told = refused(|recipe| recipe.scenario.acts[0].0 = u64::MAX);
        assert!(told.contains("time of an act"), "{told}");
    }

    #[test]
    fn a_mishap_that_can_befall_nothing_is_refused() {
        let store = |replica, verb: &str| Mishap::Store {
            at: 1,
            replica,
            verb: verb.to_owned(),
            nth: 1,
            fate: Fate::Lost,
        };
        let told = refused(|recipe| recipe.mishaps.push(store(77, "elect")));
        assert!(told.contains("not there"), "{told}");
        let told = refused(|recipe| recipe.mishaps.push(store(0, "nosuchverb")));
        assert!(told.contains("no verb `nosuchverb`"), "{told}");
        let told = refused(|recipe| {
            let command = "nothing".to_owned();
            let trouble = crate::luck::ToolTrouble::default();
            recipe.mishaps.push(Mishap::Tool { command, trouble });
        });
        assert!(told.contains("`nothing`"), "{told}");
    }
}
