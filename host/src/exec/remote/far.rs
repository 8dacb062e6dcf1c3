//! Files on another computer, by SFTP.

use std::io::SeekFrom;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt};
use russh_sftp::client::SftpSession;
use russh_sftp::client::error::Error;
use russh_sftp::client::fs::{File, Metadata};
use russh_sftp::protocol::{OpenFlags, StatusCode};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::Instant;

use super::over::{Over, Session};
use super::question::{AskError, Question};
use super::run::{RemoteCall, Run};
use crate::ssh::LinkError;

/// How much is asked for at once, and how often while earlier answers are
/// awaited: 1 MB on its way is 20 MB/s at a round trip of 50 ms.
const STRIPE_BYTES: usize = 252 * 1024;
const LANES: u64 = 4;
/// How often it is looked whether the link is lost, and how long no answer at
/// all is put up with: the pool finds out sooner when the link itself is dead.
const LOSS_LOOK: Duration = Duration::from_secs(1);
pub(super) const SILENCE_PATIENCE: Duration = Duration::from_secs(60);

/// Why something could not be done with a file over there.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("no such file or directory")]
    Missing,
    #[error("permission denied")]
    Denied,
    /// The computer said no, and SFTP has no word for why.
    #[error("{0}")]
    Failed(String),
    /// No answer came in time; the link may still be good.
    #[error("no answer came")]
    Silent,
    #[error("{0}")]
    Lost(String),
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        match e {
            Error::Status(status) => match status.status_code {
                StatusCode::NoSuchFile => Fault::Missing,
                StatusCode::PermissionDenied => Fault::Denied,
                StatusCode::NoConnection | StatusCode::ConnectionLost => {
                    Fault::Lost(status.error_message)
                }
                StatusCode::Ok
                | StatusCode::Eof
                | StatusCode::Failure
                | StatusCode::BadMessage
                | StatusCode::OpUnsupported => Fault::Failed(status.error_message),
            },
            Error::Timeout => Fault::Silent,
            Error::Limited(cause) => Fault::Failed(cause),
            Error::IO(cause) | Error::UnexpectedBehavior(cause) => Fault::Lost(cause),
            Error::UnexpectedPacket => Fault::Lost("it does not speak SFTP".to_owned()),
        }
    }
}

impl Fault {
    /// Whether it says nothing about the file.
    pub(super) fn is_of_the_link(&self) -> bool {
        match self {
            Fault::Silent | Fault::Lost(_) | Fault::Link(_) => true,
            Fault::Missing | Fault::Denied | Fault::Failed(_) => false,
        }
    }

    /// Why the link is of no more use, if it is: one that grants no channel, or
    /// no file transfer, serves all others as before.
    pub(super) fn end_of_link(&self) -> Option<String> {
        match self {
            Fault::Silent | Fault::Lost(_) => Some(self.to_string()),
            Fault::Link(LinkError::Down(fault)) => Some(fault.message.clone()),
            Fault::Link(
                LinkError::Refused { .. } | LinkError::NoExec { .. } | LinkError::NoFiles(_),
            )
            | Fault::Missing
            | Fault::Denied
            | Fault::Failed(_) => None,
        }
    }
}

/// A file that is closed however it is done with. The library counts files until
/// their close was answered, so that one that is merely dropped counts for ever:
/// at the computer's limit nothing would be opened any more.
pub(super) struct OpenFile(Option<File>);

const IS_OPEN: &str = "a file is there until it is dropped";

impl Deref for OpenFile {
    type Target = File;
    fn deref(&self) -> &File {
        self.0.as_ref().expect(IS_OPEN)
    }
}

impl DerefMut for OpenFile {
    fn deref_mut(&mut self) -> &mut File {
        self.0.as_mut().expect(IS_OPEN)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Without a runtime the session ends, and its files with it.
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(file), Ok(runtime)) = (self.0.take(), runtime) {
            runtime.spawn(async move {
                let _closed_with_its_session_at_last = file.close().await;
            });
        }
    }
}

/// The files of one computer. Cheap to clone.
#[derive(Clone)]
pub(super) struct Far {
    pub(super) over: Arc<Over>,
    pub(super) sftp: Arc<SftpSession>,
    /// Where the session begins: the home directory, absolute.
    pub(super) home: String,
}

impl Far {
    pub(super) async fn open(over: &Arc<Over>, of: Session) -> Result<Far, Fault> {
        let home = over.home().await?.to_owned();
        let sftp = over.files(of).await?;
        let over = over.clone();
        Ok(Far { over, sftp, home })
    }

    /// A question about a call.
    pub(super) fn question(&self, call: &RemoteCall) -> Result<Question, AskError> {
        Ok(self
            .over
            .shared
            .question(&self.home)?
            .with("turn", &call.turn.to_string())
            .with("call", &call.plain_name())
            .with("name", &call.dir_name())
            .with("epoch", &call.epoch.0.to_string())
            .with("attempt", &call.attempt.to_string()))
    }

    /// A question about one directory of a call.
    pub(super) fn question_of_run(&self, run: &Run) -> Result<Question, AskError> {
        Ok(self.question(&run.call)?.with("name", &run.name))
    }

    /// Gives `work` up when the link turns out to be lost: the session never
    /// answers what was on its way then.
    pub(super) async fn unless_lost<T, E: From<Fault>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            done = work => done,
            fault = self.lost() => Err(fault.into()),
        }
    }

    async fn lost(&self) -> Fault {
        let mut heard = Instant::now();
        loop {
            tokio::time::sleep(LOSS_LOOK).await;
            match self.sftp.canonicalize(".").await.map_err(Fault::from) {
                // A slow link answers late, behind what else it carries.
                Err(Fault::Silent) if heard.elapsed() < SILENCE_PATIENCE => {}
                Err(fault) if fault.is_of_the_link() => return fault,
                Ok(_) | Err(_) => heard = Instant::now(),
            }
        }
    }

    /// What `path` means from `base`, which may be relative to the home
    /// directory.
    pub(super) fn absolute(&self, base: &str, path: &str) -> String {
        [base, path]
            .into_iter()
            .filter(|part| !part.is_empty())
            .fold(self.home.clone(), |at, part| match part.starts_with('/') {
                true => part.to_owned(),
                false => format!("{}/{part}", at.trim_end_matches('/')),
            })
    }

    pub(super) async fn stat(&self, path: &str) -> Result<Option<Metadata>, Fault> {
        some(self.sftp.metadata(path).await.map_err(Fault::from))
    }

    /// The next bytes of a file, at most `most`; `None` when it is not there.
    pub(super) async fn read_at(
        &self,
        path: &str,
        offset: u64,
        most: usize,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let Some(mut file) = some(self.open_file(path, OpenFlags::READ).await)? else {
            return Ok(None);
        };
        let bytes = self.fill(&mut file, offset, most).await?;
        Ok(Some(bytes))
    }

    pub(super) async fn open_file(&self, path: &str, flags: OpenFlags) -> Result<OpenFile, Fault> {
        let file = self.sftp.open_with_flags(path, flags).await?;
        Ok(OpenFile(Some(file)))
    }

    /// The names in a directory; none when it is not there.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<String>, Fault> {
        let entries = some(self.sftp.read_dir(path).await.map_err(Fault::from))?;
        Ok(entries
            .into_iter()
            .flatten()
            .map(|entry| entry.file_name())
            .collect())
    }

    /// Hands a file's bytes to `take` in their order until it wants no more,
    /// several requests at a time.
    pub(super) async fn read_through<E: From<Fault>>(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut stripes = FuturesOrdered::new();
        let first = self.open_file(path, OpenFlags::READ).await?;
        stripes.push_back(self.stripe(first, 0));
        let mut next = 1;
        while let Some(stripe) = stripes.next().await {
            let (file, bytes) = stripe?;
            if !take(&bytes)? || bytes.len() < STRIPE_BYTES {
                return Ok(());
            }
            // Most files end within the first stripe; the others get lanes.
            while stripes.len() as u64 + 1 < LANES {
                let lane = self.open_file(path, OpenFlags::READ).await?;
                stripes.push_back(self.stripe(lane, next));
                next += 1;
            }
            stripes.push_back(self.stripe(file, next));
            next += 1;
        }
        Ok(())
    }

    async fn stripe(&self, mut file: OpenFile, number: u64) -> Result<(OpenFile, Vec<u8>), Fault> {
        let offset = number * STRIPE_BYTES as u64;
        let bytes = self.fill(&mut file, offset, STRIPE_BYTES).await?;
        Ok((file, bytes))
    }

    async fn fill(&self, file: &mut File, offset: u64, most: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; most];
        let mut len = 0;
        let read = async {
            file.seek(SeekFrom::Start(offset)).await?;
            while len < most {
                match file.read(&mut bytes[len..]).await? {
                    0 => break,
                    n => len += n,
                }
            }
            Ok(())
        };
        match read.await {
            Ok(()) => {
                bytes.truncate(len);
                Ok(bytes)
            }
            Err(e) => Err(self.judged(e).await),
        }
    }

    /// An error of a stream says nothing of its kind: whether the link is at
    /// fault shows when it is asked for something that cannot fail.
    pub(super) async fn judged(&self, e: std::io::Error) -> Fault {
        match self.sftp.canonicalize(".").await.map_err(Fault::from) {
            Err(fault) if fault.is_of_the_link() => fault,
            Ok(_) | Err(_) => Fault::Failed(e.to_string()),
        }
    }
}

/// What is not there is no fault.
pub(super) fn some<T>(result: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Fault::Missing) => Ok(None),
        Err(fault) => Err(fault),
    }
}
