//! One connection: statements in, rows out. Writes are sent with the next read
//! or with the commit, so that a verb waits for the network as often as it
//! reads and not as often as it writes.

use std::collections::HashMap;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::future::{BoxFuture, join, poll_fn};
use futures_util::{FutureExt, TryStreamExt};
use tokio::runtime::Handle;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement};

use super::super::cells::{Cell, Fault, Row, Value};
use super::super::columns::Columns;

/// Why a statement was not carried out.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum PgFault {
    /// The server said no; nothing of the transaction lands.
    #[error("PostgreSQL refused a statement: {message} (SQLSTATE {state}){}", remedy(.state).map_or(String::new(), |remedy| format!("; {remedy}")))]
    Refused {
        /// Its code.
        state: String,
        /// For people.
        message: String,
    },
    /// No answer came.
    #[error(
        "the connection to PostgreSQL was lost: {0}; look whether the server of DATABASE_URL is up"
    )]
    Lost(String),
    /// A transaction is on another session than the one before.
    #[error("a pooler gives each transaction another session")]
    Moved,
}

/// "too_many_connections": of the server, or for the role.
const CROWDED: &str = "53300";

/// What to do about it.
pub(super) const MORE_CONNECTIONS: &str = "a replica takes up to 17 connections: raise \
    max_connections, or the role's limit, or put a pooler before the database";

fn remedy(state: &str) -> Option<&'static str> {
    Some(match state {
        "53100" => "free some space on the disk of the database",
        CROWDED => MORE_CONNECTIONS,
        "25006" => "DATABASE_URL names a standby, name the primary",
        "42501" => {
            "grant the role of DATABASE_URL the rights on schema `dispatch`, or CREATE on the database where that schema is to be made"
        }
        "3D000" | "3F000" | "42P01" => {
            "the database or its schema `dispatch` was dropped: restore it, and restart every replica"
        }
        "55P03" | "57014" => "some other session holds a lock for long: look at pg_stat_activity",
        _ => return None,
    })
}

impl PgFault {
    /// The same verb may succeed at once: it met another one.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            // Serialisation failure, deadlock, unique violation: whoever was
            // first is there now, and is found by the next attempt.
            PgFault::Refused { state, .. } => {
                matches!(state.as_str(), "40001" | "40P01" | "23505")
                    || self.is_unprepared()
                    || self.is_lost()
            }
            PgFault::Lost(_) | PgFault::Moved => true,
        }
    }

    /// The connection is of no more use.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            PgFault::Refused { state, .. } => state.starts_with("57P") || state.starts_with("08"),
            PgFault::Lost(_) => true,
            PgFault::Moved => false,
        }
    }

    /// There is no connection for us, as others have them all.
    pub(super) fn is_crowded(&self) -> bool {
        matches!(self, PgFault::Refused { state, .. } if state == CROWDED)
    }

    /// Somebody between us and the server hands statements to other sessions.
    pub(super) fn is_unprepared(&self) -> bool {
        match self {
            PgFault::Refused { state, .. } => matches!(state.as_str(), "26000" | "42P05"),
            PgFault::Moved => true,
            PgFault::Lost(_) => false,
        }
    }
}

impl From<tokio_postgres::Error> for PgFault {
    fn from(error: tokio_postgres::Error) -> PgFault {
        match error.as_db_error() {
            Some(db) => PgFault::Refused {
                state: db.code().code().to_owned(),
                message: db.message().to_owned(),
            },
            None => {
                let cause = error.source().map(ToString::to_string);
                PgFault::Lost(cause.unwrap_or_else(|| error.to_string()))
            }
        }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Fault {
        Fault::Postgres(error.into())
    }
}

/// A parameter.
#[derive(Debug)]
pub(super) enum Param {
    One(Cell<'static>),
    /// Turn ids.
    Many(Vec<Vec<u8>>),
    /// Names of ours.
    Names(Vec<String>),
}

impl ToSql for Param {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Param::One(Cell::Null) => return Ok(IsNull::Yes),
            Param::One(Cell::Int(value)) => out.put_i64(*value),
            Param::One(Cell::Name(text) | Cell::Text(text)) => out.put_slice(text.as_bytes()),
            Param::One(Cell::Turn(id)) => out.put_slice(id),
            Param::Many(ids) => return ids.to_sql(&Type::BYTEA_ARRAY, out),
            Param::Names(names) => return names.to_sql(&Type::TEXT_ARRAY, out),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A column as it came.
struct Raw<'r>(&'r [u8]);

impl<'r> FromSql<'r> for Raw<'r> {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Raw<'r>, Box<dyn Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Row for tokio_postgres::Row {
    fn value(&self, n: usize) -> Result<Value<'_>, Fault> {
        let Some(Raw(raw)) = self.try_get::<_, Option<Raw<'_>>>(n)? else {
            return Ok(Value::Null);
        };
        let ty = self.columns().get(n).map(|column| column.type_().clone());
        Ok(match ty {
            Some(Type::INT8) => match <[u8; 8]>::try_from(raw) {
                Ok(bytes) => Value::Int(i64::from_be_bytes(bytes)),
                Err(_) => Value::Odd,
            },
            Some(Type::TEXT | Type::BYTEA) => Value::Bytes(raw),
            _ => Value::Odd,
        })
    }

    fn column(&self, n: usize) -> String {
        let column = self.columns().get(n);
        column.map_or("?", |column| column.name()).to_owned()
    }
}

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Parsed once a connection.
    Prepared,
    /// Parsed each time: behind a pooler that gives each transaction another session.
    Unnamed,
}

type Sent = BoxFuture<'static, Result<u64, tokio_postgres::Error>>;

/// See the module's page.
pub(super) struct Wire {
    handle: Handle,
    client: Arc<Client>,
    mode: Mode,
    prepared: HashMap<&'static str, Statement>,
    /// The server's process that prepared them.
    session: Option<u64>,
    unsent: Vec<Sent>,
    /// An answer that takes longer than this is taken for none.
    patience: Duration,
}

impl Wire {
    pub(super) fn new(handle: Handle, client: Client, mode: Mode, patience: Duration) -> Wire {
        Wire {
            handle,
            client: Arc::new(client),
            mode,
            prepared: HashMap::new(),
            session: None,
            unsent: Vec::new(),
            patience,
        }
    }

    /// Its statements are sent in this way.
    pub(super) fn is_in(&self, mode: Mode) -> bool {
        self.mode == mode
    }

    /// The other end is gone, as far as is known.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    fn statement(&mut self, sql: &'static str) -> Result<Option<Statement>, Fault> {
        if self.mode == Mode::Unnamed {
            return Ok(None);
        }
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(Some(statement.clone()));
        }
        let client = self.client.clone();
        let statement = self.wait(async move { client.prepare(sql).await })?;
        self.prepared.insert(sql, statement.clone());
        Ok(Some(statement))
    }

    /// Sends what is unsent and then this; the answer to this.
    fn wait<T>(
        &mut self,
        last: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Fault> {
        let unsent = std::mem::take(&mut self.unsent);
        let all = async {
            let last = pin!(last);
            let (sent, answer) = join(in_order(unsent), last).await;
            sent.and(answer)
        };
        let answer = self
            .handle
            .block_on(async { tokio::time::timeout(self.patience, all).await });
        match answer {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Fault::Postgres(PgFault::Lost(format!(
                "no answer within {} s",
                self.patience.as_secs()
            )))),
        }
    }

    /// Rows, in their order.
    pub(super) fn rows<T>(
        &mut self,
        sql: &'static str,
        params: Vec<Param>,
        read: impl FnMut(Columns<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let statement = self.statement(sql)?;
        self.answers(statement, sql, params, read)
    }

    /// The time that a transaction has begun at, and that it is on the session
    /// where its statements are prepared. Names are the same in every process
    /// ("s0", "s1", ...): behind a pooler of transactions a statement would
    /// else be run that another process has prepared under that name.
    pub(super) fn begun<T: Copy + Default>(
        &mut self,
        sql: &'static str,
        mut read: impl FnMut(&mut Columns<'_>) -> Result<(T, u64), Fault>,
    ) -> Result<T, Fault> {
        let rows = self.answers(None, sql, Vec::new(), |mut row| read(&mut row))?;
        let (now, session) = rows.first().copied().unwrap_or_default();
        let known = *self.session.get_or_insert(session);
        if known != session && self.mode == Mode::Prepared {
            return Err(Fault::Postgres(PgFault::Moved));
        }
        Ok(now)
    }

    fn answers<T>(
        &mut self,
        statement: Option<Statement>,
        sql: &'static str,
        params: Vec<Param>,
        mut read: impl FnMut(Columns<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let client = self.client.clone();
        let rows: Vec<tokio_postgres::Row> = self.wait(async move {
            match statement {
                Some(statement) => {
                    let rows = client.query_raw(&statement, &params).await?;
                    rows.try_collect().await
                }
                None => {
                    let typed = params.iter().map(|param| (param, Type::UNKNOWN));
                    let rows = client.query_typed_raw(sql, typed).await?;
                    rows.try_collect().await
                }
            }
        })?;
        rows.iter().map(|row| read(Columns::of(row))).collect()
    }

    /// Queues a write; what it says is heard with the next answer.
    pub(super) fn write(&mut self, sql: &'static str, params: Vec<Param>) -> Result<(), Fault> {
        let sent = self.sending(sql, params)?;
        self.unsent.push(sent);
        Ok(())
    }

    /// Writes at once: how many rows it touched.
    pub(super) fn write_now(
        &mut self,
        sql: &'static str,
        params: Vec<Param>,
    ) -> Result<u64, Fault> {
        let sent = self.sending(sql, params)?;
        self.wait(sent)
    }

    fn sending(&mut self, sql: &'static str, params: Vec<Param>) -> Result<Sent, Fault> {
        let statement = self.statement(sql)?;
        let client = self.client.clone();
        Ok(async move {
            match statement {
                Some(statement) => client.execute_raw(&statement, &params).await,
                None => {
                    let typed = params.iter().map(|param| (param, Type::UNKNOWN));
                    let rows = client.query_typed_raw(sql, typed).await?;
                    let mut rows = pin!(rows);
                    while rows.try_next().await?.is_some() {}
                    Ok(rows.rows_affected().unwrap_or(0))
                }
            }
        }
        .boxed())
    }

    /// Statements without parameters or rows.
    pub(super) fn batch(&mut self, sql: String) -> Result<(), Fault> {
        let client = self.client.clone();
        self.wait(async move { client.batch_execute(&sql).await })
    }

    /// The same, heard of with the next answer.
    pub(super) fn batch_later(&mut self, sql: String) {
        let client = self.client.clone();
        let sent = async move { client.batch_execute(&sql).await.map(|()| 0) };
        self.unsent.push(sent.boxed());
    }

    /// Forgets what was not sent.
    pub(super) fn forget(&mut self) {
        self.unsent.clear();
    }
}

/// Each is sent when it is first polled: in this order, and without waiting
/// for one before the next. The first fault counts, the others follow from it.
async fn in_order(mut sent: Vec<Sent>) -> Result<(), tokio_postgres::Error> {
    let mut heard = Ok(());
    let mut open: Vec<Option<&mut Sent>> = sent.iter_mut().map(Some).collect();
    poll_fn(|cx| {
        let mut waits = false;
        for slot in &mut open {
            let Some(sent) = slot else { continue };
            match sent.poll_unpin(cx) {
                Poll::Pending => waits = true,
                Poll::Ready(answer) => {
                    *slot = None;
                    if heard.is_ok() {
                        heard = answer.map(|_| ());
                    }
                }
            }
        }
        if waits {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    heard
}
