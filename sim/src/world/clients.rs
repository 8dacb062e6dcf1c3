//! Clients: they submit, give up waiting, submit again where a key makes that
//! safe, abort, flip stars and move limits.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::ids::{CommandId, ConversationId, Slug, TurnId};
use dispatch_core::io::{Answer, Command, Input, Submit};

use super::{Event, World};
use crate::clock::Us;
use crate::fact::Fact;
use crate::scenario::{Act, SECOND, Scenario};
use crate::script::Script;
use crate::timeline::Note;

/// What all clients know.
pub(crate) struct Clients {
    commands: u64,
    pending: BTreeMap<u64, Pending>,
    /// Each conversation's id, once it is known.
    pub(super) conversations: Vec<Option<ConversationId>>,
    turns: BTreeMap<u32, TurnId>,
    /// Submissions whose client has an answer or has given up.
    settled: BTreeSet<u32>,
    acts_left: usize,
    to_be_sent: usize,
}

#[derive(Clone)]
struct Pending {
    replica: usize,
    life: u32,
    token: Option<u32>,
    /// The client no longer waits, the server still owes an answer.
    given_up: bool,
    /// The server has it: a panic makes it forget whom to answer.
    is_taken: bool,
}

const PATIENCE: Us = 100 * SECOND;

impl Clients {
    pub(super) fn new(scenario: &Scenario) -> Clients {
        let conversations = scenario.conversations.iter();
        Clients {
            commands: 0,
            pending: BTreeMap::new(),
            conversations: conversations.map(|c| c.id.clone()).collect(),
            turns: BTreeMap::new(),
            settled: BTreeSet::new(),
            acts_left: scenario.acts.len(),
            to_be_sent: (scenario.acts.iter())
                .filter(|(_, act)| matches!(act, Act::Submit { .. }))
                .count(),
        }
    }

    pub(super) fn unanswered(&self) -> usize {
        self.pending.len()
    }

    /// Every client has done what it was going to do.
    pub(super) fn are_done(&self) -> bool {
        self.acts_left == 0 && self.settled.len() == self.to_be_sent
    }
}

impl World<'_> {
    pub(super) fn act(&mut self, act: Act) {
        self.clients.acts_left = self.clients.acts_left.saturating_sub(1);
        self.recorder.line(self.at, || format!("client {act:?}"));
        self.recorder
            .watched(|watch| watch.note(self.at, &Note::Act(&act)));
        match act {
            Act::Submit { token } => {
                let message = self.scenario.messages[token as usize].clone();
                self.submit(token);
                if message.keyed && message.doubled {
                    self.submit(token);
                }
            }
            Act::SubmitAgain { token } => self.submit(token),
            Act::Abort {
                token,
                by_conversation,
            } => self.abort(token, by_conversation),
            Act::Star { slug, starred } => {
                // A star needs a workspace, and PUT makes one.
                let command = Command::PutWorkspace {
                    slug: slug.clone(),
                    title: None,
                    cwd: None,
                    computer: None,
                };
                self.command(None, command);
                self.star(slug, starred);
            }
            Act::Test { computer } => {
                let computer = self.computers.id(computer).clone();
                self.tell(&Fact::ComputerTested {
                    computer: &computer,
                });
                self.command(None, Command::TestComputer { computer });
            }
            Act::Limit { provider, limit } => {
                let provider = self.providers[provider].clone();
                self.command(None, Command::SetLimit { provider, limit });
            }
        }
    }

    fn star(&mut self, slug: Slug, starred: bool) {
        self.command(None, Command::Star { slug, starred });
    }

    fn submit(&mut self, token: u32) {
        let scenario = self.scenario.clone();
        let message = &scenario.messages[token as usize];
        let conversation = &scenario.conversations[message.conversation];
        let known = self.clients.conversations[message.conversation].clone();
        let provider = &self.providers[conversation.provider];
        let command = Command::Submit(Box::new(Submit {
            workspace: known.is_none().then(|| conversation.workspace.clone()),
            conversation: known.clone().or_else(|| conversation.id.clone()),
            model: Some(format!("{provider}/model-1")),
            message: Script::message(token),
            cwd: None,
            computer: conversation
                .computer
                .map(|computer| self.computers.id(computer).clone()),
            idempotency: message
                .keyed
                .then(|| (format!("key-{token}"), u64::from(token))),
        }));
        if !self.command(Some(token), command) {
            // Nobody listens: nothing was sent.
            self.again(token, SECOND);
        }
    }

    /// Sends a command to some replica that can be reached.
    fn command(&mut self, token: Option<u32>, command: Command) -> bool {
        let reachable: Vec<usize> = (0..self.replicas.len())
            .filter(|replica| self.replicas[*replica].is_reachable())
            .collect();
        if reachable.is_empty() {
            return false;
        }
        let replica = *self.dice.clients().pick(&reachable);
        let life = self.replicas[replica].life;
        self.clients.commands += 1;
        let n = self.clients.commands;
        let pending = Pending {
            replica,
            life,
            token,
            given_up: false,
            is_taken: false,
        };
        self.clients.pending.insert(n, pending);
        let id = CommandId(n);
        // Some arrive in one and the same millisecond.
        let after = self.dice.clients().below(3) * 700;
        self.send(after, replica, life, Input::Command { id, command });
        self.queue_in(PATIENCE, Event::GiveUp(n));
        true
    }

    fn again(&mut self, token: u32, after: Us) {
        self.clients.acts_left += 1;
        self.queue_in(after, Event::Act(Act::SubmitAgain { token }));
    }

    fn abort(&mut self, token: u32, by_conversation: bool) {
        let Some(turn) = self.clients.turns.get(&token).copied() else {
            return;
        };
        let Some(row) = self.model.turns.get(&turn) else {
            return;
        };
        let conversation = row.conversation.clone();
        let (turn, conversation) = match by_conversation {
            true => (None, Some(conversation)),
            false => (Some(turn), None),
        };
        self.tell(&Fact::AbortAsked {
            turn,
            conversation: conversation.as_ref(),
        });
        let by = "client".to_owned();
        let reason = None;
        self.command(
            None,
            Command::Abort {
                turn,
                conversation,
                by,
                reason,
            },
        );
    }

    pub(super) fn answered(&mut self, replica: usize, id: CommandId, answer: Answer) {
        let Some(pending) = self.clients.pending.remove(&id.0) else {
            let result = Err(format!("a second answer to command {}: {answer:?}", id.0));
            self.tell(&Fact::Checked { replica, result });
            return;
        };
        let token = pending.token;
        self.tell(&Fact::Answered {
            token,
            answer: &answer,
        });
        let Some(token) = token else { return };
        match answer {
            Answer::Accepted(receipt) => {
                let conversation = self.scenario.messages[token as usize].conversation;
                self.clients.conversations[conversation]
                    .get_or_insert_with(|| receipt.conversation.clone());
                self.clients.turns.insert(token, receipt.turn);
                self.clients.settled.insert(token);
                self.follow(&receipt.conversation);
            }
            Answer::ShuttingDown if !pending.given_up => self.again(token, SECOND),
            _ if !pending.given_up => self.unsure(token),
            _ => {}
        }
    }

    /// It may have been accepted or not: only a key makes it safe to ask again.
    fn unsure(&mut self, token: u32) {
        if self.clients.settled.contains(&token) {
            return;
        }
        if self.scenario.messages[token as usize].keyed {
            let after = self.dice.clients().spread(SECOND, 5 * SECOND);
            self.again(token, after);
        } else {
            self.clients.settled.insert(token);
        }
    }

    pub(super) fn give_up(&mut self, command: u64) {
        let Some(pending) = self.clients.pending.get_mut(&command) else {
            return;
        };
        if !std::mem::replace(&mut pending.given_up, true)
            && let Some(token) = pending.token
        {
            self.unsure(token);
        }
    }

    /// A process has died: it will answer nothing.
    pub(super) fn lose_commands(&mut self, replica: usize) {
        self.lose_commands_if(replica, |_| true);
    }

    /// The core has panicked: what it had taken will not be answered.
    pub(super) fn lose_taken_commands(&mut self, replica: usize) {
        self.lose_commands_if(replica, |pending| pending.is_taken);
    }

    pub(super) fn take_command(&mut self, id: CommandId) {
        if let Some(pending) = self.clients.pending.get_mut(&id.0) {
            pending.is_taken = true;
        }
    }

    fn lose_commands_if(&mut self, replica: usize, which: impl Fn(&Pending) -> bool) {
        let life = self.replicas[replica].life;
        let lost: Vec<Pending> = self
            .clients
            .pending
            .extract_if(.., |_, pending| {
                pending.replica == replica && pending.life == life && which(pending)
            })
            .map(|(_, pending)| pending)
            .collect();
        for pending in lost {
            if let (Some(token), false) = (pending.token, pending.given_up) {
                self.unsure(token);
            }
        }
    }
}
