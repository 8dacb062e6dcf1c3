//! A small driver: one Dispatcher around the Model, a provider that refuses,
//! asks for a tool and answers, and the journal that such a server would write.

use std::collections::VecDeque;

use dispatch_core::Dispatcher;
use dispatch_core::config::{Config, Provider};
use dispatch_core::ids::{CommandId, EffectId, Owner, ProviderId};
use dispatch_core::io::{Command, Effect, Input, Submit, ToolEnd};
use dispatch_core::journal::{Life, Recorder, Start};
use dispatch_core::store::{Model, ProviderSettings};
use dispatch_core::time::{Instant, Now, Timestamp};

pub(crate) struct Run {
    pub(crate) model: Model,
    node: String,
    boots: u64,
    core: Dispatcher,
    now: Now,
    recorder: Recorder,
    inbox: VecDeque<Input>,
    requests: u64,
    commands: u64,
    inputs: usize,
    lies: bool,
}

impl Run {
    pub(crate) fn new(node: &str) -> Run {
        let now = Now {
            mono: Instant(5),
            wall: Timestamp(1_700_000_000_000),
        };
        let start = start(node, 1, now);
        let mut run = Run {
            model: Model::default(),
            node: node.to_owned(),
            boots: 1,
            core: start.dispatcher(),
            now,
            recorder: Recorder::default(),
            inbox: VecDeque::new(),
            requests: 0,
            commands: 0,
            inputs: 0,
            lies: false,
        };
        run.recorder.start(&start).unwrap();
        run.carry_out();
        run
    }

    /// The process dies and is started again a little later.
    pub(crate) fn restart(&mut self) {
        self.boots += 1;
        self.now = Now {
            mono: Instant(self.boots * 1_000_000),
            wall: self.now.wall + 2_000,
        };
        let start = start(&self.node, self.boots, self.now);
        self.inbox.clear();
        self.core = start.dispatcher();
        self.recorder.start(&start).unwrap();
        self.carry_out();
    }

    pub(crate) fn submit(&mut self, conversation: &str, message: &str) {
        self.command(Command::Submit(Box::new(Submit {
            conversation: Some(conversation.try_into().unwrap()),
            workspace: None,
            model: None,
            message: message.to_owned(),
            cwd: None,
            computer: None,
            idempotency: None,
        })));
    }

    fn command(&mut self, command: Command) {
        self.commands += 1;
        let id = CommandId(self.commands);
        self.inbox.push_back(Input::Command { id, command });
    }

    /// Three conversations, one of them with two messages, another aborted;
    /// `most` inputs of it.
    pub(crate) fn story(&mut self, most: usize) {
        let until = self.inputs + most;
        self.submit("first", "hello");
        self.submit("first", "and then?");
        self.submit("second", "hi");
        self.submit("third", "stop me");
        let conversation = Some("third".try_into().unwrap());
        let mut is_aborted = false;
        while self.inputs < until {
            if !is_aborted && until - self.inputs < most / 3 {
                is_aborted = true;
                self.command(Command::Abort {
                    turn: None,
                    conversation: conversation.clone(),
                    by: "client".to_owned(),
                    reason: None,
                });
            }
            self.step();
        }
    }

    /// Goes on until nothing is on its way.
    pub(crate) fn settle(&mut self) {
        while !self.inbox.is_empty() {
            self.step();
        }
    }

    /// Every answer of the store has been heard.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self
            .inbox
            .iter()
            .any(|input| matches!(input, Input::Stored { .. }))
    }

    /// The next input's digest will not be that of its effects.
    pub(crate) fn lie(&mut self) {
        self.lies = true;
    }

    pub(crate) fn journal(&self) -> Vec<u8> {
        self.recorder.frames().to_vec()
    }

    fn step(&mut self) {
        self.inputs += 1;
        let input = self.inbox.pop_front().unwrap_or(Input::Tick);
        if let (Input::Tick, Some((due, _))) = (&input, self.core.poll_timeout()) {
            let ms = due.since_ms(self.now.mono);
            self.now = Now {
                mono: self.now.mono + ms,
                wall: self.now.wall + ms,
            };
        }
        self.recorder.input(self.now, &input).unwrap();
        self.core.handle(self.now, input);
        if std::mem::take(&mut self.lies) {
            self.recorder.effect(&Effect::Drained);
        }
        self.carry_out();
        self.recorder.finish().unwrap();
    }

    fn carry_out(&mut self) {
        self.model.now = self.now.wall;
        while let Some(effect) = self.core.poll_effect() {
            self.recorder.effect(&effect);
            match effect {
                Effect::Store { id, verb } => {
                    let outcome = Ok(self.model.apply(&verb));
                    self.inbox.push_back(Input::Stored { id, outcome });
                }
                Effect::OpenProvider { id, .. } => self.answer(id),
                Effect::StartTool { id, .. } => {
                    let end = ToolEnd {
                        ok: true,
                        output: "done".to_owned(),
                        duration_ms: 1,
                        spilled: None,
                    };
                    self.inbox.push_back(Input::ToolDone { id, end });
                }
                Effect::CloseProvider { .. }
                | Effect::KillTool { .. }
                | Effect::AdoptTool { .. }
                | Effect::LeaveTool { .. }
                | Effect::FindUnattended { .. }
                | Effect::EndUnattended { .. }
                | Effect::ConnectComputer { .. }
                | Effect::PingComputer { .. }
                | Effect::CloseComputer { .. }
                | Effect::ComputerChanged { .. }
                | Effect::Deliver { .. }
                | Effect::CancelDelivery { .. }
                | Effect::Publish { .. }
                | Effect::Wake { .. }
                | Effect::Nudge { .. }
                | Effect::Answer { .. }
                | Effect::Trace { .. }
                | Effect::Ready { .. }
                | Effect::Drained => {}
            }
        }
    }

    /// In turn: a refusal, a tool call, an answer.
    fn answer(&mut self, id: EffectId) {
        self.requests += 1;
        let head = |status| Input::ProviderHead {
            id,
            status,
            headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
        };
        let lines = match self.requests % 3 {
            1 => {
                self.inbox.push_back(head(503));
                self.inbox.push_back(Input::ProviderEnd { id });
                return;
            }
            2 => {
                r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"bash","arguments":"{\"command\":\"ls\"}"}}]}}]}

data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}

data: [DONE]

"#
            }
            _ => {
                r#"data: {"choices":[{"delta":{"content":"well"}}]}

data: {"choices":[{"delta":{},"finish_reason":"stop"}]}

data: [DONE]

"#
            }
        };
        let bytes = lines.as_bytes().to_vec();
        self.inbox.push_back(head(200));
        self.inbox.push_back(Input::ProviderBytes { id, bytes });
        self.inbox.push_back(Input::ProviderEnd { id });
    }
}

fn start(node: &str, boot: u64, now: Now) -> Start {
    let settings = ProviderSettings {
        id: ProviderId::try_from("mock").unwrap(),
        limit: 1,
        cooldown_ms: 0,
    };
    let owner = Owner {
        node: node.into(),
        boot,
        incarnation: 0,
    };
    let models = vec!["m".to_owned()];
    Start {
        config: Config::new(owner, vec![Provider { settings, models }]),
        seed: [u8::try_from(boot).unwrap(); 32],
        now,
        life: Life::First,
    }
}
