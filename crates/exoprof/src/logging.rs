//! Prints what the libraries log (`tracing`) to stderr: `-v`, `-vv` and `EXOPROF_LOG`.

use std::io::{self, Write};

use console::terminal::Printable;
use console::usage::Verbosity;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The variable that selects what is logged, in place of `-v`: `debug`, `unwind=trace,info`, …
pub const VARIABLE: &str = "EXOPROF_LOG";

/// `EXOPROF_LOG` is not a valid filter.
#[derive(Debug, thiserror::Error)]
#[error("invalid filter in {VARIABLE}: {0}; example: {VARIABLE}=unwind=debug,info")]
pub struct InvalidFilter(#[from] tracing_subscriber::filter::ParseError);

/// Starts logging to stderr, once per program.
///
/// # Errors
/// [`InvalidFilter`] where `EXOPROF_LOG` is not a valid filter.
pub fn start(verbosity: Verbosity) -> Result<(), InvalidFilter> {
    let level = match verbosity {
        Verbosity::Quiet => LevelFilter::ERROR,
        Verbosity::Normal => LevelFilter::WARN,
        Verbosity::Verbose => LevelFilter::INFO,
        Verbosity::Debug => LevelFilter::DEBUG,
    };
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    // Third-party libraries (TLS, HTTP, BPF) log only when the filter names them.
    let filter = if wanted.trim().is_empty() {
        OURS.iter().fold(EnvFilter::new("warn"), |filter, name| {
            let directive = format!("{name}={level}").parse();
            directive.map_or_else(|_| EnvFilter::new("warn"), |d| filter.add_directive(d))
        })
    } else {
        EnvFilter::try_new(&wanted)?
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Stderr)
        .with_ansi(false)
        // A closed stderr must not end a recording.
        .log_internal_errors(false);
    // Only a second call fails, and `main` calls this once.
    let _ = subscriber.try_init();
    Ok(())
}

/// The crates of this workspace, by the names that log lines carry.
const OURS: &[&str] = &[
    "aggregate",
    "assemble",
    "collect",
    "console",
    "events",
    "exoprof",
    "gopclntab",
    "goruntime",
    "host",
    "image",
    "pprof",
    "process",
    "pyruntime",
    "report",
    "serve",
    "symbolize",
    "unwind",
    "view",
];

/// Standard error without terminal control characters: the target chooses its names.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Printable(io::stderr().lock()).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_of_the_workspace_is_listed() {
        let crates = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let mut found: Vec<String> = [crates.to_owned(), format!("{crates}/runtimes")]
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("Cargo.toml").exists())
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                match name.as_str() {
                    // The runtime libraries have longer names than their directories.
                    "go" => "goruntime".into(),
                    "python" => "pyruntime".into(),
                    _ => name,
                }
            })
            .collect();
        found.sort();
        assert_eq!(found, OURS);
    }
}
