//! Rows to columns, for every backend; `columns` is the way back. Typed columns
//! decide liveness, order and fencing; they parse without any payload, so that
//! a turn can end whatever its payloads hold.

use std::borrow::Cow;
use std::sync::Arc;

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ComputerId, TurnId};
use dispatch_core::store::{
    CallRow, CallState, ConversationRow, ItemRow, KeyRow, ProviderRow, ReplicaRow, Segment,
    TurnRow, TurnState, WorkspaceRow,
};
use dispatch_core::time::Timestamp;
use dispatch_core::webhook::{DeliveryRow, DeliveryState, EndpointRow};

/// What went wrong below a verb or a read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// SQLite said no.
    #[error("{}", super::sqlite::explain(.0))]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL, or the way to it, said no.
    #[error(transparent)]
    Postgres(#[from] super::postgres::PgFault),
    /// A column holds what no build has written there.
    #[error("column {column} of a stored row {problem}; restore a backup of the database")]
    Column {
        /// Its name in the statement.
        column: String,
        /// What is the matter.
        problem: String,
    },
    /// A payload is damaged; nothing but its reader needs it.
    #[error(
        "{what} cannot be read back: {cause}; restore a backup, or go on in a new conversation"
    )]
    Payload {
        /// Which.
        what: String,
        /// What the parser said.
        cause: String,
    },
}

/// One column's value on its way in.
#[derive(Clone, Debug)]
pub(super) enum Cell<'a> {
    /// Nothing.
    Null,
    /// Numbers, times, flags, codes.
    Int(i64),
    /// Names of ours and JSON: never a NUL in it.
    Name(Cow<'a, str>),
    /// What people, models and providers say; anything that UTF-8 can hold.
    Text(Cow<'a, str>),
    /// A turn's id.
    Turn([u8; 16]),
}

impl Cell<'_> {
    /// For a row that outlives its source.
    pub(super) fn into_owned(self) -> Cell<'static> {
        match self {
            Cell::Null => Cell::Null,
            Cell::Int(value) => Cell::Int(value),
            Cell::Name(text) => Cell::Name(Cow::Owned(text.into_owned())),
            Cell::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
            Cell::Turn(id) => Cell::Turn(id),
        }
    }
}

/// Numbers that are compared in SQL keep their order; what lies beyond the
/// signed range (292 million years) is as good as never.
pub(super) fn ordered(value: u64) -> Cell<'static> {
    Cell::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// A moment.
pub(super) fn at(moment: Timestamp) -> Cell<'static> {
    ordered(moment.0)
}

/// Numbers that are only kept keep all their bits.
pub(super) fn bits(value: u64) -> Cell<'static> {
    Cell::Int(value.cast_signed())
}

/// A small number.
pub(super) fn small(value: u32) -> Cell<'static> {
    Cell::Int(i64::from(value))
}

/// At most so many rows.
pub(super) fn count(value: usize) -> Cell<'static> {
    Cell::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Yes or no.
pub(super) fn flag(value: bool) -> Cell<'static> {
    Cell::Int(i64::from(value))
}

/// A turn's id: most significant byte first, so that it sorts as numbers do.
pub(super) fn turn_id(turn: TurnId) -> Cell<'static> {
    Cell::Turn(turn.0.to_be_bytes())
}

/// A name of ours.
pub(super) fn name(text: &str) -> Cell<'_> {
    Cell::Name(Cow::Borrowed(text))
}

/// What somebody said.
pub(super) fn text(text: &str) -> Cell<'_> {
    Cell::Text(Cow::Borrowed(text))
}

fn opt<T>(value: Option<T>, cell: impl FnOnce(T) -> Cell<'static>) -> Cell<'static> {
    value.map_or(Cell::Null, cell)
}

fn opt_text(value: Option<&String>) -> Cell<'_> {
    value.map_or(Cell::Null, |value| text(value))
}

fn computer(id: Option<&ComputerId>) -> Cell<'_> {
    id.map_or(Cell::Null, |id| name(id.as_str()))
}

fn state_code(state: TurnState) -> Cell<'static> {
    Cell::Int(match state {
        TurnState::Blocked => 0,
        TurnState::Parked => 1,
        TurnState::Streaming => 2,
        TurnState::Tools => 3,
        TurnState::Ended => 4,
    })
}

/// A conversation's columns, in the order of the schema.
pub(super) fn conversation(row: &ConversationRow) -> Vec<Cell<'_>> {
    vec![
        name(row.id.as_str()),
        name(row.workspace.as_str()),
        text(&row.title),
        at(row.created_at),
        at(row.last_activity_at),
        name(row.provider.as_str()),
        text(&row.model),
        opt_text(row.cwd.as_ref()),
        ordered(row.last_seq),
        opt(row.turn, turn_id),
        ordered(row.epoch.0),
        ordered(row.next_ordinal),
        computer(row.computer.as_ref()),
    ]
}

/// A turn's columns, `waiting` first: parked, and not due at `now`.
pub(super) fn turn(row: &TurnRow, now: Timestamp) -> Vec<Cell<'_>> {
    let owner = row.owner.as_ref();
    let (abort, failure) = (row.abort.as_ref(), row.retry.last.as_ref());
    vec![
        flag(row.state == TurnState::Parked && row.due_at > now),
        turn_id(row.turn),
        name(row.conversation.as_str()),
        ordered(row.ordinal),
        name(row.provider.as_str()),
        text(&row.model),
        state_code(row.state),
        flag(row.key.unstarred),
        at(row.key.started_at),
        ordered(row.key.seq),
        at(row.due_at),
        owner.map_or(Cell::Null, |owner| name(&owner.node)),
        opt(owner, |owner| bits(owner.boot)),
        opt(owner, |owner| small(owner.incarnation)),
        at(row.lease_until),
        ordered(row.epoch.0),
        small(row.step),
        small(row.items),
        small(row.restarts.empty),
        small(row.restarts.cut),
        small(row.retry.attempt),
        bits(row.retry.sum_ms),
        opt(row.retry.first_failure_at, at),
        opt_text(failure.map(|failure| &failure.message)),
        opt_text(failure.and_then(|failure| failure.code.as_ref())),
        opt_text(failure.map(|failure| &failure.cause)),
        small(row.resumes),
        opt_text(abort.map(|abort| &abort.by)),
        opt_text(abort.and_then(|abort| abort.reason.as_ref())),
        opt(abort, |abort| at(abort.at)),
        at(row.accepted_at),
        at(row.since),
        bits(row.timing.queue_ms),
        bits(row.timing.backoff_ms),
        bits(row.timing.model_ms),
        bits(row.timing.tool_ms),
        bits(row.usage.input_tokens),
        bits(row.usage.output_tokens),
        bits(row.usage.cached_tokens),
        bits(row.usage.reasoning_tokens),
        row.bound.as_deref().map_or(Cell::Null, name),
        computer(row.computer.as_ref()),
    ]
}

/// A provider's columns.
pub(super) fn provider(row: &ProviderRow) -> Vec<Cell<'_>> {
    vec![
        name(row.id.as_str()),
        ordered(row.version),
        small(row.limit),
        small(row.configured_limit),
        ordered(row.cooldown_ms),
        small(row.fair),
    ]
}

/// A replica's columns.
pub(super) fn replica(row: &ReplicaRow) -> Vec<Cell<'_>> {
    vec![
        name(&row.owner.node),
        bits(row.owner.boot),
        small(row.owner.incarnation),
        name(&row.version),
        at(row.started_at),
        at(row.seen_at),
        flag(row.serving),
        ordered(row.life),
    ]
}

/// Names as one value, for a statement that looks for one of them in it.
pub(super) fn names(all: &[Arc<str>]) -> Cell<'static> {
    let lines = all.iter().map(|name| format!("{name}\n"));
    Cell::Name(Cow::Owned(format!("\n{}", lines.collect::<String>())))
}

/// A workspace's columns.
pub(super) fn workspace(row: &WorkspaceRow) -> Vec<Cell<'_>> {
    vec![
        name(row.slug.as_str()),
        opt_text(row.title.as_ref()),
        flag(row.starred),
        opt_text(row.cwd.as_ref()),
        at(row.created_at),
        computer(row.computer.as_ref()),
    ]
}

/// An idempotency key's columns.
pub(super) fn key<'a>(key: &'a str, row: &KeyRow) -> Vec<Cell<'a>> {
    vec![text(key), bits(row.digest), turn_id(row.turn)]
}

/// A logged event's columns; `None` for one that is not logged.
pub(super) fn event(event: &AgentEvent) -> Option<Vec<Cell<'_>>> {
    Some(vec![
        name(event.conversation.as_str()),
        ordered(event.seq?),
        turn_id(event.turn),
        name(event.kind()),
        flag(event.is_terminal()),
        Cell::Name(Cow::Owned(event.to_json())),
    ])
}

/// An item's columns.
pub(super) fn item(row: &ItemRow) -> Result<Vec<Cell<'_>>, Fault> {
    let json = serde_json::to_string(&row.item).map_err(|cause| Fault::Payload {
        what: format!("item {} of turn {}", row.n, row.turn),
        cause: cause.to_string(),
    })?;
    Ok(vec![
        name(row.conversation.as_str()),
        ordered(row.ordinal),
        small(row.n),
        turn_id(row.turn),
        Cell::Name(Cow::Owned(json)),
    ])
}

/// A tool call's columns.
pub(super) fn call(row: &CallRow) -> Vec<Cell<'_>> {
    let (state, epoch) = match row.state {
        CallState::Asked => (0, Cell::Null),
        CallState::Started(epoch) => (1, bits(epoch.0)),
        CallState::Finished => (2, Cell::Null),
    };
    vec![
        turn_id(row.turn),
        small(row.step),
        small(row.n),
        text(&row.call_id),
        text(&row.name),
        text(&row.input),
        Cell::Int(state),
        epoch,
    ]
}

/// A segment's columns.
pub(super) fn segment(row: &Segment) -> Vec<Cell<'_>> {
    vec![
        turn_id(row.turn),
        ordered(row.epoch.0),
        small(row.step),
        ordered(row.text_offset),
        text(&row.text),
        ordered(row.reasoning_offset),
        text(&row.reasoning),
    ]
}

/// An endpoint's columns.
pub(super) fn endpoint(row: &EndpointRow) -> Vec<Cell<'_>> {
    let wanted = row.wanted;
    let wanted = [wanted.done, wanted.error, wanted.aborted];
    let bits = wanted.into_iter().enumerate();
    let wanted = bits.map(|(n, wants)| i64::from(wants) << n).sum();
    vec![name(row.id.as_str()), Cell::Int(wanted)]
}

/// A delivery's columns.
pub(super) fn delivery(row: &DeliveryRow) -> Vec<Cell<'_>> {
    let (delivery, owner) = (&row.delivery, row.owner.as_ref());
    vec![
        name(delivery.endpoint.as_str()),
        turn_id(delivery.turn),
        name(delivery.conversation.as_str()),
        ordered(delivery.seq),
        small(delivery.tries),
        Cell::Int(match row.state {
            DeliveryState::Pending => 0,
            DeliveryState::Delivered => 1,
            DeliveryState::Failed => 2,
        }),
        flag(row.holds()),
        owner.map_or(Cell::Null, |owner| name(&owner.node)),
        opt(owner, |owner| bits(owner.boot)),
        opt(owner, |owner| small(owner.incarnation)),
        at(row.due_at),
        at(row.forget_at),
    ]
}

/// One column's value on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'r> {
    /// Nothing.
    Null,
    /// A number.
    Int(i64),
    /// Text or bytes.
    Bytes(&'r [u8]),
    /// What no statement of ours writes.
    Odd,
}

/// A row that came back, whichever database keeps it.
pub(super) trait Row {
    /// Column `n` of the statement.
    fn value(&self, n: usize) -> Result<Value<'_>, Fault>;
    /// Its name.
    fn column(&self, n: usize) -> String;
}
