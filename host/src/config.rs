//! What an operator can set: `dispatch.toml` < environment < flags (O1).
//!
//! The keys are those of the configuration section of the wire documentation.
//! An unknown key is an error that names the nearest known one. Credentials
//! come from the environment only, by the names that `key_env` gives (P4).

mod database;
mod provider;
mod schema;
mod ssh;
mod webhook;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use dispatch_core::config as core;
use dispatch_core::ids::{BadId, Owner};
use dispatch_core::liveness::{LeaseTerms, OnCrash};
use serde::Deserialize;

use crate::provider::{ProviderConfigError, Secret};

pub use database::{Database, Places, places};
pub use provider::{Dialect, ProviderSettings};
pub use ssh::{Reach, Ssh};
pub use webhook::WebhookSettings;

/// How often open steps are checkpointed where several replicas share a store.
const SHARED_CHECKPOINT_MS: u64 = 250;

/// A configuration that cannot be used; each names its remedy. Exit code 3 (O2).
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("cannot read {}: {reason}; name a readable file with --config", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{} is not TOML: {reason}", path.display())]
    Syntax { path: PathBuf, reason: String },
    #[error("{place} has an unknown key `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        key: String,
        place: String,
        nearest: &'static str,
    },
    #[error("`{key}` in {place} must be {expected}")]
    Kind {
        key: String,
        place: String,
        expected: &'static str,
    },
    #[error(
        "variable {name} names no key; write DISPATCH_SECTION__KEY or DISPATCH_PROVIDERS__ID__KEY ([[webhooks]] stand in dispatch.toml only)"
    )]
    Variable { name: String },
    #[error("`{key}` is {value}: {remedy}")]
    Value {
        key: String,
        value: String,
        remedy: String,
    },
    #[error(
        "no provider is configured: set OPENAI_API_KEY, or OPENAI_BASE_URL for a compatible server, or add a [providers.NAME] section to dispatch.toml{}",
        if *anthropic { " (ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL are not supported yet)" } else { "" }
    )]
    NoProvider { anthropic: bool },
    #[error("provider `{id}`: {source}")]
    Provider {
        id: String,
        source: ProviderConfigError,
    },
    #[error("`providers.{id}`: {source}")]
    ProviderName { id: String, source: BadId },
    #[error(
        "provider `{id}`: variable {name}, named by key_env, is not set; set it, or set base_url to a server that needs no key"
    )]
    NoKey { id: String, name: String },
    #[error("DATABASE_URL ({scheme}): {reason}")]
    Database { scheme: String, reason: String },
    #[error(
        "--data-dir {} contradicts DATABASE_URL, which names {}; leave one of them out",
        data_dir.display(), database.display()
    )]
    DatabaseContradiction {
        data_dir: PathBuf,
        database: PathBuf,
    },
    #[error(
        "there is no place for the data directory, because HOME is not set; use --data-dir DIR"
    )]
    NoDataDir,
    #[error(
        "{listen} is reachable from other machines, and no token is set; set DISPATCH_TOKEN, or listen on 127.0.0.1"
    )]
    OpenBind { listen: SocketAddr },
}

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`: must exist. Otherwise `dispatch.toml` of the data directory is
    /// read if it is there.
    pub file: Option<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
}

impl Sources {
    /// The process's environment; variables that are not UTF-8 are left out.
    pub fn env() -> BTreeMap<String, String> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Data directory and database.
    pub places: Places,
    /// `[server]`.
    pub server: Server,
    /// `[deadlines]`.
    pub deadlines: Deadlines,
    /// `[liveness]`.
    pub liveness: Liveness,
    /// `[retry]`.
    pub retry: Retry,
    /// `[turns]`.
    pub turns: Turns,
    /// `[tools]`.
    pub tools: Tools,
    /// `[ssh]`.
    pub ssh: Ssh,
    /// `[providers.*]` in their order; the first one is the default.
    pub providers: Vec<ProviderSettings>,
    /// `[[webhooks]]` in their order (C7).
    pub webhooks: Vec<WebhookSettings>,
    /// `DISPATCH_TOKEN` (O6).
    pub token: Option<Secret>,
    /// The bound address, parsed from `server.listen`.
    pub listen: SocketAddr,
}

/// `[server]`: the process and its HTTP side.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address and port; port 0 picks one.
    pub listen: String,
    /// `resume` or `seal` (L4).
    pub on_crash: Crash,
    /// Largest request body (O5).
    pub max_body_bytes: usize,
    /// Open connections (O5).
    pub max_connections: usize,
    /// Event streams at a time (O5).
    pub max_subscribers: usize,
    /// How long stretches may go on after a shutdown was asked for; then they
    /// are handed over, their commands ended (L8).
    pub drain_s: u64,
}

/// What a crash costs (L4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crash {
    /// Nothing.
    Resume,
    /// The turn.
    Seal,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            listen: "127.0.0.1:4747".to_owned(),
            on_crash: Crash::Resume,
            max_body_bytes: 2 * 1024 * 1024,
            max_connections: 4_096,
            max_subscribers: 2_048,
            drain_s: 10,
        }
    }
}

/// `[deadlines]`, in seconds (T10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Deadlines {
    pub connect_s: u64,
    pub first_byte_s: u64,
    pub idle_s: u64,
    pub tool_s: u64,
    pub store_s: u64,
    pub ssh_handshake_s: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            connect_s: 10,
            first_byte_s: 120,
            idle_s: 120,
            tool_s: 600,
            store_s: 30,
            ssh_handshake_s: 15,
        }
    }
}

impl Deadlines {
    fn check(&self) -> Result<(), ConfigError> {
        positive(&[
            ("deadlines.connect_s", self.connect_s),
            ("deadlines.first_byte_s", self.first_byte_s),
            ("deadlines.idle_s", self.idle_s),
            ("deadlines.tool_s", self.tool_s),
            ("deadlines.store_s", self.store_s),
            ("deadlines.ssh_handshake_s", self.ssh_handshake_s),
        ])
    }
}

/// `[liveness]`, in seconds (L3); and whether replicas tell each other by
/// NOTIFY what they have done (L9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Liveness {
    pub lease_s: u64,
    pub renew_s: u64,
    pub sweep_s: u64,
    pub node_patience_s: u64,
    pub notify: bool,
}

impl Default for Liveness {
    fn default() -> Self {
        Liveness {
            lease_s: 60,
            renew_s: 20,
            sweep_s: 15,
            node_patience_s: 600,
            notify: true,
        }
    }
}

/// `[retry]`, in seconds (T3).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Retry {
    pub schedule_s: Vec<u64>,
    pub budget_s: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            schedule_s: vec![5, 10, 30, 60, 300, 600, 900, 1_800],
            budget_s: 28_800,
        }
    }
}

/// `[turns]`: what one turn may cost.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turns {
    /// Steps of a turn; 0: no limit (T7).
    pub step_limit: u32,
    /// One step's content (T8).
    pub step_limit_bytes: usize,
    /// Owned time of a turn (T7).
    pub hard_limit_s: u64,
    /// Takeovers without a completed step between them.
    pub resume_limit: u32,
    /// `error` or `restart` (T11).
    pub on_cut: Cut,
    /// Open turns in the store (O5).
    pub max_open: u64,
    /// One message (O5).
    pub max_message_bytes: usize,
    /// Sent before every transcript.
    pub system_prompt: String,
}

/// What a cut after content costs (T11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cut {
    /// The turn.
    Error,
    /// One repetition of the step.
    Restart,
}

impl Default for Turns {
    fn default() -> Self {
        Turns {
            step_limit: 0,
            step_limit_bytes: 4 * 1024 * 1024,
            hard_limit_s: 24 * 3_600,
            resume_limit: 3,
            on_cut: Cut::Error,
            max_open: 100_000,
            max_message_bytes: 1024 * 1024,
            system_prompt: String::new(),
        }
    }
}

/// `[tools]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tools {
    /// Working directory where neither conversation nor workspace names one
    /// (C4); empty: the one that the server was started in.
    pub cwd: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    server: Server,
    deadlines: Deadlines,
    liveness: Liveness,
    retry: Retry,
    turns: Turns,
    tools: Tools,
    ssh: Ssh,
    providers: toml::Table,
    webhooks: Vec<toml::Table>,
}

impl Document {
    /// The file, and the environment over it.
    fn read(sources: &Sources, places: &Places) -> Result<Document, ConfigError> {
        let mut table = read_file(sources.file.as_deref(), &places.data_dir)?;
        schema::apply_env(&mut table, &sources.env)?;
        toml::Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::Value {
                key: "dispatch.toml".to_owned(),
                value: "not usable".to_owned(),
                remedy: error.message().to_owned(),
            })
    }
}

impl Settings {
    /// Reads file and environment, lays the flags over them and checks it all.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(sources: &Sources) -> Result<Settings, ConfigError> {
        let places = places(sources.data_dir.as_deref(), &sources.env)?;
        let document = Document::read(sources, &places)?;
        let mut server = document.server;
        if let Some(listen) = &sources.listen {
            server.listen.clone_from(listen);
        }
        let listen = parse_listen(&server.listen)?;
        let settings = Settings {
            places,
            providers: provider::resolve(document.providers, &sources.env)?,
            webhooks: webhook::resolve(document.webhooks, &sources.env)?,
            token: sources
                .env
                .get("DISPATCH_TOKEN")
                .and_then(|token| Secret::new(token)),
            server,
            deadlines: document.deadlines,
            liveness: document.liveness,
            retry: document.retry,
            turns: document.turns,
            tools: document.tools,
            ssh: document.ssh,
            listen,
        };
        settings.check()?;
        Ok(settings)
    }

    /// What the core is told of it.
    pub fn core(&self, owner: Owner) -> core::Config {
        let ms = |s: u64| s.saturating_mul(1_000);
        let providers = self.providers.iter().map(ProviderSettings::core).collect();
        let mut config = core::Config::new(owner, providers);
        config.deadlines = core::Deadlines {
            connect_ms: ms(self.deadlines.connect_s),
            first_byte_ms: ms(self.deadlines.first_byte_s),
            idle_ms: ms(self.deadlines.idle_s),
            tool_ms: ms(self.deadlines.tool_s),
            store_ms: ms(self.deadlines.store_s),
            handshake_ms: ms(self.deadlines.ssh_handshake_s),
            ..config.deadlines
        };
        let lease_ms = ms(self.liveness.lease_s);
        config.lease = LeaseTerms {
            lease_ms,
            renew_ms: ms(self.liveness.renew_s),
            sweep_ms: ms(self.liveness.sweep_s),
            // A short lease leaves no room for the documented margin.
            fence_margin_ms: config.lease.fence_margin_ms.min(lease_ms / 6),
        };
        config.node_patience_ms = ms(self.liveness.node_patience_s);
        config.retry = core::RetryTerms {
            schedule_ms: self.retry.schedule_s.iter().map(|s| ms(*s)).collect(),
            budget_ms: ms(self.retry.budget_s),
        };
        config.ssh = self.ssh.core();
        config.webhooks = self.webhooks.iter().map(WebhookSettings::core).collect();
        if let Database::Postgres(_) = self.places.database {
            // What is streamed here may be followed on another replica.
            config.checkpoint_ms = SHARED_CHECKPOINT_MS;
        }
        config.on_crash = match self.server.on_crash {
            Crash::Resume => OnCrash::Resume,
            Crash::Seal => OnCrash::Seal,
        };
        config.on_cut = match self.turns.on_cut {
            Cut::Error => core::OnCut::Error,
            Cut::Restart => core::OnCut::Restart,
        };
        config.resume_limit = self.turns.resume_limit;
        config.step_limit = self.turns.step_limit;
        config.step_limit_bytes = self.turns.step_limit_bytes;
        config.hard_limit_ms = ms(self.turns.hard_limit_s);
        config.max_open_turns = self.turns.max_open;
        config.max_message_bytes = self.turns.max_message_bytes;
        config.drain_ms = ms(self.server.drain_s);
        config.system_prompt.clone_from(&self.turns.system_prompt);
        config
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.token.is_none() && !self.listen.ip().is_loopback() {
            return Err(ConfigError::OpenBind {
                listen: self.listen,
            });
        }
        self.deadlines.check()?;
        positive(&[
            ("liveness.renew_s", self.liveness.renew_s),
            ("liveness.sweep_s", self.liveness.sweep_s),
            ("turns.hard_limit_s", self.turns.hard_limit_s),
            ("turns.max_open", self.turns.max_open),
            ("turns.step_limit_bytes", self.turns.step_limit_bytes as u64),
            (
                "turns.max_message_bytes",
                self.turns.max_message_bytes as u64,
            ),
            ("server.max_body_bytes", self.server.max_body_bytes as u64),
            ("server.max_connections", self.server.max_connections as u64),
            ("server.max_subscribers", self.server.max_subscribers as u64),
        ])?;
        if self.liveness.lease_s < self.liveness.renew_s.saturating_mul(2) {
            return Err(invalid(
                "liveness.lease_s",
                &self.liveness.lease_s.to_string(),
                "a lease must outlast two renewals, or one slow write loses every turn",
            ));
        }
        if self.retry.schedule_s.is_empty() {
            return Err(invalid(
                "retry.schedule_s",
                "empty",
                "name at least one wait; budget_s = 0 turns retries off",
            ));
        }
        self.ssh.check()
    }
}

fn read_file(named: Option<&Path>, data_dir: &Path) -> Result<toml::Table, ConfigError> {
    let path = named.map_or_else(|| data_dir.join("dispatch.toml"), Path::to_owned);
    match std::fs::read_to_string(&path) {
        Ok(text) => schema::parse_file(&path, &text),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(toml::Table::new())
        }
        Err(error) => Err(ConfigError::Unreadable {
            path,
            reason: error.to_string(),
        }),
    }
}

fn parse_listen(text: &str) -> Result<SocketAddr, ConfigError> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|_| {
        invalid(
            "server.listen",
            &format!("{text:?}"),
            "write an IP address and a port, like 127.0.0.1:4747 or [::1]:4747",
        )
    })
}

fn positive(values: &[(&str, u64)]) -> Result<(), ConfigError> {
    match values.iter().find(|(_, value)| *value == 0) {
        Some((key, _)) => Err(invalid(key, "0", "it must be at least 1")),
        None => Ok(()),
    }
}

fn invalid(key: &str, value: &str, remedy: &str) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests;
