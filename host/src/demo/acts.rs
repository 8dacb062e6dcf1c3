//! The four acts. Each submits turns like any client, follows them over HTTP
//! and shows what it sees; whether it was right is judged afterwards.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::DemoError;
use super::line::Board;
use super::plan::{End, LIMIT, Plan, SCHEDULE_S, STARRED, STORM_MS, UNSTARRED, hold};
use super::screen::{Screen, Tone};
use super::stage::{News, Stage, follow, submit, until};

/// How often the demo looks whether what it waits for has come.
const LOOK: Duration = Duration::from_millis(20);
/// A countdown's step.
const TICK: Duration = Duration::from_millis(100);

/// (a) A turn with two tool calls.
pub(super) async fn tools(
    stage: &mut Stage,
    screen: &RefCell<Screen>,
    plan: &Plan,
) -> Result<(), DemoError> {
    screen
        .borrow_mut()
        .heading("a  A turn: text, two tools side by side, an answer");
    let client = stage.server()?;
    say_message(screen, &plan.tools.message);
    let scratch = stage.scratch().to_string_lossy().into_owned();
    let mut played = submit(&client, &plan.tools, Some(&scratch)).await?;
    follow(&client, &mut played, |news| show(screen, news)).await;
    stage.played.push(played);
    Ok(())
}

/// (b) Six turns for two slots.
pub(super) async fn line(
    stage: &mut Stage,
    screen: &RefCell<Screen>,
    plan: &Plan,
) -> Result<(), DemoError> {
    let (client, provider) = (stage.server()?, stage.provider()?);
    {
        let mut screen = screen.borrow_mut();
        screen.heading(&format!(
            "b  Six turns, {LIMIT} streams allowed: starred workspaces go first"
        ));
        screen.say(
            Tone::Quiet,
            format!("`{STARRED}` bears a star, `{UNSTARRED}` does not; the first two turns hold the slots until all are in line"),
        );
    }
    for slug in [STARRED, UNSTARRED] {
        client
            .put(&format!("/workspaces/{slug}"), &json!({}))
            .await?;
    }
    client
        .put(&format!("/workspaces/{STARRED}/star"), &json!({}))
        .await?;
    let mut turns = Vec::new();
    for planned in &plan.line {
        turns.push(submit(&client, planned, None).await?);
        if turns.len() <= LIMIT {
            let wanted = turns.len() as u64;
            until("the first turns at the provider", || async {
                Ok(provider.get("/stats").await?["in_flight"].as_u64() >= Some(wanted))
            })
            .await?;
        }
    }
    let board = RefCell::new(Board::new(&plan.line, screen));
    board.borrow_mut().draw();
    let following = join_all(turns.iter_mut().enumerate().map(|(n, played)| {
        let (client, board) = (&client, &board);
        async move { follow(client, played, |news| board.borrow_mut().take(n, &news)).await }
    }));
    let conducting = async {
        let patience = Instant::now() + Duration::from_secs(3);
        while !board.borrow().all_have_places() && Instant::now() < patience {
            sleep(LOOK).await;
        }
        // Long enough to read the places.
        sleep(Duration::from_millis(500)).await;
        for n in 0..LIMIT {
            provider
                .post(&format!("/release/{}", hold(n)), &json!({}))
                .await?;
            // The slots become free one after the other.
            sleep(Duration::from_millis(350)).await;
        }
        Ok::<(), DemoError>(())
    };
    let (_, conducted) = tokio::join!(following, conducting);
    drop(board);
    stage.played.append(&mut turns);
    conducted
}

/// (c) A provider that refuses for a while, and one that breaks off.
pub(super) async fn refusals(
    stage: &mut Stage,
    screen: &RefCell<Screen>,
    plan: &Plan,
) -> Result<(), DemoError> {
    let (client, provider) = (stage.server()?, stage.provider()?);
    screen
        .borrow_mut()
        .heading("c  A provider that refuses, and one that breaks off");
    let shortened = SCHEDULE_S.map(|s| format!("{s} s")).join(", ");
    screen.borrow_mut().say(
        Tone::Quiet,
        format!("the schedule of this demo is shortened to {shortened}; a server's own is 5 s, 10 s, 30 s, 1 min, 5 min, ... for up to 8 h"),
    );
    provider
        .post("/storm", &json!({"status": 429, "for_ms": STORM_MS}))
        .await?;
    say_message(screen, &plan.refused.message);
    let mut played = submit(&client, &plan.refused, None).await?;
    let due = RefCell::new(None::<(u64, u64)>);
    let following = follow(&client, &mut played, |news| {
        if let News::Event(event, _) = &news {
            if event["type"] == "provider-retry" {
                let attempt = event["attempt"].as_u64().unwrap_or_default();
                *due.borrow_mut() = event["dueAt"].as_u64().map(|at| (attempt, at));
            } else if due.borrow_mut().take().is_some() {
                screen.borrow_mut().clear_passing();
            }
        }
        show(screen, news);
    });
    let counting = async {
        loop {
            if let Some((attempt, due_at)) = *due.borrow() {
                let left_ms = due_at.saturating_sub(wall_ms());
                let text = format!(
                    "attempt {} in {:.1} s",
                    attempt + 2,
                    left_ms as f64 / 1000.0
                );
                let mut screen = screen.borrow_mut();
                let text = screen.paint(Tone::Notice, text);
                screen.passing(text);
            }
            sleep(TICK).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = counting => {}
    }
    stage.played.push(played);

    say_message(screen, &plan.cut.message);
    let mut played = submit(&client, &plan.cut, None).await?;
    follow(&client, &mut played, |news| show(screen, news)).await;
    screen.borrow_mut().say(
        Tone::Quiet,
        "once something was said it is not said twice: the turn ends here, and keeps what was said",
    );
    stage.played.push(played);
    Ok(())
}

/// (d) The server is killed in mid-stream.
pub(super) async fn kill(
    stage: &mut Stage,
    screen: &RefCell<Screen>,
    plan: &Plan,
) -> Result<(), DemoError> {
    screen
        .borrow_mut()
        .heading("d  kill -9 in mid-stream: the turn goes on");
    let client = stage.server()?;
    say_message(screen, &plan.killed.message);
    let mut played = submit(&client, &plan.killed, None).await?;
    let third = match &plan.killed.end {
        End::Done(text) | End::Truncated(text) => text.len() / 3,
    };
    let said = RefCell::new(0usize);
    let following = follow(&client, &mut played, |news| {
        if let News::Event(_, Some(text)) = &news {
            *said.borrow_mut() += text.len();
        }
        show(screen, news);
    });
    let killing = async {
        while *said.borrow() < third {
            sleep(LOOK).await;
        }
        let pid = stage.kill_server().await?;
        screen.borrow_mut().say(
            Tone::Bad,
            format!("kill -9 {pid}: the server is dead, in the middle of a sentence"),
        );
        sleep(Duration::from_millis(300)).await;
        stage.restart_server().await?;
        screen
            .borrow_mut()
            .say(Tone::Notice, "the server was started again");
        Ok::<(), DemoError>(())
    };
    let killed = {
        tokio::pin!(following);
        tokio::select! {
            // A turn that ends before anyone could kill it fails its checks.
            () = &mut following => Ok(()),
            killed = killing => {
                if killed.is_ok() {
                    following.await;
                }
                killed
            }
        }
    };
    stage.played.push(played);
    killed
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn say_message(screen: &RefCell<Screen>, message: &str) {
    let mut screen = screen.borrow_mut();
    let text = screen.paint(Tone::Heading, format!("> {message}"));
    screen.line(format!("  {text}"));
}

/// Shows one turn alone.
fn show(screen: &RefCell<Screen>, news: News<'_>) {
    let mut screen = screen.borrow_mut();
    let (event, text) = match news {
        News::Event(event, text) => (event, text),
        News::Lost => return screen.say(Tone::Notice, "the connection is lost; trying again"),
        News::Back(cursor) => {
            return screen.say(
                Tone::Notice,
                format!("connected again; asked for what comes after event {cursor}"),
            );
        }
    };
    if let Some(text) = text {
        screen.text(&text);
    }
    let said = |key: &str| event[key].as_str().unwrap_or_default();
    match said("type") {
        "tool-call" => screen.say(
            Tone::Tool,
            format!("{} {}", said("name"), brief(&event["input"])),
        ),
        "tool-output" => {
            for line in said("text").lines() {
                screen.say(Tone::Quiet, format!("  {line}"));
            }
        }
        "tool-result" => {
            let verdict = if event["ok"] == true { "ok" } else { "failed" };
            let last = said("output").trim_end().lines().last().unwrap_or_default();
            let text = format!("  {verdict} after {} ms: {last}", event["durationMs"]);
            screen.say(Tone::Tool, text);
        }
        "provider-retry" => {
            let delay_s = event["delayMs"].as_u64().unwrap_or_default() as f64 / 1000.0;
            let text = format!(
                "refused ({}); attempt {} follows in {delay_s} s",
                event["code"].as_str().unwrap_or("no status"),
                event["attempt"].as_u64().unwrap_or_default() + 2,
            );
            screen.clear_passing();
            screen.say(Tone::Notice, text);
        }
        "step-restart" => screen.say(
            Tone::Notice,
            format!("the step begins anew: {}", said("reason")),
        ),
        "done" => screen.say(Tone::Good, "done"),
        "error" => {
            let text = format!("error({}): {}", said("code"), said("message"));
            screen.say(Tone::Bad, text);
        }
        "aborted" => screen.say(Tone::Bad, "aborted"),
        _ => {}
    }
}

/// A tool's input on one line.
fn brief(input: &Value) -> String {
    let text = match input["command"].as_str() {
        Some(command) => command.to_owned(),
        None => input.to_string(),
    };
    let mut brief: String = text.chars().take(90).collect();
    if brief.len() < text.len() {
        brief.push_str(" ...");
    }
    brief
}
