//! Checks each request's token and Host header, and rejects requests from other sites.
//!
//! Any web page can make a browser send requests to a loopback address. With DNS rebinding (the
//! page's own name suddenly resolves to 127.0.0.1) it can read the answers too. Such a request has
//! the page's name as its Host; ours has an address, `localhost`, or this machine's name.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use subtle::ConstantTimeEq as _;

use crate::http::listen::Listen;

/// The maximum length of a token, in bytes.
const MAX_TOKEN: usize = 4096;

/// Why a token cannot be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is empty.
    #[error("the token file {} is empty", .0.display())]
    Empty(PathBuf),
    /// It holds something that a header cannot carry.
    #[error(
        "invalid token in {}: it must be one word of at most {} printable ASCII characters",
        .0.display(), MAX_TOKEN
    )]
    Form(PathBuf),
}

/// The most that is read of a token file, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// A secret that requests must carry.
pub struct Token(Vec<u8>);

impl Token {
    /// Reads a file that holds only the token; surrounding white space is ignored.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::Read { path: path.into(), source };
        let text = host::files::read_small(path, MAX_FILE).map_err(failed)?;
        let token = text.trim_ascii();
        if token.is_empty() {
            return Err(TokenError::Empty(path.into()));
        }
        if token.len() > MAX_TOKEN || !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Form(path.into()));
        }
        Ok(Self(token.to_vec()))
    }

    /// The value of the header `Authorization` with this token.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", String::from_utf8_lossy(&self.0))
    }

    /// Compares in constant time: the time must not reveal where they differ.
    fn matches(&self, given: &[u8]) -> bool {
        self.0.ct_eq(given).into()
    }

    /// Checks a request's token: `Bearer TOKEN`, or `Basic` with the token as the password, as
    /// `go tool pprof http://exoprof:TOKEN@HOST/…` and browsers send it.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return false };
        let Some((scheme, rest)) = split_word(value.as_bytes()) else { return false };
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return self.matches(rest);
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return false;
        }
        let Ok(pair) = base64::engine::general_purpose::STANDARD.decode(rest) else { return false };
        let password = pair.splitn(2, |b| *b == b':').nth(1);
        password.is_some_and(|p| self.matches(p))
    }
}

fn split_word(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = value.iter().position(|b| *b == b' ')?;
    Some((&value[..at], value[at..].trim_ascii()))
}

/// What a request must satisfy.
pub struct Guard {
    token: Option<Token>,
    /// Names that the Host header may have, besides addresses and `localhost`. `None`: any.
    names: Option<Vec<String>>,
}

/// Why a request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The token is missing or wrong.
    Token,
    /// The Host header names something else.
    Host,
    /// There is no Host header, or more than one.
    NoHost,
    /// The request comes from another site's page.
    CrossSite,
}

impl Guard {
    /// Creates the guard of a socket. With a token the Host does not matter: another site does not
    /// know the token. Access to a unix socket is up to the file's permissions.
    pub fn new(listen: &Listen, token: Option<Token>) -> Self {
        let names = match listen {
            Listen::Unix(_) => None,
            Listen::Tcp { .. } if token.is_some() => None,
            Listen::Tcp { name, .. } => {
                let own = nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok());
                Some(own.into_iter().chain(name.clone()).collect())
            }
        };
        Self { token, names }
    }

    fn check(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        if let Some(names) = &self.names {
            let host = host_of(version, uri, headers)?;
            if !host.is_none_or(|host| is_ours(host, names)) {
                return Err(Refusal::Host);
            }
        }
        if self.token.as_ref().is_some_and(|t| !t.admits(headers)) {
            return Err(Refusal::Token);
        }
        // Other sites may link here, but their images and scripts must not start a recording.
        let is = |name: &str, value: &str| headers.get(name).is_some_and(|v| v == value);
        let is_cross_site = match headers.get("sec-fetch-site") {
            Some(site) => site == "cross-site",
            // Browsers send it only over TLS and to loopback, and old ones never do.
            None => has_foreign_origin(version, uri, headers),
        };
        if is_cross_site && !is("sec-fetch-mode", "navigate") {
            return Err(Refusal::CrossSite);
        }
        Ok(())
    }
}

/// Whether the page that sends a request comes from another host. Browsers add an Origin to every
/// POST and to scripts' requests to other sites, but not to links; `null` is a page without one.
fn has_foreign_origin(version: Version, uri: &Uri, headers: &HeaderMap) -> bool {
    let host = host_of(version, uri, headers).ok().flatten();
    headers.get_all(header::ORIGIN).iter().any(|origin| {
        let origin = origin.to_str().ok().and_then(|o| o.split_once("://"));
        let from = origin.map(|(_, authority)| without_port(authority));
        !from.zip(host).is_some_and(|(from, host)| from.eq_ignore_ascii_case(host))
    })
}

/// The host that a request is for, without its port. `None` only before HTTP/1.1, which browsers
/// do not use.
fn host_of<'r>(
    version: Version,
    uri: &'r Uri,
    headers: &'r HeaderMap,
) -> Result<Option<&'r str>, Refusal> {
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.host()));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let host = host.to_str().map_err(|_| Refusal::Host)?;
            Ok(Some(without_port(host)))
        }
        (None, _) if version < Version::HTTP_11 => Ok(None),
        _ => Err(Refusal::NoHost),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            // `::1` without brackets has no port.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

fn is_ours(host: &str, names: &[String]) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    // DNS rebinding requires a name.
    if bare.parse::<IpAddr>().is_ok() {
        return true;
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || names.iter().any(|n| n.eq_ignore_ascii_case(&host))
}

impl Refusal {
    fn response(self) -> Response {
        let (status, text) = match self {
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                "the request requires a token: Authorization: Bearer TOKEN, or TOKEN as the password",
            ),
            Self::Host => (
                StatusCode::FORBIDDEN,
                "the Host header must be an address, localhost or this machine's name",
            ),
            Self::NoHost => {
                (StatusCode::BAD_REQUEST, "the request must have exactly one Host header")
            }
            Self::CrossSite => (StatusCode::FORBIDDEN, "requests from other sites are rejected"),
        };
        let plain = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        // pprof shows the text only with this header.
        let mut response =
            (status, plain, [("x-go-pprof", "1")], format!("{text}\n")).into_response();
        if self == Self::Token {
            let challenge = "Bearer realm=\"exoprof\", Basic realm=\"exoprof\"";
            let value = header::HeaderValue::from_static(challenge);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

/// Applies the guard as a layer of a router: `middleware::from_fn_with_state(guard, guard::layer)`.
pub async fn layer(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.check(request.version(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn loopback(token: Option<&str>) -> Guard {
        let names = token.is_none().then(|| vec!["web1".to_string()]);
        Guard { token: token.map(|t| Token(t.into())), names }
    }

    fn ask(guard: &Guard, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        guard.check(Version::HTTP_11, &Uri::from_static("/"), &map)
    }

    #[test]
    fn hosts() {
        let guard = loopback(None);
        for host in [
            "127.0.0.1:6060",
            "127.0.0.1",
            "[::1]:6060",
            "[::1]",
            "localhost:6060",
            "LocalHost.",
            "a.localhost",
            "web1:80",
            "WEB1",
            "192.168.1.7:6060",
        ] {
            assert_eq!(ask(&guard, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:6060",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "web1.evil.example",
            "evil-localhost",
            "",
            ":6060",
        ] {
            assert_eq!(ask(&guard, &[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(ask(&guard, &[]), Err(Refusal::NoHost));
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(ask(&guard, &two), Err(Refusal::NoHost));
    }

    #[test]
    fn the_uri_overrides_the_header() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost"));
        let uri = Uri::from_static("http://evil.example/debug/pprof/");
        assert_eq!(loopback(None).check(Version::HTTP_11, &uri, &headers), Err(Refusal::Host));
    }

    #[test]
    fn tokens() {
        let guard = loopback(Some("s3cret"));
        let with = |value: &str| ask(&guard, &[("host", "any.example"), ("authorization", value)]);
        assert_eq!(with("Bearer s3cret"), Ok(()));
        assert_eq!(with("bearer  s3cret"), Ok(()));
        assert_eq!(with("Basic cHByb2Y6czNjcmV0"), Ok(()), "pprof:s3cret");
        for wrong in
            ["Bearer s3cre", "Bearer s3crets", "Bearer", "s3cret", "Basic czNjcmV0", "Basic *", ""]
        {
            assert_eq!(with(wrong), Err(Refusal::Token), "{wrong}");
        }
        assert_eq!(ask(&guard, &[("host", "localhost")]), Err(Refusal::Token));
    }

    #[test]
    fn other_sites_may_only_link() {
        let guard = loopback(None);
        let from = |site, mode| {
            let fetch = [("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)];
            ask(&guard, &fetch)
        };
        assert_eq!(from("cross-site", "navigate"), Ok(()));
        assert_eq!(from("same-origin", "cors"), Ok(()));
        assert_eq!(from("cross-site", "no-cors"), Err(Refusal::CrossSite));
    }

    #[test]
    fn other_sites_are_known_by_their_origin() {
        let guard = loopback(None);
        let from = |origin, site: Option<&'static str>| {
            let site = site.map(|site| ("sec-fetch-site", site));
            let headers: Vec<_> =
                [("host", "localhost:6060"), ("origin", origin)].into_iter().chain(site).collect();
            ask(&guard, &headers)
        };
        for own in ["http://localhost:6060", "http://LOCALHOST:3000", "https://localhost"] {
            assert_eq!(from(own, None), Ok(()), "{own}");
        }
        for other in ["http://evil.example", "null", "", "http://localhost.evil.example:6060"] {
            assert_eq!(from(other, None), Err(Refusal::CrossSite), "{other}");
        }
        assert_eq!(from("http://proxy.example", Some("same-origin")), Ok(()));
        let two = [("host", "a.localhost"), ("origin", "http://a.localhost"), ("origin", "null")];
        assert_eq!(ask(&guard, &two), Err(Refusal::CrossSite));
    }

    #[test]
    fn token_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "  s3cret\n").unwrap();
        assert_eq!(Token::read(&path).unwrap().0, b"s3cret");
        for wrong in ["", " \n", "two words", "\u{e9}"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(Token::read(&path).is_err(), "{wrong:?}");
        }
        assert!(Token::read(&folder.path().join("none")).is_err());
    }
}
