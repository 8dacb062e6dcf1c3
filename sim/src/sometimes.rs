//! Rare situations that a sweep must have met: a promise that holds only
//! because nothing ever came close to it is not proven.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{EndpointId, TurnId};
use dispatch_core::io::{Answer, ToolEnd};
use dispatch_core::store::{Reply, TakeDeliveries, TurnRow, TurnState, Verb};
use dispatch_core::webhook::Delivery;
use xxhash_rust::xxh3::xxh3_64;

use crate::fact::{Fact, Life};
use crate::luck::Fate;

macro_rules! points {
    ($($(#[doc = $doc:literal])* $point:ident = $name:literal,)*) => {
        /// One of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point { $($(#[doc = $doc])* $point),* }

        impl Point {
            /// All, in the order of their counts.
            pub const ALL: [Point; [$(Point::$point),*].len()] = [$(Point::$point),*];

            /// Stable, kebab case.
            pub fn name(self) -> &'static str {
                match self { $(Point::$point => $name),* }
            }
        }
    };
}

points! {
    /// A turn ended well.
    Done = "done",
    /// A turn was stopped.
    Aborted = "aborted",
    /// A model's words were shown while it spoke.
    TextShown = "text-shown-live",
    /// A command's output was shown while it ran.
    OutputShown = "output-shown-live",
    /// Who waits was told its place in line.
    PlaceShown = "place-in-line-shown",
    /// The retry budget was spent: eight hours of refusals.
    BudgetSpent = "retry-budget-spent",
    /// The provider said something that no repetition helps against.
    FatalRefusal = "fatal-refusal",
    /// A stream broke after content and the turn ended with it.
    StreamTruncated = "stream-truncated",
    /// Two empty completions in a row.
    EmptyTwice = "empty-completion-twice",
    /// A turn was given up after too many takeovers.
    ReplicaLost = "replica-lost",
    /// What had been said could not be read back.
    Unreadable = "transcript-unreadable",
    /// A model said more in a step than a step may hold.
    StepTooLarge = "step-too-large",
    /// The last step that a turn may have was asked for, without tools.
    LastStep = "last-step-without-tools",
    /// A core panicked and was rebuilt.
    Panicked = "core-panicked",
    /// A turn was ended because the core panicked over it.
    SealedByPanic = "turn-sealed-by-a-panic",
    /// A step was repeated because its server was gone.
    StepOfDeadServer = "step-of-a-dead-server-repeated",
    /// A step was repeated because the model said nothing.
    StepEmpty = "empty-step-repeated",
    /// A step was repeated because it was cut.
    StepCut = "cut-step-repeated",
    /// A Retry-After made a wait longer.
    RetryAfter = "retry-after-obeyed",
    /// A step was refused five times in a row.
    FifthRefusal = "fifth-refusal-of-a-step",
    /// A tool call was answered with an unknown outcome.
    OutcomeUnknown = "tool-outcome-unknown",
    /// A turn was resumed a second time without a step between.
    ResumeOfResume = "resume-of-a-resume",
    /// A turn went on at another replica than before.
    OwnedByAnother = "turn-moved-to-another-replica",
    /// An owner that had lost its turn wrote, and was refused.
    ZombieFenced = "zombie-fenced",
    /// A terminal event came too late: another one stood.
    ElectionLost = "election-lost",
    /// A plan was applied to a line that had moved.
    GrantConflict = "grant-conflict",
    /// A verb whose outcome nobody knew had landed, and was asked again.
    UnknownHadLanded = "unknown-commit-had-landed",
    /// A verb whose outcome nobody knew was lost, and was asked again.
    UnknownWasLost = "unknown-commit-was-lost",
    /// An owner's write landed once more, long after it had been answered.
    EchoLanded = "echo-landed",
    /// A verb landed after its asker had given up.
    LateLanding = "late-landing",
    /// A submission was answered from the first one.
    AcceptReplayed = "accept-replayed",
    /// A boot took over what its node's earlier life had owned.
    BootTookOver = "boot-took-over",
    /// A sweep took over a turn.
    SweepTookOver = "sweep-took-over",
    /// A sweep took over a turn of a process that was stopped, not dead.
    SweepTookFromPaused = "sweep-took-from-a-paused-owner",
    /// A renewal came too late for some turn.
    RenewalRefused = "renewal-refused",
    /// An owner learned by polling that it owned a turn no more.
    OwnershipLost = "ownership-found-lost",
    /// A turn that nobody owned was aborted at once.
    AbortOfUnowned = "abort-of-an-unowned-turn",
    /// An abort came after the terminal event.
    AbortTooLate = "abort-too-late",
    /// An abort was left for a turn's owner.
    AbortRequested = "abort-left-for-the-owner",
    /// A limit was lowered below what streamed.
    LimitBelowInFlight = "limit-lowered-below-in-flight",
    /// A starred turn overtook an older one.
    StarOvertook = "starred-turn-overtook",
    /// An unstarred turn came before a starred one that waited (A7).
    UnstarredFirst = "unstarred-turn-came-first",
    /// A turn waited for its predecessor in the conversation.
    Queued = "turn-queued-behind-another",
    /// A process was killed or stopped between two of its effects.
    HitBetweenEffects = "hit-between-effects",
    /// A process that had stood still past a lease was to begin something.
    TooLateToBegin = "too-late-to-begin",
    /// A process died while it was shutting down.
    DiedDraining = "died-while-draining",
    /// A process exited by itself after a shutdown.
    Drained = "drained",
    /// Every process was dead or stopped at the same time.
    NobodyUp = "nobody-up",
    /// A successor adopted a command that a dead server had left.
    AdoptedRunning = "left-command-adopted",
    /// A successor found the end of a command that a dead server had left.
    AdoptedFinished = "left-command-had-ended",
    /// A successor looked for a command that had never been started.
    AdoptedNothing = "left-command-never-started",
    /// A server let go of a command that ran.
    CommandLeft = "command-left-running",
    /// A command of a turn that was over was found and killed.
    UnattendedEnded = "unattended-command-ended",
    /// Nobody answered a wish for a link in time.
    LinkTimedOut = "link-timed-out",
    /// A link was lost over which a command was begun or watched.
    LinkLostUnderCommand = "link-lost-under-a-command",
    /// Something was done on a computer over a link that was lost by then.
    DoneUnheard = "done-over-a-lost-link",
    /// A start reached its computer after it had been looked for.
    StartGaveWay = "start-gave-way-to-a-look",
    /// A start reached its computer when its owner may have lost its turn.
    StartTooLate = "start-after-its-lease",
    /// A command on a computer was adopted over another link.
    AdoptedFar = "command-adopted-over-a-link",
    /// A command on a computer was looked for that had never been started.
    LookedInVain = "looked-in-vain-over-a-link",
    /// A command on a computer, of a turn that was over, was found and killed.
    UnattendedEndedFar = "unattended-command-ended-over-a-link",
    /// A computer was tested, and was reached.
    TestedWell = "computer-tested-well",
    /// A computer was tested, and was not reached.
    TestedBadly = "computer-tested-badly",
    /// A command failed.
    ToolFailed = "command-failed",
    /// A turn was given up because its node stayed away.
    NodeLost = "node-lost",
    /// An endpoint that had refused a terminal event took it later.
    DeliveredLater = "delivered-after-a-failure",
    /// An endpoint took the same terminal event twice.
    DeliveredTwice = "delivered-twice",
    /// A delivery was broken off because its endpoint was silent.
    DeliveryBrokenOff = "delivery-broken-off",
    /// A delivery was handed out again: the answer that named it was lost.
    DeliveryHandedOutAgain = "delivery-handed-out-again",
    /// A delivery was tried by another replica than before.
    DeliveryTakenOver = "delivery-taken-over",
    /// What came of a try was told after the next one had begun.
    SettledTooLate = "delivery-settled-too-late",
    /// A delivery was given up.
    DeliveryGivenUp = "delivery-given-up",
    /// A client was told that the store had not confirmed.
    Unconfirmed = "answer-unconfirmed",
    /// A client was told that the server shuts down.
    ShuttingDown = "answer-shutting-down",
    /// An input reached a process that had died since.
    ToTheDead = "input-for-a-dead-life",
    /// A stream or a command said something after it was closed or had ended.
    AfterTheEnd = "input-for-an-ended-effect",
    /// A follower's events had a gap, and it read the log.
    FollowerCaughtUp = "follower-caught-up",
}

/// How often each point was met, in the order of [`Point::ALL`].
pub type Counts = [u32; Point::ALL.len()];

/// Watches one run.
#[derive(Debug)]
pub(crate) struct Sometimes {
    pub(crate) counts: Counts,
    /// Verbs whose askers were told that nobody knows, by whether they landed.
    unknown: BTreeSet<(u64, bool)>,
    down: BTreeSet<usize>,
    replicas: usize,
    /// Where a turn ran last.
    nodes: BTreeMap<TurnId, Arc<str>>,
    /// Which try of a delivery was handed out last, and to which node.
    tries: BTreeMap<(EndpointId, TurnId), (u32, Arc<str>)>,
    /// Deliveries that were taken.
    taken: BTreeSet<(EndpointId, TurnId)>,
}

impl Sometimes {
    pub(crate) fn new(replicas: usize) -> Sometimes {
        Sometimes {
            counts: [0; Point::ALL.len()],
            unknown: BTreeSet::new(),
            down: BTreeSet::new(),
            replicas,
            nodes: BTreeMap::new(),
            tries: BTreeMap::new(),
            taken: BTreeSet::new(),
        }
    }

    pub(crate) fn hit(&mut self, point: Point) {
        self.counts[point as usize] += 1;
    }

    fn hit_if(&mut self, met: bool, point: Point) {
        if met {
            self.hit(point);
        }
    }

    pub(crate) fn see(&mut self, fact: &Fact<'_>) {
        match fact {
            Fact::Logged(event) => self.logged(event),
            Fact::Published { event, .. } => match &event.body {
                EventBody::TextDelta { .. } => self.hit(Point::TextShown),
                EventBody::ToolOutput { .. } => self.hit(Point::OutputShown),
                EventBody::Status { .. } => self.hit(Point::PlaceShown),
                _ => {}
            },
            Fact::Moved { before, after } => self.moved(*before, after),
            Fact::Answered { answer, .. } => self.answered(answer),
            Fact::Panicked { .. } => self.hit(Point::Panicked),
            Fact::Requested(request) => self.hit_if(!request.offers_tools, Point::LastStep),
            Fact::Lives { replica, state, .. } => self.lives(*replica, *state),
            Fact::Posted {
                delivery,
                is_taken: true,
            } => self.delivered(delivery),
            Fact::GivenUp { .. } => self.hit(Point::DeliveryGivenUp),
            Fact::ToolGone {
                end: Some(ToolEnd { ok: false, .. }),
                ..
            } => self.hit(Point::ToolFailed),
            _ => {}
        }
    }

    fn delivered(&mut self, delivery: &Delivery) {
        let is_first = self
            .taken
            .insert((delivery.endpoint.clone(), delivery.turn));
        match is_first {
            true => self.hit_if(delivery.tries > 1, Point::DeliveredLater),
            false => self.hit(Point::DeliveredTwice),
        }
    }

    fn handed_out(&mut self, ask: &TakeDeliveries, delivery: &Delivery) {
        let key = (delivery.endpoint.clone(), delivery.turn);
        let now = (delivery.tries, ask.owner.node.clone());
        if let Some((tries, node)) = self.tries.insert(key, now) {
            self.hit_if(tries == delivery.tries, Point::DeliveryHandedOutAgain);
            self.hit_if(node != ask.owner.node, Point::DeliveryTakenOver);
        }
    }

    fn logged(&mut self, event: &AgentEvent) {
        match &event.body {
            EventBody::Done { .. } => self.hit(Point::Done),
            EventBody::Aborted { .. } => self.hit(Point::Aborted),
            EventBody::Error { cause, .. } if cause == "panic" => self.hit(Point::SealedByPanic),
            EventBody::Error { code, .. } => match code.as_str() {
                "provider-unavailable" => self.hit(Point::BudgetSpent),
                "stream-truncated" => self.hit(Point::StreamTruncated),
                "empty-completion" => self.hit(Point::EmptyTwice),
                "step-too-large" => self.hit(Point::StepTooLarge),
                "replica-lost" => self.hit(Point::ReplicaLost),
                "transcript-unreadable" => self.hit(Point::Unreadable),
                "node-lost" => self.hit(Point::NodeLost),
                code if code.starts_with("provider-") => self.hit(Point::FatalRefusal),
                _ => {}
            },
            EventBody::StepRestart { reason, .. } => {
                self.hit_if(reason.contains("is gone"), Point::StepOfDeadServer);
                self.hit_if(reason.contains("answered nothing"), Point::StepEmpty);
                self.hit_if(reason.contains("was cut"), Point::StepCut);
            }
            EventBody::ProviderRetry {
                attempt, source, ..
            } => {
                self.hit_if(source == "retry-after", Point::RetryAfter);
                self.hit_if(*attempt == 4, Point::FifthRefusal);
            }
            EventBody::ToolResult { output, .. } => {
                self.hit_if(output.contains("outcome unknown"), Point::OutcomeUnknown);
            }
            _ => {}
        }
    }

    fn moved(&mut self, before: Option<&TurnRow>, after: &TurnRow) {
        let Some(before) = before else {
            self.hit_if(after.state == TurnState::Blocked, Point::Queued);
            return;
        };
        let resumed = after.resumes > before.resumes;
        self.hit_if(resumed && after.resumes == 2, Point::ResumeOfResume);
        if let Some(owner) = after.owner.as_ref().filter(|_| before.owner.is_none()) {
            let earlier = self.nodes.insert(after.turn, owner.node.clone());
            let moved = earlier.is_some_and(|node| node != owner.node);
            self.hit_if(moved, Point::OwnedByAnother);
        }
    }

    fn answered(&mut self, answer: &Answer) {
        match answer {
            Answer::Unconfirmed => self.hit(Point::Unconfirmed),
            Answer::ShuttingDown => self.hit(Point::ShuttingDown),
            Answer::Accepted(_)
            | Answer::Rejected(_)
            | Answer::Invalid(_)
            | Answer::Ended(_)
            | Answer::AbortRequested { .. }
            | Answer::NotFound
            | Answer::Workspace(_)
            | Answer::Set => {}
            Answer::Tested(Ok(())) => self.hit(Point::TestedWell),
            Answer::Tested(Err(_)) => self.hit(Point::TestedBadly),
        }
    }

    /// A verb meets its fate.
    pub(crate) fn befell(&mut self, verb: &Verb, fate: Fate) {
        let is_unknown = matches!(fate, Fate::UnknownLanded | Fate::UnknownLost);
        if self.unknown.is_empty() && !is_unknown && !matches!(fate, Fate::LateLanding | Fate::Echo)
        {
            return;
        }
        // Every verb has a binary form; without one a point would go unseen.
        let key = xxh3_64(&postcard::to_allocvec(verb).unwrap_or_default());
        if self.unknown.remove(&(key, true)) {
            self.hit(Point::UnknownHadLanded);
        }
        if self.unknown.remove(&(key, false)) {
            self.hit(Point::UnknownWasLost);
        }
        match fate {
            Fate::UnknownLanded => {
                self.unknown.insert((key, true));
            }
            Fate::UnknownLost => {
                self.unknown.insert((key, false));
            }
            Fate::LateLanding => self.hit(Point::LateLanding),
            Fate::Echo => self.hit(Point::EchoLanded),
            Fate::Fine | Fate::Failed | Fate::LateReply | Fate::Held | Fate::Lost | Fate::Twice => {
            }
        }
    }

    /// A verb has landed and answers.
    pub(crate) fn replied(&mut self, verb: &Verb, reply: &Reply) {
        match (verb, reply) {
            (Verb::Elect(_), Reply::Ended { events, .. }) => {
                self.hit_if(events.is_empty(), Point::ElectionLost);
            }
            (Verb::RequestAbort(_), Reply::Ended { events, .. }) => match events.is_empty() {
                true => self.hit(Point::AbortTooLate),
                false => self.hit(Point::AbortOfUnowned),
            },
            (_, Reply::Fenced) => self.hit_if(!verb.is_read(), Point::ZombieFenced),
            (_, Reply::Conflict) => self.hit(Point::GrantConflict),
            (_, Reply::Accepted(receipt, _)) => {
                self.hit_if(receipt.replayed, Point::AcceptReplayed)
            }
            (_, Reply::Booted { taken_over, .. }) => {
                self.hit_if(*taken_over > 0, Point::BootTookOver);
            }
            (_, Reply::Swept(Some(_))) => self.hit(Point::SweepTookOver),
            (_, Reply::AbortRequested { .. }) => self.hit(Point::AbortRequested),
            (Verb::Renew { turns, .. }, Reply::Renewed(still)) => {
                self.hit_if(still.len() < turns.len(), Point::RenewalRefused);
            }
            (Verb::TakeDeliveries(ask), Reply::Deliveries { taken, .. }) => {
                for delivery in taken {
                    self.handed_out(ask, delivery);
                }
            }
            (Verb::SettleDelivery { tries, .. }, Reply::Settled { row, .. }) => {
                self.hit_if(row.delivery.tries > *tries, Point::SettledTooLate);
            }
            (_, Reply::Requests { lost, .. }) => {
                self.hit_if(!lost.is_empty(), Point::OwnershipLost);
            }
            (_, _) => {}
        }
    }

    fn lives(&mut self, replica: usize, state: Life) {
        match state {
            Life::Up | Life::Draining => self.down.remove(&replica),
            Life::Paused | Life::Down => self.down.insert(replica),
        };
        self.hit_if(self.down.len() == self.replicas, Point::NobodyUp);
    }
}

/// What a sweep met: how many runs met each point, and how often in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    runs: u64,
    met: [(u64, u64); Point::ALL.len()],
}

impl Default for Rates {
    fn default() -> Rates {
        Rates {
            runs: 0,
            met: [(0, 0); Point::ALL.len()],
        }
    }
}

/// A sweep of so many runs fails when some point was never met.
pub const FULL_SWEEP: u64 = 1_000;

impl Rates {
    /// Adds one run.
    pub fn add(&mut self, counts: &Counts) {
        self.runs += 1;
        for ((runs, times), count) in self.met.iter_mut().zip(counts) {
            *runs += u64::from(*count > 0);
            *times += u64::from(*count);
        }
    }

    /// Adds what another part of the sweep met.
    pub fn merge(&mut self, other: &Rates) {
        self.runs += other.runs;
        for ((runs, times), (more_runs, more_times)) in self.met.iter_mut().zip(&other.met) {
            *runs += more_runs;
            *times += more_times;
        }
    }

    /// Each point with the runs that met it and how often they did, rarest first.
    pub fn rarest_first(&self) -> Vec<(Point, u64, u64)> {
        let met = Point::ALL.into_iter().zip(self.met);
        let mut all: Vec<_> = met
            .map(|(point, (runs, times))| (point, runs, times))
            .collect();
        all.sort_by_key(|(_, runs, times)| (*runs, *times));
        all
    }

    /// Points that a full sweep should have met and did not.
    pub fn never_met(&self) -> Vec<Point> {
        if self.runs < FULL_SWEEP {
            return Vec::new();
        }
        let all = self.rarest_first().into_iter();
        all.filter(|(_, runs, _)| *runs == 0)
            .map(|(point, ..)| point)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_a_full_sweep_without_a_point_says_so() {
        let names: BTreeSet<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        let mut rates = Rates::default();
        let mut counts = [1; Point::ALL.len()];
        counts[Point::Drained as usize] = 0;
        for _ in 1..FULL_SWEEP {
            rates.add(&counts);
        }
        assert!(rates.never_met().is_empty(), "too few runs to tell");
        rates.add(&counts);
        assert_eq!(rates.never_met(), vec![Point::Drained]);
        assert_eq!(rates.rarest_first()[0].0, Point::Drained);
    }
}
