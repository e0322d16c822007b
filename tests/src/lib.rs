//! Harness for tests that drive the `exoprof` binary from outside, as users do, on programs whose
//! behavior is known:
//!
//! ```text
//!   programs      builds tests/targets/* on demand ──► a path
//!   target        runs a program: `ready`, `go`, `mark`, its ground truth in nanoseconds
//!   recorder      runs `exoprof record` on it ──► Recording { profile, stderr, status, max_rss }
//!   profile       decodes the profile; stacks are expanded, leaf first
//!   compared      compares recorded waits with what the program measured in the same time
//!   records       compares two profiles record by record
//!   expect        assertions on profiles: shares, thread roots, values
//!   chance        decides whether a measurement is wrong or only unlucky, by more samples
//!   quiet         measures whether a process got the CPU time that it was ready for
//!   notes         what must be seen although a test passes
//!   gotarget      runs Go programs in all versions and builds; reads their own profiles
//!   python        finds the installed Python interpreters
//!   gotool        runs `go tool pprof` on the result
//!   procfs        reads /proc, to check that a recording changed nothing
//!   http          runs `exoprof serve` and sends it requests, well-formed or not
//!   imports       finds which source file imports which, for the rules of architecture.rs
//!   store         an HTTP profile store that receives `exoprof serve --push`
//!   grpc_store    the same over gRPC
//!   certificates  certificate authorities and server certificates, valid and invalid
//!   server        starts redis and others on a free port and ends them with the test
//! ```
//!
//! Functions panic with a detailed message on failure: the harness exists for tests only.

pub mod certificates;
pub mod chance;
pub mod compared;
pub mod expect;
pub mod gotarget;
pub mod gotool;
pub mod grpc_store;
pub mod http;
pub mod imports;
pub mod notes;
pub mod procfs;
pub mod profile;
pub mod programs;
pub mod python;
pub mod quiet;
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
        .expect("the repository exists")
}
