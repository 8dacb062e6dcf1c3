//! The library's side of a link: a user with a home, and computers.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::PATIENCE;
use crate::support::sshd::{Home, Sshd};
use dispatch::net::TokioNet;
use dispatch::ssh::{
    ComputerSettings, Computers, DEFAULT_REJECT, HostKeys, SshFault, SshFaultKind, SshLimits,
    SshLink, connect,
};

/// Generous: a test that passes never waits for it.
pub(crate) const LIMITS: SshLimits = SshLimits {
    connect: Duration::from_secs(30),
    handshake: Duration::from_secs(60),
};
/// For what must not come about.
pub(crate) const SHORT: SshLimits = SshLimits {
    connect: Duration::from_millis(400),
    handshake: Duration::from_millis(400),
};

/// A user with a home, a data directory of a server's, and computers.
pub(crate) struct Yard {
    pub(crate) home: Home,
    pub(crate) data: tempfile::TempDir,
    pub(crate) agent: Option<PathBuf>,
}

impl Yard {
    pub(crate) fn new() -> Yard {
        Yard {
            home: Home::new(),
            data: tempfile::tempdir().unwrap(),
            agent: None,
        }
    }

    /// With one computer, `web`, that lets the user in.
    pub(crate) fn with_web(settings: &[&str]) -> Option<(Yard, Sshd)> {
        let sshd = Sshd::start(settings)?;
        let mut yard = Yard::new();
        yard.home.add("web", sshd.port, &[]);
        sshd.authorize(&yard.home.key());
        Some((yard, sshd))
    }

    /// The same, with this line instead of a working `Subsystem sftp`.
    pub(crate) fn without_sftp(subsystem: &str) -> Option<(Yard, Sshd)> {
        let sshd = Sshd::start_without_sftp(&[subsystem])?;
        let mut yard = Yard::new();
        yard.home.add("web", sshd.port, &[]);
        sshd.authorize(&yard.home.key());
        Some((yard, sshd))
    }

    pub(crate) fn computers(&self) -> Computers {
        let mut env = BTreeMap::from([("HOME".to_owned(), self.home.path().display().to_string())]);
        if let Some(agent) = &self.agent {
            env.insert("SSH_AUTH_SOCK".to_owned(), agent.display().to_string());
        }
        let reject = DEFAULT_REJECT.map(str::to_owned).to_vec();
        Computers::new(Some(self.home.config()), reject, env, Vec::new())
    }

    pub(crate) async fn settings(&self, alias: &str) -> ComputerSettings {
        self.computers().resolve(alias).await.unwrap()
    }

    pub(crate) fn keys(&self) -> HostKeys {
        HostKeys::new(self.data.path())
    }

    pub(crate) async fn try_connect(
        &self,
        alias: &str,
        limits: SshLimits,
    ) -> Result<SshLink, SshFault> {
        let settings = self.settings(alias).await;
        connect(&settings, &TokioNet, &self.keys(), limits).await
    }

    pub(crate) async fn connect(&self, alias: &str) -> SshLink {
        self.try_connect(alias, LIMITS).await.unwrap()
    }

    /// The fault that a connection fails with.
    pub(crate) async fn fault(&self, alias: &str, limits: SshLimits) -> SshFault {
        self.try_connect(alias, limits).await.unwrap_err()
    }

    pub(crate) async fn refusal(&self, alias: &str, kind: SshFaultKind) -> String {
        let fault = self.fault(alias, LIMITS).await;
        assert_eq!(fault.kind, kind, "{fault}");
        assert!(fault.message.contains(alias), "{fault}");
        fault.message
    }

    pub(crate) fn pinned(&self) -> String {
        std::fs::read_to_string(self.keys().path()).unwrap_or_default()
    }
}

/// Waits for a condition without holding up the runtime.
pub(crate) async fn until_true(what: &str, mut probe: impl FnMut() -> bool) {
    let waiting = async {
        while !probe() {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "waited in vain: {what}");
}

/// The link's end, which must come.
pub(crate) async fn end_of(link: &SshLink) -> SshFault {
    let ended = tokio::time::timeout(PATIENCE, link.closed()).await;
    ended.expect("the link tells its end")
}
