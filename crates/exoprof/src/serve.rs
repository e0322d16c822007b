//! Runs `exoprof serve`.

use std::sync::Arc;

use console::terminal::say;
use console::usage::Verbosity;
use serve::{Notice, Notify};

pub use serve::ServeArgs;

/// Runs the command.
pub fn run(args: &ServeArgs, verbosity: Verbosity) -> anyhow::Result<()> {
    let notify: Notify = Arc::new(move |notice: Notice| {
        if verbosity > Verbosity::Quiet {
            say!("{notice}");
        }
    });
    Ok(serve::run(args, &notify)?)
}
