//! Computers that tools can run on (S2).

use axum::extract::{Path, State};
use axum::response::Response;
use dispatch_core::computer::{ComputerState, LinkState};
use dispatch_core::ids::ComputerId;
use dispatch_core::io::{Answer, Command};
use http::StatusCode;
use serde_json::{Value, json};

use super::request::wrong;
use super::{Api, ApiError, json as answer, unexpected};
use crate::computers::ComputerView;

/// `GET /computers`: those that the user's SSH configuration knows, and how each
/// stands with this replica.
pub(super) async fn list(State(api): State<Api>) -> Result<Response, ApiError> {
    let shown: Vec<Value> = known(&api).await?.iter().map(shown).collect();
    Ok(answer(StatusCode::OK, &json!({ "computers": shown })))
}

/// `GET /computers/{alias}`.
pub(super) async fn get(
    State(api): State<Api>,
    Path(alias): Path<String>,
) -> Result<Response, ApiError> {
    let known = known(&api).await?;
    let computer = known.iter().find(|computer| computer.alias == alias);
    let missing = || "the SSH configuration has none of that name".to_owned();
    let computer = computer.ok_or_else(|| ApiError::ComputerNotFound(alias, missing()))?;
    Ok(answer(StatusCode::OK, &shown(computer)))
}

async fn known(api: &Api) -> Result<Vec<ComputerView>, ApiError> {
    let computers = api.computers.clone();
    // Reads files of the user's.
    let found = tokio::task::spawn_blocking(move || computers.list()).await;
    found.map_err(|e| ApiError::Internal(e.to_string()))
}

/// Refuses a name that surely means no computer: each tool call of the turn
/// would be, and the client can still mend it.
pub(super) async fn must_be_possible(
    api: &Api,
    field: &'static str,
    computer: Option<&ComputerId>,
) -> Result<(), ApiError> {
    let Some(computer) = computer.filter(|computer| !computer.is_local()) else {
        return Ok(());
    };
    let (computers, asked) = (api.computers.clone(), computer.clone());
    let may_be = tokio::task::spawn_blocking(move || computers.may_be(&asked)).await;
    match may_be.map_err(|e| ApiError::Internal(e.to_string()))? {
        true => Ok(()),
        false => Err(wrong(
            field,
            &format!(
                "names no computer: {:?} is neither in the SSH configuration nor among the known hosts; GET /computers and `dispatch computers` list those that there are",
                computer.as_str()
            ),
        )),
    }
}

/// `POST /computers/{alias}/test`: whether it can be reached; answered within
/// half a minute, whatever happens.
pub(super) async fn test(
    State(api): State<Api>,
    Path(alias): Path<String>,
) -> Result<Response, ApiError> {
    let computer = ComputerId::try_from(alias.as_str())
        .map_err(|bad| ApiError::ComputerNotFound(alias.clone(), bad.to_string()))?;
    let outcome = match api.ask(Command::TestComputer { computer }).await? {
        Answer::Tested(Ok(())) => json!({ "alias": alias, "ok": true }),
        Answer::Tested(Err(fault)) => json!({
            "alias": alias,
            "ok": false,
            "code": fault.kind.code(),
            "message": fault.message,
        }),
        other => return Err(unexpected(&other)),
    };
    Ok(answer(StatusCode::OK, &outcome))
}

fn shown(view: &ComputerView) -> Value {
    let closed = ComputerState {
        link: LinkState::Closed,
        fault: None,
        runs: 0,
    };
    let state = view.state.as_ref().unwrap_or(&closed);
    let (name, until) = match state.link {
        LinkState::Closed => ("closed", None),
        LinkState::Connecting => ("connecting", None),
        LinkState::Open => ("open", None),
        LinkState::Waiting { until } => ("waiting", Some(until.0)),
        LinkState::Quarantined { until } => ("quarantined", Some(until.0)),
    };
    let error = state
        .fault
        .as_ref()
        .map(|fault| json!({ "code": fault.kind.code(), "message": fault.message }));
    json!({
        "alias": view.alias,
        "host": view.host,
        "source": view.source,
        "state": name,
        "until": until,
        "lastError": error,
        "runs": state.runs,
    })
}
