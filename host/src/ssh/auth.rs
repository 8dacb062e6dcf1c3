//! Being let in: by an agent's keys and by key files, in OpenSSH's order (S3).
//!
//! First the agent's keys that key files name, in the files' order; then the
//! agent's other keys, unless only named ones are wanted; then the files that
//! no agent holds a key of.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{
    Certificate, Error as KeyError, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey,
    load_public_key, load_secret_key,
};
use russh::{MethodKind, MethodSet};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::session::{Down, Stage, Watcher, lost};
use super::settings::{AgentSocket, ComputerSettings};
use dispatch_core::computer::{SshFault, SshFaultKind, visible};

/// An agent lists its keys at once, or is taken for none. Signing may wait for
/// somebody to touch a token, up to the handshake's own deadline.
const AGENT_LIST_LIMIT: Duration = Duration::from_secs(3);
/// Servers give up after six by default; a long list is a mistake.
const MAX_NOTES: usize = 12;

/// Logs in, or says what was tried and what to do.
pub(super) async fn log_in(
    handle: &mut Handle<Watcher>,
    computer: &ComputerSettings,
    down: &Down,
    stage: &Stage,
) -> Result<(), SshFault> {
    let mut login = Login {
        handle,
        computer,
        down,
        notes: Vec::new(),
        rsa_hash: None,
    };
    match login.first().await? {
        Offer::In => return Ok(()),
        Offer::Closed => return Err(login.refused()),
        Offer::Open => {}
    }
    let files = key_files(&computer.identity_files, &mut login.notes);
    stage.set("asking the SSH agent for its keys");
    let (agent, keys) = agent_keys(computer, login.handle, &mut login.notes).await;
    stage.set("logging in");
    let held: Vec<PublicKey> = keys
        .iter()
        .map(|key| key.public_key().into_owned())
        .collect();
    if let Some(mut agent) = agent {
        for key in in_order(keys, &files, computer.identities_only) {
            match login.by_agent(&mut agent, &key).await? {
                Offer::In => return Ok(()),
                Offer::Closed => return Err(login.refused()),
                Offer::Open => {}
            }
        }
    }
    for file in &files {
        let is_held = |key: &PublicKey| held.iter().any(|held| held.key_data() == key.key_data());
        if file.public.as_ref().is_some_and(is_held) {
            continue;
        }
        match login.by_file(file).await? {
            Offer::In => return Ok(()),
            Offer::Closed => return Err(login.refused()),
            Offer::Open => {}
        }
    }
    Err(login.refused())
}

/// What the computer says to one try.
enum Offer {
    In,
    /// It would take another key.
    Open,
    /// No key will help.
    Closed,
}

struct Login<'l> {
    handle: &'l mut Handle<Watcher>,
    computer: &'l ComputerSettings,
    down: &'l Down,
    /// What was tried, and what came of it.
    notes: Vec<String>,
    /// The hash for RSA signatures, once asked for; `None` in it: SHA-1 only.
    rsa_hash: Option<Option<HashAlg>>,
}

impl Login<'_> {
    /// Asks what it takes; some let everybody in who comes this far.
    async fn first(&mut self) -> Result<Offer, SshFault> {
        let answer = self.handle.authenticate_none(&self.computer.user).await;
        let answer = answer.map_err(|error| self.broken(&error.to_string()));
        self.judge(answer?, None).await
    }

    async fn by_agent(
        &mut self,
        agent: &mut AgentClient<UnixStream>,
        identity: &AgentIdentity,
    ) -> Result<Offer, SshFault> {
        let key = identity.public_key().into_owned();
        let title = format!("key {} of the agent", shown(&key, identity.comment()));
        let Some(hash) = self.hash_for(&key, &title).await? else {
            return Ok(Offer::Open);
        };
        let user = self.computer.user.clone();
        let answer = match identity {
            AgentIdentity::PublicKey { key, .. } => {
                let key = key.clone();
                self.handle
                    .authenticate_publickey_with(user, key, hash, agent)
                    .await
            }
            AgentIdentity::Certificate { certificate, .. } => {
                let certificate = certificate.clone();
                self.handle
                    .authenticate_certificate_with(user, certificate, hash, agent)
                    .await
            }
        };
        match answer {
            Ok(answer) => self.judge(answer, Some(&title)).await,
            Err(error) if self.handle.is_closed() => Err(self.ended(&error.to_string()).await),
            Err(error) => {
                // Declined, or a token that is not plugged in.
                self.note(format!("{title}: the agent did not sign: {error}"));
                Ok(Offer::Open)
            }
        }
    }

    async fn by_file(&mut self, file: &KeyFile) -> Result<Offer, SshFault> {
        let Some(key) = &file.private else {
            return Ok(Offer::Open);
        };
        let title = format!("key {}", file.path.display());
        if let Some(certificate) = &file.certificate {
            let title = format!("certificate of {}", file.path.display());
            let user = self.computer.user.clone();
            let answer = self
                .handle
                .authenticate_openssh_cert(user, key.clone(), certificate.clone())
                .await;
            let answer = answer.map_err(|error| self.broken(&error.to_string()))?;
            match self.judge(answer, Some(&title)).await? {
                Offer::Open => {}
                offer => return Ok(offer),
            }
        }
        let Some(hash) = self.hash_for(key.public_key(), &title).await? else {
            return Ok(Offer::Open);
        };
        let user = self.computer.user.clone();
        let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
        let answer = self.handle.authenticate_publickey(user, key).await;
        let answer = answer.map_err(|error| self.broken(&error.to_string()))?;
        self.judge(answer, Some(&title)).await
    }

    /// The hash to sign with: `None` where the computer takes no RSA signature
    /// that is worth anything, `Some(None)` for keys that know no choice.
    async fn hash_for(
        &mut self,
        key: &PublicKey,
        title: &str,
    ) -> Result<Option<Option<HashAlg>>, SshFault> {
        if !key.algorithm().is_rsa() {
            return Ok(Some(None));
        }
        if self.rsa_hash.is_none() {
            let best = self.handle.best_supported_rsa_hash().await;
            let best = best.map_err(|error| self.broken(&error.to_string()))?;
            // It has not said: whoever is newer than 2016 takes this one.
            self.rsa_hash = Some(best.unwrap_or(Some(HashAlg::Sha512)));
        }
        let hash = self.rsa_hash.flatten();
        if hash.is_none() {
            self.note(format!("{title}: the server takes RSA with SHA-1 only"));
        }
        Ok(hash.map(Some))
    }

    /// `tried` is what was offered, for people; nothing at first.
    async fn judge(&mut self, answer: AuthResult, tried: Option<&str>) -> Result<Offer, SshFault> {
        let (methods, partial) = match answer {
            AuthResult::Success => return Ok(Offer::In),
            AuthResult::Failure {
                remaining_methods,
                partial_success,
            } => (remaining_methods, partial_success),
        };
        // The library calls a lost session a refusal.
        if self.handle.is_closed() {
            return Err(self.ended("the session ended").await);
        }
        if let Some(tried) = tried {
            let said = if partial {
                "accepted, but not enough"
            } else {
                "refused"
            };
            self.note(format!("{tried}: {said}"));
        }
        if !methods.contains(&MethodKind::PublicKey) {
            self.note(format!("it now takes {} only", named(&methods)));
            return Ok(Offer::Closed);
        }
        Ok(Offer::Open)
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(visible(&note));
        }
    }

    /// Why the session ended in the middle of it.
    async fn ended(&self, said: &str) -> SshFault {
        let title = self.computer.title();
        match self.down.soon().await {
            Some(ending) => match ending.farewell {
                // Most often: too many keys were tried.
                Some(farewell) => SshFault::new(
                    SshFaultKind::Auth,
                    format!(
                        "{title} broke off the login of {}: {farewell}{}; name the right key by IdentityFile, with IdentitiesOnly yes",
                        self.computer.user,
                        self.history()
                    ),
                ),
                None => ending.fault,
            },
            None => lost(&title, said),
        }
    }

    fn broken(&self, said: &str) -> SshFault {
        let fault = self.down.fault();
        fault.unwrap_or_else(|| lost(&self.computer.title(), said))
    }

    fn history(&self) -> String {
        match self.notes.is_empty() {
            true => String::new(),
            false => format!(" ({})", self.notes.join("; ")),
        }
    }

    fn refused(&self) -> SshFault {
        let tried = match self.notes.is_empty() {
            true => " (no key was found: no agent, no key file)".to_owned(),
            false => self.history(),
        };
        SshFault::new(
            SshFaultKind::Auth,
            format!(
                "{} did not let {} in{tried}; put a public key of yours into its authorized_keys, add the key to the agent by `ssh-add`, or name it by IdentityFile",
                self.computer.title(),
                self.computer.user
            ),
        )
    }
}

/// A key file that there is.
struct KeyFile {
    path: PathBuf,
    public: Option<PublicKey>,
    private: Option<Arc<PrivateKey>>,
    certificate: Option<Certificate>,
}

fn key_files(paths: &[PathBuf], notes: &mut Vec<String>) -> Vec<KeyFile> {
    paths
        .iter()
        .filter(|path| path.is_file())
        .map(|path| key_file(path, notes))
        .collect()
}

fn key_file(path: &Path, notes: &mut Vec<String>) -> KeyFile {
    let mut file = KeyFile {
        path: path.to_owned(),
        public: public_half(path),
        private: None,
        certificate: None,
    };
    let mut note = |text: String| notes.push(visible(&format!("key {}: {text}", path.display())));
    if is_open_to_others(path) {
        note(format!(
            "ignored, others may read it; run `chmod 600 {}`",
            path.display()
        ));
        return file;
    }
    match load_secret_key(path, None) {
        Ok(key) => {
            file.public = Some(key.public_key().clone());
            file.private = Some(Arc::new(key));
            file.certificate = Certificate::read_file(&beside(path, "-cert.pub")).ok();
        }
        Err(KeyError::KeyIsEncrypted) => note(format!(
            "encrypted; usable through an agent only, add it by `ssh-add {}`",
            path.display()
        )),
        // A public key, naming one of the agent's.
        Err(_) if file.public.is_some() => {}
        Err(error) => note(format!("cannot be read: {error}")),
    }
    file
}

/// The public half, which lies in the open also where the key is encrypted.
fn public_half(path: &Path) -> Option<PublicKey> {
    load_public_key(path)
        .ok()
        .or_else(|| load_public_key(beside(path, ".pub")).ok())
        .or_else(|| {
            let key = PrivateKey::read_openssh_file(path).ok()?;
            Some(key.public_key().clone())
        })
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// OpenSSH's rule: a private key of ours that others can read is none.
fn is_open_to_others(path: &Path) -> bool {
    let is_public = load_public_key(path).is_ok();
    let ours = rustix::process::getuid().as_raw();
    fs::metadata(path).is_ok_and(|m| !is_public && m.uid() == ours && m.mode() & 0o077 != 0)
}

type Agent = AgentClient<UnixStream>;

async fn agent_keys(
    computer: &ComputerSettings,
    handle: &Handle<Watcher>,
    notes: &mut Vec<String>,
) -> (Option<Agent>, Vec<AgentIdentity>) {
    let AgentSocket::At(socket) = &computer.agent else {
        return (None, Vec::new());
    };
    let listing = async {
        let mut agent = AgentClient::connect_uds(socket).await?;
        if let Some(binding) = handle.agent_session_binding() {
            // Agents that know no bound keys refuse it; nothing is lost then.
            let _ = agent.bind_session(binding, false).await;
        }
        let keys = agent.request_identities().await?;
        Ok::<_, KeyError>((agent, keys))
    };
    let said = match timeout(AGENT_LIST_LIMIT, listing).await {
        Ok(Ok((agent, keys))) => return (Some(agent), keys),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", AGENT_LIST_LIMIT.as_secs()),
    };
    notes.push(visible(&format!(
        "the agent at {} cannot be asked: {said}",
        socket.display()
    )));
    (None, Vec::new())
}

/// Certificates and keys that files name first, in the files' order.
fn in_order(keys: Vec<AgentIdentity>, files: &[KeyFile], only_named: bool) -> Vec<AgentIdentity> {
    let place = |identity: &AgentIdentity| {
        let key = identity.public_key();
        files.iter().position(|file| {
            file.public
                .as_ref()
                .is_some_and(|public| public.key_data() == key.key_data())
        })
    };
    let mut placed: Vec<(usize, AgentIdentity)> = keys
        .into_iter()
        .filter_map(|key| match place(&key) {
            Some(place) => Some((place, key)),
            None => (!only_named).then_some((usize::MAX, key)),
        })
        .collect();
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, key)| key).collect()
}

fn shown(key: &PublicKey, comment: &str) -> String {
    let comment = match comment {
        "" => String::new(),
        comment => format!(" {comment:?}"),
    };
    format!("{}{comment}", key.fingerprint(HashAlg::Sha256))
}

fn named(methods: &MethodSet) -> String {
    let names: Vec<&str> = methods.iter().map(<&str>::from).collect();
    match names.is_empty() {
        true => "nothing".to_owned(),
        false => names.join(", "),
    }
}
