//! Replies of a store that lies: those of other verbs and other times, and
//! short ones that mean something to every verb.

use arbitrary::{Result, Unstructured};
use dispatch_core::admission::{AdmissionView, Gate, Head, WaiterKey};
use dispatch_core::ids::{Epoch, TurnId};
use dispatch_core::store::{
    AbortRequest, CallRow, CallState, Fence, Granted, Loaded, Rejection, Reply, TurnRow, Unreadable,
};
use dispatch_core::time::Timestamp;

use super::pick;
use super::world::World;
use crate::fuzz::draw;

pub(super) fn lie(world: &World, u: &mut Unstructured<'_>) -> Result<Reply> {
    let turn = world.known_turn(draw::turn(u)?);
    let epoch = Epoch(u64::from(u.int_in_range(0..=9u8)?));
    let fence = Fence { turn, epoch };
    Ok(match u.int_in_range(0..=15)? {
        0..=3 => match world.replies.get(pick(u, world.replies.len())?) {
            Some((_, reply)) => reply.clone(),
            None => Reply::Fenced,
        },
        4 => Reply::Fenced,
        5 => Reply::Conflict,
        6 => Reply::NotFound,
        7 => Reply::Landed { events: Vec::new() },
        8 => Reply::Granted(vec![Granted {
            turn,
            conversation: draw::conversation(u)?,
            epoch,
        }]),
        9 => Reply::Renewed(draw::several(u, 2, |_| Ok(fence))?),
        10 => Reply::Requests {
            aborts: vec![(
                turn,
                AbortRequest {
                    by: draw::text(u)?,
                    reason: None,
                    at: Timestamp(0),
                },
            )],
            lost: draw::several(u, 1, |_| Ok(fence))?,
        },
        11 => Reply::Swept(None),
        12 => Reply::Ended {
            events: draw::several(u, 2, draw::event)?,
            terminal: Box::new(draw::event(u)?),
        },
        13 => match u.arbitrary()? {
            true => Reply::Rejected(Rejection::TooManyOpenTurns(0)),
            false => Reply::View(view(u, turn, epoch)?),
        },
        14 => Reply::Booted {
            events: draw::several(u, 2, draw::event)?,
            taken_over: 1,
            orphaned: vec![draw::provider(u)?],
        },
        _ => match world.model.turns.get(&turn) {
            None => Reply::AbortRequested {
                turn,
                conversation: draw::conversation(u)?,
                node: draw::text(u)?.into(),
            },
            Some(row) => Reply::Loaded(Box::new(Loaded {
                turn: damaged(u, row.clone())?,
                items: match u.ratio(1, 16)? {
                    true => Err(Unreadable(draw::text(u)?)),
                    false => Ok(draw::several(u, 6, draw::item)?),
                },
                calls: calls(u, fence)?,
                cwd: draw::maybe(u, draw::text)?,
                now: world.model.now,
            })),
        },
    })
}

/// A row whose numbers are whatever a damaged disk makes of them.
fn damaged(u: &mut Unstructured<'_>, mut row: TurnRow) -> Result<TurnRow> {
    if u.arbitrary()? {
        row.step = u.arbitrary()?;
        row.items = u.arbitrary()?;
        row.resumes = u.arbitrary()?;
        row.restarts.empty = u.arbitrary()?;
        row.restarts.cut = u.arbitrary()?;
        row.retry.attempt = u.arbitrary()?;
        row.retry.sum_ms = u.arbitrary()?;
        row.retry.first_failure_at = draw::maybe(u, |u| Ok(Timestamp(u.arbitrary()?)))?;
        row.timing.model_ms = u.arbitrary()?;
        row.timing.tool_ms = u.arbitrary()?;
    }
    Ok(row)
}

fn view(u: &mut Unstructured<'_>, turn: TurnId, epoch: Epoch) -> Result<AdmissionView> {
    let head = |u: &mut Unstructured<'_>| {
        let key = WaiterKey {
            unstarred: u.arbitrary()?,
            started_at: Timestamp(u.arbitrary()?),
            seq: u.arbitrary()?,
        };
        let bound = draw::maybe(u, |u| Ok((*u.choose(&["n", "m", "o"])?).into()))?;
        Ok(Head {
            turn,
            key,
            epoch,
            bound,
        })
    };
    Ok(AdmissionView {
        version: u.arbitrary()?,
        now: Timestamp(u.arbitrary()?),
        limit: u.arbitrary()?,
        streaming: u.arbitrary()?,
        cooling: draw::several(u, 2, |u| Ok(Timestamp(u.arbitrary()?)))?,
        cooldown_ms: u.arbitrary()?,
        gate: Gate::Open,
        fair: u.arbitrary()?,
        starred: draw::several(u, 2, head)?,
        unstarred: draw::several(u, 2, head)?,
        live: vec!["n".into(), "m".into()],
        next_due: draw::maybe(u, |u| Ok(Timestamp(u.arbitrary()?)))?,
    })
}

fn calls(u: &mut Unstructured<'_>, fence: Fence) -> Result<Vec<CallRow>> {
    let mut places = 0..;
    draw::several(u, 3, |u| {
        let call = draw::tool_call(u)?;
        Ok(CallRow {
            turn: fence.turn,
            step: 0,
            n: places.next().unwrap_or(0),
            call_id: call.call_id,
            name: call.name,
            input: call.input,
            state: *u.choose(&[
                CallState::Asked,
                CallState::Started(fence.epoch),
                CallState::Finished,
            ])?,
        })
    })
}
