//! Who connects: runs commands over a link, asks whether it is alive as the core
//! does, lets it go, and connects once more when all is well again.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dispatch::ssh::{ComputerSettings, HostKeys, Link, SshLimits, SshLink, connect};
use russh::keys::ssh_key::LineEnding;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::net::SimNet;
use super::computer::{Keys, PORT};
use super::{COMPUTER, Fact, MENDED_MS, Plan, Story};

pub(super) const LIMITS: SshLimits = SshLimits {
    connect: Duration::from_secs(10),
    handshake: Duration::from_secs(15),
};
pub(super) const PING_EVERY: Duration = Duration::from_secs(5);
pub(super) const PING_LIMIT: Duration = Duration::from_secs(15);
/// For what is left of a link to go, and for the goodbyes of `close`.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) async fn live(
    plan: Plan,
    story: Story,
    keys: Arc<Keys>,
    dir: PathBuf,
) -> turmoil::Result {
    let settings = settings(&keys, &dir)?;
    let known = HostKeys::new(&dir);
    let net = SimNet::new();
    let begun = Instant::now();
    // Whatever has to be loaded once is there.
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let tasks_before = tasks();
    story.tell(Fact::Asked);
    let linked = connect(&settings, &net, &known, LIMITS).await;
    // Where the run keeps its files is nobody's business.
    let told = |fault: &dyn ToString| fault.to_string().replace(&dir.display().to_string(), "~");
    let told = linked.as_ref().map(|_| ()).map_err(|fault| told(fault));
    story.tell(Fact::Connected(told));
    if let Ok(link) = linked {
        use_link(&plan, &story, link).await;
    }
    sleep(FAREWELL).await;
    story.tell(Fact::Left(net.open(), tasks() - tasks_before));
    sleep_until(begun + Duration::from_millis(MENDED_MS)).await;
    let again = connect(&settings, &net, &known, LIMITS).await;
    let again = match again {
        Ok(link) => run(&link, "again").await,
        Err(fault) => Err(fault.to_string()),
    };
    story.tell(Fact::Again(again));
    Ok(())
}

fn settings(keys: &Keys, dir: &Path) -> std::io::Result<ComputerSettings> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("id");
    let text = keys.user.to_openssh(LineEnding::LF);
    let text = text.map_err(std::io::Error::other)?;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).mode(0o600).open(&path)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    let mut settings = ComputerSettings::new(COMPUTER, "somebody");
    settings.port = PORT;
    settings.identity_files = vec![path];
    Ok(settings)
}

/// Until its commands are run or it has come to its end.
async fn use_link(plan: &Plan, story: &Story, link: SshLink) {
    let link = Arc::new(link);
    let closed = link.closed();
    let told = story.clone();
    let ended = tokio::spawn(async move {
        let fault = closed.await;
        told.tell(Fact::Closed(fault.to_string()));
        fault
    });
    let (asked, asker) = (link.clone(), story.clone());
    let pinging = tokio::spawn(async move {
        loop {
            sleep(PING_EVERY).await;
            asker.tell(Fact::PingBegun);
            let alive = asked.ping(PING_LIMIT).await;
            let is_over = alive.is_err();
            let alive = alive.map_err(|fault| fault.to_string());
            asker.tell(Fact::PingEnded(alive));
            if is_over {
                return;
            }
        }
    });
    for n in 0..plan.commands {
        story.tell(Fact::ExecBegun(n));
        let ran = run(&link, &format!("command {n}")).await;
        story.tell(Fact::ExecEnded(n, ran));
        sleep(Duration::from_millis(plan.pause_ms)).await;
    }
    pinging.abort();
    // Whoever still holds it must not matter.
    let _ = pinging.await;
    match Arc::into_inner(link) {
        Some(link) => link.close().await,
        None => story.tell(Fact::Closed("somebody still holds the link".to_owned())),
    }
    let _ = timeout(FAREWELL, ended).await;
}

async fn run(link: &SshLink, command: &str) -> Result<String, String> {
    let done = link.exec(command.to_owned(), Vec::new()).await;
    let done = done.map_err(|error| error.to_string())?;
    let output = String::from_utf8_lossy(&done.output).into_owned();
    Ok(format!("{output} exit {:?}", done.code))
}
