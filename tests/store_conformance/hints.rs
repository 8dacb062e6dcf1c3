//! What replicas tell each other by NOTIFY (L9): hints, on which nothing rests.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use dispatch::store::{Hint, PostgresOptions, PostgresStore, Store};
use dispatch_core::ids::ConversationId;

use super::crowd;
use super::elsewhere::asked;
use super::support::postgres::{Cluster, shared};
use super::support::until;

fn hears(store: &impl Store) -> Receiver<Hint> {
    let (tell, heard) = channel();
    store.listen(Box::new(move |hint| {
        // The test may be over.
        let _ = tell.send(hint);
    }));
    heard
}

/// A hint that nobody hears yet is lost: told until it is heard.
fn nudged(from: &impl Store, heard: &Receiver<Hint>, node: &str) {
    until("a nudge is heard", || {
        from.nudge(node);
        let hint = heard
            .try_iter()
            .find(|hint| *hint == Hint::Node(node.into()));
        hint.map(drop)
    });
}

#[test]
fn l9_what_a_replica_commits_is_hinted_to_the_others_and_not_to_itself() {
    let Some(cluster) = shared() else { return };
    let url = cluster.database();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let open = || {
        let options = PostgresOptions::default();
        Arc::new(
            runtime
                .block_on(PostgresStore::open(&url, options))
                .unwrap(),
        )
    };
    let (here, there) = (open(), open());
    let (heard_here, heard_there) = (hears(&*here), hears(&*there));
    nudged(&*there, &heard_here, "node-1");
    for verb in [crowd::boot(), crowd::accept(1)] {
        asked(&*there, verb).recv().unwrap().unwrap();
    }
    let logged = Hint::Conversation(ConversationId::try_from("c-1").unwrap());
    until("the accepted turn is hinted at", || {
        heard_here.try_iter().find(|hint| *hint == logged)
    });
    // Whoever listens is cut off, and listens again.
    let name = Cluster::name_in(&url);
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    cluster.psql(name, cut).unwrap();
    nudged(&*there, &heard_here, "node-2");
    let echoes: Vec<Hint> = heard_there.try_iter().collect();
    assert_eq!(echoes, [], "nobody is told what it has done itself");
    for store in [here, there] {
        runtime.block_on(store.close());
    }
}
