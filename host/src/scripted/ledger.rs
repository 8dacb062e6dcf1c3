use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::Serialize;
use tokio::time::{Duration, Instant};

use super::facts::Facts;
use crate::panics::locked;

/// What the scripted provider saw: the requests, their number in flight, and
/// who is to be refused. Counts from a request's arrival to its response's end
/// or its client's disconnect.
#[derive(Debug)]
pub(crate) struct Ledger {
    started: Instant,
    state: Mutex<LedgerState>,
}

#[derive(Debug, Default)]
struct LedgerState {
    log: VecDeque<LogEntry>,
    next_n: u64,
    attempts: BTreeMap<u64, u32>,
    attempt_order: VecDeque<u64>,
    stats: Stats,
    storm: Option<Storm>,
}

/// One request, as `GET /log` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogEntry {
    /// The place in the order of arrival, from 1 on; never used twice.
    pub n: u64,
    /// Arrival, in milliseconds since the provider began.
    pub at_ms: u64,
    /// The end, on the same clock.
    pub ended_ms: Option<u64>,
    /// The model asked for.
    pub model: String,
    /// The last user message, cut at 200 bytes.
    pub message: String,
    /// FNV-1a of (user messages, step) in hex: attempts at one step share it.
    pub key: String,
    /// The step of the turn, from 0 on.
    pub step: u32,
    /// Earlier requests for the same step.
    pub attempt: u32,
    /// What became of it.
    pub state: RequestState,
    /// Why it was refused or invalid.
    pub reason: Option<String>,
    /// Requests in flight at its arrival, itself included.
    pub in_flight: u64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestState {
    /// Still being answered.
    Open,
    /// Answered to the end of the script.
    Finished,
    /// Cut by the script.
    Cut,
    /// The client went away first.
    CutByClient,
    /// Answered with an error status, by the script or a storm.
    Refused,
    /// Not a request that a strict vendor takes: answered with 400.
    Invalid,
}

/// `GET /stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests being answered.
    pub in_flight: u64,
    /// The most there ever were at a time.
    pub max_in_flight: u64,
    /// All requests.
    pub total: u64,
    /// Answered to the end.
    pub finished: u64,
    /// Cut by the script.
    pub cut: u64,
    /// Left by their client.
    pub cut_by_client: u64,
    /// Refused by the script or a storm.
    pub refused: u64,
    /// Rejected as no valid request.
    pub invalid: u64,
}

/// While it lasts, every request is refused.
#[derive(Clone, Debug)]
pub(crate) struct Storm {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) until: Instant,
}

impl Ledger {
    pub(crate) fn new() -> Ledger {
        Ledger {
            started: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// Counts a request in; dropping the ticket counts it out.
    pub(crate) fn arrive(self: &Arc<Self>) -> Ticket {
        let at_ms = self.now_ms();
        let mut state = self.lock();
        state.next_n += 1;
        state.stats.total += 1;
        state.stats.in_flight += 1;
        state.stats.max_in_flight = state.stats.max_in_flight.max(state.stats.in_flight);
        let entry = LogEntry {
            n: state.next_n,
            at_ms,
            ended_ms: None,
            model: String::new(),
            message: String::new(),
            key: String::new(),
            step: 0,
            attempt: 0,
            state: RequestState::Open,
            reason: None,
            in_flight: state.stats.in_flight,
        };
        if state.log.len() >= MAX_LOG {
            state.log.pop_front();
        }
        let n = entry.n;
        state.log.push_back(entry);
        drop(state);
        Ticket {
            ledger: self.clone(),
            n,
            is_closed: false,
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.lock().stats
    }

    /// Entries after number `after`, at most `limit`.
    pub(crate) fn entries(&self, after: u64, limit: usize) -> Vec<LogEntry> {
        let state = self.lock();
        let from = state.log.partition_point(|entry| entry.n <= after);
        state.log.range(from..).take(limit).cloned().collect()
    }

    /// Refuses everything for so long; zero ends a storm.
    pub(crate) fn set_storm(&self, status: u16, retry_after: Option<String>, lasts: Duration) {
        let until = Instant::now().checked_add(lasts);
        self.lock().storm = until.map(|until| Storm {
            status,
            retry_after,
            until,
        });
    }

    /// Forgets log, counts, attempts and storm; what is in flight stays counted.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        let in_flight = state.stats.in_flight;
        *state = LedgerState {
            next_n: state.next_n,
            stats: Stats {
                in_flight,
                max_in_flight: in_flight,
                ..Stats::default()
            },
            ..LedgerState::default()
        };
    }

    fn lock(&self) -> MutexGuard<'_, LedgerState> {
        locked(&self.state)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One request's place in the [`Ledger`].
#[derive(Debug)]
pub(crate) struct Ticket {
    ledger: Arc<Ledger>,
    n: u64,
    is_closed: bool,
}

impl Ticket {
    /// Notes what the request asks for. Answers the storm that refuses it, or
    /// else which attempt it is: a refused request spends none.
    pub(crate) fn identify(&self, facts: &Facts) -> Result<u32, Storm> {
        let mut state = self.ledger.lock();
        if state
            .storm
            .as_ref()
            .is_some_and(|storm| storm.until <= Instant::now())
        {
            state.storm = None;
        }
        let storm = state.storm.clone();
        let attempt = state.attempts.get(&facts.attempt_key).copied().unwrap_or(0);
        if storm.is_none() {
            state.count_attempt(facts.attempt_key);
        }
        if let Some(entry) = state.entry(self.n) {
            entry.model.clone_from(&facts.model);
            let shown = facts.message.floor_char_boundary(MAX_MESSAGE_BYTES);
            facts.message[..shown].clone_into(&mut entry.message);
            entry.key = format!("{:016x}", facts.attempt_key);
            entry.step = facts.step;
            entry.attempt = attempt;
        }
        storm.map_or(Ok(attempt), Err)
    }

    /// Notes why the request is refused; its state follows at its end.
    pub(crate) fn explain(&self, reason: &str) {
        if let Some(entry) = self.ledger.lock().entry(self.n) {
            let shown = reason.floor_char_boundary(MAX_MESSAGE_BYTES);
            entry.reason = Some(reason[..shown].to_owned());
        }
    }

    /// Counts the request out. The first call decides.
    pub(crate) fn close(&mut self, end: RequestState) {
        if self.is_closed {
            return;
        }
        self.is_closed = true;
        let now_ms = self.ledger.now_ms();
        let mut state = self.ledger.lock();
        state.stats.in_flight = state.stats.in_flight.saturating_sub(1);
        match end {
            RequestState::Open => {}
            RequestState::Finished => state.stats.finished += 1,
            RequestState::Cut => state.stats.cut += 1,
            RequestState::CutByClient => state.stats.cut_by_client += 1,
            RequestState::Refused => state.stats.refused += 1,
            RequestState::Invalid => state.stats.invalid += 1,
        }
        if let Some(entry) = state.entry(self.n) {
            entry.state = end;
            entry.ended_ms = Some(now_ms);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.close(RequestState::CutByClient);
    }
}

impl LedgerState {
    fn entry(&mut self, n: u64) -> Option<&mut LogEntry> {
        let at = self.log.binary_search_by_key(&n, |entry| entry.n).ok()?;
        self.log.get_mut(at)
    }

    fn count_attempt(&mut self, key: u64) {
        match self.attempts.get_mut(&key) {
            Some(count) => *count = count.saturating_add(1),
            None => {
                if self.attempt_order.len() >= MAX_LOG
                    && let Some(oldest) = self.attempt_order.pop_front()
                {
                    self.attempts.remove(&oldest);
                }
                self.attempts.insert(key, 1);
                self.attempt_order.push_back(key);
            }
        }
    }
}

/// Entries of the log, and steps whose attempts are remembered.
pub(crate) const MAX_LOG: usize = 100_000;
const MAX_MESSAGE_BYTES: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(key: u64) -> Facts {
        Facts {
            model: "m".to_owned(),
            message: "é".repeat(150),
            step: 0,
            attempt_key: key,
            stream: true,
            include_usage: false,
            body_bytes: 0,
        }
    }

    #[test]
    fn a_dropped_ticket_is_a_client_that_went_away() {
        let ledger = Arc::new(Ledger::new());
        drop(ledger.arrive());
        let stats = ledger.stats();
        assert_eq!((stats.in_flight, stats.cut_by_client), (0, 1));
        assert_eq!(ledger.entries(0, 9)[0].state, RequestState::CutByClient);
    }

    #[test]
    fn a_message_is_cut_at_a_character() {
        let ledger = Arc::new(Ledger::new());
        let ticket = ledger.arrive();
        ticket.identify(&facts(1)).unwrap();
        assert_eq!(ledger.entries(0, 1)[0].message, "é".repeat(100));
    }

    #[test]
    fn a_request_refused_by_a_storm_spends_no_attempt() {
        let ledger = Arc::new(Ledger::new());
        ledger.set_storm(429, None, Duration::from_secs(600));
        let refused = ledger.arrive().identify(&facts(1));
        assert_eq!(refused.unwrap_err().status, 429);
        ledger.set_storm(429, None, Duration::ZERO);
        let attempts: Vec<u32> = (0..3)
            .map(|_| ledger.arrive().identify(&facts(1)).unwrap())
            .collect();
        assert_eq!(attempts, [0, 1, 2]);
        assert_eq!(ledger.arrive().identify(&facts(2)).unwrap(), 0);
    }

    #[test]
    fn a_reset_forgets_all_but_what_is_in_flight() {
        let ledger = Arc::new(Ledger::new());
        let mut open = ledger.arrive();
        drop(ledger.arrive());
        ledger.reset();
        let stats = ledger.stats();
        assert_eq!(
            (stats.in_flight, stats.max_in_flight, stats.total),
            (1, 1, 0)
        );
        assert!(ledger.entries(0, 9).is_empty());
        open.close(RequestState::Finished);
        assert_eq!(ledger.stats().in_flight, 0);
        assert_eq!(ledger.entries(0, 9), []);
        let _next = ledger.arrive();
        assert_eq!(ledger.entries(0, 9)[0].n, 3);
    }

    #[test]
    fn the_log_and_the_attempts_are_bounded() {
        let ledger = Arc::new(Ledger::new());
        for key in 0..=MAX_LOG as u64 {
            ledger.arrive().identify(&facts(key)).unwrap();
        }
        assert_eq!(ledger.entries(0, usize::MAX).len(), MAX_LOG);
        assert_eq!(ledger.entries(0, 1)[0].n, 2);
        assert_eq!(ledger.lock().attempts.len(), MAX_LOG);
        assert_eq!(ledger.arrive().identify(&facts(0)).unwrap(), 0);
        assert_eq!(ledger.arrive().identify(&facts(9)).unwrap(), 1);
    }
}
