//! Answers the page's requests: reports, with the shell's options as query parameters.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pprof::Profile;
use report::{Form, Grouping, Report};
use serde_json::json;
use tokio::sync::Semaphore;

use super::typed;
use crate::commands::{self, CommandOutput};
use crate::settings::{self, Settings};

/// Options that name files, which clients of the page must not set.
const NOT_FOR_PAGES: [&str; 3] = ["output", "source_path", "trim_path"];

/// Maximum number of rows of the table.
const ROWS: i64 = 500;

/// The state that all requests share.
pub struct Viewed {
    pub profile: Profile,
    pub slots: Semaphore,
}

/// A request's parameters.
struct Query {
    settings: Settings,
    /// Parameters that are not options.
    others: Vec<(String, String)>,
}

impl Query {
    fn new(text: Option<&str>) -> Result<Self, String> {
        let mut query = Self { settings: Settings::default(), others: Vec::new() };
        for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
            match settings::find(&name).filter(|s| !NOT_FOR_PAGES.contains(&s.name)) {
                Some(setting) if setting.name == name => {
                    setting.set(&mut query.settings, &name, &value)?;
                }
                _ => query.others.push((name.into_owned(), value.into_owned())),
            }
        }
        Ok(query)
    }

    fn other(&self, name: &str) -> &str {
        let found = self.others.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }
}

/// Computes an answer on another thread than the server's, once a slot is free.
async fn make(
    shared: Arc<Viewed>,
    query: Option<String>,
    answer: impl FnOnce(&Profile, &Query) -> Result<Response, String> + Send + 'static,
) -> Response {
    let made = async {
        let query = Query::new(query.as_deref())?;
        // The semaphore is never closed.
        let _slot = shared.slots.acquire().await.map_err(|e| e.to_string())?;
        let shared = Arc::clone(&shared);
        let made = tokio::task::spawn_blocking(move || answer(&shared.profile, &query));
        made.await.map_err(|e| e.to_string())?
    };
    let made: Result<Response, String> = made.await;
    made.unwrap_or_else(|e| {
        (
            StatusCode::BAD_REQUEST,
            typed("text/plain; charset=utf-8", printable::lines(&e).into_owned()),
        )
            .into_response()
    })
}

fn json_answer(text: &str) -> Response {
    typed("application/json", printable::json(text).into_owned())
}

fn report<'p>(profile: &'p Profile, query: &Query, form: Form) -> Result<Report<'p>, String> {
    Report::new(profile, query.settings.options(form)?).map_err(|e| e.to_string())
}

/// Describes the profile.
pub async fn about(State(shared): State<Arc<Viewed>>, RawQuery(query): RawQuery) -> Response {
    make(shared, query, |profile, query| {
        let report = report(profile, query, Form::Top)?;
        let types: Vec<&str> = profile.sample_types.iter().map(|t| &*t.kind).collect();
        let default = profile.default_sample_type_index().unwrap_or(0);
        let title = report.title();
        let about =
            json!({ "about": report.about(), "types": types, "default": default, "title": title });
        Ok(json_answer(&about.to_string()))
    })
    .await
}

/// A flame graph of one shape.
pub async fn flame(State(shared): State<Arc<Viewed>>, RawQuery(query): RawQuery) -> Response {
    make(shared, query, |profile, query| {
        let report = report(profile, query, Form::Top)?;
        let by = Some(query.other("by").to_owned()).filter(|by| !by.is_empty());
        let inverted = query.other("inverted") == "true";
        let document = report.flame_document_of(Grouping { by, inverted });
        Ok(json_answer(&document.json()))
    })
    .await
}

/// The heaviest entries.
pub async fn top(State(shared): State<Arc<Viewed>>, RawQuery(query): RawQuery) -> Response {
    make(shared, query, |profile, query| {
        let mut settings = query.settings.clone();
        if settings.node_count == -1 {
            settings.node_count = ROWS;
        }
        let options = settings.options(Form::Top)?;
        let report = Report::new(profile, options).map_err(|e| e.to_string())?;
        let table = report.table();
        let value = |v: i64| json!([v, report.label(v, &table.unit), report.percentage(v).trim()]);
        let row = |e: &report::Entry| {
            json!({
                "name": e.name,
                "inlined": e.inlined.label(),
                "flat": value(e.flat),
                "cum": value(e.cum),
            })
        };
        let rows: Vec<_> = table.entries.iter().map(row).collect();
        let answer = json!({
            "header": table.header,
            "rows": rows,
            "warnings": report.warnings(),
        });
        Ok(json_answer(&answer.to_string()))
    })
    .await
}

/// A report as text, by the name of its command.
pub async fn text(State(shared): State<Arc<Viewed>>, RawQuery(query): RawQuery) -> Response {
    make(shared, query, |profile, query| {
        let name = query.other("form");
        let form = match commands::find(name).map(|c| c.makes) {
            Some(CommandOutput::Report(form)) => form(),
            Some(CommandOutput::ReportOn(form)) => form(query.other("on").to_owned()),
            Some(CommandOutput::Profile) | None => return Err(format!("unknown report {name:?}")),
        };
        let report = report(profile, query, form)?;
        let mut text = Vec::new();
        report.write(&mut text).map_err(|e| e.to_string())?;
        Ok(typed("text/plain; charset=utf-8", text))
    })
    .await
}

/// The profile itself.
pub async fn download(State(shared): State<Arc<Viewed>>) -> Response {
    make(shared, None, |profile, _| {
        let mut bytes = Vec::new();
        pprof::write_gz(profile, &mut bytes).map_err(|e| e.to_string())?;
        let disposition = [(header::CONTENT_DISPOSITION, "attachment; filename=\"profile.pb.gz\"")];
        Ok((disposition, typed("application/octet-stream", bytes)).into_response())
    })
    .await
}
