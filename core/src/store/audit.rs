//! What no verb leaves behind, and damage might: a turn that nobody can end,
//! because it has no marker, and a marker that stands for nothing (L1, L2).

use alloc::vec::Vec;

use super::rows::TurnState;
use super::tx::Tx;
use super::verb::Reply;

/// Turns that one verb puts right at most.
pub(crate) const AUDIT_AT_ONCE: usize = 256;

pub(super) fn audit<T: Tx>(tx: &mut T) -> Result<Reply, T::Error> {
    let misfits = tx.misfits(AUDIT_AT_ONCE)?;
    tx.foresee(&misfits)?;
    let (mut armed, mut taken) = (Vec::new(), Vec::new());
    for turn in misfits {
        let row = tx.turn(turn)?;
        if row.is_some_and(|row| row.state != TurnState::Ended) {
            tx.put_marker(turn)?;
            armed.push(turn);
        } else if tx.take_marker(turn)? {
            taken.push(turn);
        }
    }
    Ok(Reply::Audited { armed, taken })
}
