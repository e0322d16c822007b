//! Profiles in the pprof format: build, encode, decode, merge, validate.
//!
//! A [`Profile`] holds samples and the tables that they refer to. References are dense indices
//! ([`MappingIndex`], [`LocationIndex`], [`FunctionIndex`]); the ids of the wire format exist only
//! in encoded bytes, where they are always index + 1. So any profile that is written from here has
//! the sequential ids that Parca and Pyroscope demand, wherever it came from.
//!
//! ```text
//!   Sample ──► [Location] ──► Mapping          leaf first; one Location = one code address
//!     │            └──► [Line] ──► Function    innermost inlined call first
//!     ├──► [i64]     one value per sample type
//!     └──► [Label]   thread, and the like
//! ```
//!
//! - [`ProfileBuilder`] interns everything while a recording runs; [`ProfileBuilder::finish`]
//!   drops what no sample uses.
//! - [`write_gz`], [`write`](fn@write) and [`encode`] are deterministic: equal profiles give equal bytes.
//! - [`decode`] reads untrusted bytes, gzip or not, within [`Limits`].
//! - [`merge`] has the semantics of google/pprof's `profile.Merge`.
//! - [`validate::check`] holds encoded bytes to everything that the known consumers need.
//!
//! The format itself is described in `proto/profile.proto`.

mod align;
mod builder;
mod compact;
mod decode;
mod encode;
mod hash;
mod merge;
mod model;
pub mod parca;
pub mod proto;
mod samples;
pub mod validate;

pub use builder::{BuildError, FunctionSpec, MappingSpec, ProfileBuilder};
pub use decode::{DecodeError, Limits, decode, decode_with, inflate};
pub use encode::{encode, write, write_gz};
pub use merge::{BASE_LABEL, MergeError, merge};
pub use model::{
    Function, FunctionIndex, Label, LabelValue, Line, Location, LocationIndex, Mapping,
    MappingIndex, Profile, ValueType,
};
pub use samples::{SampleIter, SampleRef, Samples};
