//! `[ssh]`: which computers there are, and how their links are kept (S2, S4).

use std::path::PathBuf;
use std::time::Duration;

use dispatch_core::computer::SshTerms;
use serde::Deserialize;

use super::{ConfigError, Document, Sources, invalid, places};
use crate::ssh::{Computers, DEFAULT_REJECT, SshLimits};

/// More would be a slip of the pen, and less than what overflows.
const LONGEST_MS: u64 = 30 * 24 * 3_600_000;
/// The files', one for kills and looks, and one for starts.
const FEWEST_CHANNELS: u32 = 3;

/// `[ssh]`. How long a connection may take is said in `[deadlines]`, with the
/// others: `connect_s` and `ssh_handshake_s`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Ssh {
    /// Read instead of `~/.ssh/config`; empty: that one.
    pub config: String,
    /// Names and patterns of hosts that are no computers to run tools on, such
    /// as those that are only there for git. Replaces the default.
    pub reject: Vec<String>,
    // The others: see `SshTerms`.
    pub patience_ms: u64,
    pub keepalive_ms: u64,
    pub alive_ms: u64,
    pub idle_ms: u64,
    pub backoff_ms: u64,
    pub backoff_max_ms: u64,
    pub flaps: u32,
    pub flap_window_ms: u64,
    pub quarantine_ms: u64,
    pub start_ms: u64,
    pub look_ms: u64,
    pub test_ms: u64,
    pub channels: u32,
}

impl Default for Ssh {
    fn default() -> Self {
        let terms = SshTerms::default();
        Ssh {
            config: String::new(),
            reject: DEFAULT_REJECT.map(str::to_owned).to_vec(),
            patience_ms: terms.patience_ms,
            keepalive_ms: terms.keepalive_ms,
            alive_ms: terms.alive_ms,
            idle_ms: terms.idle_ms,
            backoff_ms: terms.backoff_ms,
            backoff_max_ms: terms.backoff_max_ms,
            flaps: terms.flaps,
            flap_window_ms: terms.flap_window_ms,
            quarantine_ms: terms.quarantine_ms,
            start_ms: terms.start_ms,
            look_ms: terms.look_ms,
            test_ms: terms.test_ms,
            channels: terms.channels,
        }
    }
}

impl Ssh {
    /// The configuration that is named instead of the user's own.
    pub fn config(&self) -> Option<PathBuf> {
        (!self.config.is_empty()).then(|| PathBuf::from(&self.config))
    }

    /// The computers that it stands for. `secrets` names variables that are
    /// kept from what is started to reach one (P4).
    pub fn known(&self, secrets: Vec<String>) -> Computers {
        let env = Sources::env();
        Computers::new(self.config(), self.reject.clone(), env, secrets)
    }

    /// What the core is told of it.
    pub(super) fn core(&self) -> SshTerms {
        SshTerms {
            patience_ms: self.patience_ms,
            keepalive_ms: self.keepalive_ms,
            alive_ms: self.alive_ms,
            idle_ms: self.idle_ms,
            backoff_ms: self.backoff_ms,
            backoff_max_ms: self.backoff_max_ms,
            flaps: self.flaps,
            flap_window_ms: self.flap_window_ms,
            quarantine_ms: self.quarantine_ms,
            start_ms: self.start_ms,
            look_ms: self.look_ms,
            test_ms: self.test_ms,
            channels: self.channels,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, ms) in [
            ("ssh.patience_ms", self.patience_ms),
            ("ssh.keepalive_ms", self.keepalive_ms),
            ("ssh.alive_ms", self.alive_ms),
            ("ssh.idle_ms", self.idle_ms),
            ("ssh.backoff_ms", self.backoff_ms),
            ("ssh.backoff_max_ms", self.backoff_max_ms),
            ("ssh.flap_window_ms", self.flap_window_ms),
            ("ssh.quarantine_ms", self.quarantine_ms),
            ("ssh.start_ms", self.start_ms),
            ("ssh.look_ms", self.look_ms),
            ("ssh.test_ms", self.test_ms),
        ] {
            if !(1..=LONGEST_MS).contains(&ms) {
                let remedy = "it must be 1 to 2592000000 milliseconds, which is 30 days";
                return Err(invalid(key, &ms.to_string(), remedy));
            }
        }
        if self.flaps == 0 {
            let remedy = "it must be at least 1: 1 leaves a computer alone after its first failure";
            return Err(invalid("ssh.flaps", "0", remedy));
        }
        if self.backoff_ms > self.backoff_max_ms {
            return Err(invalid(
                "ssh.backoff_ms",
                &self.backoff_ms.to_string(),
                &format!(
                    "the first wait must not be longer than the longest; raise ssh.backoff_max_ms ({}), or lower this",
                    self.backoff_max_ms
                ),
            ));
        }
        if self.channels < FEWEST_CHANNELS {
            return Err(invalid(
                "ssh.channels",
                &self.channels.to_string(),
                "no command could be started: one is for files and one for stopping commands; it must be at least 3",
            ));
        }
        Ok(())
    }
}

/// What it takes to reach a computer from the command line: of a configuration
/// that need not be complete, since no turn is served.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Holds the host keys that are pinned, and the address of a server.
    pub data_dir: PathBuf,
    /// Which there are.
    pub known: Computers,
    /// How long a connection may take.
    pub limits: SshLimits,
    /// How long all of a test may take.
    pub test: Duration,
}

impl Reach {
    /// Reads the same file and environment as [`Settings::load`](super::Settings::load).
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(sources: &Sources) -> Result<Reach, ConfigError> {
        let places = places(sources.data_dir.as_deref(), &sources.env)?;
        let document = Document::read(sources, &places)?;
        document.deadlines.check()?;
        document.ssh.check()?;
        Ok(Reach {
            data_dir: places.data_dir,
            known: document.ssh.known(secrets(&document)),
            limits: SshLimits {
                connect: Duration::from_secs(document.deadlines.connect_s),
                handshake: Duration::from_secs(document.deadlines.ssh_handshake_s),
            },
            test: Duration::from_millis(document.ssh.test_ms),
        })
    }
}

/// The variables that credentials are read from, of sections that are not
/// looked at otherwise.
fn secrets(document: &Document) -> Vec<String> {
    let providers = document.providers.values();
    let keys = providers.filter_map(|provider| provider.get("key_env"));
    let webhooks = document.webhooks.iter();
    let hooks = webhooks.filter_map(|webhook| webhook.get("secret_env"));
    let names = keys.chain(hooks).filter_map(toml::Value::as_str);
    names.map(str::to_owned).collect()
}
