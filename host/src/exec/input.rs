//! The tools' inputs, parsed once.

use dispatch_core::tools::{self, ToolSpec};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Why a call cannot be carried out as the model wrote it. The model reads it.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("there is no tool named {name:?}; the tools are {known}")]
    UnknownTool { name: String, known: String },
    #[error("the input of {tool} is not what it takes: {cause}; its JSON schema is {schema}")]
    Malformed {
        tool: &'static str,
        cause: String,
        schema: &'static str,
    },
}

/// A tool and what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Bash(Bash),
    Read(Read),
    Write(Write),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Bash {
    pub(super) command: String,
    pub(super) timeout_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Read {
    pub(super) path: String,
    /// First line, counted from 1.
    pub(super) offset: Option<u64>,
    /// Lines.
    pub(super) limit: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Write {
    pub(super) path: String,
    pub(super) content: String,
}

impl Input {
    /// Fields that a tool does not know are ignored: models add some.
    pub(super) fn parse(name: &str, json: &str) -> Result<Input, InputError> {
        let tool = tools::find(name).ok_or_else(|| InputError::UnknownTool {
            name: name.chars().take(80).collect(),
            known: tools::TOOLS
                .iter()
                .map(|tool| tool.name)
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        match tool.name {
            "bash" => Ok(Input::Bash(bash(tool, json)?)),
            "read" => Ok(Input::Read(read(tool, json)?)),
            "write" => Ok(Input::Write(write(tool, json)?)),
            other => Err(malformed(
                tool,
                format!("{other} is not built into this server"),
            )),
        }
    }
}

fn bash(tool: &'static ToolSpec, json: &str) -> Result<Bash, InputError> {
    let input: Bash = parse(tool, json)?;
    if input.command.trim().is_empty() {
        return Err(malformed(tool, "command is empty"));
    }
    if input.command.contains('\0') {
        return Err(malformed(tool, "command holds a NUL character"));
    }
    // One argument of execve(2) holds at most 128 KiB on Linux.
    if input.command.len() >= 128 * 1024 {
        return Err(malformed(
            tool,
            "command is longer than 128 KiB: write a script with the tool write and run that",
        ));
    }
    match input.timeout_ms {
        Some(0) => Err(malformed(tool, "timeout_ms must be at least 1")),
        Some(_) | None => Ok(input),
    }
}

fn read(tool: &'static ToolSpec, json: &str) -> Result<Read, InputError> {
    let input: Read = parse(tool, json)?;
    path(tool, &input.path)?;
    match (input.offset, input.limit) {
        (Some(0), _) => Err(malformed(tool, "offset counts lines from 1")),
        (_, Some(0)) => Err(malformed(tool, "limit must be at least 1")),
        (_, _) => Ok(input),
    }
}

fn write(tool: &'static ToolSpec, json: &str) -> Result<Write, InputError> {
    let input: Write = parse(tool, json)?;
    path(tool, &input.path)?;
    Ok(input)
}

fn path(tool: &'static ToolSpec, path: &str) -> Result<(), InputError> {
    if path.is_empty() || path.contains('\0') {
        return Err(malformed(tool, "path is empty or holds a NUL character"));
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(tool: &'static ToolSpec, json: &str) -> Result<T, InputError> {
    // Derived structs would take an array of the fields' values too.
    if !json.trim_start().starts_with('{') {
        return Err(malformed(tool, "it is not a JSON object"));
    }
    serde_json::from_str(json).map_err(|e| malformed(tool, e.to_string()))
}

fn malformed(tool: &'static ToolSpec, cause: impl Into<String>) -> InputError {
    InputError::Malformed {
        tool: tool.name,
        cause: cause.into(),
        schema: tool.parameters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, json: &str) -> String {
        Input::parse(name, json)
            .expect_err("it is refused")
            .to_string()
    }

    #[test]
    fn every_described_tool_is_parsed() {
        for tool in tools::TOOLS {
            let input = r#"{"command":"x","path":"x","content":"x"}"#;
            assert!(Input::parse(tool.name, input).is_ok(), "{}", tool.name);
        }
    }

    #[test]
    fn an_unknown_tool_is_told_which_there_are() {
        let said = refused("Bash", "{}");
        assert_eq!(
            said,
            "there is no tool named \"Bash\"; the tools are bash, read, write"
        );
    }

    #[test]
    fn a_refusal_names_the_field_and_the_schema() {
        let said = refused("bash", r#"{"cmd":"ls"}"#);
        assert!(said.contains("missing field `command`"), "{said}");
        assert!(said.contains(tools::BASH.parameters), "{said}");
        for bad in ["", "ls", "[\"ls\", 5]", "{\"command\":", "{\"command\":7}"] {
            assert!(
                refused("bash", bad).contains(tools::BASH.parameters),
                "{bad}"
            );
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        assert!(refused("bash", r#"{"command":" "}"#).contains("command is empty"));
        assert!(refused("bash", r#"{"command":"a\u0000b"}"#).contains("NUL"));
        assert!(refused("bash", r#"{"command":"a","timeout_ms":0}"#).contains("timeout_ms"));
        assert!(refused("bash", r#"{"command":"a","timeout_ms":-1}"#).contains("invalid value"));
        assert!(refused("read", r#"{"path":""}"#).contains("path is empty"));
        assert!(refused("read", r#"{"path":"a","offset":0}"#).contains("from 1"));
    }

    #[test]
    fn unknown_fields_and_nulls_are_taken() {
        let input = r#"{"command":"ls","timeout_ms":null,"description":"lists"}"#;
        let wanted = Input::Bash(Bash {
            command: "ls".to_owned(),
            timeout_ms: None,
        });
        assert_eq!(Input::parse("bash", input).expect("taken"), wanted);
    }
}
