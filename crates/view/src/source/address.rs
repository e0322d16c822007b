//! Interprets the name of a profile as a file or a URL, as `go tool pprof` does.

use std::fmt;
use std::path::Path;
use std::time::Duration;

/// The path if only a server's address is given.
const DEFAULT_PATH: &str = "/debug/pprof/profile";

/// The timeout if the URL has no `seconds`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a profile is.
#[derive(Debug, PartialEq)]
pub enum Source<'s> {
    /// In a file.
    File(&'s Path),
    /// On a server.
    Url(Url),
}

impl<'s> Source<'s> {
    /// A file if it exists, otherwise a URL, which may lack a scheme (`host:6060/debug/…`).
    pub fn of(text: &'s str) -> Self {
        let path = Path::new(text);
        if path.symlink_metadata().is_ok() {
            return Self::File(path);
        }
        match Url::parse(text) {
            Some(url) => Self::Url(url),
            None => Self::File(path),
        }
    }
}

/// A URL to fetch a profile from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    authority: String,
    path: String,
    query: String,
}

impl Url {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None => ("http".to_owned(), text),
        };
        if !matches!(&*scheme, "http" | "https" | "https+insecure") {
            return None;
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match place.find('/') {
            Some(at) => place.split_at(at),
            None => (place, ""),
        };
        let port = authority.rsplit_once(':').map(|(_, port)| port);
        let is_address =
            port.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
        if authority.is_empty() || (!text.contains("://") && !is_address) {
            return None;
        }
        let path = if matches!(path, "" | "/") { DEFAULT_PATH } else { path };
        let (authority, path, query) = (authority.to_owned(), path.to_owned(), query.to_owned());
        Some(Self { scheme, authority, path, query })
    }

    /// Replaces `seconds` in the URL's query.
    pub fn recording_for(mut self, seconds: Option<u32>) -> Self {
        if let Some(seconds) = seconds {
            let others = self.query.split('&').filter(|p| !p.is_empty());
            let mut query: Vec<String> =
                others.filter(|p| !p.starts_with("seconds=")).map(str::to_owned).collect();
            query.push(format!("seconds={seconds}"));
            self.query = query.join("&");
        }
        self
    }

    /// The URL's `seconds`: how long the server records.
    pub fn seconds(&self) -> Option<u32> {
        let value = self.query.split('&').find_map(|p| p.strip_prefix("seconds="))?;
        value.parse().ok().filter(|n| *n > 0)
    }

    /// How long its answer may take: 1.5 × the recording time.
    pub fn timeout(&self) -> Duration {
        let recording = |n| Duration::from_secs(u64::from(n)) * 3 / 2;
        self.seconds().map_or(DEFAULT_TIMEOUT, recording)
    }

    /// Whether to skip checking the server's certificate (`https+insecure`).
    pub fn is_unchecked(&self) -> bool {
        self.scheme == "https+insecure"
    }

    /// The URL to request.
    pub fn request(&self) -> String {
        self.with_scheme(self.scheme.strip_suffix("+insecure").unwrap_or(&self.scheme))
    }

    fn with_scheme(&self, scheme: &str) -> String {
        let Self { authority, path, query, .. } = self;
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{scheme}://{authority}{path}{mark}{query}")
    }
}

impl fmt::Display for Url {
    /// The URL without a password, for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.authority.rsplit('@').next().unwrap_or_default();
        let shown = Self { authority: host.to_owned(), ..self.clone() };
        f.write_str(&shown.with_scheme(&self.scheme))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Option<String> {
        Url::parse(text).map(|u| u.to_string())
    }

    #[test]
    fn urls() {
        let cases = [
            ("http://host", Some("http://host/debug/pprof/profile")),
            ("host:6060", Some("http://host:6060/debug/pprof/profile")),
            ("host:6060/debug/pprof/heap?gc=1#x", Some("http://host:6060/debug/pprof/heap?gc=1")),
            ("https://me:secret@host/p", Some("https://host/p")),
            ("[::1]:6060/", Some("http://[::1]:6060/debug/pprof/profile")),
            ("cpu.pb.gz", None),
            ("mem_2023-11-02_03:55:2x", None),
            ("ftp://host/p", None),
            ("http:///p", None),
        ];
        for (text, parsed) in cases {
            assert_eq!(url(text).as_deref(), parsed, "{text}");
        }
    }

    #[test]
    fn the_timeout_depends_on_seconds() {
        let url = Url::parse("host:1/p?debug=0&seconds=5").unwrap();
        assert_eq!(url.timeout(), Duration::from_millis(7_500));
        let url = url.recording_for(Some(20));
        assert_eq!(url.request(), "http://host:1/p?debug=0&seconds=20");
        assert_eq!(url.timeout(), Duration::from_secs(30));
        assert_eq!(Url::parse("host:1/p").unwrap().timeout(), DEFAULT_TIMEOUT);
        assert_eq!(Url::parse("host:1/p?seconds=x").unwrap().timeout(), DEFAULT_TIMEOUT);
    }
}
