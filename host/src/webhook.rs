//! Deliveries of terminal events over HTTP (C7): one POST a try, signed as the
//! Standard Webhooks specification has it, no redirect followed. When to try,
//! and for how long, is the core's to say.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::EndpointId;
use dispatch_core::time::Timestamp;
use dispatch_core::webhook::Delivery;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::uri::Scheme;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use sha2::Sha256;

use crate::config::WebhookSettings;
use crate::net::{HttpClient, Net, http_client};
use crate::provider::{Secret, Secrets, chain};
use crate::store::Store;

/// Name lookup, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(10);
/// The answer is in the status; the rest is read for the connection's sake.
const REST: Duration = Duration::from_secs(1);
const MAX_REST_BYTES: usize = 64 * 1024;
const MAX_TEXT_BYTES: usize = 512;

/// Where an endpoint is. Its path may be a secret: only host and port are shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Uri);

/// Why a text is not the address of an endpoint; does not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// No URL at all, or without host or valid port.
    #[error("it is no URL with a host; write it like https://example.com/hooks/dispatch")]
    NoUrl,
    /// Another scheme, or none.
    #[error(
        "it does not begin with http:// or https://; write it like https://example.com/hooks/dispatch"
    )]
    Scheme,
    /// A user name or a password in it.
    #[error("it must not carry credentials; sign deliveries with secret_env instead")]
    Credentials,
    /// What a server never sees.
    #[error("it has a fragment (#...), which is never sent; leave it out")]
    Fragment,
}

impl Address {
    /// Parses an absolute http or https URL, path and query included.
    ///
    /// # Errors
    /// [`BadAddress`], with the remedy.
    pub fn parse(text: &str) -> Result<Address, BadAddress> {
        let text = text.trim();
        if text.contains('#') {
            return Err(BadAddress::Fragment);
        }
        if !text.contains("://") {
            return Err(BadAddress::Scheme);
        }
        let uri: Uri = text.parse().map_err(|_| BadAddress::NoUrl)?;
        let scheme = uri.scheme().ok_or(BadAddress::Scheme)?;
        if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
            return Err(BadAddress::Scheme);
        }
        let authority = uri.authority().ok_or(BadAddress::NoUrl)?;
        if authority.as_str().contains('@') {
            return Err(BadAddress::Credentials);
        }
        let has_port_or_none =
            authority.port_u16().is_some() || authority.as_str() == authority.host();
        if authority.host().is_empty() || !has_port_or_none {
            return Err(BadAddress::NoUrl);
        }
        Ok(Address(uri))
    }

    /// Host, and port where one is named.
    pub fn authority(&self) -> String {
        let authority = self
            .0
            .authority()
            .map_or("", |authority| authority.as_str());
        authority.to_ascii_lowercase()
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

/// What deliveries are signed with; nothing prints it (P4).
#[derive(Clone)]
pub struct SigningKey(Arc<[u8]>);

/// The secret is not one of the specification's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret is 24 to 64 random bytes in base64, with or without `whsec_` before it")]
pub struct BadKey;

impl SigningKey {
    /// Reads a secret as Standard Webhooks writes it.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn parse(secret: &Secret) -> Result<SigningKey, BadKey> {
        let text = secret.expose();
        let text = text.strip_prefix("whsec_").unwrap_or(text);
        let key = STANDARD.decode(text).map_err(|_| BadKey)?;
        match key.len() {
            24..=64 => Ok(SigningKey(key.into())),
            _ => Err(BadKey),
        }
    }

    /// The header `webhook-signature`, over id, timestamp and body.
    fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Makes one try, as the driver asks for it.
pub trait Delivers: Send + Sync + 'static {
    /// Posts the event; an error is for people, secrets masked.
    fn post(
        &self,
        delivery: &Delivery,
        event: &AgentEvent,
        now: Timestamp,
    ) -> BoxFuture<'static, Result<(), String>>;
}

/// Posts to the configured endpoints. Cheap to clone.
pub struct Webhooks<N: Net> {
    endpoints: BTreeMap<EndpointId, WebhookSettings>,
    client: HttpClient<N>,
    secrets: Secrets,
}

impl<N: Net> fmt::Debug for Webhooks<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl<N: Net> Webhooks<N> {
    /// Prepares; connects to nothing yet. `masked` appears in no message.
    pub fn new(
        endpoints: &[WebhookSettings],
        net: N,
        masked: impl IntoIterator<Item = Secret>,
    ) -> Webhooks<N> {
        let own = endpoints.iter().filter_map(|e| e.secret.clone());
        let secrets = Secrets::new(own.chain(masked));
        let endpoints = endpoints.iter().cloned();
        Webhooks {
            endpoints: endpoints.map(|e| (e.id.clone(), e)).collect(),
            client: http_client(net, CONNECT),
            secrets,
        }
    }
}

impl<N: Net> Delivers for Webhooks<N> {
    fn post(
        &self,
        delivery: &Delivery,
        event: &AgentEvent,
        now: Timestamp,
    ) -> BoxFuture<'static, Result<(), String>> {
        let Some(endpoint) = self.endpoints.get(&delivery.endpoint) else {
            let why = format!("webhook `{}` is not configured", delivery.endpoint);
            return std::future::ready(Err(why)).boxed();
        };
        let request = match request(endpoint, delivery, event, now) {
            Ok(request) => request,
            Err(error) => return std::future::ready(Err(error.to_string())).boxed(),
        };
        let (response, secrets) = (self.client.request(request), self.secrets.clone());
        async move {
            let response = response.await.map_err(|error| {
                let mut text = secrets.mask(&chain(&error));
                text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
                text
            })?;
            let (head, body) = response.into_parts();
            discard(body).await;
            // A redirect would be a POST to who was not configured.
            match head.status.is_success() {
                true => Ok(()),
                false => Err(format!("it answered {}", head.status)),
            }
        }
        .boxed()
    }
}

/// The same for every try of one delivery, and for no other one's.
fn delivery_id(delivery: &Delivery) -> String {
    format!("{}-{}", delivery.turn, delivery.seq)
}

fn request(
    endpoint: &WebhookSettings,
    delivery: &Delivery,
    event: &AgentEvent,
    now: Timestamp,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let (id, timestamp_s) = (delivery_id(delivery), now.0 / 1_000);
    let body = Bytes::from(event.to_json());
    let mut request = Request::post(endpoint.address.0.clone())
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("dispatch/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &id)
        .header("webhook-timestamp", timestamp_s);
    if let Some(key) = &endpoint.key {
        request = request.header("webhook-signature", key.sign(&id, timestamp_s, &body));
    }
    request.body(Full::new(body))
}

async fn discard(body: Incoming) {
    let rest = Limited::new(body, MAX_REST_BYTES).collect();
    // Whatever it is: the status has said it all.
    let _ = tokio::time::timeout(REST, rest).await;
}

/// One try: the event as the log has it, posted.
pub(crate) async fn deliver(
    store: Arc<dyn Store>,
    endpoints: Arc<dyn Delivers>,
    delivery: Delivery,
    now: Timestamp,
) -> Result<(), String> {
    let before = delivery.seq.saturating_sub(1);
    let read = store.events(&delivery.conversation, before, 1).await;
    let events = read.map_err(|error| error.to_string())?;
    let Some(event) = events.iter().find(|event| event.seq == Some(delivery.seq)) else {
        return Err("its event is not in the log".to_owned());
    };
    endpoints.post(&delivery, event, now).await
}

#[cfg(test)]
mod tests;
