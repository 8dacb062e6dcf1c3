//! One server: store, driver and HTTP put together, and taken apart in order.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::serve::Listener;
use dispatch_core::ids::ProviderId;
use dispatch_core::journal::Start;
use futures_util::FutureExt;
use http::{Request, Response};
use sd_notify::NotifyState;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::api::{Api, ApiError, PATIENCE, Parts, StallListener};
use crate::clock::{Clock, SystemClock};
use crate::computers::Computers;
use crate::config::{Database, Dialect, Places, ProviderSettings, Settings};
use crate::data_dir::{self, PathError};
use crate::driver::{Driver, Handle, Machine, Opens, Ports};
use crate::exec::{Exec, RunBounds};
use crate::guards;
use crate::hub::Hub;
use crate::journal::{Journal, JournalError};
use crate::net::{CutConnection, Net, ServeLimits, serve_with};
use crate::panics::{self, Caught};
use crate::provider::{HttpProvider, Provider, ProviderConfig, ProviderConfigError, Secret};
use crate::scripted::{Script, ScriptError, ScriptedProvider};
use crate::store::{
    DirLock, Hint, OpenError, PostgresOpenError, PostgresOptions, PostgresStore, ReadError,
    SqliteStore, Store,
};
use crate::webhook::Webhooks;

mod node;
mod tools;

use self::node::Life;

/// Why a server cannot start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory, or a file.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The replica of which the data directory is a copy is alive.
    #[error(
        "{} is a copy of the data directory of replica `{node}`, which was heard of {silent_s} s ago: two of one name would take each other's turns; delete the file `node` in it to give this replica a name of its own, or, if the directory has moved here, start it {lease_s} s after the other was stopped", dir.display()
    )]
    Copied {
        /// The data directory.
        dir: PathBuf,
        /// Whose.
        node: String,
        /// When the other one was heard of.
        silent_s: u64,
        /// From when on it counts as gone.
        lease_s: u64,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store of several replicas.
    #[error(transparent)]
    Postgres(#[from] PostgresOpenError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A provider.
    #[error("provider `{id}`: {source}")]
    Provider {
        /// Which.
        id: ProviderId,
        /// Why.
        source: ProviderConfigError,
    },
    /// A scripted provider's script.
    #[error("provider `{id}`: the script {} cannot be followed: {source}", path.display())]
    Script {
        /// Which.
        id: ProviderId,
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: ScriptError,
    },
    /// The address.
    #[error("cannot listen on {listen}: {cause}; name another address with --listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The core, at its very start.
    #[error("the core cannot start: {}", .0.message)]
    Core(Caught),
    /// The driver's task is gone.
    #[error("the driver has ended unexpectedly; the log says why")]
    DriverGone,
}

impl ServeError {
    /// Whether the configuration is to blame (exit code 3, O2).
    pub fn is_configuration(&self) -> bool {
        match self {
            ServeError::Provider { .. } | ServeError::Script { .. } => true,
            ServeError::Path(_)
            | ServeError::Copied { .. }
            | ServeError::Read(_)
            | ServeError::Store(_)
            | ServeError::Postgres(_)
            | ServeError::Journal(_)
            | ServeError::Listen { .. }
            | ServeError::Core(_)
            | ServeError::DriverGone => false,
        }
    }
}

/// How long clients have to take the ends of their streams.
const STREAMS_END_MS: u64 = 5_000;
/// How long handing over may take once the core has begun it: the end of a
/// command that does not go when asked to, and the writes after it.
const HAND_OVER: Duration = Duration::from_secs(25);
/// How long tasks may take to notice that they are over.
const TASKS_END: Duration = Duration::from_secs(2);
/// Finished runs of tools are looked through this often (O5).
const RUNS_SWEEP: Duration = Duration::from_secs(3_600);

/// What a server takes from the machine that it runs on; a simulation hands in
/// its own. The network is handed in beside it.
#[allow(missing_debug_implementations)]
pub struct Surroundings<F> {
    /// Time; the store's follows the same clock.
    pub clock: Arc<dyn Clock>,
    /// Verbs and reads.
    pub store: Arc<dyn Store>,
    /// Tools.
    pub exec: Arc<dyn Exec>,
    /// Tools on other computers.
    pub computers: Arc<dyn Computers>,
    /// Makes the state machine of each life; in production [`Start::dispatcher`].
    pub build: F,
}

/// Serves until `shutdown`, then ends every stream cleanly (L8). `announce` is
/// called with the bound address once requests are answered.
///
/// # Errors
/// [`ServeError`].
pub async fn serve<N: Net>(
    settings: Settings,
    journal: Option<&Path>,
    net: N,
    shutdown: CancellationToken,
    announce: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    data_dir::make(&settings.places.data_dir)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    // First of all: nobody else may use the data directory.
    let (store, _lock) = open_store(&settings.places, clock.clone()).await?;
    node::own_data_dir(&settings, &*store).await?;
    let exec = tools::local_config(&settings);
    let computers = tools::computers(&settings, &exec, &*store, net.clone()).await?;
    let surroundings = Surroundings {
        store,
        exec: Arc::new(tools::local(exec)?),
        computers: Arc::new(computers),
        clock,
        build: |start: Start| start.dispatcher(),
    };
    serve_in(surroundings, settings, journal, net, shutdown, announce).await
}

/// [`serve`] in other surroundings than this machine.
///
/// # Errors
/// [`ServeError`].
pub async fn serve_in<N, M, F>(
    surroundings: Surroundings<F>,
    settings: Settings,
    journal: Option<&Path>,
    net: N,
    shutdown: CancellationToken,
    announce: impl FnOnce(SocketAddr),
) -> Result<(), ServeError>
where
    N: Net,
    M: Machine,
    F: FnMut(Start) -> M + Send + 'static,
{
    let life = node::life(&settings, &*surroundings.store, &*surroundings.clock).await?;
    let mut house = House::build(surroundings, &settings, life, journal, &net)?;
    let listener = net
        .bind(settings.listen)
        .await
        .map_err(|cause| ServeError::Listen {
            listen: settings.listen,
            cause,
        })?;
    let served = tokio::select! {
        biased;
        gone = &mut house.driver => Err(driver_gone(gone)),
        () = shutdown.cancelled() => Ok(()),
        is_booted = house.handle.booted() => match is_booted {
            true => house.answer(&settings, listener, shutdown, announce).await,
            false => Err(ServeError::DriverGone),
        },
    };
    house.take_down().await;
    served
}

/// Everything that runs, in the order in which it is taken down.
struct House {
    api: Api,
    handle: Handle,
    exec: Arc<dyn Exec>,
    store: Arc<dyn Store>,
    driver: JoinHandle<()>,
    tracker: TaskTracker,
    closing: CancellationToken,
    stop: CancellationToken,
}

impl House {
    fn build<N, M, F>(
        surroundings: Surroundings<F>,
        settings: &Settings,
        life: Life,
        journal: Option<&Path>,
        net: &N,
    ) -> Result<House, ServeError>
    where
        N: Net,
        M: Machine,
        F: FnMut(Start) -> M + Send + 'static,
    {
        let Surroundings {
            clock,
            store,
            exec,
            computers,
            build,
        } = surroundings;
        let hub = Hub::new(settings.server.max_subscribers);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let ports = Ports {
            computers: computers.clone(),
            store: store.clone(),
            exec: exec.clone(),
            providers: open_providers(settings, net)?,
            webhooks: Arc::new(open_webhooks(settings, net)),
            hub: hub.clone(),
            clock: clock.clone(),
            cwd: tools::default_cwd(settings)?,
        };
        let Life { owner, number } = life;
        let mut core = settings.core(owner.clone());
        core.life = number;
        let lease_ms = core.lease.lease_ms;
        let (driver, handle) = Driver::new(
            core,
            ports,
            journal.map(Journal::open).transpose()?,
            build,
            tracker.clone(),
            stop.clone(),
        )
        .map_err(ServeError::Core)?;
        let closing = CancellationToken::new();
        let api = Api::new(Parts {
            handle: handle.clone(),
            store: store.clone(),
            hub: hub.clone(),
            clock: clock.clone(),
            providers: settings.providers.clone(),
            computers,
            token: settings.token.clone(),
            max_body_bytes: settings.server.max_body_bytes,
            lease_ms,
            closing: closing.clone(),
        });
        let house = House {
            api,
            handle,
            exec,
            driver: tokio::spawn(driver.run()),
            tracker,
            closing,
            stop,
            store: store.clone(),
        };
        if settings.liveness.notify {
            let (hub, handle) = (hub.clone(), house.handle.clone());
            store.listen(Box::new(move |hint| match hint {
                Hint::Conversation(id) => hub.hint(id),
                Hint::Node(node) if node == owner.node => handle.nudged(),
                Hint::Node(_) => {}
            }));
        }
        house.background(hub.poll(store, clock));
        Ok(house)
    }

    /// From the first answer to the last.
    async fn answer<L: Listener<Addr = SocketAddr>>(
        &mut self,
        settings: &Settings,
        listener: L,
        shutdown: CancellationToken,
        announce: impl FnOnce(SocketAddr),
    ) -> Result<(), ServeError> {
        self.background(sweep_runs(self.exec.clone()));
        self.background(guards::feed_watchdog(self.handle.clone()));
        self.background(guards::tell_memory(self.handle.clone()));
        let bound = listener.local_addr().map_err(|cause| ServeError::Listen {
            listen: settings.listen,
            cause,
        })?;
        let serving = Serving {
            connections: settings.server.max_connections,
            closing: self.closing.clone(),
        };
        let http = tokio::spawn(serving.run(listener, self.api.clone().router()));
        let address_file = settings.places.data_dir.join("address");
        data_dir::write_whole(&address_file, &format!("{bound}\n"))?;
        announce(bound);
        guards::tell_systemd(NotifyState::Ready);
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            gone = &mut self.driver => Err(driver_gone(gone)),
        };
        if ended.is_ok() {
            let finishing = Duration::from_secs(settings.server.drain_s);
            self.drain(finishing.saturating_add(HAND_OVER)).await;
        }
        if let Err(error) = fs::remove_file(&address_file) {
            tracing::debug!(%error, "the address file could not be removed");
        }
        self.closing.cancel();
        if let Err(error) = http.await {
            tracing::error!(%error, "the HTTP side ended badly");
        }
        ended
    }

    /// L8: what runs may finish, what waits stays in line.
    async fn drain(&self, patience: Duration) {
        tracing::info!("shutting down: running steps may finish");
        guards::tell_systemd(NotifyState::Stopping);
        self.handle.shut_down();
        let drained = tokio::time::timeout(patience, self.handle.drained());
        if drained.await.is_err() {
            tracing::warn!("turns are still running; they go on when the server is started again");
        }
    }

    async fn take_down(self) {
        self.stop.cancel();
        self.tracker.close();
        let tasks = tokio::time::timeout(TASKS_END, self.tracker.wait());
        if tasks.await.is_err() {
            tracing::warn!(left = self.tracker.len(), "tasks left behind");
        }
        if !self.driver.is_finished()
            && let Err(error) = self.driver.await
        {
            tracing::error!(%error, "the driver's task ended badly");
        }
        self.store.close().await;
    }

    fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker
            .spawn(async move { stop.run_until_cancelled(work).await });
    }
}

struct Serving {
    connections: usize,
    closing: CancellationToken,
}

impl Serving {
    async fn run<L: Listener<Addr = SocketAddr>>(self, listener: L, router: Router) {
        let handler = move |request: Request<Body>| {
            let router = router.clone();
            async move { Ok::<_, CutConnection>(answered(router, request).await) }
        };
        let limits = ServeLimits {
            connections: self.connections,
            drain_ms: STREAMS_END_MS,
            ..ServeLimits::default()
        };
        let listener = StallListener::new(listener, PATIENCE);
        serve_with(listener, handler, limits, self.closing).await;
    }
}

/// A panic in a handler is one request's failure (L7).
async fn answered(router: Router, request: Request<Body>) -> Response<Body> {
    match AssertUnwindSafe(router.oneshot(request))
        .catch_unwind()
        .await
    {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(payload) => {
            let what = panics::message(&*payload);
            tracing::error!(message = what, "a handler panicked");
            ApiError::Internal("the request's handler broke off".to_owned()).into_response()
        }
    }
}

fn driver_gone(ended: Result<(), JoinError>) -> ServeError {
    if let Err(error) = ended {
        tracing::error!(%error, "the driver's task ended");
    }
    ServeError::DriverGone
}

/// At boot and from time to time: finished runs do not fill the disk (O5).
async fn sweep_runs(exec: Arc<dyn Exec>) {
    loop {
        let report = exec.sweep_runs(RunBounds::default()).await;
        if report.removed > 0 {
            tracing::info!(
                removed = report.removed,
                kept = report.kept,
                "run directories swept"
            );
        }
        for failure in report.failures {
            tracing::warn!(failure, "a run directory could not be swept");
        }
        tokio::time::sleep(RUNS_SWEEP).await;
    }
}

fn open_webhooks<N: Net>(settings: &Settings, net: &N) -> Webhooks<N> {
    let masked = provider_keys(settings).chain(settings.token.clone());
    Webhooks::new(&settings.webhooks, net.clone(), masked)
}

fn provider_keys(settings: &Settings) -> impl Iterator<Item = Secret> {
    settings.providers.iter().filter_map(|p| match &p.dialect {
        Dialect::Chat { key, .. } => key.clone(),
        Dialect::Scripted { .. } => None,
    })
}

fn open_providers<N: Net>(
    settings: &Settings,
    net: &N,
) -> Result<BTreeMap<ProviderId, Arc<dyn Opens>>, ServeError> {
    let hooks = settings.webhooks.iter().filter_map(|w| w.secret.clone());
    let keys = provider_keys(settings).chain(hooks);
    let masked: Vec<Secret> = keys.chain(settings.token.clone()).collect();
    let open = |provider: &ProviderSettings| -> Result<Arc<dyn Opens>, ServeError> {
        let id = || provider.id.clone();
        match &provider.dialect {
            Dialect::Chat { base_url, key } => {
                let config = ProviderConfig {
                    id: provider.id.to_string(),
                    base_url: base_url.clone(),
                    key: key.clone(),
                    masked: masked.clone(),
                };
                let http = HttpProvider::new(&config, net.clone())
                    .map_err(|source| ServeError::Provider { id: id(), source })?;
                Ok(Arc::new(Provider::Http(http)))
            }
            Dialect::Scripted { script } => {
                let script = script.as_ref().map(|path| read_script(&provider.id, path));
                let scripted = ScriptedProvider::new(script.transpose()?);
                Ok(Arc::new(Provider::<N>::Scripted(scripted)))
            }
        }
    };
    let open = settings.providers.iter().map(|provider| {
        let opened = open(provider)?;
        Ok((provider.id.clone(), opened))
    });
    open.collect()
}

fn read_script(id: &ProviderId, path: &Path) -> Result<Script, ServeError> {
    let json = fs::read_to_string(path).map_err(|cause| PathError {
        path: path.to_owned(),
        cause,
    })?;
    Script::parse(&json).map_err(|source| ServeError::Script {
        id: id.clone(),
        path: path.to_owned(),
        source,
    })
}

/// The store, and the lock on the data directory where the store does not hold it.
async fn open_store(
    places: &Places,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<dyn Store>, Option<DirLock>), ServeError> {
    Ok(match &places.database {
        Database::Sqlite(path) => {
            let store = SqliteStore::open(path, clock)?;
            tracing::info!(path = %path.display(), "turns are kept in SQLite, for this server alone");
            (Arc::new(store), None)
        }
        Database::Postgres(url) => {
            let lock = DirLock::acquire(&places.data_dir).map_err(OpenError::from)?;
            let store = PostgresStore::open(url, PostgresOptions::default()).await?;
            tracing::info!(
                at = store.at(),
                "turns are kept in PostgreSQL, for all replicas"
            );
            (Arc::new(store), Some(lock))
        }
    })
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    #[tokio::test]
    async fn l7_a_panic_in_a_handler_is_one_requests_failure() {
        let broken = || async {
            if true {
                panic!("a handler that cannot");
            }
        };
        let router = Router::new()
            .route("/broken", get(broken))
            .route("/fine", get(|| async { "fine" }));
        let ask = |path: &str| Request::get(path).body(Body::empty()).expect("a request");
        let broken = answered(router.clone(), ask("/broken")).await;
        assert_eq!(broken.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
        let kind = broken.headers().get(http::header::CONTENT_TYPE);
        assert_eq!(kind.expect("a type"), "application/problem+json");
        assert!(answered(router, ask("/fine")).await.status().is_success());
    }
}
