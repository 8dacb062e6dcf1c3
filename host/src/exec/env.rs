//! What a command may not see of the server's environment (P4).

use std::ffi::OsStr;
use std::process::Command;

const SECRET_ENDINGS: [&str; 4] = ["_API_KEY", "_TOKEN", "_SECRET", "_PASSWORD"];
const SECRET_NAMES: [&str; 2] = ["DATABASE_URL", "DISPATCH_TOKEN"];
/// Not a secret, but this process's alone: by them a command could tell systemd
/// that the server is well.
const SERVICE_NAMES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Whether a variable of this name is kept from commands.
pub(super) fn is_kept(name: &OsStr, also: &[String]) -> bool {
    let name = name.to_string_lossy().to_ascii_uppercase();
    SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending))
        || SECRET_NAMES.contains(&name.as_str())
        || SERVICE_NAMES.contains(&name.as_str())
        || also.iter().any(|secret| secret.eq_ignore_ascii_case(&name))
}

/// Removes what is kept from commands from what `command` inherits. `also` names further
/// variables, such as those that the configuration reads credentials from.
pub(crate) fn scrub<'c>(command: &'c mut Command, also: &[String]) -> &'c mut Command {
    for (name, _) in std::env::vars_os() {
        if is_kept(&name, also) {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_credentials_are_kept_back_and_ordinary_variables_are_not() {
        let also = ["MY_KEY".to_owned()];
        for name in [
            "OPENAI_API_KEY",
            "github_token",
            "AWS_SECRET",
            "PGPASSWORD_PASSWORD",
            "DATABASE_URL",
            "DISPATCH_TOKEN",
            "my_key",
            "NOTIFY_SOCKET",
        ] {
            assert!(is_kept(OsStr::new(name), &also), "{name}");
        }
        for name in ["PATH", "HOME", "TOKENIZERS_PARALLELISM", "API_KEY_FILE"] {
            assert!(!is_kept(OsStr::new(name), &also), "{name}");
        }
    }
}
