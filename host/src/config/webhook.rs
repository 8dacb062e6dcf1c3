//! `[[webhooks]]`: who is told of terminal events (C7).

use std::collections::BTreeMap;

use dispatch_core::config as core;
use dispatch_core::ids::EndpointId;
use dispatch_core::webhook::{EndpointRow, Wanted};
use serde::Deserialize;

use super::{ConfigError, invalid};
use crate::provider::Secret;
use crate::webhook::{Address, SigningKey};

/// Each has its own deliveries under way: more is a mistake.
const MOST: usize = 16;
const DEFAULT_TIMEOUT_S: u64 = 15;
/// A try may not last longer: its lease is longer still.
const MAX_TIMEOUT_S: u64 = 300;

/// One endpoint, ready to be called.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Its name: deliveries wait under it, also through a change of address.
    pub id: EndpointId,
    /// Where it is.
    pub address: Address,
    /// What its deliveries are signed with.
    pub key: Option<SigningKey>,
    /// As it was configured: masked in whatever is told (P4).
    pub secret: Option<Secret>,
    /// The variable that it comes from: kept from commands (P4).
    pub secret_env: Option<String>,
    /// What it is told.
    pub wanted: Wanted,
    /// From the beginning of a try to its answer.
    pub timeout_s: u64,
}

impl WebhookSettings {
    /// What the core is told of it: no address, no secret.
    pub fn core(&self) -> core::Webhook {
        core::Webhook {
            endpoint: EndpointRow {
                id: self.id.clone(),
                wanted: self.wanted,
            },
            timeout_ms: self.timeout_s.saturating_mul(1_000),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    url: Option<String>,
    secret_env: Option<String>,
    events: Option<Vec<String>>,
    timeout_s: Option<u64>,
}

pub(super) fn resolve(
    entries: Vec<toml::Table>,
    env: &BTreeMap<String, String>,
) -> Result<Vec<WebhookSettings>, ConfigError> {
    if entries.len() > MOST {
        let count = entries.len().to_string();
        return Err(invalid("webhooks", &count, "at most 16 are told"));
    }
    let mut found: Vec<WebhookSettings> = Vec::new();
    for (n, entry) in entries.into_iter().enumerate() {
        let place = format!("webhooks[{n}]");
        let entry: Entry =
            entry
                .try_into()
                .map_err(|error: toml::de::Error| ConfigError::Value {
                    key: place.clone(),
                    value: "not usable".to_owned(),
                    remedy: error.message().to_owned(),
                })?;
        let webhook = webhook(&place, entry, env)?;
        if found.iter().any(|other| other.id == webhook.id) {
            return Err(invalid(
                &format!("{place}.name"),
                &format!("{:?}, like another one's", webhook.id.as_str()),
                "give each webhook a name of its own",
            ));
        }
        found.push(webhook);
    }
    Ok(found)
}

fn webhook(
    place: &str,
    entry: Entry,
    env: &BTreeMap<String, String>,
) -> Result<WebhookSettings, ConfigError> {
    let key_of = |key: &str| format!("{place}.{key}");
    let Some(url) = entry.url else {
        return Err(invalid(
            &key_of("url"),
            "missing",
            "write where to post, like https://example.com/hooks/dispatch",
        ));
    };
    // The address itself may be a secret: it is not repeated.
    let address = Address::parse(&url)
        .map_err(|error| invalid(&key_of("url"), "not usable", &error.to_string()))?;
    let name = entry.name.unwrap_or_else(|| address.authority());
    let id = EndpointId::try_from(name.as_str()).map_err(|error| {
        let remedy = format!("{error}; set `name` to one");
        invalid(&key_of("name"), &format!("{name:?}"), &remedy)
    })?;
    let timeout_s = entry.timeout_s.unwrap_or(DEFAULT_TIMEOUT_S);
    if !(1..=MAX_TIMEOUT_S).contains(&timeout_s) {
        return Err(invalid(
            &key_of("timeout_s"),
            &timeout_s.to_string(),
            "a try may last 1 to 300 seconds",
        ));
    }
    let secret = match &entry.secret_env {
        None => None,
        Some(name) => Some(secret(&key_of("secret_env"), name, env)?),
    };
    let key = secret.as_ref().map(SigningKey::parse).transpose();
    let key = key.map_err(|error| invalid(&key_of("secret_env"), "not usable", &error.to_string()));
    Ok(WebhookSettings {
        id,
        address,
        key: key?,
        secret,
        secret_env: entry.secret_env,
        wanted: wanted(&key_of("events"), entry.events)?,
        timeout_s,
    })
}

fn secret(key: &str, name: &str, env: &BTreeMap<String, String>) -> Result<Secret, ConfigError> {
    let value = env.get(name).and_then(|value| Secret::new(value));
    value.ok_or_else(|| {
        let remedy = "this variable is not set; set it, or leave secret_env out to send unsigned";
        invalid(key, &format!("{name:?}"), remedy)
    })
}

fn wanted(key: &str, events: Option<Vec<String>>) -> Result<Wanted, ConfigError> {
    let Some(events) = events else {
        return Ok(Wanted::ALL);
    };
    let mut wanted = Wanted {
        done: false,
        error: false,
        aborted: false,
    };
    for event in &events {
        match event.as_str() {
            "done" => wanted.done = true,
            "error" => wanted.error = true,
            "aborted" => wanted.aborted = true,
            other => {
                let remedy = "write some of \"done\", \"error\", \"aborted\"";
                return Err(invalid(key, &format!("{other:?}"), remedy));
            }
        }
    }
    if events.is_empty() {
        let remedy = "name at least one of \"done\", \"error\", \"aborted\"";
        return Err(invalid(key, "empty", remedy));
    }
    Ok(wanted)
}
