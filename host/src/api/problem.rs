use axum::body::Body;
use axum::response::{IntoResponse, Response};
use dispatch_core::ids::{BadId, Slug};
use dispatch_core::io::Invalid;
use dispatch_core::store::Rejection;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::hub::FollowError;
use crate::store::ReadError;

/// Why a request was not carried out. Clients see problem+json (RFC 9457)
/// whose `code` is the variant's name in kebab case and stays as it is (C8).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ApiError {
    #[error("the body is not JSON: {0}; send one JSON object")]
    MalformedJson(String),
    #[error("the body is not UTF-8; send JSON in UTF-8")]
    InvalidUtf8,
    #[error("the body is empty; send a JSON object")]
    EmptyBody,
    #[error("field `{field}` {reason}")]
    InvalidField { field: &'static str, reason: String },
    #[error("field `{field}` is not known here; the fields are: {}", known.join(", "))]
    UnknownField {
        field: String,
        known: &'static [&'static str],
    },
    #[error("parameter `{name}` {reason}")]
    InvalidParameter { name: &'static str, reason: String },
    #[error(
        "sequence number {after} is beyond the log, whose last event is {last}; use a number that this server sent"
    )]
    CursorAhead { after: u64, last: u64 },
    #[error(
        "no valid token was sent; send `Authorization: Bearer TOKEN` with the server's DISPATCH_TOKEN"
    )]
    Unauthorized,
    #[error(
        "the Host header {0} is not a loopback name; use 127.0.0.1 or localhost, or start the server with DISPATCH_TOKEN"
    )]
    ForeignHost(String),
    #[error(
        "pages of {0} may not use this server; without DISPATCH_TOKEN only pages that it serves itself may"
    )]
    ForeignOrigin(String),
    #[error("there is nothing at {0}; see the list of endpoints in the documentation")]
    NoSuchPath(String),
    #[error("conversation `{0}` does not exist; POST /chat creates one")]
    ConversationNotFound(String),
    #[error("turn `{0}` does not exist here; use a turnId that this server sent")]
    TurnNotFound(String),
    #[error("workspace `{0}` does not exist; PUT /workspaces/{0} creates it")]
    WorkspaceNotFound(Slug),
    #[error("provider `{0}` does not exist; GET /providers lists those that do")]
    ProviderNotFound(String),
    #[error("there is no computer `{0}`: {1}; GET /computers lists those that there are")]
    ComputerNotFound(String, String),
    #[error("{0} is not possible here; see the Allow header")]
    MethodNotAllowed(String),
    #[error("the body took longer than {limit_s} s to arrive; send it at once")]
    BodyTimeout { limit_s: u64 },
    #[error("conversation `{0}` has no open turn; there is nothing to abort")]
    NoOpenTurn(String),
    #[error("{0}")]
    WorkspaceMismatch(String),
    #[error(
        "the body is larger than {limit_bytes} bytes; send less, or raise server.max_body_bytes"
    )]
    BodyTooLarge { limit_bytes: usize },
    #[error("the content type is {0}; send `content-type: application/json`")]
    UnsupportedMediaType(String),
    #[error("{0}")]
    IdempotencyMismatch(String),
    #[error("{0}")]
    UnknownProvider(String),
    #[error("{0}")]
    EmptyMessage(String),
    #[error("{0}")]
    MessageTooLong(String),
    #[error("{0}")]
    EmptyModel(String),
    #[error("{0}")]
    ZeroLimit(String),
    #[error("{0} is not supported yet; leave it out")]
    NotSupported(&'static str),
    #[error("{0}")]
    TooManyOpenTurns(String),
    #[error("stars are flipped too often; wait a second")]
    TooManyStarFlips,
    #[error("too many clients follow events; try again in a moment, or send `detach`")]
    TooManySubscribers,
    #[error("{0}")]
    StoreUnavailable(String),
    #[error(
        "the store did not confirm it in time{}, so it may have happened or not; ask again, with the same Idempotency-Key if one was sent", met(.0.as_deref())
    )]
    Unconfirmed(Option<String>),
    #[error("the server is starting and has not read its store yet; try again in a moment")]
    Starting,
    #[error("the server is shutting down; try again when it is back")]
    ShuttingDown,
    #[error("a bug in the server: {0}; its log says more")]
    Internal(String),
}

fn met(why: Option<&str>) -> String {
    why.map_or_else(String::new, |why| format!(" ({why})"))
}

/// Seconds after which a refused client may come back.
const RETRY_AFTER_S: u64 = 2;

impl ApiError {
    /// Status, code and title.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            ApiError::MalformedJson(_) => (S::BAD_REQUEST, "malformed-json", "Malformed JSON"),
            ApiError::InvalidUtf8 => (S::BAD_REQUEST, "invalid-utf8", "Not UTF-8"),
            ApiError::EmptyBody => (S::BAD_REQUEST, "empty-body", "No body"),
            ApiError::UnknownField { .. } => (S::BAD_REQUEST, "unknown-field", "Unknown field"),
            ApiError::InvalidField { .. } => (S::BAD_REQUEST, "invalid-field", "Invalid field"),
            ApiError::InvalidParameter { .. } => {
                (S::BAD_REQUEST, "invalid-parameter", "Invalid parameter")
            }
            ApiError::CursorAhead { .. } => {
                (S::BAD_REQUEST, "cursor-ahead", "Cursor beyond the log")
            }
            ApiError::Unauthorized => (S::UNAUTHORIZED, "unauthorized", "Token required"),
            ApiError::ForeignHost(_) => (S::FORBIDDEN, "foreign-host", "Foreign host name"),
            ApiError::ForeignOrigin(_) => (S::FORBIDDEN, "foreign-origin", "Foreign origin"),
            ApiError::NoSuchPath(_) => (S::NOT_FOUND, "no-such-path", "Not found"),
            ApiError::ConversationNotFound(_) => (
                S::NOT_FOUND,
                "conversation-not-found",
                "No such conversation",
            ),
            ApiError::TurnNotFound(_) => (S::NOT_FOUND, "turn-not-found", "No such turn"),
            ApiError::WorkspaceNotFound(_) => {
                (S::NOT_FOUND, "workspace-not-found", "No such workspace")
            }
            ApiError::ComputerNotFound(..) => {
                (S::NOT_FOUND, "computer-not-found", "No such computer")
            }
            ApiError::ProviderNotFound(_) => {
                (S::NOT_FOUND, "provider-not-found", "No such provider")
            }
            ApiError::MethodNotAllowed(_) => (
                S::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
            ),
            ApiError::BodyTimeout { .. } => {
                (S::REQUEST_TIMEOUT, "body-timeout", "Body came too slowly")
            }
            ApiError::NoOpenTurn(_) => (S::CONFLICT, "no-open-turn", "Nothing to abort"),
            ApiError::WorkspaceMismatch(_) => {
                (S::CONFLICT, "workspace-mismatch", "Another workspace")
            }
            ApiError::BodyTooLarge { .. } => {
                (S::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large")
            }
            ApiError::UnsupportedMediaType(_) => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Not application/json",
            ),
            ApiError::IdempotencyMismatch(_) => (
                S::UNPROCESSABLE_ENTITY,
                "idempotency-mismatch",
                "Idempotency-Key used with another body",
            ),
            ApiError::UnknownProvider(_) => (
                S::UNPROCESSABLE_ENTITY,
                "unknown-provider",
                "Unknown provider",
            ),
            ApiError::EmptyMessage(_) => {
                (S::UNPROCESSABLE_ENTITY, "empty-message", "Empty message")
            }
            ApiError::MessageTooLong(_) => {
                (S::PAYLOAD_TOO_LARGE, "message-too-long", "Message too long")
            }
            ApiError::EmptyModel(_) => (S::UNPROCESSABLE_ENTITY, "empty-model", "Empty model"),
            ApiError::ZeroLimit(_) => (S::UNPROCESSABLE_ENTITY, "zero-limit", "Limit of zero"),
            ApiError::NotSupported(_) => (
                S::UNPROCESSABLE_ENTITY,
                "not-supported",
                "Not supported yet",
            ),
            ApiError::TooManyOpenTurns(_) => (
                S::TOO_MANY_REQUESTS,
                "too-many-open-turns",
                "Too many open turns",
            ),
            ApiError::TooManyStarFlips => (
                S::TOO_MANY_REQUESTS,
                "too-many-star-flips",
                "Too many star flips",
            ),
            ApiError::TooManySubscribers => (
                S::SERVICE_UNAVAILABLE,
                "too-many-subscribers",
                "Too many subscribers",
            ),
            ApiError::StoreUnavailable(_) => (
                S::SERVICE_UNAVAILABLE,
                "store-unavailable",
                "Store unavailable",
            ),
            ApiError::Unconfirmed(_) => (S::SERVICE_UNAVAILABLE, "unconfirmed", "Not confirmed"),
            ApiError::Starting => (S::SERVICE_UNAVAILABLE, "starting", "Starting"),
            ApiError::ShuttingDown => (S::SERVICE_UNAVAILABLE, "shutting-down", "Shutting down"),
            ApiError::Internal(_) => (S::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.kind().1
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, title) = self.kind();
        let problem = Problem {
            title,
            status: status.as_u16(),
            detail: self.to_string(),
            code,
        };
        let body = serde_json::to_string(&problem)
            .expect("a problem has string keys and no failing serializer");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => ApiError::ShuttingDown,
            ReadError::Busy | ReadError::Failed(_) => ApiError::StoreUnavailable(error.to_string()),
        }
    }
}

impl From<FollowError> for ApiError {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Full => ApiError::TooManySubscribers,
            FollowError::Read(error) => error.into(),
        }
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let detail = rejection.to_string();
        match rejection {
            Rejection::IdempotencyMismatch => ApiError::IdempotencyMismatch(detail),
            Rejection::WorkspaceMismatch(_) => ApiError::WorkspaceMismatch(detail),
            Rejection::TooManyOpenTurns(_) => ApiError::TooManyOpenTurns(detail),
            Rejection::UnknownProvider(_) => ApiError::UnknownProvider(detail),
        }
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        let detail = invalid.to_string();
        match invalid {
            Invalid::EmptyMessage => ApiError::EmptyMessage(detail),
            Invalid::MessageTooLong { .. } => ApiError::MessageTooLong(detail),
            Invalid::UnknownProvider(_) => ApiError::UnknownProvider(detail),
            Invalid::EmptyModel => ApiError::EmptyModel(detail),
            Invalid::ZeroLimit => ApiError::ZeroLimit(detail),
        }
    }
}

/// A bad id in a body.
pub(super) fn bad_field(field: &'static str) -> impl FnOnce(BadId) -> ApiError {
    move |bad| ApiError::InvalidField {
        field,
        reason: format!("is not usable: {bad}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_names_code_cause_and_remedy() {
        let response = ApiError::BodyTooLarge { limit_bytes: 9 }.into_response();
        assert_eq!(response.status(), 413);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let body = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["code"], "body-too-large");
        assert_eq!(problem["status"], 413);
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("max_body_bytes")
        );
    }

    #[test]
    fn who_is_refused_for_lack_of_room_is_told_when_to_come_back() {
        for error in [
            ApiError::TooManySubscribers,
            ApiError::TooManyOpenTurns(String::new()),
        ] {
            assert!(error.into_response().headers().contains_key("retry-after"));
        }
    }
}
