//! The smallest world in which the core's promises can be seen: a Dispatcher
//! with the Model as its store.

#![allow(dead_code, reason = "each test that shares it needs a part of it")]

use dispatch_core::Dispatcher;
use dispatch_core::config::{Config, Provider};
use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{CommandId, EffectId, Owner, TurnId};
use dispatch_core::io::{Answer, Command, Effect, Input, Submit, ToolEnd};
use dispatch_core::store::{Model, ProviderSettings, Receipt, StoreFault, Verb};
use dispatch_core::time::{Instant, Now, Timestamp};

pub(super) struct World {
    pub(super) core: Dispatcher,
    pub(super) model: Model,
    pub(super) now_ms: u64,
    pub(super) boots: u64,
    pub(super) commands: u64,
    pub(super) published: Vec<AgentEvent>,
    pub(super) answers: Vec<(CommandId, Answer)>,
    /// Open streams, tools and reaps, oldest first.
    pub(super) streams: Vec<(EffectId, String)>,
    pub(super) closed: Vec<EffectId>,
    pub(super) tools: Vec<(EffectId, String)>,
    pub(super) killed: Vec<EffectId>,
    pub(super) adopts: Vec<EffectId>,
    /// Connections that were asked for, oldest first.
    pub(super) connects: Vec<EffectId>,
    /// And links that were given up or closed.
    pub(super) cut: Vec<EffectId>,
    pub(super) left: Vec<EffectId>,
    pub(super) looks: Vec<EffectId>,
    pub(super) ended: Vec<TurnId>,
    pub(super) drained: bool,
    /// The next verbs' outcomes are lost after they landed.
    pub(super) lose_outcomes: u32,
    /// Verbs of this name are not answered before they are let go.
    pub(super) hold: Option<&'static str>,
    pub(super) held: Vec<(EffectId, Verb)>,
}

pub(super) fn config(boot: u64) -> Config {
    let settings = ProviderSettings {
        id: "mock".try_into().unwrap(),
        limit: 2,
        cooldown_ms: 200,
    };
    let owner = Owner {
        node: "node".into(),
        boot,
        incarnation: 0,
    };
    Config::new(
        owner,
        vec![Provider {
            settings,
            models: vec!["m".into()],
        }],
    )
}

impl World {
    pub(super) fn new() -> World {
        let now = Now {
            mono: Instant(0),
            wall: Timestamp(1_000_000),
        };
        let mut world = World {
            core: Dispatcher::new(config(1), [7; 32], now),
            model: Model::default(),
            now_ms: 0,
            boots: 1,
            commands: 0,
            published: vec![],
            answers: vec![],
            streams: vec![],
            closed: vec![],
            tools: vec![],
            killed: vec![],
            adopts: vec![],
            connects: vec![],
            cut: vec![],
            left: vec![],
            looks: vec![],
            ended: vec![],
            drained: false,
            lose_outcomes: 0,
            hold: None,
            held: vec![],
        };
        world.settle();
        world
    }

    pub(super) fn now(&self) -> Now {
        Now {
            mono: Instant(self.now_ms),
            wall: Timestamp(1_000_000 + self.now_ms),
        }
    }

    pub(super) fn crash(&mut self) {
        self.boots += 1;
        self.core = Dispatcher::new(config(self.boots), [8; 32], self.now());
        self.streams.clear();
        self.tools.clear();
        self.connects.clear();
        self.settle();
    }

    pub(super) fn feed(&mut self, input: Input) {
        self.core.handle(self.now(), input);
        self.settle();
    }

    pub(super) fn settle(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Store { id, verb } if self.hold == Some(verb.name()) => {
                    self.held.push((id, verb));
                }
                Effect::Store { id, verb } => {
                    self.model.now = Timestamp(1_000_000 + self.now_ms);
                    let reply = self.model.apply(&verb);
                    let lost = self.lose_outcomes > 0 && !verb.is_read();
                    self.lose_outcomes -= u32::from(lost);
                    let outcome = if lost {
                        Err(StoreFault::Unknown)
                    } else {
                        Ok(reply)
                    };
                    self.core.handle(self.now(), Input::Stored { id, outcome });
                }
                Effect::OpenProvider { id, body, .. } => {
                    dispatch_core::wire::validate::validate_transcript(&body).unwrap();
                    self.streams.push((id, String::from_utf8(body).unwrap()));
                }
                Effect::CloseProvider { id, .. } => self.closed.push(id),
                Effect::StartTool { id, start } => self.tools.push((id, start.call_id.clone())),
                Effect::KillTool { id } => self.killed.push(id),
                Effect::AdoptTool { id, .. } => self.adopts.push(id),
                Effect::LeaveTool { id } => self.left.push(id),
                Effect::FindUnattended { id, .. } => self.looks.push(id),
                Effect::EndUnattended { turns, .. } => self.ended.extend(turns),
                Effect::Publish { event } => self.published.push(*event),
                Effect::Answer { id, answer } => self.answers.push((id, answer)),
                Effect::Drained => self.drained = true,
                Effect::Deliver { .. } | Effect::CancelDelivery { .. } => {
                    panic!("nobody is to be told")
                }
                Effect::ConnectComputer { id, .. } => self.connects.push(id),
                Effect::CloseComputer { id } => self.cut.push(id),
                Effect::PingComputer { .. }
                | Effect::ComputerChanged { .. }
                | Effect::Wake { .. }
                | Effect::Nudge { .. }
                | Effect::Ready { .. }
                | Effect::Trace { .. } => {}
            }
        }
        self.core.check().unwrap();
    }

    /// Answers what was held back.
    pub(super) fn let_go(&mut self) {
        self.hold = None;
        for (id, verb) in std::mem::take(&mut self.held) {
            let outcome = Ok(self.model.apply(&verb));
            self.feed(Input::Stored { id, outcome });
        }
    }

    /// Lets time pass, timer by timer.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some((at, _)) = self.core.poll_timeout().filter(|(at, _)| at.0 <= end) {
            self.now_ms = self.now_ms.max(at.0);
            self.feed(Input::Tick);
        }
        self.now_ms = end;
        self.feed(Input::Tick);
    }

    pub(super) fn command(&mut self, command: Command) -> Answer {
        self.commands += 1;
        let id = CommandId(self.commands);
        self.feed(Input::Command { id, command });
        for _ in 0..20 {
            if let Some(n) = self.answers.iter().position(|(known, _)| *known == id) {
                return self.answers.remove(n).1;
            }
            self.pass(100);
        }
        panic!("no answer");
    }

    pub(super) fn submit(&mut self, message: &str) -> Receipt {
        self.submit_to(message, None)
    }

    /// A message to a conversation whose tools run on this computer from now on.
    pub(super) fn submit_to(&mut self, message: &str, computer: Option<&str>) -> Receipt {
        let submit = Submit {
            conversation: Some("c-1".try_into().unwrap()),
            workspace: None,
            model: None,
            message: message.into(),
            cwd: None,
            computer: computer.map(|name| name.try_into().unwrap()),
            idempotency: None,
        };
        match self.command(Command::Submit(Box::new(submit))) {
            Answer::Accepted(receipt) => receipt,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn abort(&mut self, turn: TurnId) -> Answer {
        let by = "client".into();
        self.command(Command::Abort {
            turn: Some(turn),
            conversation: None,
            by,
            reason: None,
        })
    }

    pub(super) fn stream(&mut self) -> EffectId {
        for _ in 0..40 {
            if !self.streams.is_empty() {
                return self.streams.remove(0).0;
            }
            self.pass(100);
        }
        panic!("no stream was opened");
    }

    pub(super) fn head(&mut self, id: EffectId, status: u16, headers: &[(&str, &str)]) {
        let headers = headers
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        self.feed(Input::ProviderHead {
            id,
            status,
            headers,
        });
    }

    pub(super) fn sse(&mut self, id: EffectId, data: &[&str]) {
        for data in data {
            let bytes = format!("data: {data}\n\n").into_bytes();
            self.feed(Input::ProviderBytes { id, bytes });
        }
    }

    pub(super) fn says(&mut self, id: EffectId, text: &str) {
        self.head(id, 200, &[("content-type", "text/event-stream")]);
        let delta = format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#);
        self.sse(id, &[&delta]);
    }

    pub(super) fn stops(&mut self, id: EffectId) {
        self.sse(
            id,
            &[
                r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
                "[DONE]",
            ],
        );
        self.feed(Input::ProviderEnd { id });
    }

    pub(super) fn asks_for_tools(&mut self, id: EffectId, calls: &[&str]) {
        self.asks_for(id, "bash", calls);
    }

    pub(super) fn asks_for(&mut self, id: EffectId, tool: &str, calls: &[&str]) {
        self.head(id, 200, &[("content-type", "text/event-stream")]);
        for (n, call) in calls.iter().enumerate() {
            let delta = format!(
                r#"{{"choices":[{{"delta":{{"tool_calls":[{{"index":{n},"id":"{call}","function":{{"name":"{tool}","arguments":"{{}}"}}}}]}}}}]}}"#
            );
            self.sse(id, &[&delta]);
        }
        self.sse(
            id,
            &[
                r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
                "[DONE]",
            ],
        );
        self.feed(Input::ProviderEnd { id });
    }

    pub(super) fn tool_ends(&mut self) {
        let (id, call) = self.tools.remove(0);
        let end = ToolEnd {
            ok: true,
            output: format!("out of {call}"),
            duration_ms: 1,
            spilled: None,
        };
        self.feed(Input::ToolDone { id, end });
    }

    /// The log as types, terminal events with their code.
    pub(super) fn log(&self) -> Vec<String> {
        let id = "c-1".try_into().unwrap();
        self.model
            .log_after(&id, 0)
            .map(|event| match &event.body {
                EventBody::Error { code, cause, .. } => format!("error({code}, {cause})"),
                EventBody::ProviderRetry {
                    attempt, delay_ms, ..
                } => format!("retry({attempt}, {delay_ms})"),
                EventBody::StepComplete { partial: true, .. } => "step-partial".into(),
                body => body.kind().into(),
            })
            .collect()
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.model.markers.is_empty()
            && self.core.owned_turns().count() == 0
            && self.model.conversations.values().all(|c| c.turn.is_none())
    }
}
