//! What clients read, over whatever runs the statements.

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq, TurnId};
use dispatch_core::store::{ProviderRow, ReplicaRow, TurnRow, TurnState, Tx};

use super::cells::{Cell, Fault, at, ordered};
use super::{ProviderView, ReplicaView, TurnView};

/// The look-ups of clients, beyond those that verbs need.
pub(super) trait Reads: Tx<Error = Fault> {
    /// A conversation's log after `after`, one page of it; an event that cannot
    /// be read back must not hide those around it.
    fn events_after(
        &mut self,
        id: &ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<AgentEvent>, Fault>;
    /// The rows of a conversation's turns without a terminal event, by ordinal.
    fn open_rows_of(&mut self, id: &ConversationId) -> Result<Vec<TurnRow>, Fault>;
    /// Every provider, by id.
    fn provider_rows(&mut self) -> Result<Vec<ProviderRow>, Fault>;
    /// How many of a provider's turns are parked.
    fn parked(&mut self, row: &ProviderRow) -> Result<u64, Fault>;
    /// How many parked turns of the same provider, on one side of `waiting` and
    /// of the star, were accepted before this time and sequence number.
    fn ahead(
        &mut self,
        row: &TurnRow,
        waiting: bool,
        unstarred: bool,
        before: [Cell<'static>; 2],
    ) -> Result<u64, Fault>;

    /// How many parked turns of the same provider have a smaller key (A2).
    fn ahead_of(&mut self, row: &TurnRow) -> Result<u64, Fault> {
        let mut all = 0;
        for waiting in [false, true] {
            let own = [at(row.key.started_at), ordered(row.key.seq)];
            all += self.ahead(row, waiting, row.key.unstarred, own)?;
            if row.key.unstarred {
                let every = [ordered(u64::MAX), ordered(u64::MAX)];
                all += self.ahead(row, waiting, false, every)?;
            }
        }
        Ok(all)
    }
}

pub(super) fn turn(tx: &mut impl Reads, id: TurnId) -> Result<Option<TurnView>, Fault> {
    match tx.turn(id)? {
        Some(row) => view(tx, row).map(Some),
        None => Ok(None),
    }
}

pub(super) fn open_turns_of(
    tx: &mut impl Reads,
    id: &ConversationId,
) -> Result<Vec<TurnView>, Fault> {
    let rows = tx.open_rows_of(id)?;
    rows.into_iter().map(|row| view(tx, row)).collect()
}

pub(super) fn providers(tx: &mut impl Reads) -> Result<Vec<ProviderView>, Fault> {
    let rows = tx.provider_rows()?;
    let view = |row: ProviderRow| {
        Ok(ProviderView {
            streaming: tx.streaming(&row.id)?,
            parked: tx.parked(&row)?,
            row,
        })
    };
    rows.into_iter().map(view).collect()
}

pub(super) fn replicas(tx: &mut impl Reads) -> Result<Vec<ReplicaView>, Fault> {
    let (rows, now) = (tx.replicas()?, tx.now());
    let view = |row: ReplicaRow| {
        Ok(ReplicaView {
            owned: tx.owned_by(&row.owner.node)?.len(),
            row,
            now,
        })
    };
    rows.into_iter().map(view).collect()
}

fn view(tx: &mut impl Reads, row: TurnRow) -> Result<TurnView, Fault> {
    Ok(TurnView {
        terminal: match row.state {
            TurnState::Ended => tx.terminal_event(row.turn)?,
            TurnState::Blocked | TurnState::Parked | TurnState::Streaming | TurnState::Tools => {
                None
            }
        },
        position: match row.state {
            TurnState::Parked => Some(tx.ahead_of(&row)? + 1),
            TurnState::Blocked | TurnState::Streaming | TurnState::Tools | TurnState::Ended => None,
        },
        row,
    })
}
