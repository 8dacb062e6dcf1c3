//! No link comes about.

use crate::Street;
use crate::support::until_true;

pub(crate) fn wrong_key(street: &Street) {
    street.fails(
        "wrong-key",
        "strange",
        &["`strange`", "cannot be used", "authorized_keys"],
    );
    street.shows("strange", &["ssh-auth"]);
}

pub(crate) fn changed_host_key(street: &Street) {
    street.works("renamed");
    let mut renamed = street.victims.renamed.borrow_mut();
    renamed.wire.cut();
    until_true("the link has ended", || {
        street.yard.computer("renamed")["state"] != "open"
    });
    renamed.sshd.change_host_key("ed25519");
    street.fails(
        "host-key",
        "renamed",
        &["`renamed`", "cannot be used", "HAS CHANGED", "SHA256:"],
    );
    street.shows("renamed", &["ssh-host-key"]);
}

pub(crate) fn nobody_listens(street: &Street) {
    let mut absent = street.victims.absent.borrow_mut();
    absent.sshd.stop();
    street.fails("nobody", "absent", &["`absent`", "within 3 s", "refused"]);
    street.shows("absent", &["ssh-unreachable"]);
    absent.sshd.up();
    street.works("absent");
}

pub(crate) fn says_nothing(street: &Street) {
    let wire = &street.victims.mute.wire;
    wire.mute(true);
    street.fails(
        "mute",
        "mute",
        &["`mute`", "within 3 s", "handshake was not done", "greeting"],
    );
    street.shows("mute", &["ssh-timeout"]);
    wire.mute(false);
    street.works("mute");
}

/// In the exchange of versions, of keys, and in the login.
pub(crate) fn breaks_off(street: &Street) {
    let wire = &street.victims.mute.wire;
    for bytes in [30, 700, 2_600] {
        wire.cut();
        until_true("the link has ended", || {
            street.yard.computer("mute")["state"] != "open"
        });
        wire.cut_each_after(Some(bytes));
        street.fails(
            &format!("breaks-off-{bytes}"),
            "mute",
            &["`mute`", "within 3 s"],
        );
        street.shows("mute", &["ssh-unreachable", "ssh-lost"]);
        wire.cut_each_after(None);
        street.works("mute");
    }
}

pub(crate) fn stopped(street: &Street) {
    let sshd = &street.victims.stopped.sshd;
    sshd.freeze();
    street.fails(
        "stopped",
        "stopped",
        &["`stopped`", "within 3 s", "handshake was not done"],
    );
    street.shows("stopped", &["ssh-timeout"]);
    sshd.thaw();
    street.works("stopped");
}
