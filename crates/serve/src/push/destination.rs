//! Parses the URLs of profile stores, and builds their requests.
//!
//! - Pyroscope: `POST /ingest`, a form with the profile as a file, as its own clients send it
//!   (<https://grafana.com/docs/pyroscope/latest/reference-server-api/>). The query
//!   has no `format=`: with it, the server takes the whole body for the profile.
//! - Parca by gRPC: `ProfileStoreService/WriteRaw`
//!   (`proto/parca/profilestore/v1alpha1/profilestore.proto` in parca-dev/parca).
//! - Parca by its gateway, which is on the same port: `POST /api/profiles/writeraw`, the JSON form
//!   of the same request.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::http::uri::Authority;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::push::message::Message;

/// Parca's own port, for gRPC URLs without a port. With TLS the default is HTTPS' port, because a
/// proxy terminates TLS.
const PARCA_PORT: u16 = 7070;

/// A server that accepts profiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Which protocol.
    pub protocol: Protocol,
    /// The endpoint's URL, without a user and a password.
    pub url: String,
    /// `Authorization` for the user and password in the URL.
    pub authorization: Option<String>,
}

/// The protocol of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Grafana Pyroscope, and Alloy's `pyroscope.receive_http`.
    Pyroscope,
    /// Parca, by its HTTP gateway.
    Parca,
    /// Parca, by gRPC.
    ParcaGrpc,
}

/// A request: URL, content type, body.
pub struct Outgoing {
    /// With the query.
    pub url: String,
    /// Of the body.
    pub content_type: String,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Protocol {
    fn path(self) -> &'static str {
        match self {
            Self::Pyroscope => "/ingest",
            Self::Parca => "/api/profiles/writeraw",
            Self::ParcaGrpc => "/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw",
        }
    }
}

impl Destination {
    /// Parses `http://HOST:4040` (Pyroscope), `parca+http://HOST:7070`, `grpc://HOST[:7070]` or
    /// `grpcs://HOST[:443]` (Parca), or an endpoint's full URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (named, rest) = match text.split_once('+') {
            Some(("pyroscope", rest)) => (Some(Protocol::Pyroscope), rest),
            Some(("parca", rest)) => (Some(Protocol::Parca), rest),
            _ => (None, text),
        };
        let form = "use http://HOST:PORT for Pyroscope, grpc://HOST:PORT or \
                    parca+http://HOST:PORT for Parca; with TLS https, grpcs, parca+https";
        let (scheme, rest) = rest.split_once("://").ok_or(form)?;
        let is_grpc = matches!(scheme, "grpc" | "grpcs") && named != Some(Protocol::Pyroscope);
        if scheme != "http" && scheme != "https" && !is_grpc {
            return Err(form.into());
        }
        if rest.contains(['?', '#']) || rest.contains(|c: char| c.is_whitespace()) {
            return Err("the URL must not have a query".into());
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if host.is_empty() {
            return Err(form.into());
        }
        let port = port_in(host)?;
        let path = path.trim_end_matches('/');
        // `%40` and the like in a user or password.
        let decoded = |user: &str| percent_decode_str(user).collect::<Vec<u8>>();
        let authorization = user.map(|user| format!("Basic {}", STANDARD.encode(decoded(user))));
        if is_grpc {
            if !path.is_empty() {
                return Err(format!("a gRPC URL must not have a path; use {scheme}://HOST:PORT"));
            }
            let protocol = Protocol::ParcaGrpc;
            // The form in which a request names it, by HTTP/2.
            let url = match (scheme, port) {
                ("grpcs", _) => format!("https://{host}{}", protocol.path()),
                (_, Some(_)) => format!("http://{host}{}", protocol.path()),
                (_, None) => format!("http://{host}:{PARCA_PORT}{}", protocol.path()),
            };
            return Ok(Self { protocol, url, authorization });
        }
        let by_path = [("/ingest", Protocol::Pyroscope), ("/profiles/writeraw", Protocol::Parca)]
            .into_iter()
            .find(|(end, _)| path.ends_with(end));
        let protocol = named.or(by_path.map(|(_, p)| p)).unwrap_or(Protocol::Pyroscope);
        let end = if by_path.is_some() { "" } else { protocol.path() };
        Ok(Self { protocol, url: format!("{scheme}://{host}{path}{end}"), authorization })
    }

    /// Whether it uses TLS.
    pub fn is_tls(&self) -> bool {
        self.url.starts_with("https://")
    }

    /// Whether others on the network can read what is sent.
    pub fn is_exposed(&self) -> bool {
        let behind = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let authority = behind.split('/').next().unwrap_or_default();
        let host = authority.parse::<Authority>().ok();
        let host = host.as_ref().map_or("", |a| a.host());
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_here = match host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        };
        !self.is_tls() && !is_here
    }

    /// A folder's name for its messages.
    pub fn folder(&self) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
        self.url.chars().map(safe).take(200).collect()
    }

    /// The request for a message.
    pub fn outgoing(&self, message: &Message) -> Outgoing {
        match self.protocol {
            Protocol::Pyroscope => pyroscope(&self.url, message),
            Protocol::Parca => parca(&self.url, message),
            Protocol::ParcaGrpc => parca_grpc(&self.url, message),
        }
    }
}

/// The port behind a host, if there is one.
fn port_in(host: &str) -> Result<Option<u16>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("invalid host {host:?}: {why}");
    let authority: Authority = host.parse().map_err(|e| wrong(&e))?;
    match host[authority.host().len()..].strip_prefix(':') {
        Some(port) => port.parse().map(Some).map_err(|e| wrong(&e)),
        None => Ok(None),
    }
}

/// Turns a label's name into one that every server accepts.
pub fn label_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = name.chars().map(safe).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// Replaces characters that have a meaning in Pyroscope's `name{key=value,…}`.
fn plain(value: &str) -> String {
    let unsafe_here = |c: char| c.is_control() || c.is_whitespace() || "{},=\"".contains(c);
    value.chars().map(|c| if unsafe_here(c) { '_' } else { c }).collect()
}

fn pyroscope(url: &str, message: &Message) -> Outgoing {
    let labels = message.labels.iter().map(|(k, v)| format!("{}={}", label_name(k), plain(v)));
    let name = format!("{}{{{}}}", plain(&message.service), labels.collect::<Vec<_>>().join(","));
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("name", &name)
        .append_pair("from", &message.from.to_string())
        .append_pair("until", &message.until.to_string())
        .append_pair("spyName", "exoprof")
        .finish();
    let boundary = boundary();
    let mut body = Vec::with_capacity(message.profile.len() + 1024);
    part(&mut body, &boundary, "profile", "profile.pprof", &message.profile);
    if let Some(config) = sample_type_config(message) {
        let config = config.to_string();
        let file = "sample_type_config.json";
        part(&mut body, &boundary, "sample_type_config", file, config.as_bytes());
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let content_type = format!("multipart/form-data; boundary={boundary}");
    Outgoing { url: format!("{url}?{query}"), content_type, body }
}

fn part(body: &mut Vec<u8>, boundary: &str, name: &str, file: &str, content: &[u8]) {
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(content);
    body.extend_from_slice(b"\r\n");
}

/// 128 random bits, which occur in no profile.
fn boundary() -> String {
    let random = || RandomState::new().hash_one(0);
    format!("exoprof{:016x}{:016x}", random(), random())
}

/// Block and mutex profiles have the same sample types: this distinguishes them as
/// Pyroscope's own clients do.
fn sample_type_config(message: &Message) -> Option<Value> {
    let has = |name: &str| message.sample_types.iter().any(|t| t == name);
    if !(has("contentions") && has("delay")) {
        return None;
    }
    let row = |what: &str, units: &str| {
        json!({
            "units": units,
            "display-name": format!("{}_{what}", message.metric),
            "aggregation": "sum",
            "cumulative": false,
            "sampled": false,
        })
    };
    Some(json!({
        "contentions": row("count", "lock_samples"),
        "delay": row("duration", "lock_nanoseconds"),
    }))
}

/// The labels of a series in Parca, which requires them to be sorted.
fn parca_labels(message: &Message) -> Vec<(String, String)> {
    let given = message.labels.iter().map(|(k, v)| (label_name(k), v.clone()));
    let own = [
        ("__name__".to_string(), message.metric.clone()),
        ("service_name".to_string(), message.service.clone()),
    ];
    let mut labels: Vec<_> = own.into_iter().chain(given).collect();
    labels.sort();
    labels
}

fn parca_grpc(url: &str, message: &Message) -> Outgoing {
    Outgoing {
        url: url.to_string(),
        content_type: "application/grpc".into(),
        body: pprof::parca::write_raw_request(parca_labels(message), &message.profile),
    }
}

fn parca(url: &str, message: &Message) -> Outgoing {
    let labels: Vec<_> = parca_labels(message)
        .into_iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let body = json!({
        "series": [{
            "labels": {"labels": labels},
            "samples": [{"rawProfile": STANDARD.encode(&message.profile)}],
        }],
        // Addresses are those of the process, with its mappings beside them.
        "normalized": false,
    });
    Outgoing {
        url: url.to_string(),
        content_type: "application/json".into(),
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::message::tests::example;

    #[test]
    fn urls() {
        let to = |text: &str| Destination::parse(text).map(|d| (d.protocol, d.url));
        let ok = |p, url: &str| Ok((p, url.to_string()));
        use Protocol::{Parca, ParcaGrpc, Pyroscope};
        assert_eq!(to("http://h:4040"), ok(Pyroscope, "http://h:4040/ingest"));
        assert_eq!(to("http://h:4040/"), ok(Pyroscope, "http://h:4040/ingest"));
        assert_eq!(to("https://h/a/ingest"), ok(Pyroscope, "https://h/a/ingest"));
        assert_eq!(to("parca+http://h:7070"), ok(Parca, "http://h:7070/api/profiles/writeraw"));
        let grpc = "http://h:7070/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw";
        assert_eq!(to("grpc://h:7070"), ok(ParcaGrpc, grpc));
        assert_eq!(to("parca+grpc://h:7070/"), ok(ParcaGrpc, grpc));
        assert_eq!(to("grpc://h"), ok(ParcaGrpc, grpc));
        let grpc = "https://h/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw";
        assert_eq!(to("grpcs://h"), ok(ParcaGrpc, grpc));
        let grpc = "https://[::1]:7/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw";
        assert_eq!(to("parca+grpcs://[::1]:7"), ok(ParcaGrpc, grpc));
        assert_eq!(to("http://h/x/profiles/writeraw"), ok(Parca, "http://h/x/profiles/writeraw"));
        for wrong in
            ["", "h:4040", "ftp://h", "http://", "http://h/?a=b", "http://h/ x", "x+http://h"]
                .into_iter()
                .chain([
                    "grpcs://h:1/x",
                    "grpc://h:1/x",
                    "pyroscope+grpc://h:1",
                    "grpc://h:",
                    "http://h:70700",
                ])
        {
            assert!(to(wrong).is_err(), "{wrong}");
        }
        let with_user = Destination::parse("http://u:p%40ss@h:4040").unwrap();
        assert_eq!(with_user.url, "http://h:4040/ingest");
        assert_eq!(with_user.authorization.as_deref(), Some("Basic dTpwQHNz"));
    }

    #[test]
    fn plain_text_to_other_machines_is_exposed() {
        let exposed = |text: &str| Destination::parse(text).unwrap().is_exposed();
        for safe in ["https://h", "grpcs://h:1", "http://127.1.2.3:4", "grpc://[::1]"] {
            assert!(!exposed(safe), "{safe}");
        }
        assert!(!exposed("http://u:p@LocalHost:4040/ingest"));
        for open in ["http://h", "grpc://10.0.0.1", "http://localhost.example:1", "grpc://[::2]"] {
            assert!(exposed(open), "{open}");
        }
    }

    #[test]
    fn names_are_escaped() {
        let destination = Destination::parse("http://h").unwrap();
        let mut message = example();
        message.service = "a{b=c}, d".into();
        message.labels.insert("k-1".into(), "x,y=\"z\"}\n".into());
        let url = destination.outgoing(&message).url;
        let query = url.split_once('?').unwrap().1;
        let name = form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == "name").unwrap().1;
        assert_eq!(name, "a_b_c___d{k_1=x_y__z___,pid=7}");
    }

    #[test]
    fn mutex_and_block_differ() {
        assert!(sample_type_config(&example()).is_none());
        let sample_types = vec!["contentions".to_string(), "delay".to_string()];
        let message = Message { metric: "mutex".into(), sample_types, ..example() };
        let config = sample_type_config(&message).unwrap();
        assert_eq!(config["delay"]["display-name"], "mutex_duration");
    }
}
