//! `order` (A2, A3, A7): a view's heads are the due waiters, starred
//! workspaces first, then by acceptance; a plan grants them in that order,
//! every fourth contended grant going to the first unstarred one.

use std::collections::BTreeMap;

use dispatch_core::admission::{AdmissionView, Head};
use dispatch_core::ids::{ProviderId, TurnId};
use dispatch_core::store::ApplyGrants;

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment, Waiting};

/// How many of each kind a view may show.
const SHOWN: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Turns in the order in which they were accepted.
    accepted: BTreeMap<TurnId, usize>,
    heard: BTreeMap<(usize, ProviderId), AdmissionView>,
}

impl Order {
    fn line(&self, line: &[Waiting], starred: bool) -> Vec<TurnId> {
        let mut of_kind: Vec<&Waiting> = line.iter().filter(|w| w.starred == starred).collect();
        of_kind.sort_by_key(|w| (w.accepted_at, self.accepted.get(&w.turn).copied()));
        of_kind.iter().take(SHOWN).map(|w| w.turn).collect()
    }

    fn viewed(
        &self,
        view: &AdmissionView,
        line: &[Waiting],
        streaming: u32,
    ) -> Result<(), Breach> {
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
            let (expected, seen) = (self.line(line, starred), turns(heads));
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
        let heard = self.heard.get(&(replica, plan.provider.clone()));
        let Some(view) = heard.filter(|view| view.version == plan.version) else {
            return Breach::new(
                "a plan for the view that was heard last",
                format!("version {} against {:?}", plan.version, heard.map(|v| v.version)),
            );
        };
        let asked: Vec<TurnId> = plan.grants.iter().map(|grant| grant.turn).collect();
        let (expected, fair) = in_order(view, asked.len());
        if asked == expected && plan.fair == fair {
            return Ok(());
        }
        Breach::new(
            format!("grants to {expected:?}, fairness counter {fair}"),
            format!("{asked:?}, {}", plan.fair),
        )
    }
}

fn turns(heads: &[Head]) -> Vec<TurnId> {
    heads.iter().map(|head| head.turn).collect()
}

/// The first `count` to be granted, and the fairness counter after them.
fn in_order(view: &AdmissionView, count: usize) -> (Vec<TurnId>, u32) {
    let (mut starred, mut unstarred) = (turns(&view.starred), turns(&view.unstarred));
    starred.reverse();
    unstarred.reverse();
    let (mut order, mut fair) = (Vec::new(), view.fair);
    while order.len() < count {
        let contended = !starred.is_empty() && !unstarred.is_empty();
        if contended {
            fair = if fair == 3 { 0 } else { fair + 1 };
        }
        let takes_unstarred = starred.is_empty() || (contended && fair == 0);
        let line = if takes_unstarred {
            &mut unstarred
        } else {
            &mut starred
        };
        let Some(turn) = line.pop() else { break };
        order.push(turn);
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
            } => self.viewed(view, line, *streaming),
            Fact::ViewHeard {
                replica,
                provider,
                view,
            } => {
                let at = (*replica, (*provider).clone());
                self.heard.insert(at, (*view).clone());
                Ok(())
            }
            Fact::Planned { replica, plan } => self.planned(*replica, plan),
            _ => Ok(()),
        }
    }
}
