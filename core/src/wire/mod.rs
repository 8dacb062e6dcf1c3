//! Everything that crosses a wire: framing, dialects, step assembly, events.
//!
//! The way of a provider's byte through this module:
//!
//! ```text
//! bytes -> sse::SseDecoder -> chat::ChatDecoder -> provider_event::ProviderEvent
//!       -> assemble::StepAssembler -> Applied (what became visible), Verdict, StepContent
//! ```
//!
//! A dialect is a decoder that ends in [`provider_event::ProviderEvent`] and a
//! request writer; the turn knows neither.
//!
//! Everything here accepts any split of the bytes into chunks with the same
//! result, takes linear time, holds bounded memory and never panics (P2).

pub mod assemble;
mod bounded;
pub mod chat;
mod chat_shape;
mod json_repair;
mod lenient;
pub mod provider_event;
pub mod request;
pub mod sse;
pub mod validate;
