//! Where everything durable lives: `DATABASE_URL` and the data directory (O1).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::ConfigError;

/// The data directory and the database in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Holds the address file, run directories, spill and the lock.
    pub data_dir: PathBuf,
    /// Turns, events, transcripts.
    pub database: Database,
}

/// Which store, and where.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// One server, one file.
    Sqlite(PathBuf),
    /// Several replicas; the address may carry a password.
    Postgres(String),
}

impl Database {
    /// The file, where it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Database::Sqlite(path) => Some(path),
            Database::Postgres(_) => None,
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Database::Postgres(_) => f.write_str("Postgres(..)"),
        }
    }
}

const DATABASE_FILE: &str = "dispatch.db";

/// Finds both, from `--data-dir` and the environment.
///
/// # Errors
/// [`ConfigError::Database`] or [`ConfigError::DatabaseContradiction`].
pub fn places(
    data_dir: Option<&Path>,
    env: &BTreeMap<String, String>,
) -> Result<Places, ConfigError> {
    let url = env.get("DATABASE_URL").filter(|url| !url.trim().is_empty());
    let named_or_default = || match data_dir {
        Some(dir) => Ok(dir.to_owned()),
        None => default_data_dir(env),
    };
    let Some(url) = url.map(|url| url.trim()) else {
        let data_dir = named_or_default()?;
        let database = Database::Sqlite(data_dir.join(DATABASE_FILE));
        return Ok(Places { data_dir, database });
    };
    if is_postgres(url) {
        return Ok(Places {
            data_dir: named_or_default()?,
            database: Database::Postgres(url.to_owned()),
        });
    }
    let database = sqlite_path(url)?;
    let parent = match database.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    match data_dir {
        None => Ok(Places {
            data_dir: parent,
            database: Database::Sqlite(database),
        }),
        Some(dir) if absolute(dir) == absolute(&parent) => Ok(Places {
            data_dir: dir.to_owned(),
            database: Database::Sqlite(database),
        }),
        Some(dir) => Err(ConfigError::DatabaseContradiction {
            data_dir: dir.to_owned(),
            database,
        }),
    }
}

fn is_postgres(url: &str) -> bool {
    let scheme = url.split(':').next().unwrap_or_default();
    let scheme = scheme.to_ascii_lowercase();
    url.contains(':') && (scheme == "postgres" || scheme == "postgresql")
}

fn sqlite_path(url: &str) -> Result<PathBuf, ConfigError> {
    let wrong = |reason: &str| ConfigError::Database {
        // A URL may carry a password: only its scheme is repeated.
        scheme: url.split(':').next().unwrap_or_default().to_owned(),
        reason: reason.to_owned(),
    };
    let rest = match url.split_once(':') {
        Some(("sqlite" | "file", rest)) => rest.strip_prefix("//").unwrap_or(rest),
        Some((scheme, _)) if !scheme.contains('/') && scheme.len() > 1 => {
            return Err(wrong(
                "this kind of database is not supported; write sqlite:PATH, postgres://.., or a path",
            ));
        }
        Some(_) | None => url,
    };
    let path = match rest.split_once('?') {
        None | Some((_, "mode=rwc")) => rest.split('?').next().unwrap_or(rest),
        Some(_) => {
            return Err(wrong(
                "parameters after `?` are not supported; leave them out",
            ));
        }
    };
    if path.is_empty() || path == ":memory:" {
        return Err(wrong(
            "turns must survive a restart, so the database needs a file; write sqlite:PATH",
        ));
    }
    Ok(PathBuf::from(path))
}

/// XDG's place for state that outlives a restart.
fn default_data_dir(env: &BTreeMap<String, String>) -> Result<PathBuf, ConfigError> {
    let absolute = |name: &str| {
        let dir = env.get(name).map(PathBuf::from);
        dir.filter(|dir| dir.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("dispatch"))
        .ok_or(ConfigError::NoDataDir)
}

fn absolute(path: &Path) -> PathBuf {
    std::fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(data_dir: Option<&str>, url: Option<&str>) -> Result<Places, ConfigError> {
        let mut env = BTreeMap::from([("HOME".to_owned(), "/home/me".to_owned())]);
        if let Some(url) = url {
            env.insert("DATABASE_URL".to_owned(), url.to_owned());
        }
        places(data_dir.map(Path::new), &env)
    }

    #[test]
    fn every_spelling_of_a_sqlite_path_is_understood() {
        for url in [
            "sqlite:/data/x.db",
            "sqlite:///data/x.db",
            "file:/data/x.db",
            "file:///data/x.db",
            "/data/x.db",
            "sqlite:///data/x.db?mode=rwc",
        ] {
            let places = find(None, Some(url)).unwrap();
            assert_eq!(
                places.database.file(),
                Some(Path::new("/data/x.db")),
                "{url}"
            );
            assert_eq!(places.data_dir, Path::new("/data"), "{url}");
        }
        let places = find(None, Some("x.db")).unwrap();
        assert_eq!(places.data_dir, Path::new("."));
    }

    #[test]
    fn without_a_url_the_database_lies_in_the_data_directory() {
        let places = find(Some("/d"), None).unwrap();
        assert_eq!(places.database.file(), Some(Path::new("/d/dispatch.db")));
        let places = find(None, None).unwrap();
        assert_eq!(places.data_dir, Path::new("/home/me/.local/state/dispatch"));
    }

    #[test]
    fn a_data_directory_that_contradicts_the_url_is_refused() {
        assert!(find(Some("/data"), Some("sqlite:/data/x.db")).is_ok());
        let error = find(Some("/other"), Some("sqlite:/data/x.db"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("/other") && error.contains("/data/x.db"));
    }

    #[test]
    fn o1_a_postgres_address_is_kept_whole_and_shown_without_its_password() {
        let url = "postgres://me:hunter2@db/x";
        let places = find(Some("/d"), Some(url)).unwrap();
        assert_eq!(places.data_dir, Path::new("/d"));
        assert_eq!(places.database, Database::Postgres(url.to_owned()));
        assert!(!format!("{places:?}").contains("hunter2"));
        let default = find(None, Some("PostgreSQL://db/x")).unwrap().data_dir;
        assert_eq!(default, Path::new("/home/me/.local/state/dispatch"));
    }

    #[test]
    fn other_databases_are_refused_without_repeating_a_password() {
        let error = find(None, Some("mysql://me:hunter2@db/x"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("sqlite:PATH") && !error.contains("hunter2"));
        assert!(find(None, Some("sqlite::memory:")).is_err());
        assert!(find(None, Some("sqlite:a?cache=shared")).is_err());
    }
}
