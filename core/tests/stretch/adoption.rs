//! What becomes of commands whose server dies, hands over or panics (L10).

use dispatch_core::event::EventBody;
use dispatch_core::ids::EffectId;
use dispatch_core::io::{Found, Input, ToolEnd};

use crate::world::World;

/// A world in which a step's calls were started, and then the server died.
fn crashed(tool: &str, calls: &[&str]) -> World {
    let mut world = World::new();
    world.submit("hello");
    let id = world.stream();
    world.asks_for(id, tool, calls);
    world.crash();
    world.pass(1_000);
    world
}

fn ends(world: &mut World, id: EffectId, output: &str) {
    let end = ToolEnd {
        ok: true,
        output: output.into(),
        duration_ms: 5,
        spilled: None,
    };
    world.feed(Input::ToolDone { id, end });
}

fn finish(world: &mut World) {
    let id = world.stream();
    world.says(id, "on we go");
    world.stops(id);
    assert_eq!(world.log().last().map(String::as_str), Some("done"));
    assert!(world.is_at_rest());
}

fn answers(world: &World) -> Vec<(String, bool, String)> {
    let events = world.published.iter();
    let answers = events.filter_map(|event| match &event.body {
        EventBody::ToolResult {
            call_id,
            ok,
            output,
            ..
        } => Some((call_id.clone(), *ok, output.clone())),
        _ => None,
    });
    answers.collect()
}

#[test]
fn l10_a_command_that_still_runs_is_adopted_and_its_answer_kept() {
    let mut world = crashed("bash", &["a"]);
    assert!(world.tools.is_empty(), "nothing is run again");
    let id = world.adopts.remove(0);
    world.feed(Input::Adopted {
        id,
        found: Found::Running,
    });
    // Longer than an adoption's own deadline: it runs on by its own.
    world.pass(300_000);
    assert!(world.killed.is_empty());
    ends(&mut world, id, "late");
    assert_eq!(answers(&world), [("a".into(), true, "late".into())]);
    finish(&mut world);
}

#[test]
fn l10_a_command_that_has_ended_meanwhile_is_answered_with_its_end() {
    let mut world = crashed("bash", &["a"]);
    let id = world.adopts.remove(0);
    let end = ToolEnd {
        ok: false,
        output: "[exit code 3]".into(),
        duration_ms: 5,
        spilled: None,
    };
    world.feed(Input::Adopted {
        id,
        found: Found::Finished(end),
    });
    let told = ("a".into(), false, "[exit code 3]".into());
    assert_eq!(answers(&world), [told]);
    finish(&mut world);
}

#[test]
fn l10_every_dangling_call_is_answered_and_none_is_repeated() {
    let mut world = crashed("bash", &["a", "b", "c"]);
    assert_eq!(world.adopts.len(), 3);
    for id in std::mem::take(&mut world.adopts) {
        let output = String::new();
        let found = Found::Killed { output };
        world.feed(Input::Adopted { id, found });
    }
    assert!(world.tools.is_empty(), "nothing is run again");
    let unknown = |call: &str| (call.into(), false, "interrupted, outcome unknown".into());
    assert_eq!(answers(&world), ["a", "b", "c"].map(unknown));
    finish(&mut world);
}

#[test]
fn l10_a_read_only_call_is_run_again_where_nothing_tells_of_it() {
    let mut world = crashed("read", &["a"]);
    let id = world.adopts.remove(0);
    world.feed(Input::Adopted {
        id,
        found: Found::Nothing,
    });
    let (again, _) = world.tools.remove(0);
    assert_ne!(again, id);
    ends(&mut world, again, "contents");
    assert_eq!(answers(&world), [("a".into(), true, "contents".into())]);
    finish(&mut world);
}

#[test]
fn l10_an_adoption_that_is_never_answered_ends_in_an_unknown_outcome() {
    let mut world = crashed("bash", &["a"]);
    world.pass(60_000);
    assert_eq!(world.killed, world.adopts, "it is killed first");
    let (_, ok, output) = answers(&world).remove(0);
    assert!(!ok && output.starts_with("interrupted, outcome unknown"));
    finish(&mut world);
}

#[test]
fn t5_an_abort_kills_what_is_being_adopted() {
    let mut world = crashed("bash", &["a"]);
    let turn = world.published[0].turn;
    let id = world.adopts.remove(0);
    world.abort(turn);
    world.pass(1_000);
    assert_eq!(world.killed, [id]);
    let found = Found::Killed {
        output: "half".into(),
    };
    world.feed(Input::Adopted { id, found });
    assert_eq!(world.log().last().map(String::as_str), Some("aborted"));
    assert!(world.is_at_rest());
}

#[test]
fn l8_a_command_that_outlasts_the_shutdown_is_left_and_adopted_by_the_next_life() {
    let mut world = World::new();
    world.submit("hello");
    let id = world.stream();
    world.asks_for_tools(id, &["a", "b"]);
    world.tool_ends();
    world.feed(Input::Shutdown);
    world.pass(11_000);
    assert!(world.drained && world.killed.is_empty());
    assert_eq!(world.left.len(), 1, "the one that runs");
    world.crash();
    world.pass(1_000);
    let id = world.adopts.remove(0);
    world.feed(Input::Adopted {
        id,
        found: Found::Running,
    });
    ends(&mut world, id, "in the end");
    let answers = answers(&world);
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[1], ("b".into(), true, "in the end".into()));
    finish(&mut world);
}

#[test]
fn l10_what_nobody_watches_is_killed_once_its_turn_is_over_and_not_before() {
    let mut world = crashed("bash", &["a"]);
    let turn = world.published[0].turn;
    let look = |world: &mut World| {
        let id = world.looks.pop().unwrap();
        let turns = vec![turn];
        world.feed(Input::Unattended { id, turns });
    };
    look(&mut world);
    assert_eq!(world.ended, []);
    let adopt = world.adopts.remove(0);
    world.feed(Input::Adopted {
        id: adopt,
        found: Found::Nothing,
    });
    finish(&mut world);
    world.pass(16_000);
    look(&mut world);
    assert_eq!(world.ended, [turn]);
}
