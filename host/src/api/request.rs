//! Requests, parsed at the edge: whatever passes here is well formed.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use dispatch_core::ids::{BadId, ComputerId, ConversationId, Slug};
use dispatch_core::io::Submit;
use http::request::Parts;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::problem::bad_field;
use super::{Api, ApiError};

/// How long a body may take to arrive.
const BODY_S: u64 = 30;
/// More than a UUID needs, and bounded.
const MAX_KEY_BYTES: usize = 255;
/// PATH_MAX of Linux.
const MAX_PATH_BYTES: usize = 4_096;

/// What a message may come with.
const CHAT_FIELDS: &[&str] = &[
    "message",
    "conversationId",
    "workspaceId",
    "model",
    "cwd",
    "computerId",
    "delivery",
    "detach",
];

/// The body of a write: a JSON object, or nothing.
#[derive(Debug)]
pub(super) struct Json(pub(super) Option<Map<String, Value>>);

impl FromRequest<Api> for Json {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Json, ApiError> {
        let (parts, body) = request.into_parts();
        let limit_bytes = api.max_body_bytes;
        let announced = parts.headers.get(header::CONTENT_LENGTH);
        let announced = announced
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
            .unwrap_or(0);
        if announced > limit_bytes as u64 {
            return Err(ApiError::BodyTooLarge { limit_bytes });
        }
        check_type(&parts.headers, announced)?;
        let bytes = read(body, limit_bytes).await?;
        if bytes.is_empty() {
            return Ok(Json(None));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| ApiError::InvalidUtf8)?;
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(Json(Some(object))),
            Ok(_) => Err(ApiError::MalformedJson("it is not an object".to_owned())),
            Err(error) => Err(ApiError::MalformedJson(error.to_string())),
        }
    }
}

fn check_type(headers: &HeaderMap, announced: u64) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        let has_body = announced > 0 || headers.contains_key(header::TRANSFER_ENCODING);
        return if has_body {
            Err(ApiError::UnsupportedMediaType("missing".to_owned()))
        } else {
            Ok(())
        };
    };
    let text = value.to_str().unwrap_or("unreadable");
    let kind = text.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(ApiError::UnsupportedMediaType(format!("`{kind}`")))
    }
}

async fn read(body: Body, limit_bytes: usize) -> Result<bytes::Bytes, ApiError> {
    let whole = Limited::new(body, limit_bytes).collect();
    match tokio::time::timeout(Duration::from_secs(BODY_S), whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(ApiError::BodyTooLarge { limit_bytes })
        }
        Ok(Err(_)) => Err(ApiError::MalformedJson("it was cut off".to_owned())),
        Err(_) => Err(ApiError::BodyTimeout { limit_s: BODY_S }),
    }
}

/// An id in the path.
#[derive(Debug)]
pub(super) struct Id<T>(pub(super) T);

impl<T, S> FromRequestParts<S> for Id<T>
where
    T: for<'a> TryFrom<&'a str, Error = BadId>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let bad = |reason: String| ApiError::InvalidParameter { name: "id", reason };
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| bad(format!("cannot be read: {}", error.body_text())))?;
        T::try_from(&text)
            .map(Id)
            .map_err(|error| bad(format!("is not usable: {error}")))
    }
}

/// The query's parameters; unknown ones are ignored.
#[derive(Debug)]
pub(super) struct Params(BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(pairs) = query.map_err(|error| ApiError::InvalidParameter {
            name: "query",
            reason: format!("cannot be read: {}", error.body_text()),
        })?;
        Ok(Params(pairs.into_iter().collect()))
    }
}

impl Params {
    /// A parameter without the white space around it; empty ones are absent.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    pub(super) fn count(&self, name: &'static str) -> Result<Option<u64>, ApiError> {
        self.text(name).map(|text| count(name, text)).transpose()
    }
}

pub(super) fn count(name: &'static str, text: &str) -> Result<u64, ApiError> {
    text.trim().parse().map_err(|_| ApiError::InvalidParameter {
        name,
        reason: "must be a whole number that is not negative".to_owned(),
    })
}

/// A field that must be text where it is there; `null` is absent.
pub(super) fn text<'b>(
    body: &'b Map<String, Value>,
    field: &'static str,
) -> Result<Option<&'b str>, ApiError> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(field, "must be a text")),
    }
}

/// A misspelt field would be done without, and nobody would notice.
pub(super) fn known(
    body: &Map<String, Value>,
    fields: &'static [&'static str],
) -> Result<(), ApiError> {
    let unknown = body.keys().find(|key| !fields.contains(&key.as_str()));
    unknown.map_or(Ok(()), |field| {
        Err(ApiError::UnknownField {
            field: field.clone(),
            known: fields,
        })
    })
}

pub(super) fn wrong(field: &'static str, reason: &str) -> ApiError {
    ApiError::InvalidField {
        field,
        reason: reason.to_owned(),
    }
}

/// A working directory: absolute, because the server's own is nobody's business.
pub(super) fn directory(
    body: &Map<String, Value>,
    field: &'static str,
) -> Result<Option<String>, ApiError> {
    let Some(path) = text(body, field)? else {
        return Ok(None);
    };
    if !path.starts_with('/') || path.len() > MAX_PATH_BYTES || path.contains('\0') {
        return Err(wrong(
            field,
            "must be an absolute path of at most 4,096 bytes",
        ));
    }
    Ok(Some(path.to_owned()))
}

/// The computer that tools run on (S1): an alias of the SSH configuration, or
/// [`ComputerId::LOCAL`].
pub(super) fn computer(
    body: &Map<String, Value>,
    field: &'static str,
) -> Result<Option<ComputerId>, ApiError> {
    let named = text(body, field)?.map(ComputerId::try_from);
    named.transpose().map_err(bad_field(field))
}

/// `POST /chat` and `POST /conversations/{id}/queue`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ChatRequest {
    pub(super) submit: Submit,
    pub(super) detach: bool,
}

impl ChatRequest {
    /// Parses the body; `into` is the conversation that the path names.
    pub(super) fn parse(
        body: Option<Map<String, Value>>,
        headers: &HeaderMap,
        into: Option<ConversationId>,
    ) -> Result<ChatRequest, ApiError> {
        let mut body = body.ok_or(ApiError::EmptyBody)?;
        known(&body, CHAT_FIELDS)?;
        if let Some(into) = &into {
            let named = text(&body, "conversationId")?;
            if named.is_some_and(|named| named != into.as_str()) {
                return Err(wrong(
                    "conversationId",
                    "names another conversation than the path; leave it out",
                ));
            }
            body.insert("conversationId".to_owned(), into.as_str().into());
        }
        let conversation = text(&body, "conversationId")?
            .map(ConversationId::try_from)
            .transpose()
            .map_err(bad_field("conversationId"))?;
        let workspace = text(&body, "workspaceId")?
            .map(Slug::try_from)
            .transpose()
            .map_err(bad_field("workspaceId"))?;
        let message = text(&body, "message")?
            .ok_or_else(|| wrong("message", "is missing; it is what the user says"))?;
        match text(&body, "delivery")? {
            None | Some("queue") => {}
            Some("steer") => return Err(ApiError::NotSupported("`delivery: \"steer\"`")),
            Some(_) => return Err(wrong("delivery", "must be \"queue\" or \"steer\"")),
        }
        let detach = match body.get("detach") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(detach)) => *detach,
            Some(_) => return Err(wrong("detach", "must be true or false")),
        };
        Ok(ChatRequest {
            detach,
            submit: Submit {
                conversation,
                workspace,
                model: text(&body, "model")?.map(str::to_owned),
                message: message.to_owned(),
                cwd: directory(&body, "cwd")?,
                computer: computer(&body, "computerId")?,
                idempotency: idempotency(headers, &body)?,
            },
        })
    }
}

/// C6. The key stands for the body's meaning and not for its spelling: the
/// digest is taken over compact JSON with sorted keys.
fn idempotency(
    headers: &HeaderMap,
    body: &Map<String, Value>,
) -> Result<Option<(String, u64)>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default().trim();
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(ApiError::InvalidParameter {
            name: "Idempotency-Key",
            reason: "must be 1 to 255 visible ASCII characters".to_owned(),
        });
    }
    // Sorted here, whatever order the map keeps.
    let sorted: BTreeMap<_, _> = body.iter().collect();
    // Every field that is let through is a scalar: see `CHAT_FIELDS`.
    let fields = sorted
        .into_iter()
        .map(|(name, value)| format!("{}:{value},", Value::from(name.as_str())));
    let canonical = format!("{{{}}}", fields.collect::<String>());
    Ok(Some((key.to_owned(), xxh3_64(canonical.as_bytes()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> Option<Map<String, Value>> {
        Some(serde_json::from_str(json).unwrap())
    }

    fn parse(json: &str) -> Result<ChatRequest, ApiError> {
        ChatRequest::parse(object(json), &HeaderMap::new(), None)
    }

    fn digest(json: &str) -> u64 {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("idempotency-key"),
            http::HeaderValue::from_static("k"),
        )]);
        let request = ChatRequest::parse(object(json), &headers, None).unwrap();
        request.submit.idempotency.unwrap().1
    }

    #[test]
    fn a_full_request_is_understood() {
        let request = parse(
            r#"{"message":"hi","conversationId":"c-1","workspaceId":"w","model":"p/m",
                "cwd":"/tmp","computerId":"build-box","delivery":"queue","detach":true}"#,
        )
        .unwrap();
        assert!(request.detach);
        assert_eq!(request.submit.conversation.unwrap().as_str(), "c-1");
        assert_eq!(request.submit.cwd.as_deref(), Some("/tmp"));
        assert_eq!(request.submit.computer.unwrap().as_str(), "build-box");
    }

    #[test]
    fn a_field_of_the_wrong_kind_is_named() {
        for (json, field) in [
            (r#"{}"#, "message"),
            (r#"{"message":1}"#, "message"),
            (r#"{"message":"x","conversationId":7}"#, "conversationId"),
            (
                r#"{"message":"x","conversationId":"a b"}"#,
                "conversationId",
            ),
            (r#"{"message":"x","workspaceId":"No"}"#, "workspaceId"),
            (r#"{"message":"x","detach":"yes"}"#, "detach"),
            (r#"{"message":"x","delivery":"later"}"#, "delivery"),
            (r#"{"message":"x","cwd":"relative"}"#, "cwd"),
            (r#"{"message":"x","model":[]}"#, "model"),
            (
                r#"{"message":"x","computerId":"-oProxyCommand=x"}"#,
                "computerId",
            ),
        ] {
            let error = parse(json).unwrap_err();
            assert!(
                matches!(&error, ApiError::InvalidField { field: named, .. } if *named == field),
                "{json}: {error:?}"
            );
        }
    }

    #[test]
    fn null_means_absent() {
        let request = parse(r#"{"message":"x","conversationId":null,"detach":null}"#).unwrap();
        assert_eq!(request.submit.conversation, None);
    }

    #[test]
    fn the_digest_sees_meaning_and_not_spelling() {
        let one = digest(r#"{"message":"x","cwd":"/a","detach":true}"#);
        let same = digest(r#"{ "detach": true, "cwd":"\/a", "message":"\u0078" }"#);
        let other = digest(r#"{"message":"y","cwd":"/a","detach":true}"#);
        assert_eq!(one, same);
        assert_ne!(one, other);
        // It is kept with the key: a later build must come to the same.
        let canonical = r#"{"cwd":"/a","detach":true,"message":"x",}"#;
        assert_eq!(one, xxh3_64(canonical.as_bytes()));
    }

    #[test]
    fn the_path_names_the_conversation_of_a_queued_message() {
        let into = ConversationId::try_from("c-1").unwrap();
        let parse = |json| ChatRequest::parse(object(json), &HeaderMap::new(), Some(into.clone()));
        let request = parse(r#"{"message":"x"}"#).unwrap();
        assert_eq!(request.submit.conversation, Some(into.clone()));
        assert!(parse(r#"{"message":"x","conversationId":"c-2"}"#).is_err());
    }
}
