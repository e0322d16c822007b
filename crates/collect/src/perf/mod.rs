//! Records profiles with perf events: samples of CPU time, and thread creations.

pub(crate) mod attach;
pub(crate) mod cpu;
pub(crate) mod creations;
pub(crate) mod live;
mod sampling;
