//! The line as the rows have it, for the looks that oracles are told of.

use dispatch_core::ids::TurnId;
use dispatch_core::store::{Model, ProviderRow, TurnRow, TurnState};

/// The documented lease, and so how long a silent replica counts as live.
const LEASE_MS: u64 = 60_000;

/// Who is first in line where a slot is free, of each provider. `open` are the
/// turns without a terminal event.
pub(crate) fn first_idle<'m>(
    model: &'m Model,
    open: impl Iterator<Item = &'m TurnRow> + Clone,
) -> Vec<TurnId> {
    // One whose node is away overtakes nobody and is overtaken.
    let can_go = |row: &TurnRow| {
        let home = row.bound.as_ref().and_then(|node| model.replicas.get(node));
        row.bound.is_none() || home.is_some_and(|home| home.is_live(model.now, LEASE_MS))
    };
    let first = |provider: &ProviderRow| {
        let here = open.clone().filter(|row| row.provider == provider.id);
        let (mut streaming, mut first) = (0, None::<&TurnRow>);
        for row in here {
            match row.state {
                TurnState::Streaming => streaming += 1,
                TurnState::Parked if row.due_at <= model.now && can_go(row) => {
                    first = first.filter(|first| first.key < row.key).or(Some(row));
                }
                TurnState::Parked | TurnState::Blocked | TurnState::Tools | TurnState::Ended => {}
            }
        }
        first
            .filter(|_| streaming < provider.limit)
            .map(|row| row.turn)
    };
    model.providers.values().filter_map(first).collect()
}
