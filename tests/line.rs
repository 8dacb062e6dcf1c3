//! The line in front of a provider (A1, A2, A3, A7), as the provider saw it:
//! its own log is compared with a sort that shares no code with the server.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use support::client::Receipt;
use support::process::{Provider, Server};
use support::stream::EventExt;
use support::{Chance, config, until, until_true};

const LIMIT: usize = 4;
const WAITING: usize = 200;
const PAUSE_RANK: usize = 32;
const RETRIED: usize = 8;
/// Workspace, starred when the turns are accepted, starred when they are released.
const WORKSPACES: [(&str, bool, bool); 6] = [
    ("always", true, true),
    ("also-always", true, true),
    ("flips-up", false, true),
    ("flips-down", true, false),
    ("never", false, false),
    ("default", false, false),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answers,
    /// Refused for good.
    Refused,
    /// Cut in the middle of its answer.
    Cut,
    /// Refused at first; it comes back under its old key.
    Retried,
    /// Aborted while it waits.
    Aborted,
    /// Holds its slot while the retried ones become due.
    Pauses,
}

struct Waiter {
    /// The start of its message; the provider's log shows it.
    tag: String,
    fate: Fate,
    starred: bool,
    at: Receipt,
    started_at: u64,
}

#[test]
fn a2_two_hundred_waiters_reach_the_provider_in_the_order_of_their_keys() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start();
    let config = [
        config::retry(&[3], 20),
        config::provider("mock", &provider.base_url(), LIMIT as u32),
    ]
    .concat();
    let server = Server::start(&dir.path().join("data"), &config);
    star(&server, |(_, at_first, _)| *at_first);
    let holders = hold_every_slot(&server, &provider);
    let waiters = fill_the_line(&server);
    assert_eq!(
        provider.log(0).len(),
        LIMIT,
        "nobody passes a full provider"
    );
    star(&server, |(_, _, at_last)| *at_last);
    for waiter in waiters.iter().filter(|w| w.fate == Fate::Aborted) {
        let end = server.abort(&waiter.at).expect(200);
        assert_eq!(end.kind(), "aborted", "{end}");
    }

    // One slot serves the line: arrivals are in the order of the grants.
    provider.release("slot-0");
    let expected = expected_order(&waiters);
    let pause = waiters.iter().find(|w| w.fate == Fate::Pauses).unwrap();
    until_true("the pausing turn holds the slot", || {
        arrivals(&provider).iter().any(|(tag, _)| *tag == pause.tag)
    });
    assert_eq!(arrivals(&provider), expected[..=PAUSE_RANK]);
    for waiter in waiters.iter().filter(|w| w.fate == Fate::Retried) {
        let due_at = until("the refusal is logged", || {
            let log = server.log(&waiter.at.conversation);
            log.iter()
                .find(|e| e.kind() == "provider-retry")
                .map(|e| e.number("dueAt"))
        });
        until_true("the retried turn is due", || now_ms() > due_at);
    }
    assert_eq!(
        arrivals(&provider).len(),
        PAUSE_RANK + 1,
        "nobody came back before the pause"
    );
    provider.release("pauses");
    // Now all four.
    until_true("a part of the line has passed", || {
        arrivals(&provider).len() > WAITING * 3 / 4
    });
    let in_single_file = arrivals(&provider).len();
    for n in 1..LIMIT {
        provider.release(&format!("slot-{n}"));
    }
    for at in holders
        .iter()
        .chain(waiters.iter().map(|waiter| &waiter.at))
    {
        let log = server.outcome(at);
        assert!(log.last().unwrap().is_terminal(), "{log:#?}");
    }

    assert_eq!(provider.stat("max_in_flight"), LIMIT as u64);
    let in_flight = |entry: &Value| entry.number("in_flight") as usize;
    assert!(
        provider
            .log(0)
            .iter()
            .all(|entry| in_flight(entry) <= LIMIT)
    );
    is_in_order(&arrivals(&provider), &expected, in_single_file);
    every_fate_is_met(&server, &waiters);
    until_true("no slot is held", || server.streaming() == 0);
    assert_eq!(provider.stat("invalid"), 0);
}

fn star(server: &Server, wanted: impl Fn(&(&str, bool, bool)) -> bool) {
    for workspace in &WORKSPACES {
        let path = format!("/workspaces/{}", workspace.0);
        server.write("PUT", &path, &json!({}));
        let method = if wanted(workspace) { "PUT" } else { "DELETE" };
        let reply = server.write(method, &format!("{path}/star"), &json!({}));
        assert!((200..300).contains(&reply.status), "{}", reply.text());
    }
}

fn hold_every_slot(server: &Server, provider: &Provider) -> Vec<Receipt> {
    let holders = (0..LIMIT).map(|n| {
        let script = json!([[{ "hold": format!("slot-{n}") }, "released"]]);
        server.submit(&json!({ "message": format!("slot-{n} script: {script}") }))
    });
    let holders = holders.collect();
    until_true("every slot is held", || provider.log(0).len() == LIMIT);
    holders
}

fn fill_the_line(server: &Server) -> Vec<Waiter> {
    let mut chance = Chance::new(11);
    let mut workspaces: Vec<usize> = (0..WAITING).map(|n| n % WORKSPACES.len()).collect();
    chance.shuffle(&mut workspaces);
    let mut waiters = plan(&workspaces);
    for (waiter, workspace) in waiters.iter_mut().zip(&workspaces) {
        let script = match waiter.fate {
            Fate::Answers | Fate::Aborted => json!(["fine"]),
            Fate::Refused => json!([{ "status": 400 }]),
            Fate::Cut => json!([["fi", { "cut": true }]]),
            Fate::Retried => json!([{ "attempts": [{ "status": 503 }, "fine"] }]),
            Fate::Pauses => json!([[{ "hold": "pauses" }, "fine"]]),
        };
        let message = format!("{} script: {script}", waiter.tag);
        let workspace = WORKSPACES[*workspace].0;
        waiter.at = server.submit(&json!({ "message": message, "workspaceId": workspace }));
        let log = server.log(&waiter.at.conversation);
        assert_eq!(log.len(), 1, "it waits: {log:#?}");
        waiter.started_at = log[0].number("at");
    }
    assert!(
        waiters.is_sorted_by_key(|waiter| waiter.started_at),
        "store time runs forward"
    );
    waiters
}

/// Who meets what: the retried ones come right before the pause, so that none
/// of them is due again before it.
fn plan(workspaces: &[usize]) -> Vec<Waiter> {
    let waiter = |(n, workspace): (usize, &usize)| Waiter {
        tag: format!("w{n}"),
        fate: if n % 20 == 15 {
            Fate::Aborted
        } else {
            Fate::Answers
        },
        starred: WORKSPACES[*workspace].2,
        at: Receipt::default(),
        started_at: 0,
    };
    let mut waiters: Vec<Waiter> = workspaces.iter().enumerate().map(waiter).collect();
    for (rank, (tag, _)) in expected_order(&waiters).iter().enumerate() {
        let waiter = waiters
            .iter_mut()
            .find(|waiter| waiter.tag == *tag)
            .unwrap();
        waiter.fate = match rank {
            PAUSE_RANK => Fate::Pauses,
            _ if (PAUSE_RANK - RETRIED..PAUSE_RANK).contains(&rank) => Fate::Retried,
            _ if rank % 10 == 3 => Fate::Refused,
            _ if rank % 10 == 7 => Fate::Cut,
            _ => Fate::Answers,
        };
    }
    waiters
}

/// (tag, attempt) of the waiters' requests, in the provider's order.
fn arrivals(provider: &Provider) -> Vec<(String, u64)> {
    let log = provider.log(0);
    let of_waiters = log
        .iter()
        .filter(|entry| !entry.text("message").starts_with("slot-"));
    let tag = |entry: &Value| entry.text("message").split(' ').next().unwrap().to_owned();
    of_waiters
        .map(|entry| (tag(entry), entry.number("attempt")))
        .collect()
}

/// The line by the letter of A2 and A7: starred ones first, then by the time of
/// acceptance, ties in the order of acceptance; of every four grants that both
/// kinds wait for, the fourth goes to the oldest unstarred. Who was refused
/// once is due again after the pause, under its old key.
fn expected_order(waiters: &[Waiter]) -> Vec<(String, u64)> {
    // The waiters are in the order of their acceptance, so the index breaks ties.
    let mut lines: [BTreeSet<(u64, usize, u64)>; 2] = [BTreeSet::new(), BTreeSet::new()];
    for (n, waiter) in waiters.iter().enumerate() {
        if waiter.fate != Fate::Aborted {
            lines[usize::from(!waiter.starred)].insert((waiter.started_at, n, 0));
        }
    }
    let mut order = Vec::new();
    let mut back = Vec::new();
    let mut contended = 0;
    loop {
        let both_wait = lines.iter().all(|line| !line.is_empty());
        contended += usize::from(both_wait);
        let unstarred_is_next = if both_wait {
            contended % 4 == 0
        } else {
            lines[0].is_empty()
        };
        let Some((at, n, attempt)) = lines[usize::from(unstarred_is_next)].pop_first() else {
            break;
        };
        let waiter = &waiters[n];
        order.push((waiter.tag.clone(), attempt));
        if waiter.fate == Fate::Retried && attempt == 0 {
            back.push((usize::from(!waiter.starred), (at, n, 1)));
        }
        if waiter.fate == Fate::Pauses {
            for (line, place) in back.drain(..) {
                lines[line].insert(place);
            }
        }
    }
    order
}

/// Arrivals through one slot are exactly the expected ones. Through four
/// slots, requests that were granted in order travel side by side: when one
/// arrives, at most three that were granted before it may still be on the way.
fn is_in_order(arrivals: &[(String, u64)], expected: &[(String, u64)], in_single_file: usize) {
    let known: BTreeMap<&(String, u64), usize> = expected
        .iter()
        .enumerate()
        .map(|(n, key)| (key, n))
        .collect();
    let mut ranks: Vec<usize> = Vec::new();
    for (n, arrival) in arrivals.iter().enumerate() {
        let rank = known
            .get(arrival)
            .unwrap_or_else(|| panic!("{arrival:?} came unexpected"));
        if n < in_single_file {
            assert_eq!(
                *rank,
                ranks.len(),
                "{arrival:?} came out of turn: {:?}",
                &arrivals[..=n]
            );
        }
        let passed = (0..*rank)
            .filter(|earlier| !ranks.contains(earlier))
            .count();
        assert!(passed < LIMIT, "{arrival:?} overtook {passed} others");
        ranks.push(*rank);
    }
    assert_eq!(ranks.len(), expected.len(), "somebody never came");
    let distinct: BTreeSet<&(String, u64)> = arrivals.iter().collect();
    assert_eq!(distinct.len(), arrivals.len(), "somebody came twice");
}

fn every_fate_is_met(server: &Server, waiters: &[Waiter]) {
    for waiter in waiters {
        let log = server.log(&waiter.at.conversation);
        let end = log.last().unwrap();
        let wanted = match waiter.fate {
            Fate::Answers | Fate::Retried | Fate::Pauses => "done",
            Fate::Refused | Fate::Cut => "error",
            Fate::Aborted => "aborted",
        };
        assert_eq!(end.kind(), wanted, "{log:#?}");
        assert_eq!(
            log.iter().filter(|event| event.is_terminal()).count(),
            1,
            "{log:#?}"
        );
    }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
