//! Serves a profile as a web page: `exoprof view --http`.

mod answers;
mod args;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use console::http::HttpError;
use console::http::guard::{self, Guard, Token};
use console::http::server;
use console::stop::StopSignal;
use pprof::Profile;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::error::ViewError;
use answers::Viewed;
pub use args::WebArgs;

/// Maximum number of concurrent reports: each may take a second and much memory.
const REPORTS: usize = 2;

/// Allows only our own resources, and no embedding in frames.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; \
                      connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("app.js");

/// Serves the profile until a signal arrives. `serving` receives the address.
pub fn serve(
    profile: Profile,
    args: &WebArgs,
    serving: impl FnOnce(&str),
) -> Result<(), ViewError> {
    let listen = args.listen()?;
    let token = args.token_file.as_deref().map(Token::read).transpose().map_err(HttpError::from)?;
    let guard = Guard::new(&listen, token);
    let socket = listen.bind(None).map_err(HttpError::from)?;
    let stop = StopSignal::install().map_err(HttpError::Signals)?;
    serving(&socket.shown());
    let shared = Arc::new(Viewed { profile, slots: Semaphore::new(REPORTS) });
    let app = router(shared, guard);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(HttpError::Start)?;
    runtime.block_on(async {
        let stop = stop.into_stream().and_then(UnixStream::from_std);
        let stop = stop.map_err(HttpError::Wait)?;
        let stopped = async {
            // An error while waiting ends the server too.
            let _ = stop.readable().await;
        };
        server::serve(socket, app, stopped).await.map_err(HttpError::Serve)
    })?;
    // Do not wait for unfinished reports: nobody will read them.
    runtime.shutdown_background();
    Ok(())
}

fn router(shared: Arc<Viewed>, guard: Guard) -> Router {
    let script = |text: &'static str| move || async move { typed("text/javascript", text) };
    Router::new()
        .route("/", get(|| async { typed("text/html; charset=utf-8", page()) }))
        .route("/app.js", get(script(SCRIPT)))
        .route("/flame.js", get(script(report::Document::script())))
        .route("/api/about", get(answers::about))
        .route("/api/flame", get(answers::flame))
        .route("/api/top", get(answers::top))
        .route("/api/text", get(answers::text))
        .route("/profile.pb.gz", get(answers::download))
        .with_state(shared)
        .layer(axum::middleware::map_response(secured))
        .layer(axum::middleware::from_fn_with_state(Arc::new(guard), guard::layer))
}

fn page() -> String {
    PAGE.replacen("@style@", report::Document::style(), 1)
}

fn typed(kind: &'static str, body: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

async fn secured(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
