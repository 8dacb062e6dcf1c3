//! What clients want: parsed, turned into verbs, answered.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::{Dispatcher, Stage};
use crate::config::Provider;
use crate::event::{AgentEvent, EventBody};
use crate::ids::{CommandId, ConversationId, Epoch, ProviderId, Slug, TurnId, time_ordered};
use crate::io::{Answer, Command, Effect, Invalid, Submit};
use crate::kit::Purpose;
use crate::store::{AbortOf, Accept, Reply, Verb};

/// Commands that may wait for the store's answer to the boot.
const EARLY_LIMIT: usize = 1_024;

impl Dispatcher {
    pub(super) fn command(&mut self, id: CommandId, command: Command) {
        if self.stage == Stage::Booting {
            if self.early.len() < EARLY_LIMIT {
                self.early.push_back((id, command));
            } else {
                self.answer(id, Answer::Unconfirmed);
            }
            return;
        }
        let verb = match command {
            Command::Submit(_) if self.stage != Stage::Serving => Err(Answer::ShuttingDown),
            Command::Submit(submit) => self.accept(*submit).map_err(Answer::Invalid),
            Command::Abort {
                turn,
                conversation,
                by,
                reason,
            } => Ok(Verb::RequestAbort(AbortOf {
                turn,
                conversation,
                by,
                reason,
                patience_ms: self.config.abort_patience_ms,
            })),
            Command::PutWorkspace {
                slug,
                title,
                cwd,
                computer,
            } => Ok(Verb::PutWorkspace {
                slug,
                title,
                cwd,
                computer,
            }),
            Command::TestComputer { computer } => {
                return self.test_computer(id, &computer);
            }
            Command::Star { slug, starred } => Ok(Verb::Star { slug, starred }),
            Command::SetLimit { limit: 0, .. } => Err(Answer::Invalid(Invalid::ZeroLimit)),
            Command::SetLimit { provider, limit } => Ok(Verb::SetLimit { provider, limit }),
        };
        match verb {
            Ok(verb) => {
                self.ctx().ask(Purpose::Command(id), verb);
            }
            Err(answer) => self.answer(id, answer),
        }
    }

    pub(super) fn command_answered(&mut self, id: CommandId, reply: Reply) {
        let answer = match reply {
            Reply::Accepted(receipt, events) => {
                self.publish_or_wake(&receipt.conversation, events);
                self.look(&receipt.provider.clone());
                Answer::Accepted(receipt)
            }
            Reply::Rejected(rejection) => Answer::Rejected(rejection),
            Reply::AbortRequested {
                turn,
                conversation,
                node,
            } => {
                // Its owner need not wait for its next look at the requests.
                match node == self.config.owner.node {
                    true => self.read_requests_soon(turn),
                    false => self.kit.emit(Effect::Nudge { node }),
                }
                Answer::AbortRequested { turn, conversation }
            }
            Reply::Ended { events, terminal } => {
                self.publish_or_wake(&terminal.conversation, events);
                self.look_everywhere();
                Answer::Ended(terminal)
            }
            Reply::Workspace(row) => {
                self.look_everywhere();
                Answer::Workspace(row)
            }
            Reply::Landed { .. } => {
                self.look_everywhere();
                Answer::Set
            }
            Reply::NotFound => Answer::NotFound,
            other => {
                self.kit.trace(
                    "unexpected-reply",
                    alloc::format!("command {}: {other:?}", id.0),
                );
                Answer::Unconfirmed
            }
        };
        self.answer(id, answer);
    }

    /// A verb that had landed unheard brings no events: followers must look.
    fn publish_or_wake(&mut self, conversation: &ConversationId, events: Vec<AgentEvent>) {
        if events.is_empty() {
            let conversation = conversation.clone();
            self.kit.emit(Effect::Wake { conversation });
        }
        self.kit.publish(events);
    }

    pub(super) fn answer(&mut self, id: CommandId, answer: Answer) {
        self.kit.emit(Effect::Answer { id, answer });
    }

    fn accept(&mut self, submit: Submit) -> Result<Verb, Invalid> {
        let limit_bytes = self.config.max_message_bytes;
        if submit.message.trim().is_empty() {
            return Err(Invalid::EmptyMessage);
        }
        if submit.message.len() > limit_bytes {
            return Err(Invalid::MessageTooLong {
                bytes: submit.message.len(),
                limit_bytes,
            });
        }
        let default_model = self.default_model()?;
        let model = submit
            .model
            .map(|model| self.resolve_model(&model))
            .transpose()?;
        let wall_ms = self.now.wall.0;
        let turn = TurnId(time_ordered(wall_ms, self.kit.random()));
        let is_new = submit.conversation.is_none();
        let conversation = match submit.conversation {
            Some(conversation) => conversation,
            None => ConversationId::generated(time_ordered(wall_ms, self.kit.random())),
        };
        if crate::planted!("D24") && is_new {
            self.show_start_early(&conversation, turn, &submit.message);
        }
        Ok(Verb::Accept(Box::new(Accept {
            turn,
            conversation,
            workspace: submit.workspace,
            model,
            default_model,
            message: submit.message,
            cwd: submit.cwd,
            computer: submit.computer,
            idempotency: submit.idempotency,
            configured: self
                .config
                .providers
                .iter()
                .map(|p| p.settings.id.clone())
                .collect(),
            max_open_turns: self.config.max_open_turns,
        })))
    }

    /// The defect behind D24: the first event of a conversation surely has
    /// number 1, so why wait for the store.
    fn show_start_early(&mut self, conversation: &ConversationId, turn: TurnId, message: &str) {
        let event = AgentEvent {
            seq: Some(1),
            conversation: conversation.clone(),
            turn,
            epoch: Epoch(0),
            at: self.now.wall,
            body: EventBody::TurnStart {
                message: message.to_string(),
                model: String::new(),
                workspace_id: Slug::default_workspace(),
            },
        };
        self.kit.publish(Vec::from([event]));
    }

    fn default_model(&self) -> Result<(ProviderId, String), Invalid> {
        let provider = self.config.providers.first();
        let named = provider.and_then(|p| Some((p.settings.id.clone(), p.models.first()?.clone())));
        named.ok_or_else(|| Invalid::UnknownProvider(String::new()))
    }

    /// `PROVIDER/MODEL`, or a model of the default provider. A model's own name
    /// may contain a slash: only a configured provider's name is one.
    fn resolve_model(&self, text: &str) -> Result<(ProviderId, String), Invalid> {
        let (default, _) = self.default_model()?;
        if let Some((provider, model)) = text.split_once('/') {
            let known = ProviderId::try_from(provider)
                .ok()
                .filter(|id| self.config.provider(id).is_some());
            return match (known, self.offering(text)) {
                (Some(_), _) if model.is_empty() => Err(Invalid::EmptyModel),
                (Some(id), _) => Ok((id, model.to_string())),
                (None, Some(id)) => Ok((id, text.to_string())),
                (None, None) => Err(Invalid::UnknownProvider(provider.to_string())),
            };
        }
        if text.is_empty() {
            Err(Invalid::EmptyModel)
        } else {
            Ok((default, text.to_string()))
        }
    }

    /// The provider that lists a model under exactly this name.
    fn offering(&self, model: &str) -> Option<ProviderId> {
        let lists = |p: &&Provider| p.models.iter().any(|known| known == model);
        let provider = self.config.providers.iter().find(lists)?;
        Some(provider.settings.id.clone())
    }
}
