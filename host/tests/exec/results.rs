//! What a call answers.

use std::fs;
use std::time::{Duration, Instant};

use dispatch::exec::PREVIEW_BYTES;
use serde_json::json;

use crate::rig::{Rig, until};

#[tokio::test]
async fn a_command_that_succeeds_answers_with_its_output_alone() {
    let done = Rig::new().bash("echo hello").await;
    assert!(done.ok);
    assert_eq!(done.output, "hello\n");
    assert_eq!((done.spilled, done.truncated), (None, false));
}

#[tokio::test]
async fn a_silent_command_says_that_it_was_silent() {
    let done = Rig::new().bash("true").await;
    assert!(done.ok);
    assert_eq!(done.output, "(no output)");
}

#[tokio::test]
async fn a_non_zero_exit_code_is_no_success_and_stands_on_the_last_line() {
    let done = Rig::new().bash("printf partly; exit 3").await;
    assert!(!done.ok);
    assert_eq!(done.output, "partly\n[exit code 3]");
}

#[tokio::test]
async fn a_command_ended_by_a_signal_names_it() {
    let done = Rig::new().bash("kill -KILL $$").await;
    assert!(!done.ok);
    assert_eq!(done.output, "[ended by signal 9]");
}

#[tokio::test]
async fn standard_output_and_standard_error_come_in_the_order_of_writing() {
    let done = Rig::new()
        .bash("echo a; echo b >&2; echo c; echo d >&2")
        .await;
    assert_eq!(done.output, "a\nb\nc\nd\n");
}

#[tokio::test]
async fn a_command_runs_in_its_working_directory_with_bash() {
    let rig = Rig::new();
    let done = rig
        .bash("pwd -P; [[ -n $BASH_VERSION ]] && echo bash")
        .await;
    let cwd = rig.cwd().canonicalize().expect("it exists");
    assert_eq!(done.output, format!("{}\nbash\n", cwd.display()));
}

#[tokio::test]
async fn o7_where_memory_runs_out_the_command_goes_before_its_supervisor() {
    let show = "cat /proc/self/oom_score_adj; cat /proc/$PPID/oom_score_adj";
    let done = Rig::new().bash(show).await;
    let own = fs::read_to_string("/proc/self/oom_score_adj").expect("Linux has it");
    assert_eq!(done.output, format!("500\n{own}"));
}

#[tokio::test]
async fn a_missing_working_directory_is_named() {
    let rig = Rig::new();
    let mut request = rig.request("bash", json!({"command": "true"}));
    request.cwd = rig.cwd().join("gone");
    let done = rig.start(request).done().await;
    assert!(!done.ok);
    assert!(
        done.output.contains("cwd/gone is not there"),
        "{}",
        done.output
    );
    assert!(!rig.run_dir().exists());
}

#[tokio::test]
async fn standard_input_is_empty() {
    let done = Rig::new().bash("cat; echo end").await;
    assert_eq!(done.output, "end\n");
}

#[tokio::test]
async fn p4_a_configured_credential_is_not_in_a_commands_environment() {
    let rig = Rig::with(|config| config.secret_env = vec!["CARGO_PKG_NAME".to_owned()]);
    assert!(
        std::env::var_os("CARGO_PKG_NAME").is_some(),
        "cargo sets it"
    );
    let done = rig.bash("env; tr '\\0' '\\n' < /proc/$PPID/environ").await;
    assert!(done.ok);
    assert!(
        done.output.contains("CARGO_PKG_VERSION="),
        "others are inherited"
    );
    assert!(!done.output.contains("CARGO_PKG_NAME="), "{}", done.output);
}

#[tokio::test]
async fn t10_a_deadline_ends_a_command_and_says_so() {
    let rig = Rig::new();
    let mut request = rig.request("bash", json!({"command": "echo begun; sleep 1000"}));
    request.deadline_ms = 300;
    let done = rig.start(request).done().await;
    assert!(!done.ok);
    assert_eq!(
        done.output,
        "begun\n[stopped at its deadline: the command was still running after 300 ms]"
    );
    assert!(done.duration_ms >= 300);
    assert_eq!(rig.run_file("exit").await["reason"], "deadline");
}

#[tokio::test]
async fn t10_a_models_timeout_shortens_the_deadline_but_never_lengthens_it() {
    for (deadline_ms, timeout_ms) in [(60_000, 200), (200, 60_000)] {
        let rig = Rig::new();
        let input = json!({"command": "sleep 1000", "timeout_ms": timeout_ms});
        let mut request = rig.request("bash", input);
        request.deadline_ms = deadline_ms;
        let done = rig.start(request).done().await;
        assert!(done.output.contains("after 200 ms"), "{}", done.output);
    }
}

#[tokio::test]
async fn t8_a_long_output_is_bounded_and_its_full_text_is_named() {
    let rig = Rig::new();
    let done = rig.bash("seq 1 100000").await;
    assert!(done.ok && done.truncated);
    assert!(done.output.len() < 52 * 1024);
    assert!(done.output.starts_with("1\n2\n"));
    assert!(done.output.ends_with("\n100000\n"));
    let spilled = done.spilled.expect("a file");
    assert!(
        done.output
            .contains(&format!("the full text is in {spilled}"))
    );
    let all = fs::read_to_string(spilled).expect("readable");
    assert_eq!(all.lines().count(), 100_000);
}

#[tokio::test]
async fn d27_two_hundred_megabytes_of_output_are_bounded_on_disk_and_in_memory() {
    const LIMIT: u64 = 8 << 20;
    let rig = Rig::with(|config| config.output_limit_bytes = LIMIT);
    let command = "head -c 200000000 /dev/zero | tr '\\0' x; printf THE-END";
    let mut call = rig.start_bash(command);
    let status = format!("/proc/{}/status", rig.supervisor().await);
    let mut most_kb = 0;
    let done = loop {
        let peak = fs::read_to_string(&status).unwrap_or_default();
        let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok());
        most_kb = most_kb.max(peak.unwrap_or(0));
        tokio::select! {
            (_, done) = call.previews_and_done() => break done,
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    };
    assert!(done.ok && done.truncated, "{}", done.output);
    assert!(done.output.ends_with("THE-END"));
    assert!(
        (1..32_000).contains(&most_kb),
        "the supervisor took {most_kb} kB"
    );
    let bytes = fs::metadata(rig.run_dir().join("output"))
        .expect("there")
        .len();
    assert!((LIMIT..LIMIT + 64 * 1024).contains(&bytes), "{bytes}");
    let exit = rig.run_file("exit").await;
    let kept = exit["output_bytes"].as_u64().expect("a number");
    let dropped = exit["dropped_bytes"].as_u64().expect("a number");
    assert_eq!(kept, bytes);
    assert!(kept + dropped >= 200_000_007);
    assert!(dropped > 190_000_000);
}

#[tokio::test]
async fn a_preview_shows_the_output_while_it_comes_and_stays_bounded() {
    let rig = Rig::new();
    let command = "for i in $(seq 1 400); do printf 'é%099d' $i; done; echo > shown; sleep 1000";
    let mut call = rig.start_bash(command);
    let shown = rig.cwd().join("shown");
    until("all is written", || shown.exists()).await;
    let first = call.events.recv().await.expect("a preview");
    call.handle.kill();
    let (mut previews, done) = call.previews_and_done().await;
    assert!(!done.ok);
    match first {
        dispatch::exec::ToolEvent::Output { offset, text, .. } => {
            previews.insert(0, (offset, text))
        }
        other => panic!("no preview: {other:?}"),
    }
    let mut next = 0;
    for (offset, text) in &previews {
        assert_eq!(*offset, next, "no hole, nothing twice");
        next += text.len() as u64;
    }
    assert!(previews[0].1.starts_with("é0000"));
    assert!(next <= PREVIEW_BYTES as u64 + '…'.len_utf8() as u64);
}

#[tokio::test]
async fn bad_input_is_an_answer_that_explains_itself() {
    let rig = Rig::new();
    for (tool, input, wanted) in [
        ("python", json!({}), "the tools are bash, read, write"),
        ("bash", json!({"cmd": "ls"}), "missing field `command`"),
        ("read", json!({"path": 7}), "invalid type: integer `7`"),
        ("write", json!({"path": "x"}), "missing field `content`"),
    ] {
        let done = rig.start(rig.request(tool, input)).done().await;
        assert!(!done.ok);
        assert!(done.output.contains(wanted), "{}", done.output);
    }
    let mut request = rig.request("bash", json!({}));
    request.input = "{\"command\": \"ls".to_owned();
    let done = rig.start(request).done().await;
    assert!(done.output.contains("EOF while parsing"), "{}", done.output);
}

#[tokio::test]
async fn a_missing_supervisor_is_an_answer_that_names_it() {
    let rig = Rig::with(|config| config.supervisor_binary = "/nowhere/dispatch".into());
    let done = rig.bash("true").await;
    assert!(!done.ok);
    assert!(done.output.contains("/nowhere/dispatch"), "{}", done.output);
}

#[tokio::test]
async fn a_file_written_by_one_call_is_read_by_another() {
    let rig = Rig::new();
    let input = json!({"path": "notes/a.txt", "content": "one\ntwo\n"});
    let done = rig.start(rig.request("write", input)).done().await;
    assert!(done.ok, "{}", done.output);
    assert!(done.output.contains("8 bytes written"), "{}", done.output);
    let input = json!({"path": "notes/a.txt", "offset": 2});
    let done = rig.start(rig.request("read", input)).done().await;
    assert!(done.ok);
    assert_eq!(done.output, "two\n");
    let done = rig
        .start(rig.request("read", json!({"path": "notes"})))
        .done()
        .await;
    assert!(!done.ok);
    assert!(done.output.contains("is a directory"), "{}", done.output);
}

#[tokio::test]
async fn d21_the_same_call_is_not_started_twice_in_one_epoch() {
    let rig = Rig::new();
    let command = "echo x >> ran";
    assert!(rig.bash(command).await.ok);
    let again = rig.bash(command).await;
    assert!(!again.ok);
    assert!(again.output.contains("never repeated"), "{}", again.output);
    let ran = fs::read_to_string(rig.cwd().join("ran")).expect("readable");
    assert_eq!(ran, "x\n");
}

#[tokio::test]
async fn many_commands_at_once_each_get_their_own_answer() {
    let rig = Rig::new();
    let begun = Instant::now();
    let calls: Vec<_> = (0..24)
        .map(|n| {
            let mut request =
                rig.request("bash", json!({"command": format!("echo {n}; exit {n}")}));
            request.call_id = format!("call_{n}");
            rig.start(request)
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        let done = call.done().await;
        assert_eq!(done.ok, n == 0);
        assert!(
            done.output.starts_with(&format!("{n}\n")),
            "{}",
            done.output
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
}
