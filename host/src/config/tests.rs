use super::*;

use dispatch_core::computer::SshTerms;

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load(file: &str, pairs: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dispatch.toml"), file).unwrap();
    Settings::load(&Sources {
        data_dir: Some(dir.path().to_owned()),
        env: env(pairs),
        ..Sources::default()
    })
}

fn refusal(file: &str, pairs: &[(&str, &str)]) -> String {
    load(file, pairs).unwrap_err().to_string()
}

const SCRIPTED: &str = "[providers.demo]\ndialect = 'scripted'\n";

#[test]
fn the_documented_example_is_the_default() {
    let example = r#"
        [server]
        listen = "127.0.0.1:4747"
        on_crash = "resume"
        [providers.openai]
        dialect = "chat"
        base_url = "https://api.openai.com/v1"
        key_env = "OPENAI_API_KEY"
        limit = 4
        cooldown_ms = 200
        models = ["gpt-5.1"]
        [deadlines]
        connect_s = 10
        first_byte_s = 120
        idle_s = 120
        [liveness]
        lease_s = 60
        renew_s = 20
        sweep_s = 15
        node_patience_s = 600
        notify = true
        [retry]
        schedule_s = [5, 10, 30, 60, 300, 600, 900, 1800]
        budget_s = 28800
        [ssh]
        patience_ms = 60000
        keepalive_ms = 30000
        alive_ms = 15000
        idle_ms = 900000
        backoff_ms = 1000
        backoff_max_ms = 60000
        flaps = 5
        flap_window_ms = 300000
        quarantine_ms = 300000
        start_ms = 30000
        look_ms = 600000
        test_ms = 30000
        channels = 8
    "#;
    let owner = Owner {
        node: "n".into(),
        boot: 1,
        incarnation: 0,
    };
    let key = [("OPENAI_API_KEY", "k")];
    let written = load(example, &key).unwrap().core(owner.clone());
    let implied = load("", &key).unwrap().core(owner.clone());
    assert_eq!(written, implied);
    assert_eq!(written, core::Config::new(owner, written.providers.clone()));
}

#[test]
fn the_environment_overrules_the_file_and_a_flag_overrules_both() {
    let file = format!("{SCRIPTED}[server]\nlisten = '127.0.0.1:1'\n[deadlines]\nidle_s = 7\n");
    let pairs = [
        ("DISPATCH_SERVER__LISTEN", "127.0.0.1:2"),
        ("DISPATCH_DEADLINES__IDLE_S", "9"),
    ];
    let settings = load(&file, &pairs).unwrap();
    assert_eq!(settings.listen.port(), 2);
    assert_eq!(settings.deadlines.idle_s, 9);
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::load(&Sources {
        data_dir: Some(dir.path().to_owned()),
        listen: Some("localhost:3".to_owned()),
        env: env(&[pairs[0], ("OPENAI_API_KEY", "k")]),
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(settings.listen.port(), 3);
}

#[test]
fn without_any_provider_the_three_ways_to_define_one_are_named() {
    let message = refusal("", &[("ANTHROPIC_API_KEY", "k")]);
    for way in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "[providers.NAME]"] {
        assert!(message.contains(way), "{message}");
    }
    assert!(message.contains("not supported yet"), "{message}");
}

#[test]
fn a_base_url_without_a_key_is_called_without_one() {
    let settings = load("", &[("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")]).unwrap();
    let Dialect::Chat { key, .. } = &settings.providers[0].dialect else {
        panic!("not a chat provider")
    };
    assert!(key.is_none());
    let message = refusal("[providers.openai]\nlimit = 2", &[]);
    assert!(message.contains("OPENAI_API_KEY"), "{message}");
}

#[test]
fn the_first_provider_of_the_file_is_the_default() {
    let file = "[providers.zeta]\ndialect='scripted'\n[providers.alpha]\ndialect='scripted'\n";
    let settings = load(file, &[("OPENAI_API_KEY", "k")]).unwrap();
    let ids: Vec<_> = settings.providers.iter().map(|p| p.id.as_str()).collect();
    assert_eq!(ids, ["zeta", "alpha", "openai"]);
}

#[test]
fn dialects_that_are_not_there_yet_say_so() {
    let message = refusal("[providers.a]\ndialect = 'anthropic'\nmodels = ['m']", &[]);
    assert!(message.contains("not supported yet"), "{message}");
}

#[test]
fn a_bind_that_others_can_reach_needs_a_token() {
    let file = format!("{SCRIPTED}[server]\nlisten = '0.0.0.0:4747'\n");
    let message = refusal(&file, &[]);
    assert!(message.contains("DISPATCH_TOKEN"), "{message}");
    assert!(load(&file, &[("DISPATCH_TOKEN", "t")]).is_ok());
    assert!(load(&file, &[("DISPATCH_TOKEN", "  ")]).is_err());
}

#[test]
fn values_that_would_stop_every_turn_are_refused() {
    for (file, word) in [
        ("[liveness]\nlease_s = 30\nrenew_s = 20", "lease_s"),
        ("[retry]\nschedule_s = []", "schedule_s"),
        ("[deadlines]\nidle_s = 0", "idle_s"),
        ("[server]\nlisten = 'everywhere'", "server.listen"),
        ("[server]\non_crash = 'retry'", "seal"),
        ("[providers.b]\ndialect='scripted'\nlimit = 0", "limit"),
        ("[providers.B]\ndialect='scripted'", "providers.B"),
    ] {
        let message = refusal(&format!("{SCRIPTED}{file}"), &[]);
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_key_never_shows_in_debug_output() {
    let settings = load("", &[("OPENAI_API_KEY", "sk-secret-1")]).unwrap();
    assert!(!format!("{settings:?}").contains("sk-secret-1"));
}

#[test]
fn a_named_file_must_exist() {
    let error = Settings::load(&Sources {
        file: Some("/nowhere/dispatch.toml".into()),
        data_dir: Some("/tmp".into()),
        ..Sources::default()
    });
    assert!(matches!(error, Err(ConfigError::Unreadable { .. })));
}

#[test]
fn c7_webhooks_are_named_by_their_host_and_may_be_told_of_some_ends_only() {
    let file = format!(
        "{SCRIPTED}\
        [[webhooks]]\nurl = 'https://Hooks.example/T0/abc'\n\
        [[webhooks]]\nname = 'pager'\nurl = 'http://127.0.0.1:9/x'\n\
        events = ['error', 'aborted']\nsecret_env = 'PAGER_SECRET'\ntimeout_s = 3\n"
    );
    let secret = [("PAGER_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
    let settings = load(&file, &secret).unwrap();
    let shown = format!("{settings:?}");
    assert!(!shown.contains("MfKQ") && !shown.contains("abc"), "{shown}");
    let owner = Owner {
        node: "n".into(),
        boot: 1,
        incarnation: 0,
    };
    let webhooks = settings.core(owner).webhooks;
    let [host, pager] = webhooks.as_slice() else {
        panic!("{webhooks:?}");
    };
    assert_eq!(host.endpoint.id.as_str(), "hooks.example");
    assert!(host.endpoint.wanted.done && host.endpoint.wanted.error);
    assert_eq!(pager.endpoint.id.as_str(), "pager");
    assert!(!pager.endpoint.wanted.done && pager.endpoint.wanted.aborted);
    assert_eq!((host.timeout_ms, pager.timeout_ms), (15_000, 3_000));
}

#[test]
fn c7_a_webhook_that_cannot_work_is_refused_by_its_key_and_without_its_address() {
    let hook = |keys: &str| format!("{SCRIPTED}[[webhooks]]\n{keys}\n");
    for (keys, told) in [
        ("", "`webhooks[0].url` is missing"),
        (
            "url = 'hooks.example/abc'",
            "`webhooks[0].url` is not usable: it does not begin",
        ),
        (
            "url = 'https://u:abc@h.example'",
            "must not carry credentials",
        ),
        ("url = 'https://[::1]/'\n", "set `name` to one"),
        ("uri = 'x'", "`webhooks[0].uri`; did you mean `url`?"),
        ("url = 3", "`webhooks[0].url` in"),
        (
            "url = 'http://h.example'\nevents = ['turn-start']",
            "\"turn-start\": write some of",
        ),
        (
            "url = 'http://h.example'\nevents = []",
            "`webhooks[0].events` is empty",
        ),
        (
            "url = 'http://h.example'\ntimeout_s = 0",
            "1 to 300 seconds",
        ),
        (
            "url = 'http://h.example'\nsecret_env = 'NOPE'",
            "this variable is not set",
        ),
        (
            "url = 'http://h.example'\nsecret_env = 'BAD'",
            "24 to 64 random bytes",
        ),
        (
            "url = 'http://h.example'\n[[webhooks]]\nurl = 'http://h.example/2'",
            "`webhooks[1].name` is \"h.example\", like another one's",
        ),
    ] {
        let error = refusal(&hook(keys), &[("BAD", "abc")]);
        assert!(error.contains(told), "{keys}: {error}");
        assert!(!error.contains("abc"), "{error}");
    }
    let error = refusal("[webhooks]\nurl = 'x'", &[]);
    assert!(error.contains("under [[webhooks]]"), "{error}");
    let error = refusal(SCRIPTED, &[("DISPATCH_WEBHOOKS__URL", "x")]);
    assert!(error.contains("stand in dispatch.toml only"), "{error}");
}

#[test]
fn s2_the_ssh_section_names_a_configuration_and_who_is_no_computer() {
    let settings = load(SCRIPTED, &[]).unwrap();
    assert_eq!(settings.ssh.config(), None);
    assert!(settings.ssh.reject.iter().any(|host| host == "github.com"));
    assert_eq!(settings.deadlines.ssh_handshake_s, 15);
    let file = format!("{SCRIPTED}[ssh]\nconfig = '/etc/dispatch/ssh_config'\n");
    let settings = load(&file, &[("DISPATCH_SSH__REJECT", "a.example, *.b.example")]).unwrap();
    assert_eq!(
        settings.ssh.config().unwrap(),
        Path::new("/etc/dispatch/ssh_config")
    );
    assert_eq!(settings.ssh.reject, ["a.example", "*.b.example"]);
    let message = refusal(&format!("{SCRIPTED}[ssh]\nrejects = []\n"), &[]);
    assert!(
        message.contains("`ssh.rejects`; did you mean `reject`?"),
        "{message}"
    );
    let message = refusal(&format!("{SCRIPTED}[ssh]\nreject = 'x'\n"), &[]);
    assert!(message.contains("a list of texts"), "{message}");
}

#[test]
fn s4_the_terms_of_links_reach_the_core() {
    let file = format!(
        "{SCRIPTED}[ssh]\npatience_ms = 1\nkeepalive_ms = 2\nalive_ms = 3\nidle_ms = 4\n\
        backoff_ms = 5\nbackoff_max_ms = 6\nflaps = 7\nflap_window_ms = 8\nquarantine_ms = 9\n\
        start_ms = 10\nlook_ms = 11\ntest_ms = 12\nchannels = 3\n\
        [deadlines]\nconnect_s = 14\nssh_handshake_s = 15\n"
    );
    let settings = load(&file, &[("DISPATCH_SSH__CHANNELS", "13")]).unwrap();
    let owner = Owner {
        node: "n".into(),
        boot: 1,
        incarnation: 0,
    };
    let told = settings.core(owner);
    let wanted = SshTerms {
        patience_ms: 1,
        keepalive_ms: 2,
        alive_ms: 3,
        idle_ms: 4,
        backoff_ms: 5,
        backoff_max_ms: 6,
        flaps: 7,
        flap_window_ms: 8,
        quarantine_ms: 9,
        start_ms: 10,
        look_ms: 11,
        test_ms: 12,
        channels: 13,
    };
    assert_eq!(told.ssh, wanted);
    assert_eq!(told.deadlines.connect_ms, 14_000);
    assert_eq!(told.deadlines.handshake_ms, 15_000);
}

#[test]
fn s4_terms_of_links_that_cannot_work_are_refused_by_their_key() {
    for (keys, told) in [
        ("patience_ms = 0", "`ssh.patience_ms` is 0: it must be 1 to"),
        ("test_ms = 2592000001", "`ssh.test_ms` is 2592000001"),
        ("idle_ms = '1 h'", "`ssh.idle_ms` in"),
        ("flaps = 0", "`ssh.flaps` is 0: it must be at least 1"),
        (
            "backoff_ms = 2000\nbackoff_max_ms = 1999",
            "raise ssh.backoff_max_ms (1999)",
        ),
        ("channels = 2", "`ssh.channels` is 2: no command could"),
        ("chanels = 4", "`ssh.chanels`; did you mean `channels`?"),
    ] {
        let error = refusal(&format!("{SCRIPTED}[ssh]\n{keys}\n"), &[]);
        assert!(error.contains(told), "{keys}: {error}");
    }
}
