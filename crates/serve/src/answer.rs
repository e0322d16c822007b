//! Builds responses in the form of Go's own endpoints.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use printable::Printable;

/// Why there is no profile: one line of text, which pprof shows.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    text: String,
}

/// Seconds after which a client should retry.
const RETRY_AFTER: &str = "5";

impl Failure {
    /// Creates a failure with this status.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// The request is invalid.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// What was asked for does not exist.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// The process has ended.
    pub fn gone(text: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, text)
    }

    /// The server is busy.
    pub fn busy(text: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        tracing::info!(status = self.status.as_u16(), reason = self.text, "request failed");
        // Some texts contain names of processes, which may hold any character.
        let mut response = (self.status, format!("{}\n", Printable(&self.text))).into_response();
        set(&mut response, header::CONTENT_TYPE, "text/plain; charset=utf-8");
        set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        response.headers_mut().insert("x-go-pprof", HeaderValue::from_static("1"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            set(&mut response, header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

fn set(response: &mut Response, name: header::HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

fn with_type(body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    set(&mut response, header::CONTENT_TYPE, kind);
    set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

/// A compressed profile, to be saved as `name`.
pub fn profile(name: &str, bytes: Bytes) -> Response {
    let mut response = with_type(bytes.into(), "application/octet-stream");
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

/// Plain text.
pub fn text(text: impl Into<Body>) -> Response {
    with_type(text.into(), "text/plain; charset=utf-8")
}

/// JSON. Names in it control no terminal.
pub fn json(text: &str) -> Response {
    with_type(printable::json(text).into_owned().into(), "application/json")
}

/// An HTML page without scripts.
pub fn html(page: String) -> Response {
    let mut response = with_type(page.into(), "text/html; charset=utf-8");
    set(
        &mut response,
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    );
    response
}
