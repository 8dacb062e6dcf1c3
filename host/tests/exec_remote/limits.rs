//! What bounds a command's output: the limit, and the disk (D27, T8).

use std::fs;
use std::process::Command;

use crate::rig::{rig, rig_with, skipped};

#[tokio::test]
async fn d27_a_gigabyte_of_output_is_bounded_on_disk_and_over_the_link() {
    const LIMIT: u64 = 8 << 20;
    let Some(rig) = rig_with("sh", LIMIT) else {
        return;
    };
    let link = rig.link();
    let command = "head -c 1000000000 /dev/zero | tr '\\0' x; printf THE-END";
    let done = rig
        .start_on(link.clone(), rig.bash_request(command))
        .done()
        .await;
    assert!(done.ok && done.truncated, "{:.300}", done.output);
    assert!(done.output.ends_with("THE-END"));
    let bytes = fs::metadata(rig.run_dir().join("output"))
        .expect("there")
        .len();
    assert!((LIMIT..LIMIT + 64 * 1024).contains(&bytes), "{bytes}");
    assert!(link.carried_bytes() < 400_000, "{}", link.carried_bytes());
    let exit = rig.exit_line().await;
    assert!(exit.contains(&format!(" output_bytes={bytes} ")), "{exit}");
    let dropped = 1_000_000_007 - LIMIT - 32 * 1024;
    assert!(
        exit.contains(&format!(" dropped_bytes={dropped} ")),
        "{exit}"
    );
    let notice = format!(
        "[... {dropped} bytes dropped here: the output is longer than the limit of {LIMIT} bytes ...]"
    );
    let output = fs::read_to_string(rig.run_dir().join("output")).expect("text");
    assert!(output.contains(&notice));
}

/// A disk of 2 MB, which goes with it.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf) -> Option<SmallDisk> {
        fs::create_dir(&at).expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "dispatch-test"])
            .arg(&at)
            .output();
        if mounted.is_ok_and(|done| done.status.success()) {
            return Some(SmallDisk(at));
        }
        skipped("a small disk cannot be mounted here (it takes root)");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _tempfile_tells = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_ends_the_output_and_not_the_command() {
    let Some(mut rig) = rig() else { return };
    let Some(disk) = SmallDisk::mount(rig.root.path().join("small")) else {
        return;
    };
    rig.move_home(disk.0.clone());
    let done = rig
        .bash("yes | head -c 5000000; echo > ended; exit 3")
        .await;
    assert!(rig.cwd().join("ended").exists());
    assert!(!done.ok && done.truncated);
    assert!(done.output.starts_with("y\ny\n"));
    assert!(
        done.output
            .contains("[exit code 3]\n[the disk took no more output: No space left on device"),
        "{}",
        &done.output[done.output.len().saturating_sub(300)..]
    );
    // Now that it is full, nothing more is started, and that is said.
    fs::write(disk.0.join("filler"), vec![0; 4 << 20]).expect_err("the disk is full");
    let mut request = rig.bash_request("echo > ran");
    request.call_id = "another".to_owned();
    let done = rig.start(request).done().await;
    assert!(
        done.output.starts_with("the command was not started")
            && done.output.contains("No space left"),
        "{}",
        done.output
    );
    assert!(!rig.cwd().join("ran").exists());
    let written = rig
        .tool(
            "write",
            serde_json::json!({"path": disk.0.join("f"), "content": "x".repeat(100_000)}),
        )
        .await;
    assert!(
        !written.ok && written.output.contains("No space left on device"),
        "{}",
        written.output
    );
    let left: Vec<_> = fs::read_dir(&disk.0)
        .expect("listed")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().contains("tmp")),
        "{left:?}"
    );
}
