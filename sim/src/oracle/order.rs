//! `order` (A2, A3, A7): a view's heads are the due waiters, starred
//! workspaces first, then by acceptance; a plan grants them in that order,
//! every fourth contended grant going to the first unstarred one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dispatch_core::admission::{AdmissionView, Head};
use dispatch_core::ids::{ProviderId, TurnId};
use dispatch_core::store::ApplyGrants;

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment, Waiting};

/// How many of each kind a view may show.
const SHOWN: usize = 64;
/// How many views are remembered.
const HEARD: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Turns in the order in which they were accepted.
    accepted: BTreeMap<TurnId, usize>,
    /// The last views that a replica heard: one that came too late for it may
    /// stand among them.
    heard: BTreeMap<(usize, ProviderId), VecDeque<AdmissionView>>,
}

impl Order {
    /// Who is bound to a node that is away is not in the way of the others.
    fn line(&self, line: &[Waiting], starred: bool, live: &[Arc<str>]) -> Vec<TurnId> {
        let may_go = |w: &&Waiting| w.bound.as_ref().is_none_or(|node| live.contains(node));
        let of_kind = line.iter().filter(|w| w.starred == starred);
        let mut of_kind: Vec<&Waiting> = of_kind.filter(may_go).collect();
        of_kind.sort_by_key(|w| (w.accepted_at, self.accepted.get(&w.turn).copied()));
        of_kind.iter().take(SHOWN).map(|w| w.turn).collect()
    }

    fn viewed(&self, view: &AdmissionView, line: &[Waiting], streaming: u32) -> Result<(), Breach> {
        if view.streaming != streaming {
            return Breach::new(
                format!("{streaming} streaming turns in a view"),
                format!("{}", view.streaming),
            );
        }
        if line.is_empty() && view.starred.is_empty() && view.unstarred.is_empty() {
            return Ok(());
        }
        for (starred, heads) in [(true, &view.starred), (false, &view.unstarred)] {
            let (expected, seen) = (self.line(line, starred, &view.live), turns(heads));
            if expected != seen {
                return Breach::new(
                    format!("the line (starred: {starred}) {expected:?}"),
                    format!("{seen:?}"),
                );
            }
        }
        Ok(())
    }

    fn planned(&self, replica: usize, plan: &ApplyGrants) -> Result<(), Breach> {
        let asked: Vec<TurnId> = plan.grants.iter().map(|grant| grant.turn).collect();
        let heard = self.heard.get(&(replica, plan.provider.clone()));
        let of_version = heard
            .into_iter()
            .flatten()
            .filter(|view| view.version == plan.version);
        let permitted: Vec<(Vec<TurnId>, u32)> = of_version
            .map(|view| in_order(view, &plan.owner.node, asked.len()))
            .collect();
        let wanted = (asked, plan.fair);
        if permitted.contains(&wanted) {
            return Ok(());
        }
        Breach::new(
            format!("grants and fairness counter by a view that was heard: {permitted:?}"),
            format!("{wanted:?} by version {}", plan.version),
        )
    }
}

fn turns(heads: &[Head]) -> Vec<TurnId> {
    heads.iter().map(|head| head.turn).collect()
}

/// The first `count` that `node` may grant, and the fairness counter after them:
/// it must not overtake one that only another node can.
fn in_order(view: &AdmissionView, node: &str, count: usize) -> (Vec<TurnId>, u32) {
    let of = |heads: &[Head]| heads.iter().rev().cloned().collect::<Vec<Head>>();
    let (mut starred, mut unstarred) = (of(&view.starred), of(&view.unstarred));
    let (mut order, mut fair) = (Vec::new(), view.fair);
    while order.len() < count {
        let contended = !starred.is_empty() && !unstarred.is_empty();
        let next_fair = match (contended, fair) {
            (true, 3) => 0,
            (true, fair) => fair + 1,
            (false, fair) => fair,
        };
        let takes_unstarred = starred.is_empty() || (contended && next_fair == 0);
        let line = if takes_unstarred {
            &mut unstarred
        } else {
            &mut starred
        };
        let Some(head) = line.pop() else { break };
        if head.bound.is_some_and(|bound| *bound != *node) {
            break;
        }
        fair = next_fair;
        order.push(head.turn);
    }
    (order, fair)
}

impl Oracle for Order {
    fn name(&self) -> &'static str {
        "order"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Moved {
                before: None,
                after,
            } => {
                let rank = self.accepted.len();
                self.accepted.entry(after.turn).or_insert(rank);
                Ok(())
            }
            Fact::ViewRead {
                view,
                line,
                streaming,
                ..
            } => self.viewed(view, line, *streaming),
            Fact::ViewHeard {
                replica,
                provider,
                view,
            } => {
                let at = (*replica, (*provider).clone());
                let heard = self.heard.entry(at).or_default();
                heard.push_back((*view).clone());
                if heard.len() > HEARD {
                    heard.pop_front();
                }
                Ok(())
            }
            Fact::Planned { replica, plan } => self.planned(*replica, plan),
            _ => Ok(()),
        }
    }
}
