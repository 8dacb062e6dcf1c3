//! [`Tx`] over one PostgreSQL transaction: READ COMMITTED, and whatever a verb
//! decides on is locked before it is read. Order of locks: workspace, provider,
//! conversation, turn.

#[cfg(planted)]
mod serial;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dispatch_core::admission::Head;
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, EndpointId, ProviderId, Seq, Slug, TurnId};
use dispatch_core::store::{
    CallRow, ConversationRow, ItemRow, KeyRow, ProviderRow, ReplicaRow, Segment, Transcript,
    TurnRow, Tx, Unreadable, Verb, WorkspaceRow,
};
use dispatch_core::time::Timestamp;
use dispatch_core::webhook::{DeliveryRow, EndpointRow};

use super::super::alike::{reads_alike, rows_alike};
use super::super::cells::{self, Cell, Fault, at, count, flag, name, ordered, small, text};
use super::super::columns::Columns;
use super::super::dump::Tables;
use super::super::read::Reads;
use super::census::Census;
use super::locks::{ForWorkspace, Locks};
use super::sql;
use super::wire::{Param, Wire};

/// Longer than a verb between two of its statements: a stopped server must not
/// hold a row for ever. And the longest that one verb waits for another.
const LIMITS: &str = "SET LOCAL search_path TO dispatch; \
    SET LOCAL idle_in_transaction_session_timeout = '5s'; \
    SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '20s'";

/// See the module's page.
pub(super) struct PgTx<'w> {
    wire: &'w mut Wire,
    now: Timestamp,
    locks: Locks,
    /// As this transaction has read and changed them; what is here is locked,
    /// where reading locks.
    turns: BTreeMap<TurnId, Option<TurnRow>>,
    conversations: BTreeMap<ConversationId, Option<ConversationRow>>,
    providers: BTreeMap<ProviderId, bool>,
    replicas: BTreeMap<String, bool>,
    workspaces: BTreeMap<Slug, bool>,
    census: &'w Census,
    /// Markers armed less markers taken.
    markers: i64,
    /// Conversations whose logs have grown.
    logged: BTreeSet<ConversationId>,
    #[cfg(planted)]
    flaw: Option<super::Flaw>,
}

fn params<'a>(cells: impl IntoIterator<Item = Cell<'a>>) -> Vec<Param> {
    let cells = cells.into_iter();
    cells.map(|cell| Param::One(cell.into_owned())).collect()
}

impl<'w> PgTx<'w> {
    /// Begins the transaction of a verb. Store time is the database's, unless
    /// `now` is given.
    pub(super) fn of_verb(
        wire: &'w mut Wire,
        census: &'w Census,
        verb: &Verb,
        now: Option<Timestamp>,
    ) -> Result<PgTx<'w>, Fault> {
        let tx = PgTx::begin(wire, census, Locks::of(verb), now)?;
        if let Verb::Accept(accept) = verb {
            let default = Slug::default_workspace();
            let slug = accept.workspace.as_ref().unwrap_or(&default);
            let cells = [name(accept.conversation.as_str()), name(slug.as_str())];
            let read = |mut row: Columns<'_>| row.text();
            tx.wire
                .rows(sql::WORKSPACE_OF_ACCEPT, params(cells), read)?;
        }
        Ok(tx)
    }

    /// Begins a transaction in which all is of one moment, and nothing is changed.
    pub(super) fn of_read(
        wire: &'w mut Wire,
        census: &'w Census,
        now: Option<Timestamp>,
    ) -> Result<PgTx<'w>, Fault> {
        PgTx::begin(wire, census, Locks::NONE, now)
    }

    /// Begins a transaction for what must be done from time to time.
    pub(super) fn of_upkeep(
        wire: &'w mut Wire,
        census: &'w Census,
        now: Option<Timestamp>,
    ) -> Result<PgTx<'w>, Fault> {
        let locks = Locks {
            turns: true,
            ..Locks::NONE
        };
        PgTx::begin(wire, census, locks, now)
    }

    fn begin(
        wire: &'w mut Wire,
        census: &'w Census,
        locks: Locks,
        now: Option<Timestamp>,
    ) -> Result<PgTx<'w>, Fault> {
        let begin = match locks.turns {
            true if locks.one_moment => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            true => "BEGIN ISOLATION LEVEL READ COMMITTED",
            false => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        let begin = format!("{begin}; {LIMITS}");
        wire.batch_later(begin);
        let begun = wire.begun(sql::NOW, |row| Ok((row.at()?, row.ordered()?)))?;
        let now = now.unwrap_or(begun);
        Ok(PgTx {
            wire,
            now,
            locks,
            turns: BTreeMap::new(),
            conversations: BTreeMap::new(),
            providers: BTreeMap::new(),
            replicas: BTreeMap::new(),
            workspaces: BTreeMap::new(),
            census,
            markers: 0,
            logged: BTreeSet::new(),
            #[cfg(planted)]
            flaw: None,
        })
    }

    /// From here on the mistake is made that a test wants found.
    #[cfg(planted)]
    pub(super) fn spoil(&mut self, flaw: Option<super::Flaw>) {
        self.flaw = flaw;
    }

    #[cfg(planted)]
    fn reading(&self, sql: &'static str) -> &'static str {
        sql::spoilt(sql, self.flaw)
    }

    #[cfg(not(planted))]
    fn reading(&self, sql: &'static str) -> &'static str {
        sql
    }

    /// Conversations of which there is more to be seen once it has landed.
    pub(super) fn moved(&mut self, verb: &Verb) -> BTreeSet<ConversationId> {
        match verb {
            Verb::Checkpoint { .. } => self.conversations.keys().cloned().collect(),
            _ => std::mem::take(&mut self.logged),
        }
    }

    /// Makes it durable. After an error nobody knows, unless the server itself
    /// has refused a statement.
    pub(super) fn commit(self) -> Result<(), Fault> {
        let committed = self.wire.batch("COMMIT".to_owned());
        match &committed {
            Ok(()) => self.census.add(self.markers),
            // It may have landed for all that.
            Err(_) => self.census.forget(),
        }
        committed
    }

    /// Nothing of it lands.
    pub(super) fn roll_back(self) -> Result<(), Fault> {
        self.wire.forget();
        self.wire.batch("ROLLBACK".to_owned())
    }

    fn write<'a>(
        &mut self,
        sql: &'static str,
        cells: impl IntoIterator<Item = Cell<'a>>,
    ) -> Result<(), Fault> {
        self.wire.write(sql, params(cells))
    }

    pub(super) fn many<'a, T>(
        &mut self,
        sql: &'static str,
        cells: impl IntoIterator<Item = Cell<'a>>,
        read: impl FnMut(Columns<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        self.wire.rows(sql, params(cells), read)
    }

    fn one<'a, T>(
        &mut self,
        sql: &'static str,
        cells: impl IntoIterator<Item = Cell<'a>>,
        read: impl FnMut(Columns<'_>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        Ok(self.many(sql, cells, read)?.into_iter().next())
    }

    pub(super) fn number<'a>(
        &mut self,
        sql: &'static str,
        cells: impl IntoIterator<Item = Cell<'a>>,
    ) -> Result<u64, Fault> {
        let number = self.one(sql, cells, |mut row| row.ordered())?;
        Ok(number.unwrap_or(0))
    }

    fn keep(&mut self, (turn, conversation): (TurnRow, ConversationRow)) {
        let id = conversation.id.clone();
        self.conversations.insert(id, Some(conversation));
        self.turns.insert(turn.turn, Some(turn));
    }
}

fn both(mut row: Columns<'_>) -> Result<(TurnRow, ConversationRow), Fault> {
    Ok((row.turn()?, row.conversation()?))
}

impl Tx for PgTx<'_> {
    type Error = Fault;

    rows_alike!();

    fn foresee(&mut self, turns: &[TurnId]) -> Result<(), Fault> {
        if turns.is_empty() {
            return Ok(());
        }
        let ids = turns.iter().map(|turn| turn.0.to_be_bytes().to_vec());
        let ids = vec![Param::Many(ids.collect())];
        let sql = match self.locks.turns {
            true => sql::TURNS_LOCKED,
            false => sql::TURNS,
        };
        for turn in turns {
            self.turns.insert(*turn, None);
        }
        let sql = self.reading(sql);
        for row in self.wire.rows(sql, ids, both)? {
            self.keep(row);
        }
        Ok(())
    }

    fn conversation(&mut self, id: &ConversationId) -> Result<Option<ConversationRow>, Fault> {
        if let Some(known) = self.conversations.get(id) {
            return Ok(known.clone());
        }
        let sql = match self.locks.turns {
            true => sql::CONVERSATION_LOCKED,
            false => sql::CONVERSATION,
        };
        let sql = self.reading(sql);
        let row = self.one(sql, [name(id.as_str())], |mut row| row.conversation())?;
        self.conversations.insert(id.clone(), row.clone());
        Ok(row)
    }

    fn put_conversation(&mut self, row: &ConversationRow) -> Result<(), Fault> {
        let is_known = matches!(self.conversations.get(&row.id), Some(Some(_)));
        let sql = match is_known {
            true => sql::UPDATE_CONVERSATION,
            false => sql::INSERT_CONVERSATION,
        };
        self.write(sql, cells::conversation(row))?;
        self.conversations.insert(row.id.clone(), Some(row.clone()));
        Ok(())
    }

    fn turn(&mut self, id: TurnId) -> Result<Option<TurnRow>, Fault> {
        if let Some(known) = self.turns.get(&id) {
            return Ok(known.clone());
        }
        let sql = match self.locks.turns {
            true => sql::TURN_LOCKED,
            false => sql::TURN,
        };
        let sql = self.reading(sql);
        let Some((turn, conversation)) = self.one(sql, [cells::turn_id(id)], both)? else {
            self.turns.insert(id, None);
            return Ok(None);
        };
        // What this transaction has changed of the conversation it has told.
        self.keep((turn.clone(), conversation));
        Ok(Some(turn))
    }

    fn put_turn(&mut self, row: &TurnRow) -> Result<(), Fault> {
        let is_known = matches!(self.turns.get(&row.turn), Some(Some(_)));
        let sql = match is_known {
            true => sql::UPDATE_TURN,
            false => sql::INSERT_TURN,
        };
        self.write(sql, cells::turn(row, self.now))?;
        self.turns.insert(row.turn, Some(row.clone()));
        Ok(())
    }

    fn open_turns(&mut self) -> Result<u64, Fault> {
        if let Some(known) = self.census.recent() {
            return Ok(known.saturating_add_signed(self.markers));
        }
        let counted = self.number(sql::COUNT_MARKERS, [])?;
        self.census
            .counted(counted.saturating_add_signed(-self.markers));
        Ok(counted)
    }

    fn put_release(&mut self, provider: &ProviderId, when: Timestamp) -> Result<(), Fault> {
        self.write(sql::PUT_RELEASE, [name(provider.as_str()), at(when)])
    }

    fn provider(&mut self, id: &ProviderId) -> Result<Option<ProviderRow>, Fault> {
        let sql = match self.locks.providers {
            true => sql::PROVIDER_LOCKED,
            false => sql::PROVIDER,
        };
        let row = self.one(sql, [name(id.as_str())], |mut row| row.provider())?;
        self.providers.insert(id.clone(), row.is_some());
        Ok(row)
    }

    fn put_provider(&mut self, row: &ProviderRow) -> Result<(), Fault> {
        let is_known = self.providers.insert(row.id.clone(), true) == Some(true);
        let sql = match is_known {
            true => sql::UPDATE_PROVIDER,
            false => sql::INSERT_PROVIDER,
        };
        self.write(sql, cells::provider(row))
    }

    fn replica(&mut self, node: &str) -> Result<Option<ReplicaRow>, Fault> {
        let sql = match self.locks.turns {
            true => sql::REPLICA_LOCKED,
            false => sql::REPLICA,
        };
        let row = self.one(sql, [name(node)], |mut row| row.replica())?;
        self.replicas.insert(node.to_owned(), row.is_some());
        Ok(row)
    }

    fn put_replica(&mut self, row: &ReplicaRow) -> Result<(), Fault> {
        let node = row.owner.node.to_string();
        let is_known = self.replicas.insert(node, true) == Some(true);
        let sql = match is_known {
            true => sql::UPDATE_REPLICA,
            false => sql::INSERT_REPLICA,
        };
        self.write(sql, cells::replica(row))
    }

    fn workspace(&mut self, slug: &Slug) -> Result<Option<WorkspaceRow>, Fault> {
        let sql = match self.locks.workspaces {
            Some(ForWorkspace::Change) => sql::WORKSPACE_LOCKED,
            Some(ForWorkspace::Keep) => sql::WORKSPACE_SHARED,
            None => sql::WORKSPACE,
        };
        let row = self.one(sql, [name(slug.as_str())], |mut row| row.workspace())?;
        self.workspaces.insert(slug.clone(), row.is_some());
        Ok(row)
    }

    fn put_workspace(&mut self, row: &WorkspaceRow) -> Result<(), Fault> {
        let is_known = self.workspaces.insert(row.slug.clone(), true) == Some(true);
        let sql = match is_known {
            true => sql::UPDATE_WORKSPACE,
            false => sql::INSERT_WORKSPACE,
        };
        self.write(sql, cells::workspace(row))
    }

    fn put_event(&mut self, event: &AgentEvent) -> Result<(), Fault> {
        match cells::event(event) {
            Some(cells) => {
                self.logged.insert(event.conversation.clone());
                self.write(sql::PUT_EVENT, cells)
            }
            None => Ok(()),
        }
    }

    fn put_marker(&mut self, turn: TurnId) -> Result<(), Fault> {
        self.markers += 1;
        self.write(sql::PUT_MARKER, [cells::turn_id(turn)])
    }

    fn take_marker(&mut self, turn: TurnId) -> Result<bool, Fault> {
        let cells = params([cells::turn_id(turn)]);
        let taken = self.wire.write_now(sql::TAKE_MARKER, cells)?;
        self.markers -= i64::from(taken > 0);
        Ok(taken > 0)
    }

    fn calls(&mut self, turn: TurnId, step: u32) -> Result<Vec<CallRow>, Fault> {
        let cells = [cells::turn_id(turn), small(step)];
        self.many(sql::CALLS, cells, |mut row| row.call())
    }

    fn delivery(
        &mut self,
        endpoint: &EndpointId,
        turn: TurnId,
    ) -> Result<Option<DeliveryRow>, Fault> {
        let cells = [name(endpoint.as_str()), cells::turn_id(turn)];
        self.one(sql::DELIVERY_LOCKED, cells, |mut row| row.delivery())
    }
}

reads_alike!(PgTx<'_>);
