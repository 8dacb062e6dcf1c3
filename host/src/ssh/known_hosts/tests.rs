use std::os::unix::fs::MetadataExt;

use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};

use super::*;

struct Scene {
    dir: tempfile::TempDir,
    keys: HostKeys,
    computer: ComputerSettings,
}

impl Scene {
    /// A computer `web` at `host:port`; `known` is the user's file.
    fn new(host: &str, port: u16, known: &str) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let user_file = dir.path().join("user_known_hosts");
        fs::write(&user_file, known).unwrap();
        let mut computer = ComputerSettings::new("web", "me");
        computer.host = host.to_owned();
        computer.port = port;
        computer.known_hosts = vec![user_file, dir.path().join("is_not_there")];
        Scene {
            keys: HostKeys::new(dir.path()),
            dir,
            computer,
        }
    }

    fn check(&self, key: &PublicKey) -> Result<(), SshFault> {
        self.keys.of(&self.computer)?.check(key)
    }

    fn refusal(&self, key: &PublicKey) -> String {
        let fault = self.check(key).unwrap_err();
        assert_eq!(fault.kind, SshFaultKind::HostKey, "{fault}");
        fault.message
    }

    fn own(&self) -> String {
        read(self.keys.path()).unwrap()
    }
}

fn key(seed: u8) -> PublicKey {
    let pair = Ed25519Keypair::from_seed(&[seed; 32]);
    let key = PrivateKey::new(KeypairData::from(pair), "a comment").unwrap();
    key.public_key().clone()
}

fn blob(seed: u8) -> String {
    key(seed).to_openssh().unwrap()
}

/// A key of another kind than [`key`].
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc=";

#[test]
fn s3_a_new_host_is_believed_once_and_pinned_in_our_file_only() {
    let scene = Scene::new("Web.example", 22, "other.example ssh-ed25519 AAAA\n");
    scene.check(&key(1)).unwrap();
    assert_eq!(scene.own().lines().count(), 1);
    assert!(scene.own().starts_with("web.example ssh-ed25519 AAAA"));
    assert_eq!(
        fs::metadata(scene.keys.path()).unwrap().mode() & 0o777,
        0o600
    );
    scene.check(&key(1)).unwrap();
    assert_eq!(scene.own().lines().count(), 1);
    let user = read(&scene.computer.known_hosts[0]).unwrap();
    assert_eq!(user.lines().count(), 1);
    let refusal = scene.refusal(&key(2));
    assert!(refusal.contains("known_hosts line 1"), "{refusal}");
}

#[test]
fn s3_a_changed_key_is_refused_with_both_fingerprints_place_and_remedy() {
    let scene = Scene::new(
        "10.0.0.1",
        2222,
        &format!("# c\n\n[10.0.0.1]:2222 {}\n", blob(1)),
    );
    scene.check(&key(1)).unwrap();
    let refusal = scene.refusal(&key(2));
    let file = scene.computer.known_hosts[0].display().to_string();
    for part in [
        "web (10.0.0.1:2222)",
        "HAS CHANGED",
        &key(1).fingerprint(HashAlg::Sha256).to_string(),
        &key(2).fingerprint(HashAlg::Sha256).to_string(),
        &format!("{file} line 3"),
        &format!("ssh-keygen -R '[10.0.0.1]:2222' -f {file}"),
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    assert_eq!(scene.own(), "");
}

#[test]
fn s3_a_known_host_may_not_come_with_a_key_of_another_kind() {
    let scene = Scene::new("web", 22, &format!("web {ECDSA}\n"));
    let refusal = scene.refusal(&key(1));
    assert!(refusal.contains("ecdsa-sha2-nistp256 SHA256:"), "{refusal}");
}

#[test]
fn s3_the_kinds_that_are_known_are_asked_for_first() {
    let scene = Scene::new(
        "web",
        22,
        &format!("web {ECDSA}\n@revoked web {}\n", blob(1)),
    );
    let known = scene.keys.of(&scene.computer).unwrap();
    let offered = russh::Preferred::DEFAULT.key;
    let preferred = known.preferred(&offered);
    assert_eq!(preferred[0].as_str(), "ecdsa-sha2-nistp256");
    assert_eq!(preferred[1], Algorithm::Ed25519);
    assert_eq!(preferred.len(), offered.len());
}

#[test]
fn s3_every_way_to_write_a_host_is_understood() {
    // `web.example`, hashed by ssh-keygen -H.
    let hashed = "|1|iZnZ3jYx1Mv1LbA3pe2nqTUgyzg=|";
    let salt = "iZnZ3jYx1Mv1LbA3pe2nqTUgyzg=";
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let mac = Hmac::<Sha1>::new_from_slice(&engine.decode(salt).unwrap()).unwrap();
    let hash = engine.encode(mac.chain_update("web.example").finalize().into_bytes());
    for hosts in [
        "web.example".to_owned(),
        "other,WEB.example,10.0.0.1".to_owned(),
        "*.example".to_owned(),
        "web.ex?mple,!db.example".to_owned(),
        format!("{hashed}{hash}"),
    ] {
        let scene = Scene::new("web.example", 22, &format!("{hosts}\t{}  x\n", blob(1)));
        scene.check(&key(1)).unwrap();
        assert_eq!(scene.own(), "", "{hosts}");
        scene.refusal(&key(2));
    }
    let scene = Scene::new(
        "web.example",
        22,
        &format!("*.example,!web.example {}\n", blob(1)),
    );
    scene.check(&key(2)).unwrap();
}

#[test]
fn s3_a_revoked_key_is_refused_whatever_else_is_known() {
    let both = format!("web {}\n@revoked * {}\n", blob(1), blob(1));
    let refusal = Scene::new("web", 22, &both).refusal(&key(1));
    assert!(
        refusal.contains("revoked") && refusal.contains("line 2"),
        "{refusal}"
    );
}

#[test]
fn s3_an_authority_is_no_host_key() {
    let scene = Scene::new("web", 22, &format!("@cert-authority web {}\n", blob(1)));
    scene.check(&key(2)).unwrap();
    assert!(scene.own().starts_with("web ssh-ed25519"));
}

#[test]
fn s3_a_key_known_without_the_port_is_believed_and_does_not_bind() {
    let known = format!("web {}\n", blob(1));
    let scene = Scene::new("web", 2222, &known);
    scene.check(&key(1)).unwrap();
    assert_eq!(scene.own(), "");
    scene.check(&key(2)).unwrap();
    assert!(scene.own().starts_with("[web]:2222 "));
    scene.refusal(&key(3));
}

#[test]
fn s3_a_host_key_alias_stands_for_host_and_port() {
    let mut scene = Scene::new("10.0.0.1", 2222, &format!("name {}\n", blob(1)));
    scene.computer.host_key_alias = Some("name".to_owned());
    scene.check(&key(1)).unwrap();
    scene.refusal(&key(2));
}

#[test]
fn s3_a_key_that_the_user_has_replaced_is_believed_beside_the_pinned_one() {
    let scene = Scene::new("web", 22, "");
    scene.check(&key(1)).unwrap();
    fs::write(&scene.computer.known_hosts[0], format!("web {}\n", blob(2))).unwrap();
    scene.check(&key(2)).unwrap();
    scene.refusal(&key(3));
}

#[test]
fn s3_a_strict_configuration_believes_nobody_new() {
    let mut scene = Scene::new("web", 22, "");
    scene.computer.strict = true;
    let refusal = scene.refusal(&key(1));
    assert!(refusal.contains("StrictHostKeyChecking"), "{refusal}");
    assert_eq!(scene.own(), "");
}

#[test]
fn s3_what_cannot_be_read_or_pinned_is_not_believed() {
    let scene = Scene::new("web", 22, "");
    // A directory in the place of the file that is written first.
    fs::create_dir(scene.dir.path().join("known_hosts.new")).unwrap();
    let fault = scene.check(&key(1)).unwrap_err();
    assert_eq!(fault.kind, SshFaultKind::Config);
    assert!(fault.message.contains("known_hosts"), "{fault}");
}

#[test]
fn s3_of_two_first_meetings_at_once_one_pins_and_the_other_one_must_agree() {
    let scene = Scene::new("web", 22, "");
    let (first, second) = (
        scene.keys.of(&scene.computer).unwrap(),
        scene.keys.of(&scene.computer).unwrap(),
    );
    first.check(&key(1)).unwrap();
    assert!(second.clone().check(&key(2)).is_err());
    second.check(&key(1)).unwrap();
    assert_eq!(scene.own().lines().count(), 1);
}

#[test]
fn s3_lines_that_nobody_can_read_hide_nothing() {
    let known = format!(
        "web 1024 37 1599\nweb ssh-ed25519 %%%\n@odd web {0}\nweb {0}\n",
        blob(1)
    );
    Scene::new("web", 22, &known).refusal(&key(2));
}
