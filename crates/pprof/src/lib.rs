//! Profiles in the pprof format: build, encode, decode, merge, validate.
//!
//! ```
//! use pprof::{FunctionSpec, Label, Line, MappingSpec, ProfileBuilder, ValueType};
//!
//! let mut builder = ProfileBuilder::new(vec![ValueType::new("cpu", "nanoseconds")]);
//! builder.set_period(ValueType::new("cpu", "nanoseconds"), 10_000_000);
//! let mapping = builder.mapping(MappingSpec {
//!     start: 0x40_0000,
//!     limit: 0x41_0000,
//!     file: "/usr/bin/server",
//!     ..Default::default()
//! })?;
//! let main = builder.function(FunctionSpec { name: "main", ..Default::default() })?;
//! let location = builder.location(mapping, 0x40_1234, &[Line::new(main, 7)])?;
//! builder.add_sample(&[location], &[10_000_000], &[Label::text("thread", "worker")])?;
//! let profile = builder.finish();
//!
//! let mut file = Vec::new();
//! pprof::write_gz(&profile, &mut file)?; // `go tool pprof` reads this
//! let decoded = pprof::decode(&file)?;
//! assert_eq!(decoded.samples.len(), 1);
//! assert_eq!(pprof::encode(&decoded), pprof::encode(&profile));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Profile`] holds samples and the tables that they refer to. References are dense indices
//! ([`MappingIndex`], [`LocationIndex`], [`FunctionIndex`]); the ids of the wire format exist only
//! in encoded bytes, where they are always index + 1. So every profile that this crate writes has the
//! sequential ids that Parca and Pyroscope require, wherever it came from.
//!
//! ```text
//!   Sample ──► [Location] ──► Mapping          leaf first; one Location = one code address
//!     │            └──► [Line] ──► Function    innermost inlined call first
//!     ├──► [i64]     one value per sample type
//!     └──► [Label]   thread, process, …
//! ```
//!
//! - [`ProfileBuilder`] interns everything while a recording runs; [`ProfileBuilder::finish`]
//!   drops what no sample uses.
//! - [`write_gz`], [`write`](fn@write) and [`encode`] are deterministic: equal profiles give equal bytes.
//! - [`decode`] reads untrusted bytes, gzip or not, within [`Limits`].
//! - [`merge`] has the semantics of google/pprof's `profile.Merge`.
//! - [`validate::check`] checks encoded bytes against the requirements of all known readers.
//!
//! The format itself is described in `proto/profile.proto`.

#![deny(clippy::print_stderr, clippy::print_stdout)]
// Numbers come from files that anybody can write.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)
)]

mod align;
mod builder;
mod compact;
mod decode;
mod encode;
mod hash;
pub mod kinds;
mod merge;
mod model;
pub mod parca;
pub mod proto;
mod samples;
pub mod validate;

pub use builder::{BuildError, FunctionSpec, MappingSpec, ProfileBuilder};
pub use decode::{DecodeError, Limits, decode, decode_with, inflate};
pub use encode::{encode, write, write_gz};
pub use kinds::{KindFacts, TextForm};
pub use merge::{BASE_LABEL, MergeError, merge};
pub use model::{
    Function, FunctionIndex, Label, LabelValue, Line, Location, LocationIndex, Mapping,
    MappingIndex, Profile, ValueType,
};
pub use samples::{SampleIter, SampleRef, Samples};
