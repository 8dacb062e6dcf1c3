//! Which computers there are, and how each is reached (S2).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::config_file::ConfigFile;
use super::known_hosts;
use super::pattern::{fits, is_pattern};
use super::settings::{AgentSocket, ComputerSettings, Route};
use crate::exec::env::scrub;
use dispatch_core::computer::{SshFault, SshFaultKind};

/// Well-known hosts that let one in and run nothing: people have them in their
/// known hosts for git's sake.
pub const DEFAULT_REJECT: [&str; 20] = [
    "github.com",
    "*.github.com",
    "gitlab.com",
    "*.gitlab.com",
    "bitbucket.org",
    "*.bitbucket.org",
    "codeberg.org",
    "*.sr.ht",
    "ssh.dev.azure.com",
    "vs-ssh.visualstudio.com",
    "git-codecommit.*.amazonaws.com",
    "source.developers.google.com",
    "gitee.com",
    "salsa.debian.org",
    "aur.archlinux.org",
    "hf.co",
    "huggingface.co",
    "heroku.com",
    "gitea.com",
    "git.kernel.org",
];

/// `ssh -G` answers at once, unless a `Match exec` of the user's hangs.
const SSH_LIMIT: Duration = Duration::from_secs(10);
const MAX_HOPS: usize = 8;
const MAX_NAME_BYTES: usize = 255;

/// The computers of the user who runs the server.
#[derive(Clone, Debug)]
pub struct Computers {
    config: Option<PathBuf>,
    reject: Vec<String>,
    env: BTreeMap<String, String>,
    home: PathBuf,
    /// Further variables that hold credentials, kept from what `ssh` runs.
    secrets: Vec<String>,
    ssh: PathBuf,
}

/// A computer that tools could run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Computer {
    /// The name that people use.
    pub alias: String,
    /// Where the name comes from.
    pub source: ComputerSource,
    /// The host that it stands for, as far as that can be told cheaply.
    pub host: String,
    /// The port that its entry in the known hosts names.
    port: Option<u16>,
}

/// Where a computer's name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputerSource {
    /// A `Host` line.
    Config,
    /// Somebody has been there.
    KnownHosts,
}

impl ComputerSource {
    /// Stable: for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            ComputerSource::Config => "config",
            ComputerSource::KnownHosts => "known-hosts",
        }
    }
}

impl Computers {
    /// The computers as the user's files name them. `config` is read instead of
    /// `~/.ssh/config`; `reject` holds names and patterns of hosts that are no
    /// computers to run tools on; `secrets` names further variables that are
    /// kept from what is started.
    pub fn new(
        config: Option<PathBuf>,
        reject: Vec<String>,
        env: BTreeMap<String, String>,
        secrets: Vec<String>,
    ) -> Computers {
        Computers {
            config,
            reject,
            home: PathBuf::from(env.get("HOME").map_or("/", String::as_str)),
            env,
            secrets,
            ssh: PathBuf::from("ssh"),
        }
    }

    /// Asks this program instead of `ssh`; where there is none, the
    /// configuration is read here, without its `Match` blocks.
    #[must_use]
    pub fn with_ssh(mut self, program: PathBuf) -> Computers {
        self.ssh = program;
        self
    }

    /// All of them, those of the configuration first; read anew each time.
    pub fn list(&self) -> Vec<Computer> {
        let config = self.config_file();
        for note in &config.notes {
            tracing::warn!("{note}");
        }
        let mut found: Vec<Computer> = Vec::new();
        for alias in config.aliases() {
            let values = config.values(&alias);
            let host = first(&values, "hostname").unwrap_or(&alias);
            found.push(Computer {
                host: host.replace("%h", &alias),
                source: ComputerSource::Config,
                port: None,
                alias,
            });
        }
        for known in self.known_hosts() {
            let name = &known.alias;
            // The configuration wins, also by another name for the same host.
            if !found.iter().any(|c| c.alias == *name || c.host == *name) {
                found.push(known);
            }
        }
        found.retain(|computer| {
            is_name(&computer.alias)
                && !self.rejects(&computer.alias)
                && !self.rejects(&computer.host)
        });
        found
    }

    /// Whether there may be a computer of this name; false only where that is
    /// certain, as it is not where the files cannot be read, or a pattern fits.
    pub fn may_be(&self, alias: &str) -> bool {
        self.config_file().may_mean(alias)
            || known_hosts::read(&self.user_known_hosts()).is_err()
            || self.list().iter().any(|computer| computer.alias == alias)
    }

    /// How a computer is reached.
    ///
    /// # Errors
    /// [`SshFaultKind::Config`]: there is no such computer, it is rejected, or
    /// the configuration cannot be used.
    pub async fn resolve(&self, alias: &str) -> Result<ComputerSettings, SshFault> {
        let listed = self.list();
        let Some(computer) = listed.iter().find(|computer| computer.alias == alias) else {
            return Err(self.unknown(alias, &listed));
        };
        let hop = Hop {
            user: None,
            host: computer.alias.clone(),
            port: computer.port,
        };
        let settings = self.settle(hop, 0).await?;
        match self.rejects(&settings.host) {
            true => Err(self.rejected(alias, &settings.host)),
            false => Ok(settings),
        }
    }

    fn unknown(&self, alias: &str, listed: &[Computer]) -> SshFault {
        if self.rejects(alias) {
            return self.rejected(alias, alias);
        }
        let nearest = listed
            .iter()
            .min_by_key(|computer| strsim::damerau_levenshtein(&computer.alias, alias));
        let hint = match nearest {
            Some(computer) => format!("did you mean {:?}?", computer.alias),
            None => "none is configured;".to_owned(),
        };
        fault(format!(
            "there is no computer {alias:?}; {hint} computers are the Host lines of {} and the names in ~/.ssh/known_hosts",
            self.config_path().display()
        ))
    }

    fn rejected(&self, alias: &str, host: &str) -> SshFault {
        fault(format!(
            "{alias:?} stands for {host:?}, which ssh.reject names as no computer to run tools on; take it out there if it is one"
        ))
    }

    fn rejects(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let mut patterns = self.reject.iter();
        patterns.any(|pattern| fits(&pattern.to_ascii_lowercase(), &host))
    }

    fn config_path(&self) -> PathBuf {
        let default = || self.home.join(".ssh/config");
        self.config.clone().unwrap_or_else(default)
    }

    fn config_file(&self) -> ConfigFile {
        ConfigFile::read(&self.config_path(), &self.home)
    }

    fn user_known_hosts(&self) -> PathBuf {
        self.home.join(".ssh/known_hosts")
    }

    fn known_hosts(&self) -> Vec<Computer> {
        let path = self.user_known_hosts();
        let text = known_hosts::read(&path).unwrap_or_else(|error| {
            tracing::warn!("{} cannot be read: {error}", path.display());
            String::new()
        });
        let mut found: Vec<Computer> = Vec::new();
        for (name, port) in known_names(&text) {
            match found.iter_mut().find(|computer| computer.alias == name) {
                None => found.push(Computer {
                    alias: name.clone(),
                    source: ComputerSource::KnownHosts,
                    host: name,
                    port,
                }),
                // The usual port wins.
                Some(computer) if port.is_none() => computer.port = None,
                Some(_) => {}
            }
        }
        found
    }

    /// Settings of one name, and of those on the way to it.
    fn settle(&self, hop: Hop, depth: usize) -> BoxFuture<'_, Result<ComputerSettings, SshFault>> {
        Box::pin(async move {
            if depth > MAX_HOPS {
                return Err(fault(format!(
                    "{:?} is reached through itself, or through more than {MAX_HOPS} jump hosts; mend ProxyJump",
                    hop.host
                )));
            }
            if !is_name(&hop.host) {
                return Err(fault(format!("{:?} is no host name", hop.host)));
            }
            let values = match self.ask_ssh(&hop).await? {
                Some(values) => values,
                None => self.read_here(&hop)?,
            };
            let mut settings = self.settings(&hop.host, &values)?;
            let jumps = first(&values, "proxyjump").filter(|jumps| !is_none(jumps));
            let Some(jumps) = jumps else {
                return Ok(settings);
            };
            let mut hops = Vec::new();
            for (n, jump) in jumps.split(',').enumerate() {
                let mut via = self.settle(Hop::parse(jump.trim())?, depth + 1).await?;
                if n > 0 {
                    // The way to it is the one before it, whatever its own says.
                    via.route = Route::Direct;
                }
                hops.push(via);
            }
            settings.route = Route::Jump(hops);
            Ok(settings)
        })
    }

    /// What `ssh -G` makes of a name; nothing where there is no `ssh`.
    async fn ask_ssh(&self, hop: &Hop) -> Result<Option<Vec<(String, String)>>, SshFault> {
        let mut ssh = std::process::Command::new(&self.ssh);
        ssh.arg("-G");
        if let Some(config) = &self.config {
            ssh.arg("-F").arg(config);
        }
        if let Some(port) = hop.port {
            ssh.arg("-p").arg(port.to_string());
        }
        if let Some(user) = &hop.user {
            ssh.arg("-l").arg(user);
        }
        // Nothing after this is an option, whatever it begins with.
        ssh.arg("--").arg(&hop.host).stdin(Stdio::null());
        scrub(&mut ssh, &self.secrets);
        let mut ssh = tokio::process::Command::from(ssh);
        let output = tokio::time::timeout(SSH_LIMIT, ssh.kill_on_drop(true).output()).await;
        let said = match output {
            Ok(Ok(output)) if output.status.success() => output.stdout,
            Ok(Ok(output)) => {
                return Err(fault(format!(
                    "`ssh -G {}` failed: {}; mend {}",
                    hop.host,
                    String::from_utf8_lossy(&output.stderr).trim(),
                    self.config_path().display()
                )));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(Err(error)) => {
                return Err(fault(format!("`ssh -G` cannot be started: {error}")));
            }
            Err(_) => {
                return Err(fault(format!(
                    "`ssh -G {}` did not end within {} s; check the `Match exec` lines of {}",
                    hop.host,
                    SSH_LIMIT.as_secs(),
                    self.config_path().display()
                )));
            }
        };
        let said = String::from_utf8_lossy(&said);
        let values = said.lines().filter_map(|line| line.split_once(' '));
        Ok(Some(
            values
                .map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()))
                .collect(),
        ))
    }

    /// The same without `ssh`, for what is needed here.
    fn read_here(&self, hop: &Hop) -> Result<Vec<(String, String)>, SshFault> {
        if let Some(config) = self.config.as_ref().filter(|config| !config.is_file()) {
            return Err(fault(format!(
                "{} cannot be read; set ssh.config to a readable file",
                config.display()
            )));
        }
        let mut values = Vec::new();
        // Like options of ssh: they come first, and the first one wins.
        values.extend(hop.port.map(|port| ("port".to_owned(), port.to_string())));
        values.extend(hop.user.clone().map(|user| ("user".to_owned(), user)));
        values.extend(self.config_file().values(&hop.host));
        for (key, value) in [
            ("hostname", hop.host.as_str()),
            ("user", self.env.get("USER").map_or("root", String::as_str)),
            (
                "userknownhostsfile",
                "~/.ssh/known_hosts ~/.ssh/known_hosts2",
            ),
            (
                "globalknownhostsfile",
                "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2",
            ),
        ] {
            values.push((key.to_owned(), value.to_owned()));
        }
        if first(&values, "identityfile").is_none() {
            for name in ["id_rsa", "id_ecdsa", "id_ed25519"] {
                values.push(("identityfile".to_owned(), format!("~/.ssh/{name}")));
            }
        }
        Ok(values)
    }

    fn settings(
        &self,
        alias: &str,
        values: &[(String, String)],
    ) -> Result<ComputerSettings, SshFault> {
        let get = |key: &str| first(values, key);
        let mut settings = ComputerSettings::new(alias, get("user").unwrap_or("root"));
        settings.host = get("hostname").unwrap_or(alias).replace("%h", alias);
        if let Some(port) = get("port") {
            settings.port = port
                .parse()
                .map_err(|_| fault(format!("the port of {alias:?} is {port:?}; write a number")))?;
        }
        let files = |key: &str| {
            let names = get(key).unwrap_or_default().split_whitespace();
            let names = names.filter(|name| !is_none(name));
            names
                .map(|name| self.path(name, &settings))
                .collect::<Vec<_>>()
        };
        let mut known = files("userknownhostsfile");
        known.extend(files("globalknownhostsfile"));
        let identities = values.iter().filter(|(key, _)| key == "identityfile");
        let identities = identities.filter(|(_, name)| !is_none(name));
        let identities = identities
            .map(|(_, name)| self.path(name, &settings))
            .collect();
        let agent = match get("identityagent") {
            Some(name) if is_none(name) => AgentSocket::None,
            Some(name) if name.starts_with('$') => self.agent(name.trim_matches(['$', '{', '}'])),
            Some("SSH_AUTH_SOCK") | None => self.agent("SSH_AUTH_SOCK"),
            Some(name) => AgentSocket::At(self.path(name.trim_matches('"'), &settings)),
        };
        let route = match get("proxycommand").filter(|command| !is_none(command)) {
            Some(_) if get("proxyusefdpass") == Some("yes") => {
                return Err(fault(format!(
                    "{alias:?} has ProxyUseFdpass, which is not supported; use ProxyJump"
                )));
            }
            Some(command) => Route::Command {
                line: command.to_owned(),
                secrets: self.secrets.clone(),
            },
            None => Route::Direct,
        };
        settings.known_hosts = known;
        settings.identity_files = identities;
        settings.agent = agent;
        settings.route = route;
        settings.identities_only = get("identitiesonly") == Some("yes");
        settings.host_key_alias = get("hostkeyalias").map(str::to_owned);
        settings.strict = matches!(get("stricthostkeychecking"), Some("yes" | "true"));
        Ok(settings)
    }

    fn agent(&self, variable: &str) -> AgentSocket {
        match self.env.get(variable).filter(|socket| !socket.is_empty()) {
            Some(socket) => AgentSocket::At(PathBuf::from(socket)),
            None => AgentSocket::None,
        }
    }

    /// A path of the configuration, its tokens and `~` expanded.
    fn path(&self, text: &str, computer: &ComputerSettings) -> PathBuf {
        let home = self.home.to_string_lossy();
        let user = self.env.get("USER").map_or("", String::as_str);
        let mut path = String::new();
        let mut rest = text.trim_matches('"').chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                path.push(c);
                continue;
            }
            match rest.next() {
                Some('d') => path.push_str(&home),
                Some('u') => path.push_str(user),
                Some('h') => path.push_str(&computer.host),
                Some('n') => path.push_str(&computer.alias),
                Some('r') => path.push_str(&computer.user),
                Some('p') => path.push_str(&computer.port.to_string()),
                Some(other) => path.push(other),
                None => {}
            }
        }
        match path.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => Path::new(&path.replace("${HOME}", &home)).to_owned(),
        }
    }
}

/// A name on the way, with what is said beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hop {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

impl Hop {
    /// `[user@]host[:port]`, or the same as a `ssh://` address.
    fn parse(text: &str) -> Result<Hop, SshFault> {
        let wrong = || {
            fault(format!(
                "ProxyJump names {text:?}; write [user@]host[:port], several with commas"
            ))
        };
        let bare = text.strip_prefix("ssh://").unwrap_or(text);
        let (user, place) = match bare.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, bare),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
                (host, rest.strip_prefix(':'))
            }
            None => match place.split_once(':') {
                // More than one colon: an IPv6 address without a port.
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (place, None),
            },
        };
        let port = port.map(str::parse).transpose().map_err(|_| wrong())?;
        match is_name(host) && user.as_ref().is_none_or(|user| is_name(user)) {
            true => Ok(Hop {
                user,
                host: host.to_owned(),
                port,
            }),
            false => Err(wrong()),
        }
    }
}

/// Names of hosts, one for each line: the first one, rather a name than an
/// address; never patterns or hashes.
fn known_names(text: &str) -> Vec<(String, Option<u16>)> {
    let mut names = Vec::new();
    for (_, entry) in known_hosts::entries(text) {
        if entry.marker().is_some() {
            continue;
        }
        let hosts = entry.host_patterns().to_string();
        let mut hosts: Vec<(String, Option<u16>)> = hosts
            .split(',')
            .filter(|host| !is_pattern(host) && !host.starts_with('|'))
            .filter_map(host_and_port)
            .collect();
        hosts.sort_by_key(|(host, _)| host.parse::<std::net::IpAddr>().is_ok());
        names.extend(hosts.into_iter().next());
    }
    names
}

fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let Some(rest) = text.strip_prefix('[') else {
        return Some((text.to_owned(), None));
    };
    let (host, port) = rest.split_once("]:")?;
    let port = port.parse().ok()?;
    Some((host.to_owned(), (port != 22).then_some(port)))
}

/// Whether it can be a name: nothing that a program may take for an option or
/// a shell for anything else than a word.
fn is_name(text: &str) -> bool {
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || "'\"`$;&|<>(){}\\".contains(c);
    !text.is_empty()
        && text.len() <= MAX_NAME_BYTES
        && !text.starts_with('-')
        && !text.contains(is_odd)
}

fn is_none(value: &str) -> bool {
    value.eq_ignore_ascii_case("none")
}

fn first<'v>(values: &'v [(String, String)], key: &str) -> Option<&'v str> {
    let found = values.iter().find(|(name, _)| name == key);
    found.map(|(_, value)| value.as_str())
}

fn fault(message: String) -> SshFault {
    SshFault::new(SshFaultKind::Config, message)
}

#[cfg(test)]
mod tests;
