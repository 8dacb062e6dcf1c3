//! What a call answers: word for word what a local one does (S1).

use std::fs;

use dispatch::exec::{Adoption, PREVIEW_BYTES, ToolEvent};
use dispatch_core::ids::Epoch;
use serde_json::json;

use crate::rig::{rig, rig_with, until};

#[tokio::test]
async fn s1_a_command_answers_with_its_output_and_how_it_ended() {
    for (command, ok, wanted) in [
        ("echo hello", true, "hello\n"),
        ("true", true, "(no output)"),
        ("printf partly; exit 3", false, "partly\n[exit code 3]"),
        ("kill -KILL $$", false, "[ended by signal 9]"),
        ("kill -TERM $$", false, "[ended by signal 15]"),
        ("exit 137", false, "[exit code 137]"),
        (
            "echo a; echo b >&2; echo c; echo d >&2",
            true,
            "a\nb\nc\nd\n",
        ),
        ("cat; echo end", true, "end\n"),
        ("[[ -n $BASH_VERSION ]] && echo bash", true, "bash\n"),
        ("umask; trap", true, "0022\n"),
    ] {
        let Some(rig) = rig() else { return };
        let done = rig.bash(command).await;
        assert_eq!((done.ok, done.output.as_str()), (ok, wanted), "{command}");
        assert_eq!((done.spilled, done.truncated), (None, false));
    }
}

#[tokio::test]
async fn s1_every_bourne_shell_and_others_do_as_login_shell() {
    for shell in ["sh", "dash", "bash", "zsh", "fish", "tcsh", "busybox"] {
        let Some(rig) = rig_with(shell, 1 << 20) else {
            return;
        };
        let there = std::process::Command::new(shell)
            .args(["-c", "true"])
            .status();
        if there.is_ok_and(|status| status.success()) {
            let done = rig.bash("echo \"it's $((6 * 7))\"; exit 5").await;
            assert_eq!(done.output, "it's 42\n[exit code 5]", "{shell}");
        }
    }
}

#[tokio::test]
async fn a_command_is_told_of_as_running_before_it_ends() {
    let Some(rig) = rig() else { return };
    let mut call = rig.start_bash("until [ -e go ]; do sleep 0.01; done; echo went");
    assert_eq!(call.next().await, ToolEvent::Adopted(Adoption::Running));
    fs::write(rig.cwd().join("go"), "").expect("written");
    assert_eq!(call.done().await.output, "went\n");
}

#[tokio::test]
async fn odd_commands_arrive_as_they_are() {
    let long = format!("x='{}'; echo ${{#x}}", "y".repeat(100 * 1024));
    for (command, wanted) in [
        (
            "printf %s 'it'\\''s \"quoted\" `not run` $HOME \\ !!'",
            "it's \"quoted\" `not run` $HOME \\ !!",
        ),
        ("printf 'a\n\n  b'\n\n\n", "a\n\n  b"),
        ("printf %s 'é€😀\u{1b}[0m\t\r'", "é€😀\u{1b}[0m\t\r"),
        ("# nothing but a remark\n", "(no output)"),
        ("cat <<'END'\nmeta=$(reboot)\nEND\n", "meta=$(reboot)\n"),
        ("-x", "-x"),
        (&long, "102400\n"),
    ] {
        let Some(rig) = rig() else { return };
        let done = rig.bash(command).await;
        if wanted == "-x" {
            assert!(!done.ok, "{}", done.output);
        } else {
            assert_eq!(done.output, wanted, "{:.100}", command);
        }
    }
    let Some(rig) = rig() else { return };
    let done = rig.bash("echo a\0b").await;
    assert!(
        done.output.contains("command holds a NUL"),
        "{}",
        done.output
    );
    assert!(!rig.runs_dir().exists());
}

#[tokio::test]
async fn odd_working_directories_are_entered_and_missing_ones_named() {
    let Some(rig) = rig() else { return };
    for (n, name) in [
        "it's",
        "a b",
        "-",
        "-P",
        "line\nbreak\n",
        "$(reboot)",
        "ü*?[x]",
    ]
    .iter()
    .enumerate()
    {
        let dir = rig.cwd().join(name);
        fs::create_dir(&dir).expect("a directory");
        let mut request = rig.bash_request("pwd -P; echo here > seen");
        (request.cwd, request.call_id) = (dir.clone(), format!("c{n}"));
        let done = rig.start(request).done().await;
        assert!(done.ok, "{name:?}: {}", done.output);
        assert!(dir.join("seen").exists(), "{name:?}");
    }
    for (n, gone) in ["gone", "with\0nul", "-"].iter().enumerate() {
        let mut request = rig.bash_request("true");
        (request.cwd, request.call_id) = (rig.home().join(gone), format!("d{n}"));
        let done = rig.start(request).done().await;
        assert!(!done.ok);
        assert!(
            done.output.contains("is not there, or is no directory"),
            "{}",
            done.output
        );
    }
    fs::create_dir(rig.home().join("below")).expect("a directory");
    for (n, (relative, wanted)) in [("below", "home/below\n"), ("", "home\n")]
        .iter()
        .enumerate()
    {
        let mut request = rig.bash_request("pwd");
        (request.cwd, request.call_id) = (relative.into(), format!("e{n}"));
        let done = rig.start(request).done().await;
        assert!(done.output.ends_with(wanted), "{}", done.output);
    }
}

#[tokio::test]
async fn a_long_output_is_bounded_and_read_as_a_whole_by_the_tool_read() {
    let Some(rig) = rig() else { return };
    let link = rig.link();
    let done = rig
        .start_on(link.clone(), rig.bash_request("seq 1 1000000"))
        .done()
        .await;
    assert!(done.ok && done.truncated);
    assert!(done.output.len() < 52 * 1024);
    assert!(done.output.starts_with("1\n2\n"));
    assert!(done.output.ends_with("\n1000000\n"));
    assert!(link.carried_bytes() < 400_000, "{}", link.carried_bytes());
    let path = done.spilled.expect("a file");
    assert!(done.output.contains(&format!("the full text is in {path}")));
    // The same cut as here, to the byte.
    let mut local = dispatch_core::output::HeadTail::default();
    local.push(&fs::read(&path).expect("readable"));
    assert_eq!(done.output, local.finish(Some(&path)).text);
    let mut request = rig.request("read", json!({"path": path, "offset": 999_999}));
    request.epoch = Epoch(4);
    assert_eq!(rig.start(request).done().await.output, "999999\n1000000\n");
}

#[tokio::test]
async fn a_preview_shows_the_output_while_it_comes_and_stays_bounded() {
    let Some(rig) = rig() else { return };
    let command =
        "for i in $(seq 1 400); do printf 'é%099d' $i; sleep 0.001; done; echo > shown; sleep 1000";
    let mut call = rig.start_bash(command);
    let shown = rig.cwd().join("shown");
    let first = loop {
        match call.next().await {
            ToolEvent::Output { offset, text, .. } => break (offset, text),
            ToolEvent::Adopted(_) => {}
            other => panic!("no preview: {other:?}"),
        }
    };
    until("all is written", || shown.exists()).await;
    // More than one look at the output in its final state.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    call.handle.kill();
    let (mut previews, done) = call.previews_and_done().await;
    previews.insert(0, first);
    assert!(!done.ok);
    let mut next = 0;
    for (offset, text) in &previews {
        assert_eq!(*offset, next, "no hole, nothing twice");
        next += text.len() as u64;
    }
    assert!(previews.len() > 1 && previews[0].1.starts_with("é0000"));
    assert!(next >= PREVIEW_BYTES as u64 - 100);
    assert!(next <= PREVIEW_BYTES as u64 + '…'.len_utf8() as u64);
}

#[tokio::test]
async fn bad_input_is_an_answer_that_explains_itself() {
    let Some(rig) = rig() else { return };
    for (tool, input, wanted) in [
        ("python", json!({}), "the tools are bash, read, write"),
        ("bash", json!({"cmd": "ls"}), "missing field `command`"),
        ("read", json!({"path": 7}), "invalid type: integer `7`"),
        ("write", json!({"path": "x"}), "missing field `content`"),
    ] {
        let done = rig.tool(tool, input).await;
        assert!(!done.ok && done.output.contains(wanted), "{}", done.output);
    }
}

#[tokio::test]
async fn d21_the_same_call_is_not_started_twice() {
    let Some(rig) = rig() else { return };
    assert!(rig.bash("echo x >> ran").await.ok);
    let again = rig.bash("echo x >> ran").await;
    assert!(!again.ok);
    assert!(again.output.contains("never repeated"), "{}", again.output);
    assert_eq!(
        fs::read_to_string(rig.cwd().join("ran")).expect("readable"),
        "x\n"
    );
}

#[tokio::test]
async fn a_login_shell_that_runs_nothing_is_an_answer_that_quotes_it() {
    let Some(rig) = rig() else { return };
    let shell =
        rig.script("#!/bin/sh\necho This account is currently not available. >&2\nexit 1\n");
    let request = rig.bash_request("echo x >> ran");
    let done = rig.start_on(rig.link_by(&shell), request).done().await;
    assert!(!done.ok);
    assert!(
        done.output.starts_with("the command was not started")
            && done.output.contains("not available"),
        "{}",
        done.output
    );
}

#[tokio::test]
async fn p4_a_run_directory_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let Some(rig) = rig() else { return };
    rig.bash("true").await;
    for path in [
        rig.run_dir(),
        rig.runs_dir(),
        rig.home().join(".cache/dispatch"),
    ] {
        let mode = fs::metadata(path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
    let left = || {
        let entries = fs::read_dir(rig.run_dir()).expect("listed");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string())
            .map(|name| name.expect("plain"))
            .collect();
        names.sort();
        names
    };
    let lasting = ["command", "cwd", "exit", "meta", "output", "pid"];
    until("the supervisor has tidied up", || left() == lasting).await;
}
