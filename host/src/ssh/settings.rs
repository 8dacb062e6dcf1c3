//! How a computer is reached: what an alias comes down to.

use std::path::PathBuf;

/// Everything that a connection to one computer needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputerSettings {
    /// The name that people use.
    pub alias: String,
    /// The host that is connected to.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who logs in there.
    pub user: String,
    /// Private keys, in the order in which they are tried; files that are not
    /// there are passed over.
    pub identity_files: Vec<PathBuf>,
    /// Only the keys of `identity_files`, also from the agent.
    pub identities_only: bool,
    /// Where an agent listens.
    pub agent: AgentSocket,
    /// The user's and the system's files of known hosts; ours is beside them.
    pub known_hosts: Vec<PathBuf>,
    /// The name under which its key is kept instead of its host's.
    pub host_key_alias: Option<String>,
    /// Unknown hosts are refused (`StrictHostKeyChecking yes`).
    pub strict: bool,
    /// The way there.
    pub route: Route,
}

/// Where an agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentSocket {
    /// There is none, or it is not to be asked.
    None,
    /// At this socket.
    At(PathBuf),
}

/// The way to a computer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A connection to its host and port.
    Direct,
    /// Through these computers, one after the other; never empty. Only the
    /// first one's own route counts.
    Jump(Vec<ComputerSettings>),
    /// Over the pipes of a command.
    Command {
        /// The command for a shell, its tokens not yet expanded.
        line: String,
        /// Further variables that hold credentials and are kept from it (P4).
        secrets: Vec<String>,
    },
}

impl ComputerSettings {
    /// A computer that is named by its host, with nothing else known of it.
    pub fn new(alias: &str, user: &str) -> ComputerSettings {
        ComputerSettings {
            alias: alias.to_owned(),
            host: alias.to_owned(),
            port: 22,
            user: user.to_owned(),
            identity_files: Vec::new(),
            identities_only: false,
            agent: AgentSocket::None,
            known_hosts: Vec::new(),
            host_key_alias: None,
            strict: false,
            route: Route::Direct,
        }
    }

    /// Host and port, as people write them.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The computer as faults name it: `web (10.0.0.1:22)`.
    pub fn title(&self) -> String {
        format!("{} ({})", self.alias, self.authority())
    }
}
