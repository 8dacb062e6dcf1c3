//! Values drawn from an input: few ids, so that they meet each other, and
//! texts of which most have a shape that somebody reads.

use arbitrary::{Result, Unstructured};
use dispatch_core::event::{AgentEvent, Chunk, ChunkKind, EventBody, OutputStream, StatusState};
use dispatch_core::ids::{CommandId, ConversationId, EffectId, Epoch, ProviderId, Slug, TurnId};
use dispatch_core::io::{Command, FailKind, Found, Input, Submit, ToolEnd};
use dispatch_core::time::{Instant, Now, Timestamp};
use dispatch_core::transcript::{Item, ToolCall, Usage};

const TEXTS: &[&str] = &[
    "",
    "hello",
    " ",
    "two\nlines",
    "ünïcödé 😀",
    "\u{0}\u{1f}\u{7f}\u{2028}\u{feff}",
    "{}",
    "{\"command\":\"ls\"}",
    "{ \"a\" : [1, 2.50 , \"x y\"] }",
    "{\"a\":",
    "[1]",
    "\"text\"",
    "null",
    "{\"a\":1e999}",
    "{\"a\":\"\\ud83d\"}",
    "\"\\",
    "bash",
    "read",
    "call_0_0",
    "call_again_1",
    "data: [DONE]\n\n",
];

pub(super) fn text(u: &mut Unstructured<'_>) -> Result<String> {
    Ok(match u.int_in_range(0..=3)? {
        0 => u.arbitrary::<&str>()?.to_owned(),
        _ => (*u.choose(TEXTS)?).to_owned(),
    })
}

pub(super) fn maybe<T>(
    u: &mut Unstructured<'_>,
    draw: impl FnOnce(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Option<T>> {
    if u.arbitrary()? {
        draw(u).map(Some)
    } else {
        Ok(None)
    }
}

pub(super) fn several<T>(
    u: &mut Unstructured<'_>,
    most: usize,
    mut draw: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = u.int_in_range(0..=most)?;
    (0..count).map(|_| draw(u)).collect()
}

fn id<'a, T>(u: &mut Unstructured<'a>, known: &[&'static str]) -> Result<T>
where
    T: for<'t> TryFrom<&'t str>,
{
    let text: &str = u.choose(known)?;
    T::try_from(text).map_err(|_| arbitrary::Error::IncorrectFormat)
}

pub(super) fn conversation(u: &mut Unstructured<'_>) -> Result<ConversationId> {
    id(u, &["c-1", "c-2", "c-3", "c-4"])
}

pub(super) fn slug(u: &mut Unstructured<'_>) -> Result<Slug> {
    id(u, &["default", "alpha", "beta"])
}

/// The third one is in no configuration.
pub(super) fn provider(u: &mut Unstructured<'_>) -> Result<ProviderId> {
    id(u, &["north", "south", "nowhere"])
}

pub(super) fn turn(u: &mut Unstructured<'_>) -> Result<TurnId> {
    Ok(TurnId(u128::from(u.arbitrary::<u8>()?)))
}

pub(super) fn effect_id(u: &mut Unstructured<'_>) -> Result<EffectId> {
    Ok(EffectId {
        incarnation: u.int_in_range(0..=2)?,
        n: u64::from(u.arbitrary::<u8>()?),
    })
}

pub(super) fn now(u: &mut Unstructured<'_>) -> Result<Now> {
    Ok(Now {
        mono: Instant(u.arbitrary()?),
        wall: Timestamp(u.arbitrary()?),
    })
}

pub(super) fn command(u: &mut Unstructured<'_>) -> Result<Command> {
    Ok(match u.int_in_range(0..=11)? {
        0..=5 => Command::Submit(Box::new(Submit {
            conversation: maybe(u, conversation)?,
            workspace: if u.ratio(1, 4)? { Some(slug(u)?) } else { None },
            model: match u.int_in_range(0..=7)? {
                0 => Some(text(u)?),
                1 => Some("south/m".to_owned()),
                2 => Some("nowhere/m".to_owned()),
                _ => None,
            },
            message: text(u)?,
            cwd: if u.ratio(1, 8)? { Some(text(u)?) } else { None },
            computer: None,
            idempotency: if u.ratio(1, 4)? {
                Some((text(u)?, u64::from(u.int_in_range(0..=1u8)?)))
            } else {
                None
            },
        })),
        6 | 7 => Command::Abort {
            turn: maybe(u, turn)?,
            conversation: maybe(u, conversation)?,
            by: text(u)?,
            reason: maybe(u, text)?,
        },
        8 => Command::PutWorkspace {
            slug: slug(u)?,
            title: maybe(u, text)?,
            cwd: maybe(u, text)?,
            computer: None,
        },
        9 | 10 => Command::Star {
            slug: slug(u)?,
            starred: u.arbitrary()?,
        },
        _ => Command::SetLimit {
            provider: provider(u)?,
            limit: u.int_in_range(0..=3)?,
        },
    })
}

pub(super) fn fail_kind(u: &mut Unstructured<'_>) -> Result<FailKind> {
    Ok(*u.choose(&[
        FailKind::ConnectTimeout,
        FailKind::Refused,
        FailKind::Dns,
        FailKind::Tls,
        FailKind::Connect,
        FailKind::Transport,
        FailKind::Body,
    ])?)
}

pub(super) fn tool_end(u: &mut Unstructured<'_>) -> Result<ToolEnd> {
    Ok(ToolEnd {
        ok: u.arbitrary()?,
        output: text(u)?,
        duration_ms: u.arbitrary()?,
        spilled: maybe(u, text)?,
    })
}

pub(super) fn found(u: &mut Unstructured<'_>) -> Result<Found> {
    Ok(match u.int_in_range(0..=3)? {
        0 => Found::Nothing,
        3 => Found::Running,
        1 => Found::Killed { output: text(u)? },
        _ => Found::Finished(tool_end(u)?),
    })
}

pub(super) fn head(u: &mut Unstructured<'_>) -> Result<(u16, Vec<(String, String)>)> {
    const STATUSES: &[u16] = &[
        200, 200, 200, 200, 429, 500, 503, 529, 400, 401, 402, 413, 0, 999,
    ];
    const HEADERS: &[(&str, &str)] = &[
        ("content-type", "text/event-stream"),
        ("content-type", "application/json"),
        ("retry-after", "7"),
        ("retry-after", "3600"),
        ("retry-after", "100000"),
        ("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ("retry-after-ms", "1500"),
        ("x-should-retry", "false"),
    ];
    let status = *u.choose(STATUSES)?;
    let headers = several(u, 2, |u| {
        let (name, value) = u.choose(HEADERS)?;
        Ok(((*name).to_owned(), (*value).to_owned()))
    })?;
    Ok((status, headers))
}

/// A piece of a stream that a provider might send, or anything.
pub(super) fn body(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const PIECES: &[&str] = &[
        "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"bash\",\"arguments\":\"{}\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"read\",\"arguments\":\"{\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n",
        "data: {\"error\":{\"message\":\"Overloaded\",\"type\":\"overloaded_error\"}}\n\n",
        "data: {\"error\":{\"message\":\"no\",\"type\":\"invalid_request_error\"}}\n\n",
        "data: [DONE]\n\n",
        "data: {\"choices\":[{\"delta\"",
        "{\"choices\":[{\"message\":{\"content\":\"whole\"},\"finish_reason\":\"stop\"}]}",
        "{\"error\":{\"message\":\"slow down\",\"code\":\"rate_limit_exceeded\"}}",
        ": ping\n\n",
    ];
    Ok(match u.int_in_range(0..=9)? {
        0 => u.arbitrary::<&[u8]>()?.to_vec(),
        1 => [2, 5, 9].map(|at: usize| PIECES[at]).concat().into_bytes(),
        2 => [0, 4, 9].map(|at: usize| PIECES[at]).concat().into_bytes(),
        _ => u.choose(PIECES)?.as_bytes().to_vec(),
    })
}

/// Any input but the replies of a store, which need one to be drawn from.
pub(super) fn input(u: &mut Unstructured<'_>, id: EffectId) -> Result<Input> {
    Ok(match u.int_in_range(0..=10)? {
        0 => Input::Tick,
        1 => Input::Command {
            id: CommandId(u.arbitrary()?),
            command: command(u)?,
        },
        2 => {
            let (status, headers) = head(u)?;
            Input::ProviderHead {
                id,
                status,
                headers,
            }
        }
        3 => Input::ProviderBytes {
            id,
            bytes: body(u)?,
        },
        4 => Input::ProviderEnd { id },
        5 => Input::ProviderFailed {
            id,
            kind: fail_kind(u)?,
            message: text(u)?,
        },
        6 => Input::ToolOutput {
            id,
            stream: OutputStream::Combined,
            offset: u.arbitrary()?,
            text: text(u)?,
        },
        7 => Input::ToolDone {
            id,
            end: tool_end(u)?,
        },
        8 if u.arbitrary()? => Input::Unattended {
            id,
            turns: several(u, 3, |u| Ok(TurnId(u.arbitrary()?)))?,
        },
        8 => Input::Adopted {
            id,
            found: found(u)?,
        },
        9 if u.arbitrary()? => Input::ToolLost {
            id,
            cause: text(u)?,
        },
        9 => Input::EffectPanicked {
            id,
            message: text(u)?,
        },
        _ => Input::Shutdown,
    })
}

pub(super) fn tool_call(u: &mut Unstructured<'_>) -> Result<ToolCall> {
    Ok(ToolCall {
        call_id: text(u)?,
        name: text(u)?,
        input: text(u)?,
    })
}

pub(super) fn item(u: &mut Unstructured<'_>) -> Result<Item> {
    Ok(match u.int_in_range(0..=4)? {
        0 => Item::User { text: text(u)? },
        1 | 2 => Item::Assistant {
            text: text(u)?,
            reasoning: text(u)?,
            calls: several(u, 3, tool_call)?,
            partial: u.arbitrary()?,
        },
        _ => Item::ToolResult {
            call_id: text(u)?,
            ok: u.arbitrary()?,
            output: text(u)?,
        },
    })
}

pub(super) fn usage(u: &mut Unstructured<'_>) -> Result<Usage> {
    Ok(Usage {
        input_tokens: u.arbitrary()?,
        output_tokens: u.arbitrary()?,
        cached_tokens: u.arbitrary()?,
        reasoning_tokens: u.arbitrary()?,
    })
}

pub(super) fn event(u: &mut Unstructured<'_>) -> Result<AgentEvent> {
    Ok(AgentEvent {
        seq: u.arbitrary()?,
        conversation: conversation(u)?,
        turn: TurnId(u.arbitrary::<u128>()? >> u.int_in_range(0..=127u32)?),
        epoch: Epoch(u.arbitrary()?),
        at: Timestamp(u.arbitrary()?),
        body: event_body(u)?,
    })
}

fn event_body(u: &mut Unstructured<'_>) -> Result<EventBody> {
    Ok(match u.int_in_range(0..=14)? {
        0 => EventBody::TurnStart {
            message: text(u)?,
            model: text(u)?,
            workspace_id: slug(u)?,
        },
        1 => EventBody::Status {
            state: *u.choose(&[
                StatusState::Queued,
                StatusState::Active,
                StatusState::WaitingTools,
            ])?,
            position: u.arbitrary()?,
            provider: maybe(u, text)?,
            gate: maybe(u, text)?,
            due_at: maybe(u, |u| Ok(Timestamp(u.arbitrary()?)))?,
        },
        2 => EventBody::TextDelta {
            step: u.arbitrary()?,
            offset: u.arbitrary()?,
            text: text(u)?,
        },
        3 => EventBody::ReasoningDelta {
            step: u.arbitrary()?,
            offset: u.arbitrary()?,
            text: text(u)?,
        },
        4 => EventBody::ToolCall {
            step: u.arbitrary()?,
            call_id: text(u)?,
            name: text(u)?,
            input: text(u)?,
        },
        5 => EventBody::ToolOutput {
            call_id: text(u)?,
            stream: OutputStream::Combined,
            offset: u.arbitrary()?,
            text: text(u)?,
        },
        6 => EventBody::ToolResult {
            call_id: text(u)?,
            ok: u.arbitrary()?,
            output: text(u)?,
            duration_ms: u.arbitrary()?,
            spilled: maybe(u, text)?,
        },
        7 => EventBody::StepComplete {
            step: u.arbitrary()?,
            chunks: several(u, 2, |u| {
                Ok(Chunk {
                    kind: *u.choose(&[ChunkKind::Text, ChunkKind::Reasoning])?,
                    text: text(u)?,
                })
            })?,
            usage: usage(u)?,
            duration_ms: u.arbitrary()?,
            partial: u.arbitrary()?,
        },
        8 => EventBody::StepRestart {
            step: u.arbitrary()?,
            reason: text(u)?,
        },
        9 => EventBody::ProviderRetry {
            attempt: u.arbitrary()?,
            delay_ms: u.arbitrary()?,
            due_at: Timestamp(u.arbitrary()?),
            message: text(u)?,
            code: maybe(u, text)?,
            source: text(u)?,
        },
        10 => EventBody::Warning {
            code: text(u)?,
            message: text(u)?,
        },
        11 => EventBody::Done {
            finish_reason: text(u)?,
            usage: usage(u)?,
            duration_ms: u.arbitrary()?,
        },
        12 => EventBody::Error {
            code: text(u)?,
            message: text(u)?,
            cause: text(u)?,
            retryable: u.arbitrary()?,
        },
        13 => EventBody::Aborted {
            by: text(u)?,
            reason: maybe(u, text)?,
        },
        _ => EventBody::Snapshot {
            step: u.arbitrary()?,
            text: text(u)?,
            reasoning: text(u)?,
            position: u.arbitrary()?,
        },
    })
}
