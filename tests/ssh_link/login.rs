use std::fs;
use std::os::unix::fs::MetadataExt;

use dispatch::ssh::{Link, SshFaultKind};

use crate::support::sshd::{Agent, Sshd};
use crate::{LIMITS, Yard};

#[tokio::test]
async fn s3_a_key_file_lets_one_in_whatever_its_kind() {
    let Some((mut yard, sshd)) = Yard::with_web(&[]) else {
        return;
    };
    let link = yard.connect("web").await;
    let done = link.exec("echo hi".to_owned(), Vec::new()).await.unwrap();
    assert_eq!(
        (done.code, done.output.as_slice()),
        (Some(0), b"hi\n".as_slice())
    );
    link.close().await;
    for kind in ["rsa", "ecdsa"] {
        let key = yard.home.make_key(kind, kind, "");
        sshd.authorize(&key);
        let only = format!("IdentityFile {}", key.display());
        yard.home
            .add(kind, sshd.port, &[&only, "IdentitiesOnly yes"]);
        // The usual key is no way in here.
        let mut settings = yard.settings(kind).await;
        settings.identity_files.truncate(1);
        assert_eq!(settings.identity_files, [key]);
        let keys = yard.keys();
        let trying = dispatch::ssh::connect(&settings, &dispatch::net::TokioNet, &keys, LIMITS);
        trying.await.unwrap().close().await;
    }
}

#[tokio::test]
async fn s3_an_agent_lets_one_in_also_with_a_key_whose_file_is_encrypted() {
    let Some(sshd) = Sshd::start(&[]) else {
        return;
    };
    let mut yard = Yard::new();
    let key = yard.home.make_key("locked", "ed25519", "open sesame");
    sshd.authorize(&key);
    let named = format!("IdentityFile {}", key.display());
    yard.home
        .add("named", sshd.port, &[&named, "IdentitiesOnly yes"]);
    yard.home.add("web", sshd.port, &[]);
    let refusal = yard.refusal("named", SshFaultKind::Auth).await;
    assert!(
        refusal.contains("encrypted") && refusal.contains("ssh-add"),
        "{refusal}"
    );
    assert!(!refusal.contains("sesame"));
    let agent = Agent::start(yard.data.path());
    yard.agent = Some(agent.socket.clone());
    agent.add(&key, "open sesame");
    yard.connect("named").await.close().await;
    // Keys that no file names are tried as well, unless only named ones are wanted.
    yard.connect("web").await.close().await;
    yard.home.add("strict", sshd.port, &["IdentitiesOnly yes"]);
    yard.refusal("strict", SshFaultKind::Auth).await;
    // An agent that is not to be asked, and one that is not there.
    yard.home
        .add("without", sshd.port, &[&named, "IdentityAgent none"]);
    yard.refusal("without", SshFaultKind::Auth).await;
    drop(agent);
    let refusal = yard.refusal("named", SshFaultKind::Auth).await;
    assert!(refusal.contains("the agent at"), "{refusal}");
}

#[tokio::test]
async fn s3_a_key_that_is_not_let_in_is_a_fault_that_says_what_was_tried() {
    let Some(sshd) = Sshd::start(&[]) else {
        return;
    };
    let mut yard = Yard::new();
    yard.home.add("web", sshd.port, &[]);
    let refusal = yard.refusal("web", SshFaultKind::Auth).await;
    for part in [
        "id_test: refused",
        "authorized_keys",
        &format!("127.0.0.1:{}", sshd.port),
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(yard.home.key(), fs::Permissions::from_mode(0o644)).unwrap();
    let refusal = yard.refusal("web", SshFaultKind::Auth).await;
    assert!(refusal.contains("chmod 600"), "{refusal}");
}

#[tokio::test]
async fn s3_more_keys_than_the_server_hears_out_are_a_fault_of_the_login() {
    let Some((mut yard, sshd)) = Yard::with_web(&["MaxAuthTries 2"]) else {
        return;
    };
    let wrong: Vec<String> = (0..3)
        .map(|n| yard.home.make_key(&format!("wrong{n}"), "ed25519", ""))
        .map(|key| format!("IdentityFile {}", key.display()))
        .collect();
    let lines: Vec<&str> = wrong.iter().map(String::as_str).collect();
    yard.home.add("many", sshd.port, &lines);
    let refusal = yard.refusal("many", SshFaultKind::Auth).await;
    for part in [
        "Too many authentication failures",
        "IdentitiesOnly",
        "wrong0: refused",
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
}

#[tokio::test]
async fn s3_a_server_that_takes_no_keys_says_what_it_takes() {
    let settings = ["PubkeyAuthentication no", "PasswordAuthentication yes"];
    let Some((yard, _sshd)) = Yard::with_web(&settings) else {
        return;
    };
    let refusal = yard.refusal("web", SshFaultKind::Auth).await;
    assert!(refusal.contains("takes password only"), "{refusal}");
}

#[tokio::test]
async fn s3_an_unknown_host_is_pinned_in_our_file_and_not_in_the_users() {
    let Some((yard, sshd)) = Yard::with_web(&[]) else {
        return;
    };
    yard.connect("web").await.close().await;
    yard.connect("web").await.close().await;
    let key: Vec<String> = sshd.known_line().split(' ').map(str::to_owned).collect();
    assert_eq!(yard.pinned(), format!("{} {} {}\n", key[0], key[1], key[2]));
    assert_eq!(
        fs::metadata(yard.keys().path()).unwrap().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_to_string(yard.home.known_hosts()).unwrap(), "");
}

#[tokio::test]
async fn s3_a_changed_host_key_is_refused_loudly_wherever_it_was_known() {
    let Some((yard, mut sshd)) = Yard::with_web(&[]) else {
        return;
    };
    fs::write(yard.home.known_hosts(), sshd.known_line()).unwrap();
    yard.connect("web").await.close().await;
    assert_eq!(yard.pinned(), "");
    sshd.change_host_key("ed25519");
    let refusal = yard.refusal("web", SshFaultKind::HostKey).await;
    let known = yard.home.known_hosts().display().to_string();
    for part in ["HAS CHANGED", &format!("{known} line 1"), "ssh-keygen -R"] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    assert_eq!(refusal.matches("SHA256:").count(), 2, "{refusal}");
    // Neither another kind of key nor our own file lets it in.
    sshd.change_host_key("ecdsa");
    yard.refusal("web", SshFaultKind::HostKey).await;
    fs::write(yard.home.known_hosts(), "").unwrap();
    yard.connect("web").await.close().await;
    sshd.change_host_key("ecdsa");
    let refusal = yard.refusal("web", SshFaultKind::HostKey).await;
    assert!(
        refusal.contains(&yard.keys().path().display().to_string()),
        "{refusal}"
    );
}

#[tokio::test]
async fn s3_a_host_with_several_keys_is_asked_for_the_one_that_is_known() {
    let Some(dir) = crate::support::sshd::program().map(|_| tempfile::tempdir().unwrap()) else {
        return;
    };
    let second = dir.path().join("second");
    crate::support::sshd::make_key(&second, "ecdsa", "");
    let host_key = format!("HostKey {}", second.display());
    let Some((yard, sshd)) = Yard::with_web(&[&host_key]) else {
        return;
    };
    let public = fs::read_to_string(second.with_extension("pub")).unwrap();
    let line = format!("[127.0.0.1]:{} {public}", sshd.port);
    fs::write(yard.home.known_hosts(), line).unwrap();
    yard.connect("web").await.close().await;
    assert_eq!(yard.pinned(), "");
}

#[tokio::test]
async fn s3_each_hop_of_a_proxy_jump_is_checked_and_logged_in_to() {
    let (Some((mut yard, inner)), Some(mut outer)) = (Yard::with_web(&[]), Sshd::start(&[])) else {
        return;
    };
    outer.authorize(&yard.home.key());
    yard.home.add("bastion", outer.port, &[]);
    yard.home.add("far", inner.port, &["ProxyJump bastion"]);
    yard.home
        .add("farther", inner.port, &["ProxyJump bastion,web"]);
    for alias in ["far", "farther"] {
        let link = yard.connect(alias).await;
        let done = link
            .exec("echo $SSH_CONNECTION".to_owned(), Vec::new())
            .await
            .unwrap();
        assert!(
            String::from_utf8(done.output)
                .unwrap()
                .ends_with(&format!(" {}\n", inner.port))
        );
        link.files().await.unwrap().metadata("/").await.unwrap();
        link.close().await;
    }
    assert_eq!(yard.pinned().lines().count(), 2);
    // What is wrong with a hop is told as such.
    outer.change_host_key("ed25519");
    let refusal = yard.refusal("far", SshFaultKind::HostKey).await;
    assert!(
        refusal.contains("through its jump host: THE HOST KEY OF bastion"),
        "{refusal}"
    );
}

#[tokio::test]
async fn s3_a_proxy_command_is_a_way_and_its_failure_is_told() {
    let Some((mut yard, sshd)) = Yard::with_web(&[]) else {
        return;
    };
    // Whatever there is that can copy: here, ssh's own way through the server.
    let through = format!(
        "ProxyCommand ssh -F {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -W %h:%p web",
        yard.home.config().display()
    );
    yard.home.add("far", sshd.port, &[&through]);
    yard.home.add("broken", sshd.port, &["ProxyCommand exit 3"]);
    let link = yard.connect("far").await;
    let done = link.exec("echo hi".to_owned(), Vec::new()).await.unwrap();
    assert_eq!(done.output, b"hi\n");
    link.close().await;
    yard.refusal("broken", SshFaultKind::Unreachable).await;
}
