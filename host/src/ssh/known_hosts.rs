//! Host keys: accept-new and pin (S3).
//!
//! A host that nobody knew is believed once and remembered in a file of ours,
//! beside the user's own files, which are read and never written. From then on
//! it must show the same key. A host that shows another one, also one of
//! another kind, is refused: accepting a new kind of key from a known host
//! would let anybody in who only leaves the known kinds out.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hmac::{Hmac, KeyInit, Mac};
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, HashAlg, PublicKey};
use sha1::Sha1;

use crate::panics::locked;

use super::pattern;
use super::settings::ComputerSettings;
use dispatch_core::computer::{SshFault, SshFaultKind};

/// The name of our own file in the data directory.
const OWN_FILE: &str = "known_hosts";
/// Larger files of known hosts are not read.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The keys that hosts have shown. Cheap to clone; clones share the file.
#[derive(Clone, Debug)]
pub struct HostKeys(Arc<Own>);

#[derive(Debug)]
struct Own {
    path: PathBuf,
    /// Held from looking a host up to having written it down.
    pinning: Mutex<()>,
}

/// Under which names a computer's key is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names {
    /// `host`, or `[host]:port`, or the alias for host keys.
    name: String,
    /// The host alone, where the port is not the usual one: a key that is known
    /// there is believed here too, as OpenSSH does it.
    without_port: Option<String>,
}

impl Names {
    fn of(computer: &ComputerSettings) -> Names {
        let host = computer.host.to_ascii_lowercase();
        match (&computer.host_key_alias, computer.port) {
            (Some(alias), _) => Names {
                name: alias.clone(),
                without_port: None,
            },
            (None, 22) => Names {
                name: host,
                without_port: None,
            },
            (None, port) => Names {
                name: format!("[{host}]:{port}"),
                without_port: Some(host),
            },
        }
    }
}

/// One line of a file that concerns the host.
#[derive(Clone, Debug)]
struct Line {
    file: PathBuf,
    number: usize,
    marker: Option<Marker>,
    key: PublicKey,
    /// Known for the host without its port only.
    is_elsewhere: bool,
}

/// What is known of one computer's keys, read when a connection begins.
#[derive(Clone, Debug)]
pub(super) struct KnownKeys {
    keys: HostKeys,
    names: Names,
    lines: Vec<Line>,
    title: String,
    strict: bool,
}

impl HostKeys {
    /// The store of this data directory; nothing is read or written yet.
    pub fn new(data_dir: &Path) -> HostKeys {
        HostKeys(Arc::new(Own {
            path: data_dir.join(OWN_FILE),
            pinning: Mutex::new(()),
        }))
    }

    /// The file of ours.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Reads what is known of a computer.
    ///
    /// # Errors
    /// A file that is there and cannot be read: what it says might be that the
    /// host is not to be trusted.
    pub(super) fn of(&self, computer: &ComputerSettings) -> Result<KnownKeys, SshFault> {
        let names = Names::of(computer);
        let mut lines = Vec::new();
        for file in computer.known_hosts.iter().chain([&self.0.path]) {
            let text = read(file).map_err(|error| unreadable(&computer.title(), file, &error))?;
            lines.extend(find(file, &text, &names));
        }
        Ok(KnownKeys {
            keys: self.clone(),
            names,
            lines,
            title: computer.title(),
            strict: computer.strict,
        })
    }

    /// Writes a host's key down, unless that was done meanwhile.
    fn pin(&self, known: &KnownKeys, key: &PublicKey) -> Result<(), SshFault> {
        let _pinning = locked(&self.0.pinning);
        let path = &self.0.path;
        let failed = |error: &io::Error| unreadable(&known.title, path, error);
        let mut text = read(path).map_err(|error| failed(&error))?;
        let pinned = find(path, &text, &known.names);
        if !pinned.is_empty() {
            // Two connections came to a new host at the same time.
            let again = KnownKeys {
                lines: pinned.into_iter().chain(known.lines.clone()).collect(),
                ..known.clone()
            };
            return again.judge(key).map(|_| ());
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let blob = PublicKey::from(key.key_data().clone());
        let blob = blob
            .to_openssh()
            .map_err(|error| failed(&io::Error::other(error)))?;
        text.push_str(&format!("{} {blob}\n", known.names.name));
        replace(path, &text).map_err(|error| failed(&error))
    }
}

/// What the other side's key is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Known,
    New,
}

impl KnownKeys {
    /// The host key algorithms to ask for: the kinds that are known come first,
    /// or a host with several keys would show one that nobody has seen.
    pub(super) fn preferred(&self, offered: &[Algorithm]) -> Vec<Algorithm> {
        let is_known = |algorithm: &&Algorithm| {
            let kind = plain(algorithm);
            self.trusted().any(|line| line.key.algorithm() == kind)
        };
        let (mut first, rest): (Vec<_>, Vec<_>) =
            offered.iter().partition(|algorithm| is_known(algorithm));
        first.extend(rest);
        first.into_iter().cloned().collect()
    }

    /// Believes the key that a host has shown, or says why not. A new one is
    /// written down first.
    ///
    /// # Errors
    /// [`SshFaultKind::HostKey`], or [`SshFaultKind::Config`] when our file
    /// cannot be written: a key that cannot be pinned is not believed.
    pub(super) fn check(&self, key: &PublicKey) -> Result<(), SshFault> {
        match self.judge(key)? {
            Verdict::Known => Ok(()),
            Verdict::New if self.strict => Err(self.refuse(format!(
                "{} is unknown, and StrictHostKeyChecking is set to yes: its key is {}; if that is right, connect once by `ssh` and accept it",
                self.title,
                shown(key)
            ))),
            Verdict::New => {
                self.keys.pin(self, key)?;
                tracing::info!(
                    computer = self.title,
                    key = shown(key),
                    file = %self.keys.path().display(),
                    "a new host: its key is pinned"
                );
                Ok(())
            }
        }
    }

    fn judge(&self, key: &PublicKey) -> Result<Verdict, SshFault> {
        let is_same = |line: &&Line| line.key.key_data() == key.key_data();
        let of_marker = |marker: Marker| {
            let lines = self.lines.iter();
            lines.filter(move |line| line.marker == Some(marker))
        };
        if let Some(line) = of_marker(Marker::Revoked).find(is_same) {
            return Err(self.refuse(format!(
                "the host key of {} is revoked: {} by {} line {}; give the host a new key, or use another one",
                self.title, shown(key), line.file.display(), line.number
            )));
        }
        if let Some(line) = of_marker(Marker::CertAuthority).next() {
            tracing::warn!(
                computer = self.title,
                file = %line.file.display(),
                line = line.number,
                "@cert-authority is not supported: the host's own key is pinned instead"
            );
        }
        if self.trusted().any(|line| is_same(&line)) {
            return Ok(Verdict::Known);
        }
        match self.trusted().find(|line| !line.is_elsewhere) {
            None => Ok(Verdict::New),
            Some(_) => Err(self.refuse(self.changed(key))),
        }
    }

    fn trusted(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.marker.is_none())
    }

    /// S3: loud, and with everything that is needed to find out.
    fn changed(&self, key: &PublicKey) -> String {
        let pinned: Vec<&Line> = self.trusted().filter(|line| !line.is_elsewhere).collect();
        let places: Vec<String> = pinned
            .iter()
            .take(4)
            .map(|line| {
                format!(
                    "{} line {} has {}",
                    line.file.display(),
                    line.number,
                    shown(&line.key)
                )
            })
            .collect();
        let mut files: Vec<&Path> = pinned.iter().map(|line| line.file.as_path()).collect();
        files.dedup();
        let remedies: Vec<String> = files
            .into_iter()
            .map(|file| {
                format!(
                    "`ssh-keygen -R '{}' -f {}`",
                    self.names.name,
                    file.display()
                )
            })
            .collect();
        format!(
            "THE HOST KEY OF {} HAS CHANGED: it shows {}, but {}. Somebody may be listening in, or it was set up anew; if you know that it was, remove the old key by {} and try again",
            self.title,
            shown(key),
            places.join(", and "),
            remedies.join(" and ")
        )
    }

    fn refuse(&self, message: String) -> SshFault {
        SshFault::new(SshFaultKind::HostKey, message)
    }
}

/// A key as people compare it: `ssh-ed25519 SHA256:...`.
fn shown(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

/// An algorithm as keys carry it: RSA keys know nothing of hashes.
fn plain(algorithm: &Algorithm) -> Algorithm {
    match algorithm {
        Algorithm::Rsa { .. } => Algorithm::Rsa { hash: None },
        other => other.clone(),
    }
}

fn unreadable(title: &str, file: &Path, error: &io::Error) -> SshFault {
    let message = format!(
        "cannot check the host key of {title}: {} cannot be used: {error}; check its permissions and the free space",
        file.display()
    );
    SshFault::new(SshFaultKind::Config, message)
}

/// A file's text; a file that is not there says nothing.
pub(super) fn read(file: &Path) -> io::Result<String> {
    match fs::metadata(file) {
        Ok(found) if !found.is_file() => return Ok(String::new()),
        Ok(found) if found.len() > MAX_FILE_BYTES => {
            return Err(io::Error::other("it is larger than 16 MB"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    }
    fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The entries of a file, with their line numbers. Lines that nobody can read
/// are passed over, as OpenSSH does.
pub(super) fn entries(text: &str) -> impl Iterator<Item = (usize, Entry)> {
    text.lines().enumerate().filter_map(|(n, line)| {
        // The parser knows single spaces only.
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        Some((n + 1, line.parse().ok()?))
    })
}

fn find(file: &Path, text: &str, names: &Names) -> Vec<Line> {
    let mut found = Vec::new();
    for (number, entry) in entries(text) {
        let is_here = fits(entry.host_patterns(), &names.name);
        let elsewhere = names.without_port.as_ref();
        let is_elsewhere =
            !is_here && elsewhere.is_some_and(|name| fits(entry.host_patterns(), name));
        if is_here || is_elsewhere {
            found.push(Line {
                file: file.to_owned(),
                number,
                marker: entry.marker().copied(),
                key: entry.public_key().clone(),
                is_elsewhere,
            });
        }
    }
    found
}

fn fits(hosts: &HostPatterns, name: &str) -> bool {
    match hosts {
        HostPatterns::Patterns(patterns) => {
            let lower: Vec<String> = patterns.iter().map(|p| p.to_ascii_lowercase()).collect();
            pattern::fits_list(lower.iter().map(String::as_str), &name.to_ascii_lowercase())
        }
        HostPatterns::HashedName { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
            .is_ok_and(|mac| mac.chain_update(name).verify_slice(hash).is_ok()),
    }
}

/// Replaces our file as a whole, so that a crash leaves the old or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
