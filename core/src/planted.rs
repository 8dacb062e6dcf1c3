//! The defect ledger's hook: known bugs, planted to prove that the oracles bite.
//!
//! Only a build with `--cfg planted` holds them, switched on one by one at run
//! time; in any other build `planted!` is the constant `false` and the bug is
//! not compiled.

/// Whether the planted bug of this id is switched on.
#[macro_export]
macro_rules! planted {
    ($id:literal) => {{
        #[cfg(planted)]
        {
            $crate::planted::is_on($id)
        }
        #[cfg(not(planted))]
        {
            false
        }
    }};
}

/// The ids that this build can plant in the core.
pub const LEDGER: [&str; 45] = [
    "D01", "D02", "D03", "D05", "D06", "D07", "D08", "D09", "D10", "D11", "D12", "D13", "D14",
    "D16", "D17", "D18", "D20", "D21", "D24", "D25", "D26", "D27", "D29", "D31", "D32", "D33",
    "D34", "D37", "D38", "D39", "D40", "D41", "D42", "D43", "D44", "D45", "D46", "D47", "D48",
    "D49", "D51", "D52", "D53", "D54", "D55",
];

/// And those of them that only the host can have: its own tests answer for them.
pub const HOST: [&str; 4] = ["D19", "D22", "D23", "D28"];

#[cfg(planted)]
static ON: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

#[cfg(planted)]
fn bit(id: &str) -> u64 {
    LEDGER
        .iter()
        .chain(&HOST)
        .position(|known| *known == id)
        .map_or(0, |n| 1 << n)
}

/// Switches exactly these bugs on, for the whole process.
#[cfg(planted)]
pub fn select(ids: &[&str]) {
    let bits = ids.iter().fold(0, |bits, id| bits | bit(id));
    ON.store(bits, core::sync::atomic::Ordering::Relaxed);
}

/// Whether a bug is on.
#[cfg(planted)]
pub fn is_on(id: &str) -> bool {
    ON.load(core::sync::atomic::Ordering::Relaxed) & bit(id) != 0
}
