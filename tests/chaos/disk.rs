//! A full disk under SQLite (O5): nothing is accepted that could not be kept,
//! nothing that was accepted is lost, and the server goes on once there is room.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::caller::{Caller, Field, GiveUp, locked, read_log};
use crate::house::House;
use crate::plan::Talk;
use crate::support::client::{count, receipt, said};
use crate::support::http::Reply;
use crate::support::{Chance, until, until_true};
use crate::verdict::{Talked, judge};

fn refused_clearly(reply: &Reply) {
    let problem = reply.json();
    assert_eq!(problem["status"], 503, "{problem}");
    let code = problem["code"].as_str().unwrap();
    assert!(
        ["unconfirmed", "store-unavailable"].contains(&code),
        "{problem}"
    );
    assert!(reply.header("retry-after").is_some(), "{:?}", reply.headers);
}

const CLIENTS: usize = 8;
const TALKS_EACH: usize = 6;

#[test]
fn o5_v7_a_full_disk_refuses_clearly_and_loses_nothing() {
    let Some(house) = House::on_a_small_disk(64 << 20) else {
        return;
    };
    let field = Field::default();
    house.addresses(&field);
    let client = |n: usize| {
        let mut chance = Chance::new(n as u64);
        let talks = (0..TALKS_EACH).map(|k| {
            let talk = Talk::draw(&mut chance, &format!("d{n}-{k}"), 2, &house.effects);
            Caller::talk(&field, (n * TALKS_EACH + k) as u64, &talk)
        });
        talks.collect::<Vec<Talked>>()
    };
    let late = json!({ "conversationId": "late", "message": "late", "detach": true }).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "late"),
    ];
    let mut talked: Vec<Talked> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                scope.spawn({
                    let client = &client;
                    move || client(n)
                })
            })
            .collect();
        let _on_failure = GiveUp(&field);
        let disk = house.disk.as_ref().unwrap();
        let ended = || field.ended.load(Ordering::Relaxed);
        until_true("turns are under way", || ended() >= CLIENTS);
        disk.fill();
        until("what cannot be kept is refused", || {
            // Whatever is freed meanwhile is taken again.
            disk.fill();
            let refused = house.servers[0].ask("POST", "/chat", &headers, late.as_bytes());
            (refused.status == 503).then(|| refused_clearly(&refused))
        });
        disk.make_room();
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    });
    // Refused, it is accepted when it comes again, and once.
    let again = house.servers[0].ask("POST", "/chat", &headers, late.as_bytes());
    let again = receipt(&again.expect(202));
    assert_eq!(said(&house.servers[0].outcome(&again)), "You said: late");
    let late = house.servers[0].log("late");
    assert_eq!(count(&late, "turn-start"), 1, "{late:#?}");
    let effects = house.effects();
    let mut found = Vec::new();
    for talk in &mut talked {
        talk.log = until("the log is read", || read_log(&field, &talk.name));
        found.extend(judge(talk, &effects));
    }
    let stderr = house.servers[0].stderr();
    assert!(found.is_empty(), "{found:#?}\n{stderr}");
    let turns = locked(&field.turns);
    let ends: Vec<_> = turns.values().map(|turn| turn.end.as_deref()).collect();
    assert!(
        ends.iter().all(|end| *end == Some("done")),
        "{ends:?}\n{stderr}"
    );
}
