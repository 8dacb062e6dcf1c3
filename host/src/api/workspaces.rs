use std::sync::Mutex;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use dispatch_core::ids::{ComputerId, Slug};
use dispatch_core::io::{Answer, Command};
use dispatch_core::store::WorkspaceRow;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::computers::must_be_possible;
use super::request::{Id, Json, computer, directory, known, text, wrong};
use super::{Api, ApiError, json as answer, unexpected};
use crate::panics::locked;

/// `GET /workspaces/{id}` (C3).
pub(super) async fn get(State(api): State<Api>, Id(slug): Id<Slug>) -> Result<Response, ApiError> {
    match api.store.workspace(&slug).await? {
        Some(row) => Ok(answer(StatusCode::OK, &shown(&row))),
        None => Err(ApiError::WorkspaceNotFound(slug)),
    }
}

/// `PUT /workspaces/{id} {title?, defaultCwd?, defaultComputer?}`: creates or changes it; idempotent.
pub(super) async fn put(
    State(api): State<Api>,
    Id(slug): Id<Slug>,
    Json(body): Json,
) -> Result<Response, ApiError> {
    let body = body.unwrap_or_default();
    known(&body, &["title", "defaultCwd", "defaultComputer"])?;
    let title = text(&body, "title")?.map(str::to_owned);
    if title
        .as_ref()
        .is_some_and(|title| title.len() > MAX_TITLE_BYTES)
    {
        return Err(wrong("title", "must have at most 1,024 bytes"));
    }
    let cwd = directory(&body, "defaultCwd")?;
    let computer = computer(&body, "defaultComputer")?;
    must_be_possible(&api, "defaultComputer", computer.as_ref()).await?;
    let command = Command::PutWorkspace {
        title,
        cwd,
        computer,
        slug: slug.clone(),
    };
    changed(&api, slug, command).await
}

/// `PUT /workspaces/{id}/star` (A3, A8).
pub(super) async fn star(
    State(api): State<Api>,
    Id(slug): Id<Slug>,
    Json(_): Json,
) -> Result<Response, ApiError> {
    flip(&api, slug, true).await
}

/// `DELETE /workspaces/{id}/star` (A3, A8).
pub(super) async fn unstar(
    State(api): State<Api>,
    Id(slug): Id<Slug>,
    Json(_): Json,
) -> Result<Response, ApiError> {
    flip(&api, slug, false).await
}

const MAX_TITLE_BYTES: usize = 1_024;

async fn flip(api: &Api, slug: Slug, starred: bool) -> Result<Response, ApiError> {
    if !api.0.flips.take() {
        return Err(ApiError::TooManyStarFlips);
    }
    let command = Command::Star {
        slug: slug.clone(),
        starred,
    };
    changed(api, slug, command).await
}

async fn changed(api: &Api, slug: Slug, command: Command) -> Result<Response, ApiError> {
    match api.ask(command).await? {
        Answer::Workspace(row) => Ok(answer(StatusCode::OK, &shown(&row))),
        Answer::NotFound => Err(ApiError::WorkspaceNotFound(slug)),
        other => Err(unexpected(&other)),
    }
}

fn shown(row: &WorkspaceRow) -> Value {
    json!({
        "id": row.slug.as_str(),
        "title": row.title,
        "starred": row.starred,
        "defaultCwd": row.cwd,
        "defaultComputer": row.computer.as_ref().map(ComputerId::as_str),
        "createdAt": row.created_at.0,
    })
}

/// A8: a flip rewrites the keys of every open turn of its workspace, so that a
/// client in a loop is slowed down before it slows the line down.
#[derive(Default)]
pub(super) struct Bucket(Mutex<Option<(Instant, u32)>>);

impl Bucket {
    const BURST: u32 = 20;
    const REFILL: Duration = Duration::from_millis(100);

    fn take(&self) -> bool {
        let mut state = locked(&self.0);
        let now = Instant::now();
        let (since, left) = state.unwrap_or((now, Self::BURST));
        let refills = now.duration_since(since).as_millis() / Self::REFILL.as_millis();
        let refilled = u32::try_from(refills).unwrap_or(u32::MAX);
        let left = left.saturating_add(refilled).min(Self::BURST);
        let since = since + Self::REFILL.saturating_mul(refilled.min(Self::BURST));
        // A long pause leaves no credit beyond the burst.
        let since = if left == Self::BURST { now } else { since };
        *state = Some((since, left.saturating_sub(1)));
        left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn flips_are_slowed_to_ten_a_second_after_a_burst() {
        let bucket = Bucket::default();
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 10);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 20);
    }
}
