//! Finds and holds the processes that are served.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use host::{Rights, TargetRights};
use process::{Identity, OpenError, Process};

use crate::allow::Allow;
use crate::answer::Failure;
use crate::peers::Access;

/// Maximum number of processes held open if any process may be requested.
const MAX_HELD: usize = 1024;
/// Maximum number of processes remembered after they exit.
const MAX_REMEMBERED: usize = 16_384;

/// One served process.
pub struct Entry {
    /// The process, held open so that a reused PID is not mistaken for it.
    pub process: Arc<Process>,
    /// How many samples the last profile of each endpoint had.
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Entry {
    fn new(process: Process) -> Self {
        Self { process: Arc::new(process), counts: Mutex::default() }
    }

    /// Notes how many samples a profile had.
    pub fn counted(&self, endpoint: &'static str, samples: u64) {
        lock(&self.counts).insert(endpoint, samples);
    }

    /// The samples of the last profile of an endpoint.
    pub fn count(&self, endpoint: &str) -> u64 {
        lock(&self.counts).get(endpoint).copied().unwrap_or(0)
    }

    /// `redis-server (4711)`.
    pub fn shown(&self) -> String {
        // It may have called exec since it was opened.
        let now = self.process.read_identity();
        shown(now.as_ref().unwrap_or(self.process.identity()), self.process.pid())
    }
}

fn shown(identity: &Identity, pid: i32) -> String {
    format!("{} ({pid})", identity.comm)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // These values are never left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A row of the list of processes.
pub struct Listed {
    /// Its id.
    pub pid: i32,
    /// Who it is.
    pub identity: Identity,
}

/// Which processes are served.
pub struct Targets {
    /// Those of `-p`. If empty, every process that the rules allow.
    fixed: Vec<Arc<Entry>>,
    held: Mutex<HashMap<i32, Arc<Entry>>>,
    /// Ids that were listed or served before, with names and users: if they are gone now, their
    /// processes have exited.
    remembered: Mutex<HashMap<i32, (String, u32)>>,
    allow: Allow,
    rights: Rights,
}

impl Targets {
    /// The targets for the `-p` options and the rules.
    pub fn new(fixed: Vec<Process>, allow: Allow, rights: Rights) -> Self {
        let fixed = fixed.into_iter().map(|p| Arc::new(Entry::new(p))).collect();
        Self { fixed, held: Mutex::default(), remembered: Mutex::default(), allow, rights }
    }

    /// The process at `/debug/pprof/`.
    pub fn only(&self, access: Access) -> Result<Arc<Entry>, Failure> {
        match self.fixed.as_slice() {
            [entry] => self.living(entry, access),
            _ => Err(Failure::not_found(
                "several processes are served, each at /pid/PID/debug/pprof/; / lists them",
            )),
        }
    }

    /// Whether there is one process at `/debug/pprof/`.
    pub fn is_single(&self) -> bool {
        self.fixed.len() == 1
    }

    /// Whether only the processes of `-p` are served.
    pub fn is_fixed(&self) -> bool {
        !self.fixed.is_empty()
    }

    /// The process with that id.
    pub fn find(&self, pid: i32, access: Access) -> Result<Arc<Entry>, Failure> {
        if self.is_fixed() {
            let entry = self.fixed.iter().find(|e| e.process.pid() == pid);
            let entry = entry.ok_or_else(|| {
                Failure::not_found(format!(
                    "process {pid} is not served; / lists the served processes"
                ))
            })?;
            return self.living(entry, access);
        }
        let known = lock(&self.held).get(&pid).cloned();
        if let Some(entry) = known.filter(|e| e.process.is_alive()) {
            return self.living(&entry, access);
        }
        let process = Process::open(pid).map_err(|e| self.absent(pid, e, access))?;
        let entry = Arc::new(Entry::new(process));
        let admitted = self.living(&entry, access)?;
        self.remember(entry.process.identity(), pid);
        self.hold(&entry);
        Ok(admitted)
    }

    /// The entry, if its process is alive and may be profiled by this client.
    fn living(&self, entry: &Arc<Entry>, access: Access) -> Result<Arc<Entry>, Failure> {
        let pid = entry.process.pid();
        let permitted = access.permits(&entry.process);
        if !entry.process.is_alive() {
            return Err(match access {
                // What is left is who it was when it was opened.
                Access::Own(uid) if entry.process.identity().uid != uid => access.refusal(pid),
                _ => Failure::gone(format!("process {} has exited", entry.shown())),
            });
        }
        if !permitted {
            return Err(access.refusal(pid));
        }
        if !self.allow.admits(&entry.process) {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                format!("process {pid} is not allowed by --allow"),
            ));
        }
        Ok(entry.clone())
    }

    fn absent(&self, pid: i32, error: OpenError, access: Access) -> Failure {
        match &error {
            OpenError::NoSuchProcess { pid } => match lock(&self.remembered).get(pid) {
                Some((comm, uid))
                    if matches!(access, Access::All) || access == Access::Own(*uid) =>
                {
                    Failure::gone(format!("process {comm} ({pid}) has exited"))
                }
                _ => Failure::not_found(error.to_string()),
            },
            _ if !access.permits_reason(pid) => access.refusal(pid),
            OpenError::Zombie { .. } => Failure::gone(error.to_string()),
            OpenError::Permission { .. } => Failure::new(StatusCode::FORBIDDEN, error.to_string()),
            OpenError::NotALeader { .. } | OpenError::KernelThread { .. } => {
                Failure::not_found(error.to_string())
            }
            OpenError::System { .. } => {
                Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }

    fn remember(&self, identity: &Identity, pid: i32) {
        let mut remembered = lock(&self.remembered);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(pid, (identity.comm.clone(), identity.uid));
    }

    fn hold(&self, entry: &Arc<Entry>) {
        let mut held = lock(&self.held);
        if held.len() >= MAX_HELD {
            held.retain(|_, e| e.process.is_alive() && Arc::strong_count(e) > 1);
        }
        held.insert(entry.process.pid(), entry.clone());
    }

    /// The processes that this client may profile now. This reads much of `/proc`.
    pub fn list(&self, access: Access) -> Vec<Listed> {
        if self.is_fixed() {
            let living = self.fixed.iter().filter(|e| self.living(e, access).is_ok());
            return living.filter_map(|e| listed(&e.process)).collect();
        }
        let permitted = self.openable(&|_| true).into_iter().filter(|p| access.permits(p));
        permitted.filter_map(|p| listed(&p)).collect()
    }

    /// Opens every process that may be profiled and whose id is `wanted`.
    pub fn openable(&self, wanted: &dyn Fn(i32) -> bool) -> Vec<Process> {
        let own = std::process::id().cast_signed();
        let pids = process::pids().unwrap_or_default();
        let mut found = Vec::new();
        for pid in pids.into_iter().filter(|p| *p != own && wanted(*p)) {
            // Skip processes that have exited, kernel threads, and those we may not open.
            let Ok(process) = Process::open(pid) else { continue };
            let permitted =
                TargetRights::read(pid).is_ok_and(|t| self.rights.sample_user(&t).is_ok());
            if permitted && self.allow.admits(&process) {
                self.remember(process.identity(), pid);
                found.push(process);
            }
        }
        found
    }

    /// The processes of `-p`.
    pub fn fixed(&self) -> &[Arc<Entry>] {
        &self.fixed
    }
}

fn listed(process: &Process) -> Option<Listed> {
    Some(Listed { pid: process.pid(), identity: process.read_identity().ok()? })
}
