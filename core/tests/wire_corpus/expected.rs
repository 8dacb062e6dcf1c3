//! The step that each stream of the corpus has to assemble to.

use dispatch_core::{
    transcript::{ToolCall, Usage},
    wire::{
        assemble::{StepContent, Verdict},
        provider_event::FinishReason,
    },
};

use crate::wire_corpus;

pub(crate) struct Expected {
    pub(crate) vendor: &'static str,
    pub(crate) stream: String,
    pub(crate) content: StepContent,
    pub(crate) verdict: Verdict,
}

pub(crate) fn usage(input: u64, output: u64, cached: u64, reasoning: u64) -> Usage {
    Usage {
        input_tokens: input,
        output_tokens: output,
        cached_tokens: cached,
        reasoning_tokens: reasoning,
    }
}

pub(crate) fn corpus() -> Vec<Expected> {
    let step =
        |text: &str, reasoning: &str, calls: Vec<ToolCall>, usage, finish, chunks| StepContent {
            text: text.into(),
            reasoning: reasoning.into(),
            calls,
            usage,
            finish: Some(finish),
            chunks,
        };
    let entry = |vendor, stream: &str, content, verdict| Expected {
        vendor,
        stream: stream.into(),
        content,
        verdict,
    };
    use FinishReason::{Stop, ToolCalls};
    let gemini = step(
        "Checking.",
        "",
        vec![
            call("function-call-111", "search", "{\"q\":\"rust\"}"),
            call("function-call-222", "search", "{\"q\":\"sse\"}"),
        ],
        usage(30, 20, 0, 0),
        Stop,
        5,
    );
    vec![
        entry(
            "OpenAI",
            wire_corpus::OPENAI,
            step(
                "Looking at “both” 😀.\n",
                "",
                vec![
                    call("call_a9X", "read", "{\"path\":\"a.txt\"}"),
                    call("call_b7Y", "read", "{\"path\":\"b.txt\"}"),
                ],
                usage(210, 34, 128, 5),
                ToolCalls,
                7,
            ),
            complete(ToolCalls),
        ),
        entry(
            "Azure",
            wire_corpus::AZURE,
            step(
                "Hello from the east.",
                "",
                vec![],
                usage(11, 6, 0, 0),
                Stop,
                1,
            ),
            complete(Stop),
        ),
        entry(
            "Mistral",
            wire_corpus::MISTRAL,
            step(
                "I ask both.",
                "Two cities.",
                vec![
                    call("D681PevKs", "weather", "{\"city\": \"Oslo\"}"),
                    call("aB3dE5fG7", "weather", "{\"city\": \"Bern\"}"),
                ],
                usage(70, 25, 0, 0),
                ToolCalls,
                6,
            ),
            complete(ToolCalls),
        ),
        entry(
            "DeepSeek",
            wire_corpus::DEEPSEEK,
            step(
                "It is 4.",
                "Let me add.",
                vec![],
                usage(18, 12, 0, 4),
                Stop,
                3,
            ),
            complete(Stop),
        ),
        entry(
            "Groq",
            wire_corpus::GROQ,
            step("Fast answer", "Hm.", vec![], usage(9, 3, 0, 0), Stop, 3),
            complete(Stop),
        ),
        entry(
            "OpenRouter",
            wire_corpus::OPENROUTER,
            step("Done.", "First then.", vec![], usage(14, 8, 0, 3), Stop, 3),
            complete(Stop),
        ),
        entry(
            "Gemini",
            &wire_corpus::crlf(wire_corpus::GEMINI),
            gemini.clone(),
            complete(Stop),
        ),
        entry("Gemini in LF", wire_corpus::GEMINI, gemini, complete(Stop)),
        entry(
            "Perplexity",
            wire_corpus::PERPLEXITY,
            step("Berlin", "", vec![], usage(4, 2, 0, 0), Stop, 2),
            Verdict::Complete {
                finish: Stop,
                terminator_missing: true,
            },
        ),
        entry(
            "a repeating gateway",
            wire_corpus::REPEATING_GATEWAY,
            step(
                "So:",
                "",
                vec![call("t-1", "bash", "{\"command\":\"ls\"}")],
                Usage::default(),
                ToolCalls,
                4,
            ),
            Verdict::Complete {
                finish: ToolCalls,
                terminator_missing: true,
            },
        ),
    ]
}

pub(crate) fn call(call_id: &str, name: &str, input: &str) -> ToolCall {
    ToolCall {
        call_id: call_id.into(),
        name: name.into(),
        input: input.into(),
    }
}

pub(crate) fn complete(finish: FinishReason) -> Verdict {
    Verdict::Complete {
        finish,
        terminator_missing: false,
    }
}
