//! The replicas that share the store (L9).

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Api, ApiError, json as answer};
use crate::store::ReplicaView;

/// `GET /replicas`: who serves, who is leaving, who is away, and what each owns.
pub(super) async fn list(State(api): State<Api>) -> Result<Response, ApiError> {
    let replicas = api.store.replicas().await?;
    let shown: Vec<Value> = replicas.iter().map(|view| shown(&api, view)).collect();
    Ok(answer(StatusCode::OK, &json!({ "replicas": shown })))
}

fn shown(api: &Api, view: &ReplicaView) -> Value {
    let row = &view.row;
    let silent_ms = view.now.since_ms(row.seen_at);
    let state = match (silent_ms <= api.lease_ms, row.serving) {
        (false, _) => "away",
        (true, true) => "serving",
        (true, false) => "leaving",
    };
    json!({
        "node": &*row.owner.node,
        "state": state,
        "version": row.version,
        "startedAt": row.started_at.0,
        "seenAt": row.seen_at.0,
        "ownedTurns": view.owned,
    })
}
