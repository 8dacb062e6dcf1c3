//! A world around one Dispatcher that writes down every input it feeds.

use std::collections::{BTreeMap, VecDeque};

use dispatch_core::Dispatcher;
use dispatch_core::config::{Config, Provider};
use dispatch_core::event::OutputStream;
use dispatch_core::ids::{CommandId, EffectId, Owner};
use dispatch_core::io::{Answer, Command, Effect, Found, Input, Submit, ToolEnd};
use dispatch_core::store::{Model, ProviderSettings, Reply, Verb};
use dispatch_core::time::{Instant, Now, Timestamp};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use xxhash_rust::xxh3::Xxh3;

pub(crate) const SEED: [u8; 32] = [11; 32];

const LIMIT: u32 = 64;
const OPEN_TURNS: usize = 96;
const WALL_START_MS: u64 = 1_700_000_000_000;
/// Pieces in a millisecond, over all streams: 64 streams of about 50 a second.
const PIECES_A_MS: u64 = 3;

/// What was recorded, and the digest of the effects that it had.
pub(crate) struct Recording {
    pub(crate) start: Now,
    pub(crate) inputs: Vec<(Now, Input)>,
    pub(crate) digest: u64,
    pub(crate) tally: Tally,
}

/// Inputs by kind.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) stored: u64,
    pub(crate) commands: u64,
    pub(crate) tools: u64,
    pub(crate) ticks: u64,
    pub(crate) effects: u64,
}

pub(crate) fn config() -> Config {
    let settings = ProviderSettings {
        id: "mock".try_into().unwrap(),
        limit: LIMIT,
        cooldown_ms: 200,
    };
    let owner = Owner {
        node: "node".into(),
        boot: 1,
        incarnation: 0,
    };
    let models = vec!["model-1".to_owned()];
    Config::new(owner, vec![Provider { settings, models }])
}

/// Runs `turns` turns to their end.
pub(crate) fn record(turns: u64) -> Recording {
    let mut world = World::new();
    world.settle();
    while world.ended < turns {
        world.now_ms = world.idle_ms + world.pieces / PIECES_A_MS;
        world.submit_up_to(turns);
        world.fire_timers();
        world.answer_tools();
        if !world.feed_next_piece() {
            world.wait();
        }
    }
    assert!(world.model.markers.is_empty(), "a turn has not ended");
    Recording {
        start: World::at(0),
        inputs: world.inputs,
        digest: world.digest.digest(),
        tally: world.tally,
    }
}

struct World {
    core: Dispatcher,
    model: Model,
    rng: ChaCha8Rng,
    now_ms: u64,
    /// Of that, time in which no stream had anything to say.
    idle_ms: u64,
    pieces: u64,
    submitted: u64,
    ended: u64,
    streams: BTreeMap<EffectId, VecDeque<Input>>,
    /// The stream that is fed next comes after this one.
    last_fed: Option<EffectId>,
    tools: VecDeque<EffectId>,
    inputs: Vec<(Now, Input)>,
    digest: Xxh3,
    tally: Tally,
}

impl World {
    fn new() -> World {
        World {
            core: Dispatcher::new(config(), SEED, World::at(0)),
            model: Model::default(),
            rng: ChaCha8Rng::from_seed([5; 32]),
            now_ms: 0,
            idle_ms: 0,
            pieces: 0,
            submitted: 0,
            ended: 0,
            streams: BTreeMap::new(),
            last_fed: None,
            tools: VecDeque::new(),
            inputs: Vec::new(),
            digest: Xxh3::new(),
            tally: Tally::default(),
        }
    }

    fn at(now_ms: u64) -> Now {
        Now {
            mono: Instant(now_ms),
            wall: Timestamp(WALL_START_MS + now_ms),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    fn feed(&mut self, input: Input) {
        match &input {
            Input::ProviderBytes { bytes, .. } => {
                self.tally.bytes += 1;
                self.tally.total_bytes += bytes.len() as u64;
            }
            Input::Stored { .. } => self.tally.stored += 1,
            Input::Command { .. } => self.tally.commands += 1,
            Input::ToolOutput { .. }
            | Input::ToolDone { .. }
            | Input::ToolLost { .. }
            | Input::Adopted { .. }
            | Input::Unattended { .. } => {
                self.tally.tools += 1;
            }
            Input::Tick => self.tally.ticks += 1,
            Input::ProviderHead { .. }
            | Input::ProviderEnd { .. }
            | Input::ProviderFailed { .. }
            | Input::ComputerUp { .. }
            | Input::ComputerDown { .. }
            | Input::ComputerAlive { .. }
            | Input::DeliveryDone { .. }
            | Input::EffectPanicked { .. }
            | Input::Nudged
            | Input::Shutdown => {}
        }
        let now = World::at(self.now_ms);
        self.inputs.push((now, input.clone()));
        self.core.handle(now, input);
        self.settle();
    }

    fn settle(&mut self) {
        let mut outcomes = Vec::new();
        while let Some(effect) = self.core.poll_effect() {
            self.tally.effects += 1;
            self.digest.update(&postcard::to_allocvec(&effect).unwrap());
            match effect {
                Effect::Store { id, verb } => outcomes.push((id, self.apply(&verb))),
                Effect::OpenProvider { id, body, .. } => {
                    let answer = self.answer(id, &body);
                    self.streams.insert(id, answer);
                }
                Effect::CloseProvider { id, .. } => {
                    self.streams.remove(&id);
                }
                Effect::StartTool { id, .. } => self.tools.push_back(id),
                Effect::AdoptTool { id, .. } => {
                    let found = Found::Nothing;
                    self.feed(Input::Adopted { id, found });
                }
                Effect::FindUnattended { id, .. } => {
                    let turns = Vec::new();
                    self.feed(Input::Unattended { id, turns });
                }
                Effect::Publish { event } if event.is_terminal() => {
                    assert_eq!(event.kind(), "done", "{}", event.to_json());
                    self.ended += 1;
                }
                Effect::Publish { .. } => {}
                Effect::Answer { answer, .. } => {
                    assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
                }
                Effect::KillTool { .. }
                | Effect::LeaveTool { .. }
                | Effect::EndUnattended { .. }
                | Effect::ConnectComputer { .. }
                | Effect::PingComputer { .. }
                | Effect::CloseComputer { .. }
                | Effect::ComputerChanged { .. }
                | Effect::Deliver { .. }
                | Effect::CancelDelivery { .. }
                | Effect::Wake { .. }
                | Effect::Nudge { .. }
                | Effect::Trace { .. }
                | Effect::Ready { .. }
                | Effect::Drained => {}
            }
        }
        for (id, reply) in outcomes {
            let outcome = Ok(reply);
            self.feed(Input::Stored { id, outcome });
        }
    }

    fn apply(&mut self, verb: &Verb) -> Reply {
        self.model.now = Timestamp(WALL_START_MS + self.now_ms);
        self.model.apply(verb)
    }

    fn submit_up_to(&mut self, turns: u64) {
        while self.submitted < turns && ((self.submitted - self.ended) as usize) < OPEN_TURNS {
            self.submitted += 1;
            let conversation = format!("c-{}", self.submitted % 400);
            let submit = Submit {
                conversation: Some(conversation.as_str().try_into().unwrap()),
                workspace: None,
                model: None,
                message: format!(
                    "Question {}: what of it? {}",
                    self.submitted,
                    WORDS.join(" ")
                ),
                cwd: None,
                computer: None,
                idempotency: Some((format!("key-{}", self.submitted), self.submitted)),
            };
            self.feed(Input::Command {
                id: CommandId(self.submitted),
                command: Command::Submit(Box::new(submit)),
            });
        }
    }

    fn fire_timers(&mut self) {
        while self
            .core
            .poll_timeout()
            .is_some_and(|(at, _)| at.0 <= self.now_ms)
        {
            self.feed(Input::Tick);
        }
    }

    fn answer_tools(&mut self) {
        while let Some(id) = self.tools.pop_front() {
            for n in 0..3u64 {
                self.feed(Input::ToolOutput {
                    id,
                    stream: OutputStream::Combined,
                    offset: n * 12,
                    text: format!("line {n:05}\n\n"),
                });
            }
            self.feed(Input::ToolDone {
                id,
                end: ToolEnd {
                    ok: true,
                    output: "line of output\n".repeat(40),
                    duration_ms: 120,
                    spilled: None,
                },
            });
        }
    }

    /// Streams take turns, so that pieces of all of them come mixed.
    fn feed_next_piece(&mut self) -> bool {
        let next = self
            .last_fed
            .and_then(|last| {
                let after = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
                self.streams.range(after).next().map(|(id, _)| *id)
            })
            .or_else(|| self.streams.keys().next().copied());
        let Some(id) = next else { return false };
        self.last_fed = Some(id);
        let Some(input) = self.streams.get_mut(&id).and_then(VecDeque::pop_front) else {
            self.streams.remove(&id);
            return true;
        };
        self.pieces += 1;
        self.feed(input);
        true
    }

    fn wait(&mut self) {
        let (at, _) = self
            .core
            .poll_timeout()
            .expect("somebody looks at the line");
        self.idle_ms += at.since_ms(Instant(self.now_ms));
    }

    /// A refusal now and then, else two steps: some words and a tool call, then an answer.
    fn answer(&mut self, id: EffectId, body: &[u8]) -> VecDeque<Input> {
        if self.below(50) == 0 {
            return VecDeque::from([
                Input::ProviderHead {
                    id,
                    status: 503,
                    headers: vec![],
                },
                Input::ProviderEnd { id },
            ]);
        }
        let asks_tool = !ends_with_tool_result(body) && self.below(2) == 0;
        let words = 80 + self.below(160);
        let mut stream = Vec::new();
        let mut ends = Vec::new();
        for n in 0..words {
            let word = WORDS[((n + words) % WORDS.len() as u64) as usize];
            event(
                &mut stream,
                &mut ends,
                &format!(r#"{{"content":" {word}"}}"#),
                "null",
            );
        }
        if asks_tool {
            for delta in TOOL_CALL {
                event(&mut stream, &mut ends, delta, "null");
            }
        }
        let finish = if asks_tool {
            r#""tool_calls""#
        } else {
            r#""stop""#
        };
        event(&mut stream, &mut ends, "{}", finish);
        stream.extend_from_slice(b"data: [DONE]\n\n");
        ends.push(stream.len());

        let content_type = ("content-type".to_owned(), "text/event-stream".to_owned());
        let mut inputs = VecDeque::from([Input::ProviderHead {
            id,
            status: 200,
            headers: vec![content_type],
        }]);
        for bytes in self.pieces_of(&stream, &ends) {
            inputs.push_back(Input::ProviderBytes { id, bytes });
        }
        inputs.push_back(Input::ProviderEnd { id });
        inputs
    }

    /// Providers flush after each event; one piece in five is torn all the same.
    fn pieces_of(&mut self, stream: &[u8], ends: &[usize]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut from = 0;
        for end in ends {
            if self.below(5) == 0 {
                let torn = from + 1 + self.below((end - from - 1) as u64) as usize;
                pieces.push(stream[from..torn].to_vec());
                from = torn;
            }
            pieces.push(stream[from..*end].to_vec());
            from = *end;
        }
        pieces
    }
}

fn ends_with_tool_result(body: &[u8]) -> bool {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let messages = body["messages"].as_array().unwrap();
    messages.last().unwrap()["role"] == "tool"
}

fn event(stream: &mut Vec<u8>, ends: &mut Vec<usize>, delta: &str, finish: &str) {
    let data = format!(
        r#"data: {{"id":"chatcmpl-9f3","object":"chat.completion.chunk","created":1700000000,"model":"model-1","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
    );
    stream.extend_from_slice(data.as_bytes());
    stream.extend_from_slice(b"\n\n");
    ends.push(stream.len());
}

const TOOL_CALL: [&str; 3] = [
    r#"{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"bash","arguments":""}}]}"#,
    r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"command\":"}}]}"#,
    r#"{"tool_calls":[{"index":0,"function":{"arguments":"\"ls -l\"}"}}]}"#,
];

const WORDS: [&str; 12] = [
    "every",
    "turn",
    "that",
    "is",
    "accepted",
    "ends",
    "once,",
    "whatever",
    "dies",
    "in",
    "the",
    "meantime.",
];
