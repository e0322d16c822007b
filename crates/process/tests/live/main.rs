//! Tests the crate on real processes.
//!
//! Must run as root: the tests use namespaces, kernel threads and other users' processes.

mod held;
mod images;
mod process;
mod seize;
mod spawned;
mod support;
