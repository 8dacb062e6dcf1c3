//! What a request says to a provider, read once for all who want to know. By
//! other means than those that wrote it.

use dispatch_core::wire::validate::validate_request;
use serde_json::Value;

use crate::script::Script;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    /// The last user message names the script,
    pub(crate) token: u32,
    /// the assistant's messages after it the step.
    pub(crate) step: usize,
}

/// A request, as a provider reads it.
pub(crate) struct Reading {
    pub(crate) asked: Result<Asked, String>,
    /// Whether the model may ask for tools.
    pub(crate) offers_tools: bool,
    /// Whether a strict vendor would take it, or why not.
    pub(crate) verdict: Result<(), String>,
}

impl Reading {
    pub(crate) fn of(body: &[u8]) -> Reading {
        match serde_json::from_slice::<Value>(body) {
            Ok(body) => Reading {
                asked: asked(&body),
                offers_tools: body["tools"].as_array().is_some_and(|all| !all.is_empty()),
                verdict: validate_request(&body),
            },
            Err(error) => {
                let why = format!("the body is not JSON: {error}");
                Reading {
                    asked: Err(why.clone()),
                    offers_tools: false,
                    verdict: Err(why),
                }
            }
        }
    }
}

fn asked(body: &Value) -> Result<Asked, String> {
    let messages = body["messages"].as_array().ok_or("no messages")?;
    let last = messages.iter().rposition(|m| m["role"] == "user");
    let last = last.ok_or("no user message")?;
    let said = messages[last]["content"].as_str();
    let token = said.and_then(Script::token_in);
    let after = messages[last + 1..].iter();
    Ok(Asked {
        token: token.ok_or("a user message that nobody sent")?,
        step: after.filter(|m| m["role"] == "assistant").count(),
    })
}
