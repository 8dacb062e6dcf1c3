//! Streams in the shapes of the vendors, as their documents and users describe
//! them; the texts are made up.

pub(crate) mod expected;

/// OpenAI: role chunk, text, parallel calls with ids, usage after the finish.
pub(crate) const OPENAI: &str = r#"data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","created":1770000000,"model":"gpt-5.1","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"xKq"}

data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Looking"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" at “both” \ud83d\ude00.\n"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_a9X","type":"function","function":{"name":"read","arguments":""}}]},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"pa"}}]},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"th\":\"a.txt\"}"}}]},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_b7Y","type":"function","function":{"name":"read","arguments":""}}]},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{\"path\":\"b.txt\"}"}}]},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}],"usage":null}

data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":210,"completion_tokens":34,"total_tokens":244,"prompt_tokens_details":{"cached_tokens":128,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":5,"audio_tokens":0}}}

data: [DONE]

"#;

/// Azure: a first chunk without choices that carries filter results.
pub(crate) const AZURE: &str = r#"data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]}

data: {"choices":[{"content_filter_results":{},"delta":{"content":"","refusal":null,"role":"assistant"},"finish_reason":null,"index":0,"logprobs":null}],"created":1770000000,"id":"chatcmpl-Az","model":"gpt-5.1","object":"chat.completion.chunk"}

data: {"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},"delta":{"content":"Hello from the east."},"finish_reason":null,"index":0}],"id":"chatcmpl-Az"}

data: {"choices":[{"content_filter_results":{},"delta":{},"finish_reason":"stop","index":0,"logprobs":null}],"id":"chatcmpl-Az"}

data: {"choices":[],"id":"chatcmpl-Az","usage":{"completion_tokens":6,"prompt_tokens":11,"total_tokens":17}}

data: [DONE]

"#;

/// Mistral: content in parts with thinking, calls whole, without index, in the
/// chunk that finishes and counts.
pub(crate) const MISTRAL: &str = r#"data: {"id":"m1","object":"chat.completion.chunk","model":"magistral","choices":[{"index":0,"delta":{"role":"assistant","content":[{"type":"thinking","thinking":[{"type":"text","text":"Two cities."}]}]},"finish_reason":null}]}

data: {"id":"m1","choices":[{"index":0,"delta":{"content":[{"type":"text","text":"I ask "},{"type":"text","text":"both."},{"type":"reference","reference_ids":[1]}]},"finish_reason":null}]}

data: {"id":"m1","choices":[{"index":0,"delta":{"content":"","tool_calls":[{"id":"D681PevKs","function":{"name":"weather","arguments":"{\"city\": \"Oslo\"}"}},{"id":"aB3dE5fG7","function":{"name":"weather","arguments":"{\"city\": \"Bern\"}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":70,"total_tokens":95,"completion_tokens":25}}

data: [DONE]

"#;

/// DeepSeek: reasoning first, `content: null` beside it, usage on the finish.
pub(crate) const DEEPSEEK: &str = r#"data: {"id":"d1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning_content":""},"logprobs":null,"finish_reason":null}]}

data: {"id":"d1","choices":[{"index":0,"delta":{"content":null,"reasoning_content":"Let me "},"finish_reason":null}]}

data: {"id":"d1","choices":[{"index":0,"delta":{"content":null,"reasoning_content":"add."},"finish_reason":null}]}

data: {"id":"d1","choices":[{"index":0,"delta":{"content":"It is 4.","reasoning_content":null},"finish_reason":null}]}

: keep-alive

data: {"id":"d1","choices":[{"index":0,"delta":{"content":"","reasoning_content":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":18,"completion_tokens":12,"total_tokens":30,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":4},"prompt_cache_hit_tokens":0,"prompt_cache_miss_tokens":18}}

data: [DONE]

"#;

/// Groq: usage under `x_groq`, reasoning under `reasoning`.
pub(crate) const GROQ: &str = r#"data: {"id":"g1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"x_groq":{"id":"req_01"}}

data: {"id":"g1","choices":[{"index":0,"delta":{"reasoning":"Hm."},"logprobs":null,"finish_reason":null}]}

data: {"id":"g1","choices":[{"index":0,"delta":{"content":"Fast"},"logprobs":null,"finish_reason":null}]}

data: {"id":"g1","choices":[{"index":0,"delta":{"content":" answer"},"logprobs":null,"finish_reason":null}]}

data: {"id":"g1","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"x_groq":{"id":"req_01","usage":{"queue_time":0.01,"prompt_tokens":9,"prompt_time":0.001,"completion_tokens":3,"completion_time":0.005,"total_tokens":12,"total_time":0.006}}}

data: [DONE]

"#;

/// OpenRouter: comments while it waits, the reasoning under two keys, the last
/// chunks repeat an empty role.
pub(crate) const OPENROUTER: &str = r#": OPENROUTER PROCESSING

: OPENROUTER PROCESSING

data: {"id":"gen-1","provider":"Somebody","model":"vendor/model","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning":"First","reasoning_details":[{"type":"reasoning.text","text":"First","format":"x","index":0}]},"finish_reason":null,"native_finish_reason":null,"logprobs":null}]}

data: {"id":"gen-1","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning":null,"reasoning_details":[{"type":"reasoning.summary","summary":" then.","index":0}]},"finish_reason":null}]}

data: {"id":"gen-1","choices":[{"index":0,"delta":{"role":"assistant","content":"Done."},"finish_reason":null}]}

data: {"id":"gen-1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"stop","native_finish_reason":"end_turn"}]}

data: {"id":"gen-1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":{"prompt_tokens":14,"completion_tokens":8,"total_tokens":22,"cost":0.0001,"completion_tokens_details":{"reasoning_tokens":3}}}

data: [DONE]

"#;

/// Gemini's compatible endpoint (its lines end in CRLF, see [`crlf`]): every
/// call is number 0, comes whole, and the finish says `stop`.
pub(crate) const GEMINI: &str = r#"data: {"choices":[{"delta":{"content":"Checking.","role":"assistant"},"index":0}],"created":1770000000,"id":"ge1","model":"gemini","object":"chat.completion.chunk","usage":{"completion_tokens":2,"prompt_tokens":30,"total_tokens":32}}

data: {"choices":[{"delta":{"role":"assistant","tool_calls":[{"function":{"arguments":"{\"q\":\"rust\"}","name":"search"},"id":"function-call-111","index":0,"type":"function"}]},"index":0}],"id":"ge1"}

data: {"choices":[{"delta":{"role":"assistant","tool_calls":[{"function":{"arguments":"{\"q\":\"sse\"}","name":"search"},"id":"function-call-222","index":0,"type":"function"}]},"finish_reason":"stop","index":0}],"id":"ge1","usage":{"completion_tokens":20,"prompt_tokens":30,"total_tokens":50}}

data: [DONE]

"#;

/// LiteLLM: a whole completion as JSON though a stream was asked for.
pub(crate) const LITELLM_JSON: &str = r#"
{"id":"chatcmpl-L","created":1770000000,"model":"local","object":"chat.completion","system_fingerprint":null,
 "choices":[{"finish_reason":"tool_calls","index":0,"message":{"content":"One moment.","role":"assistant",
   "tool_calls":[{"function":{"arguments":"{\"path\":\"x\"}","name":"read"},"id":"call_L1","type":"function"},
                 {"function":{"arguments":{"path":"y"},"name":"read"},"id":"call_L2","type":"function"}],
   "function_call":null,"provider_specific_fields":{"refusal":null}}}],
 "usage":{"completion_tokens":"17","prompt_tokens":40,"total_tokens":57,"completion_tokens_details":null,"prompt_tokens_details":{"cached_tokens":8}}}
"#;

/// Perplexity: no terminator; each chunk repeats the whole text so far.
pub(crate) const PERPLEXITY: &str = r#"data: {"id":"p1","object":"chat.completion.chunk","choices":[{"index":0,"message":{"role":"assistant","content":"Ber"},"delta":{"role":"assistant","content":"Ber"},"finish_reason":null}],"citations":["https://example.org"]}

data: {"id":"p1","object":"chat.completion.chunk","choices":[{"index":0,"message":{"role":"assistant","content":"Berlin"},"delta":{"content":"lin"},"finish_reason":null}]}

data: {"id":"p1","object":"chat.completion.done","choices":[{"index":0,"message":{"role":"assistant","content":"Berlin"},"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}

"#;

/// A gateway whose last chunk is a whole `message` without a delta, whose later
/// fragments carry empty ids and names, and which closes with an event that
/// lacks its blank line.
pub(crate) const REPEATING_GATEWAY: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"So:","tool_calls":[{"index":"0","id":"t-1","function":{"name":"bash","arguments":null}}]},"finish_reason":""}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"","function":{"name":"","arguments":"{\"command\":"}}]},"finish_reason":null}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":null,"type":"","function":{"name":null,"arguments":"\"ls\"}"}}]},"finish_reason":null}]}

data: {"choices":[{"index":0,"finish_reason":"tool_calls","message":{"content":"So:","tool_calls":[{"id":"t-1","function":{"name":"bash","arguments":"{\"command\":\"ls\"}"}}]}}]}

data: [DONE]"#;

/// The same stream with CRLF line ends.
pub(crate) fn crlf(stream: &str) -> String {
    stream.replace('\n', "\r\n")
}
