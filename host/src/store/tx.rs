//! [`Tx`] over one SQLite connection. Whoever makes one has begun the
//! transaction and ends it.

use dispatch_core::admission::Head;
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, ProviderId, Slug, TurnId};
use dispatch_core::store::{
    CallRow, CallState, ConversationRow, ItemRow, KeyRow, ProviderRow, Segment, TurnRow, TurnState,
    Tx, WorkspaceRow,
};
use dispatch_core::time::Timestamp;
use rusqlite::{Connection, Params, Row, params};

use super::columns::{Columns, Fault, bits, ordered, state_code};
use super::sql;

/// How long a slot's leaving is remembered: far beyond any cooldown.
const RELEASES_KEPT_MS: u64 = 3_600_000;

/// See the module's page.
pub(super) struct SqlTx<'c> {
    pub(super) conn: &'c Connection,
    pub(super) now: Timestamp,
    /// How many markers there are, once somebody has asked: counting them
    /// anew for every accepted turn would cost more than accepting it.
    pub(super) markers: Option<u64>,
}

impl SqlTx<'_> {
    pub(super) fn write(&self, sql: &str, params: impl Params) -> Result<usize, Fault> {
        Ok(self.conn.prepare_cached(sql)?.execute(params)?)
    }

    pub(super) fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        rows.next()?.map(read).transpose()
    }

    pub(super) fn many<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl Fn(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(read(row)?);
        }
        Ok(all)
    }

    pub(super) fn number(&self, sql: &str, params: impl Params) -> Result<u64, Fault> {
        Ok(self
            .one(sql, params, |row| Columns::of(row).ordered())?
            .unwrap_or(0))
    }

    /// Moves what has come due into the line of the due ones, some at a time.
    pub(super) fn notice_due(&self) -> Result<(), Fault> {
        const AT_ONCE: i64 = 1_024;
        self.write(sql::NOTICE_DUE, params![ordered(self.now.0), AT_ONCE])?;
        Ok(())
    }
}

pub(super) fn blob(turn: TurnId) -> [u8; 16] {
    turn.0.to_be_bytes()
}

fn turn_id(row: &Row<'_>) -> Result<TurnId, Fault> {
    Columns::of(row).turn_id()
}

impl Tx for SqlTx<'_> {
    type Error = Fault;

    fn now(&self) -> Timestamp {
        self.now
    }

    fn conversation(&mut self, id: &ConversationId) -> Result<Option<ConversationRow>, Fault> {
        self.one(sql::CONVERSATION, [id.as_str()], |row| {
            Columns::of(row).conversation()
        })
    }

    fn put_conversation(&mut self, row: &ConversationRow) -> Result<(), Fault> {
        self.write(
            sql::PUT_CONVERSATION,
            params![
                row.id.as_str(),
                row.workspace.as_str(),
                row.title,
                ordered(row.created_at.0),
                ordered(row.last_activity_at.0),
                row.provider.as_str(),
                row.model,
                row.cwd,
                ordered(row.last_seq),
                row.turn.map(blob),
                ordered(row.epoch.0),
                ordered(row.next_ordinal),
            ],
        )?;
        Ok(())
    }

    fn turn(&mut self, id: TurnId) -> Result<Option<TurnRow>, Fault> {
        self.one(sql::TURN, [blob(id)], |row| Columns::of(row).turn())
    }

    fn put_turn(&mut self, row: &TurnRow) -> Result<(), Fault> {
        let waiting = row.state == TurnState::Parked && row.due_at > self.now;
        let (owner, abort, failure) = (
            row.owner.as_ref(),
            row.abort.as_ref(),
            row.retry.last.as_ref(),
        );
        self.write(
            sql::PUT_TURN,
            params![
                waiting,
                blob(row.turn),
                row.conversation.as_str(),
                ordered(row.ordinal),
                row.provider.as_str(),
                row.model,
                state_code(row.state),
                row.key.unstarred,
                ordered(row.key.started_at.0),
                ordered(row.key.seq),
                ordered(row.due_at.0),
                owner.map(|owner| &*owner.node),
                owner.map(|owner| bits(owner.boot)),
                owner.map(|owner| owner.incarnation),
                ordered(row.lease_until.0),
                ordered(row.epoch.0),
                row.step,
                row.items,
                row.restarts.empty,
                row.restarts.cut,
                row.retry.attempt,
                bits(row.retry.sum_ms),
                row.retry.first_failure_at.map(|at| ordered(at.0)),
                failure.map(|failure| &failure.message),
                failure.and_then(|failure| failure.code.as_ref()),
                failure.map(|failure| &failure.cause),
                row.resumes,
                abort.map(|abort| &abort.by),
                abort.and_then(|abort| abort.reason.as_ref()),
                abort.map(|abort| ordered(abort.at.0)),
                ordered(row.accepted_at.0),
                ordered(row.since.0),
                bits(row.timing.queue_ms),
                bits(row.timing.backoff_ms),
                bits(row.timing.model_ms),
                bits(row.timing.tool_ms),
                bits(row.usage.input_tokens),
                bits(row.usage.output_tokens),
                bits(row.usage.cached_tokens),
                bits(row.usage.reasoning_tokens),
            ],
        )?;
        Ok(())
    }

    fn open_turns_of(&mut self, id: &ConversationId) -> Result<Vec<TurnId>, Fault> {
        self.many(sql::OPEN_TURNS_OF, [id.as_str()], turn_id)
    }

    fn open_turns_in(&mut self, slug: &Slug) -> Result<Vec<TurnId>, Fault> {
        self.many(sql::OPEN_TURNS_IN, [slug.as_str()], turn_id)
    }

    fn owned_by(&mut self, node: &str) -> Result<Vec<TurnId>, Fault> {
        self.many(sql::OWNED_BY, [node], turn_id)
    }

    fn lapsed(&mut self, now: Timestamp) -> Result<Option<TurnId>, Fault> {
        self.one(sql::LAPSED, [ordered(now.0)], turn_id)
    }

    fn open_turns(&mut self) -> Result<u64, Fault> {
        if let Some(markers) = self.markers {
            return Ok(markers);
        }
        let markers = self.number(sql::COUNT_MARKERS, [])?;
        self.markers = Some(markers);
        Ok(markers)
    }

    fn waiters(
        &mut self,
        provider: &ProviderId,
        starred: bool,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Head>, Fault> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let (provider, unstarred) = (provider.as_str(), !starred);
        let head = |row: &Row<'_>| Columns::of(row).head();
        let mut heads = self.many(sql::WAITERS_DUE, params![provider, unstarred, most], head)?;
        heads.extend(self.many(
            sql::WAITERS_NEWLY_DUE,
            params![provider, unstarred, ordered(now.0), most],
            head,
        )?);
        heads.sort_by_key(|head| (head.key.started_at, head.key.seq));
        heads.truncate(limit);
        Ok(heads)
    }

    fn next_due(
        &mut self,
        provider: &ProviderId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Fault> {
        let due = self.one(
            sql::NEXT_DUE,
            params![provider.as_str(), ordered(now.0)],
            |row| Columns::of(row).opt_at(),
        )?;
        Ok(due.flatten())
    }

    fn streaming(&mut self, provider: &ProviderId) -> Result<u32, Fault> {
        let count = self.number(sql::STREAMING, [provider.as_str()])?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn put_release(&mut self, provider: &ProviderId, at: Timestamp) -> Result<(), Fault> {
        let kept_from = ordered((at - RELEASES_KEPT_MS).0);
        self.write(sql::FORGET_RELEASES, params![provider.as_str(), kept_from])?;
        self.write(sql::PUT_RELEASE, params![provider.as_str(), ordered(at.0)])?;
        Ok(())
    }

    fn releases_after(
        &mut self,
        provider: &ProviderId,
        since: Timestamp,
    ) -> Result<Vec<Timestamp>, Fault> {
        let params = params![provider.as_str(), ordered(since.0)];
        self.many(sql::RELEASES_AFTER, params, |row| {
            Columns::of(row).ordered().map(Timestamp)
        })
    }

    fn next_waiter_seq(&mut self) -> Result<u64, Fault> {
        self.number(sql::NEXT_WAITER_SEQ, [])
    }

    fn provider(&mut self, id: &ProviderId) -> Result<Option<ProviderRow>, Fault> {
        self.one(sql::PROVIDER, [id.as_str()], |row| {
            Columns::of(row).provider()
        })
    }

    fn providers(&mut self) -> Result<Vec<ProviderId>, Fault> {
        let rows = self.many(sql::PROVIDERS, [], |row| Columns::of(row).provider())?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    fn put_provider(&mut self, row: &ProviderRow) -> Result<(), Fault> {
        self.write(
            sql::PUT_PROVIDER,
            params![
                row.id.as_str(),
                ordered(row.version),
                row.limit,
                row.configured_limit,
                ordered(row.cooldown_ms),
                row.fair,
            ],
        )?;
        Ok(())
    }

    fn workspace(&mut self, slug: &Slug) -> Result<Option<WorkspaceRow>, Fault> {
        self.one(sql::WORKSPACE, [slug.as_str()], |row| {
            Columns::of(row).workspace()
        })
    }

    fn put_workspace(&mut self, row: &WorkspaceRow) -> Result<(), Fault> {
        self.write(
            sql::PUT_WORKSPACE,
            params![
                row.slug.as_str(),
                row.title,
                row.starred,
                row.cwd,
                ordered(row.created_at.0),
            ],
        )?;
        Ok(())
    }

    fn key(&mut self, key: &str) -> Result<Option<KeyRow>, Fault> {
        self.one(sql::KEY, [key], |row| Columns::of(row).key_row())
    }

    fn put_key(&mut self, key: &str, row: &KeyRow) -> Result<(), Fault> {
        self.write(sql::PUT_KEY, params![key, bits(row.digest), blob(row.turn)])?;
        Ok(())
    }

    fn put_event(&mut self, event: &AgentEvent) -> Result<(), Fault> {
        let Some(seq) = event.seq else { return Ok(()) };
        self.write(
            sql::PUT_EVENT,
            params![
                event.conversation.as_str(),
                ordered(seq),
                blob(event.turn),
                event.kind(),
                event.is_terminal(),
                event.to_json(),
            ],
        )?;
        Ok(())
    }

    fn terminal_event(&mut self, turn: TurnId) -> Result<Option<AgentEvent>, Fault> {
        self.one(sql::TERMINAL_EVENT, [blob(turn)], |row| {
            Columns::of(row).event()
        })
    }

    fn start_seq(&mut self, turn: TurnId) -> Result<Option<u64>, Fault> {
        self.one(sql::START_SEQ, [blob(turn)], |row| {
            Columns::of(row).ordered()
        })
    }

    fn put_marker(&mut self, turn: TurnId) -> Result<(), Fault> {
        let armed = self.write(sql::PUT_MARKER, [blob(turn)])?;
        self.markers = self.markers.map(|n| n + armed as u64);
        Ok(())
    }

    fn take_marker(&mut self, turn: TurnId) -> Result<bool, Fault> {
        let taken = self.write(sql::TAKE_MARKER, [blob(turn)])?;
        self.markers = self.markers.map(|n| n.saturating_sub(taken as u64));
        Ok(taken > 0)
    }

    fn put_item(&mut self, row: &ItemRow) -> Result<(), Fault> {
        let json = serde_json::to_string(&row.item).map_err(|cause| Fault::Payload {
            what: format!("item {} of turn {}", row.n, row.turn),
            cause: cause.to_string(),
        })?;
        self.write(
            sql::PUT_ITEM,
            params![
                row.conversation.as_str(),
                ordered(row.ordinal),
                row.n,
                blob(row.turn),
                json,
            ],
        )?;
        Ok(())
    }

    fn items(&mut self, id: &ConversationId, up_to: u64) -> Result<Vec<ItemRow>, Fault> {
        self.many(sql::ITEMS, params![id.as_str(), ordered(up_to)], |row| {
            Columns::of(row).item()
        })
    }

    fn put_call(&mut self, row: &CallRow) -> Result<(), Fault> {
        let (state, epoch) = match row.state {
            CallState::Asked => (0, None),
            CallState::Started(epoch) => (1, Some(bits(epoch.0))),
            CallState::Finished => (2, None),
        };
        self.write(
            sql::PUT_CALL,
            params![
                blob(row.turn),
                row.step,
                row.n,
                row.call_id,
                row.name,
                row.input,
                state,
                epoch,
            ],
        )?;
        Ok(())
    }

    fn calls(&mut self, turn: TurnId, step: u32) -> Result<Vec<CallRow>, Fault> {
        self.many(sql::CALLS, params![blob(turn), step], |row| {
            Columns::of(row).call()
        })
    }

    fn put_segment(&mut self, segment: &Segment) -> Result<(), Fault> {
        self.write(
            sql::PUT_SEGMENT,
            params![
                blob(segment.turn),
                ordered(segment.epoch.0),
                segment.step,
                ordered(segment.text_offset),
                segment.text,
                ordered(segment.reasoning_offset),
                segment.reasoning,
            ],
        )?;
        Ok(())
    }

    fn segments(&mut self, turn: TurnId) -> Result<Vec<Segment>, Fault> {
        self.many(sql::SEGMENTS, [blob(turn)], |row| {
            Columns::of(row).segment()
        })
    }

    fn drop_segments(&mut self, turn: TurnId) -> Result<(), Fault> {
        self.write(sql::DROP_SEGMENTS, [blob(turn)])?;
        Ok(())
    }
}
