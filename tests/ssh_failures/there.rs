//! It lets us in, and does not do as it should.

use serde_json::json;

use crate::Street;
use crate::support::world::bash;

pub(crate) fn sftp_off(street: &Street) {
    let why = street.answer(&street.call("bare", "bare", &bash("true")));
    for part in ["bare", "has no file transfer", "Subsystem sftp"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    street.shows("bare", &["ssh-sftp-off"]);
}

/// Neither a command nor a file finds room; a command that runs goes on.
pub(crate) fn disk_full(street: &Street) {
    let Some(full) = &street.victims.full else {
        return;
    };
    street.works("full");
    let disk = full.disk.as_ref().unwrap();
    disk.fill();
    street.fails("full-command", "full", &["No space left on device"]);
    let write = json!({ "tool_call": { "name": "write", "arguments": {
        "path": full.home().join("file"), "content": "x".repeat(100_000)
    } } });
    let why = street.answer(&street.call("full-write", "full", &write));
    assert!(why.contains("No space left on device"), "{why}");
    disk.make_room();
    let told = street.answer(&street.call("full-again", "full", &bash("echo room")));
    assert_eq!(told.trim_end(), "room");
    street.works("full");
}
