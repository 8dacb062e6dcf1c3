//! Links from processes to computers, as a host has them: opened, asked whether
//! they are alive, lost, and what is said over them.

use dispatch_core::computer::{SshFault, SshFaultKind};
use dispatch_core::ids::{ComputerId, EffectId};
use dispatch_core::io::Input;

use super::far::{Far, Op};
use super::process::Process;
use super::{Event, World};
use crate::clock::Us;
use crate::fact::Fact;
use crate::scenario::{SECOND, Trouble};
use crate::sometimes::Point;

/// One link of a process.
pub(crate) struct Link {
    pub(super) computer: usize,
    is_open: bool,
    /// When what was sent last arrives: nothing overtakes it.
    arrives_at: Us,
}

/// One end of a link that lives in a certain process.
#[derive(Clone, Copy)]
pub(crate) struct LinkEnd {
    pub(super) replica: usize,
    pub(super) life: u32,
    pub(super) link: EffectId,
}

/// What happens to a link.
#[derive(Clone, Copy)]
pub(crate) enum Turn {
    /// It is let in, or not; given up at that moment.
    Tried(Us),
    /// Its connecting has taken too long.
    TimedOut,
    /// It breaks.
    Cut,
}

/// Something said over a link.
pub(crate) struct Said {
    pub(super) over: LinkEnd,
    pub(super) input: Input,
}

impl World<'_> {
    fn link(&self, end: LinkEnd) -> Option<&Link> {
        let place = &self.replicas[end.replica];
        let process = place.process.as_ref().filter(|_| place.life == end.life)?;
        process.links.get(&end.link)
    }

    pub(super) fn is_linked(&self, end: LinkEnd) -> bool {
        self.link(end).is_some_and(|link| link.is_open)
    }

    fn process_at(&mut self, end: LinkEnd) -> Option<&mut Process> {
        let place = &mut self.replicas[end.replica];
        place.process.as_mut().filter(|_| place.life == end.life)
    }

    fn end_of(&self, replica: usize, link: EffectId) -> LinkEnd {
        let life = self.replicas[replica].life;
        LinkEnd {
            replica,
            life,
            link,
        }
    }

    pub(super) fn connect(
        &mut self,
        replica: usize,
        link: EffectId,
        computer: &ComputerId,
        patience_ms: u64,
    ) {
        let Some(n) = self.computers.find(computer) else {
            return;
        };
        self.tell(&Fact::LinkWished {
            replica,
            computer,
            link,
        });
        let end = self.end_of(replica, link);
        if let Some(process) = self.process_at(end) {
            let fresh = Link {
                computer: n,
                is_open: false,
                arrives_at: 0,
            };
            process.links.insert(link, fresh);
        }
        let after = self.dice.network().spread(5_000, 3 * SECOND);
        let give_up_at = self.at + patience_ms * 1_000;
        self.queue_in(after, Event::Link(end, Turn::Tried(give_up_at)));
    }

    pub(super) fn link_turns(&mut self, end: LinkEnd, turn: Turn) {
        let Some(link) = self.link(end) else { return };
        let computer = link.computer;
        match turn {
            Turn::Tried(give_up_at) => self.let_in(end, computer, give_up_at),
            Turn::TimedOut => {
                self.court.sometimes.hit(Point::LinkTimedOut);
                self.lose_link(end, SshFaultKind::Timeout, "no answer in time");
            }
            Turn::Cut => {
                let until = self.at;
                self.tell_trouble(computer, until);
                self.lose_link(end, SshFaultKind::Lost, "reset by peer");
            }
        }
    }

    fn let_in(&mut self, end: LinkEnd, computer: usize, give_up_at: Us) {
        let trouble = self.computers.trouble(computer, self.at);
        let fault = match trouble {
            None | Some(Trouble::Cut | Trouble::Stalls) => return self.open(end, false),
            Some(Trouble::Flaps) => return self.open(end, true),
            Some(Trouble::Silent | Trouble::Vanishes) => {
                let event = Event::Link(end, Turn::TimedOut);
                return self.queue_at(give_up_at.max(self.at), event);
            }
            Some(Trouble::Hangs) => return,
            Some(Trouble::Breaks) => return self.break_effect(end, end.link),
            Some(Trouble::Refuses | Trouble::Reboots) => SshFaultKind::Unreachable,
            Some(Trouble::Rejects) => SshFaultKind::Auth,
            Some(Trouble::OtherKey) => SshFaultKind::HostKey,
            Some(Trouble::NoFiles) => SshFaultKind::SftpOff,
        };
        self.lose_link(end, fault, "not let in");
    }

    fn open(&mut self, end: LinkEnd, breaks_soon: bool) {
        if let Some(link) = self
            .process_at(end)
            .and_then(|process| process.links.get_mut(&end.link))
        {
            link.is_open = true;
        }
        let up = Input::ComputerUp { id: end.link };
        self.send(0, end.replica, end.life, up);
        if breaks_soon {
            let after = self.dice.network().spread(10_000, 30 * SECOND);
            self.queue_in(after, Event::Link(end, Turn::Cut));
        }
    }

    /// The code that carries out an effect panics; the command that it was
    /// about, if any, goes on.
    pub(super) fn break_effect(&mut self, end: LinkEnd, id: EffectId) {
        if let Some(process) = self.process_at(end) {
            process.attempts.remove(&id);
        }
        let (message, cause) = ("a panic".to_owned(), "no file transfer".to_owned());
        let is_link = id == end.link;
        let told = match is_link || self.dice.network().chance(5_000) {
            true => Input::EffectPanicked { id, message },
            false => Input::ToolLost { id, cause },
        };
        self.send(0, end.replica, end.life, told);
    }

    fn lose_link(&mut self, end: LinkEnd, kind: SshFaultKind, message: &str) {
        if self.forget_link(end) {
            self.court.sometimes.hit(Point::LinkLostUnderCommand);
        }
        let fault = SshFault::new(kind, message);
        let down = Input::ComputerDown {
            id: end.link,
            fault,
        };
        let after = self.dice.network().spread(500, 20_000);
        if self.scenario.lingers && self.dice.network().chance(2_000) {
            self.court.sometimes.hit(Point::AfterTheEnd);
            self.send(2 * after, end.replica, end.life, down.clone());
        }
        self.send(after, end.replica, end.life, down);
    }

    /// Nothing more is heard of it; whether something was watched over it.
    fn forget_link(&mut self, end: LinkEnd) -> bool {
        let Some(process) = self.process_at(end) else {
            return false;
        };
        process.links.remove(&end.link);
        let before = process.attempts.len();
        process.attempts.retain(|_, over| *over != end.link);
        process.attempts.len() < before
    }

    pub(super) fn close_link(&mut self, replica: usize, link: EffectId) {
        let end = self.end_of(replica, link);
        self.forget_link(end);
        self.tell(&Fact::LinkGone { replica, link });
    }

    /// Every link to a computer is reset.
    pub(super) fn cut_links(&mut self, computer: usize) {
        for replica in 0..self.replicas.len() {
            let process = self.replicas[replica].process.as_ref();
            let links = process.into_iter().flat_map(|process| &process.links);
            let links = links.filter(|(_, link)| link.computer == computer);
            let links: Vec<EffectId> = links.map(|(id, _)| *id).collect();
            for link in links {
                let end = self.end_of(replica, link);
                self.lose_link(end, SshFaultKind::Lost, "reset by peer");
            }
        }
    }

    /// What the core is about to be told of its links.
    pub(super) fn tell_of_links(&mut self, replica: usize, input: &Input) {
        match input {
            Input::ComputerUp { id } => self.tell(&Fact::LinkUp { replica, link: *id }),
            Input::ComputerDown { id, .. } => self.tell(&Fact::LinkGone { replica, link: *id }),
            _ => {}
        }
    }

    /// Sends something to be done over there, if there is a link.
    pub(super) fn send_over(&mut self, replica: usize, link: EffectId, op: Op) {
        let end = self.end_of(replica, link);
        if !self.is_linked(end) {
            return;
        }
        let soonest = self.at + self.dice.network().spread(1_000, 400_000);
        let Some(process) = self.process_at(end) else {
            return;
        };
        let Some(link) = process.links.get_mut(&end.link) else {
            return;
        };
        let arrives_at = soonest.max(link.arrives_at);
        link.arrives_at = arrives_at;
        let computer = link.computer;
        if let Some(id) = op.attempt() {
            process.attempts.insert(id, end.link);
        }
        let breaks = self.computers.trouble(computer, self.at) == Some(Trouble::Breaks);
        if let Some(id) = op.attempt().filter(|_| breaks)
            && self.dice.network().chance(5_000)
        {
            self.break_effect(end, id);
        }
        let far = Far {
            over: end,
            computer,
            op,
        };
        self.queue_at(arrives_at, Event::Far(Box::new(far)));
    }

    /// Says something back over a link.
    pub(super) fn say(&mut self, over: LinkEnd, after: Us, input: Input) {
        let said = Said { over, input };
        self.queue_in(after, Event::Said(Box::new(said)));
    }

    pub(super) fn said(&mut self, said: Said) {
        let Said { over, input } = said;
        let Some(link) = self.link(over) else {
            // Whether a host keeps late words to itself must not matter.
            if self.scenario.lingers && self.dice.network().chance(3_000) {
                self.court.sometimes.hit(Point::AfterTheEnd);
                self.deliver(over.replica, over.life, input);
            }
            return;
        };
        let computer = link.computer;
        if let Some(until) = self.computers.is_silent_until(computer, self.at) {
            return self.queue_at(until, Event::Said(Box::new(Said { over, input })));
        }
        let attempt = match &input {
            Input::ToolOutput { id, .. }
            | Input::ToolDone { id, .. }
            | Input::Adopted { id, .. } => Some(*id),
            _ => None,
        };
        let is_over = matches!(input, Input::ToolDone { .. });
        if let (Some(id), Some(process)) = (attempt, self.process_at(over)) {
            if process.attempts.get(&id) != Some(&over.link) {
                return;
            }
            if is_over {
                process.attempts.remove(&id);
            }
        }
        self.deliver(over.replica, over.life, input);
    }
}
