//! Shares the HTTP server of `serve` and `view --http`: sockets, access checks, connection limits.

mod error;
pub mod guard;
pub mod listen;
pub mod peer;
pub mod server;
mod sock_diag;
mod stall;

pub use self::error::HttpError;
