//! Defines a profile to push, and its format in the spool.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A profile and its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The service: a systemd unit, or the process' name.
    pub service: String,
    /// What the profile measures, as servers call it: `process_cpu`, `memory` …
    pub metric: String,
    /// Labels of the series.
    pub labels: BTreeMap<String, String>,
    /// Start of the recording, in seconds since the Unix epoch.
    pub from: u64,
    /// End of the recording, in seconds since the Unix epoch.
    pub until: u64,
    /// The names of its sample types.
    pub sample_types: Vec<String>,
    /// The compressed profile.
    pub profile: Vec<u8>,
}

/// Why a file in the spool is invalid.
#[derive(Debug, thiserror::Error)]
#[error("not a profile that exoprof wrote")]
pub struct Malformed;

impl Message {
    /// A line of JSON, followed by the profile.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = json!({
            "service": self.service,
            "metric": self.metric,
            "labels": self.labels,
            "from": self.from,
            "until": self.until,
            "sample_types": self.sample_types,
        });
        let mut bytes = head.to_string().into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.profile);
        bytes
    }

    /// Reads [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let end = bytes.iter().position(|b| *b == b'\n').ok_or(Malformed)?;
        let head: Map<String, Value> =
            serde_json::from_slice(&bytes[..end]).map_err(|_| Malformed)?;
        let text = |key: &str| Some(head.get(key)?.as_str()?.to_string());
        let number = |key: &str| head.get(key)?.as_u64();
        let string = |v: &Value| v.as_str().map(str::to_string);
        let parse = || {
            let labels = head.get("labels")?.as_object()?;
            let labels = labels.iter().map(|(k, v)| Some((k.clone(), string(v)?)));
            let sample_types = head.get("sample_types")?.as_array()?.iter().map(string);
            Some(Self {
                service: text("service")?,
                metric: text("metric")?,
                labels: labels.collect::<Option<_>>()?,
                from: number("from")?,
                until: number("until")?,
                sample_types: sample_types.collect::<Option<_>>()?,
                profile: bytes[end + 1..].to_vec(),
            })
        };
        parse().ok_or(Malformed)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn example() -> Message {
        Message {
            service: "redis".into(),
            metric: "process_cpu".into(),
            labels: [("pid".to_string(), "7".to_string())].into(),
            from: 100,
            until: 115,
            sample_types: vec!["samples".into(), "cpu".into()],
            profile: b"\x1f\x8b\nbytes\n".to_vec(),
        }
    }

    #[test]
    fn roundtrip() {
        let message = example();
        assert_eq!(Message::from_bytes(&message.to_bytes()).unwrap(), message);
        for wrong in [&b""[..], b"{}", b"{}\n", b"x\n", b"[1]\n", b"{\"service\":1}\n"] {
            assert!(Message::from_bytes(wrong).is_err());
        }
    }
}
