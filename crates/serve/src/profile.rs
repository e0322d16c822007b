//! Answers `/debug/pprof/KIND` with a recording, which several requests may share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use collect::kinds::{DumpText, Kind, Seconds};
use collect::{AttachError, Ended, RecordError, RecordOptions};

use crate::answer::{self, Failure};
use crate::endpoints::Endpoint;
use crate::peers::Access;
use crate::record::{Answer, FinishedRecording, RecordingError, RecordingSpec};
use crate::state::{Server, blocking};
use crate::targets::Entry;

/// What Go records if `seconds` is missing.
const CPU_DEFAULT: Duration = Duration::from_secs(30);
/// The highest rate that a request may ask for.
const MAX_HZ: u32 = 10_000;

/// A request's parameters.
struct Query {
    seconds: Option<String>,
    debug: Option<i64>,
    hz: Option<u32>,
    /// If the process exits early, send what was recorded until then instead of an error.
    partial: bool,
}

impl Query {
    fn parse(query: &str) -> Result<Self, Failure> {
        let mut parsed = Self { seconds: None, debug: None, hz: None, partial: false };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                // As in Go, the first one counts: some scrapers send it several times.
                "seconds" if parsed.seconds.is_none() => parsed.seconds = Some(value.into_owned()),
                // As in Go, anything that is not a number counts as 0.
                "debug" => parsed.debug = parsed.debug.or(Some(value.parse().unwrap_or(0))),
                "hz" => {
                    let hz = value.parse().ok().filter(|hz| (1..=MAX_HZ).contains(hz));
                    let wrong = || format!("invalid value for \"hz\" - must be 1 to {MAX_HZ}");
                    parsed.hz = Some(hz.ok_or_else(|| Failure::bad_request(wrong()))?);
                }
                "partial" => {
                    let wrong =
                        || Failure::bad_request("invalid value for \"partial\" - must be 0 or 1");
                    parsed.partial =
                        ["0", "1"].contains(&&*value).then_some(value == "1").ok_or_else(wrong)?;
                }
                // Go's heap profile runs the collector first; nothing can run it from outside.
                "seconds" | "gc" => {}
                _ => {
                    let known = "use seconds, debug, gc, hz or partial";
                    return Err(Failure::bad_request(format!(
                        "unknown parameter {key:?}: {known}"
                    )));
                }
            }
        }
        Ok(parsed)
    }

    /// `seconds`, if it is a positive integer.
    fn positive_seconds(&self) -> Option<Duration> {
        let seconds = self.seconds.as_ref()?.parse::<i64>().ok()?;
        Some(Duration::from_secs(u64::try_from(seconds).ok().filter(|s| *s > 0)?))
    }
}

/// How long to record, whether to compute a difference, and which form to send.
struct Plan {
    duration: Duration,
    delta: bool,
    debug: i64,
}

fn plan(server: &Server, kind: &'static Kind, query: &Query) -> Result<Plan, Failure> {
    let seconds = query.positive_seconds();
    // Go's `profile` records for 30 s then, which is not what the client asked for either.
    if query.seconds.as_ref().is_some_and(|s| !s.is_empty()) && seconds.is_none() {
        let text = "invalid value for \"seconds\" - must be a positive integer";
        return Err(Failure::bad_request(text));
    }
    let plan = if kind.endpoint.seconds == Seconds::Record {
        Plan { duration: seconds.unwrap_or(CPU_DEFAULT), delta: false, debug: 0 }
    } else {
        let debug = query.debug.unwrap_or(0);
        if seconds.is_some() && debug != 0 {
            return Err(Failure::bad_request("seconds and debug params are incompatible"));
        }
        let duration = seconds.unwrap_or(server.window);
        Plan { duration, delta: seconds.is_some(), debug }
    };
    if plan.duration > server.max_duration {
        return Err(Failure::bad_request(format!(
            "{} s exceeds the limit of {} s (--max-duration)",
            plan.duration.as_secs(),
            server.max_duration.as_secs()
        )));
    }
    Ok(plan)
}

/// Answers a request for a profile.
pub async fn serve(
    server: &Arc<Server>,
    entry: &Arc<Entry>,
    endpoint: Endpoint,
    kind: &'static Kind,
    access: Access,
    (method, query): (&Method, &str),
) -> Result<Response, Failure> {
    let query = Query::parse(query)?;
    let plan = plan(server, kind, &query)?;
    if *method == Method::HEAD {
        // A HEAD request must not start a recording.
        return Ok(answer::profile(endpoint.name, Vec::new().into()));
    }
    if let Some(make) = kind.endpoint.dump
        && plan.debug > 0
    {
        return dump(server, entry, (make, endpoint.name), plan.debug).await;
    }
    let wanted = RecordingSpec {
        kind: kind.name(),
        duration: plan.duration,
        frequency: query.hz.unwrap_or(server.frequency),
        history: kind.endpoint.seconds == Seconds::Difference && !plan.delta,
        no_stop: server.no_stop,
        // A user's own processes may start programs that run as root.
        children: access == Access::All,
    };
    let request = ProfileRequest { server, entry, kind, partial: query.partial };
    let recorded = request.record(&wanted, plan.delta).await?;
    let name = endpoint.name;
    entry.counted(name, recorded.profile.samples.len() as u64);
    if plan.debug > 0 {
        let process = entry.process.clone();
        let text = blocking(move || text_of(&process, &recorded.profile, kind)).await?;
        let text = text.map_err(|e| Failure::new(StatusCode::NOT_IMPLEMENTED, e.to_string()))?;
        return Ok(answer::text(text));
    }
    let bytes = blocking(move || recorded.compressed()).await?;
    let name = if plan.delta { format!("{name}-delta") } else { name.to_string() };
    Ok(answer::profile(&name, bytes))
}

fn text_of(
    process: &Arc<process::Process>,
    profile: &pprof::Profile,
    kind: &Kind,
) -> Result<String, report::LegacyError> {
    let addresses: Vec<u64> = profile.locations.iter().map(|l| l.address).collect();
    let starts = collect::function_starts(process, &addresses);
    let starts: HashMap<u64, u64> =
        addresses.into_iter().zip(starts).filter_map(|(a, s)| Some((a, s?))).collect();
    report::legacy_text(profile, &kind.facts, &|address| starts.get(&address).copied())
}

/// Answers with all current stacks: grouped, or one by one with `debug=2` and above.
async fn dump(
    server: &Server,
    entry: &Arc<Entry>,
    (make, name): (DumpText, &str),
    debug: i64,
) -> Result<Response, Failure> {
    let process = entry.process.clone();
    let options = RecordOptions {
        no_stop: server.no_stop,
        command_line: format!("exoprof serve: {name}?debug={debug}"),
        ..RecordOptions::default()
    };
    let dumped = server.look_up(move || make(&process, &options)).await?;
    match dumped {
        Ok(dump) if debug == 1 => Ok(answer::text(dump.grouped)),
        Ok(dump) => Ok(answer::text(dump.text)),
        Err(_) if !entry.process.is_alive() => {
            Err(Failure::gone(format!("process {} has exited", entry.shown())))
        }
        Err(e) => Err(failure(&RecordingError::Record(e))),
    }
}

struct ProfileRequest<'a> {
    server: &'a Arc<Server>,
    entry: &'a Arc<Entry>,
    kind: &'static Kind,
    partial: bool,
}

impl ProfileRequest<'_> {
    async fn record(
        &self,
        wanted: &RecordingSpec,
        delta: bool,
    ) -> Result<Arc<FinishedRecording>, Failure> {
        let began = tokio::time::Instant::now();
        let first = self.once(wanted).await;
        if wanted.history && is_without_history(&first, wanted.duration) {
            // The program does not sample itself, so sampling is enabled for a while.
            let now = RecordingSpec { history: false, ..wanted.clone() };
            return self.checked(self.once(&now).await);
        }
        let first = self.checked(first)?;
        if !(delta && is_snapshot(&first, wanted.duration)) {
            return Ok(first);
        }
        // As in Go, the difference of two snapshots is sent if the first one is complete at once.
        let process = self.entry.process.clone();
        tokio::select! {
            () = tokio::time::sleep_until(began + wanted.duration) => {}
            () = exit_of(&process) => return Err(self.exited(first.elapsed)),
            () = self.server.stopping() => {}
        }
        let second = self.checked(self.once(wanted).await)?;
        let took = began.elapsed();
        blocking(move || difference(&first, &second, took)).await?
    }

    async fn once(&self, wanted: &RecordingSpec) -> Answer {
        let process = &self.entry.process;
        let ticket = self.server.recorder.join(process, self.kind.endpoint.lane, wanted);
        ticket.map_err(Arc::new)?.answer().await
    }

    fn checked(&self, answer: Answer) -> Result<Arc<FinishedRecording>, Failure> {
        let exited = !self.entry.process.is_alive();
        match answer {
            Ok(r) if r.ended == Ended::TargetsExited && !self.partial => {
                Err(self.exited(r.elapsed))
            }
            Ok(recorded) => Ok(recorded),
            Err(_) if exited => {
                Err(Failure::gone(format!("process {} has exited", self.entry.shown())))
            }
            Err(error) => Err(failure(&error)),
        }
    }

    fn exited(&self, after: Duration) -> Failure {
        Failure::gone(format!(
            "process {} exited after {:.1} s of the recording; use partial=1 to get what was \
             recorded until then",
            self.entry.shown(),
            after.as_secs_f64()
        ))
    }
}

/// Whether the program had no samples of its own. A recording that took all of its time is not
/// repeated.
fn is_without_history(answer: &Answer, duration: Duration) -> bool {
    match answer {
        Ok(r) => is_snapshot(r, duration) && r.profile.samples.is_empty(),
        Err(error) => matches!(**error, RecordingError::Record(RecordError::NotApplicable(_))),
    }
}

/// Whether the recording was complete before its time was over.
fn is_snapshot(recorded: &FinishedRecording, duration: Duration) -> bool {
    recorded.ended == Ended::Duration && recorded.elapsed < duration / 2
}

fn failure(error: &RecordingError) -> Failure {
    let text = error.to_string();
    match error {
        RecordingError::Full(_) | RecordingError::Memory(_) | RecordingError::Stopping => {
            Failure::busy(text)
        }
        RecordingError::Record(error) if error.is_exit() => Failure::gone(text),
        RecordingError::Record(RecordError::NotApplicable(_) | RecordError::NotWithoutStop(_)) => {
            Failure::new(StatusCode::NOT_IMPLEMENTED, text)
        }
        RecordingError::Record(RecordError::Attach(AttachError::NotPermitted(_))) => {
            Failure::new(StatusCode::FORBIDDEN, text)
        }
        _ => Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text),
    }
}

/// Waits until a process exits.
async fn exit_of(process: &process::Process) {
    let mut pause = tokio::time::interval(Duration::from_millis(200));
    while process.is_alive() {
        pause.tick().await;
    }
}

/// The difference between two snapshots.
fn difference(
    first: &FinishedRecording,
    second: &FinishedRecording,
    took: Duration,
) -> Result<Arc<FinishedRecording>, Failure> {
    let mut before = first.profile.clone();
    before.scale(-1.0);
    let mut profile = pprof::merge([&before, &second.profile])
        .map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "failed to compute delta"))?;
    // One of the two may lack symbols.
    profile.set_symbol_flags();
    profile.time_nanos = second.profile.time_nanos;
    profile.duration_nanos = i64::try_from(took.as_nanos()).unwrap_or(i64::MAX);
    Ok(Arc::new(FinishedRecording::new(profile, second.ended, took)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let seconds = |query: &str| Query::parse(query).unwrap().positive_seconds();
        assert_eq!(seconds("seconds=5"), Some(Duration::from_secs(5)));
        for none in ["", "seconds=", "seconds=0", "seconds=-1", "seconds=x", "seconds=1.5"] {
            assert_eq!(seconds(none), None, "{none}");
        }
        assert_eq!(Query::parse("debug=2&gc=1").unwrap().debug, Some(2));
        assert_eq!(seconds("seconds=5&seconds=7"), Some(Duration::from_secs(5)));
        assert_eq!(Query::parse("debug=x").unwrap().debug, Some(0));
        assert!(Query::parse("hz=0").is_err() && Query::parse("hz=10001").is_err());
        assert_eq!(Query::parse("hz=997").unwrap().hz, Some(997));
        for wrong in ["sec=5", "Seconds=5", "=", "partial=x", "hz=", "seconds=5&x"] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Query::parse("partial=1").unwrap().partial);
    }
}
