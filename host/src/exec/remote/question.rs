//! Questions to another computer: the scripts, their parameters and their
//! answers.

use std::sync::Arc;
use std::time::Duration;

use super::far::Fault;
use super::over::granted;
use crate::exec::rundir::random_mark;
use crate::ssh::{ExecDone, Link, LinkError};

const SUPERVISOR: &str = include_str!("supervisor.sh");
const VERBS: &str = include_str!("verbs.sh");

/// Understood by every login shell, also by those that are no Bourne shell; the
/// rest comes on standard input, where nothing is theirs to expand.
const COMMAND: &str = r#"exec sh -c 'eval "$(cat)"'"#;

/// How long an answer may take: more than what the slowest verb waits for.
const PATIENCE: Duration = Duration::from_secs(40);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the computer did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// The script did not run to its end; how far it came is unknown.
    #[error("the login shell over there did not do as it was told: {0}")]
    Garbled(String),
    #[error("cannot draw a random number: {0}")]
    NoRandomness(String),
    /// It was not asked: its home directory is not known.
    #[error("its file transfer does not work: {0}")]
    Files(Fault),
}

/// A verb with its parameters.
#[derive(Clone, Debug)]
pub(super) struct Question {
    nonce: String,
    text: String,
}

impl Question {
    pub(super) fn new() -> Result<Question, AskError> {
        let nonce = random_mark().map_err(|e| AskError::NoRandomness(e.to_string()))?;
        let text = String::new();
        Ok(Question { nonce, text }.with("spared", "").with("home", ""))
    }

    /// Sets a variable of the script. `value` may hold anything but NUL.
    pub(super) fn with(mut self, name: &str, value: &str) -> Question {
        self.text.push_str(&format!("{name}={}\n", quoted(value)));
        self
    }

    /// Hands the supervisor over as well, which is to stay there.
    pub(super) fn with_supervisor(self) -> Question {
        self.with("program", SUPERVISOR)
    }

    /// What names the processes of a run that this question starts.
    pub(super) fn mark(&self) -> String {
        self.nonce.clone()
    }

    /// Asks, and returns the answers: at least one, in their order.
    pub(super) async fn ask(
        self,
        link: &Arc<dyn Link>,
        verb: &str,
    ) -> Result<Vec<String>, AskError> {
        let nonce = &self.nonce;
        let text = &self.text;
        let input = format!("{text}nonce={nonce}\n{SUPERVISOR}\n{VERBS}\n{verb}\n");
        let done = exec(link, input.into_bytes()).await?;
        let answers = answers(&done, nonce);
        if answers.is_empty() {
            return Err(AskError::Garbled(strange(&done)));
        }
        Ok(answers)
    }
}

/// In a task of its own: a caller that loses interest must not cut a start in
/// two.
async fn exec(link: &Arc<dyn Link>, input: Vec<u8>) -> Result<ExecDone, AskError> {
    let done = granted(|| async {
        // The limit is within, so that a question that is given up closes its channel.
        let asking = tokio::time::timeout(PATIENCE, link.exec(COMMAND.to_owned(), input.clone()));
        let done = tokio::spawn(asking).await;
        let done = done.map_err(|e| AskError::Garbled(e.to_string()))?;
        done.map_err(|_| AskError::Silent)
    });
    Ok(done.await??)
}

fn answers(done: &ExecDone, nonce: &str) -> Vec<String> {
    let start = format!("dispatch {nonce} ");
    let text = String::from_utf8_lossy(&done.output);
    // A line that was cut off is none.
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n')?.strip_prefix(&start))
        .map(ToOwned::to_owned)
        .collect()
}

/// What is told of a shell that said something else.
fn strange(done: &ExecDone) -> String {
    let said = [&done.error, &done.output]
        .map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned())
        .into_iter()
        .filter(|said| !said.is_empty())
        .map(|said| said.chars().take(300).collect::<String>())
        .collect::<Vec<_>>()
        .join("; ");
    let ended = match (done.code, &done.signal) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended in an unknown way".to_owned(),
    };
    match said.is_empty() {
        true => format!("{ended} and said nothing"),
        false => format!("{ended} and said: {said}"),
    }
}

/// As one word of a POSIX shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_scripts_are_read_by_dash_and_bash() {
        for script in [SUPERVISOR, VERBS] {
            for shell in ["dash", "bash", "sh"] {
                let read = Command::new(shell).args(["-n", "-c", script]).output();
                let Ok(read) = read else { continue };
                let said = String::from_utf8_lossy(&read.stderr).into_owned();
                assert!(read.status.success(), "{shell}: {said}");
            }
        }
    }

    #[test]
    fn what_is_quoted_is_one_word_whatever_it_holds() {
        for value in [
            "",
            "a b",
            "it's",
            "'",
            "''",
            "$(x) `y` \\ \"",
            "a\nb\n",
            "é€",
        ] {
            let script = format!("printf %s {}", quoted(value));
            let out = Command::new("sh")
                .args(["-c", &script])
                .output()
                .expect("sh");
            assert_eq!(String::from_utf8_lossy(&out.stdout), value);
        }
    }

    #[test]
    fn only_whole_lines_with_the_nonce_are_answers() {
        let done = ExecDone {
            output: b"Welcome!\ndispatch 7 run a\ndispatch 8 run b\ndispatch 7 over\ndispatch 7 cu"
                .to_vec(),
            ..ExecDone::default()
        };
        assert_eq!(answers(&done, "7"), ["run a", "over"]);
    }
}
