//! Records selected processes continuously and sends the profiles to a profile store: `--push`.
//!
//! ```text
//!   discovery ──► a task per process and kind ──► a spool per server ──► a thread that sends
//!   every 5 s     records, compresses               on disk, bounded      retries
//! ```

mod destination;
mod grpc;
mod message;
mod send;
mod spool;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use collect::kinds::Kind;
use collect::{Ended, RecordError};
use process::Process;

use crate::notice::{Notice, Notify};
use crate::record::{Answer, FinishedRecording, RecordingError, RecordingSpec};
use crate::state::Server;

pub use destination::{Destination, label_name};
use message::Message;
use send::{NoCertificates, Sender};
use spool::{Spool, SpoolError};
pub use tls::{Trust, TrustError};

/// How often new processes are looked for.
const DISCOVERY: Duration = Duration::from_secs(5);
/// The pause after a recording that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long profiles may still be sent once the server stops; the rest stays in the spool.
const FAREWELL: Duration = Duration::from_secs(5);

/// What to record and where to send it.
pub struct Settings {
    /// The servers.
    pub destinations: Vec<Destination>,
    /// The kinds.
    pub kinds: Vec<&'static Kind>,
    /// The length of each recording.
    pub interval: Duration,
    /// Samples a second.
    pub frequency: u32,
    /// Further labels of each series.
    pub labels: BTreeMap<String, String>,
    /// Further headers of each request.
    pub headers: Vec<(String, String)>,
    /// Which certificates are trusted.
    pub trust: Trust,
    /// The folder of the spools.
    pub spool: PathBuf,
    /// The size of each spool, in bytes.
    pub spool_limit: u64,
    /// Receives notices.
    pub notify: Notify,
}

/// Why pushing cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The file of certificate authorities cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The spool cannot be opened.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The spool cannot be given to the user that the server switches to.
    #[error("cannot change the owner of {} to {user}", .path.display())]
    Give {
        /// The directory.
        path: PathBuf,
        /// The user.
        user: String,
        /// Why.
        source: io::Error,
    },
    /// The sender cannot be set up.
    #[error("cannot push to {url}")]
    Sender {
        /// The server.
        url: String,
        /// Why.
        source: NoCertificates,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Start(#[source] io::Error),
}

/// The spools, and the recordings that fill them.
pub struct Push {
    settings: Settings,
    spools: Vec<Arc<Spool>>,
    host: String,
}

/// The threads that send.
pub struct Senders(Vec<JoinHandle<()>>);

/// The default directory of the spools.
pub fn default_spool() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // systemd's StateDirectory= comes first.
    variable("STATE_DIRECTORY").map(|d| d.join("spool")).unwrap_or_else(|| {
        match variable("HOME").filter(|_| !nix::unistd::geteuid().is_root()) {
            Some(home) => home.join(".local/state/exoprof/spool"),
            None => PathBuf::from("/var/lib/exoprof/spool"),
        }
    })
}

impl Push {
    /// Opens the spools, before privileges are dropped. `owner` becomes their owner.
    pub fn open(settings: Settings, owner: Option<&nix::unistd::User>) -> Result<Self, PushError> {
        let mut spools = Vec::new();
        spool::private(&settings.spool, owner.map(|u| u.uid))?;
        for destination in &settings.destinations {
            let folder = settings.spool.join(destination.folder());
            let spool = Arc::new(Spool::open(&folder, settings.spool_limit, owner.map(|u| u.uid))?);
            if let Some(user) = owner {
                let failed = |source| PushError::Give {
                    path: folder.clone(),
                    user: user.name.clone(),
                    source,
                };
                spool.give(user.uid, user.gid).map_err(failed)?;
            }
            spools.push(spool);
        }
        let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { settings, spools, host })
    }

    /// Starts to send the messages in the spools.
    pub fn start_senders(&self) -> Result<Senders, PushError> {
        let mut threads = Vec::new();
        for (destination, spool) in self.settings.destinations.iter().zip(&self.spools) {
            let Settings { headers, trust, notify, .. } = &self.settings;
            let sender = Sender::new(destination.clone(), headers.clone(), trust, notify.clone());
            let failed = |source| PushError::Sender { url: destination.url.clone(), source };
            let sender = sender.map_err(failed)?;
            let spool = spool.clone();
            let thread = std::thread::Builder::new().name("push".into());
            let thread = thread.spawn(move || sender.run(&spool));
            threads.push(thread.map_err(PushError::Start)?);
        }
        Ok(Senders(threads))
    }

    /// Records until the server stops.
    pub async fn run(self: Arc<Self>, server: Arc<Server>) {
        let mut tasks = tokio::task::JoinSet::new();
        let mut known: HashMap<i32, Arc<Process>> = HashMap::new();
        loop {
            known.retain(|_, process| process.is_alive());
            for process in self.discover(&server, &known).await {
                known.insert(process.pid(), process.clone());
                for kind in &self.settings.kinds {
                    let one = One {
                        push: self.clone(),
                        server: server.clone(),
                        process: process.clone(),
                        kind,
                    };
                    tasks.spawn(one.run());
                }
            }
            tokio::select! {
                () = tokio::time::sleep(DISCOVERY) => {}
                () = server.stopping() => break,
            }
            while tasks.try_join_next().is_some() {}
        }
        // Recordings end early now, and what they have is kept.
        while tasks.join_next().await.is_some() {}
        for spool in &self.spools {
            spool.close(FAREWELL);
        }
    }

    /// Selected processes that are not recorded yet.
    async fn discover(
        &self,
        server: &Arc<Server>,
        known: &HashMap<i32, Arc<Process>>,
    ) -> Vec<Arc<Process>> {
        if server.targets.is_fixed() {
            let fixed = server.targets.fixed().iter().map(|e| e.process.clone());
            return fixed.filter(|p| p.is_alive() && !known.contains_key(&p.pid())).collect();
        }
        let known: Vec<i32> = known.keys().copied().collect();
        let server = server.clone();
        let look = move || server.targets.openable(&|pid| !known.contains(&pid));
        let found = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        found.into_iter().map(Arc::new).collect()
    }

    fn say(&self, what: &str) {
        (self.settings.notify)(Notice::Push(what.to_owned()));
    }

    fn put(&self, message: &Message) {
        let bytes = message.to_bytes();
        for spool in &self.spools {
            match spool.put(&bytes) {
                Ok(0) => {}
                Ok(_) => {
                    let lost = match spool.dropped() {
                        1 => "1 profile".to_owned(),
                        n => format!("{n} profiles"),
                    };
                    self.say(&format!("the spool is full: lost {lost} so far"));
                }
                Err(e) => self.say(&format!("lost a profile: cannot write to the spool: {e}")),
            }
        }
    }
}

impl Senders {
    /// Waits until the threads have ended, after [`Push::run`].
    pub fn join(self) {
        for thread in self.0 {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// One kind of one process.
struct One {
    push: Arc<Push>,
    server: Arc<Server>,
    process: Arc<Process>,
    kind: &'static Kind,
}

impl One {
    async fn run(self) {
        let mut reported = false;
        loop {
            let from = unix_now();
            let answer = self.record().await;
            let ended = match answer {
                Ok(recorded) => {
                    let ended = recorded.ended;
                    self.keep(from, &recorded).await;
                    ended == Ended::TargetsExited
                }
                Err(error) => {
                    let for_good = matches!(
                        *error,
                        RecordingError::Stopping
                            | RecordingError::Record(RecordError::NotApplicable(_))
                    );
                    let gone = !self.process.is_alive();
                    if !reported && !gone && !matches!(*error, RecordingError::Stopping) {
                        reported = true;
                        let (name, pid) = (self.kind.endpoint.name, self.process.pid());
                        self.push.say(&format!("cannot record {name} of process {pid}: {error}"));
                    }
                    if !(for_good || gone) {
                        tokio::select! {
                            () = tokio::time::sleep(AFTER_FAILURE) => {}
                            () = self.server.stopping() => return,
                        }
                    }
                    for_good || gone
                }
            };
            if ended || self.server.is_stopping() {
                return;
            }
        }
    }

    async fn record(&self) -> Answer {
        let wanted = RecordingSpec {
            kind: self.kind.name(),
            duration: self.push.settings.interval,
            frequency: self.push.settings.frequency,
            history: false,
            no_stop: self.server.no_stop,
            children: true,
        };
        let began = tokio::time::Instant::now();
        let recorder = &self.server.pushed;
        let ticket =
            recorder.join(&self.process, self.kind.endpoint.lane, &wanted).map_err(Arc::new)?;
        let answer = ticket.answer().await;
        if answer.as_ref().is_ok_and(|r| r.ended == Ended::Duration) {
            // A profile that is complete at once is taken once per interval.
            tokio::select! {
                () = tokio::time::sleep_until(began + wanted.duration) => {}
                () = self.server.stopping() => {}
            }
        }
        answer
    }

    async fn keep(&self, from: u64, recorded: &Arc<FinishedRecording>) {
        if recorded.profile.samples.is_empty() {
            return;
        }
        let identity = self.process.read_identity();
        let identity = identity.unwrap_or_else(|_| self.process.identity().clone());
        let unit = self.process.cgroup().ok().and_then(|path| unit_of(&path));
        let mut labels = self.push.settings.labels.clone();
        let mut label = |name: &str, value: String| {
            labels.entry(name.to_string()).or_insert(value);
        };
        label("host", self.push.host.clone());
        label("pid", self.process.pid().to_string());
        label("process", identity.comm.clone());
        if let Some(container) = &identity.container {
            label("container", container.clone());
        }
        if let Some(unit) = &unit {
            label("unit", unit.clone());
        }
        let service = unit.as_deref().and_then(|u| u.strip_suffix(".service"));
        let service = service.unwrap_or(&identity.comm).to_string();
        let metric = self.kind.endpoint.metric.to_string();
        let (push, recorded) = (self.push.clone(), recorded.clone());
        let work = move || {
            let types = recorded.profile.sample_types.iter().map(|t| t.kind.to_string());
            push.put(&Message {
                service,
                metric,
                labels,
                from,
                until: unix_now().max(from + 1),
                sample_types: types.collect(),
                profile: recorded.compressed().to_vec(),
            });
        };
        if let Err(e) = tokio::task::spawn_blocking(work).await {
            self.push.say(&format!("lost a profile: {e}"));
        }
    }
}

/// The innermost systemd service in a control group's path.
fn unit_of(cgroup: &str) -> Option<String> {
    cgroup.rsplit('/').find(|part| part.ends_with(".service")).map(str::to_string)
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let unit = |path| unit_of(path);
        assert_eq!(unit("/system.slice/redis.service").as_deref(), Some("redis.service"));
        assert_eq!(
            unit("/user.slice/user@0.service/app.slice/x.service/y").as_deref(),
            Some("x.service")
        );
        assert_eq!(unit("/user.slice/session-1.scope"), None);
    }
}
