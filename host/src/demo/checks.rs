//! What must be true of the turns that were played: judged by their logs, read
//! again over HTTP, and by what the provider saw.

use std::time::Duration;

use serde_json::Value;

use super::DemoError;
use super::plan::{End, LIMIT, Plan, SCHEDULE_S, expected_order};
use super::screen::{Screen, Tone};
use super::stage::{Played, Stage};
use super::view::{complete_text, is_terminal};

/// All that the checks rest on.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    pub(super) plan: Plan,
    pub(super) played: Vec<Played>,
    /// The provider's `GET /log`.
    pub(super) requests: Vec<Value>,
    /// The provider's `GET /stats`.
    pub(super) stats: Value,
    /// What the tool wrote.
    pub(super) written: String,
}

/// One statement, and why it does not hold if it does not.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) statement: String,
    pub(super) verdict: Result<(), String>,
}

type Verdict = Result<(), String>;

impl Evidence {
    pub(super) async fn gather(stage: &Stage, plan: &Plan) -> Result<Evidence, DemoError> {
        let provider = stage.provider()?;
        let requests = provider.get("/log").await?;
        let written = std::fs::read_to_string(stage.scratch().join("answer.txt"));
        Ok(Evidence {
            plan: plan.clone(),
            played: stage.played.clone(),
            requests: requests.as_array().cloned().unwrap_or_default(),
            stats: provider.get("/stats").await?,
            written: written.unwrap_or_default(),
        })
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        let turns = self.played.len();
        let check = |statement: String, verdict: Verdict| Check { statement, verdict };
        vec![
            check(
                format!(
                    "each of {turns} turns has exactly one terminal event, and nothing after it"
                ),
                self.each(one_terminal_event),
            ),
            check(
                "what was shown live is what the log says".to_owned(),
                self.each(seen_as_logged),
            ),
            check(
                "each turn ended as it should, with the text of its script, said once".to_owned(),
                self.each(ended_as_planned),
            ),
            check(
                "both tools ran in the scratch directory and told the model so".to_owned(),
                self.tools_ran(),
            ),
            check(
                format!("the provider had {LIMIT} requests in flight at most"),
                self.limit_was_kept(),
            ),
            check(
                "starred turns overtook the others, each kept its place".to_owned(),
                self.order_was_kept(),
            ),
            check(
                "refusals were repeated on schedule, and announced before".to_owned(),
                self.retries_were_on_schedule(),
            ),
            check(
                "a broken stream was not asked for again after it had spoken".to_owned(),
                self.cut_was_not_repeated(),
            ),
            check(
                "the killed server's turn went on: step-restart, then done".to_owned(),
                self.killed_turn_resumed(),
            ),
            check(
                "the provider found every request valid".to_owned(),
                self.requests_were_valid(),
            ),
        ]
    }

    fn each(&self, judge: fn(&Played) -> Verdict) -> Verdict {
        let planned = 4 + self.plan.line.len();
        if self.played.len() != planned {
            return Err(format!(
                "{} turns were played of {planned}",
                self.played.len()
            ));
        }
        let about = |played: &Played| {
            judge(played).map_err(|why| format!("{}: {why}", played.planned.label))
        };
        self.played.iter().try_for_each(about)
    }

    fn turn(&self, label: &str) -> Result<&Played, String> {
        let turn = self.played.iter().find(|p| p.planned.label == label);
        turn.ok_or_else(|| format!("turn {label} was not played"))
    }

    fn requests_for<'a>(&'a self, message: &'a str) -> impl Iterator<Item = &'a Value> {
        self.requests
            .iter()
            .filter(move |request| request["message"] == message)
    }

    fn tools_ran(&self) -> Verdict {
        let turn = self.turn("a")?;
        let results: Vec<&Value> = logged(turn, "tool-result").collect();
        let [_, _] = results[..] else {
            return Err(format!("{} tool results instead of 2", results.len()));
        };
        if let Some(failed) = results.iter().find(|result| result["ok"] != true) {
            return Err(format!("a tool failed: {}", failed["output"]));
        }
        let words = self.plan.notes.split_whitespace().count().to_string();
        let counted = results.iter().any(|result| {
            let output = result["output"].as_str().unwrap_or_default();
            output.lines().any(|line| line.trim() == words)
        });
        if !counted {
            return Err(format!("no tool result says {words}"));
        }
        same("answer.txt", &self.written, &self.plan.written)
    }

    fn limit_was_kept(&self) -> Verdict {
        let most = self.stats["max_in_flight"].as_u64();
        // Fewer would mean that the slots were never contended.
        if most != Some(LIMIT as u64) {
            return Err(format!("{most:?} in flight at a time instead of {LIMIT}"));
        }
        Ok(())
    }

    fn order_was_kept(&self) -> Verdict {
        let order = expected_order(&self.plan.line);
        let mut arrivals = Vec::new();
        for message in &order {
            let arrived = self.requests_for(message).next();
            let at_ms = arrived.and_then(|request| request["at_ms"].as_u64());
            arrivals.push(at_ms.ok_or_else(|| format!("{message:?} never arrived"))?);
        }
        // Requests that set out together may arrive in either order.
        const TOGETHER_MS: u64 = 50;
        for (n, earlier) in arrivals.iter().enumerate() {
            if let Some(later) = arrivals[n..]
                .iter()
                .position(|at| at + TOGETHER_MS < *earlier)
            {
                return Err(format!("{:?} came before {:?}", order[n + later], order[n]));
            }
        }
        for (n, message) in order.iter().enumerate().skip(LIMIT) {
            let turn = self.played.iter().find(|p| p.planned.message == *message);
            let places = turn.map_or(&[][..], |turn| &turn.view.positions);
            let expected = (n - LIMIT + 1) as u64;
            let go_down = places.windows(2).all(|pair| pair[1] < pair[0]);
            if places.first() != Some(&expected) || !go_down {
                return Err(format!(
                    "{message:?} was told the places {places:?}, expected {expected} at first and then lower ones"
                ));
            }
        }
        Ok(())
    }

    fn retries_were_on_schedule(&self) -> Verdict {
        let turn = self.turn("c1")?;
        let notices: Vec<&Value> = logged(turn, "provider-retry").collect();
        if notices.len() != 2 {
            return Err(format!("{} retry notices instead of 2", notices.len()));
        }
        for (n, notice) in notices.iter().enumerate() {
            let said = |key: &str| notice[key].as_u64().unwrap_or_default();
            let delay_ms = SCHEDULE_S[n] * 1_000;
            if said("attempt") != n as u64 || said("delayMs") != delay_ms {
                return Err(format!("notice {n} is {notice}"));
            }
            if said("dueAt") != said("at") + delay_ms {
                return Err(format!("notice {n} is due at {}", notice["dueAt"]));
            }
        }
        let arrivals: Vec<u64> = self
            .requests_for(&turn.planned.message)
            .filter_map(|request| request["at_ms"].as_u64())
            .collect();
        if arrivals.len() != 3 {
            return Err(format!("{} requests instead of 3", arrivals.len()));
        }
        for (pair, wait_s) in arrivals.windows(2).zip(SCHEDULE_S) {
            let waited_ms = pair[1].saturating_sub(pair[0]);
            if !(wait_s * 1_000..wait_s * 1_000 + LATE_MS).contains(&waited_ms) {
                return Err(format!(
                    "{waited_ms} ms between two attempts instead of {wait_s} s"
                ));
            }
        }
        Ok(())
    }

    fn cut_was_not_repeated(&self) -> Verdict {
        let turn = self.turn("c2")?;
        let requests = self.requests_for(&turn.planned.message).count();
        if requests != 1 {
            return Err(format!("{requests} requests instead of 1"));
        }
        Ok(())
    }

    fn killed_turn_resumed(&self) -> Verdict {
        let turn = self.turn("d")?;
        if turn.view.reconnects == 0 {
            return Err("the connection never broke".to_owned());
        }
        let kinds: Vec<&str> = turn.log.iter().map(kind).collect();
        let expected = ["turn-start", "step-restart", "step-complete", "done"];
        if kinds != expected {
            return Err(format!("its log is {kinds:?}"));
        }
        let requests: Vec<&Value> = self.requests_for(&turn.planned.message).collect();
        match requests[..] {
            [first, second]
                if first["state"] == "cut-by-client" && second["state"] == "finished" =>
            {
                Ok(())
            }
            _ => Err(format!("the provider saw {requests:?}")),
        }
    }

    fn requests_were_valid(&self) -> Verdict {
        let count = |key: &str| self.stats[key].as_u64();
        match (count("invalid"), count("total")) {
            (Some(0), Some(total)) if total > 0 => Ok(()),
            _ => Err(format!("its counts are {}", self.stats)),
        }
    }
}

/// How much later than planned an attempt may come on a busy machine.
const LATE_MS: u64 = 900;

fn kind(event: &Value) -> &str {
    event["type"].as_str().unwrap_or_default()
}

fn logged<'a>(played: &'a Played, wanted: &'a str) -> impl Iterator<Item = &'a Value> {
    played.log.iter().filter(move |event| kind(event) == wanted)
}

fn same(what: &str, found: &str, expected: &str) -> Verdict {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what} is {found:?} instead of {expected:?}"))
    }
}

fn one_terminal_event(played: &Played) -> Verdict {
    let ends = played.log.iter().filter(|event| is_terminal(kind(event)));
    match (ends.count(), played.log.last()) {
        (1, Some(last)) if is_terminal(kind(last)) => Ok(()),
        (1, _) => Err("something follows the terminal event".to_owned()),
        (n, _) => Err(format!("{n} terminal events")),
    }
}

fn seen_as_logged(played: &Played) -> Verdict {
    if let Some(fault) = played.view.faults.first() {
        return Err(fault.clone());
    }
    let log: Vec<(u64, String)> = played
        .log
        .iter()
        .map(|event| {
            (
                event["seq"].as_u64().unwrap_or_default(),
                kind(event).to_owned(),
            )
        })
        .collect();
    if log != played.view.logged {
        return Err(format!(
            "{:?} was shown, {log:?} is logged",
            played.view.logged
        ));
    }
    Ok(())
}

fn ended_as_planned(played: &Played) -> Verdict {
    let end = played.log.last().ok_or("its log is empty")?;
    let text = logged(played, "step-complete").last().map(complete_text);
    let text = text.unwrap_or_default();
    match &played.planned.end {
        End::Done(script) => {
            same("its end", kind(end), "done")?;
            same("its text", &text, script)
        }
        End::Truncated(script) => {
            same("its end", kind(end), "error")?;
            same(
                "its code",
                end["code"].as_str().unwrap_or_default(),
                "stream-truncated",
            )?;
            same("its text", &text, script)
        }
    }
}

/// The table of turns and the checks made on them.
pub(super) fn print(screen: &mut Screen, evidence: &Evidence, checks: &[Check], took: Duration) {
    screen.heading("All turns");
    screen.say(
        Tone::Quiet,
        format!(
            "{:<5} {:<26} {:<9} {:>6}  terminal event",
            "turn", "id", "workspace", "events"
        ),
    );
    for played in &evidence.played {
        let end = played.log.iter().find(|event| is_terminal(kind(event)));
        let end = match end {
            Some(end) if kind(end) == "error" => {
                format!("error({})", end["code"].as_str().unwrap_or_default())
            }
            Some(end) => kind(end).to_owned(),
            None => "none".to_owned(),
        };
        let as_planned = ended_as_planned(played).is_ok();
        let end = screen.paint(if as_planned { Tone::Good } else { Tone::Bad }, end);
        screen.line(format!(
            "  {:<5} {:<26} {:<9} {:>6}  {end}",
            played.planned.label,
            played.turn,
            played.planned.workspace.unwrap_or("default"),
            played.log.len(),
        ));
    }
    screen.heading("Checks");
    for check in checks {
        match &check.verdict {
            Ok(()) => {
                let mark = screen.paint(Tone::Good, "ok  ");
                screen.line(format!("  {mark}  {}", check.statement));
            }
            Err(why) => {
                let mark = screen.paint(Tone::Bad, "FAIL");
                screen.line(format!("  {mark}  {}", check.statement));
                screen.line(format!("        {why}"));
            }
        }
    }
    let failed = checks.iter().filter(|check| check.verdict.is_err()).count();
    let took = took.as_secs_f64();
    let (tone, text) = match failed {
        0 => (
            Tone::Good,
            format!("All {} checks hold, after {took:.1} s.", checks.len()),
        ),
        n => (
            Tone::Bad,
            format!("{n} of {} checks failed, after {took:.1} s.", checks.len()),
        ),
    };
    let text = screen.paint(tone, text);
    screen.line(format!("\n{text}"));
}

#[cfg(test)]
mod tests;
