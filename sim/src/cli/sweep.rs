//! `sweep`: many seeds.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dispatch_sim::run::{Outcome, Profile, What};
use dispatch_sim::sometimes::Point;
use dispatch_sim::sweep::{Pace, Swept, sweep as sweep_seeds};

use super::ring::Ring;
use super::{BROKEN, PROGRAM, shown_violation, verdict};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Stop after so many seconds, and tell where to go on.
    #[arg(long)]
    seconds: Option<u64>,
    /// Seeds that run at the same time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What seeds draw.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// In which ring.
    #[arg(long, value_enum, default_value_t)]
    ring: Ring,
    /// Run every seed twice and compare, not only every sixteenth.
    #[arg(long)]
    twice: bool,
    /// Tell how often each rare situation was met.
    #[arg(long)]
    points: bool,
    /// Tell the result as JSON.
    #[arg(long)]
    json: bool,
    /// Leave a failing run as it is.
    #[arg(long)]
    no_shrink: bool,
    /// Where the recipe of a failing run is written.
    #[arg(long, default_value = "target/sim")]
    out: PathBuf,
}

/// Of so many seeds one is run twice.
const TWICE_EVERY: u64 = 16;

pub(crate) fn sweep(args: &Args) -> anyhow::Result<ExitCode> {
    let (ring, profile) = (args.ring, args.profile);
    ring.check(profile)?;
    let swept = run_all(args, |seed| {
        match args.twice || seed.is_multiple_of(TWICE_EVERY) {
            true => ring.twice(seed, profile),
            false => ring.run(seed, profile),
        }
    });
    match args.json {
        true => tell_json(args, &swept)?,
        false => tell(args, &swept)?,
    }
    if let Some(violation) = &swept.violation {
        match violation.what {
            What::Oracle(_) if ring == Ring::Core && !args.no_shrink => {
                super::run::make_small(violation.seed, profile, &args.out)?;
            }
            what => eprintln!(
                "reproduce: {PROGRAM} run --seed {} --profile {}{}{}",
                violation.seed,
                shown(profile),
                ring.shown(),
                match what {
                    What::Oracle(_) => " --trace",
                    What::Determinism => " --twice",
                }
            ),
        }
        return Ok(verdict(swept.violation.as_ref()));
    }
    match never_met(args, &swept).is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::from(BROKEN)),
    }
}

/// Points that this sweep should have met: only the swarm of the core ring draws
/// everything.
fn never_met(args: &Args, swept: &Swept) -> Vec<Point> {
    match args.profile == Profile::Swarm && args.ring == Ring::Core {
        true => swept.rates.never_met(),
        false => Vec::new(),
    }
}

fn shown(profile: Profile) -> &'static str {
    match profile {
        Profile::Swarm => "swarm",
        Profile::Storm => "storm",
    }
}

fn run_all(args: &Args, one: impl Fn(u64) -> Outcome + Sync) -> Swept {
    let (started, shown) = (Instant::now(), AtomicU64::new(0));
    let every = match std::io::stderr().is_terminal() {
        true => 1,
        false => 30,
    };
    let pace = Pace {
        threads: args.threads,
        at_most: args.seconds.map(Duration::from_secs),
    };
    let seeds = args.from..args.from.saturating_add(args.seeds);
    sweep_seeds(seeds, pace, one, |done, simulated_us| {
        let due = started.elapsed().as_secs() / every;
        if shown.swap(due, Ordering::Relaxed) != due {
            let seconds = started.elapsed().as_secs_f64();
            let (rate, hours) = (done as f64 / seconds, simulated_us as f64 / 3.6e9);
            eprintln!(
                "{done} of {} seeds, {rate:.0} a second; {hours:.0} h simulated",
                args.seeds
            );
        }
    })
}

fn tell(args: &Args, swept: &Swept) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} seeds from {}: {} events, {:.1} simulated hours in {:.1} s ({:.0} seeds/s), digest {:016x}",
        swept.seeds,
        args.from,
        swept.events,
        swept.simulated_hours(),
        swept.took.as_secs_f64(),
        swept.seeds_per_s(),
        swept.digest,
    )?;
    if args.ring == Ring::Core {
        tell_rarest(args, swept, &mut out)?;
    }
    if swept.next < args.from.saturating_add(args.seeds) && swept.violation.is_none() {
        writeln!(out, "go on with --from {}", swept.next)?;
    }
    if let Some(violation) = &swept.violation {
        writeln!(out, "{violation}")?;
    }
    for point in never_met(args, swept) {
        writeln!(out, "never met: {}", point.name())?;
    }
    Ok(())
}

fn tell_rarest(args: &Args, swept: &Swept, out: &mut impl Write) -> std::io::Result<()> {
    let rarest = swept.rates.rarest_first();
    let many = match args.points {
        true => rarest.len(),
        false => 5,
    };
    writeln!(
        out,
        "rarest situations (seeds that met them, times in all):"
    )?;
    for (point, runs, times) in rarest.into_iter().take(many) {
        writeln!(out, "  {:32} {runs:>8} {times:>9}", point.name())?;
    }
    Ok(())
}

fn tell_json(args: &Args, swept: &Swept) -> anyhow::Result<()> {
    let points: serde_json::Map<String, serde_json::Value> =
        (swept.rates.rarest_first().into_iter())
            .map(|(point, runs, times)| {
                let met = serde_json::json!({"seeds": runs, "times": times});
                (point.name().to_owned(), met)
            })
            .collect();
    let never: Vec<&str> = never_met(args, swept).iter().map(|p| p.name()).collect();
    let shown = serde_json::json!({
        "from": args.from,
        "next": swept.next,
        "seeds": swept.seeds,
        "events": swept.events,
        "simulatedHours": swept.simulated_hours(),
        "tookMs": u64::try_from(swept.took.as_millis())?,
        "seedsPerSecond": swept.seeds_per_s(),
        "digest": format!("{:016x}", swept.digest),
        "sometimes": points,
        "neverMet": never,
        "violation": swept.violation.as_ref().map(shown_violation),
    });
    println!("{shown}");
    Ok(())
}
