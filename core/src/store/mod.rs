//! The only truth about turns, waiters, slots, markers and stars.
//!
//! [`Verb`] is what the core asks of a store, [`Reply`] what it hears; each
//! verb is one transaction. What a verb *means* is written once, in
//! [`apply`], over the row primitives of [`Tx`]. The [`Model`] supplies them
//! from maps and is the specification that every real store is held against.

mod accept;
mod audit;
mod elect;
mod grant;
mod model;
mod names;
mod open;
mod outbox;
mod rows;
mod step;
mod sweep;
mod tx;
mod verb;
mod workspace;

pub(crate) use audit::AUDIT_AT_ONCE;
pub use model::Model;
pub use outbox::{TakeDeliveries, WantedDeliveries};
pub use rows::*;
pub use tx::{Transcript, Tx};
pub use verb::*;

/// The version of everything a store keeps: rows, items, events.
pub const FORMAT: u32 = 5;

/// Runs one verb inside a transaction that the caller has begun. An `Err`
/// means that the caller must roll back: nothing of the verb happened.
///
/// # Errors
/// What the rows' keeper could not do.
pub fn apply<T: Tx>(tx: &mut T, verb: &Verb) -> Result<Reply, T::Error> {
    match verb {
        Verb::Boot(boot) => sweep::boot(tx, boot),
        Verb::Accept(request) => accept::accept(tx, request),
        Verb::AdmissionView { provider, live_ms } => grant::view(tx, provider, *live_ms),
        Verb::ApplyGrants(grants) => grant::apply(tx, grants),
        Verb::Load { turn, epoch } => step::load(tx, *turn, *epoch),
        Verb::Checkpoint { segments } => step::checkpoint(tx, segments),
        Verb::CommitStep { fence, step } => step::commit(tx, *fence, step),
        Verb::RestartStep {
            fence,
            step,
            reason,
            by,
        } => step::restart(tx, *fence, *step, reason, *by),
        Verb::ToolsStarted { fence, calls } => step::tools_started(tx, *fence, calls),
        Verb::ToolsFinished { fence, answers } => step::tools_finished(tx, *fence, answers),
        Verb::Park { fence, restart } => step::park(tx, *fence, restart.as_deref()),
        Verb::ScheduleRetry { fence, retry } => step::schedule_retry(tx, *fence, retry),
        Verb::RequestAbort(request) => elect::request_abort(tx, request),
        Verb::Elect(election) => elect::elect(tx, election),
        Verb::Renew {
            owner,
            turns,
            lease_ms,
            serving,
        } => sweep::renew(tx, owner, turns, *lease_ms, *serving),
        Verb::Requests { turns } => sweep::requests(tx, turns),
        Verb::SweepOne { policy } => sweep::sweep_one(tx, policy),
        Verb::Audit => audit::audit(tx),
        Verb::Ended { turns } => sweep::ended(tx, turns),
        Verb::PutWorkspace {
            slug,
            title,
            cwd,
            computer,
        } => workspace::put(
            tx,
            slug,
            title.as_deref(),
            cwd.as_deref(),
            computer.as_ref(),
        ),
        Verb::Star { slug, starred } => workspace::star(tx, slug, *starred),
        Verb::SetLimit { provider, limit } => workspace::set_limit(tx, provider, *limit),
        Verb::TakeDeliveries(ask) => outbox::take(tx, ask),
        Verb::SettleDelivery {
            endpoint,
            turn,
            tries,
            tried,
        } => outbox::settle(tx, endpoint, *turn, *tries, *tried),
    }
}
