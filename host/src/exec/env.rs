//! What a command may not see of the server's environment (P4).

use std::ffi::OsStr;
use std::process::Command;

const SECRET_ENDINGS: [&str; 4] = ["_API_KEY", "_TOKEN", "_SECRET", "_PASSWORD"];
const SECRET_NAMES: [&str; 2] = ["DATABASE_URL", "DISPATCH_TOKEN"];

/// Whether a variable of this name is kept from commands.
pub(super) fn is_secret(name: &OsStr, also: &[String]) -> bool {
    let name = name.to_string_lossy().to_ascii_uppercase();
    SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending))
        || SECRET_NAMES.contains(&name.as_str())
        || also.iter().any(|secret| secret.eq_ignore_ascii_case(&name))
}

/// Removes the secrets from what `command` inherits. `also` names further
/// variables, such as those that the configuration reads credentials from.
pub(crate) fn scrub<'c>(command: &'c mut Command, also: &[String]) -> &'c mut Command {
    for (name, _) in std::env::vars_os() {
        if is_secret(&name, also) {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_credentials_are_secret_and_ordinary_variables_are_not() {
        let also = ["MY_KEY".to_owned()];
        for name in [
            "OPENAI_API_KEY",
            "github_token",
            "AWS_SECRET",
            "PGPASSWORD_PASSWORD",
            "DATABASE_URL",
            "DISPATCH_TOKEN",
            "my_key",
        ] {
            assert!(is_secret(OsStr::new(name), &also), "{name}");
        }
        for name in ["PATH", "HOME", "TOKENIZERS_PARALLELISM", "API_KEY_FILE"] {
            assert!(!is_secret(OsStr::new(name), &also), "{name}");
        }
    }
}
