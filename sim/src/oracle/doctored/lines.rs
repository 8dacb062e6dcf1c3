//! Slots and the order of the line.

use super::*;

fn granted(turn: u128) -> Granted {
    Granted {
        turn: TurnId(turn),
        conversation: talk(),
        epoch: Epoch(1),
    }
}

pub(super) fn grant(court: &mut Court, turn: u128, limit: u32) -> Result<(), Breach> {
    let parked = row(turn, TurnState::Parked, 0);
    court.agrees(Fact::Moved {
        before: Some(&parked),
        after: &row(turn, TurnState::Streaming, 1),
    });
    court.see(Fact::Granted {
        provider: &north(),
        limit,
        cooldown_ms: 200,
        turns: &[granted(turn)],
    })
}

#[test]
fn a1_a_grant_beyond_the_limit_is_objected_to() {
    let mut court = Court::of("limit");
    assert_eq!(grant(&mut court, 1, 1), Ok(()));
    assert!(grant(&mut court, 2, 1).is_err());
}

#[test]
fn a4_a_grant_into_a_slot_that_is_still_warm_is_objected_to() {
    for (at_ms, is_early) in [(199, true), (200, false)] {
        let mut court = Court::of("limit");
        assert_eq!(grant(&mut court, 1, 1), Ok(()));
        court.agrees(Fact::Moved {
            before: Some(&row(1, TurnState::Streaming, 1)),
            after: &row(1, TurnState::Tools, 1),
        });
        court.at_ms = at_ms;
        assert_eq!(grant(&mut court, 2, 1).is_err(), is_early);
    }
}

#[test]
fn a1_more_requests_than_slots_are_objected_to_unless_their_process_stands_still() {
    for (state, is_too_many) in [(Life::Up, true), (Life::Paused, false), (Life::Down, false)] {
        let mut court = Court::of("limit");
        court.agrees(lives(Life::Up));
        assert_eq!(grant(&mut court, 1, 1), Ok(()));
        court.agrees(Fact::Requested(&request(1, 1)));
        court.agrees(lives(state));
        let another = Request {
            replica: 1,
            ..request(2, 2)
        };
        court.agrees(Fact::Lives {
            replica: 1,
            life: 1,
            boot: 8,
            state: Life::Up,
        });
        court.agrees(Fact::Moved {
            before: Some(&row(1, TurnState::Streaming, 1)),
            after: &row(1, TurnState::Tools, 1),
        });
        court.at_ms = 500;
        assert_eq!(grant(&mut court, 2, 1), Ok(()));
        assert_eq!(court.see(Fact::Requested(&another)).is_err(), is_too_many);
    }
}

#[test]
fn t11_a_turn_with_two_requests_that_nobody_has_closed_is_objected_to() {
    let mut court = Court::of("limit");
    court.agrees(lives(Life::Up));
    assert_eq!(grant(&mut court, 1, 4), Ok(()));
    court.agrees(Fact::Requested(&request(1, 1)));
    court.agrees(Fact::Closed { stream: 1 });
    court.agrees(Fact::Requested(&request(2, 1)));
    court.objects(Fact::Requested(&request(3, 1)));
}

#[test]
fn a1_a_request_after_its_turns_end_counts_where_its_owner_has_ended_it() {
    for by_owner in [true, false] {
        let mut court = Court::of("limit");
        court.agrees(lives(Life::Up));
        assert_eq!(grant(&mut court, 1, 1), Ok(()));
        court.agrees(Fact::Requested(&request(1, 1)));
        if by_owner {
            court.agrees(Fact::Written {
                turn: TurnId(1),
                epoch: Epoch(1),
            });
        }
        court.agrees(Fact::Moved {
            before: Some(&row(1, TurnState::Streaming, 1)),
            after: &row(1, TurnState::Ended, 1),
        });
        court.at_ms = 500;
        assert_eq!(grant(&mut court, 2, 1), Ok(()));
        let second = court.see(Fact::Requested(&request(2, 2)));
        assert_eq!(second.is_err(), by_owner);
    }
}

fn head(turn: u128) -> Head {
    Head {
        turn: TurnId(turn),
        key: WaiterKey {
            unstarred: true,
            started_at: Timestamp(0),
            seq: 0,
        },
        epoch: Epoch(0),
        bound: None,
    }
}

fn view(starred: &[u128], unstarred: &[u128]) -> AdmissionView {
    AdmissionView {
        version: 1,
        now: Timestamp(0),
        limit: 4,
        streaming: 0,
        cooling: vec![],
        cooldown_ms: 200,
        gate: Gate::Open,
        fair: 0,
        starred: starred.iter().map(|turn| head(*turn)).collect(),
        unstarred: unstarred.iter().map(|turn| head(*turn)).collect(),
        next_due: None,
        live: vec![],
    }
}

#[test]
fn a2_a3_a_line_in_another_order_or_with_a_stale_star_is_objected_to() {
    // The later one has the lower id: only the order of acceptance tells.
    let waits = |turn: u128, starred| Waiting {
        turn: TurnId(turn),
        starred,
        accepted_at: Timestamp(5),
        bound: None,
    };
    let judge = |view: &AdmissionView, line: &[Waiting]| {
        let mut court = Court::of("order");
        for turn in [9, 3] {
            court.agrees(Fact::Moved {
                before: None,
                after: &row(turn, TurnState::Parked, 0),
            });
        }
        court.see(Fact::ViewRead {
            provider: &north(),
            view,
            line,
            streaming: 0,
        })
    };
    let line = [waits(3, false), waits(9, false)];
    assert_eq!(judge(&view(&[], &[9, 3]), &line), Ok(()));
    assert!(judge(&view(&[], &[3, 9]), &line).is_err());
    assert!(judge(&view(&[], &[9]), &line).is_err());
    let starred = [waits(3, true), waits(9, false)];
    assert_eq!(judge(&view(&[3], &[9]), &starred), Ok(()));
    assert!(judge(&view(&[], &[9, 3]), &starred).is_err());
}

#[test]
fn a4_d02_a_slot_that_counts_though_nobody_left_it_just_now_is_objected_to() {
    let mut leaked = view(&[], &[]);
    leaked.cooling = vec![Timestamp(u64::MAX / 2)];
    Court::of("limit").objects(Fact::ViewRead {
        provider: &north(),
        view: &leaked,
        line: &[],
        streaming: 0,
    });
}

#[test]
fn a7_a_plan_out_of_order_or_without_the_fair_share_is_objected_to() {
    let judge = |grants: &[u128], fair, version| {
        let mut court = Court::of("order");
        court.agrees(Fact::ViewHeard {
            replica: 0,
            provider: &north(),
            view: &view(&[1, 2, 3, 4], &[7, 8]),
        });
        let plan = ApplyGrants {
            provider: north(),
            version,
            fair,
            owner: row(1, TurnState::Tools, 0).owner.unwrap(),
            grants: grants
                .iter()
                .map(|turn| dispatch_core::admission::Grant {
                    turn: TurnId(*turn),
                    epoch: Epoch(0),
                })
                .collect(),
            lease_ms: 60_000,
        };
        court.see(Fact::Planned {
            replica: 0,
            plan: &plan,
        })
    };
    assert_eq!(judge(&[1, 2, 3, 7], 0, 1), Ok(()));
    assert!(judge(&[1, 2, 3, 4], 0, 1).is_err());
    assert!(judge(&[2, 1], 2, 1).is_err());
    assert!(judge(&[1, 2], 3, 1).is_err());
    assert!(judge(&[1, 2], 2, 5).is_err());
}
