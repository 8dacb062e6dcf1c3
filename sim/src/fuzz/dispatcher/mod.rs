//! The machine itself (V6): a Dispatcher between the Model and whatever an
//! input makes of providers, tools, clients, clocks and the way in between.
//!
//! After every input: the invariants of `check()`, a bounded number of effects,
//! and no timer that is due and not done. At the end a calm, in which all that
//! is in flight is answered: the Dispatcher comes to rest and holds nothing of
//! past turns, every command has had one answer, every accepted turn one
//! terminal event.
//!
//! Input: a byte for whether the store may lie, two for the configuration, then
//! one operation after the other. A store that lies answers with replies to
//! other verbs, or of other times; after it only what concerns the Dispatcher
//! by itself is judged, until it has been started anew.

mod reply;
mod world;

use arbitrary::{Result, Unstructured};
use dispatch_core::config::OnCut;
use dispatch_core::io::{Command, Input};
use dispatch_core::liveness::OnCrash;
use dispatch_core::store::StoreFault;

use super::draw;
use world::{Restart, Terms, World};

const MOST_OPERATIONS: usize = 400;

/// See the module's page.
///
/// # Errors
/// Never: a storm without further bytes is over.
pub fn target(u: &mut Unstructured<'_>) -> Result<()> {
    let lies = u.arbitrary::<u8>().unwrap_or(0) % 2 == 1;
    let terms = terms(u.arbitrary().unwrap_or_default());
    let mut world = World::new(terms);
    for _ in 0..MOST_OPERATIONS {
        if u.is_empty() || operation(&mut world, u, lies).is_err() {
            break;
        }
    }
    world.calm_down();
    Ok(())
}

fn terms([a, b]: [u8; 2]) -> Terms {
    Terms {
        limit: 1 + u32::from(a % 3),
        on_crash: if a & 4 == 0 {
            OnCrash::Resume
        } else {
            OnCrash::Seal
        },
        on_cut: if a & 8 == 0 {
            OnCut::Error
        } else {
            OnCut::Restart
        },
        step_limit: u32::from((a >> 4) % 4),
        step_limit_bytes: if b & 1 == 0 { 64 * 1024 } else { 24 },
        max_open_turns: if b & 2 == 0 { 100 } else { 2 },
        seed: b,
    }
}

fn operation(world: &mut World, u: &mut Unstructured<'_>, lies: bool) -> Result<()> {
    match u.int_in_range(0..=31)? {
        0..=3 => world.tick_when_due(),
        4 => world.tick_after(u64::from(u.arbitrary::<u8>()?)),
        5 => world.tick_after(*u.choose(&[
            1_000, 10_000, 31_000, 61_000, 125_000, 620_000, 3_600_000, 32_400_000,
        ])?),
        6..=8 => {
            let mut command = draw::command(u)?;
            if let Command::Abort {
                turn: Some(turn), ..
            } = &mut command
            {
                *turn = world.known_turn(*turn);
            }
            world.command(command);
        }
        9..=14 => world.answer_verb(0),
        15 => {
            let at = pick(u, world.verbs.len())?;
            world.answer_verb(at);
        }
        16 => world.land_late(pick(u, world.delayed.len())?),
        17 => lose(world, u)?,
        18 => {
            if let Some((id, reply)) = world.replies.get(pick(u, world.replies.len())?) {
                let (id, outcome) = (*id, Ok(reply.clone()));
                world.feed(Input::Stored { id, outcome });
            }
        }
        19..=21 => stream(world, u)?,
        22 => world.answer_stream(pick(u, world.streams.len())?, u.int_in_range(0..=3)?),
        23 => tool(world, u)?,
        24 => {
            if let Some(id) = world.looks.pop() {
                let turns = world.turns();
                world.feed(Input::Unattended { id, turns });
            } else if let Some(id) = world.adopts.get(pick(u, world.adopts.len())?).copied() {
                let found = draw::found(u)?;
                world.feed(Input::Adopted { id, found });
            }
        }
        25 => {
            let id = draw::effect_id(u)?;
            let input = draw::input(u, id)?;
            world.feed(input);
        }
        26 if lies => {
            let at = pick(u, world.verbs.len())?;
            let reply = reply::lie(world, u)?;
            world.lie(at, reply);
        }
        26 | 27 => world.freeze_and_thaw(),
        28 => world.jump_wall(u.arbitrary::<i32>()?),
        29 => world.tick_before(u64::from(u.arbitrary::<u16>()?)),
        30 => match u.int_in_range(0..=3)? {
            0 => world.feed(Input::Shutdown),
            1 => world.restart(Restart::Process),
            2 => world.restart(Restart::Panic {
                seals: u.arbitrary()?,
            }),
            _ => world.feed(Input::Nudged),
        },
        _ => {
            let all = world.verbs.len();
            (0..all).for_each(|_| world.answer_verb(0));
        }
    }
    Ok(())
}

/// A place in a list; 0 in an empty one.
fn pick(u: &mut Unstructured<'_>, len: usize) -> Result<usize> {
    u.int_in_range(0..=len.saturating_sub(1).min(255))
}

/// What a network does to a verb or to its reply.
fn lose(world: &mut World, u: &mut Unstructured<'_>) -> Result<()> {
    let at = pick(u, world.verbs.len())?;
    match u.int_in_range(0..=5)? {
        0 => world.fail_verb(at, true, Some(StoreFault::Unknown)),
        1 => world.fail_verb(at, false, Some(StoreFault::Unknown)),
        2 => world.fail_verb(at, false, Some(StoreFault::Failed("disk full".to_owned()))),
        3 => world.fail_verb(at, true, None),
        4 => world.fail_verb(at, false, None),
        _ => world.delay_verb(at),
    }
    Ok(())
}

fn stream(world: &mut World, u: &mut Unstructured<'_>) -> Result<()> {
    let Some(id) = world.streams.get(pick(u, world.streams.len())?).copied() else {
        return Ok(());
    };
    let input = match u.int_in_range(0..=7)? {
        0 | 1 => {
            let (status, headers) = draw::head(u)?;
            Input::ProviderHead {
                id,
                status,
                headers,
            }
        }
        2..=5 => Input::ProviderBytes {
            id,
            bytes: draw::body(u)?,
        },
        6 => Input::ProviderEnd { id },
        _ => Input::ProviderFailed {
            id,
            kind: draw::fail_kind(u)?,
            message: draw::text(u)?,
        },
    };
    world.feed(input);
    Ok(())
}

fn tool(world: &mut World, u: &mut Unstructured<'_>) -> Result<()> {
    let Some(id) = world.tools.get(pick(u, world.tools.len())?).copied() else {
        return Ok(());
    };
    let end = draw::tool_end(u)?;
    world.feed(Input::ToolDone { id, end });
    Ok(())
}
