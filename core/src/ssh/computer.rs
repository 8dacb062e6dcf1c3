//! One computer: its one link, opened for who waits and closed when nobody has
//! used it for long, and what it does after a failure (S4).
//!
//! ```text
//! Closed -> Connecting -> Open -> Closed (idle)
//!               |           `-> Waiting | Quarantined
//!               `-> Waiting (1 s, 2 s, ...) -> Closed
//!               `-> Quarantined (5 min) -> Closed, on probation
//! ```

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::Voice;
use super::job::{Call, Job, Stage, quoted};
use super::link::{Link, Open, Pause};
use crate::computer::{ComputerState, SshFault, SshFaultKind};
use crate::ids::{CommandId, ComputerId, EffectId};
use crate::io::{Answer, Effect};
use crate::kit::{Ctx, Flight, Kit, Wake};
use crate::time::Instant;

/// The driver keeps the deadlines of a connection and has the better words for
/// them; the core's own is for a driver that does not answer.
const GRACE_MS: u64 = 1_000;
/// Clients that may wait for one computer's test.
const MOST_TESTS: usize = 64;

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Computer {
    pub(super) id: ComputerId,
    pub(super) link: Link,
    /// By the name that their turns know, which is in the order of asking.
    pub(super) jobs: BTreeMap<EffectId, Job>,
    /// Commands to be killed over the next link.
    pub(super) debts: VecDeque<Call>,
    tests: BTreeSet<CommandId>,
    /// Recent ones.
    failures: VecDeque<Instant>,
    pub(super) fault: Option<SshFault>,
    /// After a quarantine: one more failure costs another one.
    on_probation: bool,
    /// What the driver was last told.
    shown: Option<ComputerState>,
}

impl Computer {
    pub(super) fn new(id: ComputerId) -> Computer {
        Computer {
            id,
            link: Link::Closed,
            jobs: BTreeMap::new(),
            debts: VecDeque::new(),
            tests: BTreeSet::new(),
            failures: VecDeque::new(),
            fault: None,
            on_probation: false,
            shown: None,
        }
    }

    /// Nothing is lost with it.
    pub(super) fn is_forgettable(&self) -> bool {
        self.link == Link::Closed
            && self.jobs.is_empty()
            && self.debts.is_empty()
            && self.tests.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        1 + self.jobs.len() + self.debts.len() + self.tests.len()
    }

    fn wake(&self) -> Wake {
        Wake::LinkDue(self.id.clone())
    }

    /// After whatever has moved it: goes on as far as it can.
    pub(super) fn settle(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice) {
        if let Link::Quarantined(pause) = self.link {
            let why = self.quarantined(pause, ctx.now.mono);
            self.refuse_waiting(ctx, voice, &why);
        }
        let is_wanted = !self.tests.is_empty() || self.jobs.values().any(Job::wants_link);
        if self.link == Link::Closed && is_wanted {
            self.connect(ctx);
        }
        self.serve(ctx);
        self.look_around(ctx);
        self.arm(ctx);
        self.show(ctx);
    }

    fn connect(&mut self, ctx: &mut Ctx<'_>) {
        let id = ctx.kit.register(Flight::Link(self.id.clone()));
        let (connect_ms, handshake_ms) = (
            ctx.config.deadlines.connect_ms,
            ctx.config.deadlines.handshake_ms,
        );
        let patience_ms = match crate::planted!("D52") {
            true => u64::MAX,
            false => connect_ms + handshake_ms + GRACE_MS,
        };
        let due = ctx.now.mono + patience_ms;
        self.link = Link::Connecting { id, due };
        ctx.kit.emit(Effect::ConnectComputer {
            id,
            computer: self.id.clone(),
            connect_ms,
            handshake_ms,
        });
    }

    /// The connection is there.
    pub(super) fn up(&mut self, ctx: &mut Ctx<'_>, id: EffectId) {
        let Link::Connecting { id: wanted, .. } = self.link else {
            return;
        };
        if wanted != id {
            return;
        }
        let now = ctx.now.mono;
        self.link = Link::Open(Open {
            id,
            used_at: now,
            ping_due: now + ctx.config.ssh.keepalive_ms,
            alive_due: None,
            look_due: now,
        });
        self.on_probation = false;
        self.answer_tests(ctx, &Ok(()));
    }

    /// It has answered the question whether it is.
    pub(super) fn alive(&mut self, ctx: &mut Ctx<'_>) {
        if let Link::Open(open) = &mut self.link {
            open.alive_due = None;
            open.ping_due = ctx.now.mono + ctx.config.ssh.keepalive_ms;
            self.answer_tests(ctx, &Ok(()));
        }
    }

    /// Something of the link is due.
    pub(super) fn due(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice) {
        let (now, ssh) = (ctx.now.mono, ctx.config.ssh);
        match &mut self.link {
            Link::Closed => {}
            Link::Connecting { due, .. } => {
                if *due <= now {
                    self.give_up_link(ctx, voice, "it has not let us in");
                }
            }
            Link::Waiting(pause) if pause.until <= now => self.link = Link::Closed,
            Link::Quarantined(pause) if pause.until <= now => {
                self.link = Link::Closed;
                self.on_probation = true;
            }
            Link::Waiting(_) | Link::Quarantined(_) => {}
            Link::Open(open) => {
                let is_idle = self.jobs.is_empty() && open.used_at + ssh.idle_ms <= now;
                if open.alive_due.is_some_and(|due| due <= now) {
                    self.give_up_link(ctx, voice, "it has not answered a keepalive");
                } else if is_idle {
                    self.close(ctx);
                } else if open.ping_due <= now {
                    ping(ctx, open);
                }
            }
        }
    }

    /// A link of which nothing more is expected. It must not linger beside the next one.
    pub(super) fn give_up_link(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice, why: &str) {
        if let Some(id) = self.link.id()
            && !crate::planted!("D54")
        {
            ctx.kit.emit(Effect::CloseComputer { id });
        }
        let fault = SshFault {
            kind: SshFaultKind::Timeout,
            message: alloc::format!(
                "{}: {why} in time; see that it is up and not overloaded",
                quoted(&self.id)
            ),
        };
        self.failed(ctx, voice, fault);
    }

    /// The link is gone, or did not come. It costs nobody more than the link.
    pub(super) fn failed(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice, fault: SshFault) {
        assert!(
            !(crate::planted!("D01") && self.jobs.is_empty() && matches!(self.link, Link::Open(_))),
            "an idle link has no failures"
        );
        let message = alloc::format!(
            "{} ({}): {} [{}]",
            quoted(&self.id),
            self.link.name(),
            fault.message,
            fault.kind.code()
        );
        ctx.kit.trace("computer-failed", message);
        self.drop_link(ctx.kit);
        self.link = self.pause(ctx);
        self.lose_attempts(ctx, voice);
        if fault.kind.is_final() {
            let why = alloc::format!("{} cannot be used: {}", quoted(&self.id), fault.message);
            self.refuse_waiting(ctx, voice, &why);
        }
        self.answer_tests(ctx, &Err(fault.clone()));
        self.fault = Some(fault);
    }

    /// How long nothing is tried after this failure.
    fn pause(&mut self, ctx: &mut Ctx<'_>) -> Link {
        let (now, ssh) = (ctx.now, ctx.config.ssh);
        self.failures.push_back(now.mono);
        self.forget_failures(ctx);
        let count = u32::try_from(self.failures.len()).unwrap_or(u32::MAX);
        let pause = |ms: u64| Pause {
            until: now.mono + ms,
            wall: now.wall + ms,
        };
        if crate::planted!("D53") {
            return Link::Waiting(pause(ssh.backoff_ms));
        }
        if self.on_probation || count >= ssh.flaps {
            self.failures.clear();
            return Link::Quarantined(pause(ssh.quarantine_ms));
        }
        let doubled = ssh.backoff_ms << (count - 1).min(16);
        let half_ms = doubled.min(ssh.backoff_max_ms) / 2;
        Link::Waiting(pause(half_ms + ctx.kit.random_below(half_ms + 1)))
    }

    fn forget_failures(&mut self, ctx: &Ctx<'_>) {
        let (now, window_ms) = (ctx.now.mono, ctx.config.ssh.flap_window_ms);
        self.failures
            .retain(|failed_at| now.since_ms(*failed_at) <= window_ms);
    }

    fn quarantined(&self, pause: Pause, now: Instant) -> String {
        let fault = self.fault.as_ref();
        alloc::format!(
            "{} has failed too often and is left alone for another {} s; the last time: {}",
            quoted(&self.id),
            pause.until.since_ms(now).div_ceil(1_000),
            fault.map_or("no cause was told", |fault| &fault.message)
        )
    }

    /// Nobody has used it for long, or the server goes.
    pub(super) fn close(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(id) = self.link.id() {
            ctx.kit.emit(Effect::CloseComputer { id });
        }
        self.drop_link(ctx.kit);
        self.link = Link::Closed;
    }

    /// Late words of it find nobody.
    fn drop_link(&mut self, kit: &mut Kit) {
        if let Some(id) = self.link.id() {
            kit.flights.remove(&id);
        }
        self.drop_look(kit);
    }

    /// Somebody wants to know whether it can be reached: a pause is cut short,
    /// because people ask when they have mended something.
    pub(super) fn test(&mut self, ctx: &mut Ctx<'_>, id: CommandId) {
        if self.tests.len() >= MOST_TESTS {
            let answer = Answer::Unconfirmed;
            return ctx.kit.emit(Effect::Answer { id, answer });
        }
        self.tests.insert(id);
        let due = ctx.now.mono + ctx.config.ssh.test_ms;
        let wake = Wake::TestDue(self.id.clone(), id);
        ctx.kit.timers.arm(wake, due);
        match &mut self.link {
            Link::Closed | Link::Connecting { .. } => {}
            Link::Waiting(_) => self.link = Link::Closed,
            Link::Quarantined(_) => {
                self.link = Link::Closed;
                self.on_probation = true;
            }
            Link::Open(open) if open.alive_due.is_none() => ping(ctx, open),
            Link::Open(_) => {}
        }
    }

    pub(super) fn test_due(&mut self, ctx: &mut Ctx<'_>, id: CommandId) {
        if self.tests.remove(&id) {
            let fault = SshFault {
                kind: SshFaultKind::Timeout,
                message: alloc::format!("{} has not answered in time", quoted(&self.id)),
            };
            let answer = Answer::Tested(Err(fault));
            ctx.kit.emit(Effect::Answer { id, answer });
        }
    }

    fn answer_tests(&mut self, ctx: &mut Ctx<'_>, outcome: &Result<(), SshFault>) {
        for id in core::mem::take(&mut self.tests) {
            let wake = Wake::TestDue(self.id.clone(), id);
            ctx.kit.timers.disarm(&wake);
            let answer = Answer::Tested(outcome.clone());
            ctx.kit.emit(Effect::Answer { id, answer });
        }
    }

    /// The server goes: nothing is waited for any more.
    pub(super) fn shut_down(&mut self, ctx: &mut Ctx<'_>) {
        let tools: Vec<EffectId> = self.jobs.keys().copied().collect();
        for tool in tools {
            self.left(ctx, tool);
        }
        for id in core::mem::take(&mut self.tests) {
            let wake = Wake::TestDue(self.id.clone(), id);
            ctx.kit.timers.disarm(&wake);
            let answer = Answer::ShuttingDown;
            ctx.kit.emit(Effect::Answer { id, answer });
        }
        self.close(ctx);
        self.arm(ctx);
        self.show(ctx);
    }

    /// One timer for all that is due of the link.
    fn arm(&mut self, ctx: &mut Ctx<'_>) {
        self.forget_failures(ctx);
        let wake = self.wake();
        match self.link_due(ctx.config.ssh.idle_ms) {
            Some(due) => ctx.kit.timers.arm(wake, due),
            None => ctx.kit.timers.disarm(&wake),
        }
    }

    fn link_due(&self, idle_ms: u64) -> Option<Instant> {
        let idle_ms = self.jobs.is_empty().then_some(idle_ms);
        self.link.due(idle_ms)
    }

    fn show(&mut self, ctx: &mut Ctx<'_>) {
        let runs = self.jobs.values();
        let runs = runs.filter(|job| job.stage != Stage::Waiting).count();
        let state = ComputerState {
            link: self.link.state(),
            fault: self.fault.clone(),
            runs: u32::try_from(runs).unwrap_or(u32::MAX),
        };
        if self.shown.as_ref() != Some(&state) {
            self.shown = Some(state.clone());
            ctx.kit.emit(Effect::ComputerChanged {
                computer: self.id.clone(),
                state: Box::new(state),
            });
        }
    }

    /// Whatever it waits for must be able to come.
    pub(super) fn check(&self, kit: &Kit) -> Result<(), &'static str> {
        let is_mine = |flight: &Flight| *flight == Flight::Link(self.id.clone());
        let links = kit.flights.iter().filter(|(_, flight)| is_mine(flight));
        let links = links.map(|(id, _)| *id);
        if !links.eq(self.link.id()) {
            return Err("a computer with more links than one, or one that nobody knows");
        }
        let due = self.link_due(u64::MAX);
        if due.is_some() != kit.timers.is_armed(&self.wake()) {
            return Err("a link without a timer, or a timer without a link");
        }
        for id in &self.tests {
            let wake = Wake::TestDue(self.id.clone(), *id);
            if !kit.timers.is_armed(&wake) {
                return Err("a test of a computer without a deadline");
            }
        }
        self.check_jobs(kit)
    }
}

fn ping(ctx: &mut Ctx<'_>, open: &mut Open) {
    let now = ctx.now.mono;
    open.alive_due = Some(now + ctx.config.ssh.alive_ms);
    open.ping_due = now + ctx.config.ssh.keepalive_ms + ctx.config.ssh.alive_ms;
    ctx.kit.emit(Effect::PingComputer { id: open.id });
}
