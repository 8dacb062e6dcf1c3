use std::time::Duration;

use dispatch::ssh::{ExecDone, Link, LinkError, MAX_EXEC_BYTES, SshFaultKind, SshLink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Yard, until_true};

async fn run(link: &SshLink, command: &str) -> ExecDone {
    link.exec(command.to_owned(), Vec::new()).await.unwrap()
}

#[tokio::test]
async fn s4_a_commands_end_and_both_its_outputs_come_back() {
    let Some((yard, _sshd)) = Yard::with_web(&[]) else {
        return;
    };
    let link = yard.connect("web").await;
    let done = run(&link, "echo out; echo err >&2; exit 7").await;
    let expected = ExecDone {
        code: Some(7),
        signal: None,
        output: b"out\n".to_vec(),
        error: b"err\n".to_vec(),
    };
    assert_eq!(done, expected);
    let done = run(&link, "kill -TERM $$").await;
    assert_eq!((done.code, done.signal.as_deref()), (None, Some("TERM")));
    assert_eq!(run(&link, "no-such-command").await.code, Some(127));
    link.close().await;
}

#[tokio::test]
async fn s4_standard_input_of_any_size_arrives_whether_it_is_read_or_not() {
    let Some((yard, _sshd)) = Yard::with_web(&[]) else {
        return;
    };
    let link = yard.connect("web").await;
    let input: Vec<u8> = (0..3 * MAX_EXEC_BYTES).map(|n| (n % 251) as u8).collect();
    let done = link
        .exec("cksum; cat >/dev/null".to_owned(), input.clone())
        .await
        .unwrap();
    let said = String::from_utf8(done.output).unwrap();
    assert!(said.contains(&format!(" {}", input.len())), "{said}");
    let done = link.exec("cat".to_owned(), input.clone()).await.unwrap();
    assert!(
        done.output == input[..MAX_EXEC_BYTES],
        "{}",
        done.output.len()
    );
    let done = link.exec("exit 3".to_owned(), input).await.unwrap();
    assert_eq!(done.code, Some(3));
    assert_eq!(run(&link, "cat").await.output, b"");
    link.close().await;
}

#[tokio::test]
async fn s4_large_output_is_bounded_and_the_command_goes_on() {
    let Some((yard, _sshd)) = Yard::with_web(&[]) else {
        return;
    };
    let link = yard.connect("web").await;
    let command = "head -c 5000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 4";
    let done = run(&link, command).await;
    assert_eq!(done.code, Some(4));
    assert_eq!(
        (done.output.len(), done.error.len()),
        (MAX_EXEC_BYTES, MAX_EXEC_BYTES)
    );
    link.close().await;
}

#[tokio::test]
async fn s4_a_command_that_nobody_waits_for_gives_its_channel_back() {
    let Some((yard, _sshd)) = Yard::with_web(&["MaxSessions 2"]) else {
        return;
    };
    let link = yard.connect("web").await;
    for _ in 0..6 {
        // Given up while it runs, and while its channel is being opened.
        let waiting = link.exec("cat; sleep 0.1".to_owned(), vec![0; 4 * MAX_EXEC_BYTES]);
        let _ = tokio::time::timeout(Duration::from_millis(20), waiting).await;
        drop(tokio::time::timeout(Duration::ZERO, link.exec("cat".to_owned(), Vec::new())).await);
    }
    let mut done = None;
    let waiting = async {
        while done.is_none() {
            done = link.exec("echo hi".to_owned(), Vec::new()).await.ok();
        }
    };
    let waited = tokio::time::timeout(crate::support::PATIENCE, waiting).await;
    assert!(waited.is_ok(), "the channels are never given back");
    assert_eq!(done.unwrap().output, b"hi\n");
    link.ping(crate::support::PATIENCE).await.unwrap();
    link.close().await;
}

#[tokio::test]
async fn s4_more_commands_than_the_computer_takes_are_refused_and_the_link_holds() {
    let Some((yard, _sshd)) = Yard::with_web(&["MaxSessions 10"]) else {
        return;
    };
    let link = yard.connect("web").await;
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    // Nobody ends before everybody has asked.
    let command = format!(
        "until [ -e {} ]; do sleep 0.01; done; echo ran",
        gate.display()
    );
    let tasks: Vec<_> = (0..20)
        .map(|_| tokio::spawn(link.exec(command.clone(), Vec::new())))
        .collect();
    until_true("ten are refused", || {
        tasks.iter().filter(|task| task.is_finished()).count() == 10
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    let (mut ran, mut refused) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(done) => {
                assert_eq!(done.output, b"ran\n");
                ran += 1;
            }
            Err(error @ LinkError::Refused { .. }) => {
                assert!(error.to_string().contains("MaxSessions"), "{error}");
                assert!(error.to_string().contains("web"), "{error}");
                assert_eq!(error.fault(), None);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((ran, refused), (10, 10));
    assert_eq!(run(&link, "echo hi").await.output, b"hi\n");
    link.close().await;
}

#[tokio::test]
async fn s6_files_come_and_go_over_one_session() {
    let Some((yard, _sshd)) = Yard::with_web(&["MaxSessions 1"]) else {
        return;
    };
    let link = yard.connect("web").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file").display().to_string();
    // All at once: still one channel.
    let (first, second) = tokio::join!(link.files(), link.files());
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    let bytes: Vec<u8> = (0..700_000_u32).map(|n| (n % 253) as u8).collect();
    let mut file = first.create(path.clone()).await.unwrap();
    file.write_all(&bytes).await.unwrap();
    file.shutdown().await.unwrap();
    assert_eq!(
        second.metadata(path.clone()).await.unwrap().size,
        Some(bytes.len() as u64)
    );
    let mut read = Vec::new();
    let mut file = second.open(path.clone()).await.unwrap();
    file.read_to_end(&mut read).await.unwrap();
    assert!(read == bytes);
    first
        .rename(path.clone(), format!("{path}2"))
        .await
        .unwrap();
    assert_eq!(
        std::fs::read(format!("{path}2")).unwrap().len(),
        bytes.len()
    );
    link.close().await;
}

#[tokio::test]
async fn s6_an_sftp_session_that_has_ended_is_opened_again_on_the_same_link() {
    let server = "Subsystem sftp /usr/lib/openssh/sftp-server";
    let Some((yard, _sshd)) = Yard::with_web(&[server]) else {
        return;
    };
    if !std::path::Path::new("/usr/lib/openssh/sftp-server").exists() {
        return;
    }
    let link = yard.connect("web").await;
    let first = link.files().await.unwrap();
    first.metadata("/").await.unwrap();
    // The session's process has both as children: this shell and the server.
    let kill = r#"for pid in $(cat /proc/$PPID/task/*/children); do
        case $(readlink /proc/$pid/exe) in */sftp-server) kill -9 $pid;; esac; done"#;
    let done = run(&link, kill).await;
    assert_eq!(
        done.code,
        Some(0),
        "{}",
        String::from_utf8_lossy(&done.error)
    );
    let mut again = link.files().await.unwrap();
    let waiting = async {
        while std::sync::Arc::ptr_eq(&first, &again) {
            tokio::time::sleep(Duration::from_millis(3)).await;
            again = link.files().await.unwrap();
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, waiting)
        .await
        .unwrap();
    again.metadata("/").await.unwrap();
    link.close().await;
}

#[tokio::test]
async fn s4_the_tools_files_hold_up_nobody_elses() {
    let server = "Subsystem sftp /usr/lib/openssh/sftp-server";
    let Some((yard, _sshd)) = Yard::with_web(&[server, "MaxSessions 3"]) else {
        return;
    };
    if !std::path::Path::new("/usr/lib/openssh/sftp-server").exists() {
        return;
    }
    let link = yard.connect("web").await;
    let tools = link.tool_files().await.unwrap();
    tools.metadata("/").await.unwrap();
    let all = r#"for pid in $(cat /proc/$PPID/task/*/children); do
        case $(readlink /proc/$pid/exe) in */sftp-server) kill -SIGNAL $pid;; esac; done"#;
    // As one that waits for a file system.
    let stopped = run(&link, &all.replace("SIGNAL", "STOP")).await;
    assert_eq!(stopped.code, Some(0));
    let hung = tokio::spawn({
        let tools = tools.clone();
        async move { tools.metadata("/").await }
    });
    let runs = link.files().await.unwrap();
    assert!(!std::sync::Arc::ptr_eq(&tools, &runs));
    runs.metadata("/").await.unwrap();
    assert!(!hung.is_finished());
    let woken = run(&link, &all.replace("SIGNAL", "CONT")).await;
    assert_eq!(woken.code, Some(0));
    hung.await.unwrap().unwrap();
    assert!(std::sync::Arc::ptr_eq(
        &tools,
        &link.tool_files().await.unwrap()
    ));
    link.close().await;
}

#[tokio::test]
async fn s6_a_computer_without_sftp_says_so_and_runs_commands_all_the_same() {
    for (subsystem, word) in [
        ("Subsystem other /bin/true", "no subsystem sftp"),
        ("Subsystem sftp /bin/false", "ended at once"),
    ] {
        let Some((yard, _sshd)) = Yard::without_sftp(subsystem) else {
            return;
        };
        let link = yard.connect("web").await;
        for _ in 0..3 {
            let Err(LinkError::NoFiles(fault)) = link.files().await else {
                panic!("files without SFTP");
            };
            assert_eq!(fault.kind, SshFaultKind::SftpOff);
            assert!(
                fault.message.contains(word) && fault.message.contains("sshd_config"),
                "{fault}"
            );
        }
        assert_eq!(run(&link, "echo hi").await.output, b"hi\n");
        link.close().await;
    }
}
