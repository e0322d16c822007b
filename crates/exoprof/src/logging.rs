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
    let given = std::env::var(VARIABLE).unwrap_or_default();
    let filter = if given.trim().is_empty() {
        let others = level.min(LevelFilter::WARN);
        LOGGING_DEPENDENCIES.iter().fold(EnvFilter::new(level.to_string()), |filter, name| {
            match format!("{name}={others}").parse() {
                Ok(directive) => filter.add_directive(directive),
                Err(_) => filter,
            }
        })
    } else {
        EnvFilter::try_new(&given)?
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

/// Dependencies that log (TLS, HTTP, BPF). With `-v` only their warnings are shown; `EXOPROF_LOG` can
/// name them.
const LOGGING_DEPENDENCIES: &[&str] = &[
    "aya",
    "aya_obj",
    "h2",
    "jiff",
    "jiff_core",
    "jni",
    "mio",
    "rustls",
    "rustls_platform_verifier",
    "rustyline",
    "ureq",
    "ureq_proto",
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
    fn every_dependency_that_logs_is_listed() {
        let lock = include_str!("../../../Cargo.lock");
        let logs = |package: &&str| {
            let ours = !package.contains("\nsource = ");
            let needs = |name: &str| package.contains(&format!("\n \"{name}\","));
            !ours && (needs("log") || needs("tracing"))
        };
        let name = |package: &str| -> Option<String> {
            let (_, rest) = package.split_once("name = \"")?;
            Some(rest.split_once('"')?.0.replace('-', "_"))
        };
        let mut found: Vec<String> =
            lock.split("[[package]]").filter(logs).filter_map(name).collect();
        found.retain(|name| !name.starts_with("tracing"));
        found.sort();
        assert_eq!(found, LOGGING_DEPENDENCIES);
    }
}
