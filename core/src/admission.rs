//! Who streams next (A1, A2, A4, A7): the order of the line and the plan that
//! turns a view of the store into grants. Pure functions over values; the
//! store applies a plan by compare-and-set, so a stale view can only grant too
//! little, never too much.

use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, TurnId};
use crate::time::Timestamp;

/// A place in line (A2): starred workspaces first, then who came first, then
/// a sequence number, so that the order is total. Kept through all steps and
/// retries of a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Serialize, Deserialize)]
pub struct WaiterKey {
    /// The workspace bears no star; `false` sorts first.
    pub unstarred: bool,
    /// When the turn's prompt was started: its acceptance, in store time.
    pub started_at: Timestamp,
    /// Allocated by the store in the accepting transaction.
    pub seq: u64,
}

impl Ord for WaiterKey {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        let order = (self.unstarred, self.started_at).cmp(&(other.unstarred, other.started_at));
        if crate::planted!("D03") {
            return order;
        }
        order.then(self.seq.cmp(&other.seq))
    }
}

impl PartialOrd for WaiterKey {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A turn at the head of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The turn.
    pub turn: TurnId,
    /// Its place.
    pub key: WaiterKey,
    /// Its conversation's epoch as the view saw it: the grant's guard.
    pub epoch: Epoch,
    /// The node that alone may run it.
    pub bound: Option<Arc<str>>,
}

/// Whether a provider takes requests at all (A5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gate {
    /// Up to the limit.
    Open,
}

/// All that a grant decision may rest on, read in one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionView {
    /// The provider row's version: the plan's guard.
    pub version: u64,
    /// Store time of the reading.
    pub now: Timestamp,
    /// Streams allowed in flight (A1).
    pub limit: u32,
    /// Turns in state `streaming`.
    pub streaming: u32,
    /// When each slot that still counts was left (A4).
    pub cooling: Vec<Timestamp>,
    /// How long a slot counts after it was left.
    pub cooldown_ms: u64,
    /// The gate.
    pub gate: Gate,
    /// Contended grants so far, modulo four (A7).
    pub fair: u32,
    /// Due waiters of starred workspaces, first ones first.
    pub starred: Vec<Head>,
    /// Due waiters of the others, first ones first.
    pub unstarred: Vec<Head>,
    /// When the next waiter that is not due yet becomes so.
    pub next_due: Option<Timestamp>,
    /// Nodes that grant what is bound to them (L9).
    pub live: Vec<Arc<str>>,
}

/// How many heads of each line a view carries: what one pass can grant at most.
pub const HEADS: usize = 64;

/// A share of one in this many contended grants goes to the unstarred (A7).
pub const FAIR_SHARE: u32 = 4;

/// One turn to be granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The turn.
    pub turn: TurnId,
    /// The conversation's epoch that the view saw.
    pub epoch: Epoch,
}

/// What to grant, and when to look again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// In this order.
    pub grants: Vec<Grant>,
    /// The fairness counter after them.
    pub fair: u32,
    /// Store time at which the view changes without anyone's doing.
    pub look_again_at: Option<Timestamp>,
    /// The node that has to grant the turn before which the plan stops (L9).
    pub waits_for: Option<Arc<str>>,
}

/// Whose a head of the line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// This node may run it.
    Ours,
    /// Another node will: it must not be overtaken.
    Others,
    /// Nobody can, for now.
    Nobodys,
}

fn whose(head: &Head, node: &str, live: &[Arc<str>]) -> Whose {
    match &head.bound {
        None => Whose::Ours,
        Some(bound) if **bound == *node => Whose::Ours,
        Some(bound) if live.contains(bound) => Whose::Others,
        Some(_) => Whose::Nobodys,
    }
}

/// Decides which waiters `node` grants the free slots. It stops at one that
/// another live node has to grant, which would starve behind those that any
/// node may (L9).
pub fn plan_grants(view: &AdmissionView, node: &str) -> Plan {
    let Gate::Open = view.gate;
    let used = view
        .streaming
        .saturating_add(u32::try_from(view.cooling.len()).unwrap_or(u32::MAX));
    // One slot that never counts as free, except where there is only one.
    let hidden = u32::from(view.limit > 1 && crate::planted!("D42"));
    let mut free = view.limit.saturating_sub(used + hidden);
    let can_run = |head: &&Head| whose(head, node, &view.live) != Whose::Nobodys;
    let (mut starred, mut unstarred) = (
        view.starred.iter().filter(can_run).peekable(),
        view.unstarred.iter().filter(can_run).peekable(),
    );
    let mut fair = view.fair;
    let mut grants = Vec::new();
    let mut waits_for = None;
    // A list that the view cut off says nothing about who comes after it.
    let cut_off = |list: &[Head]| list.len() >= HEADS;
    while free > 0 {
        if (starred.peek().is_none() && cut_off(&view.starred))
            || (unstarred.peek().is_none() && cut_off(&view.unstarred))
        {
            break;
        }
        let contended = starred.peek().is_some() && unstarred.peek().is_some();
        let turn_of = match contended {
            true => (fair % FAIR_SHARE + 1) % FAIR_SHARE,
            false => fair,
        };
        let takes_unstarred = starred.peek().is_none() || (contended && turn_of == 0);
        let line: &mut dyn Iterator<Item = &Head> = match takes_unstarred {
            true => &mut unstarred,
            false => &mut starred,
        };
        let Some(head) = line.next() else { break };
        if whose(head, node, &view.live) == Whose::Others && !crate::planted!("D47") {
            waits_for.clone_from(&head.bound);
            break;
        }
        fair = turn_of;
        grants.push(Grant {
            turn: head.turn,
            epoch: head.epoch,
        });
        free -= 1;
    }
    let someone_waits = starred.peek().is_some() || unstarred.peek().is_some();
    let slot_cools_at = view
        .cooling
        .iter()
        .min()
        .map(|left_at| *left_at + view.cooldown_ms);
    let look_again_at = match (slot_cools_at.filter(|_| someone_waits), view.next_due) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Plan {
        grants,
        fair,
        look_again_at,
        waits_for,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn head(n: u64, unstarred: bool) -> Head {
        Head {
            turn: TurnId(u128::from(n)),
            key: WaiterKey {
                unstarred,
                started_at: Timestamp(n),
                seq: n,
            },
            epoch: Epoch(0),
            bound: None,
        }
    }
    fn view(limit: u32, starred: Vec<Head>, unstarred: Vec<Head>) -> AdmissionView {
        AdmissionView {
            version: 1,
            now: Timestamp(10_000),
            limit,
            streaming: 0,
            cooling: vec![],
            cooldown_ms: 200,
            gate: Gate::Open,
            fair: 0,
            starred,
            unstarred,
            next_due: None,
            live: vec![ME.into(), "b".into()],
        }
    }
    const ME: &str = "a";
    fn planned(view: &AdmissionView) -> Plan {
        plan_grants(view, ME)
    }
    fn bound(n: u64, node: &str) -> Head {
        Head {
            bound: Some(node.into()),
            ..head(n, true)
        }
    }
    fn granted(plan: &Plan) -> Vec<u128> {
        plan.grants.iter().map(|g| g.turn.0).collect()
    }

    #[test]
    fn a2_a_starred_waiter_overtakes_one_that_came_first() {
        let starred = WaiterKey {
            unstarred: false,
            started_at: Timestamp(9),
            seq: 9,
        };
        let first = WaiterKey {
            unstarred: true,
            started_at: Timestamp(1),
            seq: 1,
        };
        assert!(starred < first);
    }

    #[test]
    fn a2_equal_times_are_ordered_by_sequence() {
        let key = |seq| WaiterKey {
            unstarred: true,
            started_at: Timestamp(5),
            seq,
        };
        assert!(key(1) < key(2));
        assert_ne!(key(1).cmp(&key(2)), core::cmp::Ordering::Equal);
    }

    #[test]
    fn a7_every_fourth_contended_grant_goes_to_the_oldest_unstarred() {
        let plan = planned(&view(
            9,
            (100..106).map(|n| head(n, false)).collect(),
            (1..5).map(|n| head(n, true)).collect(),
        ));
        assert_eq!(granted(&plan), [100, 101, 102, 1, 103, 104, 105, 2, 3]);
        assert_eq!(plan.fair, 3, "only contended grants count");
    }

    #[test]
    fn a1_a_limit_below_what_is_in_flight_grants_nothing() {
        let mut v = view(2, vec![], vec![head(1, true)]);
        v.streaming = 5;
        assert!(planned(&v).grants.is_empty());
    }

    #[test]
    fn a4_a_slot_left_just_now_still_counts_and_says_when_to_look_again() {
        let mut v = view(2, vec![], vec![head(1, true), head(2, true)]);
        v.streaming = 1;
        v.cooling = vec![Timestamp(9_900)];
        let plan = planned(&v);
        assert!(plan.grants.is_empty());
        assert_eq!(plan.look_again_at, Some(Timestamp(10_100)));
    }

    #[test]
    fn a_pass_with_nobody_due_looks_again_when_someone_is() {
        let mut v = view(4, vec![], vec![]);
        v.next_due = Some(Timestamp(15_000));
        assert_eq!(planned(&v).look_again_at, Some(Timestamp(15_000)));
    }

    #[test]
    fn a7_a_list_cut_off_by_the_view_is_not_granted_past_its_end() {
        let heads = |count: usize, first, unstarred| -> Vec<Head> {
            let some = (first..).map(|n| head(n, unstarred));
            some.take(count).collect()
        };
        // Starred waiters behind the view's last one may precede the unstarred.
        let cut_off = planned(&view(500, heads(HEADS, 1, false), heads(40, 900, true)));
        let last_starred = cut_off.grants.last().map(|grant| grant.turn);
        assert_eq!(last_starred, Some(TurnId(64)));
        assert!(cut_off.grants.len() < HEADS + 40);

        let whole = heads(HEADS - 1, 1, false);
        let all_seen = planned(&view(500, whole, heads(HEADS - 1, 900, true)));
        assert_eq!(all_seen.grants.len(), 2 * (HEADS - 1));
    }

    #[test]
    fn l9_a_node_stops_at_what_another_live_node_has_to_grant() {
        let line = vec![head(1, true), bound(2, "b"), head(3, true)];
        let plan = planned(&view(9, vec![], line));
        assert_eq!(granted(&plan), [1]);
    }

    #[test]
    fn l9_a_node_grants_what_is_bound_to_itself_and_passes_over_the_dead() {
        let line = vec![bound(1, "gone"), bound(2, ME), head(3, true)];
        let plan = planned(&view(9, vec![], line));
        assert_eq!(granted(&plan), [2, 3]);
    }

    #[test]
    fn l9_a_fair_share_that_another_node_has_to_grant_is_not_counted() {
        let starred = (100..104).map(|n| head(n, false)).collect();
        let plan = planned(&view(9, starred, vec![bound(1, "b")]));
        assert_eq!((granted(&plan), plan.fair), (vec![100, 101, 102], 3));
    }
}
