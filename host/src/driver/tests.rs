mod made;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, EffectId, Epoch, Owner, Seq, Slug};
use dispatch_core::io::FailKind;
use dispatch_core::journal::Reader;
use dispatch_core::store::{
    ConversationRow, Fence, Reply, Segment, StoreFault, Verb, WorkspaceRow,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::clock::SystemClock;
use crate::computers::NoComputers;
use crate::exec::{EndReport, RunBounds, SweepReport, ToolEvent, ToolHandle, ToolRequest};
use crate::net::TokioNet;
use crate::provider::Ended;
use crate::store::{Done, ProviderView, ReadError, ReplicaView, TurnView};
use crate::webhook::Webhooks;
use made::{adopt, tool};

mod links;
mod stuck;

/// A machine that says what it was told and does what the test wants.
struct Puppet {
    start: Start,
    told: mpsc::UnboundedSender<(u32, Input)>,
    act: Act,
    effects: VecDeque<Effect>,
    due: Option<Instant>,
}

type Act = Arc<dyn Fn(&mut Puppet, &Input) + Send + Sync>;

impl Machine for Puppet {
    fn handle(&mut self, _: Now, input: Input) {
        let incarnation = self.start.config.owner.incarnation;
        let _ = self.told.send((incarnation, input.clone()));
        let act = self.act.clone();
        act(self, &input);
    }
    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
    fn acting_on(&self) -> Option<TurnId> {
        None
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}

/// Keeps every verb until the test answers it.
#[derive(Default)]
struct Held(Mutex<Vec<(Verb, Done)>>);

impl Store for Held {
    fn submit(&self, verb: Verb, done: Done) {
        if let Verb::Park { .. } = verb {
            panic!("this store cannot park");
        }
        self.0.lock().unwrap().push((verb, done));
    }
    fn events(
        &self,
        _: &ConversationId,
        _: Seq,
        _: usize,
    ) -> BoxFuture<'_, Result<Vec<AgentEvent>, ReadError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn conversation(
        &self,
        _: &ConversationId,
    ) -> BoxFuture<'_, Result<Option<ConversationRow>, ReadError>> {
        async { Ok(None) }.boxed()
    }
    fn turn(&self, _: TurnId) -> BoxFuture<'_, Result<Option<TurnView>, ReadError>> {
        async { Ok(None) }.boxed()
    }
    fn open_turns_of(&self, _: &ConversationId) -> BoxFuture<'_, Result<Vec<TurnView>, ReadError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn workspace(&self, _: &Slug) -> BoxFuture<'_, Result<Option<WorkspaceRow>, ReadError>> {
        async { Ok(None) }.boxed()
    }
    fn providers(&self) -> BoxFuture<'_, Result<Vec<ProviderView>, ReadError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn replicas(&self) -> BoxFuture<'_, Result<Vec<ReplicaView>, ReadError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn segments(&self, _: TurnId) -> BoxFuture<'_, Result<Vec<Segment>, ReadError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

/// A tool that runs until it is stopped or left, and one that cannot be adopted.
#[derive(Default)]
struct Tools {
    left: Arc<AtomicUsize>,
}

impl Exec for Tools {
    fn start(&self, _: ToolRequest, events: mpsc::Sender<ToolEvent>) -> ToolHandle {
        let (handle, wishes) = ToolHandle::new();
        let left = self.left.clone();
        tokio::spawn(async move {
            let last = tokio::select! {
                () = wishes.kill.cancelled() => {
                    ToolEvent::Done(crate::exec::ToolDone::failed("killed"))
                }
                () = wishes.leave.cancelled() => {
                    left.fetch_add(1, Ordering::SeqCst);
                    ToolEvent::Left
                }
            };
            let _ = events.send(last).await;
        });
        handle
    }
    fn adopt(&self, _: TurnId, _: &str, _: mpsc::Sender<ToolEvent>) -> ToolHandle {
        panic!("no orphans here")
    }
    fn unattended(&self) -> BoxFuture<'static, Vec<TurnId>> {
        async { Vec::new() }.boxed()
    }
    fn end_unattended(&self, _: Vec<TurnId>) -> BoxFuture<'static, EndReport> {
        async { EndReport::default() }.boxed()
    }
    fn sweep_runs(&self, _: RunBounds) -> BoxFuture<'static, SweepReport> {
        async { SweepReport::default() }.boxed()
    }
}

/// Sends bytes for ever, and counts the exchanges that are still alive.
#[derive(Default)]
struct Flood {
    alive: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Opens for Flood {
    fn open(&self, _: Bytes, _: u64, sink: mpsc::Sender<ProviderInput>) -> StreamHandle {
        self.alive.fetch_add(1, Ordering::SeqCst);
        let (alive, sent) = (Alive(self.alive.clone()), self.sent.clone());
        StreamHandle::spawn(sink.clone(), async move {
            let _alive = alive;
            while sink
                .send(ProviderInput::Bytes(Bytes::from_static(b"x")))
                .await
                .is_ok()
            {
                sent.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
            Ended::Unwatched
        })
    }
}

struct Rig {
    handle: Handle,
    told: mpsc::UnboundedReceiver<(u32, Input)>,
    starts: mpsc::UnboundedReceiver<Start>,
    store: Arc<Held>,
    left: Arc<AtomicUsize>,
    alive: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

fn rig(journal: Option<Journal>, act: impl Fn(&mut Puppet, &Input) + Send + Sync + 'static) -> Rig {
    let (told_in, told) = mpsc::unbounded_channel();
    let (starts_in, starts) = mpsc::unbounded_channel();
    let store = Arc::new(Held::default());
    let (tools, flood) = (Tools::default(), Flood::default());
    let (left, alive, sent) = (tools.left.clone(), flood.alive.clone(), flood.sent.clone());
    let owner = Owner {
        node: "n".into(),
        boot: 1,
        incarnation: 0,
    };
    let ports = Ports {
        computers: Arc::new(NoComputers),
        store: store.clone(),
        exec: Arc::new(tools),
        providers: BTreeMap::from([("p".try_into().unwrap(), Arc::new(flood) as _)]),
        webhooks: Arc::new(Webhooks::new(&[], TokioNet, [])),
        hub: Hub::new(4),
        clock: Arc::new(SystemClock::new()),
        cwd: "/".into(),
    };
    let act: Act = Arc::new(act);
    let build = move |start: Start| {
        let _ = starts_in.send(start.clone());
        Puppet {
            start,
            told: told_in.clone(),
            act: act.clone(),
            effects: VecDeque::new(),
            due: None,
        }
    };
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    let config = Config::new(owner, Vec::new());
    let (driver, handle) =
        Driver::new(config, ports, journal, build, tracker.clone(), stop.clone()).unwrap();
    tracker.spawn(driver.run());
    Rig {
        handle,
        told,
        starts,
        store,
        left,
        alive,
        sent,
        stop,
        tracker,
    }
}

impl Rig {
    async fn told(&mut self, wanted: impl Fn(&Input) -> bool) -> (u32, Input) {
        let search = async {
            loop {
                let told = self.told.recv().await.expect("the driver lives");
                if wanted(&told.1) {
                    return told;
                }
            }
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, search).await.expect("it comes")
    }

    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, wait).await.expect("it happens");
}

fn id(incarnation: u32, n: u64) -> EffectId {
    EffectId { incarnation, n }
}

fn load(n: u64, turn: u128) -> Effect {
    Effect::Store {
        id: id(0, n),
        verb: Verb::Load {
            turn: TurnId(turn),
            epoch: Epoch(1),
        },
    }
}

fn stream(n: u64) -> Effect {
    Effect::OpenProvider {
        id: id(0, n),
        provider: "p".try_into().unwrap(),
        turn: TurnId(1),
        body: Vec::new(),
        connect_ms: 1_000,
        not_after: Instant(u64::MAX),
    }
}

fn is_first_tick(puppet: &Puppet, input: &Input) -> bool {
    *input == Input::Tick && puppet.start.config.owner.incarnation == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_the_turn_whose_input_it_was_and_nothing_else() {
    let mut rig = rig(None, |puppet, input| {
        if is_first_tick(puppet, input) {
            puppet
                .effects
                .extend([load(1, 7), load(2, 8), stream(3), tool(4)]);
        }
        let life = puppet.start.config.owner.incarnation;
        if matches!(input, Input::Stored { id, .. } if id.n == 1 && life == 0) {
            panic!("planted in a test");
        }
    });
    until(|| rig.store.0.lock().unwrap().len() == 2).await;
    until(|| rig.alive.load(Ordering::SeqCst) == 1).await;
    let asking = {
        let handle = rig.handle.clone();
        let command = Command::SetLimit {
            provider: "p".try_into().unwrap(),
            limit: 1,
        };
        tokio::spawn(async move { handle.ask(command).await })
    };
    rig.told(|input| matches!(input, Input::Command { .. }))
        .await;
    let held = std::mem::take(&mut *rig.store.0.lock().unwrap());
    for (_, done) in held {
        done(Ok(Reply::Fenced));
    }
    assert_eq!(asking.await.unwrap(), Answer::Unconfirmed);
    let (mut has_ticked, mut has_late) = (false, false);
    while !(has_ticked && has_late) {
        let (life, input) = rig.told(|_| true).await;
        has_ticked |= life == 1 && input == Input::Tick;
        // A late reply to the old life reaches the new one, which drops it.
        has_late |= life == 1 && matches!(input, Input::Stored { id, .. } if id.n == 2);
    }
    let first = rig.starts.recv().await.unwrap();
    let second = rig.starts.recv().await.unwrap();
    assert_eq!(first.life, Life::First);
    assert_eq!(
        second.life,
        Life::Rebuilt {
            seal: Some(TurnId(7))
        }
    );
    assert_eq!(second.config.owner.incarnation, 1);
    assert_ne!(first.seed, second.seed);
    until(|| rig.alive.load(Ordering::SeqCst) == 0).await;
    until(|| rig.left.load(Ordering::SeqCst) == 1).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_bytes_do_not_hold_up_commands_and_stop_with_their_stream() {
    let mut rig = rig(None, |puppet, input| match input {
        Input::Tick => puppet.effects.push_back(stream(1)),
        Input::Command { id, .. } => puppet.effects.extend([
            Effect::CloseProvider {
                id: self::id(0, 1),
                finished: false,
            },
            Effect::Answer {
                id: *id,
                answer: Answer::Set,
            },
        ]),
        // A core that is behind.
        Input::ProviderBytes { .. } => std::thread::sleep(Duration::from_micros(200)),
        _ => {}
    });
    until(|| rig.sent.load(Ordering::SeqCst) > 2 * BYTES_LANE).await;
    let command = Command::SetLimit {
        provider: "p".try_into().unwrap(),
        limit: 1,
    };
    assert_eq!(rig.handle.ask(command).await, Answer::Set);
    let handled = async {
        let mut handled = 0;
        while let Some((_, input)) = rig.told.recv().await {
            match input {
                Input::ProviderBytes { .. } => handled += 1,
                Input::Command { .. } => break,
                _ => {}
            }
        }
        handled
    }
    .await;
    let waiting = rig.sent.load(Ordering::SeqCst) - handled;
    assert!(waiting <= BYTES_LANE + 2 * BATCH + 16, "{waiting} waited");
    until(|| rig.alive.load(Ordering::SeqCst) == 0).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_work_on_an_effect_is_an_input_about_it() {
    let mut rig = rig(None, |puppet, input| {
        if is_first_tick(puppet, input) {
            let park = Verb::Park {
                fence: Fence {
                    turn: TurnId(1),
                    epoch: Epoch(1),
                },
                restart: None,
            };
            puppet.effects.extend([
                adopt(1),
                Effect::Store {
                    id: id(0, 2),
                    verb: park,
                },
            ]);
        }
    });
    let mut seen = BTreeMap::new();
    while seen.len() < 2 {
        let (_, input) = rig
            .told(|input| matches!(input, Input::EffectPanicked { .. }))
            .await;
        if let Input::EffectPanicked { id, message } = input {
            seen.insert(id.n, message);
        }
    }
    assert_eq!(seen[&1], "no orphans here");
    assert_eq!(seen[&2], "this store cannot park");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stood_still_past_its_lease_begins_nothing() {
    let rig = rig(None, |puppet, input| {
        if is_first_tick(puppet, input) {
            // As a SIGSTOP between the input and its effects would.
            std::thread::sleep(Duration::from_millis(3));
            let mut late = stream(3);
            if let Effect::OpenProvider { not_after, .. } = &mut late {
                *not_after = Instant(1);
            }
            puppet.effects.extend([late, load(1, 7)]);
        }
    });
    until(|| rig.store.0.lock().unwrap().len() == 1).await;
    assert_eq!(rig.alive.load(Ordering::SeqCst), 0);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_provider_is_a_failed_stream() {
    let mut rig = rig(None, |puppet, input| {
        if is_first_tick(puppet, input) {
            let Effect::OpenProvider {
                id,
                turn,
                body,
                connect_ms,
                ..
            } = stream(1)
            else {
                return;
            };
            puppet.effects.push_back(Effect::OpenProvider {
                id,
                provider: "nobody".try_into().unwrap(),
                turn,
                body,
                connect_ms,
                not_after: Instant(u64::MAX),
            });
        }
    });
    let (_, input) = rig
        .told(|input| matches!(input, Input::ProviderFailed { .. }))
        .await;
    let Input::ProviderFailed { kind, message, .. } = input else {
        unreachable!()
    };
    assert_eq!(kind, FailKind::Connect);
    assert!(message.contains("nobody"));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_driver_comes_back_when_the_machine_says_so() {
    #[derive(Debug)]
    struct Simulated(tokio::time::Instant);
    impl Clock for Simulated {
        fn now(&self) -> Now {
            let mono = u64::try_from(self.0.elapsed().as_millis()).unwrap();
            Now {
                mono: Instant(mono),
                ..Now::default()
            }
        }
    }
    let (told_in, mut told) = mpsc::unbounded_channel();
    let clock = Arc::new(Simulated(tokio::time::Instant::now()));
    let ports = Ports {
        computers: Arc::new(NoComputers),
        store: Arc::new(Held::default()),
        exec: Arc::new(Tools::default()),
        providers: BTreeMap::new(),
        webhooks: Arc::new(Webhooks::new(&[], TokioNet, [])),
        hub: Hub::new(4),
        clock: clock.clone(),
        cwd: "/".into(),
    };
    let owner = Owner {
        node: "n".into(),
        boot: 1,
        incarnation: 0,
    };
    let build = move |start: Start| Puppet {
        start,
        told: told_in.clone(),
        act: Arc::new(|puppet, _| {
            puppet.due = match puppet.due {
                None => Some(Instant(3_600_000)),
                Some(_) => Some(Instant(u64::MAX)),
            };
        }),
        effects: VecDeque::new(),
        due: None,
    };
    let stop = CancellationToken::new();
    let (driver, _handle) = Driver::new(
        Config::new(owner, Vec::new()),
        ports,
        None,
        build,
        TaskTracker::new(),
        stop.clone(),
    )
    .unwrap();
    let driver = tokio::spawn(driver.run());
    assert_eq!(told.recv().await.unwrap().1, Input::Tick);
    assert_eq!(told.recv().await.unwrap().1, Input::Tick);
    assert_eq!(clock.now().mono, Instant(3_600_000));
    stop.cancel();
    driver.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_holds_every_life_and_every_input() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut rig = rig(Some(Journal::open(&path).unwrap()), |puppet, input| {
        if is_first_tick(puppet, input) {
            puppet.effects.push_back(load(1, 7));
        }
        if matches!(input, Input::Stored { .. }) {
            panic!("planted in a test");
        }
    });
    until(|| !rig.store.0.lock().unwrap().is_empty()).await;
    let (_, done) = rig.store.0.lock().unwrap().remove(0);
    done(Err(StoreFault::Unknown));
    rig.told(|input| matches!(input, Input::Stored { .. }))
        .await;
    rig.told(|input| *input == Input::Tick).await;
    rig.end().await;
    let mut reader = Reader::default();
    reader.feed(&std::fs::read(&path).unwrap());
    let mut entries = Vec::new();
    while let Some(entry) = reader.entry().unwrap() {
        entries.push(match entry {
            dispatch_core::journal::Entry::Start(start) => format!("{:?}", start.life),
            dispatch_core::journal::Entry::Step(step) => {
                let is_panic = step.effects == dispatch_core::journal::Effects::Panicked;
                format!("{}{}", step.n, if is_panic { " panicked" } else { "" })
            }
        });
    }
    let expected = [
        "First",
        "0",
        "1 panicked",
        "Rebuilt { seal: Some(00000000000000000000000007) }",
        "0",
    ];
    assert_eq!(entries, expected);
}
