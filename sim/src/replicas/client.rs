//! The clients' node: they submit to some replica, give up waiting, submit
//! again where a key makes that safe, abort, flip stars and move limits.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use dispatch_core::ids::{ConversationId, Seq, Slug, TurnId};
use dispatch_core::io::{Answer, Command, Submit};
use madsim::task::spawn_local;
use madsim::time::{sleep, timeout};

use super::follow::follow;
use super::plan::REPLICAS;
use super::ring::Ring;
use super::wire;
use crate::fact::Fact;
use crate::scenario::{Act, SECOND, Scenario};
use crate::script::Script;

/// What all clients know.
pub(super) struct Clients {
    /// Each conversation's id, once it is known.
    conversations: Vec<Option<ConversationId>>,
    turns: BTreeMap<u32, TurnId>,
    /// Submissions whose client has an answer or has given up.
    settled: BTreeSet<u32>,
    acts_left: usize,
    waiting: usize,
    /// What followers have read.
    pub(super) cursors: Vec<(ConversationId, Seq)>,
}

const PATIENCE: Duration = Duration::from_secs(100);

/// What came of a command.
enum Heard {
    Answer(Box<Answer>),
    /// Nothing was sent.
    NotSent,
    /// It may have been carried out or not.
    Nothing,
}

impl Clients {
    pub(super) fn new(scenario: &Scenario) -> Clients {
        let conversations = scenario.conversations.iter();
        Clients {
            conversations: conversations.map(|c| c.id.clone()).collect(),
            turns: BTreeMap::new(),
            settled: BTreeSet::new(),
            acts_left: scenario.acts.len(),
            waiting: 0,
            cursors: Vec::new(),
        }
    }

    pub(super) fn unanswered(&self) -> usize {
        self.waiting
    }

    /// Every client has done what it was going to do.
    pub(super) fn are_done(&self, scenario: &Scenario) -> bool {
        self.acts_left == 0 && self.settled.len() == scenario.messages.len()
    }
}

pub(super) async fn live(ring: Rc<Ring>) {
    let acts = ring.plan.scenario.acts.iter().map(|(at, _)| *at);
    for (n, at) in acts.enumerate() {
        let ring = ring.clone();
        spawn_local(async move {
            ring.wait_until(at).await;
            act(&ring, &ring.plan.scenario.acts[n].1).await;
            ring.clients.borrow_mut().acts_left -= 1;
        });
    }
    ring.over().await;
}

async fn act(ring: &Rc<Ring>, act: &Act) {
    ring.count();
    ring.line(|| format!("client {act:?}"));
    match act {
        Act::Submit { token } | Act::SubmitAgain { token } => {
            let message = &ring.plan.scenario.messages[*token as usize];
            if message.keyed && message.doubled {
                let (ring, token) = (ring.clone(), *token);
                spawn_local(async move { submit(&ring, token).await });
            }
            submit(ring, *token).await;
        }
        Act::Abort {
            token,
            by_conversation,
        } => abort(ring, *token, *by_conversation).await,
        Act::Star { slug, starred } => star(ring, slug.clone(), *starred).await,
        Act::Limit { provider, limit } => {
            let (provider, limit) = (ring.providers[*provider].clone(), *limit);
            ring.ask(Command::SetLimit { provider, limit }).await;
        }
        // This ring has none.
        Act::Test { .. } => {}
    }
}

async fn star(ring: &Ring, slug: Slug, starred: bool) {
    // A star needs a workspace, and PUT makes one.
    let put = Command::PutWorkspace {
        slug: slug.clone(),
        title: None,
        cwd: None,
        computer: None,
    };
    ring.ask(put).await;
    ring.ask(Command::Star { slug, starred }).await;
}

async fn abort(ring: &Ring, token: u32, by_conversation: bool) {
    let turn = ring.clients.borrow().turns.get(&token).copied();
    let conversation = turn.and_then(|turn| {
        let disk = ring.disk.borrow();
        disk.model.turns.get(&turn).map(|t| t.conversation.clone())
    });
    let (Some(turn), Some(conversation)) = (turn, conversation) else {
        return;
    };
    let (turn, conversation) = match by_conversation {
        true => (None, Some(conversation)),
        false => (Some(turn), None),
    };
    ring.tell(&Fact::AbortAsked {
        turn,
        conversation: conversation.as_ref(),
    });
    let abort = Command::Abort {
        turn,
        conversation,
        by: "client".to_owned(),
        reason: None,
    };
    if let Heard::Answer(answer) = ring.ask(abort).await {
        let (token, answer) = (None, &*answer);
        ring.tell(&Fact::Answered { token, answer });
    }
}

/// Sends a message until it has an answer, or nobody may send it again.
async fn submit(ring: &Rc<Ring>, token: u32) {
    let is_keyed = ring.plan.scenario.messages[token as usize].keyed;
    while !ring.clients.borrow().settled.contains(&token) {
        let is_unsure = match ring.ask(ring.submission(token)).await {
            Heard::Answer(answer) => match ring.answered(token, &answer) {
                Some(conversation) => return start_following(ring, conversation),
                None => *answer != Answer::ShuttingDown,
            },
            Heard::NotSent => false,
            Heard::Nothing => true,
        };
        let wait = match is_unsure {
            true if !is_keyed => {
                ring.clients.borrow_mut().settled.insert(token);
                return;
            }
            true => ring.dice.clients.borrow_mut().spread(SECOND, 5 * SECOND),
            false => SECOND,
        };
        sleep(Duration::from_micros(wait)).await;
    }
}

fn start_following(ring: &Rc<Ring>, conversation: ConversationId) {
    let cursors = &mut ring.clients.borrow_mut().cursors;
    if !cursors.iter().any(|(known, _)| *known == conversation) {
        spawn_local(follow(ring.clone(), cursors.len(), conversation.clone()));
        cursors.push((conversation, 0));
    }
}

impl Ring {
    /// Asks some replica.
    async fn ask(&self, command: Command) -> Heard {
        let replica = self.dice.clients.borrow_mut().index(REPLICAS);
        self.clients.borrow_mut().waiting += 1;
        let heard = timeout(PATIENCE, wire::command(replica, command)).await;
        self.clients.borrow_mut().waiting -= 1;
        match heard {
            Ok(Ok(answer)) => Heard::Answer(Box::new(answer)),
            Ok(Err(false)) => Heard::NotSent,
            Ok(Err(true)) | Err(_) => Heard::Nothing,
        }
    }

    fn submission(&self, token: u32) -> Command {
        let scenario = &self.plan.scenario;
        let message = &scenario.messages[token as usize];
        let conversation = &scenario.conversations[message.conversation];
        let known = self.clients.borrow().conversations[message.conversation].clone();
        let provider = &self.providers[conversation.provider];
        let is_first = known.is_none() || conversation.id.is_some();
        Command::Submit(Box::new(Submit {
            workspace: is_first.then(|| conversation.workspace.clone()),
            conversation: known,
            model: Some(format!("{provider}/model-1")),
            message: Script::message(token),
            cwd: None,
            computer: None,
            idempotency: message
                .keyed
                .then(|| (format!("key-{token}"), u64::from(token))),
        }))
    }

    /// The turn's conversation, if the message was accepted.
    fn answered(&self, token: u32, answer: &Answer) -> Option<ConversationId> {
        let told = Some(token);
        self.tell(&Fact::Answered {
            token: told,
            answer,
        });
        let Answer::Accepted(receipt) = answer else {
            return None;
        };
        let message = &self.plan.scenario.messages[token as usize];
        let clients = &mut *self.clients.borrow_mut();
        clients.conversations[message.conversation]
            .get_or_insert_with(|| receipt.conversation.clone());
        clients.turns.insert(token, receipt.turn);
        clients.settled.insert(token);
        Some(receipt.conversation.clone())
    }
}
