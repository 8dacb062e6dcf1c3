//! A link as tools use it: what all that runs over it shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use russh_sftp::client::SftpSession;
use tokio::sync::{Mutex, OnceCell, Semaphore};

use super::Shared;
use super::clock::FarClock;
use super::far::Fault;
use super::question::{AskError, Question};
use crate::ssh::{Link, LinkError};

/// Questions asked on this server's own account at the same time: the channels
/// of a link are the pool's, but for this one and that of the tools' files.
const ASKING: usize = 1;
/// How often a channel is asked for, and how long is waited in between: others
/// hold all of them for a moment.
const CHANNEL_TRIES: u32 = 40;
const CHANNEL_PAUSE: Duration = Duration::from_millis(250);

/// Asks for a channel until one is granted, or for long enough.
pub(super) async fn granted<T, E, F>(ask: impl Fn() -> F) -> Result<Result<T, LinkError>, E>
where
    F: Future<Output = Result<Result<T, LinkError>, E>>,
{
    for _ in 1..CHANNEL_TRIES {
        match ask().await {
            Ok(Err(LinkError::Refused { .. })) => tokio::time::sleep(CHANNEL_PAUSE).await,
            answer => return answer,
        }
    }
    ask().await
}

/// See the module's page.
pub(super) struct Over {
    pub(super) shared: Arc<Shared>,
    pub(super) link: Arc<dyn Link>,
    /// Of this computer alone: a slow one must not hold up the others.
    pub(super) asking: Semaphore,
    /// Where its SFTP begins: the home directory, absolute. The scripts are told
    /// of it, so that both look for the runs in one place.
    home: OnceCell<String>,
    /// What a shell has made over there has been seen by SFTP.
    is_one_view: AtomicBool,
    /// Asked for by one start while others wait for it.
    clock: Mutex<Option<FarClock>>,
}

impl Over {
    pub(super) fn new(shared: Arc<Shared>, link: Arc<dyn Link>) -> Over {
        Over {
            shared,
            link,
            asking: Semaphore::new(ASKING),
            home: OnceCell::new(),
            is_one_view: AtomicBool::new(false),
            clock: Mutex::default(),
        }
    }

    pub(super) async fn home(&self) -> Result<&str, Fault> {
        let asked = self.home.get_or_try_init(|| async {
            let sftp = self.files(Session::Runs).await?;
            Ok::<_, Fault>(sftp.canonicalize(".").await?)
        });
        asked.await.map(String::as_str)
    }

    pub(super) async fn files(&self, of: Session) -> Result<Arc<SftpSession>, Fault> {
        let opened = granted(|| async {
            Ok::<_, Fault>(match of {
                Session::Runs => self.link.files().await,
                Session::Tools => self.link.tool_files().await,
            })
        });
        Ok(opened.await??)
    }

    /// A question about this server's runs.
    pub(super) async fn question(&self) -> Result<Question, AskError> {
        let home = self.home().await.map_err(AskError::Files)?;
        self.shared.question(home)
    }

    /// Its clock, asked for once a link.
    pub(super) async fn clock(&self) -> Result<FarClock, AskError> {
        let mut clock = self.clock.lock().await;
        if let Some(known) = *clock {
            return Ok(known);
        }
        let answers = Question::new()?.ask(&self.link, "tell_time").await?;
        let showed_ms = answers.iter().find_map(|said| said.strip_prefix("time "));
        let showed_ms = showed_ms.and_then(|ms| ms.parse().ok());
        let showed_ms = showed_ms
            .ok_or_else(|| AskError::Garbled(format!("asked for its time, it said {answers:?}")))?;
        let heard = FarClock::heard(showed_ms);
        *clock = Some(heard);
        Ok(heard)
    }

    /// It has been set, it seems: the next start asks again.
    pub(super) async fn forget_clock(&self) {
        *self.clock.lock().await = None;
    }

    /// Runs `work` as one of the few questions at a time.
    pub(super) async fn in_turn<T>(&self, work: impl Future<Output = T>) -> T {
        let _one_of_few = self.asking.acquire().await;
        work.await
    }

    pub(super) fn is_one_view(&self) -> bool {
        self.is_one_view.load(Ordering::Relaxed)
    }

    pub(super) fn found_one_view(&self) {
        self.is_one_view.store(true, Ordering::Relaxed);
    }
}

/// Which of a link's SFTP sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Session {
    /// That by which all runs are watched.
    Runs,
    /// That of the file tools, which may be held up by any file.
    Tools,
}
