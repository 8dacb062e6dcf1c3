//! `planted`: the defect ledger.

use clap::value_parser;
use dispatch_sim::recipe::Recipe;

use super::out::Out;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// So many pairs, drawn by the seed, each in one range, instead of each alone.
    #[arg(long, conflicts_with_all = ["ids", "ranges"], value_parser = value_parser!(u16).range(1..))]
    pairs: Option<u16>,
    /// Where the search begins.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Ranges of seeds in which each is looked for.
    #[arg(long, default_value_t = dispatch_sim::planted::RANGES, value_parser = value_parser!(u64).range(1..=1_000))]
    ranges: u64,
}

/// Switches planted bugs on.
///
/// # Errors
/// This build holds no such bug.
#[cfg(planted)]
pub(crate) fn select(ids: &[String]) -> anyhow::Result<()> {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    known(&ids)?;
    dispatch_core::planted::select(&ids);
    Ok(())
}

fn known(ids: &[&str]) -> anyhow::Result<()> {
    let known = dispatch_core::planted::LEDGER;
    for id in ids {
        anyhow::ensure!(
            known.contains(id),
            "no bug {id} can be planted; these can: {}",
            known.join(" ")
        );
    }
    Ok(())
}

#[cfg(not(planted))]
const NO_BUGS: &str = "this build holds no planted bugs; build it with: cargo run --config 'build.rustc-workspace-wrapper=\".cargo/planted-rustc\"' -p dispatch-sim -- planted";

#[cfg(not(planted))]
pub(crate) fn select(ids: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(ids.is_empty(), NO_BUGS);
    Ok(())
}

/// A recipe that needs planted bugs gets them where this build has them.
///
/// # Errors
/// There are no such bugs in any build.
pub(crate) fn select_for(recipe: &Recipe) -> anyhow::Result<()> {
    known(&recipe.planted_ids())?;
    #[cfg(planted)]
    select(&recipe.planted)?;
    #[cfg(not(planted))]
    if !recipe.planted.is_empty() {
        super::out::aside(format_args!(
            "this recipe fails with {} planted; this build holds no planted bugs and should find nothing",
            recipe.planted.join(" and ")
        ));
    }
    Ok(())
}

#[cfg(planted)]
pub(crate) fn planted(args: &Args, out: &mut Out) -> anyhow::Result<u8> {
    use dispatch_sim::planted::{last_seed, median, table_head};

    known(&args.ids.iter().map(String::as_str).collect::<Vec<_>>())?;
    let ranges = args.pairs.map_or(args.ranges, u64::from);
    anyhow::ensure!(
        last_seed(args.seed, ranges).is_some(),
        "{ranges} ranges of seeds from {} on go past the last seed; begin with a lower --seed",
        args.seed
    );
    let (mut all_caught, mut seeds) = (true, Vec::new());
    out.line(table_head());
    for hunt in hunts(args) {
        all_caught &= hunt.is_caught();
        seeds.extend(hunt.seeds());
        out.line(hunt);
        out.flush();
        if out.is_lost() {
            break;
        }
    }
    if let Some(median) = median(seeds) {
        out.line(format_args!("median: {median} seeds"));
    }
    Ok(match all_caught {
        true => super::FINE,
        false => super::BROKEN,
    })
}

/// One after the other, each when it is asked for.
#[cfg(planted)]
fn hunts(args: &Args) -> Box<dyn Iterator<Item = dispatch_sim::planted::Hunt> + '_> {
    use dispatch_sim::planted::{LEDGER, hunt, pairs, range_start};

    let start = |range| range_start(args.seed, range);
    if let Some(count) = args.pairs {
        let pairs = (0..).zip(pairs(usize::from(count), args.seed));
        return Box::new(pairs.map(move |(n, pair)| hunt(&pair, std::iter::once(start(n)))));
    }
    let wanted = |id: &str| args.ids.is_empty() || args.ids.iter().any(|only| only == id);
    let bugs = LEDGER.iter().filter(move |(id, _)| wanted(id));
    Box::new(bugs.map(move |bug| hunt(&[*bug], (0..args.ranges).map(start))))
}

#[cfg(not(planted))]
pub(crate) fn planted(_: &Args, _: &mut Out) -> anyhow::Result<u8> {
    anyhow::bail!(NO_BUGS)
}
