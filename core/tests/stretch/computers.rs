//! Turns whose tools run on another computer (S1, S5).

use dispatch_core::computer::{SshFault, SshFaultKind};
use dispatch_core::event::EventBody;
use dispatch_core::ids::EffectId;
use dispatch_core::io::{Answer, Command, Found, Input, ToolEnd};

use crate::world::World;

fn fault(kind: SshFaultKind) -> SshFault {
    SshFault {
        kind,
        message: "no route to it".into(),
    }
}

/// A world in which a turn waits for tools on a computer.
fn asked(tool: &str) -> World {
    let mut world = World::new();
    world.submit_to("hello", Some("build-box"));
    let id = world.stream();
    world.asks_for(id, tool, &["a"]);
    world
}

fn connected(world: &mut World) -> EffectId {
    world.pass(2_000);
    let id = world.connects.remove(0);
    world.feed(Input::ComputerUp { id });
    id
}

/// A world in which a command runs there, and its link.
fn running() -> (World, EffectId) {
    let mut world = asked("bash");
    let link = connected(&mut world);
    let (id, _) = world.tools[0].clone();
    let found = Found::Running;
    world.feed(Input::Adopted { id, found });
    (world, link)
}

fn answer(world: &World) -> (bool, String) {
    let events = world.published.iter().rev();
    let mut answers = events.filter_map(|event| match &event.body {
        EventBody::ToolResult { ok, output, .. } => Some((*ok, output.clone())),
        _ => None,
    });
    answers.next().expect("an answer")
}

fn finish(world: &mut World) {
    let id = world.stream();
    world.says(id, "on we go");
    world.stops(id);
    assert_eq!(world.log().last().map(String::as_str), Some("done"));
    assert!(world.is_at_rest());
}

#[test]
fn s1_a_tool_runs_on_the_conversations_computer_and_binds_its_turn_to_no_node() {
    let (mut world, _) = running();
    world.tool_ends();
    assert_eq!(answer(&world), (true, "out of a".into()));
    assert!(world.model.turns.values().all(|row| row.bound.is_none()));
    finish(&mut world);
}

#[test]
fn s1_a_conversation_without_a_computer_has_its_workspaces_and_local_takes_it_back() {
    let mut world = World::new();
    let put = Command::PutWorkspace {
        slug: "default".try_into().unwrap(),
        title: None,
        cwd: None,
        computer: Some("build-box".try_into().unwrap()),
    };
    assert!(matches!(world.command(put), Answer::Workspace(_)));
    let first = world.submit("hello").turn;
    let computer = |world: &World, turn| world.model.turns[&turn].computer.clone();
    assert_eq!(computer(&world, first).unwrap().as_str(), "build-box");
    let second = world.submit_to("and now here", Some("local")).turn;
    assert_eq!(computer(&world, second), None);
    assert!(computer(&world, first).is_some(), "it stays where it was");
}

#[test]
fn s5_a_lost_link_is_not_the_end_of_a_command_nor_of_its_turn() {
    let (mut world, link) = running();
    let (lost, _) = world.tools.remove(0);
    let fault = fault(SshFaultKind::Lost);
    world.feed(Input::ComputerDown { id: link, fault });
    connected(&mut world);
    let again = world.adopts.remove(0);
    assert_ne!(again, lost);
    let end = ToolEnd {
        ok: true,
        output: "all of it".into(),
        duration_ms: 5,
        spilled: None,
    };
    // Late words of the dead link find nobody.
    world.feed(Input::ToolDone {
        id: lost,
        end: ToolEnd {
            output: "never".into(),
            ..end.clone()
        },
    });
    let found = Found::Finished(end);
    world.feed(Input::Adopted { id: again, found });
    assert_eq!(answer(&world), (true, "all of it".into()));
    finish(&mut world);
}

#[test]
fn s4_a_computer_that_lets_nobody_in_costs_a_tool_call_and_not_the_turn() {
    let mut world = asked("bash");
    let id = world.connects.remove(0);
    let fault = fault(SshFaultKind::Auth);
    world.feed(Input::ComputerDown { id, fault });
    let (ok, output) = answer(&world);
    assert!(
        !ok && output.contains("build-box") && output.contains("no route"),
        "{output}"
    );
    finish(&mut world);
}

#[test]
fn t5_an_abort_does_not_wait_for_a_computer() {
    let mut world = asked("bash");
    let turn = world.published[0].turn;
    world.abort(turn);
    world.pass(1_000);
    assert_eq!(world.log().last().map(String::as_str), Some("aborted"));
    assert!(world.is_at_rest());
}

#[test]
fn l10_a_command_on_another_computer_outlives_the_server_and_is_adopted() {
    let (mut world, _) = running();
    world.crash();
    world.pass(1_000);
    connected(&mut world);
    let id = world.adopts.remove(0);
    let found = Found::Running;
    world.feed(Input::Adopted { id, found });
    let end = ToolEnd {
        ok: true,
        output: "late".into(),
        duration_ms: 5,
        spilled: None,
    };
    world.feed(Input::ToolDone { id, end });
    assert_eq!(answer(&world), (true, "late".into()));
    finish(&mut world);
}

#[test]
fn l10_over_there_only_commands_leave_traces() {
    let mut world = asked("read");
    world.crash();
    world.pass(1_000);
    connected(&mut world);
    assert!(world.adopts.is_empty());
    world.tool_ends();
    assert_eq!(answer(&world), (true, "out of a".into()));
    finish(&mut world);
    let mut world = asked("write");
    world.crash();
    world.pass(1_000);
    let unknown = "interrupted, outcome unknown";
    assert_eq!(answer(&world), (false, unknown.into()));
    finish(&mut world);
}
