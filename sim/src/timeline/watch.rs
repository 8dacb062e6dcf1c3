//! What looks on at a run.

use std::cell::RefCell;
use std::rc::Rc;

use dispatch_core::Wake;
use dispatch_core::ids::EffectId;
use dispatch_core::io::{Effect, Input};
use dispatch_core::time::Now;

use crate::clock::Us;
use crate::fact::Fact;
use crate::scenario::{Act, Chaos};

/// Is told of all that happens in a run, and can change none of it.
pub(crate) trait Watch {
    /// A Dispatcher is about to be told something; `wake` is why it wanted to
    /// be woken, if that is due.
    fn input(&mut self, at: Us, replica: usize, now: Now, input: &Input, wake: Option<&Wake>);
    /// A Dispatcher wants something done.
    fn effect(&mut self, at: Us, replica: usize, effect: &Effect);
    /// What oracles are told.
    fn fact(&mut self, at: Us, fact: &Fact<'_>);
    /// What oracles are not told.
    fn note(&mut self, at: Us, note: &Note<'_>);
}

/// What only the simulated world knows and no oracle needs.
#[derive(Debug)]
pub(crate) enum Note<'a> {
    /// Something breaks; it lasts until this moment, where it lasts.
    Chaos(&'a Chaos, Us),
    /// A client does something.
    Act(&'a Act),
    /// A verb of this life of this replica reaches the store.
    Landing(usize, u32, EffectId),
    /// The network or the store does this to a verb of this replica.
    Fate(usize, EffectId, &'a dyn std::fmt::Debug),
    /// The storm is over.
    Calm,
}

impl<W: Watch> Watch for Rc<RefCell<W>> {
    fn input(&mut self, at: Us, replica: usize, now: Now, input: &Input, wake: Option<&Wake>) {
        self.borrow_mut().input(at, replica, now, input, wake);
    }
    fn effect(&mut self, at: Us, replica: usize, effect: &Effect) {
        self.borrow_mut().effect(at, replica, effect);
    }
    fn fact(&mut self, at: Us, fact: &Fact<'_>) {
        self.borrow_mut().fact(at, fact);
    }
    fn note(&mut self, at: Us, note: &Note<'_>) {
        self.borrow_mut().note(at, note);
    }
}
