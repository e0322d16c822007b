//! Routes paths to handlers.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use axum::{Extension, Router};
use console::http::guard::{self, Guard};

use crate::answer::{self, Failure};
use crate::endpoints::{self, Source};
use crate::peers::{self, Access, Entrance};
use crate::state::Server;
use crate::targets::Entry;
use crate::{pages, profile, symbol};

type ServerState = State<Arc<Server>>;

/// The routes of the server, behind the guard of a socket and its rules for clients.
pub fn new(server: Arc<Server>, guard: Guard, entrance: Entrance) -> Router {
    Router::new()
        .route("/", any(processes))
        .route("/debug/pprof", any(|| async { redirect("/debug/pprof/") }))
        .route("/debug/pprof/", any(single_index))
        .route("/debug/pprof/{name}", any(single))
        .route("/pid/{pid}", any(to_index))
        .route("/pid/{pid}/", any(to_index))
        .route("/pid/{pid}/debug/pprof", any(to_index))
        .route("/pid/{pid}/debug/pprof/", any(of_pid_index))
        .route("/pid/{pid}/debug/pprof/{name}", any(of_pid))
        .fallback(|| async { Failure::not_found("not found; / lists the served processes") })
        .with_state(server)
        .layer(middleware::from_fn_with_state(Arc::new(entrance), peers::layer))
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::layer))
}

fn redirect(to: &str) -> Response {
    (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, to)]).into_response()
}

async fn to_index(Path(pid): Path<String>) -> Result<Response, Failure> {
    Ok(redirect(&format!("/pid/{}/debug/pprof/", pid_of(&pid)?)))
}

fn pid_of(text: &str) -> Result<i32, Failure> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let pid = text.parse().ok().filter(|pid| digits && *pid > 0);
    pid.ok_or_else(|| Failure::not_found("invalid process id"))
}

async fn processes(
    State(server): ServerState,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Response, Failure> {
    only_reading(request.method())?;
    let mut format = None;
    for (key, value) in form_urlencoded::parse(query_of(&request).as_bytes()) {
        if key != "format" {
            return Err(Failure::bad_request(format!("unknown parameter {key:?}: use format")));
        }
        format = format.or(Some(value.into_owned()));
    }
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    let host = host.unwrap_or("localhost").to_string();
    let listing = server.clone();
    let listed = server.look_up(move || listing.targets.list(access)).await?;
    match format.as_deref() {
        None => Ok(answer::html(pages::processes(&listed, server.targets.is_single()))),
        Some("json") => Ok(answer::json(&pages::processes_json(&listed))),
        Some("http_sd") => Ok(answer::json(&pages::service_discovery(&listed, &host))),
        Some(_) => Err(Failure::bad_request("invalid format: use json or http_sd")),
    }
}

async fn single_index(
    State(server): ServerState,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Response, Failure> {
    let entry = server.targets.only(access)?;
    index(&server, request.method(), &entry).await
}

async fn single(
    State(server): ServerState,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    let entry = server.targets.only(access)?;
    let answer = endpoint(&server, &entry, &name, request).await?;
    still_permitted(&entry, access).map(|()| answer)
}

async fn of_pid_index(
    State(server): ServerState,
    Extension(access): Extension<Access>,
    Path(pid): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    let entry = server.targets.find(pid_of(&pid)?, access)?;
    index(&server, request.method(), &entry).await
}

async fn of_pid(
    State(server): ServerState,
    Extension(access): Extension<Access>,
    Path((pid, name)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    let entry = server.targets.find(pid_of(&pid)?, access)?;
    let answer = endpoint(&server, &entry, &name, request).await?;
    still_permitted(&entry, access).map(|()| answer)
}

/// Refuses an answer about a process that has become another user's meanwhile, such as by
/// executing a set-uid program. Nobody can tell that of one that has exited.
fn still_permitted(entry: &Entry, access: Access) -> Result<(), Failure> {
    if access.permits(&entry.process) || !entry.process.is_alive() {
        return Ok(());
    }
    Err(access.refusal(entry.process.pid()))
}

async fn index(server: &Server, method: &Method, entry: &Arc<Entry>) -> Result<Response, Failure> {
    only_reading(method)?;
    let entry = entry.clone();
    // A count reads the target's memory.
    let page = server.look_up(move || pages::index(&entry, &endpoints::all())).await?;
    Ok(answer::html(page))
}

fn query_of(request: &Request) -> &str {
    request.uri().query().unwrap_or_default()
}

fn only_reading(method: &Method) -> Result<(), Failure> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    Err(Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not allowed for this path"),
    ))
}

async fn endpoint(
    server: &Arc<Server>,
    entry: &Arc<Entry>,
    name: &str,
    request: Request,
) -> Result<Response, Failure> {
    let endpoint = endpoints::find(name).ok_or_else(|| Failure::not_found("Unknown profile"))?;
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    match endpoint.source {
        Source::Symbol if parts.method == Method::POST => {}
        _ => only_reading(&parts.method)?,
    }
    match endpoint.source {
        Source::Profile(kind) => {
            // The layer of crate::peers has set it.
            let access = parts.extensions.get().copied();
            let access = access.ok_or_else(|| {
                Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the client is not known")
            })?;
            profile::serve(server, entry, endpoint, kind, access, (&parts.method, query)).await
        }
        Source::Symbol => symbol::serve(server, entry, &parts.method, query, body).await,
        Source::Cmdline => cmdline(entry),
        Source::Trace => Err(Failure::new(
            StatusCode::NOT_IMPLEMENTED,
            "an execution trace is only available from the program itself (runtime/trace); the \
             profiles on the index page work from outside",
        )),
    }
}

/// The arguments, separated by NUL as in Go.
fn cmdline(entry: &Entry) -> Result<Response, Failure> {
    use std::os::unix::ffi::OsStrExt as _;
    let gone = |_| Failure::gone(format!("process {} has exited", entry.shown()));
    let identity = entry.process.read_identity().map_err(gone)?;
    let words: Vec<&[u8]> = identity.cmdline.iter().map(|w| w.as_bytes()).collect();
    Ok(answer::text(words.join(&0)))
}
