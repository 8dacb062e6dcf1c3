//! The model's side of a stretch: one request, its stream, and the verdict.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::{Moved, Phase, Stretch, Then, tools};
use crate::config::{Deadlines, OnCut};
use crate::event::{EventBody, StatusState};
use crate::ids::EffectId;
use crate::io::{Effect, FailKind};
use crate::kit::{Ctx, Flight, Kit, Wake};
use crate::retry::{self, Refusal};
use crate::store::{RestartCause, StepRecord, Terminal, Verb};
use crate::time::Instant;
use crate::wire::assemble::{AssembleError, StepAssembler, Verdict};
use crate::wire::chat::{ChatDecoder, ChatLimits, json_completion};
use crate::wire::provider_event::{FinishReason, ProviderEvent};

/// The most of an error body, or of a completion that came as one JSON text,
/// that is read.
const ERROR_BODY_LIMIT_BYTES: usize = 64 * 1024;

/// How long a stream may go on after its finish reason without a byte: usage
/// may follow, and the terminator.
const FAREWELL_MS: u64 = 5_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stream {
    effect: EffectId,
    opened_at: Instant,
    /// Of the first and of the latest byte.
    last_byte_at: Option<Instant>,
    body: Body,
    assembler: StepAssembler,
}

/// What a provider's answer turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Body {
    /// No head yet.
    Unknown,
    /// `text/event-stream` under a success.
    Events(Box<ChatDecoder>),
    /// A whole completion, from vendors that ignore `stream: true`.
    Json(Vec<u8>),
    /// Not a success.
    Refusal {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
}

impl Stretch {
    pub(super) fn open_stream(&mut self, ctx: &mut Ctx<'_>) -> Moved {
        let Some(world) = self.world.as_ref() else {
            return Moved::Over;
        };
        let effect = ctx.kit.register(Flight::Stream(self.turn));
        ctx.kit.emit(Effect::OpenProvider {
            id: effect,
            provider: world.provider.clone(),
            turn: self.turn,
            body: world.body.clone(),
            connect_ms: ctx.config.deadlines.connect_ms,
            not_after: ctx.held_until(self.turn),
        });
        let stream = Stream {
            effect,
            opened_at: ctx.now.mono,
            last_byte_at: None,
            body: Body::Unknown,
            assembler: StepAssembler::new(
                world.step,
                match crate::planted!("D27") {
                    true => usize::MAX,
                    false => ctx.config.step_limit_bytes,
                },
                world.used_ids.clone(),
            ),
        };
        let due = stream.silent_until(&ctx.config.deadlines);
        ctx.kit.timers.arm(Wake::StreamDue(self.turn), due);
        self.checkpointed = (0, 0);
        self.phase = Phase::Streaming(Box::new(stream));
        self.show_status(ctx, StatusState::Active);
        Moved::On
    }

    pub(crate) fn head(
        &mut self,
        ctx: &mut Ctx<'_>,
        status: u16,
        headers: Vec<(String, String)>,
    ) -> Moved {
        let Phase::Streaming(stream) = &mut self.phase else {
            return Moved::On;
        };
        stream.last_byte_at = Some(ctx.now.mono);
        let content_type = headers.iter().find(|(name, _)| name == "content-type");
        let is_json = content_type.is_some_and(|(_, value)| value.starts_with("application/json"));
        stream.body = match status {
            200..=299 if is_json => Body::Json(Vec::new()),
            200..=299 => Body::Events(Box::new(ChatDecoder::new(ChatLimits::default()))),
            _ => Body::Refusal {
                status,
                headers,
                body: Vec::new(),
            },
        };
        Moved::On
    }

    pub(crate) fn bytes(&mut self, ctx: &mut Ctx<'_>, bytes: &[u8]) -> Moved {
        let Phase::Streaming(stream) = &mut self.phase else {
            return Moved::On;
        };
        stream.last_byte_at = Some(ctx.now.mono);
        let limit_bytes = ctx.config.step_limit_bytes;
        match &mut stream.body {
            Body::Unknown => {
                ctx.kit.trace("bytes-before-head", self.turn.to_string());
                Moved::On
            }
            Body::Events(decoder) => {
                let mut events = Vec::new();
                decoder.push(bytes, &mut events);
                self.apply(ctx, events)
            }
            Body::Json(body) => {
                let room = (2 * limit_bytes).saturating_sub(body.len());
                body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                Moved::On
            }
            Body::Refusal { body, .. } => {
                let room = ERROR_BODY_LIMIT_BYTES.saturating_sub(body.len());
                body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                if bytes.len() > room {
                    self.ended(ctx)
                } else {
                    Moved::On
                }
            }
        }
    }

    /// The body has ended as HTTP says it should.
    pub(crate) fn ended(&mut self, ctx: &mut Ctx<'_>) -> Moved {
        let Phase::Streaming(stream) = &mut self.phase else {
            return Moved::On;
        };
        match core::mem::replace(&mut stream.body, Body::Unknown) {
            Body::Unknown => self.failed(
                ctx,
                retry::transport(
                    "no-answer",
                    "the provider closed the connection without an answer",
                ),
            ),
            Body::Events(_) => self.judge(ctx, true),
            Body::Json(body) => {
                let mut events = Vec::new();
                json_completion(&body, &mut events);
                match self.apply(ctx, events) {
                    Moved::On if matches!(self.phase, Phase::Streaming(_)) => self.judge(ctx, true),
                    moved => moved,
                }
            }
            Body::Refusal {
                status,
                headers,
                body,
            } => self.failed(ctx, retry::classify(status, &headers, &body)),
        }
    }

    /// The body has broken off, or never came.
    pub(crate) fn broke(&mut self, ctx: &mut Ctx<'_>, kind: FailKind, message: &str) -> Moved {
        let Phase::Streaming(stream) = &self.phase else {
            return Moved::On;
        };
        let verdict = stream.assembler.verdict(false);
        match &stream.body {
            // What a provider managed to say outweighs how it hung up.
            Body::Refusal { .. } => self.ended(ctx),
            Body::Events(_) if matches!(verdict, Verdict::Complete { .. }) => {
                self.judge(ctx, false)
            }
            Body::Unknown | Body::Events(_) | Body::Json(_) => {
                self.failed(ctx, retry::classify_transport(kind, message))
            }
        }
    }

    /// The deadline for silence; bytes move it without touching the timer.
    pub(crate) fn stream_due(&mut self, ctx: &mut Ctx<'_>) -> Moved {
        let Phase::Streaming(stream) = &mut self.phase else {
            return Moved::On;
        };
        let due = stream.silent_until(&ctx.config.deadlines);
        if ctx.now.mono < due {
            ctx.kit.timers.arm(Wake::StreamDue(self.turn), due);
            return Moved::On;
        }
        // The model has said that it is through; only the farewell is missing,
        // and not waiting for it any longer is no cut.
        if stream.assembler.finish_reason().is_some() {
            return self.judge(ctx, true);
        }
        let (cause, limit_ms) = match stream.last_byte_at {
            None => ("first-byte-timeout", ctx.config.deadlines.first_byte_ms),
            Some(_) => ("idle-timeout", ctx.config.deadlines.idle_ms),
        };
        let message = alloc::format!("the provider was silent for {} s", limit_ms / 1_000);
        self.failed_with(ctx, retry::transport(cause, &message), false)
    }

    fn apply(&mut self, ctx: &mut Ctx<'_>, events: Vec<ProviderEvent>) -> Moved {
        let Phase::Streaming(stream) = &mut self.phase else {
            return Moved::On;
        };
        let text_from = stream.assembler.text().len();
        let reasoning_from = stream.assembler.reasoning().len();
        let mut failure = None;
        for event in events {
            if let Err(error) = stream.assembler.apply(event) {
                failure = Some(error);
                break;
            }
        }
        let terminated = stream.assembler.terminated();
        self.show_deltas(ctx, text_from, reasoning_from);
        match failure {
            Some(error) => self.assembly_failed(ctx, error),
            None if terminated => self.judge(ctx, true),
            None => {
                self.expect_the_end(ctx);
                Moved::On
            }
        }
    }

    /// After a finish reason nothing but the end is due, and soon.
    fn expect_the_end(&mut self, ctx: &mut Ctx<'_>) {
        let Phase::Streaming(stream) = &self.phase else {
            return;
        };
        if stream.assembler.finish_reason().is_some() {
            let due = stream.silent_until(&ctx.config.deadlines);
            ctx.kit.timers.arm_by(Wake::StreamDue(self.turn), due);
        }
    }

    fn show_deltas(&mut self, ctx: &mut Ctx<'_>, text_from: usize, reasoning_from: usize) {
        let (Phase::Streaming(stream), Some(world)) = (&self.phase, &self.world) else {
            return;
        };
        let step = world.step;
        let fresh =
            |all: &str, from: usize| all.get(from..).filter(|t| !t.is_empty()).map(str::to_owned);
        let reasoning = fresh(stream.assembler.reasoning(), reasoning_from);
        let text = fresh(stream.assembler.text(), text_from);
        if reasoning.is_none() && text.is_none() {
            return;
        }
        if let Some(text) = reasoning {
            let offset = reasoning_from as u64;
            self.show_provisional(ctx, EventBody::ReasoningDelta { step, offset, text });
        }
        if let Some(text) = text {
            let offset = text_from as u64;
            self.show_provisional(ctx, EventBody::TextDelta { step, offset, text });
        }
        let save_at = ctx.now.mono + ctx.config.checkpoint_ms;
        ctx.kit.timers.arm_by(Wake::CheckpointDue, save_at);
    }

    fn assembly_failed(&mut self, ctx: &mut Ctx<'_>, error: AssembleError) -> Moved {
        match error {
            AssembleError::Provider {
                code,
                kind,
                message,
            } => self.failed(ctx, retry::classify_in_stream(&code, &kind, &message)),
            AssembleError::Malformed { message } => {
                self.failed(ctx, retry::transport("malformed-stream", &message))
            }
            AssembleError::StepTooLarge { .. } | AssembleError::TooManyToolCalls { .. } => {
                let terminal = Terminal::Error {
                    code: "step-too-large".to_string(),
                    message: error.to_string(),
                    cause: "step-too-large".to_string(),
                    retryable: false,
                };
                let said = self.close_stream(ctx);
                self.elect(ctx, said, Vec::new(), terminal)
            }
        }
    }

    /// What the stream amounts to, now that it is over.
    fn judge(&mut self, ctx: &mut Ctx<'_>, clean: bool) -> Moved {
        let Phase::Streaming(stream) = &self.phase else {
            return Moved::On;
        };
        match stream.assembler.verdict(clean) {
            Verdict::Complete {
                finish,
                terminator_missing,
            } => self.complete(ctx, finish, terminator_missing),
            Verdict::Empty => self.empty(ctx),
            Verdict::Truncated => {
                let message =
                    "the provider ended the stream without saying that the answer is complete";
                self.failed(ctx, retry::transport("terminator-missing", message))
            }
        }
    }

    fn complete(
        &mut self,
        ctx: &mut Ctx<'_>,
        finish: FinishReason,
        terminator_missing: bool,
    ) -> Moved {
        let offers_tools = self.world.as_ref().is_some_and(|world| world.offers_tools);
        let Some(mut step) = self.take_step(ctx, true) else {
            return Moved::Over;
        };
        step.partial = false;
        if terminator_missing {
            let message = "the provider gave a finish reason but not the end of its stream";
            step.warnings
                .push(("terminator-missing".to_owned(), message.to_owned()));
        }
        if step.calls.is_empty() || !offers_tools {
            let finish_reason = if step.calls.is_empty() {
                word(&finish)
            } else {
                "step-limit".to_owned()
            };
            step.calls.clear();
            return self.elect(
                ctx,
                Some(step),
                Vec::new(),
                Terminal::Done { finish_reason },
            );
        }
        let calls = tools::Call::asked(&step);
        let fence = self.fence();
        self.write(ctx, Verb::CommitStep { fence, step }, Then::RunTools(calls))
    }

    /// T11: repeated once, announced, then an error.
    fn empty(&mut self, ctx: &mut Ctx<'_>) -> Moved {
        let Some(world) = self.world.as_mut() else {
            return Moved::Over;
        };
        if world.restarts.empty == 0 {
            world.restarts.empty = 1;
            return self.restart(
                ctx,
                "the model answered nothing",
                RestartCause::Empty(1),
                true,
            );
        }
        let terminal = Terminal::Error {
            code: "empty-completion".to_string(),
            message:
                "the model answered nothing, twice; send the message again or choose another model"
                    .to_string(),
            cause: "empty-completion".to_string(),
            retryable: true,
        };
        let said = self
            .take_step(ctx, true)
            .filter(|step| !step.reasoning.is_empty());
        self.elect(ctx, said, Vec::new(), terminal)
    }

    fn restart(
        &mut self,
        ctx: &mut Ctx<'_>,
        reason: &str,
        by: RestartCause,
        finished: bool,
    ) -> Moved {
        let step = self.world.as_ref().map_or(0, |world| world.step);
        self.drop_stream(ctx, finished);
        let verb = Verb::RestartStep {
            fence: self.fence(),
            step,
            reason: reason.to_owned(),
            by,
        };
        self.write(ctx, verb, Then::StreamAgain)
    }

    /// A step that did not succeed: retried before content only (T3).
    fn failed(&mut self, ctx: &mut Ctx<'_>, refusal: Refusal) -> Moved {
        self.failed_with(ctx, refusal, true)
    }

    /// `rest` says whether the rest of the body is worth reading.
    fn failed_with(&mut self, ctx: &mut Ctx<'_>, refusal: Refusal, rest: bool) -> Moved {
        let Phase::Streaming(stream) = &self.phase else {
            return Moved::On;
        };
        let content_seen = stream.assembler.content_seen();
        if content_seen && !crate::planted!("D06") {
            return self.failed_after_content(ctx, refusal);
        }
        self.drop_stream(ctx, rest);
        if !refusal.retryable {
            let terminal = terminal_of(refusal);
            return self.elect(ctx, None, Vec::new(), terminal);
        }
        let Some(world) = &self.world else {
            return Moved::Over;
        };
        let now = world.store_now(ctx);
        match retry::next(&ctx.config.retry, &world.retry, &refusal, now, ctx.now.wall) {
            retry::Verdict::Wait(retry) => {
                let fence = self.fence();
                self.write(ctx, Verb::ScheduleRetry { fence, retry }, Then::LetGo)
            }
            retry::Verdict::GiveUp(why) => self.end_unavailable(ctx, refusal.failure, why),
        }
    }

    /// What was said is kept; a cut may be repeated once, where configured (T11).
    fn failed_after_content(&mut self, ctx: &mut Ctx<'_>, refusal: Refusal) -> Moved {
        let is_cut = refusal.retryable && refusal.failure.cause != "error-in-stream";
        if let Some(world) = self.world.as_mut()
            && is_cut
            && ctx.config.on_cut == OnCut::Restart
            && world.restarts.cut == 0
        {
            world.restarts.cut = 1;
            return self.restart(ctx, "the stream was cut", RestartCause::Cut(1), false);
        }
        let mut terminal = terminal_of(refusal);
        if let (Terminal::Error { code, .. }, true) = (&mut terminal, is_cut) {
            *code = "stream-truncated".to_string();
        }
        let said = self.close_stream(ctx);
        self.elect(ctx, said, Vec::new(), terminal)
    }

    /// Drops the stream and hands out what it has said, as a partial step.
    pub(super) fn close_stream(&mut self, ctx: &mut Ctx<'_>) -> Option<StepRecord> {
        let mut step = self.take_step(ctx, false)?;
        // A call that was asked for in a step that never finished is not run.
        step.calls.clear();
        (!step.text.is_empty() || !step.reasoning.is_empty()).then_some(step)
    }

    fn take_step(&mut self, ctx: &mut Ctx<'_>, finished: bool) -> Option<StepRecord> {
        let stream = self.drop_stream(ctx, finished)?;
        let world = self.world.as_mut()?;
        let content = stream.assembler.finish();
        Some(StepRecord {
            step: world.step,
            text: content.text,
            reasoning: content.reasoning,
            calls: content.calls,
            partial: true,
            usage: content.usage,
            duration_ms: ctx.now.mono.since_ms(stream.opened_at),
            warnings: core::mem::take(&mut world.warnings),
        })
    }

    /// Leaves `Streaming`; the caller sets the next phase.
    fn drop_stream(&mut self, ctx: &mut Ctx<'_>, finished: bool) -> Option<Box<Stream>> {
        match core::mem::replace(&mut self.phase, Phase::Loading) {
            Phase::Streaming(stream) => {
                ctx.kit.timers.disarm(&Wake::StreamDue(self.turn));
                if ctx.kit.flights.remove(&stream.effect).is_some() {
                    ctx.kit.emit(Effect::CloseProvider {
                        id: stream.effect,
                        finished,
                    });
                }
                Some(stream)
            }
            other => {
                self.phase = other;
                None
            }
        }
    }
}

impl Stream {
    /// When the provider will have been silent for too long.
    pub(super) fn silent_until(&self, deadlines: &Deadlines) -> Instant {
        match self.last_byte_at {
            None => self.opened_at + deadlines.first_byte_ms,
            Some(at) if self.assembler.finish_reason().is_some() => {
                at + deadlines.idle_ms.min(FAREWELL_MS)
            }
            Some(at) => at + deadlines.idle_ms,
        }
    }

    /// Text and reasoning that clients have seen.
    pub(super) fn shown(&self) -> (&str, &str) {
        (self.assembler.text(), self.assembler.reasoning())
    }

    pub(super) fn forget(self, ctx: &mut Ctx<'_>) {
        if ctx.kit.flights.remove(&self.effect).is_some() {
            ctx.kit.emit(Effect::CloseProvider {
                id: self.effect,
                finished: false,
            });
        }
    }

    pub(super) fn check(&self, kit: &Kit) -> Result<(), &'static str> {
        let known = kit.flights.contains_key(&self.effect);
        if known {
            Ok(())
        } else {
            Err("a stream is waited for that nobody carries")
        }
    }
}

fn word(finish: &FinishReason) -> String {
    match finish {
        FinishReason::Stop => "stop".to_owned(),
        FinishReason::Length => "length".to_owned(),
        FinishReason::ToolCalls => "tool-calls".to_owned(),
        FinishReason::ContentFilter => "content-filter".to_owned(),
        FinishReason::Other(other) => other.clone(),
    }
}

fn terminal_of(refusal: Refusal) -> Terminal {
    Terminal::Error {
        code: refusal.code.to_string(),
        message: refusal.failure.message,
        cause: match crate::planted!("D40") {
            true => "provider-error".to_owned(),
            false => refusal.failure.cause,
        },
        retryable: refusal.retryable,
    }
}
