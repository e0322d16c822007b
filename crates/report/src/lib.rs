//! Writes reports about profiles: the text forms of `go tool pprof`, flame graphs, exports.
//!
//! ```text
//!   files ── combine() ──► Profile ── Report::new() ──► Report ── write() ──► text
//!            merge, diff              prune, filter             graph, order, trim
//! ```
//!
//! Texts equal those of `go tool pprof -symbolize=none` with the same options, to the character. Where
//! that tool's order is random, a fixed one is used. Nothing is symbolized or demangled: names come
//! from the profile.

#![deny(clippy::print_stderr, clippy::print_stdout)]
// Numbers come from files that anybody can write.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)
)]

mod collapsed;
mod combine;
mod ends;
mod error;
mod export;
mod filter;
mod flame;
mod go;
mod graph;
mod header;
mod labels;
mod legacy;
mod list;
mod measure;
mod options;
mod prune;
mod raw;
mod regexp;
mod report;
mod samplevalue;
mod source;
mod tagfilter;
mod tags;
mod text;
mod traces;
mod tree;
mod work;

pub use combine::{CombineError, combine};
pub use error::ReportError;
pub use flame::{Document, FlameNode, FlameTree, Grouping, Shape};
pub use legacy::{FunctionStartLookup, LegacyError, legacy_text};
pub use options::{Filters, Form, Granularity, Options};
pub use report::Report;
pub use samplevalue::index as sample_type_index;
pub use text::{Entry, Inlined, Table};
