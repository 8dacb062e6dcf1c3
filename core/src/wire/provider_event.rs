//! The seam between the dialects and the turn: what a provider's stream says,
//! in the terms of no vendor.

use alloc::string::String;
use serde::{Deserialize, Serialize};

use crate::transcript::Usage;

/// One thing that a provider's stream said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum ProviderEvent {
    /// Visible answer text, never empty.
    Text {
        /// The piece that came.
        text: String,
    },
    /// Visible reasoning, never empty.
    Reasoning {
        /// The piece that came.
        text: String,
    },
    /// A tool call begins, or an earlier one learns the id or name that its
    /// beginning lacked.
    ToolCallStart {
        /// Tells the step's calls apart.
        index: u32,
        /// The vendor's id; may be empty, the assembler makes one.
        id: String,
        /// The tool's name; may be empty.
        name: String,
    },
    /// A piece of a tool call's arguments.
    ToolCallArgs {
        /// The call's index.
        index: u32,
        /// The next piece of JSON text, never empty.
        fragment: String,
    },
    /// Tokens counted so far: cumulative, not a difference.
    Usage(Usage),
    /// Why the model stopped.
    Finish {
        /// The reason.
        reason: FinishReason,
    },
    /// The stream's own terminator (`[DONE]`).
    Terminated,
    /// An error object inside a stream or body that began as a success.
    Error {
        /// The vendor's code, or empty.
        code: String,
        /// The vendor's error type, or empty.
        kind: String,
        /// What the vendor says.
        message: String,
    },
    /// Data that cannot be decoded: something of the step is lost.
    Malformed {
        /// What is wrong, at most 200 characters.
        message: String,
    },
}

/// Why a model stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// It had said everything.
    Stop,
    /// It met a limit on tokens.
    Length,
    /// It waits for tools.
    ToolCalls,
    /// A vendor's filter stopped it.
    ContentFilter,
    /// A word that no rule here knows, at most 64 characters.
    Other(String),
}
