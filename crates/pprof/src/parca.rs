//! Encodes `WriteRawRequest`, the request in which Parca accepts profiles. It is defined in
//! `proto/parca/profilestore/v1alpha1/profilestore.proto` in parca-dev/parca.

use prost::Message as _;

#[derive(Clone, PartialEq, prost::Message)]
struct WriteRawRequest {
    #[prost(message, repeated, tag = "2")]
    series: Vec<RawProfileSeries>,
    /// Whether addresses are relative to files. Never set: ours are addresses in the process.
    #[prost(bool, tag = "3")]
    normalized: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawProfileSeries {
    #[prost(message, optional, tag = "1")]
    labels: Option<LabelSet>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<RawSample>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LabelSet {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawSample {
    #[prost(bytes = "vec", tag = "1")]
    raw_profile: Vec<u8>,
}

/// Encodes a request that writes one compressed profile to the series with these labels.
#[must_use]
pub fn write_raw_request(
    labels: impl IntoIterator<Item = (String, String)>,
    profile: &[u8],
) -> Vec<u8> {
    let labels = labels.into_iter().map(|(name, value)| Label { name, value }).collect();
    let series = RawProfileSeries {
        labels: Some(LabelSet { labels }),
        samples: vec![RawSample { raw_profile: profile.to_vec() }],
    };
    WriteRawRequest { series: vec![series], normalized: false }.encode_to_vec()
}
