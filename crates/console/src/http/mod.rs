//! What `serve` and `view --http` have in common: sockets, who may ask, and limits on connections.

pub mod guard;
pub mod listen;
pub mod server;
mod stall;
