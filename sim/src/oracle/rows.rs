//! What must be true of the rows after every transaction. `marker` (L1): the
//! marker is armed by the transaction that accepts a turn, and taken by the one
//! that ends it. `one-owner` (L4, D29): a conversation is held by a turn
//! exactly as long as somebody runs that turn.

use dispatch_core::store::TurnState;

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
pub(crate) struct Marker;

impl Oracle for Marker {
    fn name(&self) -> &'static str {
        "marker"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        let Fact::Rows { turn, armed, .. } = fact else {
            return Ok(());
        };
        match (turn.state == TurnState::Ended, *armed) {
            (false, true) | (true, false) => Ok(()),
            (false, false) => Breach::new(
                "a turn without a terminal event has its marker",
                format!("turn {} is {:?} and has none", turn.turn, turn.state),
            ),
            (true, true) => Breach::new(
                "whoever writes the terminal event takes the marker",
                format!("that of turn {} is still armed", turn.turn),
            ),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct OneOwner;

impl Oracle for OneOwner {
    fn name(&self) -> &'static str {
        "one-owner"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        let Fact::Rows { turn, holds, .. } = fact else {
            return Ok(());
        };
        let runs = match turn.state {
            TurnState::Streaming | TurnState::Tools => true,
            TurnState::Blocked | TurnState::Parked | TurnState::Ended => false,
        };
        if runs == *holds && runs == turn.owner.is_some() {
            return Ok(());
        }
        Breach::new(
            format!(
                "turn {} is {:?}: it has an owner and holds its conversation, or neither",
                turn.turn, turn.state
            ),
            format!("owner {:?}, holds its conversation: {holds}", turn.owner),
        )
    }
}
