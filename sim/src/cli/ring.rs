//! Which ring's simulation a seed is run in.

use anyhow::ensure;
use dispatch_sim::run::{Outcome, Profile, Sink, run_of, trace, twice};

/// What is simulated. The third ring, the replicas', is a build of its own:
/// `cargo madsim`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Ring {
    /// Dispatchers around one store, moved by one queue of events.
    #[default]
    Core,
    /// The whole host on a simulated network.
    Network,
}

impl Ring {
    /// Refuses what this ring cannot do in this build.
    pub(crate) fn check(self, profile: Profile) -> anyhow::Result<()> {
        ensure!(
            self == Ring::Core || cfg!(feature = "network"),
            "this build is without the network ring; build it with --features network"
        );
        ensure!(
            self == Ring::Core || profile == Profile::Swarm,
            "the network ring draws no other profile than swarm; leave --profile out"
        );
        Ok(())
    }

    pub(crate) fn run(self, seed: u64, profile: Profile) -> Outcome {
        match self {
            #[cfg(feature = "network")]
            Ring::Network => dispatch_sim::network::run(seed),
            _ => run_of(seed, profile),
        }
    }

    pub(crate) fn twice(self, seed: u64, profile: Profile) -> Outcome {
        match self {
            #[cfg(feature = "network")]
            Ring::Network => dispatch_sim::network::run_twice(seed),
            _ => twice(seed, profile),
        }
    }

    pub(crate) fn trace(self, seed: u64, profile: Profile, sink: Sink<'_>) -> Outcome {
        match self {
            #[cfg(feature = "network")]
            Ring::Network => {
                let mut sink = sink;
                dispatch_sim::network::trace(seed, &mut sink)
            }
            _ => trace(seed, profile, sink),
        }
    }

    /// As an option, where it is not the usual one.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Ring::Core => "",
            Ring::Network => " --ring network",
        }
    }
}
