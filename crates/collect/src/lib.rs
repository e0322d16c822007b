//! Recording sessions: from a process to a finished profile.

mod attach;
mod clock;
mod cputime;
mod deep;
mod processes;
mod recorder;
mod session;
mod stacks;
mod times;
