//! One piece of a run: so many turns, so many kills and other faults spread
//! over them, and the verdict when all is quiet.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use crate::caller::{Caller, Field, GiveUp, locked, read_log};
use crate::house::{House, Store};
use crate::plan::Talk;
use crate::support::{Chance, until, until_true};
use crate::tally::Tally;
use crate::verdict::{Rule, Talked, Violation, judge};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) store: Store,
    pub(crate) seed: u64,
    pub(crate) turns: usize,
    pub(crate) kills: usize,
    pub(crate) clients: usize,
}

/// One fault in so many is none of the kills.
const OTHER_FAULTS: usize = 8;
/// A piece that stands still for so long is broken off, and judged as it is.
const STANDSTILL: Duration = Duration::from_secs(120);

impl Piece {
    /// `None` where the store is missing on this machine.
    pub(crate) fn run(self) -> Option<Tally> {
        let mut house = House::new(self.store)?;
        let field = Field::default();
        house.addresses(&field);
        let talks = self.talks(&house);
        let next = AtomicUsize::new(0);
        let mut tally = Tally::default();
        let since = Instant::now();
        let mut talked: Vec<Talked> = std::thread::scope(|scope| {
            let client = || {
                let mut talked = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(talk) = talks.get(n) else {
                        return talked;
                    };
                    let seed = self.seed ^ Chance::new(n as u64).next();
                    talked.push(Caller::talk(&field, seed, talk));
                }
            };
            let clients: Vec<_> = (0..self.clients).map(|_| scope.spawn(client)).collect();
            let _on_failure = GiveUp(&field);
            self.attack(&mut house, &field, &mut tally, &clients);
            let joined = clients
                .into_iter()
                .flat_map(|client| client.join().unwrap());
            joined.collect()
        });
        tally.seconds = since.elapsed().as_secs();
        self.judge(&house, &field, &mut talked, &mut tally);
        Some(tally)
    }

    fn talks(&self, house: &House) -> Vec<Talk> {
        let mut chance = Chance::new(self.seed);
        let (mut talks, mut turns): (Vec<Talk>, usize) = (Vec::new(), 0);
        while turns < self.turns {
            let name = format!("c{}-{}", self.seed, talks.len());
            let talk = Talk::draw(&mut chance, &name, self.turns - turns, &house.effects);
            turns += talk.asks.len();
            talks.push(talk);
        }
        talks
    }

    /// Kills are spread over the turns; each comes a random number of events
    /// after its share of the turns has ended, so that it may meet anything.
    fn attack(
        &self,
        house: &mut House,
        field: &Field,
        tally: &mut Tally,
        clients: &[ScopedJoinHandle<'_, Vec<Talked>>],
    ) {
        let mut chance = Chance::new(self.seed.wrapping_add(1));
        // The first turns are under way, and the last ones not yet ended.
        let share =
            |kill: usize| self.turns.saturating_sub(self.clients) * kill / self.kills.max(1);
        let mut least = 0;
        for kill in 0..self.kills {
            let moment = chance.below(60) as u64;
            if !reach(field, share(kill).max(least), moment, clients) {
                return;
            }
            if chance.one_in(OTHER_FAULTS) {
                self.other_fault(house, &mut chance, tally);
                let moment = chance.below(200) as u64;
                if !reach(field, 0, moment, clients) {
                    return;
                }
            }
            let victim = house.any(&mut chance);
            let caught = house.kill(victim, field);
            tally.killed(field, &caught);
            let late = self.store == Store::Postgres && chance.one_in(6);
            house.restart(victim, field, late);
            least = field.ended.load(Ordering::Relaxed) + self.turns / self.kills / 2;
            if kill % 10 == 9 {
                self.tell(field, tally);
            }
        }
    }

    fn other_fault(&self, house: &mut House, chance: &mut Chance, tally: &mut Tally) {
        let name = match chance.below(3) {
            0 if house.crash_database() => "database crashes",
            1 if house.cut_sessions() => "sessions cut",
            _ => {
                house.freeze(house.any(chance));
                "freezes"
            }
        };
        *tally.others.entry(name.to_owned()).or_default() += 1;
    }

    fn tell(&self, field: &Field, tally: &Tally) {
        let line = format!(
            "chaos {:?} seed {}: {} of {} turns, {} of {} kills\n",
            self.store,
            self.seed,
            field.ended.load(Ordering::Relaxed),
            self.turns,
            tally.kills,
            self.kills
        );
        // Not by the macro, which the test harness keeps to itself.
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }

    /// When all is quiet: every log is read once more, and every history judged.
    fn judge(&self, house: &House, field: &Field, talked: &mut [Talked], tally: &mut Tally) {
        until_true("no slot is held", || house.servers[0].streaming() == 0);
        for talk in talked.iter_mut() {
            talk.log = until("the log is read", || read_log(field, &talk.name));
        }
        let effects = house.effects();
        tally.commands = effects.begun();
        for talk in talked.iter() {
            tally.turns += talk.asked.len();
            tally.violations.extend(judge(talk, &effects));
        }
        let invalid = house.provider.stat("invalid");
        if invalid > 0 {
            tally.violations.push(Violation {
                rule: Rule::Senseless,
                what: format!("the provider was sent {invalid} invalid transcripts"),
            });
        }
        tally.gather(field);
        if !tally.violations.is_empty() {
            tally.evidence = house.servers.iter().map(|server| server.stderr()).collect();
        }
    }
}

/// Waits until `ended` turns have ended and then `moment` more events were
/// seen; `false` when the clients are done before.
fn reach(
    field: &Field,
    ended: usize,
    moment: u64,
    clients: &[ScopedJoinHandle<'_, Vec<Talked>>],
) -> bool {
    let mut goal = None;
    let mut last = (0, Instant::now());
    loop {
        let events = field.events.load(Ordering::Relaxed);
        if goal.is_none() && field.ended.load(Ordering::Relaxed) >= ended {
            goal = Some(events + moment);
        }
        if goal.is_some_and(|goal| events >= goal) {
            return true;
        }
        if events != last.0 {
            last = (events, Instant::now());
        }
        if last.1.elapsed() > STANDSTILL || clients.iter().all(|client| client.is_finished()) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Turns by how they ended.
pub(crate) fn ends(field: &Field, which: impl Fn(u32, u32) -> bool) -> BTreeMap<String, usize> {
    let mut ends = BTreeMap::new();
    for turn in locked(&field.turns).values() {
        if which(turn.kills, turn.hits) {
            let end = turn.end.clone().unwrap_or_else(|| "no end".to_owned());
            *ends.entry(end).or_default() += 1;
        }
    }
    ends
}
