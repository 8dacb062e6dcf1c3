//! The pool's rules, one by one.

use alloc::vec::Vec;

use super::words::{computer, end};
use super::world::{Asked, Run, World};
use crate::computer::{LinkState, SshFaultKind};
use crate::ids::{ComputerId, EffectId};
use crate::io::{Effect, Found};
use crate::ssh::Word;

fn far() -> ComputerId {
    computer("far")
}

fn state(world: &World) -> LinkState {
    world.states[&far()].link
}

/// A world in which a command runs on the computer.
fn running() -> (World, EffectId, EffectId) {
    let mut world = World::new();
    let tool = world.start(&far(), "bash");
    world.obey();
    let link = world.link(&far()).unwrap();
    (world, tool, link)
}

fn starts(world: &World) -> Vec<u32> {
    let starts = world.pending.iter().filter_map(|effect| match effect {
        Effect::StartTool { start, .. } => Some(start.attempt),
        _ => None,
    });
    starts.collect()
}

#[test]
fn s4_a_link_is_opened_for_who_waits_and_closed_when_nobody_has_used_it_for_long() {
    let (mut world, tool, _) = running();
    assert_eq!(state(&world), LinkState::Open);
    world.end_run(0);
    assert_eq!(world.words(tool), (true, "out"));
    world.pass(899_000, true);
    assert_eq!(state(&world), LinkState::Open);
    world.pass(2_000, true);
    assert_eq!((state(&world), world.connects), (LinkState::Closed, 1));
    assert!(world.links.is_empty() && world.kit.timers.len() == 0);
}

#[test]
fn s4_many_calls_share_one_link_and_its_channels_in_the_order_of_asking() {
    let mut world = World::new();
    let tools: Vec<EffectId> = (0..20).map(|_| world.start(&far(), "bash")).collect();
    assert_eq!(world.connects, 1);
    let connect = world.pending.remove(0);
    world.carry_out(connect);
    // One channel for files, one kept for kills.
    assert_eq!(starts(&world).len(), 6);
    world.obey();
    assert_eq!(world.states[&far()].runs, 20);
    world.kill(tools[19]);
    world.obey();
    assert_eq!(world.words(tools[19]), (true, "killed"));
}

#[test]
fn s4_a_computer_that_does_not_answer_costs_a_call_its_patience_and_no_more() {
    let mut world = World::new();
    let tool = world.start(&far(), "bash");
    world.pass(59_999, false);
    assert_eq!(*world.told(tool), Asked::Waits);
    world.pass(1, false);
    let (ok, words) = world.words(tool);
    assert!(
        !ok && words.starts_with("this tool was not started: computer `far`"),
        "{words}"
    );
    assert!(words.contains("it has not let us in"), "{words}");
    assert!(world.executions.is_empty());
}

#[test]
fn s3_what_only_people_can_mend_is_told_at_once() {
    for kind in [
        SshFaultKind::HostKey,
        SshFaultKind::Auth,
        SshFaultKind::Config,
        SshFaultKind::SftpOff,
    ] {
        let mut world = World::new();
        let tool = world.start(&far(), "bash");
        let link = world.link(&far()).unwrap();
        world.down(link, kind);
        let (ok, words) = world.words(tool);
        assert!(!ok && words.contains("it broke"), "{words}");
    }
}

#[test]
fn s4_a_flapping_computer_is_left_alone_and_then_tried_once() {
    let mut world = World::new();
    let first = world.start(&far(), "bash");
    for _ in 0..5 {
        world.pass(20_000, false);
        if let Some(link) = world.link(&far()) {
            world.down(link, SshFaultKind::Unreachable);
        }
        if matches!(world.told(first), Asked::Told(_)) {
            world.start(&far(), "read");
        }
    }
    assert!(matches!(state(&world), LinkState::Quarantined { .. }));
    let refused = world.start(&far(), "bash");
    let (_, words) = world.words(refused);
    assert!(words.contains("left alone for another 300 s"), "{words}");
    world.pass(300_000, false);
    let connects = world.connects;
    world.start(&far(), "bash");
    let link = world.link(&far()).unwrap();
    world.down(link, SshFaultKind::Unreachable);
    assert_eq!(world.connects, connects + 1);
    assert!(matches!(state(&world), LinkState::Quarantined { .. }));
}

#[test]
fn s4_a_link_that_answers_no_keepalive_is_taken_for_lost() {
    let (mut world, tool, link) = running();
    world.pass(30_000, false);
    assert!(world.pending.contains(&Effect::PingComputer { id: link }));
    world.pass(15_000, false);
    assert_eq!(world.link(&far()), None);
    world.pass(1_000, true);
    assert_eq!(*world.told(tool), Asked::Waits, "it runs on");
    world.end_run(0);
    assert_eq!(world.words(tool), (true, "out"));
}

#[test]
fn s4_the_loss_of_an_idle_link_is_nobodys_loss() {
    let (mut world, tool, link) = running();
    world.end_run(0);
    world.down(link, SshFaultKind::Lost);
    assert_eq!(world.words(tool), (true, "out"));
    world.pass(2_000, true);
    assert_eq!((state(&world), world.connects), (LinkState::Closed, 1));
}

#[test]
fn s5_a_command_survives_its_link_and_its_preview_goes_on_where_it_was() {
    let (mut world, tool, link) = running();
    world.prints(tool, 0, "hello");
    world.down(link, SshFaultKind::Lost);
    assert_eq!(world.states[&far()].runs, 1);
    world.pass(1_000, false);
    let connect = world.pending.remove(0);
    world.carry_out(connect);
    let shown = world.pending.iter().find_map(|effect| match effect {
        Effect::AdoptTool { adopt, .. } => Some(adopt.shown_bytes),
        _ => None,
    });
    assert_eq!(shown, Some(5));
    world.obey();
    world.end_run(0);
    assert_eq!(world.words(tool), (true, "out"));
}

#[test]
fn s5_a_start_that_was_lost_is_sent_again_only_where_it_never_happened() {
    let mut world = World::new();
    let tool = world.start(&far(), "bash");
    let connect = world.pending.remove(0);
    world.carry_out(connect);
    assert_eq!(starts(&world), [0]);
    let link = world.link(&far()).unwrap();
    world.down(link, SshFaultKind::Lost);
    world.pass(1_000, false);
    let connect = world.pending.remove(0);
    world.carry_out(connect);
    assert!(starts(&world).is_empty(), "it is looked for first");
    let look = world.pending.remove(0);
    world.carry_out(look);
    assert_eq!(starts(&world), [1]);
    // The first start arrives after all, and finds its directory claimed.
    let (at, late) = world.late.remove(0);
    assert!(!world.run(&at, &late));
    world.obey();
    assert_eq!(*world.told(tool), Asked::Waits);
    assert_eq!(world.states[&far()].runs, 1);
}

#[test]
fn s6_a_write_whose_link_was_lost_is_not_repeated_and_a_read_is() {
    let mut world = World::new();
    let (read, write) = (world.start(&far(), "read"), world.start(&far(), "write"));
    let connect = world.pending.remove(0);
    world.carry_out(connect);
    let link = world.link(&far()).unwrap();
    world.down(link, SshFaultKind::Lost);
    let (ok, words) = world.words(write);
    assert!(
        !ok && words.starts_with("interrupted, outcome unknown: "),
        "{words}"
    );
    world.pass(1_000, true);
    assert_eq!(world.words(read), (true, "contents"));
}

#[test]
fn s5_what_runs_waits_for_its_computer_up_to_its_own_deadline() {
    let (mut world, tool, link) = running();
    world.down(link, SshFaultKind::Lost);
    world.pass(500_000, false);
    assert_eq!(*world.told(tool), Asked::Waits);
    world.pass(150_000, false);
    let (ok, words) = world.words(tool);
    assert!(
        !ok && words.contains("has not come back in time"),
        "{words}"
    );
    // It is owed its death.
    world.pending.clear();
    world.pass(400_000, true);
    let other = world.start(&far(), "read");
    world.obey();
    assert!(matches!(world.told(other), Asked::Told(_)));
    assert!(world.runs.values().all(|run| *run == Run::Killed));
}

#[test]
fn t5_a_call_that_waits_is_stopped_at_once_and_one_that_runs_is_killed() {
    let (mut world, tool, _) = running();
    world.kill(tool);
    assert!(matches!(world.pending[..], [Effect::KillTool { .. }]));
    world.obey();
    assert_eq!(world.words(tool), (true, "killed"));
    let elsewhere = computer("elsewhere");
    let waits = world.start(&elsewhere, "bash");
    world.kill(waits);
    assert_eq!(
        world.words(waits),
        (false, "the turn was stopped before this tool was started")
    );
}

#[test]
fn t5_a_kill_without_a_link_is_paid_at_the_next_one() {
    let (mut world, tool, link) = running();
    world.down(link, SshFaultKind::Lost);
    world.kill(tool);
    world.pass(20_000, false);
    world.leave(tool, true);
    assert!(world.runs.values().all(|run| *run == Run::Runs));
    world.obey();
    world.start(&far(), "read");
    world.pass(60_000, true);
    assert!(world.runs.values().all(|run| *run == Run::Killed));
}

#[test]
fn l10_commands_of_ended_turns_are_looked_for_whenever_a_link_comes_up() {
    let (mut world, tool, link) = running();
    world.down(link, SshFaultKind::Lost);
    world.leave(tool, false);
    world
        .ended_turns
        .extend(world.runs.keys().map(|(_, dir)| dir.0));
    world.pass(5_000, true);
    assert!(
        world.runs.values().all(|run| *run == Run::Runs),
        "nobody wants a link"
    );
    world.start(&far(), "read");
    world.obey();
    assert!(world.runs.values().all(|run| *run == Run::Killed));
}

#[test]
fn l10_what_an_earlier_ownership_started_is_adopted_or_told_of() {
    let mut world = World::new();
    let runs = world.adopt(&far(), true);
    let nothing = world.adopt(&far(), false);
    world.obey();
    assert_eq!(*world.told(runs), Asked::Waits);
    assert_eq!(
        *world.told(nothing),
        Asked::Told(Word::Adopted(Found::Nothing))
    );
    world.end_run(0);
    assert_eq!(*world.told(runs), Asked::Told(Word::Done(end("out"))));
}

#[test]
fn s2_a_test_is_answered_in_time_whatever_happens() {
    let mut world = World::new();
    world.test(&far(), 1);
    world.pass(30_000, false);
    assert!(world.tested[0].1.is_err());
    world.pending.clear();
    world.pass(30_000, true);
    world.test(&far(), 2);
    world.obey();
    assert_eq!(world.tested[1].1, Ok(()));
    world.test(&far(), 3);
    assert!(matches!(world.pending[..], [Effect::PingComputer { .. }]));
    let link = world.link(&far()).unwrap();
    world.down(link, SshFaultKind::Lost);
    assert_eq!(
        world.tested[2].1.as_ref().map_err(|f| f.kind),
        Err(SshFaultKind::Lost)
    );
}

#[test]
fn s2_a_test_cuts_a_quarantine_short() {
    let mut world = World::new();
    for n in 0..5 {
        world.test(&far(), n);
        let link = world.link(&far()).unwrap();
        world.down(link, SshFaultKind::Auth);
    }
    assert!(matches!(state(&world), LinkState::Quarantined { .. }));
    world.test(&far(), 9);
    world.obey();
    assert_eq!(state(&world), LinkState::Open);
}

#[test]
fn s4_a_start_that_is_never_answered_costs_its_call_and_not_the_link() {
    let mut world = World::new();
    let tool = world.start(&far(), "bash");
    let connect = world.pending.remove(0);
    world.carry_out(connect);
    let link = world.link(&far());
    world.pass(30_000, false);
    // It hangs over there, and the look for it forbids it to begin.
    let is_start = |effect: &Effect| matches!(effect, Effect::StartTool { .. });
    world.pending.retain(|effect| !is_start(effect));
    world.obey();
    let (ok, words) = world.words(tool);
    assert!(!ok && words.contains("not started"), "{words}");
    assert!(words.contains("within 30 s"), "{words}");
    assert_eq!(world.link(&far()), link);
    assert!(world.executions.is_empty());
}
