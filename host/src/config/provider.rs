//! `[providers.*]`, and the providers that the environment alone defines (P1, P4).

use std::collections::BTreeMap;
use std::path::PathBuf;

use dispatch_core::config as core;
use dispatch_core::ids::ProviderId;
use dispatch_core::store;
use serde::Deserialize;

use super::{ConfigError, invalid};
use crate::provider::{BaseUrl, Secret};

/// One provider, ready to be called.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// Its name.
    pub id: ProviderId,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// Streams in flight (A1).
    pub limit: u32,
    /// How long a slot counts after it was left (A4).
    pub cooldown_ms: u64,
    /// At least one; the first one is the default.
    pub models: Vec<String>,
    /// The variable that its key comes from: kept from commands (P4).
    pub key_env: Option<String>,
}

/// How a provider is spoken to.
#[derive(Clone, Debug)]
pub enum Dialect {
    /// OpenAI Chat Completions.
    Chat {
        /// The API's root.
        base_url: BaseUrl,
        /// The bearer token.
        key: Option<Secret>,
    },
    /// The scripted provider in this process (P3).
    Scripted {
        /// A script file; without one, messages may carry scripts.
        script: Option<PathBuf>,
    },
}

impl ProviderSettings {
    /// What the core is told of it: no address, no credential.
    pub fn core(&self) -> core::Provider {
        core::Provider {
            settings: store::ProviderSettings {
                id: self.id.clone(),
                limit: self.limit,
                cooldown_ms: self.cooldown_ms,
            },
            models: self.models.clone(),
        }
    }
}

const OPENAI: &str = "openai";
const OPENAI_URL: &str = "https://api.openai.com/v1";
const OPENAI_KEY: &str = "OPENAI_API_KEY";
const OPENAI_MODEL: &str = "gpt-5.1";
const DEFAULT_LIMIT: u32 = 4;
const DEFAULT_COOLDOWN_MS: u64 = 200;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Section {
    dialect: Option<String>,
    base_url: Option<String>,
    key_env: Option<String>,
    limit: Option<u32>,
    cooldown_ms: Option<u64>,
    models: Vec<String>,
    script: Option<PathBuf>,
}

pub(super) fn resolve(
    sections: toml::Table,
    env: &BTreeMap<String, String>,
) -> Result<Vec<ProviderSettings>, ConfigError> {
    let set = |name: &str| env.get(name).filter(|value| !value.trim().is_empty());
    let mut found = Vec::new();
    let mut has_openai = false;
    for (id, section) in sections {
        let mut section: Section =
            section
                .try_into()
                .map_err(|error: toml::de::Error| ConfigError::Value {
                    key: format!("providers.{id}"),
                    value: "not usable".to_owned(),
                    remedy: error.message().to_owned(),
                })?;
        if id == OPENAI {
            has_openai = true;
            if let Some(url) = set("OPENAI_BASE_URL")
                && !env.contains_key("DISPATCH_PROVIDERS__OPENAI__BASE_URL")
            {
                section.base_url = Some(url.clone());
            }
        }
        found.push(provider(&id, section, env)?);
    }
    if !has_openai && (set(OPENAI_KEY).is_some() || set("OPENAI_BASE_URL").is_some()) {
        let section = Section {
            base_url: set("OPENAI_BASE_URL").cloned(),
            ..Section::default()
        };
        found.push(provider(OPENAI, section, env)?);
    }
    if found.is_empty() {
        let anthropic = ["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"];
        return Err(ConfigError::NoProvider {
            anthropic: anthropic.into_iter().any(|name| set(name).is_some()),
        });
    }
    Ok(found)
}

fn provider(
    id: &str,
    section: Section,
    env: &BTreeMap<String, String>,
) -> Result<ProviderSettings, ConfigError> {
    let name = ProviderId::try_from(id).map_err(|source| ConfigError::ProviderName {
        id: id.to_owned(),
        source,
    })?;
    let limit = section.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 {
        return Err(invalid(
            &format!("providers.{id}.limit"),
            "0",
            "at least 1 stream must be allowed, or every turn waits for ever",
        ));
    }
    let is_scripted = section.dialect.as_deref() == Some("scripted");
    let mut models = section.models.clone();
    models.retain(|model| !model.trim().is_empty());
    if models.is_empty() {
        models.push(if is_scripted {
            "scripted".to_owned()
        } else if id == OPENAI {
            OPENAI_MODEL.to_owned()
        } else {
            return Err(invalid(
                &format!("providers.{id}.models"),
                "empty",
                "name the models that it serves; the first one is the default",
            ));
        });
    }
    Ok(ProviderSettings {
        id: name,
        limit,
        cooldown_ms: section.cooldown_ms.unwrap_or(DEFAULT_COOLDOWN_MS),
        models,
        key_env: section.key_env.clone(),
        dialect: dialect(id, section, env)?,
    })
}

fn dialect(
    id: &str,
    section: Section,
    env: &BTreeMap<String, String>,
) -> Result<Dialect, ConfigError> {
    let key = format!("providers.{id}.dialect");
    match section.dialect.as_deref() {
        None | Some("chat") => chat(id, section, env),
        Some("scripted") => Ok(Dialect::Scripted {
            script: section.script,
        }),
        Some(later @ ("responses" | "anthropic")) => Err(invalid(
            &key,
            &format!("{later:?}"),
            "this dialect is not supported yet; use \"chat\" or \"scripted\"",
        )),
        Some(other) => Err(invalid(
            &key,
            &format!("{other:?}"),
            "write \"chat\" or \"scripted\"",
        )),
    }
}

fn chat(
    id: &str,
    section: Section,
    env: &BTreeMap<String, String>,
) -> Result<Dialect, ConfigError> {
    let url = match (&section.base_url, id) {
        (Some(url), _) => url.as_str(),
        (None, OPENAI) => OPENAI_URL,
        (None, _) => {
            return Err(invalid(
                &format!("providers.{id}.base_url"),
                "missing",
                "write the API's root, like https://api.openai.com/v1",
            ));
        }
    };
    let base_url = BaseUrl::parse(url).map_err(|source| ConfigError::Provider {
        id: id.to_owned(),
        source,
    })?;
    let key_env = match (section.key_env, id) {
        (Some(name), _) => Some(name),
        (None, OPENAI) => Some(OPENAI_KEY.to_owned()),
        (None, _) => None,
    };
    let key = key_env
        .as_ref()
        .and_then(|name| env.get(name))
        .and_then(|value| Secret::new(value));
    // A server of one's own may need no key; OpenAI's certainly does.
    if let (None, None, Some(name)) = (&key, &section.base_url, key_env) {
        return Err(ConfigError::NoKey {
            id: id.to_owned(),
            name,
        });
    }
    Ok(Dialect::Chat { base_url, key })
}
