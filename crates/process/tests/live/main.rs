//! Against real processes. Must run as root: namespaces, kernel threads and other users' processes
//! are part of what is tested.

mod held;
mod images;
mod process;
mod seize;
mod spawned;
mod support;
