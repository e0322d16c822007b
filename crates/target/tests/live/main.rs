//! Against real processes. Must run as root: namespaces, kernel threads and other users' processes
//! are part of what is tested.

mod images;
mod process;
mod seize;
mod spawned;
mod support;
