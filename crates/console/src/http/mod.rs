//! Shares the HTTP server of `serve` and `view --http`: sockets, access checks, connection limits.

mod error;
pub mod guard;
pub mod listen;
pub mod server;
mod stall;

pub use self::error::HttpError;
