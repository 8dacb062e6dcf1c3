//! Whatever happens in whatever order: the pool's promises hold.

use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::words::computer;
use super::world::{Asked, World};
use crate::computer::SshFaultKind;
use crate::ids::EffectId;
use crate::io::Effect;

#[derive(Clone, Debug)]
enum Op {
    Start {
        far: bool,
        tool: u8,
    },
    Adopt {
        far: bool,
        runs: bool,
    },
    Kill(usize),
    Leave {
        which: usize,
        gives_up: bool,
    },
    Test {
        far: bool,
    },
    /// What is pending is done and answered,
    Obey(usize),
    /// or done, and its answer lost,
    Mute(usize),
    /// or never done.
    Ignore(usize),
    Down {
        far: bool,
        kind: u8,
    },
    Late(usize),
    Ends(usize),
    TurnEnds(usize),
    Panics(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (any::<bool>(), 0u8..4).prop_map(|(far, tool)| Op::Start { far, tool }),
        1 => any::<(bool, bool)>().prop_map(|(far, runs)| Op::Adopt { far, runs }),
        1 => any::<usize>().prop_map(Op::Kill),
        1 => any::<(usize, bool)>().prop_map(|(which, gives_up)| Op::Leave { which, gives_up }),
        1 => any::<bool>().prop_map(|far| Op::Test { far }),
        10 => any::<usize>().prop_map(Op::Obey),
        2 => any::<usize>().prop_map(Op::Mute),
        2 => any::<usize>().prop_map(Op::Ignore),
        2 => (any::<bool>(), 0u8..7).prop_map(|(far, kind)| Op::Down { far, kind }),
        2 => any::<usize>().prop_map(Op::Late),
        2 => any::<usize>().prop_map(Op::Ends),
        1 => any::<usize>().prop_map(Op::TurnEnds),
        1 => any::<usize>().prop_map(Op::Panics),
        4 => (0u64..40_000).prop_map(Op::Pass),
        1 => (0u64..900_000).prop_map(Op::Pass),
    ]
}

fn place(far: bool) -> crate::ids::ComputerId {
    computer(if far { "far" } else { "near" })
}

fn kind(n: u8) -> SshFaultKind {
    [
        SshFaultKind::Config,
        SshFaultKind::Unreachable,
        SshFaultKind::Timeout,
        SshFaultKind::HostKey,
        SshFaultKind::Auth,
        SshFaultKind::SftpOff,
        SshFaultKind::Lost,
    ][usize::from(n)]
}

fn pick<T: Clone>(all: &[T], n: usize) -> Option<T> {
    let at = n.checked_rem(all.len())?;
    all.get(at).cloned()
}

fn waiting(world: &World) -> Vec<EffectId> {
    let asked = world.asked.iter();
    let waiting = asked.filter(|(_, (.., asked))| *asked == Asked::Waits);
    waiting.map(|(id, _)| *id).collect()
}

fn happen(world: &mut World, op: Op, n: u64) {
    match op {
        Op::Start { far, tool } => {
            let name = ["bash", "bash", "read", "write"][usize::from(tool)];
            world.start(&place(far), name);
        }
        Op::Adopt { far, runs } => {
            world.adopt(&place(far), runs);
        }
        Op::Kill(which) => {
            if let Some(tool) = pick(&waiting(world), which) {
                world.kill(tool);
            }
        }
        Op::Leave { which, gives_up } => {
            if let Some(tool) = pick(&waiting(world), which) {
                if gives_up {
                    world.kill(tool);
                }
                world.leave(tool, gives_up);
            }
        }
        Op::Test { far } => world.test(&place(far), n),
        Op::Obey(which) => {
            if let Some(at) = which.checked_rem(world.pending.len()) {
                let effect = world.pending.remove(at);
                world.carry_out(effect);
            }
        }
        Op::Mute(which) => {
            if let Some(Effect::StartTool { start, .. }) = pick(&world.pending, which) {
                let at = start.computer.clone().unwrap();
                world.run(&at, &start);
            }
        }
        Op::Ignore(which) => {
            if let Some(at) = which.checked_rem(world.pending.len()) {
                world.pending.remove(at);
            }
        }
        Op::Down { far, kind: n } => {
            if let Some(link) = world.link(&place(far)) {
                world.down(link, kind(n));
            }
        }
        Op::Late(which) => {
            if let Some(at) = which.checked_rem(world.late.len()) {
                let (computer, start) = world.late.remove(at);
                world.run(&computer, &start);
            }
        }
        Op::Ends(n) => world.end_run(n % 64),
        Op::TurnEnds(which) => {
            let left: Vec<_> = world.runs.keys().map(|(_, dir)| dir.0).collect();
            let busy: Vec<EffectId> = waiting(world);
            // A turn that ends waits for nothing any more.
            if busy.is_empty()
                && let Some(turn) = pick(&left, which)
            {
                world.ended_turns.insert(turn);
            }
        }
        Op::Panics(which) => {
            let flights = world.kit.flights.iter();
            let attempts: Vec<_> = flights
                .filter_map(|(_, flight)| match flight {
                    crate::kit::Flight::Attempt(at, tool) => Some((at.clone(), *tool)),
                    _ => None,
                })
                .collect();
            if let Some((at, tool)) = pick(&attempts, which) {
                world.on(|pool, ctx| pool.broke(ctx, &at, tool, "it broke"));
            }
        }
        Op::Pass(ms) => world.pass(ms, false),
    }
}

/// Nothing fails any more; who still has something to be done there gets a link.
fn calm(world: &mut World) {
    for _ in 0..4 {
        world.obey();
        world.pass(800_000, true);
        for far in [false, true] {
            world.start(&place(far), "read");
            world.obey();
        }
    }
    for n in 0..64 {
        world.end_run(n);
    }
    world.pass(4_000_000, true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn s4_s5_every_call_is_answered_once_and_nothing_is_left(
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new();
        for (n, op) in (0..).zip(ops) {
            happen(&mut world, op, n);
        }
        calm(&mut world);
        prop_assert_eq!(waiting(&world), Vec::new());
        prop_assert!(world.tests.is_empty());
        prop_assert!(world.links.is_empty(), "idle links are closed");
        prop_assert_eq!(world.kit.flights.len(), 0);
        prop_assert_eq!(world.kit.timers.len(), 0);
        prop_assert!(world.pool.is_at_rest());
    }
}
