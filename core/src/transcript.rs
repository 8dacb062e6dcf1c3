//! What a conversation consists of, in the terms of no vendor.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// One item of a conversation's history, in prompt order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// What a person said.
    User {
        /// The message.
        text: String,
    },
    /// What the model said in one step.
    Assistant {
        /// The visible answer.
        text: String,
        /// The visible reasoning; shown to people, never sent back.
        reasoning: String,
        /// The tools that it asked for.
        calls: Vec<ToolCall>,
        /// The step was cut short (abort, error): kept, not complete.
        partial: bool,
    },
    /// What a tool answered.
    ToolResult {
        /// The call that is answered.
        call_id: String,
        /// The tool did what was asked.
        ok: bool,
        /// Bounded output (T8).
        output: String,
    },
}

/// A tool call as the model asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Names the call within its turn. Vendors' ids where they are usable and
    /// unique, else made by the step assembler.
    pub call_id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments as the model wrote them: JSON text, possibly malformed.
    pub input: String,
}

/// Tokens as the provider counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Prompt tokens.
    pub input_tokens: u64,
    /// Completion tokens.
    pub output_tokens: u64,
    /// Prompt tokens that came from the provider's cache.
    pub cached_tokens: u64,
    /// Completion tokens spent on reasoning.
    pub reasoning_tokens: u64,
}

impl Usage {
    /// The sum of two steps' usage.
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cached_tokens: self.cached_tokens.saturating_add(other.cached_tokens),
            reasoning_tokens: self.reasoning_tokens.saturating_add(other.reasoning_tokens),
        }
    }
}
