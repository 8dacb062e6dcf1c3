//! What runs over a link: commands, and two SFTP sessions.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use russh::client::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelOpenFailure, ChannelReadHalf, ChannelWriteHalf, Sig};
use russh_sftp::client::{Config as SftpConfig, SftpSession};
use tokio_util::sync::CancellationToken;

use super::link::{ExecDone, LinkError, MAX_EXEC_BYTES};
use super::session::{Down, Watcher, lost};
use super::socket::SftpStream;
use dispatch_core::computer::{SshFault, SshFaultKind};

/// What a link's commands and files share.
pub(super) struct Shared {
    pub(super) title: String,
    pub(super) handle: Handle<Watcher>,
    pub(super) down: Down,
    pub(super) sftp: Slot,
    pub(super) tool_sftp: Slot,
}

/// Where a session is kept once somebody has wanted it.
pub(super) type Slot = tokio::sync::Mutex<Option<Files>>;

/// An SFTP session, and whether it is over.
pub(super) struct Files {
    session: Arc<SftpSession>,
    ended: CancellationToken,
}

const SFTP: &str = "sftp";
/// What a request on the SFTP session waits for its answer.
const SFTP_ANSWER_S: u64 = 30;
/// Standard error, by its number in the protocol.
const STDERR: u32 = 1;

/// Runs `work` in a task of its own, so that a channel is closed in an orderly
/// way also when nobody waits for the outcome any more: `given_up` is cancelled
/// then.
pub(super) fn detached<T, F>(
    shared: Arc<Shared>,
    work: impl FnOnce(Arc<Shared>, CancellationToken) -> F + Send + 'static,
) -> BoxFuture<'static, Result<T, LinkError>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, LinkError>> + Send + 'static,
{
    Box::pin(async move {
        let given_up = CancellationToken::new();
        let guard = given_up.clone().drop_guard();
        let title = shared.title.clone();
        let outcome = tokio::spawn(work(shared, given_up)).await;
        drop(guard);
        outcome.unwrap_or_else(|error| {
            // A panic, or the runtime going down: in either case an answer.
            Err(LinkError::Down(lost(
                &title,
                &format!("a task on it ended: {error}"),
            )))
        })
    })
}

impl Shared {
    pub(super) fn new(title: String, handle: Handle<Watcher>, down: Down) -> Shared {
        Shared {
            title,
            handle,
            down,
            sftp: Slot::default(),
            tool_sftp: Slot::default(),
        }
    }

    /// Runs one command.
    pub(super) async fn exec(
        self: Arc<Shared>,
        command: String,
        input: Vec<u8>,
        given_up: CancellationToken,
    ) -> Result<ExecDone, LinkError> {
        let channel = self.open().await?;
        let (mut reading, writing) = channel.split();
        let outcome = tokio::select! {
            biased;
            () = given_up.cancelled() => None,
            outcome = talk(&mut reading, &writing, command, input) => Some(outcome),
        };
        // Every channel is closed by both sides; the computer counts it until then.
        let _ = writing.close().await;
        match outcome {
            Some(Ok(done)) => Ok(done),
            Some(Err(Unfinished::Refused)) => Err(LinkError::NoExec {
                computer: self.title.clone(),
            }),
            Some(Err(Unfinished::Lost)) => Err(self
                .broken("a command's channel ended without an exit status")
                .await),
            None => Err(LinkError::Down(lost(
                &self.title,
                "nobody waits for the command",
            ))),
        }
    }

    /// The SFTP session of this slot, opened at first use. Whoever gives it up
    /// meanwhile leaves it to the next one.
    pub(super) async fn files(
        self: Arc<Shared>,
        slot: fn(&Shared) -> &Slot,
    ) -> Result<Arc<SftpSession>, LinkError> {
        let mut files = tokio::select! {
            biased;
            ending = self.down.wait() => return Err(LinkError::Down(ending.fault)),
            files = slot(&self).lock() => files,
        };
        if let Some(fault) = self.down.fault() {
            return Err(LinkError::Down(fault));
        }
        if let Some(open) = files.as_ref().filter(|files| !files.ended.is_cancelled()) {
            return Ok(open.session.clone());
        }
        *files = None;
        let channel = self.open().await?;
        let (session, ended) = tokio::select! {
            biased;
            ending = self.down.wait() => return Err(LinkError::Down(ending.fault)),
            opened = self.start_sftp(channel) => opened?,
        };
        let session = Arc::new(session);
        *files = Some(Files {
            session: session.clone(),
            ended,
        });
        Ok(session)
    }

    async fn start_sftp(
        &self,
        mut channel: Channel<Msg>,
    ) -> Result<(SftpSession, CancellationToken), LinkError> {
        if channel.request_subsystem(true, SFTP).await.is_err() {
            return Err(self.broken("the channel for SFTP ended").await);
        }
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => break,
                Some(ChannelMsg::Failure) => {
                    let _ = channel.close().await;
                    return Err(self.no_files("it has no subsystem sftp"));
                }
                Some(ChannelMsg::Close) | None => {
                    return Err(self.broken("the channel for SFTP ended").await);
                }
                Some(_) => {}
            }
        }
        let ended = CancellationToken::new();
        let stream = SftpStream::new(channel.into_stream(), ended.clone());
        let config = SftpConfig {
            request_timeout_secs: SFTP_ANSWER_S,
            ..SftpConfig::default()
        };
        let opened = tokio::select! {
            biased;
            opened = SftpSession::new_with_config(stream, config) => opened.map_err(|e| e.to_string()),
            () = ended.cancelled() => Err("its SFTP server ended at once".to_owned()),
        };
        match opened {
            Ok(session) => Ok((session, ended)),
            Err(said) => match self.down.fault() {
                Some(fault) => Err(LinkError::Down(fault)),
                None => Err(self.no_files(&said)),
            },
        }
    }

    /// Opens a channel. Waits for the computer's answer or the link's end.
    async fn open(&self) -> Result<Channel<Msg>, LinkError> {
        match self.handle.channel_open_session().await {
            Ok(channel) => Ok(channel),
            Err(russh::Error::ChannelOpenFailure(reason)) => Err(LinkError::Refused {
                computer: self.title.clone(),
                reason: refusal(&reason),
            }),
            Err(error) => Err(self.broken(&error.to_string()).await),
        }
    }

    /// Something on the link broke: most likely the link itself.
    async fn broken(&self, said: &str) -> LinkError {
        LinkError::Down(match self.down.soon().await {
            Some(ending) => ending.fault,
            None => lost(&self.title, said),
        })
    }

    fn no_files(&self, said: &str) -> LinkError {
        LinkError::NoFiles(SshFault::new(
            SshFaultKind::SftpOff,
            format!(
                "{} has no file transfer: {said}; add `Subsystem sftp internal-sftp` to its sshd_config",
                self.title
            ),
        ))
    }
}

/// A channel's refusal in words.
pub(super) fn refusal(reason: &ChannelOpenFailure) -> String {
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited => "administratively prohibited".to_owned(),
        ChannelOpenFailure::ConnectFailed => "open failed".to_owned(),
        ChannelOpenFailure::UnknownChannelType => "unknown channel type".to_owned(),
        ChannelOpenFailure::ResourceShortage => "resource shortage".to_owned(),
        ChannelOpenFailure::Other { code, reason } => format!("code {code}: {reason}"),
    }
}

enum Unfinished {
    /// The computer does not run it.
    Refused,
    /// The channel ended before the command did, as far as anybody knows.
    Lost,
}

/// One command from its start to its end.
async fn talk(
    reading: &mut ChannelReadHalf,
    writing: &ChannelWriteHalf<Msg>,
    command: String,
    input: Vec<u8>,
) -> Result<ExecDone, Unfinished> {
    let asked = writing.exec(true, command).await;
    asked.map_err(|_| Unfinished::Lost)?;
    let feed = async {
        // A command that reads nothing closes its end; that is its own affair.
        if writing.data_bytes(input).await.is_ok() {
            let _ = writing.eof().await;
        }
        // Only what is read tells how it ended.
        std::future::pending().await
    };
    tokio::select! {
        biased;
        outcome = listen(reading) => outcome,
        never = feed => never,
    }
}

async fn listen(reading: &mut ChannelReadHalf) -> Result<ExecDone, Unfinished> {
    let mut done = ExecDone::default();
    while let Some(message) = reading.wait().await {
        match message {
            ChannelMsg::Data { data } => keep(&mut done.output, &data),
            ChannelMsg::ExtendedData { data, ext: STDERR } => keep(&mut done.error, &data),
            ChannelMsg::ExitStatus { exit_status } => done.code = Some(exit_status),
            ChannelMsg::ExitSignal { signal_name, .. } => done.signal = Some(name(&signal_name)),
            ChannelMsg::Failure => return Err(Unfinished::Refused),
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    match done.code.is_some() || done.signal.is_some() {
        true => Ok(done),
        false => Err(Unfinished::Lost),
    }
}

fn keep(kept: &mut Vec<u8>, data: &[u8]) {
    let room = MAX_EXEC_BYTES - kept.len();
    kept.extend_from_slice(&data[..data.len().min(room)]);
}

fn name(signal: &Sig) -> String {
    match signal {
        Sig::Custom(name) => name.clone(),
        known => format!("{known:?}"),
    }
}
