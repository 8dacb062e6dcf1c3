use std::fs;

use super::*;

struct Scene {
    home: tempfile::TempDir,
    computers: Computers,
}

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

fn scene(config: &str, known: &str) -> Scene {
    let home = tempfile::tempdir().unwrap();
    let ssh = home.path().join(".ssh");
    fs::create_dir(&ssh).unwrap();
    fs::write(ssh.join("config"), config).unwrap();
    fs::write(ssh.join("known_hosts"), known).unwrap();
    let env = BTreeMap::from([
        ("HOME".to_owned(), home.path().display().to_string()),
        ("USER".to_owned(), "me".to_owned()),
        ("SSH_AUTH_SOCK".to_owned(), "/run/agent".to_owned()),
    ]);
    let reject = DEFAULT_REJECT.map(str::to_owned).to_vec();
    // Named outright: ssh takes the user's home from the system, not from HOME.
    let computers = Computers::new(Some(ssh.join("config")), reject, env, Vec::new());
    Scene { home, computers }
}

impl Scene {
    fn names(&self) -> Vec<String> {
        let listed = self.computers.list().into_iter();
        listed.map(|computer| computer.alias).collect()
    }

    async fn refusal(&self, alias: &str) -> String {
        let fault = self.computers.resolve(alias).await.unwrap_err();
        assert_eq!(fault.kind, SshFaultKind::Config);
        fault.message
    }

    /// As it is resolved with `ssh`, where there is one, and without.
    async fn both(&self, alias: &str) -> Vec<ComputerSettings> {
        let without = self.computers.clone().with_ssh("no-such-ssh".into());
        let mut found = vec![without.resolve(alias).await.unwrap()];
        if std::process::Command::new("ssh").arg("-V").output().is_ok() {
            found.push(self.computers.resolve(alias).await.unwrap());
        }
        found
    }
}

#[test]
fn s2_the_configuration_comes_first_and_wins() {
    let known = format!(
        "web.example {KEY}\nold.example,10.0.0.7 {KEY}\n10.0.0.8 {KEY}\n[odd.example]:2222 {KEY}\n\
         old.example {KEY}\n*.pattern {KEY}\n|1|iZnZ3jYx1Mv1LbA3pe2nqTUgyzg=|USECr3SWf1JUPsms5AqfD5QfxkM= {KEY}\n\
         @cert-authority ca.example {KEY}\ngithub.com {KEY}\n-oProxyCommand=x {KEY}\n"
    );
    let config =
        "Host web db\n  HostName %h.example\nHost *\nHost hub\n  HostName GitHub.com\nHost -bad\n";
    let scene = scene(config, &known);
    assert_eq!(
        scene.names(),
        ["web", "db", "old.example", "10.0.0.8", "odd.example"]
    );
    let listed = scene.computers.list();
    assert_eq!(listed[0].source, ComputerSource::Config);
    assert_eq!(listed[0].host, "web.example");
    assert_eq!(listed[2].source, ComputerSource::KnownHosts);
    assert_eq!(listed[4].port, Some(2222));
}

#[test]
fn s2_a_name_is_ruled_out_only_where_nothing_could_mean_it() {
    let known = format!("old.example {KEY}\n");
    let plain = scene(
        "IdentitiesOnly yes\nHost web\nHost *.lab !no.lab\nMatch all\n",
        &known,
    );
    let may_be = |alias| plain.computers.may_be(alias);
    for alias in ["web", "old.example", "one.lab"] {
        assert!(may_be(alias), "{alias}");
    }
    for alias in ["wbe", "no.lab", "lab", "github.com"] {
        assert!(!may_be(alias), "{alias}");
    }
    for config in ["Host *\n", "Match exec true\n"] {
        assert!(scene(config, "").computers.may_be("anything"), "{config}");
    }
    let known = fs::File::create(plain.home.path().join(".ssh/known_hosts")).unwrap();
    known.set_len(17 << 20).unwrap();
    assert!(may_be("wbe"), "nobody can tell");
}

#[tokio::test]
async fn s3_user_port_keys_and_agent_are_those_of_the_configuration() {
    let config = "Host web\n  HostName 10.0.0.1\n  Port 2222\n  User admin\n  IdentityFile ~/.ssh/%r_key\n  IdentityFile /keys/b\n\
        \x20 IdentitiesOnly yes\n  IdentityAgent none\n  HostKeyAlias the-web\n  StrictHostKeyChecking yes\n  UserKnownHostsFile ~/kh\n  GlobalKnownHostsFile none\n\
        Host plain\n  GlobalKnownHostsFile none\n";
    let scene = scene(config, "");
    for web in scene.both("web").await {
        assert_eq!(web.title(), "web (10.0.0.1:2222)");
        assert_eq!(web.user, "admin");
        let keys = [scene.home.path().join(".ssh/admin_key"), "/keys/b".into()];
        assert_eq!(web.identity_files, keys);
        assert!(web.identities_only && web.strict);
        assert_eq!(web.agent, AgentSocket::None);
        assert_eq!(web.host_key_alias.as_deref(), Some("the-web"));
        assert_eq!(web.known_hosts.len(), 1);
        assert!(web.known_hosts[0].ends_with("kh"));
        assert_eq!(web.route, Route::Direct);
    }
    for plain in scene.both("plain").await {
        assert_eq!(plain.authority(), "plain:22");
        assert_eq!(plain.agent, AgentSocket::At("/run/agent".into()));
        assert!(
            plain
                .identity_files
                .contains(&scene.home.path().join(".ssh/id_ed25519"))
        );
        assert!(!plain.identities_only && !plain.strict);
    }
}

#[tokio::test]
async fn s3_jump_hosts_are_resolved_one_by_one() {
    let config = "Host web\n  ProxyJump me@first:2201,second\nHost first\n  HostName 10.0.0.1\n  ProxyJump zero\n\
        Host second\n  HostName 10.0.0.2\n  User two\n  ProxyJump ignored\nHost zero\n  HostName 10.0.0.9\n\
        Host by-command\n  ProxyCommand nc %h %p\n";
    let scene = scene(config, "");
    for web in scene.both("web").await {
        let Route::Jump(hops) = &web.route else {
            panic!("{:?}", web.route)
        };
        let [first, second] = hops.as_slice() else {
            panic!("{hops:?}")
        };
        assert_eq!(
            (first.title().as_str(), first.user.as_str()),
            ("first (10.0.0.1:2201)", "me")
        );
        let Route::Jump(zero) = &first.route else {
            panic!("{:?}", first.route)
        };
        assert_eq!(zero[0].host, "10.0.0.9");
        assert_eq!(
            (second.host.as_str(), second.user.as_str()),
            ("10.0.0.2", "two")
        );
        assert_eq!(second.route, Route::Direct);
    }
    for by_command in scene.both("by-command").await {
        let Route::Command { line, .. } = by_command.route else {
            panic!("{:?}", by_command.route)
        };
        assert_eq!(line, "nc %h %p");
    }
}

#[tokio::test]
async fn s2_names_that_are_no_computers_are_refused_with_the_reason() {
    let config = "Host web\nHost there\n  ProxyJump back\nHost back\n  ProxyJump there\nHost hub\n  HostName github.com\nHost fd\n  ProxyCommand x\n  ProxyUseFdpass yes\n";
    let scene = scene(config, "");
    assert!(scene.refusal("wep").await.contains("did you mean \"web\"?"));
    for alias in ["-oProxyCommand=touch x", "", "a b", "web;id"] {
        assert!(
            scene.refusal(alias).await.contains("there is no computer"),
            "{alias}"
        );
    }
    assert!(scene.refusal("there").await.contains("through itself"));
    assert!(scene.refusal("github.com").await.contains("ssh.reject"));
    assert!(scene.refusal("fd").await.contains("ProxyUseFdpass"));
}

#[tokio::test]
async fn s2_a_host_whose_name_only_ssh_can_tell_is_rejected_too() {
    if std::process::Command::new("ssh")
        .arg("-V")
        .output()
        .is_err()
    {
        return;
    }
    let scene = scene(
        "Host hub\nMatch originalhost hub\n  HostName github.com\n",
        "",
    );
    assert_eq!(scene.names(), ["hub"]);
    let refusal = scene.refusal("hub").await;
    assert!(refusal.contains("\"github.com\""), "{refusal}");
}

#[tokio::test]
async fn s2_a_configuration_that_ssh_refuses_is_told_in_its_words() {
    let scene = scene("Host web\n  Portt 3\n", "");
    if std::process::Command::new("ssh").arg("-V").output().is_ok() {
        let refusal = scene.refusal("web").await;
        assert!(
            refusal.contains("line 2: Bad configuration option"),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn s2_an_ssh_that_hangs_is_given_up() {
    let scene = scene("Host web\n", "");
    let ssh = scene.home.path().join("ssh");
    fs::write(&ssh, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700)).unwrap();
    tokio::time::pause();
    let computers = scene.computers.clone().with_ssh(ssh);
    let fault = computers.resolve("web").await.unwrap_err();
    assert!(fault.message.contains("did not end within 10 s"), "{fault}");
}

#[test]
fn a_jump_host_is_read_in_every_spelling() {
    let hop = |user: Option<&str>, host: &str, port| Hop {
        user: user.map(str::to_owned),
        host: host.to_owned(),
        port,
    };
    for (text, expected) in [
        ("a", hop(None, "a", None)),
        ("me@a:22", hop(Some("me"), "a", Some(22))),
        ("ssh://me@a:22", hop(Some("me"), "a", Some(22))),
        ("[fe80::1]:22", hop(None, "fe80::1", Some(22))),
        ("fe80::1", hop(None, "fe80::1", None)),
    ] {
        assert_eq!(Hop::parse(text).unwrap(), expected, "{text}");
    }
    for text in ["", "@a", "-o@a", "-a", "a:x", "a:99999", "[a", "a b"] {
        assert!(Hop::parse(text).is_err(), "{text}");
    }
}
