//! Brings the replica ring under plain `cargo test`: madsim needs a build of
//! its own, so a cargo of its own runs `cargo madsim`.

use std::path::Path;
use std::process::Command;

#[test]
fn l9_the_replica_ring_breaks_no_promise() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut madsim = Command::new(cargo);
    madsim
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["madsim", "--locked"]);
    // They would override the flags that the alias passes.
    for flags in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
    ] {
        madsim.env_remove(flags);
    }
    let status = madsim.status().expect("cargo can be started");
    assert!(
        status.success(),
        "`cargo madsim` failed ({status}); its output says which seed and oracle, or what does not build"
    );
}
