//! What threads of programs that are not Go wait for, and who lets them wait.

pub(crate) mod block;
mod by_bpf;
mod contentions;
mod fallback;
mod joint;
mod locks;
pub(crate) mod mutex;
mod programs;
mod switches;
