//! What a replica does for the turns that it owns, and what the store's verbs
//! promise beyond the turn they are about.

#![allow(clippy::unwrap_used)]

#[path = "stretch/world.rs"]
mod world;

use dispatch_core::ids::{Epoch, Owner};
use dispatch_core::io::Input;
use dispatch_core::liveness::{OnCrash, SweepPolicy};
use dispatch_core::store::{Boot, Fence, Model, ProviderSettings, Reply, Verb};
use world::World;

fn renewed(held: &[(dispatch_core::ids::EffectId, Verb)]) -> Vec<Fence> {
    let fences = held.iter().filter_map(|(_, verb)| match verb {
        Verb::Renew { turns, .. } => Some(turns.clone()),
        _ => None,
    });
    fences.flatten().collect()
}

#[test]
fn l3_a_turn_that_waits_for_a_verb_in_time_is_renewed_like_any_other() {
    let mut world = World::new();
    world.hold = Some("load");
    let turn = world.submit("hello").turn;
    world.pass(500);
    assert_eq!(world.held.len(), 1, "granted, and asked to be loaded");
    world.hold = Some("renew");
    world.pass(20_000);
    let fences = renewed(&world.held);
    assert!(fences.iter().any(|fence| fence.turn == turn), "{fences:?}");
    assert!(world.core.owned_turns().any(|owned| owned == turn));
}

#[test]
fn one_checkpoint_is_in_flight_at_a_time_and_none_without_anything_new() {
    let mut world = World::new();
    world.submit("hello");
    let stream = world.stream();
    world.hold = Some("checkpoint");
    world.says(stream, "one ");
    world.pass(1_500);
    assert_eq!(world.held.len(), 1);
    world.sse(stream, &[r#"{"choices":[{"delta":{"content":"two"}}]}"#]);
    world.pass(3_000);
    assert_eq!(world.held.len(), 1, "the second waits for the first");
    world.let_go();
    world.pass(2_000);
    let kept: String = world
        .model
        .segments
        .values()
        .flatten()
        .map(|s| s.text.as_str())
        .collect();
    assert_eq!(kept, "one two");
    world.hold = Some("checkpoint");
    world.pass(5_000);
    assert_eq!(world.held, [], "nothing new");
}

#[test]
fn t4_an_error_page_without_end_is_judged_when_enough_of_it_is_there() {
    let mut world = World::new();
    world.submit("hello");
    let id = world.stream();
    world.head(id, 503, &[]);
    let bytes = vec![b'x'; 300_000];
    world.feed(Input::ProviderBytes { id, bytes });
    assert_eq!(world.closed, [id]);
    assert_eq!(world.log(), ["turn-start", "retry(0, 5000)"]);
}

#[test]
fn l2_every_grant_raises_the_epoch() {
    let mut world = World::new();
    let turn = world.submit("hello").turn;
    world.stream();
    let row = &world.model.turns[&turn];
    assert_eq!(row.epoch, Epoch(1));
    let conversation = &world.model.conversations[&row.conversation];
    assert_eq!(conversation.epoch, Epoch(1));
}

#[test]
fn a_boot_names_the_providers_that_its_configuration_has_lost() {
    let boot = |boot, id: &str| {
        Verb::Boot(Boot {
            owner: Owner {
                node: "node".into(),
                boot,
                incarnation: 0,
            },
            life: boot,
            providers: vec![ProviderSettings {
                id: id.try_into().unwrap(),
                limit: 1,
                cooldown_ms: 200,
            }],
            policy: SweepPolicy {
                on_crash: OnCrash::Resume,
                resume_limit: 3,
                counts: true,
                node_patience_ms: 600_000,
            },
            seal: None,
            version: "1".into(),
            webhooks: Vec::new(),
        })
    };
    let orphaned = |reply| match reply {
        Reply::Booted { orphaned, .. } => orphaned,
        other => panic!("{other:?}"),
    };
    let mut model = Model::default();
    assert_eq!(orphaned(model.apply(&boot(1, "old"))), []);
    let lost = orphaned(model.apply(&boot(2, "new")));
    assert_eq!(lost, ["old".try_into().unwrap()]);
    // One that was on its way until its life was over.
    let before = model.clone();
    assert_eq!(model.apply(&boot(1, "old")), Reply::Fenced);
    assert_eq!(model, before);
}
