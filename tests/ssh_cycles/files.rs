//! Tools whose computer lets an SFTP server open a few files only: one that
//! stayed open each time would soon be one too many.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use dispatch::exec::ToolDone;
use dispatch::exec::remote::{RemoteExec, RemoteTools};
use serde_json::{Value, json};

use crate::rounds::tool;
use crate::support::census::descriptors;
use crate::support::yard::Far;
use crate::yard::{Yard, until_true};

/// Some are the server's own.
const LIMIT: usize = 40;

pub(crate) async fn few_descriptors(rounds: usize) {
    let Some(far) = Far::with_sftp_server(&format!("ulimit -n {LIMIT}; exec ")) else {
        return;
    };
    let mut yard = Yard::new();
    far.sshd.authorize(&yard.home.key());
    yard.home.add("web", far.wire.port, &[]);
    let link = Arc::new(yard.connect("web").await);
    let tools = RemoteExec::new("files", 1 << 20).over(link);
    prepare(&far);
    round(&tools, 0).await;
    let servers = sftp_servers(&far);
    // One for the tools, one for the runs.
    assert_eq!(servers.len(), 2);
    let open = || servers.iter().map(|pid| descriptors(*pid)).sum::<usize>();
    let before = open();
    for n in 1..=rounds {
        round(&tools, n).await;
    }
    assert_eq!(sftp_servers(&far), servers, "they carried it all");
    until_true("nothing is open any more", || open() <= before).await;
}

/// The processes that serve files.
fn sftp_servers(far: &Far) -> Vec<u32> {
    let is_sftp = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim() == "sftp-server")
    };
    let mut found: Vec<u32> = far.processes().into_iter().filter(is_sftp).collect();
    found.sort();
    found
}

fn prepare(far: &Far) {
    let path = |name: &str| far.home().join(name);
    // Long enough for several lanes.
    std::fs::write(path("long"), "a line of a long file\n".repeat(60_000)).unwrap();
    std::fs::write(path("binary"), [0; 100_000]).unwrap();
    std::fs::write(path("file"), "text\n").unwrap();
    std::fs::create_dir(path("directory")).unwrap();
    std::fs::set_permissions(path("file"), std::fs::Permissions::from_mode(0o640)).unwrap();
}

/// Every way that a file is opened, and every way that this goes wrong.
async fn round(tools: &RemoteTools, n: usize) {
    let ask = |name: &'static str, input: Value| tool(tools, n, name, input);
    let read = |path: &str| ask("read", json!({ "path": path }));
    let write = |path: &str| {
        ask(
            "write",
            json!({ "path": path, "content": "text\n".repeat(100) }),
        )
    };
    let is = |done: &ToolDone, ok: bool| assert_eq!(done.ok, ok, "round {n}: {done:?}");
    let (long, end, missing, directory) = tokio::join!(
        read("long"),
        ask("read", json!({ "path": "long", "offset": 59_990 })),
        read("missing"),
        read("directory"),
    );
    is(&long, true);
    is(&end, true);
    is(&missing, false);
    is(&directory, false);
    let (binary, written, below_a_file, over) = tokio::join!(
        read("binary"),
        write(&format!("new/{n}")),
        write("file/below"),
        write("file"),
    );
    is(&binary, false);
    is(&written, true);
    is(&below_a_file, false);
    is(&over, true);
    if n.is_multiple_of(10) {
        is(&ask("bash", json!({ "command": "cat file" })).await, true);
    }
}
