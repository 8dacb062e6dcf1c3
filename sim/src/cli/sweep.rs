//! `sweep`: many seeds.

mod progress;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::value_parser;
use dispatch_sim::run::{Outcome, Profile, Violation, What, record};
use dispatch_sim::sometimes::Point;
use dispatch_sim::sweep::{Pace, Swept, sweep as sweep_seeds};
use serde_json::{Value, json};

use super::finding::{Finding, RUNS, shown_violation};
use super::out::{Out, aside};
use super::ring::Ring;
use super::{BROKEN, FINE, INTERRUPTED, PROGRAM, interrupt, keep, quoted, same_runs};
use progress::Progress;

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
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u16).range(1..=1_024))]
    threads: u16,
    /// What seeds draw.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// In which ring.
    #[arg(long, value_enum, default_value_t)]
    ring: Ring,
    /// With these planted bugs, where the build holds them.
    #[arg(long, value_name = "ID")]
    plant: Vec<String>,
    /// Run every seed twice and compare, not only every sixteenth.
    #[arg(long)]
    twice: bool,
    /// Tell how often each rare situation was met; the core ring counts them.
    #[arg(long)]
    points: bool,
    /// Tell the result as JSON.
    #[arg(long)]
    json: bool,
    /// Leave a failing run as it is.
    #[arg(long)]
    no_shrink: bool,
    /// Where the recipe of a failing run is written.
    #[arg(long, value_name = "DIR", default_value = "target/sim")]
    out: PathBuf,
}

/// Of so many seeds one is run twice.
const TWICE_EVERY: u64 = 16;

pub(crate) fn sweep(args: &Args, out: &mut Out) -> anyhow::Result<u8> {
    let (ring, profile) = (args.ring, args.profile);
    args.check()?;
    super::planted::select(&args.plant)?;
    let swept = run_all(args, |seed| {
        match args.twice || seed.is_multiple_of(TWICE_EVERY) {
            true => ring.twice(seed, profile),
            false => ring.run(seed, profile),
        }
    })?;
    if !args.json {
        args.tell(&swept, out);
    }
    let found = match &swept.violation {
        Some(violation) => Some(args.look_into(violation)?),
        None => None,
    };
    match (args.json, &found) {
        (true, _) => out.line(args.shown(&swept, found.as_ref())?),
        (false, Some(found)) => found.tell(out),
        (false, None) => {}
    }
    Ok(match swept.violation.is_some() {
        true => BROKEN,
        false if swept.interrupted => INTERRUPTED,
        false if args.never_met(&swept).is_empty() => FINE,
        false => BROKEN,
    })
}

fn run_all(args: &Args, one: impl Fn(u64) -> Outcome + Sync) -> anyhow::Result<Swept> {
    let pace = Pace {
        threads: usize::from(args.threads),
        at_most: args.seconds.map(Duration::from_secs),
        stop: Some(interrupt::asked()?),
    };
    let progress = Progress::of(args.seeds);
    let seeds = args.from..args.end()?;
    Ok(sweep_seeds(seeds, pace, one, |done, simulated_us| {
        if let Some(line) = progress.line(done, simulated_us) {
            aside(line);
        }
    }))
}

/// What a broken promise came to.
enum Found {
    Small(Box<Finding>),
    /// It is left as it is; how to see it again.
    AsItIs(String),
}

impl Found {
    fn tell(&self, out: &mut Out) {
        match self {
            Found::Small(finding) => finding.tell(out),
            Found::AsItIs(command) => out.line(format_args!("reproduce: {command}")),
        }
    }
}

impl Args {
    /// Refuses what cannot be done before anything is.
    fn check(&self) -> anyhow::Result<()> {
        self.ring.check(self.profile)?;
        ensure!(
            self.ring == Ring::Core || !self.points,
            "only the core ring counts rare situations; leave --points or --ring out"
        );
        self.end()?;
        if self.makes_small() {
            keep::probe(&self.out)?;
        }
        Ok(())
    }

    fn makes_small(&self) -> bool {
        self.ring == Ring::Core && !self.no_shrink
    }

    /// After the last seed.
    fn end(&self) -> anyhow::Result<u64> {
        let end = self.from.checked_add(self.seeds);
        end.ok_or_else(|| {
            anyhow::anyhow!(
                "from {} on there are only {} seeds; give fewer --seeds or a lower --from",
                self.from,
                u64::MAX - self.from
            )
        })
    }

    fn look_into(&self, violation: &Violation) -> anyhow::Result<Found> {
        let seed = violation.seed;
        let how = match violation.what {
            What::Oracle(_) => " --trace",
            What::Determinism => " --twice",
        };
        let options = same_runs(self.profile, &self.plant);
        let ring = self.ring.option();
        let again = format!("run --seed {seed}{options}{ring}{how}");
        if violation.what == What::Determinism || !self.makes_small() {
            return Ok(Found::AsItIs(format!("{PROGRAM} {again}")));
        }
        let (_, mut recipe) = record(seed, self.profile);
        recipe.planted.clone_from(&self.plant);
        let finding = Finding::of(recipe, RUNS, &self.out, again)?;
        Ok(Found::Small(Box::new(finding)))
    }

    /// Points that this sweep should have met: only the swarm of the core ring
    /// draws everything.
    fn never_met(&self, swept: &Swept) -> Vec<Point> {
        match self.profile == Profile::Swarm && self.ring == Ring::Core {
            true => swept.rates.never_met(),
            false => Vec::new(),
        }
    }

    /// What runs the seeds that were not run.
    fn rest(&self, swept: &Swept) -> Option<String> {
        let left = self.from.saturating_add(self.seeds) - swept.next;
        let ends_early = left > 0 && swept.violation.is_none();
        ends_early.then(|| {
            let mut options = same_runs(self.profile, &self.plant);
            options.push_str(self.ring.option());
            for (is_on, option) in [
                (self.twice, " --twice"),
                (self.points, " --points"),
                (self.json, " --json"),
                (self.no_shrink, " --no-shrink"),
            ] {
                options.push_str(if is_on { option } else { "" });
            }
            if self.threads != 2 {
                options.push_str(&format!(" --threads {}", self.threads));
            }
            if self.out != *"target/sim" {
                options.push_str(&format!(" --out {}", quoted(&self.out)));
            }
            format!("--from {} --seeds {left}{options}", swept.next)
        })
    }

    fn tell(&self, swept: &Swept, out: &mut Out) {
        out.line(format_args!(
            "{} seeds from {}: {} events, {:.1} simulated hours in {:.1} s ({:.0} seeds/s), digest {:016x}",
            swept.seeds,
            self.from,
            swept.events,
            swept.simulated_hours(),
            swept.took.as_secs_f64(),
            swept.seeds_per_s(),
            swept.digest,
        ));
        if self.ring == Ring::Core {
            self.tell_rarest(swept, out);
        }
        for point in self.never_met(swept) {
            out.line(format_args!("never met: {}", point.name()));
        }
        if let Some(rest) = self.rest(swept) {
            out.line(format_args!("go on with {rest}"));
        }
        if let Some(violation) = &swept.violation {
            out.line(format_args!("{violation}"));
        }
        // Making it small takes a while.
        out.flush();
    }

    fn tell_rarest(&self, swept: &Swept, out: &mut Out) {
        let rarest = swept.rates.rarest_first();
        let many = match self.points {
            true => rarest.len(),
            false => 5,
        };
        out.line("rarest situations (seeds that met them, times in all):");
        for (point, runs, times) in rarest.into_iter().take(many) {
            out.line(format_args!("  {:32} {runs:>8} {times:>9}", point.name()));
        }
    }

    fn shown(&self, swept: &Swept, found: Option<&Found>) -> anyhow::Result<Value> {
        let points = (swept.rates.rarest_first().into_iter())
            .map(|(point, runs, times)| {
                let met = json!({"seeds": runs, "times": times});
                (point.name().to_owned(), met)
            })
            .collect::<serde_json::Map<_, _>>();
        let never: Vec<&str> = self.never_met(swept).iter().map(|p| p.name()).collect();
        let mut violation = swept.violation.as_ref().map(shown_violation);
        if let (Some(violation), Some(found)) = (&mut violation, found) {
            match found {
                Found::Small(finding) => violation["small"] = finding.shown(),
                Found::AsItIs(command) => violation["reproduce"] = json!(command),
            }
        }
        Ok(json!({
            "from": self.from,
            "next": swept.next,
            "goOnWith": self.rest(swept),
            "interrupted": swept.interrupted,
            "seeds": swept.seeds,
            "events": swept.events,
            "simulatedHours": swept.simulated_hours(),
            "tookMs": u64::try_from(swept.took.as_millis())?,
            "seedsPerSecond": swept.seeds_per_s(),
            "digest": format!("{:016x}", swept.digest),
            // The network ring counts none.
            "sometimes": (self.ring == Ring::Core).then_some(points),
            "neverMet": never,
            "violation": violation,
        }))
    }
}
