//! Workspaces, stars and limits: each change re-orders what waits in the same
//! transaction (A1, A3, C3).

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::accept::new_workspace;
use super::rows::{TurnRow, TurnState};
use super::tx::Tx;
use super::verb::Reply;
use crate::ids::{ComputerId, ProviderId, Slug};

pub(super) fn put<T: Tx>(
    tx: &mut T,
    slug: &Slug,
    title: Option<&str>,
    cwd: Option<&str>,
    computer: Option<&ComputerId>,
) -> Result<Reply, T::Error> {
    let mut row = match tx.workspace(slug)? {
        Some(row) => row,
        None => new_workspace(slug, tx.now()),
    };
    if let Some(title) = title {
        row.title = Some(title.to_owned());
    }
    if let Some(cwd) = cwd {
        row.cwd = Some(cwd.to_owned());
    }
    if let Some(computer) = computer {
        row.computer = Some(computer.clone());
    }
    tx.put_workspace(&row)?;
    Ok(Reply::Workspace(row))
}

pub(super) fn star<T: Tx>(tx: &mut T, slug: &Slug, starred: bool) -> Result<Reply, T::Error> {
    let Some(mut row) = tx.workspace(slug)? else {
        return Ok(Reply::NotFound);
    };
    if row.starred == starred {
        return Ok(Reply::Workspace(row));
    }
    // Providers before turns, here as in a grant: whoever locks, locks in that order.
    let mut providers = BTreeMap::new();
    for id in tx.providers()? {
        if let Some(provider) = tx.provider(&id)? {
            providers.insert(id, provider);
        }
    }
    let mut lines: BTreeSet<ProviderId> = BTreeSet::new();
    let open = tx.open_turns_in(slug)?;
    tx.foresee(&open)?;
    for turn in open {
        let is_open = |row: &TurnRow| row.state != TurnState::Ended;
        let Some(mut turn) = tx.turn(turn)?.filter(is_open) else {
            continue;
        };
        if !crate::planted!("D05") {
            turn.key.unstarred = !starred;
            tx.put_turn(&turn)?;
        }
        lines.insert(turn.provider);
    }
    for line in lines {
        if let Some(mut provider) = providers.remove(&line) {
            provider.version += 1;
            tx.put_provider(&provider)?;
        }
    }
    row.starred = starred;
    tx.put_workspace(&row)?;
    Ok(Reply::Workspace(row))
}

pub(super) fn set_limit<T: Tx>(
    tx: &mut T,
    provider: &ProviderId,
    limit: u32,
) -> Result<Reply, T::Error> {
    let Some(mut row) = tx.provider(provider)? else {
        return Ok(Reply::NotFound);
    };
    if row.limit != limit {
        row.limit = limit;
        row.version += 1;
        tx.put_provider(&row)?;
    }
    Ok(Reply::Landed { events: Vec::new() })
}
