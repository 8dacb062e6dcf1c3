//! Worlds that are wrong about computers.

use dispatch_core::ids::{ComputerId, EffectId};

use super::*;

fn computer(name: &str) -> ComputerId {
    name.try_into().unwrap()
}

fn link(n: u64) -> EffectId {
    EffectId { incarnation: 0, n }
}

fn wished(replica: usize, computer: &ComputerId, n: u64) -> Fact<'_> {
    Fact::LinkWished {
        replica,
        computer,
        link: link(n),
    }
}

fn up(n: u64) -> Fact<'static> {
    let (replica, link) = (0, link(n));
    Fact::LinkUp { replica, link }
}

fn gone(n: u64) -> Fact<'static> {
    let (replica, link) = (0, link(n));
    Fact::LinkGone { replica, link }
}

fn slots() -> Fact<'static> {
    Fact::Slots {
        streaming: &[],
        idle: &[],
    }
}

fn troubled(computer: &ComputerId, until: u64) -> Fact<'_> {
    Fact::ComputerTroubled { computer, until }
}

#[test]
fn s4_a_second_link_to_a_computer_is_objected_to() {
    let (box_0, box_1) = (&computer("box-0"), &computer("box-1"));
    let mut court = Court::of("one-link");
    court.agrees(wished(0, box_0, 1));
    court.agrees(wished(0, box_1, 2));
    court.agrees(wished(1, box_0, 1));
    court.agrees(gone(1));
    court.agrees(wished(0, box_0, 3));
    court.objects(wished(0, box_0, 4));
    court.agrees(lives(Life::Down));
    court.agrees(wished(0, box_0, 1));
}

#[test]
fn s4_a_link_that_is_waited_for_without_end_is_objected_to() {
    let box_0 = &computer("box-0");
    let mut court = Court::of("link-ends");
    court.agrees(wished(0, box_0, 1));
    court.agrees(up(1));
    court.at_ms = 100_000;
    court.agrees(wished(0, box_0, 2));
    court.at_ms += 35_000;
    court.agrees(slots());
    court.at_ms += 10_000;
    court.objects(slots());
    court.agrees(gone(2));
    court.agrees(slots());
}

#[test]
fn s4_a_computer_that_is_given_no_rest_is_objected_to() {
    let box_0 = &computer("box-0");
    let mut court = Court::of("link-backoff");
    for n in 0..5 {
        court.at_ms = n * 10_000;
        court.agrees(wished(0, box_0, n));
    }
    court.objects(wished(0, box_0, 6));
    court.agrees(Fact::ComputerTested { computer: box_0 });
    court.agrees(wished(0, box_0, 7));
    court.at_ms += 400_000;
    court.agrees(wished(0, box_0, 8));
}

fn on(name: &str) -> TurnRow {
    TurnRow {
        computer: Some(computer(name)),
        ..row(1, TurnState::Tools, 1)
    }
}

fn failed(output: &str) -> AgentEvent {
    let result = EventBody::ToolResult {
        call_id: "a".into(),
        ok: false,
        output: output.into(),
        duration_ms: 0,
        spilled: None,
    };
    event(2, 1, 1, result)
}

/// A call on `box-0` is open.
fn called(court: &mut Court) {
    court.agrees(Fact::Moved {
        before: None,
        after: &on("box-0"),
    });
    let call = tool_call(0, "a");
    court.agrees(Fact::Logged(&event(1, 1, 1, call)));
}

#[test]
fn s4_a_call_that_fails_on_a_computer_that_is_well_is_objected_to() {
    let (box_0, box_1) = (&computer("box-0"), &computer("box-1"));
    let lost = || failed("the connection to computer `box-0` was lost");
    let mut court = Court::of("link-fault-contained");
    called(&mut court);
    court.agrees(troubled(box_1, 1_000_000));
    court.objects(Fact::Logged(&lost()));
    court.objects(Fact::Logged(&failed("nothing that names it")));
    court.agrees(troubled(box_0, 1_000_000));
    court.agrees(Fact::Logged(&lost()));
    court.objects(Fact::Logged(&failed("computer `box-1` was lost")));
}

#[test]
fn s4_a_call_whose_own_command_failed_is_no_fault_of_the_link() {
    let mut court = Court::of("link-fault-contained");
    called(&mut court);
    court.agrees(Fact::ToolGone {
        command: "run 1",
        call_id: "a",
        turn: TurnId(1),
        end: None,
    });
    court.agrees(Fact::Logged(&failed("exit code 1")));
}

fn begun(computer: &ComputerId) -> Fact<'_> {
    Fact::ToolStarted {
        command: "run 1",
        turn: TurnId(1),
        epoch: Epoch(1),
        call_id: "a",
        replica: 0,
        computer: Some(computer),
        deadline_ms: 600_000,
    }
}

fn ended(court: &mut Court) {
    court.agrees(Fact::Moved {
        before: Some(&row(1, TurnState::Tools, 1)),
        after: &row(1, TurnState::Ended, 1),
    });
}

#[test]
fn l10_a_command_over_there_that_outlives_its_turn_is_objected_to() {
    let box_0 = &computer("box-0");
    let mut court = Court::of("command-ends");
    court.agrees(begun(box_0));
    ended(&mut court);
    court.at_ms = 20_000;
    court.agrees(slots());
    court.at_ms = 40_000;
    court.objects(slots());
}

#[test]
fn l10_a_command_that_cannot_be_reached_is_looked_for_over_the_next_link() {
    let box_0 = &computer("box-0");
    let mut court = Court::of("command-ends");
    court.agrees(begun(box_0));
    court.agrees(troubled(box_0, 60_000_000));
    ended(&mut court);
    court.at_ms = 9_000_000;
    court.agrees(slots());
    court.agrees(wished(0, box_0, 1));
    court.agrees(slots());
    court.agrees(up(1));
    court.at_ms += 620_000;
    court.agrees(slots());
    court.at_ms += 20_000;
    court.objects(slots());
}
