use std::cell::RefCell;
use std::rc::Rc;

use dispatch_core::store::TurnState;

use super::rows::state_name;
use super::*;
use crate::world::World;

#[test]
fn w2_the_state_at_the_end_is_that_of_the_store() {
    for seed in [2, 4, 17, 52] {
        let builder = Rc::new(RefCell::new(Builder::simulation("a seed", "")));
        let mut world = World::new(crate::run::plan(seed, Profile::Swarm), None);
        world.recorder.watch = Some(Box::new(builder.clone()));
        assert_eq!(world.run(), None);
        let turns = world.model().turns.clone();
        let providers = world.model().providers.clone();
        let end = world.now_us();
        drop(world);
        let timeline = builder.take().finish(end);

        let mut lanes = timeline.lanes_of(LaneKind::Turn);
        lanes.sort_unstable();
        let mut names: Vec<String> = turns.keys().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(lanes, names, "a lane for every turn, and no other");

        let state = timeline.state_after(timeline.events());
        let value = |lane: &str, field| {
            let found = state.get(&(lane.to_owned(), field));
            found.map(String::as_str).unwrap_or_default()
        };
        for (turn, row) in &turns {
            let lane = turn.to_string();
            assert_eq!(value(&lane, Field::State), state_name(row.state));
            assert_eq!(value(&lane, Field::Step), row.step.to_string());
            assert_eq!(value(&lane, Field::Attempt), row.retry.attempt.to_string());
            assert_eq!(value(&lane, Field::Epoch), row.epoch.0.to_string());
            assert_eq!(value(&lane, Field::Provider), row.provider.as_str());
            assert_eq!(value(&lane, Field::Owner), "");
            assert!(row.state == TurnState::Ended && !value(&lane, Field::Terminal).is_empty());
        }
        for (provider, row) in &providers {
            assert_eq!(
                value(provider.as_str(), Field::Limit),
                row.limit.to_string()
            );
            assert!(matches!(value(provider.as_str(), Field::Running), "" | "0"));
        }
    }
}

#[test]
fn a_page_never_holds_more_events_than_it_says_and_drops_chatter_first() {
    let mut builder = Builder::recorded("many", "none", 0);
    let lane = builder.store();
    for n in 0..3 * MOST_EVENTS as u64 {
        let is_kept = n % 100 == 0;
        builder.add(builder::Draft {
            quiet: (!is_kept).then_some(Kind::Poll),
            ..builder::Draft::new(n, Kind::Store, lane, n.to_string())
        });
        assert!(builder.events.len() < 2 * MOST_EVENTS);
    }
    let timeline = builder.finish(0);
    assert_eq!(timeline.events(), MOST_EVENTS);
    assert_eq!(timeline.events_of(Kind::Store), 3 * MOST_EVENTS / 100);
    assert_eq!(timeline.dropped.oldest, 0);
    assert_eq!(timeline.dropped.chatter, 2 * MOST_EVENTS as u64);
    assert!(timeline.remarks[0].contains("are left out"));
}

#[test]
fn what_the_oldest_events_did_is_the_state_before_the_first_one_kept() {
    let mut builder = Builder::recorded("many", "none", 0);
    let lane = builder.lane(LaneKind::Provider, "north");
    for n in 0..MOST_EVENTS as u64 + 7 {
        builder.add(builder::Draft::new(n, Kind::Store, lane, "limit"));
        builder.set(lane, Field::Limit, (n / 10).to_string());
        if n == 3 {
            builder.set(lane, Field::Running, "3");
        }
    }
    let timeline = builder.finish(0);
    assert_eq!(timeline.dropped.oldest, 7);
    let first = timeline.state_after(0);
    let value = |field| first[&("north".to_owned(), field)].as_str();
    assert_eq!(value(Field::Running), "3");
    assert_eq!(value(Field::Limit), "0");
}

#[test]
fn looking_on_changes_nothing() {
    for seed in [3, 59] {
        assert_eq!(of_seed(seed, Profile::Swarm).1, crate::run::run(seed));
    }
}
