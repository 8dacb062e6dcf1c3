//! The tools that every model is offered, and what it is told about them.
//!
//! The same three, with the same words, wherever they run (S1): the model
//! cannot tell this computer from another.

/// What a model is told about one tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolSpec {
    /// The name by which the model calls it.
    pub name: &'static str,
    /// What it does, for the model.
    pub description: &'static str,
    /// JSON Schema of its input, as text.
    pub parameters: &'static str,
    /// It changes nothing: where a crash leaves open what became of it, it is
    /// run again (L10).
    pub read_only: bool,
}

/// Runs a command.
pub const BASH: ToolSpec = ToolSpec {
    name: "bash",
    description: "Runs a command with bash in the working directory and returns what it wrote to standard output and standard error. \
Standard input is empty. A non-zero exit code is told on the last line. Long output is shortened in the middle; the notice names the file that holds all of it. \
A process started in the background goes on after the command has ended; its later output is not shown.",
    parameters: r#"{"type":"object","properties":{"command":{"type":"string","description":"The command, as one would type it into bash."},"timeout_ms":{"type":"integer","minimum":1,"description":"Stop the command after this many milliseconds. Can only shorten the server's own limit."}},"required":["command"]}"#,
    read_only: false,
};

/// Reads a text file.
pub const READ: ToolSpec = ToolSpec {
    name: "read",
    description: "Reads a text file. Long files are shortened in the middle; use offset and limit to read a part of one.",
    parameters: r#"{"type":"object","properties":{"path":{"type":"string","description":"The file, absolute or relative to the working directory."},"offset":{"type":"integer","minimum":1,"description":"The first line to read, counted from 1."},"limit":{"type":"integer","minimum":1,"description":"How many lines to read."}},"required":["path"]}"#,
    read_only: true,
};

/// Writes a text file.
pub const WRITE: ToolSpec = ToolSpec {
    name: "write",
    description: "Writes a file, whole: creates it, with the directories above it, or replaces what it held. At most 10 MB.",
    parameters: r#"{"type":"object","properties":{"path":{"type":"string","description":"The file, absolute or relative to the working directory."},"content":{"type":"string","description":"The file's new content."}},"required":["path","content"]}"#,
    read_only: false,
};

/// Every built-in tool, in the order in which models are told of them: it never
/// changes, because providers cache prompts by prefix.
pub const TOOLS: &[ToolSpec] = &[BASH, READ, WRITE];

/// The built-in tool of that name.
pub fn find(name: &str) -> Option<&'static ToolSpec> {
    TOOLS.iter().find(|tool| tool.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_schema_is_an_object_whose_required_fields_are_described() {
        for tool in TOOLS {
            let schema: Value = serde_json::from_str(tool.parameters).expect(tool.name);
            assert_eq!(schema["type"], "object", "{}", tool.name);
            for field in schema["required"].as_array().expect("a list") {
                let name = field.as_str().expect("a name");
                assert!(
                    schema["properties"][name]["description"].is_string(),
                    "{}.{name}",
                    tool.name
                );
            }
        }
    }

    #[test]
    fn a_tool_is_found_by_its_exact_name_only() {
        assert_eq!(find("bash"), Some(&BASH));
        assert_eq!(find("Bash"), None);
        assert_eq!(find(""), None);
    }
}
