//! The simulated world: replicas around one store, a provider, commands and
//! clients, moved by one queue of events.

mod chaos;
mod clients;
mod court;
mod far;
mod follow;
mod links;
mod lives;
mod panics;
mod process;
mod provider;
mod rest;
mod store;
mod tools;
pub(crate) mod webhooks;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, ProviderId, Seq, TurnId};
use dispatch_core::io::Input;
use dispatch_core::store::{Model, TurnRow};

use crate::burst;
use crate::clock::{Us, store_time};
use crate::dice::Dice;
use crate::fact::{Fact, Moment};
use crate::luck::{Luck, Mishap};
use crate::oracle::Terms;
use crate::record::{Recorder, Sink};
use crate::run::Violation;
use crate::scenario::{Act, Chaos, Scenario, StormKind};
use crate::watchdog::Beat;
use clients::Clients;
use court::Court;
use far::{Computers, Far};
use follow::Followers;
use links::{LinkEnd, Said, Turn};
use process::Replica;
use provider::Streams;
use store::AtStore;
use tools::Runs;
use webhooks::Post;

/// Something that is going to happen.
pub(crate) enum Event {
    /// An input reaches a replica's process, if it still lives that life.
    Input {
        replica: usize,
        life: u32,
        input: Box<Input>,
    },
    /// A replica's timer.
    Timer { replica: usize, life: u32 },
    /// A verb reaches the store.
    Store(Box<AtStore>),
    /// A request reaches its provider.
    Arrive(u32),
    /// A provider goes on with an answer.
    Answer(u32),
    /// A provider notices that nobody listens.
    Gone(u32),
    /// A delivery reaches its endpoint.
    Post(Box<Post>),
    /// A link is let in, given up, or breaks.
    Link(LinkEnd, Turn),
    /// Something reaches a computer over a link.
    Far(Box<Far>),
    /// Something comes back over a link.
    Said(Box<Said>),
    /// A command prints.
    ToolPrints(usize),
    /// A command ends by itself.
    ToolEnds(usize),
    /// A command has been killed.
    ToolDies(usize),
    /// A client does something.
    Act(Act),
    /// A client has waited long enough for an answer.
    GiveUp(u64),
    /// Followers that are not told of events look for them.
    Poll,
    /// Something breaks.
    Chaos(Box<Chaos>),
    /// A dead process is started again.
    Start { replica: usize, life: u32 },
    /// A stopped process goes on.
    Continue { replica: usize, life: u32 },
    /// The last moment of a shutdown.
    DrainedOrNot { replica: usize, life: u32 },
    /// Nothing fails any more.
    Calm,
    /// A look at all slots, and at whether everything has come to rest.
    Look,
}

/// A run that needs more goes round in circles.
const MOST_EVENTS: u64 = 5_000_000;

struct Entry {
    at: Us,
    n: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at, self.n) == (other.at, other.n)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.n).cmp(&(other.at, other.n))
    }
}

/// What the oracles have been told of the store.
#[derive(Default)]
struct Mirror {
    seqs: BTreeMap<ConversationId, Seq>,
    /// Turns that have not ended.
    open: BTreeMap<TurnId, TurnRow>,
}

/// What a world is made from.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Without texture: see [`Dice`].
    pub(crate) plain: bool,
    pub(crate) scenario: Scenario,
    /// What goes wrong; `None`: it is drawn by the scenario's rates.
    pub(crate) mishaps: Option<Vec<Mishap>>,
}

/// See the module's page.
pub(crate) struct World<'s> {
    scenario: Rc<Scenario>,
    terms: Rc<Terms>,
    at: Us,
    queued: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    dice: Dice,
    pub(crate) luck: Luck,
    model: Model,
    mirror: Mirror,
    providers: Vec<ProviderId>,
    storm: Option<(Us, StormKind)>,
    replicas: Vec<Replica>,
    streams: Streams,
    runs: Runs,
    computers: Computers,
    clients: Clients,
    followers: Followers,
    pub(crate) court: Court,
    calm: bool,
    resting_since: Option<Us>,
    over: bool,
    pub(crate) recorder: Recorder<'s>,
    pub(crate) events: u64,
    /// Dispatchers are replaced by copies out of their serialised form.
    pub(crate) thaws: bool,
    /// Every life's Dispatcher is journaled, as a server's is.
    pub(crate) keeps_journals: bool,
    journals: Vec<(String, Vec<u8>)>,
}

impl<'s> World<'s> {
    pub(crate) fn new(plan: Plan, sink: Option<Sink<'s>>) -> World<'s> {
        let Plan {
            seed,
            plain,
            scenario,
            mishaps,
        } = plan;
        let luck = match mishaps {
            Some(mishaps) => Luck::listed(mishaps),
            None => Luck::drawn(&scenario.faults),
        };
        let scenario = Rc::new(scenario);
        let messages = scenario.messages.iter();
        let terms = Rc::new(Terms {
            scripts: messages.map(|message| message.script.clone()).collect(),
            repeats_cuts: scenario.repeats_cuts,
            seals: scenario.seals,
            resume_limit: 3,
            retry_budget_ms: scenario.retry_budget_ms,
            step_limit_bytes: scenario.step_limit_bytes,
            step_limit: scenario.step_limit,
            endpoints: webhooks::endpoints(&scenario),
            computers: scenario.computers,
        });
        let providers = ["north", "south"].into_iter().take(scenario.limits.len());
        let mut world = World {
            at: 0,
            queued: 0,
            queue: BinaryHeap::new(),
            dice: Dice::new(seed, plain),
            luck,
            model: Model::default(),
            mirror: Mirror::default(),
            providers: providers
                .filter_map(|name| ProviderId::try_from(name).ok())
                .collect(),
            storm: None,
            replicas: (0..scenario.replicas).map(Replica::new).collect(),
            streams: Streams::default(),
            runs: Runs::default(),
            computers: Computers::new(scenario.computers),
            clients: Clients::new(&scenario),
            followers: Followers::default(),
            court: Court::new(seed, &terms, scenario.replicas),
            calm: false,
            resting_since: None,
            over: false,
            recorder: Recorder::new(sink),
            events: 0,
            thaws: false,
            keeps_journals: false,
            journals: Vec::new(),
            scenario,
            terms,
        };
        world.plan();
        world
    }

    fn plan(&mut self) {
        let scenario = self.scenario.clone();
        for (at, act) in &scenario.acts {
            self.queue_at(*at, Event::Act(act.clone()));
        }
        for (at, chaos) in &scenario.chaos {
            if *at < scenario.calm_at {
                self.queue_at(*at, Event::Chaos(Box::new(chaos.clone())));
            }
        }
        self.queue_at(scenario.calm_at, Event::Calm);
        for replica in 0..scenario.replicas {
            self.queue_at(0, Event::Start { replica, life: 0 });
        }
        self.queue_at(0, Event::Look);
        self.queue_at(0, Event::Poll);
    }

    /// Runs to the end, or to the first broken promise.
    pub(crate) fn run(&mut self) -> Option<Violation> {
        if let Err(message) = burst::caught(|| self.go_on_to_the_end()) {
            self.tell(&Fact::Burst { message: &message });
        }
        self.court.violation.take()
    }

    fn go_on_to_the_end(&mut self) {
        let beat = Beat::of(self.court.seed());
        while let Some(Reverse(entry)) = self.queue.pop() {
            self.at = entry.at;
            self.dice.move_to(self.at);
            self.model.now = store_time(self.at);
            self.events += 1;
            beat.moves(self.events, self.at);
            self.happen(entry.event);
            if self.events > MOST_EVENTS {
                self.give_up_waiting();
            }
            if self.over || self.court.violation.is_some() {
                break;
            }
        }
    }

    /// The store, for tests.
    #[cfg(test)]
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Simulated time so far.
    pub(crate) fn now_us(&self) -> Us {
        self.at
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Input {
                replica,
                life,
                input,
            } => self.deliver(replica, life, *input),
            Event::Timer { replica, life } => self.timer(replica, life),
            Event::Store(verb) => self.at_store(*verb),
            Event::Arrive(stream) => self.arrive(stream),
            Event::Answer(stream) => self.answer_on(stream),
            Event::Gone(stream) => self.gone(stream),
            Event::Post(post) => self.posted(*post),
            Event::Link(end, turn) => self.link_turns(end, turn),
            Event::Far(far) => self.arrives_far(*far),
            Event::Said(said) => self.said(*said),
            Event::ToolPrints(run) => self.tool_prints(run),
            Event::ToolEnds(run) => self.tool_ends(run),
            Event::ToolDies(run) => self.tool_dies(run),
            Event::Act(act) => self.act(act),
            Event::GiveUp(command) => self.give_up(command),
            Event::Poll => self.poll_followers(),
            Event::Chaos(chaos) => self.befall(*chaos),
            Event::Start { replica, life } => self.start(replica, life),
            Event::Continue { replica, life } => self.go_on(replica, life),
            Event::DrainedOrNot { replica, life } => self.drained_or_not(replica, life),
            Event::Calm => self.calm_down(),
            Event::Look => self.look(),
        }
    }

    fn queue_at(&mut self, at: Us, event: Event) {
        self.queued += 1;
        let n = self.queued;
        self.queue.push(Reverse(Entry { at, n, event }));
    }

    fn queue_in(&mut self, after: Us, event: Event) {
        self.queue_at(self.at + after, event);
    }

    /// Sends an input to a process over the network.
    fn send(&mut self, after: Us, replica: usize, life: u32, input: Input) {
        let input = Box::new(input);
        self.queue_in(
            after,
            Event::Input {
                replica,
                life,
                input,
            },
        );
    }

    fn moment(&self) -> Moment {
        Moment {
            at: self.at,
            store_now: store_time(self.at),
            calm: self.calm,
        }
    }

    fn tell(&mut self, fact: &Fact<'_>) {
        self.recorder.watched(|watch| watch.fact(self.at, fact));
        let moment = self.moment();
        self.court.hear(&moment, fact);
    }

    /// Tells of what the store has logged since the last time.
    fn tell_log(&mut self) {
        let moment = self.moment();
        for (id, row) in &self.model.conversations {
            let known = self.mirror.seqs.entry(id.clone()).or_default();
            if row.last_seq <= *known {
                continue;
            }
            for event in self.model.log_after(id, *known) {
                self.recorder
                    .line(self.at, || format!("log {}", event.to_json()));
                let fact = Fact::Logged(event);
                self.recorder.watched(|watch| watch.fact(self.at, &fact));
                self.court.hear(&moment, &fact);
            }
            *known = row.last_seq;
        }
    }

    fn last_event(&self, conversation: &ConversationId) -> Seq {
        self.model
            .conversations
            .get(conversation)
            .map_or(0, |row| row.last_seq)
    }

    fn events_after(&self, conversation: &ConversationId, after: Seq) -> Vec<AgentEvent> {
        self.model.log_after(conversation, after).cloned().collect()
    }
}
