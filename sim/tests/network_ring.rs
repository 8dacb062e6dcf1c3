//! The network ring under `cargo test`.
#![cfg(feature = "network")]

use dispatch_sim::network::{run, trace};

#[test]
fn one() {
    let seed = std::env::var("SEED").map_or(0, |s| s.parse().unwrap());
    let outcome = trace(seed, &mut |line| println!("{line}"));
    println!("{outcome:?}");
    let again = run(seed);
    assert_eq!(outcome.digest, again.digest);
}
