//! Records where native threads block (`block`) and which threads hold the locks that others wait
//! for (`mutex`).

pub(crate) mod block;
mod by_bpf;
mod contentions;
mod fallback;
mod locks;
pub(crate) mod mutex;
mod programs;
mod shared;
mod switches;
