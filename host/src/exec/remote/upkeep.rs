//! Runs on another computer that nobody watches, and those that are over.

use std::collections::BTreeSet;

use dispatch_core::ids::TurnId;

use super::over::Over;
use super::question::{AskError, Question};
use crate::exec::{EndReport, RunBounds, SweepReport};

/// Most runs that are ended by one question: its grace is theirs together.
const ENDED_AT_ONCE: usize = 500;

/// Every run that was begun, has not ended and is not watched here, with its
/// turn.
async fn runs(over: &Over) -> Result<Vec<(TurnId, String)>, AskError> {
    let answers = over.question().await?.ask(&over.link, "list_runs").await?;
    refusal(&answers)?;
    Ok(answers
        .iter()
        .filter_map(|answer| answer.strip_prefix("run "))
        .filter(|run| !over.shared.is_watched(run))
        .filter_map(|run| {
            let turn = TurnId::try_from(run.split_once('/')?.0).ok()?;
            Some((turn, run.to_owned()))
        })
        .collect())
}

pub(super) async fn unattended(over: &Over) -> Result<Vec<TurnId>, AskError> {
    let turns: BTreeSet<TurnId> = runs(over).await?.into_iter().map(|run| run.0).collect();
    Ok(turns.into_iter().collect())
}

pub(super) async fn end(over: &Over, turns: &[TurnId]) -> EndReport {
    let mut report = EndReport::default();
    let runs = match runs(over).await {
        Ok(runs) => runs,
        Err(e) => {
            report.failures.push(e.to_string());
            return report;
        }
    };
    let wanted: Vec<String> = runs
        .into_iter()
        .filter(|(turn, _)| turns.contains(turn))
        .map(|(_, run)| run)
        .collect();
    for some in wanted.chunks(ENDED_AT_ONCE) {
        match ended(over, some).await {
            Ok(answers) => {
                report.killed += answers.iter().filter(|said| *said == "killed").count();
                let undead = answers
                    .iter()
                    .filter_map(|said| said.strip_prefix("undead "));
                report.failures.extend(undead.map(ToOwned::to_owned));
            }
            Err(e) => report.failures.push(e.to_string()),
        }
    }
    report
}

async fn ended(over: &Over, runs: &[String]) -> Result<Vec<String>, AskError> {
    let question = over.question().await?.with("wanted", &runs.join(" "));
    let answers = question.ask(&over.link, "end_runs").await?;
    refusal(&answers)?;
    Ok(answers)
}

pub(super) async fn sweep(over: &Over, bounds: RunBounds) -> SweepReport {
    let mut report = SweepReport::default();
    let asked = async {
        let question: Question = over
            .question()
            .await?
            .with("max_age_ms", &bounds.max_age_ms.to_string())
            .with("max_runs", &bounds.max_runs.to_string())
            .with(
                "max_bytes",
                &bounds.max_bytes.min(i64::MAX as u64).to_string(),
            )
            .with("spared", &over.shared.watched().join(" "));
        let answers = question.ask(&over.link, "sweep").await?;
        refusal(&answers)?;
        Ok::<_, AskError>(answers)
    };
    let answers = match asked.await {
        Ok(answers) => answers,
        Err(e) => {
            report.failures.push(e.to_string());
            return report;
        }
    };
    for answer in answers {
        match answer.split_once(' ') {
            Some(("swept", counts)) => {
                let mut counts = counts.split(' ').map(|n| n.parse().unwrap_or(0));
                report.removed = counts.next().unwrap_or(0);
                report.kept = counts.next().unwrap_or(0);
            }
            Some(("failed", cause)) => report.failures.push(cause.trim().to_owned()),
            Some(_) | None => {}
        }
    }
    report
}

fn refusal(answers: &[String]) -> Result<(), AskError> {
    let no_home = answers.iter().any(|said| said == "no-home");
    let no_home = no_home.then_some("it has no such home directory as file transfer has");
    let refused = answers
        .iter()
        .find_map(|said| said.strip_prefix("refused "));
    match refused.or(no_home) {
        Some(cause) => Err(AskError::Garbled(cause.trim().to_owned())),
        None => Ok(()),
    }
}
