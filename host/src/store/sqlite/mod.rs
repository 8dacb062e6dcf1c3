//! [`SqliteStore`]: threads and queues around the writer and the readers.

mod lock;
mod reader;
mod schema;
mod sql;
#[cfg(test)]
mod tests;
mod time;
mod tx;
mod writer;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq, Slug, TurnId};
use dispatch_core::store::{ConversationRow, Segment, StoreFault, Tx, Verb, WorkspaceRow};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{oneshot, watch};

use self::reader::Reader;
use self::schema::open_writer;
use self::time::StoreTime;
use self::tx::SqlTx;
use self::writer::{Writer, last_store_time};
use super::cells::Fault;
use super::dump::{self, Dump};
use super::queue::{Queue, Refused, answer, queue};
use super::read::{self, Reads};
use super::{Done, ProviderView, ReadError, ReplicaView, Store, TurnView};
use crate::clock::Clock;
use crate::panics::locked;

pub use self::lock::{DirLock, LockError};
pub use self::schema::OpenError;

/// Verbs of one commit at most.
const GROUP: usize = 256;

/// What may be chosen about a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Verbs, and likewise reads, that may wait; one more is refused.
    pub queue: usize,
    /// Read-only connections, each on a thread of its own.
    pub readers: usize,
    /// What an answered verb survives.
    pub durability: Durability,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            queue: 8_192,
            readers: 2,
            durability: Durability::Full,
        }
    }
}

/// What an answered verb survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Loss of power.
    Full,
    /// The process's death, not the machine's: for simulations and tests that
    /// run thousands of verbs and pull no plug.
    ProcessCrashOnly,
}

/// The store in one SQLite file: the default, for one server.
pub struct SqliteStore {
    mode: Mode,
    path: PathBuf,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

enum Mode {
    Threads {
        writes: Queue<VerbJob>,
        reads: Queue<ReadJob>,
        ended: watch::Receiver<()>,
    },
    Inline(Mutex<Option<Box<Inline>>>),
}

/// Writer and reader of a store without threads.
struct Inline {
    writer: Writer,
    reader: Reader,
    _lock: DirLock,
}

struct VerbJob {
    verb: Verb,
    done: Done,
}

enum ReadJob {
    Verb(VerbJob),
    Query(Box<dyn FnOnce(&mut Reader) + Send>),
}

impl SqliteStore {
    /// Opens or creates the database `path` and locks the directory that it
    /// lies in. Store time follows `clock`, never the clock of SQLite.
    ///
    /// # Errors
    /// Each says what to do about it.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<SqliteStore, OpenError> {
        SqliteStore::open_with(path, clock, Options::default())
    }

    /// [`SqliteStore::open`] with other options than the default ones.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_with(
        path: &Path,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<SqliteStore, OpenError> {
        let (lock, writer, time) = open_parts(path, clock, options.durability)?;
        let (running, ended) = watch::channel(());
        let running = Arc::new(running);
        let (writes, inbox) = queue(options.queue);
        let alive = running.clone();
        spawn("store-writer", move || {
            write_jobs(writer, &inbox);
            drop((lock, alive));
        })?;
        let (reads, inbox) = queue::<ReadJob>(options.queue);
        let inbox = Arc::new(Mutex::new(inbox));
        for _ in 0..options.readers.max(1) {
            let mut reader = Reader::new(path.to_owned(), time.clone());
            let (inbox, alive) = (inbox.clone(), running.clone());
            spawn("store-reader", move || {
                read_jobs(&mut reader, &inbox);
                drop(alive);
            })?;
        }
        Ok(SqliteStore {
            mode: Mode::Threads {
                writes,
                reads,
                ended,
            },
            path: path.to_owned(),
        })
    }

    /// A store without threads: each verb and each read runs to its end on the
    /// caller's thread, in a transaction of its own. For deterministic simulation.
    ///
    /// # Errors
    /// As for `open`.
    pub fn inline(
        path: &Path,
        clock: Arc<dyn Clock>,
        durability: Durability,
    ) -> Result<SqliteStore, OpenError> {
        let (lock, writer, time) = open_parts(path, clock, durability)?;
        let inline = Inline {
            writer,
            reader: Reader::new(path.to_owned(), time),
            _lock: lock,
        };
        Ok(SqliteStore {
            mode: Mode::Inline(Mutex::new(Some(Box::new(inline)))),
            path: path.to_owned(),
        })
    }

    /// Everything that the store holds, read in one transaction.
    ///
    /// # Errors
    /// [`ReadError`]; also when any payload cannot be read back.
    pub fn dump(&self) -> BoxFuture<'_, Result<Dump, ReadError>> {
        self.read(|tx| dump::dump(tx))
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut SqlTx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, ReadError>> {
        match &self.mode {
            Mode::Threads { reads, .. } => {
                let (answer, heard) = oneshot::channel();
                let query = Box::new(move |reader: &mut Reader| {
                    // Nobody listens any more when the asking request was dropped.
                    let _ = answer.send(reader.read(read));
                });
                if let Err((_, refused)) = reads.push(ReadJob::Query(query)) {
                    return std::future::ready(Err(refused.into())).boxed();
                }
                let broke = || ReadError::Failed("a bug in the server broke it off".to_owned());
                heard
                    .map(move |heard| heard.unwrap_or_else(|_| Err(broke())))
                    .boxed()
            }
            Mode::Inline(inline) => {
                let answer = match locked(inline).as_mut() {
                    Some(inline) => inline.reader.read(read),
                    None => Err(ReadError::Closed),
                };
                std::future::ready(answer).boxed()
            }
        }
    }
}

impl Store for SqliteStore {
    fn submit(&self, verb: Verb, done: Done) {
        match &self.mode {
            Mode::Threads { writes, reads, .. } => {
                let job = VerbJob { verb, done };
                let refused = if job.verb.is_read() {
                    match reads.push(ReadJob::Verb(job)) {
                        Err((ReadJob::Verb(job), refused)) => Some((job, refused)),
                        Err((ReadJob::Query(_), _)) | Ok(()) => None,
                    }
                } else {
                    writes.push(job).err()
                };
                if let Some((job, refused)) = refused {
                    (job.done)(Err(refused.into()));
                }
            }
            Mode::Inline(inline) => {
                let outcome = match locked(inline).as_mut() {
                    Some(inline) if verb.is_read() => inline.reader.verb(&verb),
                    Some(inline) => inline
                        .writer
                        .run(&[&verb])
                        .pop()
                        .unwrap_or_else(|| Err(Refused::Closed.into())),
                    None => Err(Refused::Closed.into()),
                };
                done(outcome);
            }
        }
    }

    fn events(
        &self,
        conversation: &ConversationId,
        after: Seq,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgentEvent>, ReadError>> {
        let id = conversation.clone();
        self.read(move |tx| tx.events_after(&id, after, limit))
    }

    fn conversation(
        &self,
        id: &ConversationId,
    ) -> BoxFuture<'_, Result<Option<ConversationRow>, ReadError>> {
        let id = id.clone();
        self.read(move |tx| tx.conversation(&id))
    }

    fn turn(&self, id: TurnId) -> BoxFuture<'_, Result<Option<TurnView>, ReadError>> {
        self.read(move |tx| read::turn(tx, id))
    }

    fn open_turns_of(
        &self,
        id: &ConversationId,
    ) -> BoxFuture<'_, Result<Vec<TurnView>, ReadError>> {
        let id = id.clone();
        self.read(move |tx| read::open_turns_of(tx, &id))
    }

    fn workspace(&self, slug: &Slug) -> BoxFuture<'_, Result<Option<WorkspaceRow>, ReadError>> {
        let slug = slug.clone();
        self.read(move |tx| tx.workspace(&slug))
    }

    fn providers(&self) -> BoxFuture<'_, Result<Vec<ProviderView>, ReadError>> {
        self.read(|tx| read::providers(tx))
    }

    fn replicas(&self) -> BoxFuture<'_, Result<Vec<ReplicaView>, ReadError>> {
        self.read(|tx| read::replicas(tx))
    }

    fn segments(&self, turn: TurnId) -> BoxFuture<'_, Result<Vec<Segment>, ReadError>> {
        self.read(move |tx| tx.segments(turn))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        match &self.mode {
            Mode::Threads {
                writes,
                reads,
                ended,
            } => {
                writes.close();
                reads.close();
                let mut ended = ended.clone();
                async move { while ended.changed().await.is_ok() {} }.boxed()
            }
            Mode::Inline(inline) => {
                if let Some(mut inline) = locked(inline).take() {
                    inline.writer.checkpoint();
                }
                std::future::ready(()).boxed()
            }
        }
    }
}

/// What both modes start with: the lock first, so that nobody else migrates.
fn open_parts(
    path: &Path,
    clock: Arc<dyn Clock>,
    durability: Durability,
) -> Result<(DirLock, Writer, Arc<StoreTime>), OpenError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    std::fs::create_dir_all(dir).map_err(|cause| OpenError::Directory {
        dir: dir.to_owned(),
        cause,
    })?;
    let lock = DirLock::acquire(dir)?;
    let conn = open_writer(path, durability)?;
    let time = Arc::new(StoreTime::new(clock, last_store_time(&conn, path)?));
    let writer = Writer::new(path.to_owned(), durability, time.clone(), conn);
    Ok((lock, writer, time))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop).map_err(OpenError::Thread)
}

/// Commits whatever has queued up while the last commit was on its way.
fn write_jobs(mut writer: Writer, inbox: &Receiver<VerbJob>) {
    while let Ok(first) = inbox.recv() {
        let mut jobs = vec![first];
        jobs.extend(inbox.try_iter().take(GROUP - 1));
        let verbs: Vec<&Verb> = jobs.iter().map(|job| &job.verb).collect();
        let outcomes = writer.run(&verbs);
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            answer(job.done, outcome);
        }
    }
    writer.checkpoint();
}

fn read_jobs(reader: &mut Reader, inbox: &Mutex<Receiver<ReadJob>>) {
    loop {
        // The guard is gone before the job runs: the other readers wait for it.
        let job = locked(inbox).recv();
        match job {
            Ok(ReadJob::Verb(VerbJob { verb, done })) => {
                let bug = || {
                    Err(StoreFault::Failed(
                        "a bug in the server broke it off".into(),
                    ))
                };
                let read = catch_unwind(AssertUnwindSafe(|| reader.verb(&verb)));
                answer(done, read.unwrap_or_else(|_| bug()));
            }
            Ok(ReadJob::Query(query)) => {
                // Its asker hears of a panic by the channel that it drops.
                let _ = catch_unwind(AssertUnwindSafe(|| query(reader)));
            }
            Err(_) => return,
        }
    }
}

/// What SQLite says, and what to do about it.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    use rusqlite::ErrorCode;
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "; free some space on the disk that holds the database",
        Some(ErrorCode::SystemIoFailure) => "; look at the disk that holds the database",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "; another program has the database locked, stop it"
        }
        Some(ErrorCode::ReadOnly) => "; make the database and its directory writable",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "; the file is damaged, restore a backup"
        }
        Some(_) | None => "",
    };
    format!("{error}{remedy}")
}
