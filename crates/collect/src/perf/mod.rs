//! What perf events tell: samples of threads on a CPU, and who creates threads.

pub(crate) mod attach;
pub(crate) mod cpu;
pub(crate) mod creations;
pub(crate) mod live;
mod sampling;
