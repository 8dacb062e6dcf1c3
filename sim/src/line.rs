//! The line as the rows have it, for the looks that oracles are told of.

use dispatch_core::ids::TurnId;
use dispatch_core::store::{Model, ProviderRow, TurnRow, TurnState};

/// Who is first in line where a slot is free, of each provider. `open` are the
/// turns without a terminal event.
pub(crate) fn first_idle<'m>(
    model: &'m Model,
    open: impl Iterator<Item = &'m TurnRow> + Clone,
) -> Vec<TurnId> {
    let first = |provider: &ProviderRow| {
        let here = open.clone().filter(|row| row.provider == provider.id);
        let (mut streaming, mut first) = (0, None::<&TurnRow>);
        for row in here {
            match row.state {
                TurnState::Streaming => streaming += 1,
                TurnState::Parked if row.due_at <= model.now => {
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
