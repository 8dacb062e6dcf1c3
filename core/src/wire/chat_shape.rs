//! The shapes of a Chat Completions chunk, as far as anything here reads them,
//! borrowed from the text they came in.

use alloc::{borrow::Cow, string::String};
use core::fmt;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::lenient::{Args, Content, Count, Several, Text, absent, lenient_object};
use crate::transcript::Usage;

lenient_object! {
    /// A chunk of a stream, or a whole completion.
    Chunk {
        choices: Option<Choice<'a>> = "choices",
        usage: Option<Tokens<'a>> = "usage",
        error: ErrorField<'a> = "error",
        x_groq: Groq<'a> = "x_groq",
        object: Text<'a> = "object",
        message: Text<'a> = "message",
        kind: Text<'a> = "type",
        code: Text<'a> = "code",
        detail: Text<'a> = "detail",
    }
}

lenient_object! {
    Choice {
        delta: Option<Message<'a>> = "delta",
        message: Option<Message<'a>> = "message",
        finish_reason: Text<'a> = "finish_reason",
        usage: Option<Tokens<'a>> = "usage",
    }
}

lenient_object! {
    Message {
        content: Content<'a> = "content",
        refusal: Text<'a> = "refusal",
        reasoning_content: Text<'a> = "reasoning_content",
        reasoning: Text<'a> = "reasoning",
        reasoning_details: Text<'a> = "reasoning_details",
        tool_calls: Several<Call<'a>> = "tool_calls",
    }
}

lenient_object! {
    Call {
        index: Count = "index",
        id: Text<'a> = "id",
        function: Function<'a> = "function",
    }
}

lenient_object! {
    Function {
        name: Text<'a> = "name",
        arguments: Args<'a> = "arguments",
    }
}

lenient_object! {
    /// Groq puts usage and errors under a key of its own.
    Groq {
        usage: Option<Tokens<'a>> = "usage",
        error: ErrorField<'a> = "error",
    }
}

lenient_object! {
    Tokens {
        prompt_tokens: Count = "prompt_tokens",
        completion_tokens: Count = "completion_tokens",
        input_tokens: Count = "input_tokens",
        output_tokens: Count = "output_tokens",
        prompt_details: TokenDetails<'a> = "prompt_tokens_details",
        completion_details: TokenDetails<'a> = "completion_tokens_details",
        prompt_cache_hit_tokens: Count = "prompt_cache_hit_tokens",
        cached_tokens: Count = "cached_tokens",
    }
}

lenient_object! {
    TokenDetails {
        cached_tokens: Count = "cached_tokens",
        reasoning_tokens: Count = "reasoning_tokens",
    }
}

impl Tokens<'_> {
    pub(crate) fn usage(&self) -> Usage {
        let first = |counts: &[Count]| counts.iter().find_map(|count| count.0).unwrap_or(0);
        Usage {
            input_tokens: first(&[self.prompt_tokens, self.input_tokens]),
            output_tokens: first(&[self.completion_tokens, self.output_tokens]),
            cached_tokens: first(&[
                self.prompt_details.cached_tokens,
                self.prompt_cache_hit_tokens,
                self.cached_tokens,
            ]),
            reasoning_tokens: first(&[self.completion_details.reasoning_tokens]),
        }
    }
}

lenient_object! {
    ErrorObject {
        code: Text<'a> = "code",
        kind: Text<'a> = "type",
        status: Text<'a> = "status",
        message: Text<'a> = "message",
        detail: Text<'a> = "detail",
    }
}

/// An error as an object or as bare text; `null`, `false` and `""` are none.
#[derive(Debug, Default)]
pub(crate) struct ErrorField<'a>(pub(crate) Option<ErrorObject<'a>>);

struct ErrorVisitor<'a>(core::marker::PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for ErrorVisitor<'a> {
    type Value = ErrorField<'a>;
    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an error")
    }
    fn visit_str<E>(self, text: &str) -> Result<ErrorField<'a>, E> {
        if text.is_empty() {
            return Ok(ErrorField(None));
        }
        Ok(ErrorField(Some(ErrorObject {
            message: Text(Cow::Owned(String::from(text))),
            ..ErrorObject::default()
        })))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ErrorField<'a>, A::Error> {
        let object = ErrorObject::deserialize(MapAccessDeserializer::new(map))?;
        Ok(ErrorField(Some(object)))
    }
    absent! { number literal seq }
}

impl<'de: 'a, 'a> Deserialize<'de> for ErrorField<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ErrorVisitor(core::marker::PhantomData))
    }
}
