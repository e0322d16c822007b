//! Answers `/debug/pprof/symbol`: the names of code addresses, as pprof requests them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use printable::Printable;

use crate::answer::{self, Failure};
use crate::state::Server;
use crate::targets::Entry;

/// Maximum length of a list of addresses, in bytes.
const MAX_BODY: usize = 4 << 20;
/// How long a client may take to send it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers a request for names.
pub async fn serve(
    server: &Arc<Server>,
    entry: &Arc<Entry>,
    method: &Method,
    query: &str,
    body: Body,
) -> Result<Response, Failure> {
    let addresses = if *method == Method::POST {
        let body = tokio::time::timeout(PATIENCE, to_bytes(body, MAX_BODY)).await;
        let slow =
            |_| Failure::new(StatusCode::REQUEST_TIMEOUT, "timed out waiting for the addresses");
        let long = |e| {
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("cannot read the addresses: {e}"))
        };
        addresses(&String::from_utf8_lossy(&body.map_err(slow)?.map_err(long)?))
    } else {
        addresses(query)
    };
    let process = entry.process.clone();
    let look_up = move || {
        let names = collect::function_names(&process, &addresses);
        // pprof only checks whether this number is 0.
        let mut text = String::from("num_symbols: 1\n");
        for (address, name) in addresses.iter().zip(names) {
            if let Some(name) = name {
                let _ = writeln!(text, "{address:#x} {}", Printable(&name));
            }
        }
        text
    };
    Ok(answer::text(server.look_up(look_up).await?))
}

/// The addresses in `0x401000+0x402000`; skips 0 and invalid numbers, as Go does.
fn addresses(text: &str) -> Vec<u64> {
    text.split('+').filter_map(|word| number(word.trim())).filter(|n| *n != 0).collect()
}

/// Parses a number like Go's `ParseUint(s, 0, 64)`.
fn number(word: &str) -> Option<u64> {
    let lower = word.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0b") => (&lower[2..], 2),
        Some("0o") => (&lower[2..], 8),
        _ if lower.len() > 1 && lower.starts_with('0') => (&lower[1..], 8),
        _ => (&*lower, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(addresses("0x401000+0X2+010+12+0b11"), [0x401000, 2, 8, 12, 3]);
        assert_eq!(addresses("0xffffffffffffffff+0x1ffffffffffffffff"), [u64::MAX]);
        assert!(addresses("").is_empty());
        assert_eq!(addresses("main+-1+0x+0++ 7\n+é"), [7]);
    }
}
