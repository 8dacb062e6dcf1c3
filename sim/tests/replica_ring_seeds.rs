//! The replica ring's seeds: `cargo madsim`. With `REPLICA_RING_SEED=N` only
//! that one, with every event printed.
#![cfg(madsim)]

use std::io::Write;

use dispatch_sim::replicas::{found, print, run, run_seeds, run_twice};
use dispatch_sim::sweep::Swept;

const _: () = assert!(
    cfg!(tokio_unstable),
    "the flags of .cargo/config.toml are lost"
);

#[test]
fn x() {
    if let Ok(seed) = std::env::var("REPLICA_RING_SEED") {
        let outcome = print(seed.parse().unwrap());
        println!("{:?}", outcome);
        return;
    }
    let swept: Swept = run_seeds(0..40, run);
    writeln!(std::io::stdout(), "{:?}", swept).unwrap();
    if let Some(f) = found(&swept) {
        panic!("{f}")
    }
    let swept: Swept = run_seeds(0..4, run_twice);
    if let Some(f) = found(&swept) {
        panic!("{f}")
    }
}
