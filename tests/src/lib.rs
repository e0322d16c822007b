//! Tests that drive the `exoprof` binary from outside, as its users do, on programs whose truth is
//! known. This library is their harness:
//!
//! ```text
//!   programs  builds tests/targets/* on demand ──► a path
//!   target    runs it: `ready`, `go`, `mark`, ground truth in nanoseconds
//!   recorder  runs `exoprof record` on it ──► Recording { profile, stderr, status, max_rss }
//!   profile   the decoded profile, stacks expanded and leaf first
//!   compared  a recording of waiting beside the program's own account of the same time
//!   records   two profiles that must be the same, record by record
//!   expect    what a right profile must satisfy: shares, thread roots, values
//!   gotarget  Go programs in all versions and builds, and what they say of themselves
//!   python    interpreters in all versions
//!   gotool    `go tool pprof` on the outcome
//!   procfs    what /proc says of a process, to see that nothing was changed
//!   http      runs `exoprof serve` and sends it requests, well-formed or not
//!   imports   which source file needs which, for the rules of architecture.rs
//!   store     receives what `exoprof serve --push` sends
//!   grpc_store the same by gRPC
//!   certificates authorities and certificates of servers, right and wrong ones
//!   server    starts redis and the like on a free port, ends them when the test ends
//! ```
//!
//! The harness panics with a full account where it cannot go on: it exists for tests only.

pub mod certificates;
pub mod compared;
pub mod expect;
pub mod gotarget;
pub mod gotool;
pub mod grpc_store;
pub mod http;
pub mod imports;
pub mod procfs;
pub mod profile;
pub mod programs;
pub mod python;
pub mod recorder;
pub mod records;
pub mod server;
pub mod store;
pub mod target;

use std::path::PathBuf;

pub use profile::{Frame, Profile, Sample};
pub use programs::Program;
pub use recorder::{Outcome, Recorder, Recording, Running, exoprof, record, record_busy};
pub use target::{Target, Truth};

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .canonicalize()
        .expect("the repository's folder exists")
}
