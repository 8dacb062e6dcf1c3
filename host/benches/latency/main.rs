//! What the server adds to a provider's own time: to the first token and to
//! each further one, beside the same provider called directly in the same run;
//! how long an fsync of that disk takes; and what a fresh server holds in memory.
//!
//! Server and provider are processes of their own. Between them stands a tee,
//! which notes when each piece passes: the same clock sees a piece enter the
//! server and leave it. Direct calls go through the same tee.

#![allow(clippy::unwrap_used)]

mod caller;
mod figures;
mod process;
mod tee;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caller::Caller;
use figures::Figures;
use process::Process;
use tee::Tee;

const TURNS: usize = 250;
const WARM_UP: usize = 10;
const PIECES: usize = 20;
const PIECE_DELAY_MS: u64 = 5;
const IDLE_AIM_MB: f64 = 30.0;

fn main() {
    let dir = Scratch::new();
    let provider = Process::start("provider", &["--listen", "127.0.0.1:0"], &dir.0);
    let tee = Tee::before(provider.address);
    let config = dir.0.join("dispatch.toml");
    std::fs::write(
        &config,
        format!(
            "[providers.bench]\ndialect = \"chat\"\nbase_url = \"http://{}/v1\"\nlimit = 64\nmodels = [\"scripted\"]\n",
            tee.address
        ),
    )
    .unwrap();
    let data_dir = dir.0.join("data");
    let serve = [
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        data_dir.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
    ];
    let server = Process::start("serve", &serve, &dir.0);
    let idle_kb = server.settled_rss_kb();

    let mut direct = Caller::direct(tee.address);
    let mut through = Caller::through(server.address);
    let mut figures = Figures::default();
    let mut disk = Disk::new(&data_dir);
    for n in 0..TURNS + WARM_UP {
        let message = message(n);
        let of_direct = direct.call(&message, &tee);
        let of_through = through.call(&message, &tee);
        let fsync = disk.fsync();
        if n >= WARM_UP {
            figures.direct.add(&of_direct);
            figures.through.add(&of_through);
            figures.fsyncs.push(fsync);
        }
    }
    figures.print();
    let idle_mb = idle_kb as f64 / 1024.0;
    let after_mb = server.settled_rss_kb() as f64 / 1024.0;
    println!(
        "memory: {idle_mb:.1} MB resident idle (after {TURNS} turns {after_mb:.1} MB); aim < {IDLE_AIM_MB} MB: {}",
        figures::verdict(idle_mb < IDLE_AIM_MB)
    );
}

/// Its own for each turn, so that the provider tells attempts apart.
fn message(n: usize) -> String {
    let text: String = (0..PIECES).map(tee::piece).collect();
    format!(
        "Turn {n}. script: [[{{\"text\": \"{text}\", \"chunk\": {}, \"delay_ms\": {PIECE_DELAY_MS}}}]]",
        tee::PIECE_LEN
    )
}

/// On the disk that holds the build, as a data directory would be.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let name = format!("latency-{}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over lies in the build's own directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file beside the database that grows as its log does.
struct Disk(File);

impl Disk {
    fn new(data_dir: &Path) -> Disk {
        Disk(File::create(data_dir.join("fsync")).unwrap())
    }

    fn fsync(&mut self) -> Duration {
        self.0.write_all(&[7; 4096]).unwrap();
        let began = Instant::now();
        self.0.sync_all().unwrap();
        began.elapsed()
    }
}
