//! Defines the options of `view --http`.

use std::path::PathBuf;

use clap::Args;
use console::http::listen::Listen;
use console::usage::UsageError;

/// Options of `view --http`.
#[derive(Debug, Args)]
pub struct WebArgs {
    /// Serve the profile as a web page on `[HOST]:[PORT]` [default: 127.0.0.1 and any free port]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Require the token in this file (Authorization: Bearer TOKEN)
    #[arg(long, value_name = "FILE", requires = "http")]
    pub token_file: Option<PathBuf>,
    /// Allow addresses other than loopback without a token
    #[arg(long, requires = "http")]
    pub insecure: bool,
}

impl WebArgs {
    /// The address, if serving there is allowed.
    pub fn listen(&self) -> Result<Listen, UsageError> {
        let text = self.http.as_deref().unwrap_or_default();
        let wrong = |e| UsageError(format!("--http: {e}"));
        let listen = Listen::parse(&completed(text)).map_err(wrong)?;
        if !listen.is_local() && self.token_file.is_none() && !self.insecure {
            let text = format!(
                "{text} is reachable from other machines; give --token-file FILE, or --insecure"
            );
            return Err(UsageError(text));
        }
        Ok(listen)
    }
}

/// Completes an address as pprof does: the default is this machine and a free port.
fn completed(text: &str) -> String {
    if text.starts_with("unix:") {
        return text.to_owned();
    }
    // A host without a port; an IPv6 address contains colons.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    let port = if port.is_empty() { "0" } else { port };
    format!("{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(http: &str, insecure: bool) -> WebArgs {
        WebArgs { http: Some(http.to_owned()), token_file: None, insecure }
    }

    #[test]
    fn addresses() {
        for (given, meant) in [
            ("", "127.0.0.1:0"),
            (":", "127.0.0.1:0"),
            (":8080", "127.0.0.1:8080"),
            ("localhost:", "localhost:0"),
            ("localhost", "localhost:0"),
            ("[::1]", "[::1]:0"),
            ("[::1]:80", "[::1]:80"),
            ("unix:/x", "unix:/x"),
        ] {
            assert_eq!(completed(given), meant);
            assert!(args(given, false).listen().is_ok(), "{given}");
        }
    }

    #[test]
    fn other_machines_require_an_option() {
        assert!(args("0.0.0.0:80", false).listen().is_err());
        assert!(args("0.0.0.0:80", true).listen().is_ok());
    }
}
