//! One SSH session: from the first byte to being let in, and the cause of its
//! end.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use russh::client::{self, ChannelOpenHandle, Config, DisconnectReason, Handle, Handler, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, Preferred, SshId};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::auth;
use super::client::SshLink;
use super::known_hosts::KnownKeys;
use super::settings::ComputerSettings;
use super::socket::{Duplex, Socket};
use crate::panics::locked;
use dispatch_core::computer::{SshFault, SshFaultKind};

/// How long the end of a session may take to reach whoever saw its effect.
const GRACE: Duration = Duration::from_millis(500);

/// The end of a session and its cause: told once, by whoever knows it first.
#[derive(Clone, Debug, Default)]
pub(super) struct Down(Arc<DownInner>);

#[derive(Debug, Default)]
struct DownInner {
    ending: OnceLock<Ending>,
    told: CancellationToken,
    /// The session's task is over, and its socket closed.
    gone: CancellationToken,
}

/// Why a session ended.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) fault: SshFault,
    /// The other side said goodbye, and this is why.
    pub(super) farewell: Option<String>,
}

impl Down {
    pub(super) fn tell(&self, fault: SshFault, farewell: Option<String>) {
        // Whoever comes second saw an effect of what the first one tells.
        let _ = self.0.ending.set(Ending { fault, farewell });
        self.0.told.cancel();
    }

    /// The fault, if the session is over.
    pub(super) fn fault(&self) -> Option<SshFault> {
        self.0.ending.get().map(|ending| ending.fault.clone())
    }

    /// Waits for the end.
    pub(super) async fn wait(&self) -> Ending {
        self.0.told.cancelled().await;
        let ending = self.0.ending.get();
        ending.expect("the ending is set before it is told").clone()
    }

    /// The end of a session of which something has broken: known at once, or
    /// within a moment.
    pub(super) async fn soon(&self) -> Option<Ending> {
        timeout(GRACE, self.wait()).await.ok()
    }

    /// Waits until nothing is left of the session.
    pub(super) async fn gone(&self) {
        self.0.gone.cancelled().await;
    }
}

/// A session that has let us in.
pub(super) struct Session {
    pub(super) handle: Handle<Watcher>,
    pub(super) down: Down,
    /// Ends the session when it is dropped.
    pub(super) cut: DropGuard,
}

/// Our side of a session, as the library calls it.
pub(super) struct Watcher {
    title: String,
    known: KnownKeys,
    down: Down,
    stage: Stage,
    /// The jump host's link, which lives as long as this session does.
    via: Option<SshLink>,
}

/// What is being waited for.
#[derive(Clone, Debug)]
pub(super) struct Stage(Arc<Mutex<&'static str>>);

impl Stage {
    pub(super) fn set(&self, what: &'static str) {
        *locked(&self.0) = what;
    }
}

/// What ends a session from within.
#[derive(Debug)]
pub(super) enum Broken {
    Ssh(russh::Error),
    HostKey(SshFault),
}

impl From<russh::Error> for Broken {
    fn from(error: russh::Error) -> Broken {
        Broken::Ssh(error)
    }
}

impl Handler for Watcher {
    type Error = Broken;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Broken> {
        let key = shown.public_key();
        self.known.check(&key).map_err(Broken::HostKey)?;
        self.stage.set("logging in");
        Ok(true)
    }

    // We ask for no forwarding, so nobody has a channel to open from over there;
    // the library would accept it. A reply that is dropped is a refusal.

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Broken>) -> Result<(), Broken> {
        let (said, farewell) = match &reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                let said = format!("it ended the connection: {}", info.message);
                (said, Some(info.message.clone()))
            }
            DisconnectReason::Error(Broken::HostKey(fault)) => {
                self.down.tell(fault.clone(), None);
                return Ok(());
            }
            DisconnectReason::Error(Broken::Ssh(error)) => (describe(error), None),
        };
        let fault = match &self.via {
            Some(via) => match via.down().soon().await {
                Some(ending) => through(&self.title, &ending.fault),
                None => lost(&self.title, &said),
            },
            None => lost(&self.title, &said),
        };
        self.down.tell(fault, farewell);
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Nothing to tell, unless the library's task panicked or was dropped.
        let said = match std::thread::panicking() {
            true => "the SSH library panicked (see the log); this is a bug",
            false => "the session was given up",
        };
        self.down.tell(lost(&self.title, said), None);
        self.down.0.gone.cancel();
    }
}

/// Speaks SSH over `stream` until the computer lets us in.
pub(super) async fn open(
    computer: &ComputerSettings,
    known: KnownKeys,
    stream: impl Duplex + 'static,
    via: Option<SshLink>,
    limit: Duration,
) -> Result<Session, SshFault> {
    let stage = Stage(Arc::new(Mutex::new("waiting for its SSH greeting and key")));
    let opening = handshake(computer, known, stream, via, stage.clone());
    match timeout(limit, opening).await {
        Ok(outcome) => outcome,
        Err(_) => Err(SshFault::new(
            SshFaultKind::Timeout,
            format!(
                "{} answered, but the SSH handshake was not done within {} ms (while {}); check that it is not overloaded or stopped, and that an SSH server listens there",
                computer.title(),
                limit.as_millis(),
                *locked(&stage.0)
            ),
        )),
    }
}

async fn handshake(
    computer: &ComputerSettings,
    known: KnownKeys,
    stream: impl Duplex + 'static,
    via: Option<SshLink>,
    stage: Stage,
) -> Result<Session, SshFault> {
    let cut = CancellationToken::new();
    let socket = Socket::new(stream, cut.clone());
    // From here on whatever goes wrong, or is given up, ends the session's task.
    let cut = cut.drop_guard();
    let down = Down::default();
    let config = Arc::new(config(&known));
    let watcher = Watcher {
        title: computer.title(),
        known,
        down: down.clone(),
        stage: stage.clone(),
        via,
    };
    let mut handle = client::connect_stream(config, socket, watcher)
        .await
        .map_err(|broken| refused(computer, broken))?;
    auth::log_in(&mut handle, computer, &down, &stage).await?;
    Ok(Session { handle, down, cut })
}

fn config(known: &KnownKeys) -> Config {
    let preferred = Preferred {
        key: Cow::Owned(known.preferred(&Preferred::DEFAULT.key)),
        ..Preferred::DEFAULT
    };
    Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-dispatch_",
            env!("CARGO_PKG_VERSION")
        ))),
        preferred,
        // Keepalives and deadlines are told from outside.
        ..Config::default()
    }
}

/// A session that broke before it was one.
fn refused(computer: &ComputerSettings, broken: Broken) -> SshFault {
    let title = computer.title();
    let error = match broken {
        Broken::HostKey(fault) => return fault,
        Broken::Ssh(error) => error,
    };
    let (kind, message) = match &error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => (
            SshFaultKind::Config,
            format!(
                "{title} and Dispatch have no {kind:?} algorithm in common: it offers {} only; allow a current one in its sshd_config",
                theirs.join(", ")
            ),
        ),
        russh::Error::Version => (
            SshFaultKind::Config,
            format!("what listens at {title} does not speak SSH 2; check the port"),
        ),
        error => (
            SshFaultKind::Unreachable,
            format!(
                "the SSH handshake with {title} failed: {}; check that an SSH server listens there and takes further connections (MaxStartups)",
                describe(error)
            ),
        ),
    };
    SshFault::new(kind, message)
}

pub(super) fn lost(title: &str, said: &str) -> SshFault {
    SshFault::new(
        SshFaultKind::Lost,
        format!("the link to {title} was lost: {said}"),
    )
}

/// A fault of the jump host, seen from behind it.
pub(super) fn through(title: &str, fault: &SshFault) -> SshFault {
    SshFault::new(
        fault.kind,
        format!("no way to {title} through its jump host: {}", fault.message),
    )
}

fn describe(error: &russh::Error) -> String {
    match error {
        russh::Error::IO(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection was closed".to_owned()
        }
        russh::Error::Disconnect | russh::Error::HUP => "the connection was closed".to_owned(),
        error => error.to_string(),
    }
}
