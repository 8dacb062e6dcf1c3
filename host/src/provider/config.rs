use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};

use super::{Secret, Secrets};

/// How to reach one OpenAI-compatible provider.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// The provider's name in the configuration.
    pub id: String,
    /// The API's root.
    pub base_url: BaseUrl,
    /// Sent as a bearer token; without one the provider is called without.
    pub key: Option<Secret>,
    /// Whatever else must never appear in a message. The key is always masked.
    pub masked: Vec<Secret>,
}

impl ProviderConfig {
    /// The credential as a header that no debug output shows.
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, ProviderConfigError> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| {
                ProviderConfigError::Key {
                    id: self.id.clone(),
                }
            })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    pub(crate) fn secrets(&self) -> Secrets {
        Secrets::new(self.key.iter().chain(&self.masked).cloned())
    }
}

/// A provider that cannot be called as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderConfigError {
    /// The base URL is not usable.
    #[error("base_url {text:?} {reason}; write it like https://api.openai.com/v1")]
    BaseUrl {
        /// As configured.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The base URL carries a user name or password, which is not repeated here.
    #[error(
        "base_url must not carry credentials; put the key into the variable that key_env names"
    )]
    BaseUrlCredentials,
    /// The key holds characters that no HTTP header can carry.
    #[error(
        "the key of provider {id:?} has characters that no HTTP header can carry; check it for line breaks and control characters"
    )]
    Key {
        /// The provider's name.
        id: String,
    },
}

/// The root of a provider's API: scheme, host, port and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    scheme: Scheme,
    authority: Authority,
    /// Without a slash at its end; empty for the root.
    path: String,
}

impl BaseUrl {
    /// Parses an absolute http or https URL, with or without a path and a
    /// slash at its end.
    ///
    /// # Errors
    /// [`ProviderConfigError::BaseUrl`] or
    /// [`ProviderConfigError::BaseUrlCredentials`], with the remedy.
    pub fn parse(text: &str) -> Result<BaseUrl, ProviderConfigError> {
        let text = text.trim();
        // First of all: no later message may repeat a password.
        if text.contains('@') {
            return Err(ProviderConfigError::BaseUrlCredentials);
        }
        let wrong = |reason: &str| ProviderConfigError::BaseUrl {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        if text.is_empty() {
            return Err(wrong("is empty"));
        }
        let uri: Uri = text
            .parse()
            .map_err(|error| wrong(&format!("is not a URL ({error})")))?;
        let parts = uri.into_parts();
        let scheme = parts
            .scheme
            .filter(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
            .ok_or_else(|| wrong("does not begin with http:// or https://"))?;
        let authority = parts
            .authority
            .filter(|authority| !authority.host().is_empty())
            .ok_or_else(|| wrong("has no host"))?;
        let has_port_or_none =
            authority.port_u16().is_some() || authority.as_str() == authority.host();
        if !has_port_or_none {
            return Err(wrong("has no valid port"));
        }
        let path = parts
            .path_and_query
            .unwrap_or(PathAndQuery::from_static("/"));
        if path.query().is_some() || text.contains('#') {
            return Err(wrong("has a query or a fragment"));
        }
        let path = path.path().trim_end_matches('/').to_owned();
        if path.ends_with("/chat/completions") {
            return Err(wrong(
                "names an endpoint and not the API's root (leave /chat/completions out)",
            ));
        }
        Ok(BaseUrl {
            scheme,
            authority,
            path,
        })
    }

    /// The address of `path`, given without a slash at its beginning, below
    /// this root.
    ///
    /// # Errors
    /// [`ProviderConfigError::BaseUrl`] when no URL comes out.
    pub fn join(&self, path: &str) -> Result<Uri, ProviderConfigError> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}/{path}", self.path))
            .build()
            .map_err(|error| ProviderConfigError::BaseUrl {
                text: format!("{}://{}{}", self.scheme, self.authority, self.path),
                reason: format!("cannot be extended by {path:?} ({error})"),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(base: &str) -> String {
        let base = BaseUrl::parse(base).unwrap();
        base.join("chat/completions").unwrap().to_string()
    }

    #[test]
    fn a_base_url_may_have_a_path_and_a_trailing_slash() {
        assert_eq!(joined("http://h:8080"), "http://h:8080/chat/completions");
        assert_eq!(joined("http://h:8080/"), "http://h:8080/chat/completions");
        assert_eq!(joined(" https://h/v1 "), "https://h/v1/chat/completions");
        assert_eq!(joined("https://h/v1//"), "https://h/v1/chat/completions");
        assert_eq!(
            joined("http://[::1]:1/a/b"),
            "http://[::1]:1/a/b/chat/completions"
        );
    }

    #[test]
    fn an_unusable_base_url_is_refused_with_cause_and_remedy() {
        for (text, reason) in [
            ("", "is empty"),
            ("api.openai.com/v1", "URL"),
            ("/v1", "http://"),
            ("ftp://h/v1", "http://"),
            ("http://", "URL"),
            ("http://h:99999/v1", "port"),
            ("http://h:/v1", "port"),
            ("https://h/v1?x=1", "query"),
            (
                "https://h/v1/chat/completions",
                "leave /chat/completions out",
            ),
            ("https://h/v 1", "URL"),
        ] {
            let message = BaseUrl::parse(text).unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
            assert!(message.contains("https://api.openai.com/v1"), "{message}");
        }
    }

    #[test]
    fn a_password_in_a_base_url_is_refused_and_not_repeated() {
        let message = BaseUrl::parse("https://user:hunter2@h/v1")
            .unwrap_err()
            .to_string();
        assert!(message.contains("key_env"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused_and_not_repeated() {
        let config = ProviderConfig {
            id: "openai".to_owned(),
            base_url: BaseUrl::parse("http://h").unwrap(),
            key: Secret::new("sk-a\nsk-b"),
            masked: Vec::new(),
        };
        let message = config.authorization().unwrap_err().to_string();
        assert!(message.contains("\"openai\"") && message.contains("line breaks"));
        assert!(!message.contains("sk-"), "{message}");
    }

    #[test]
    fn no_debug_output_shows_the_key() {
        let config = ProviderConfig {
            id: "openai".to_owned(),
            base_url: BaseUrl::parse("http://h").unwrap(),
            key: Secret::new("sk-very-secret"),
            masked: vec![Secret::new("other-secret").unwrap()],
        };
        let shown = format!("{config:?} {:?}", config.authorization().unwrap());
        assert!(!shown.contains("secret\""), "{shown}");
        assert!(!shown.contains("sk-very"), "{shown}");
    }
}
