//! What a client of one replica sees of turns that another one ends, also when
//! these are committed in another order than they were begun.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use dispatch::clock::{Clock, SystemClock};
use dispatch::hub::{Follow, Hub, Scope, Shown};
use dispatch::store::{PostgresOptions, PostgresStore, Store};
use dispatch_core::store::{Election, Fence, Granted, Outcome, Reply, Terminal, Verb};
use tokio::runtime::Runtime;

use super::crowd;
use super::support::postgres::{Cluster, shared};
use super::support::proxy::{Act, Proxy, Seen};
use super::support::until_true;

/// A client is told a quarter of a second later.
const PATIENCE: Duration = Duration::from_secs(3);

/// `None` where PostgreSQL is missing; else what a client is not told.
fn untold() -> Option<Result<(), String>> {
    let cluster = shared()?;
    let url = cluster.database();
    let name = Cluster::name_in(&url).to_owned();
    let proxy = Proxy::before(&url);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let open = |url: &str| {
        let options = PostgresOptions {
            writers: 2,
            readers: 1,
            ..PostgresOptions::default()
        };
        Arc::new(runtime.block_on(PostgresStore::open(url, options)).unwrap())
    };
    let (slow, other, here) = (open(&proxy.url(&url)), open(&url), open(&url));
    let turns = two_turns(&*other);
    let hub = Hub::new(4);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    runtime.spawn(hub.clone().poll(here.clone(), clock.clone()));
    let ends: Vec<Receiver<()>> = turns
        .iter()
        .map(|turn| follow(&runtime, &hub, here.clone(), clock.clone(), turn))
        .collect();

    // The first one ends, but for its commit; the second one overtakes it.
    proxy.plan(|seen| match seen {
        Seen::Commit => Act::Hold,
        Seen::Other => Act::Pass,
    });
    let late = asked(&*slow, done(&turns[0]));
    let lock = "SELECT 1 FROM dispatch.conversations WHERE id = 'c-1' FOR UPDATE NOWAIT";
    until_true("the first one is on its way", || {
        cluster.psql(&name, lock).is_err()
    });
    asked(&*other, done(&turns[1])).recv().unwrap().unwrap();
    let second = ends[1].recv_timeout(PATIENCE);
    proxy.plan(|_| Act::Pass);
    proxy.release();
    late.recv().unwrap().unwrap();
    let first = ends[0].recv_timeout(PATIENCE);

    for store in [slow, other, here] {
        runtime.block_on(store.close());
    }
    Some(match (first, second) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(_), Ok(())) => Err("the one that was committed late".to_owned()),
        (_, Err(_)) => Err("whatever was ended elsewhere".to_owned()),
    })
}

pub(super) fn asked(store: &impl Store, verb: Verb) -> Receiver<Outcome> {
    let (tell, heard): (Sender<Outcome>, _) = channel();
    store.submit(verb, Box::new(move |outcome| tell.send(outcome).unwrap()));
    heard
}

/// Two turns of two conversations, both owned.
fn two_turns(store: &impl Store) -> Vec<Granted> {
    let ask = |verb: Verb| asked(store, verb).recv().unwrap().unwrap();
    ask(crowd::boot());
    ask(crowd::accept(1));
    ask(crowd::accept(2));
    let Reply::View(view) = ask(crowd::view()) else {
        panic!("no view");
    };
    let Reply::Granted(turns) = ask(crowd::grant(&view)) else {
        panic!("not granted");
    };
    assert_eq!(turns.len(), 2);
    assert_eq!(turns[0].conversation.as_str(), "c-1");
    turns
}

fn done(turn: &Granted) -> Verb {
    Verb::Elect(Box::new(Election {
        fence: Fence {
            turn: turn.turn,
            epoch: turn.epoch,
        },
        step: None,
        answers: Vec::new(),
        terminal: Terminal::Done {
            finish_reason: "stop".to_owned(),
        },
    }))
}

/// A client that has read all there is; it tells of the turn's end.
fn follow(
    runtime: &Runtime,
    hub: &Hub,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    turn: &Granted,
) -> Receiver<()> {
    let place = hub.reserve().unwrap();
    let scope = Scope::Until(turn.turn);
    let conversation = turn.conversation.clone();
    let mut follow = Follow::new(hub, place, store, clock, conversation, 0, scope);
    let (synced, is_synced) = channel();
    let (ended, has_ended) = channel();
    runtime.spawn(async move {
        while let Some(shown) = follow.next().await.unwrap() {
            if matches!(shown, Shown::Synced(_)) {
                synced.send(()).unwrap();
            }
        }
        // Nobody waits for it any more where it came too late.
        let _ = ended.send(());
    });
    is_synced.recv().unwrap();
    has_ended
}

#[test]
fn l9_flawed_or_not_a_replica_shows_what_others_end_in_whatever_order_it_is_committed() {
    let Some(seen) = untold() else { return };
    assert_eq!(seen, Ok(()));
    #[cfg(planted)]
    for (id, missed) in [
        ("D22", "whatever was ended elsewhere"),
        ("D23", "the one that was committed late"),
    ] {
        dispatch_core::planted::select(&[id]);
        let seen = untold();
        dispatch_core::planted::select(&[]);
        assert_eq!(seen, Some(Err(missed.to_owned())), "{id}");
    }
}
