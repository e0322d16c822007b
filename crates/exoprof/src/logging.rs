//! Prints what the libraries log (`tracing`) to stderr: `-v`, `-vv` and `EXOPROF_LOG`.

use std::io::{self, Write};

use console::usage::Verbosity;
use printable::Printable;
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

/// Standard error, one line for each event: the target chooses its names.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Each call is one event, with its line break.
        io::stderr().lock().write_all(one_line(bytes).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

fn one_line(event: &[u8]) -> String {
    let text = String::from_utf8_lossy(event);
    format!("{}\n", Printable(text.strip_suffix('\n').unwrap_or(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = "INFO runtime found name=\u{1b}[2J\nerror: forged\n";
        let shown = "INFO runtime found name=\\x1b[2J\\nerror: forged\n";
        assert_eq!(one_line(event.as_bytes()), shown);
    }

    #[test]
    fn events_are_written_in_one_call() {
        use std::sync::{Arc, Mutex};

        struct Calls(Arc<Mutex<Vec<Vec<u8>>>>);
        impl Write for Calls {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().push(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = calls.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || Calls(seen.clone()))
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(name = %"a\nb", "event");
        });
        let calls = calls.lock().unwrap();
        assert_eq!(calls.len(), 1, "{calls:?}");
        assert_eq!(one_line(&calls[0]).lines().count(), 1);
    }

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
