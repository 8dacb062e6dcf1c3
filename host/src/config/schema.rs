//! The keys that a configuration may have, and the way from a file and the
//! environment to one checked table.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::ConfigError;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Flag,
    Count,
    Texts,
    Counts,
}

impl Kind {
    fn expected(self) -> &'static str {
        match self {
            Kind::Text => "a text",
            Kind::Flag => "true or false",
            Kind::Count => "a whole number that is not negative",
            Kind::Texts => "a list of texts",
            Kind::Counts => "a list of whole numbers",
        }
    }

    fn fits(self, value: &Value) -> bool {
        let count = |value: &Value| value.as_integer().is_some_and(|n| n >= 0);
        match self {
            Kind::Text => value.is_str(),
            Kind::Flag => value.is_bool(),
            Kind::Count => count(value),
            Kind::Texts => value
                .as_array()
                .is_some_and(|list| list.iter().all(Value::is_str)),
            Kind::Counts => value.as_array().is_some_and(|list| list.iter().all(count)),
        }
    }

    /// Reads an environment variable: lists may be written with commas.
    fn parse(self, text: &str) -> Option<Value> {
        let items = || {
            let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
            bare.split(',')
                .map(|item| item.trim().trim_matches('"'))
                .filter(|item| !item.is_empty())
        };
        let count = |text: &str| text.trim().parse::<i64>().ok().filter(|n| *n >= 0);
        match self {
            Kind::Text => Some(Value::String(text.to_owned())),
            Kind::Flag => text.trim().parse().ok().map(Value::Boolean),
            Kind::Count => count(text).map(Value::Integer),
            Kind::Texts => Some(Value::Array(
                items().map(|item| Value::String(item.to_owned())).collect(),
            )),
            Kind::Counts => items()
                .map(|item| count(item).map(Value::Integer))
                .collect::<Option<Vec<_>>>()
                .map(Value::Array),
        }
    }
}

type Keys = &'static [(&'static str, Kind)];

pub(super) const SECTIONS: &[(&str, Keys)] = &[
    (
        "server",
        &[
            ("listen", Kind::Text),
            ("on_crash", Kind::Text),
            ("max_body_bytes", Kind::Count),
            ("max_connections", Kind::Count),
            ("max_subscribers", Kind::Count),
            ("drain_s", Kind::Count),
        ],
    ),
    (
        "deadlines",
        &[
            ("connect_s", Kind::Count),
            ("first_byte_s", Kind::Count),
            ("idle_s", Kind::Count),
            ("tool_s", Kind::Count),
            ("store_s", Kind::Count),
            ("ssh_handshake_s", Kind::Count),
        ],
    ),
    (
        "liveness",
        &[
            ("lease_s", Kind::Count),
            ("renew_s", Kind::Count),
            ("sweep_s", Kind::Count),
            ("node_patience_s", Kind::Count),
            ("notify", Kind::Flag),
        ],
    ),
    (
        "retry",
        &[("schedule_s", Kind::Counts), ("budget_s", Kind::Count)],
    ),
    (
        "turns",
        &[
            ("step_limit", Kind::Count),
            ("step_limit_bytes", Kind::Count),
            ("hard_limit_s", Kind::Count),
            ("resume_limit", Kind::Count),
            ("on_cut", Kind::Text),
            ("max_open", Kind::Count),
            ("max_message_bytes", Kind::Count),
            ("system_prompt", Kind::Text),
        ],
    ),
    ("tools", &[("cwd", Kind::Text)]),
    (
        "ssh",
        &[
            ("config", Kind::Text),
            ("reject", Kind::Texts),
            ("patience_ms", Kind::Count),
            ("keepalive_ms", Kind::Count),
            ("alive_ms", Kind::Count),
            ("idle_ms", Kind::Count),
            ("backoff_ms", Kind::Count),
            ("backoff_max_ms", Kind::Count),
            ("flaps", Kind::Count),
            ("flap_window_ms", Kind::Count),
            ("quarantine_ms", Kind::Count),
            ("start_ms", Kind::Count),
            ("look_ms", Kind::Count),
            ("test_ms", Kind::Count),
            ("channels", Kind::Count),
        ],
    ),
];

pub(super) const PROVIDERS: &str = "providers";

pub(super) const PROVIDER_KEYS: Keys = &[
    ("dialect", Kind::Text),
    ("base_url", Kind::Text),
    ("key_env", Kind::Text),
    ("limit", Kind::Count),
    ("cooldown_ms", Kind::Count),
    ("models", Kind::Texts),
    ("script", Kind::Text),
];

pub(super) const WEBHOOKS: &str = "webhooks";

pub(super) const WEBHOOK_KEYS: Keys = &[
    ("name", Kind::Text),
    ("url", Kind::Text),
    ("secret_env", Kind::Text),
    ("events", Kind::Texts),
    ("timeout_s", Kind::Count),
];

/// Parses and checks a configuration file.
pub(super) fn parse_file(path: &Path, text: &str) -> Result<Table, ConfigError> {
    let table: Table = toml::from_str(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    })?;
    let place = path.display().to_string();
    for (section, keys) in &table {
        if section == PROVIDERS {
            let providers = as_table(keys, PROVIDERS, &place)?;
            for (id, keys) in providers {
                let name = format!("{PROVIDERS}.{id}");
                check_keys(as_table(keys, &name, &place)?, &name, PROVIDER_KEYS, &place)?;
            }
            continue;
        }
        if section == WEBHOOKS {
            check_webhooks(keys, &place)?;
            continue;
        }
        let known = keys_of(section).ok_or_else(|| unknown(section, &section_names(), &place))?;
        check_keys(as_table(keys, section, &place)?, section, known, &place)?;
    }
    Ok(table)
}

/// Lays `DISPATCH_SECTION__KEY` variables over `table` (O1).
pub(super) fn apply_env(
    table: &mut Table,
    env: &BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    for (name, text) in env {
        let Some(path) = name
            .strip_prefix("DISPATCH_")
            .filter(|path| path.contains("__"))
        else {
            continue;
        };
        let path = path.to_ascii_lowercase();
        let parts: Vec<&str> = path.split("__").collect();
        let (section, key, keys) = match parts.as_slice() {
            [section, id, key] if *section == PROVIDERS => {
                (vec![PROVIDERS, *id], *key, PROVIDER_KEYS)
            }
            [section, key] if *section != PROVIDERS && *section != WEBHOOKS => {
                let keys = keys_of(section).ok_or_else(|| {
                    unknown(section, &section_names(), &format!("variable {name}"))
                })?;
                (vec![*section], *key, keys)
            }
            _ => return Err(ConfigError::Variable { name: name.clone() }),
        };
        let kind = kind_of(keys, key)
            .ok_or_else(|| unknown(key, &names(keys), &format!("variable {name}")))?;
        let value = kind.parse(text).ok_or_else(|| ConfigError::Kind {
            key: path.replace("__", "."),
            place: format!("variable {name}"),
            expected: kind.expected(),
        })?;
        let mut at = &mut *table;
        for part in section {
            let entry = at
                .entry(part.to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            at = entry
                .as_table_mut()
                .ok_or_else(|| ConfigError::Variable { name: name.clone() })?;
        }
        at.insert(key.to_owned(), value);
    }
    Ok(())
}

fn check_webhooks(entries: &Value, place: &str) -> Result<(), ConfigError> {
    let tables = |list: &Vec<Value>| list.iter().all(Value::is_table);
    let Some(entries) = entries.as_array().filter(|list| tables(list)) else {
        return Err(ConfigError::Kind {
            key: WEBHOOKS.to_owned(),
            place: place.to_owned(),
            expected: "a list of sections, each under [[webhooks]]",
        });
    };
    for (n, entry) in entries.iter().enumerate() {
        let name = format!("{WEBHOOKS}[{n}]");
        check_keys(as_table(entry, &name, place)?, &name, WEBHOOK_KEYS, place)?;
    }
    Ok(())
}

fn check_keys(table: &Table, section: &str, known: Keys, place: &str) -> Result<(), ConfigError> {
    for (key, value) in table {
        let path = format!("{section}.{key}");
        let kind = kind_of(known, key).ok_or_else(|| {
            let mut error = unknown(key, &names(known), place);
            if let ConfigError::UnknownKey { key, .. } = &mut error {
                key.clone_from(&path);
            }
            error
        })?;
        if !kind.fits(value) {
            return Err(ConfigError::Kind {
                key: path,
                place: place.to_owned(),
                expected: kind.expected(),
            });
        }
    }
    Ok(())
}

fn as_table<'t>(value: &'t Value, key: &str, place: &str) -> Result<&'t Table, ConfigError> {
    value.as_table().ok_or_else(|| ConfigError::Kind {
        key: key.to_owned(),
        place: place.to_owned(),
        expected: "a section",
    })
}

fn keys_of(section: &str) -> Option<Keys> {
    let found = SECTIONS.iter().find(|(name, _)| *name == section);
    found.map(|(_, keys)| *keys)
}

fn kind_of(keys: Keys, key: &str) -> Option<Kind> {
    keys.iter()
        .find(|(name, _)| *name == key)
        .map(|(_, kind)| *kind)
}

fn names(keys: Keys) -> Vec<&'static str> {
    keys.iter().map(|(name, _)| *name).collect()
}

fn section_names() -> Vec<&'static str> {
    let sections = SECTIONS.iter().map(|(name, _)| *name);
    sections.chain([PROVIDERS, WEBHOOKS]).collect()
}

/// O1: an unknown key names the nearest known one.
fn unknown(key: &str, known: &[&'static str], place: &str) -> ConfigError {
    let nearest = known
        .iter()
        .min_by_key(|name| strsim::damerau_levenshtein(name, key))
        .copied()
        .unwrap_or_default();
    ConfigError::UnknownKey {
        key: key.to_owned(),
        place: place.to_owned(),
        nearest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Table, ConfigError> {
        parse_file(Path::new("dispatch.toml"), text)
    }

    fn with_env(name: &str, value: &str) -> Result<Table, ConfigError> {
        let mut table = Table::new();
        apply_env(
            &mut table,
            &BTreeMap::from([(name.to_owned(), value.to_owned())]),
        )?;
        Ok(table)
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let error = parse("[deadlines]\nfirst_bite_s = 3").unwrap_err();
        assert_eq!(
            error.to_string(),
            "dispatch.toml has an unknown key `deadlines.first_bite_s`; did you mean `first_byte_s`?"
        );
        let error = parse("[sever]\nlisten = 'x'").unwrap_err().to_string();
        assert!(error.contains("did you mean `server`"), "{error}");
        let error = parse("[providers.a]\nbase_uri = 'x'")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`providers.a.base_uri`; did you mean `base_url`"),
            "{error}"
        );
        let error = with_env("DISPATCH_RETRY__BUGDET_S", "3")
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean `budget_s`"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_with_what_is_expected() {
        for (text, key) in [
            ("[deadlines]\nidle_s = 'x'", "deadlines.idle_s"),
            ("[deadlines]\nidle_s = -1", "deadlines.idle_s"),
            ("[retry]\nschedule_s = [1, 'x']", "retry.schedule_s"),
            ("server = 3", "server"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{error}");
            assert!(error.contains("must be"), "{error}");
        }
        assert!(with_env("DISPATCH_DEADLINES__IDLE_S", "soon").is_err());
    }

    #[test]
    fn every_key_can_come_from_the_environment() {
        let table = with_env("DISPATCH_PROVIDERS__MY_LAB__MODELS", "a, b").unwrap();
        let models = &table["providers"]["my_lab"]["models"];
        assert_eq!(models.as_array().unwrap().len(), 2);
        let table = with_env("DISPATCH_RETRY__SCHEDULE_S", "[1, 2]").unwrap();
        assert_eq!(table["retry"]["schedule_s"][1].as_integer().unwrap(), 2);
        assert!(with_env("DISPATCH_LOG", "debug").unwrap().is_empty());
        assert!(with_env("DISPATCH_PROVIDERS__X", "1").is_err());
    }
}
