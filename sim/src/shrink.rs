//! Makes the recipe of a failing run smaller while the same oracle goes on to
//! fail: drops what happens in it, replicas, steps of scripts and texture, and
//! lets what remains happen sooner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Us;
use crate::luck::Mishap;
use crate::recipe::Recipe;
use crate::run::rerecord;
use crate::scenario::{Act, Chaos, DOCUMENTED_STEP_BYTES, Message, SECOND};

/// How the shrinking of a recipe went.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest that was found.
    pub recipe: Recipe,
    /// Runs that it took.
    pub runs: u32,
}

/// When a shrinking ends, however much could still be done.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// After so many runs.
    pub runs: u32,
    /// Or once this is set.
    pub stop: Option<&'static AtomicBool>,
}

impl Patience {
    fn is_over(&self, runs: u32) -> bool {
        let stopped = self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        runs >= self.runs || stopped
    }
}

/// Shrinks `recipe` as long as there is patience. One that does not fail by the
/// oracle that it names comes back as it was.
pub fn shrink(recipe: Recipe, patience: Patience) -> Shrunk {
    let oracle = recipe.oracle.clone();
    shrink_while(recipe, patience, &|recipe| {
        let (outcome, again) = rerecord(recipe);
        let violation = outcome.violation.filter(|_| again.oracle == oracle)?;
        Some((again, violation.at_us))
    })
}

/// Runs a recipe; where it still shows what it is to show, what really happened
/// in it, and when it was shown.
type Shows<'s> = &'s dyn Fn(&Recipe) -> Option<(Recipe, Us)>;

fn shrink_while(recipe: Recipe, patience: Patience, shows: Shows<'_>) -> Shrunk {
    let mut shrinker = Shrinker {
        best: recipe.clone(),
        shown_at: 0,
        shows,
        runs: 0,
        patience,
    };
    if !shrinker.try_out(recipe) {
        return shrinker.shrunk();
    }
    loop {
        let before = shrinker.best.clone();
        for pass in PASSES {
            pass(&mut shrinker);
        }
        if shrinker.best == before || shrinker.is_spent() {
            return shrinker.shrunk();
        }
    }
}

const PASSES: [fn(&mut Shrinker<'_>); 9] = [
    |shrinker| shrinker.end_at_the_failure(),
    |shrinker| shrinker.drop_texture(),
    |shrinker| shrinker.drop_what_happens(),
    |shrinker| shrinker.drop_replicas(),
    |shrinker| shrinker.simplify_settings(),
    |shrinker| shrinker.simplify_messages(),
    |shrinker| shrinker.merge_time(),
    |shrinker| shrinker.calm_down_early(),
    |shrinker| shrinker.forget_the_unused(),
];

struct Shrinker<'s> {
    best: Recipe,
    shown_at: Us,
    shows: Shows<'s>,
    runs: u32,
    patience: Patience,
}

impl Shrinker<'_> {
    fn shrunk(self) -> Shrunk {
        Shrunk {
            recipe: self.best,
            runs: self.runs,
        }
    }

    fn is_spent(&self) -> bool {
        self.patience.is_over(self.runs)
    }

    /// Keeps a candidate that fails in the same way.
    fn try_out(&mut self, mut candidate: Recipe) -> bool {
        candidate.forget_the_impossible();
        if self.is_spent() || candidate.check().is_err() {
            return false;
        }
        self.runs += 1;
        match (self.shows)(&candidate) {
            Some((again, shown_at)) => {
                self.best = again;
                self.shown_at = shown_at;
                true
            }
            None => false,
        }
    }

    /// Keeps a change after which it still fails.
    fn try_change(&mut self, change: impl FnOnce(&mut Recipe)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        candidate != self.best && self.try_out(candidate)
    }

    /// Nothing that was to come after the failure matters.
    fn end_at_the_failure(&mut self) {
        let shown_at = self.shown_at;
        self.try_change(|recipe| {
            let scenario = &mut recipe.scenario;
            scenario.acts.retain(|(at, _)| *at <= shown_at);
            scenario.chaos.retain(|(at, _)| *at <= shown_at);
        });
    }

    fn drop_texture(&mut self) {
        self.try_change(|recipe| recipe.plain = true);
        self.try_change(|recipe| recipe.scenario.faults.store_slowest = 4_000);
    }

    fn drop_what_happens(&mut self) {
        self.drop_of(
            |recipe| recipe.scenario.acts.len(),
            |recipe, keep| filter(&mut recipe.scenario.acts, keep),
        );
        self.drop_of(
            |recipe| recipe.scenario.chaos.len(),
            |recipe, keep| filter(&mut recipe.scenario.chaos, keep),
        );
        self.drop_of(
            |recipe| recipe.mishaps.len(),
            |recipe, keep| filter(&mut recipe.mishaps, keep),
        );
    }

    /// Delta debugging: drops ever smaller parts of a list.
    fn drop_of(
        &mut self,
        len: fn(&Recipe) -> usize,
        filter: fn(&mut Recipe, &dyn Fn(usize) -> bool),
    ) {
        let mut part = len(&self.best);
        while part > 0 && !self.is_spent() {
            let mut from = 0;
            while from < len(&self.best) && !self.is_spent() {
                let to = from + part;
                let dropped = self.try_change(|recipe| {
                    filter(recipe, &|n| n < from || n >= to);
                });
                if !dropped {
                    from = to;
                }
            }
            part /= 2;
        }
    }

    fn drop_replicas(&mut self) {
        for gone in (0..self.best.scenario.replicas).rev() {
            if self.best.scenario.replicas == 1 {
                return;
            }
            self.try_change(|recipe| {
                let scenario = &mut recipe.scenario;
                scenario.replicas -= 1;
                scenario
                    .chaos
                    .retain(|(_, chaos)| chaos.replica() != Some(gone));
                for (_, chaos) in &mut scenario.chaos {
                    if let Some(replica) = chaos.replica_mut() {
                        *replica -= usize::from(*replica > gone);
                    }
                }
            });
        }
    }

    fn simplify_settings(&mut self) {
        self.try_change(|recipe| {
            let scenario = &mut recipe.scenario;
            scenario.limits.truncate(1);
            for talk in &mut scenario.conversations {
                talk.provider = 0;
            }
            let other = |act: &Act| matches!(act, Act::Limit { provider, .. } if *provider > 0);
            scenario.acts.retain(|(_, act)| !other(act));
        });
        for provider in 0..self.best.scenario.limits.len() {
            self.try_change(|recipe| recipe.scenario.limits[provider] = 1);
        }
        while let Some(fewer) = self.best.scenario.webhooks.len().checked_sub(1)
            && self.try_change(|recipe| recipe.scenario.webhooks.truncate(fewer))
        {}
        for hook in 0..self.best.scenario.webhooks.len() {
            self.try_change(|recipe| recipe.scenario.webhooks[hook].is_dead = false);
            self.try_change(|recipe| recipe.scenario.webhooks[hook].trouble = 0);
            self.try_change(|recipe| recipe.scenario.webhooks[hook].done_only = false);
        }
        self.drop_computers();
        self.try_change(|recipe| recipe.scenario.seals = false);
        self.try_change(|recipe| recipe.scenario.repeats_cuts = false);
        self.try_change(|recipe| recipe.scenario.slow_tools = false);
        self.try_change(|recipe| recipe.scenario.lingers = false);
        self.try_change(|recipe| recipe.scenario.step_limit = 0);
        self.try_change(|recipe| recipe.scenario.step_limit_bytes = DOCUMENTED_STEP_BYTES);
        self.try_change(|recipe| recipe.scenario.ask_ms = 5_000);
        self.try_change(|recipe| recipe.scenario.requests_ms = 1_000);
    }

    fn drop_computers(&mut self) {
        while let Some(last) = self.best.scenario.computers.checked_sub(1)
            && self.try_change(|recipe| remove_last_computer(recipe, last))
        {}
        for talk in 0..self.best.scenario.conversations.len() {
            self.try_change(|recipe| recipe.scenario.conversations[talk].computer = None);
        }
    }

    fn simplify_messages(&mut self) {
        self.try_change(|recipe| {
            for message in &mut recipe.scenario.messages {
                message.doubled = false;
            }
        });
        for n in 0..self.best.scenario.messages.len() {
            if self.is_spent() {
                return;
            }
            if self.best.scenario.messages[n].is_blank() {
                continue;
            }
            self.simplify_script(n);
            self.try_change(|recipe| recipe.scenario.messages[n].keyed = false);
            self.try_change(|recipe| recipe.scenario.messages[n].conversation = 0);
        }
    }

    fn simplify_script(&mut self, n: usize) {
        self.try_change(|recipe| {
            let steps = &mut recipe.scenario.messages[n].script.steps;
            steps.drain(..steps.len() - 1);
        });
        let mut step = 0;
        while step + 1 < self.best.scenario.messages[n].script.steps.len() {
            let dropped = self.try_change(|recipe| {
                recipe.scenario.messages[n].script.steps.remove(step);
            });
            if !dropped {
                self.try_change(|recipe| {
                    let step = &mut recipe.scenario.messages[n].script.steps[step];
                    step.calls.truncate(1);
                    step.text.clear();
                });
                step += 1;
            }
        }
        self.try_change(|recipe| {
            for step in &mut recipe.scenario.messages[n].script.steps {
                step.reasoning.clear();
            }
        });
    }

    /// Lets everything after a gap happen sooner, the widest gap first.
    fn merge_time(&mut self) {
        let mut times = self.times();
        times.insert(0, 0);
        let mut gaps: Vec<(Us, Us)> = times.windows(2).map(|w| (w[1] - w[0], w[1])).collect();
        gaps.sort_by_key(|(gap, _)| std::cmp::Reverse(*gap));
        let mut shifts: Vec<(Us, Us)> = Vec::new();
        for (gap, was_at) in gaps {
            // Where this moment has come to meanwhile.
            let earlier = shifts.iter().filter(|(from, _)| *from <= was_at);
            let at = was_at - earlier.map(|(_, by)| by).sum::<Us>();
            for by in [gap, gap.saturating_sub(SECOND), gap / 2] {
                if by >= SECOND / 10 && self.try_change(|recipe| sooner(recipe, at, by)) {
                    shifts.push((was_at, by));
                    break;
                }
            }
            if self.is_spent() {
                return;
            }
        }
    }

    fn times(&self) -> Vec<Us> {
        let scenario = &self.best.scenario;
        let acts = scenario.acts.iter().map(|(at, _)| *at);
        let mut times: Vec<Us> = acts
            .chain(scenario.chaos.iter().map(|(at, _)| *at))
            .collect();
        times.sort_unstable();
        times.dedup();
        times
    }

    fn calm_down_early(&mut self) {
        let last = self.times().last().copied().unwrap_or(0);
        for calm_at in [
            last + SECOND,
            last + 60 * SECOND,
            self.best.scenario.calm_at / 2,
        ] {
            if calm_at < self.best.scenario.calm_at
                && self.try_change(|recipe| recipe.scenario.calm_at = calm_at)
            {
                return;
            }
        }
    }

    /// Messages and conversations that nothing refers to. Delays and luck go by
    /// a message's token, so that the others keep theirs, unless the run shows
    /// the same with small ones.
    fn forget_the_unused(&mut self) {
        self.try_change(forget_unsent);
        self.try_change(renumber);
        let mut n = 0;
        while n < self.best.scenario.conversations.len() && !self.is_spent() {
            let mut messages = self.best.scenario.messages.iter();
            let is_used = messages.any(|message| message.conversation == n);
            if is_used || !self.try_change(|recipe| remove_conversation(recipe, n)) {
                n += 1;
            }
        }
    }
}

fn filter<T>(list: &mut Vec<T>, keep: &dyn Fn(usize) -> bool) {
    let mut n = 0;
    list.retain(|_| {
        n += 1;
        keep(n - 1)
    });
}

/// Everything from `at` on happens so much sooner.
fn sooner(recipe: &mut Recipe, at: Us, by: Us) {
    let scenario = &mut recipe.scenario;
    let acts = scenario.acts.iter_mut().map(|(at, _)| at);
    let chaos = scenario.chaos.iter_mut().map(|(at, _)| at);
    let mishaps = recipe.mishaps.iter_mut().filter_map(|mishap| match mishap {
        Mishap::Store { at, .. } | Mishap::Echo { at, .. } => Some(at),
        Mishap::Answer { .. } | Mishap::Tool { .. } => None,
    });
    let calm = std::iter::once(&mut scenario.calm_at);
    for time in acts.chain(chaos).chain(mishaps).chain(calm) {
        if *time >= at {
            *time -= by;
        }
    }
}

fn token(act: &Act) -> Option<u32> {
    match act {
        Act::Submit { token } | Act::SubmitAgain { token } | Act::Abort { token, .. } => {
            Some(*token)
        }
        Act::Star { .. } | Act::Limit { .. } | Act::Test { .. } => None,
    }
}

/// Leaves nothing of messages that nobody sends but their places.
fn forget_unsent(recipe: &mut Recipe) {
    let scenario = &mut recipe.scenario;
    let sent: BTreeSet<u32> = (scenario.acts.iter())
        .filter_map(|(_, act)| token(act))
        .collect();
    let most = sent.last().map_or(0, |last| *last as usize + 1);
    scenario.messages.truncate(most);
    for (token, message) in (0..).zip(&mut scenario.messages) {
        if !sent.contains(&token) {
            *message = Message::blank(token);
        }
    }
}

/// Gives messages the smallest tokens that there are.
fn renumber(recipe: &mut Recipe) {
    let scenario = &mut recipe.scenario;
    scenario.messages.retain(|message| !message.is_blank());
    let mut tokens = BTreeMap::new();
    for (new, message) in (0..).zip(&mut scenario.messages) {
        tokens.insert(message.script.token, new);
        message.script.token = new;
    }
    let moved = |token: &mut u32| *token = tokens.get(token).copied().unwrap_or(*token);
    for (_, act) in &mut scenario.acts {
        match act {
            Act::Submit { token } | Act::SubmitAgain { token } | Act::Abort { token, .. } => {
                moved(token);
            }
            Act::Star { .. } | Act::Limit { .. } | Act::Test { .. } => {}
        }
    }
    for mishap in &mut recipe.mishaps {
        match mishap {
            Mishap::Answer { token, .. } => moved(token),
            Mishap::Store { .. } | Mishap::Echo { .. } | Mishap::Tool { .. } => {}
        }
    }
}

/// Whose tools ran on it run at the server.
fn remove_last_computer(recipe: &mut Recipe, last: usize) {
    let scenario = &mut recipe.scenario;
    scenario.computers = last;
    for talk in &mut scenario.conversations {
        talk.computer = talk.computer.filter(|n| *n != last);
    }
    let of_it = |act: &Act| matches!(act, Act::Test { computer } if *computer == last);
    scenario.acts.retain(|(_, act)| !of_it(act));
    let of_it =
        |chaos: &Chaos| matches!(chaos, Chaos::Computer { computer, .. } if *computer == last);
    scenario.chaos.retain(|(_, chaos)| !of_it(chaos));
}

/// Removes a conversation without messages; those after it move up.
fn remove_conversation(recipe: &mut Recipe, n: usize) {
    let scenario = &mut recipe.scenario;
    scenario.conversations.remove(n);
    for message in &mut scenario.messages {
        message.conversation -= usize::from(message.conversation > n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Profile, record};
    use crate::sometimes::Point;

    #[test]
    fn a_run_is_shrunk_to_what_it_is_to_show() {
        let met = |counts: &crate::sometimes::Counts| counts[Point::Aborted as usize] > 0;
        let (_, recipe) = (0..50)
            .map(|seed| record(seed, Profile::Swarm))
            .find(|(outcome, recipe)| met(&outcome.points) && recipe.events() > 40)
            .expect("some run has an aborted turn");
        let before = recipe.events();
        let patience = Patience {
            runs: 600,
            stop: None,
        };
        let small = shrink_while(recipe, patience, &|recipe| {
            let (outcome, again) = rerecord(recipe);
            met(&outcome.points).then_some((again, outcome.simulated_us))
        });
        let (events, scenario) = (small.recipe.events(), &small.recipe.scenario);
        assert!(
            events <= 4,
            "from {before} to {events} only:\n{}",
            small.recipe
        );
        assert!(
            scenario
                .acts
                .iter()
                .any(|(_, act)| matches!(act, Act::Abort { .. }))
        );
        assert!(small.runs <= 600);
        let sent = |token: &u32| {
            scenario
                .acts
                .iter()
                .any(|(_, act)| self::token(act) == Some(*token))
        };
        let bodies = scenario.messages.iter().filter(|m| !m.is_blank());
        assert!(bodies.map(|m| m.script.token).all(|token| sent(&token)));
    }

    #[test]
    fn one_that_is_told_to_stop_keeps_the_smallest_so_far() {
        static STOP: AtomicBool = AtomicBool::new(false);
        let (_, recipe) = record(3, Profile::Swarm);
        let events = recipe.events();
        let patience = Patience {
            runs: 600,
            stop: Some(&STOP),
        };
        let runs = std::cell::Cell::new(0);
        let small = shrink_while(recipe, patience, &|recipe| {
            runs.set(runs.get() + 1);
            STOP.store(runs.get() == 4, Ordering::Relaxed);
            Some((recipe.clone(), 0))
        });
        assert_eq!(small.runs, 4);
        assert!(small.recipe.events() < events);
    }
}
