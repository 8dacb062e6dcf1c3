//! What a simulated replica hears, journaled as a server journals it, is run
//! again to the same effects.
#![cfg(feature = "network")]

use dispatch::replay::replay;
use dispatch_sim::run::{Profile, journals, run_of};

#[test]
fn o3_the_journal_of_every_simulated_life_replays_to_the_same_effects() {
    let folder = std::env::temp_dir().join(format!("dispatch-lives-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut lives = 0;
    for seed in 0..12 {
        let (outcome, written) = journals(seed, Profile::Swarm);
        assert_eq!(
            outcome,
            run_of(seed, Profile::Swarm),
            "journals change nothing"
        );
        for (name, bytes) in written {
            let path = folder.join(format!("{seed}-{name}"));
            std::fs::write(&path, bytes).expect("written");
            let report = replay(&path).expect("readable");
            assert_eq!(report.exit_code(), 0, "seed {seed}, {name}: {report}");
            lives += 1;
        }
    }
    assert!(lives > 12, "processes also die in {lives} lives");
    std::fs::remove_dir_all(&folder).expect("removed");
}
