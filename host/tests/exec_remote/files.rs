//! The tools `read` and `write` on another computer's files (S6).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use serde_json::json;

use crate::rig::rig;

#[tokio::test]
async fn s6_a_file_is_written_with_its_directories_and_read_by_lines() {
    let Some(rig) = rig() else { return };
    let done = rig
        .tool(
            "write",
            json!({"path": "notes/b/a.txt", "content": "one\ntwö\nthree\n"}),
        )
        .await;
    let path = rig.cwd().join("notes/b/a.txt");
    assert_eq!(
        done.output,
        format!("created {}: 15 bytes written", path.display())
    );
    let done = rig
        .tool(
            "read",
            json!({"path": "notes/b/a.txt", "offset": 2, "limit": 1}),
        )
        .await;
    assert_eq!(
        done.output,
        "twö\n[... more lines follow; go on with offset 3 ...]\n"
    );
    let done = rig
        .tool("write", json!({"path": path, "content": ""}))
        .await;
    assert_eq!(
        done.output,
        format!("replaced {}: 0 bytes written", path.display())
    );
    assert_eq!(
        rig.tool("read", json!({"path": path})).await.output,
        "(the file is empty)"
    );
    assert_eq!(
        fs::read_dir(rig.cwd().join("notes/b"))
            .expect("listed")
            .count(),
        1
    );
}

#[tokio::test]
async fn s6_relative_paths_begin_at_the_working_directory_and_that_at_home() {
    let Some(rig) = rig() else { return };
    let mut request = rig.request("write", json!({"path": "~/x", "content": "tilde"}));
    request.cwd = "below".into();
    assert!(rig.start(request).done().await.ok);
    let text = fs::read_to_string(rig.home().join("below/~/x")).expect("readable");
    assert_eq!(text, "tilde", "a tilde is a name, as it is here");
}

#[tokio::test]
async fn s6_a_write_keeps_the_mode_and_follows_a_symbolic_link() {
    let Some(rig) = rig() else { return };
    let script = rig.cwd().join("it's a script");
    fs::write(&script, "old").expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o750)).expect("set");
    std::os::unix::fs::symlink("it's a script", rig.cwd().join("link")).expect("linked");
    let done = rig
        .tool("write", json!({"path": "link", "content": "new"}))
        .await;
    assert!(
        done.ok && done.output.starts_with("replaced "),
        "{}",
        done.output
    );
    assert_eq!(fs::read_to_string(&script).expect("readable"), "new");
    let mode = fs::metadata(&script).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o750);
    assert!(
        fs::symlink_metadata(rig.cwd().join("link"))
            .expect("there")
            .is_symlink()
    );
    assert_eq!(fs::read_dir(rig.cwd()).expect("listed").count(), 2);
}

#[tokio::test]
async fn s6_what_cannot_be_read_or_written_says_why() {
    let Some(rig) = rig() else { return };
    fs::create_dir(rig.cwd().join("dir")).expect("a directory");
    fs::write(rig.cwd().join("binary"), b"ELF\0\0").expect("written");
    fs::write(rig.cwd().join("short"), "a\nb\n").expect("written");
    let pipe = rig.cwd().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).expect("a pipe");
    let long = "x".repeat((10 << 20) + 1);
    for (tool, input, wanted) in [
        ("read", json!({"path": "none"}), "there is no file "),
        (
            "read",
            json!({"path": "dir"}),
            "dir is a directory; name a file in it",
        ),
        (
            "read",
            json!({"path": "pipe"}),
            "pipe is a device, pipe or socket",
        ),
        (
            "read",
            json!({"path": "/dev/zero"}),
            "is a device, pipe or socket",
        ),
        ("read", json!({"path": "binary"}), "is not a text file"),
        (
            "read",
            json!({"path": "short", "offset": 3}),
            "which has 2 lines",
        ),
        (
            "write",
            json!({"path": "dir", "content": "x"}),
            "dir is a directory",
        ),
        (
            "write",
            json!({"path": "pipe", "content": "x"}),
            "is a device, pipe or socket",
        ),
        (
            "write",
            json!({"path": "short/x", "content": "x"}),
            "cannot ",
        ),
        (
            "write",
            json!({"path": "x", "content": long}),
            "at most 10485760 can be written",
        ),
    ] {
        let done = rig.tool(tool, input).await;
        assert!(
            !done.ok && done.output.contains(wanted),
            "{tool}: {}",
            done.output
        );
    }
    assert_eq!(
        fs::read_to_string(rig.cwd().join("short")).expect("readable"),
        "a\nb\n"
    );
    assert_eq!(fs::read_dir(rig.cwd()).expect("listed").count(), 4);
}

#[tokio::test]
async fn s6_fifty_megabytes_are_read_at_a_decent_rate_and_bounded() {
    let Some(rig) = rig() else { return };
    let text: String = (1..=6_000_000).map(|n| format!("{n:08}\n")).collect();
    let path = rig.cwd().join("big");
    fs::write(&path, &text).expect("written");
    let begun = Instant::now();
    let done = rig.tool("read", json!({"path": path})).await;
    assert!(done.ok && done.truncated && done.output.len() < 52 * 1024);
    let mut local = dispatch_core::output::HeadTail::default();
    local.push(text.as_bytes());
    let local = local.finish(Some(&path.display().to_string())).text;
    assert!(done.output == local, "the same cut as here, to the byte");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    let done = rig
        .tool(
            "read",
            json!({"path": path, "offset": 5_999_999, "limit": 1}),
        )
        .await;
    assert!(
        done.output.starts_with("05999999\n[... more"),
        "{}",
        done.output
    );
}

#[tokio::test]
async fn s6_ten_megabytes_arrive_whole() {
    let Some(rig) = rig() else { return };
    let content: String = (1..=1_000_000).map(|n| format!("{n:09}\n")).collect();
    for verb in ["created", "replaced"] {
        let done = rig
            .tool("write", json!({"path": "big", "content": content}))
            .await;
        assert!(
            done.ok && done.output.starts_with(verb),
            "{:.300}",
            done.output
        );
        assert!(fs::read_to_string(rig.cwd().join("big")).expect("readable") == content);
    }
}

#[tokio::test]
async fn s6_a_link_that_is_cut_within_a_write_leaves_the_old_file_or_the_new_one() {
    let Some(rig) = rig() else { return };
    for bytes in [60, 300, 500, 600, 700, 900] {
        fs::write(rig.cwd().join("f"), "old").expect("written");
        let link = rig.link();
        link.cut_after(bytes);
        let content = "new".repeat(1_000_000);
        let mut call = rig.start_on(
            link,
            rig.request("write", json!({"path": "f", "content": content})),
        );
        let done = call.until_lost().await;
        let text = fs::read_to_string(rig.cwd().join("f")).expect("readable");
        assert!(text == "old" || text == content, "{} bytes", text.len());
        assert!(done.is_none() || text == content, "{done:?}");
    }
}
