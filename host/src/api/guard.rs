//! Who may speak to the server (O6): with a token, whoever has it; without
//! one, programs on this machine and pages that the server itself serves. A
//! web page must not be able to reach `bash`.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, header};
use subtle::ConstantTimeEq;

use super::{Api, ApiError};
use crate::provider::Secret;

/// The first thing that happens to every request, known path or not.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match admit(&parts, api.token.as_ref()) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => error.into_response(),
    }
}

fn admit(parts: &Parts, token: Option<&Secret>) -> Result<(), ApiError> {
    match token {
        Some(token) if has_token(&parts.headers, token) => Ok(()),
        Some(_) => Err(ApiError::Unauthorized),
        None => {
            let host = loopback_host(parts)?;
            own_origin(&parts.headers, &host)
        }
    }
}

fn has_token(headers: &HeaderMap, token: &Secret) -> bool {
    let Some(Ok(value)) = only(headers, header::AUTHORIZATION) else {
        return false;
    };
    let Some((scheme, given)) = value.split_once(' ') else {
        return false;
    };
    scheme.eq_ignore_ascii_case("bearer")
        && bool::from(given.trim().as_bytes().ct_eq(token.expose().as_bytes()))
}

/// Against DNS rebinding: the name that the client used must be this machine's own.
fn loopback_host(parts: &Parts) -> Result<Authority, ApiError> {
    let foreign = |shown: &str| ApiError::ForeignHost(format!("`{shown}`"));
    let named = match only(&parts.headers, header::HOST) {
        Some(Ok(host)) => host,
        Some(Err(())) => return Err(foreign("(unreadable)")),
        None => return Err(foreign("(missing)")),
    };
    // An absolute request target overrules the header (RFC 9112 section 3.2.2).
    for name in [Some(named), parts.uri.authority().map(Authority::as_str)] {
        let Some(name) = name else { continue };
        if !name.parse().is_ok_and(|name| is_loopback(&name)) {
            return Err(foreign(name));
        }
    }
    named.parse().map_err(|_| foreign(named))
}

fn own_origin(headers: &HeaderMap, host: &Authority) -> Result<(), ApiError> {
    let origin = match only(headers, header::ORIGIN) {
        None => return Ok(()),
        Some(Ok(origin)) => origin,
        Some(Err(())) => return Err(ApiError::ForeignOrigin("(unreadable)".to_owned())),
    };
    let named = origin.split_once("://").and_then(|(scheme, name)| {
        let port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let name: Authority = name.parse().ok()?;
        Some((port, name))
    });
    let is_own = named.is_some_and(|(port, name)| {
        let own_port = host.port_u16().unwrap_or(port);
        is_loopback(&name)
            && name.host().eq_ignore_ascii_case(host.host())
            && name.port_u16().unwrap_or(port) == own_port
    });
    if is_own {
        Ok(())
    } else {
        Err(ApiError::ForeignOrigin(format!("`{origin}`")))
    }
}

fn is_loopback(name: &Authority) -> bool {
    if name.as_str().contains('@') {
        return false;
    }
    let host = name.host();
    let host = host.strip_suffix('.').unwrap_or(host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// The one value of a header; `Err` when there are several or it is not text.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<Result<&str, ()>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return Some(Err(()));
    }
    Some(first.to_str().map_err(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn code(uri: &str, headers: &[(&str, &str)]) -> &'static str {
        admit(&parts(uri, headers), None).map_or_else(|e| e.code(), |()| "admitted")
    }

    #[test]
    fn programs_on_this_machine_are_admitted() {
        for host in [
            "127.0.0.1:4747",
            "localhost",
            "LOCALHOST:1",
            "[::1]:4747",
            "127.9.9.9:1",
        ] {
            assert_eq!(code("/chat", &[("host", host)]), "admitted", "{host}");
        }
    }

    #[test]
    fn a_rebound_or_missing_host_name_is_refused() {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1:4747",
            "localhost@evil.example",
            "",
        ] {
            assert_eq!(code("/chat", &[("host", host)]), "foreign-host", "{host}");
        }
        assert_eq!(code("/chat", &[]), "foreign-host");
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(code("/chat", &twice), "foreign-host");
        assert_eq!(
            code("http://evil.example/chat", &[("host", "localhost")]),
            "foreign-host"
        );
    }

    #[test]
    fn a_foreign_page_is_refused_and_the_own_one_admitted() {
        let origin =
            |origin: &'static str| code("/chat", &[("host", "localhost:4747"), ("origin", origin)]);
        assert_eq!(origin("http://localhost:4747"), "admitted");
        for foreign in [
            "null",
            "https://evil.example",
            "http://localhost:3000",
            "http://127.0.0.1:4747",
            "http://localhost",
            "file://",
        ] {
            assert_eq!(origin(foreign), "foreign-origin", "{foreign}");
        }
    }

    #[test]
    fn with_a_token_only_its_bearer_is_admitted() {
        let token = Secret::new("right").unwrap();
        let with = |headers: &[(&str, &str)]| admit(&parts("/", headers), Some(&token)).is_ok();
        assert!(with(&[("authorization", "Bearer right")]));
        assert!(with(&[("authorization", "bearer right")]));
        assert!(!with(&[("authorization", "Bearer wrong")]));
        assert!(!with(&[("authorization", "Bearer right-and-more")]));
        assert!(!with(&[("authorization", "Basic right")]));
        assert!(!with(&[("host", "localhost")]));
    }
}
