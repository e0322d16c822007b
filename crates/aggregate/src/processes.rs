//! Tracks the followed processes of a recording: their executable mappings, threads and names.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use events::{Comm, Fork, MmapEvent};
use image::{AddressSpace, Avma, FileId, FileOffset, Mapping, MappingId, NewMapping};
use process::{Identity, Images, MapRow, Perms, Process, ProcessMemory};
use rustc_hash::FxHashMap;

use crate::family::Family;
use crate::ids::{ThreadId, ThreadIndex};

/// A thread of a followed process.
#[derive(Debug, Clone)]
pub struct Thread {
    /// The current name.
    pub name: Arc<str>,
    /// The index under which samples with this name are counted; assigned at the first sample.
    pub index: Option<ThreadIndex>,
    /// CPU time at the start of the recording, in nanoseconds; 0 for threads that started later.
    pub baseline: u64,
    /// Clock ticks in user mode and in the kernel at the start of the recording.
    pub(crate) ticks_at_begin: (u64, u64),
    /// Clock ticks in user mode and in the kernel at the end of the recording.
    pub(crate) ticks_at_end: (u64, u64),
    /// CPU time at the end of the recording, in nanoseconds, if the thread was still alive.
    pub at_end: Option<u64>,
    /// Whether an earlier thread of this recording had the same TID.
    pub(crate) reused: bool,
    /// TID of the thread whose events this one inherited; `None` if it has its own events.
    pub(crate) origin: Option<i32>,
    /// Whether the thread ended during the recording.
    pub ended: bool,
}

impl Thread {
    /// The fraction of the thread's CPU time during the recording that was spent in user mode;
    /// `None` if no clock ticks were counted.
    pub fn user_share(&self) -> Option<f64> {
        let user = self.ticks_at_end.0.saturating_sub(self.ticks_at_begin.0);
        let kernel = self.ticks_at_end.1.saturating_sub(self.ticks_at_begin.1);
        (user + kernel > 0).then(|| user as f64 / (user + kernel) as f64)
    }

    fn new(name: Arc<str>, baseline: u64, origin: Option<i32>) -> Self {
        Self {
            name,
            index: None,
            baseline,
            ticks_at_begin: (0, 0),
            ticks_at_end: (0, 0),
            at_end: None,
            reused: false,
            origin,
            ended: false,
        }
    }
}

/// Maximum number of mapped files that are kept open per process.
const MAX_KEPT_FILES: usize = 64;

/// A followed process.
pub struct Tracked {
    /// An open handle to the process. `None` once it has ended, and for a short-lived child that
    /// was gone before it could be opened.
    pub process: Option<Arc<Process>>,
    /// The process's identity as of the last exec event.
    pub identity: Option<Identity>,
    /// The process's memory, if we may read it.
    pub memory: Option<ProcessMemory>,
    /// The process through which mapped files are opened when `process` is `None`.
    pub(crate) ancestor: Option<Arc<Process>>,
    /// Executable mappings at the time of the last event.
    pub space: AddressSpace,
    /// PID of the parent process.
    pub parent: Option<i32>,
    /// ID of the container that the process runs in.
    pub container: Option<Arc<str>>,
    /// Mapped files that a runtime wants to read, each with the path that it was mapped under:
    /// [`crate::runtimes::Row::keeps_file`].
    pub(crate) kept_files: Vec<(Arc<str>, Arc<File>)>,
    /// The name of the process.
    pub name: Arc<str>,
    /// Mapping events before this time (CLOCK_MONOTONIC, nanoseconds) are already in `space`.
    pub(crate) space_since: u64,
    /// CPU time of all threads, including ended ones, at the start of the recording; nanoseconds.
    pub(crate) clock_at_begin: Option<u64>,
    /// The same clock when it was last read: at the end of the recording, or shortly before the
    /// process exited.
    pub(crate) clock_at_end: Option<u64>,
    /// CPU time of the children reaped by the start of the recording; nanoseconds.
    pub(crate) reaped_at_begin: Option<u64>,
    /// CPU time of the children reaped by the end of the recording, in nanoseconds; `None` if the
    /// process had exited by then.
    pub(crate) reaped_at_end: Option<u64>,
    /// All threads by TID, including ended ones.
    pub threads: BTreeMap<i32, Thread>,
    /// Whether the process is gone and its PID belongs to a process that is not followed.
    pub replaced: bool,
}

impl Tracked {
    /// The process through which mapped files are opened.
    fn file_access(&self) -> Option<&Arc<Process>> {
        self.process.as_ref().or(self.ancestor.as_ref())
    }
}

/// A thread under one of its names. Samples are counted per thread and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedThread {
    /// The thread.
    pub id: ThreadId,
    /// The thread's name.
    pub name: Arc<str>,
    /// The name of its process.
    pub process: Arc<str>,
    /// ID of the container that the process runs in.
    pub container: Option<Arc<str>>,
}

/// All processes that are or were followed in a recording.
pub struct Processes {
    by_pid: FxHashMap<i32, Tracked>,
    named: Vec<NamedThread>,
    named_index: FxHashMap<NamedThread, ThreadIndex>,
    images: Images,
    next_mapping: u32,
    follow_children: bool,
    /// Number of mappings that could not be read or parsed, from `/proc/PID/maps` or events.
    pub unreadable_maps: usize,
    family_notes: Vec<String>,
    /// Whether a runtime wants to read a mapped file with this name.
    keeps_file: Vec<fn(&str) -> bool>,
}

impl Processes {
    /// Creates an empty set. With `follow_children`, processes forked by followed ones are
    /// followed too.
    pub fn new(follow_children: bool) -> Self {
        Self {
            by_pid: FxHashMap::default(),
            named: Vec::new(),
            named_index: FxHashMap::default(),
            images: Images::new(),
            next_mapping: 0,
            follow_children,
            unreadable_maps: 0,
            family_notes: Vec::new(),
            keeps_file: Vec::new(),
        }
    }

    /// Keeps mapped files open whose name one of `keeps` accepts.
    pub(crate) fn keep_files(&mut self, keeps: impl Iterator<Item = fn(&str) -> bool>) {
        self.keeps_file.extend(keeps);
    }

    /// Follows the targets and the descendants they already have: see [`Processes::add_root`].
    pub fn add_family(&mut self, family: &Family) {
        for process in &family.processes {
            self.add_root(process.clone());
        }
        self.family_notes = family.notes();
    }

    /// Text for the profile: which descendants of the targets are recorded and which are not.
    pub fn family_notes(&self) -> &[String] {
        &self.family_notes
    }

    /// Follows a process that is already running. Its mappings are not read yet: call
    /// [`Processes::refresh_maps`] once the events that report new mappings are open.
    pub fn add_root(&mut self, process: Arc<Process>) {
        let name: Arc<str> = process.identity().comm.as_str().into();
        let tracked = Tracked {
            identity: Some(process.identity().clone()),
            memory: process.memory().ok(),
            process: Some(process.clone()),
            ancestor: None,
            space: AddressSpace::default(),
            parent: process.parent().ok(),
            container: process.identity().container.as_deref().map(Into::into),
            kept_files: Vec::new(),
            name,
            space_since: u64::MAX,
            clock_at_begin: None,
            reaped_at_begin: None,
            reaped_at_end: None,
            clock_at_end: None,
            threads: BTreeMap::new(),
            replaced: false,
        };
        self.by_pid.insert(process.pid(), tracked);
    }

    /// Follows a child that a followed process has forked since the recording began, and reads its
    /// mappings. `now` is CLOCK_MONOTONIC in nanoseconds, taken before this call.
    pub fn add_child(&mut self, process: &Arc<Process>, now: u64) {
        let earlier = self.by_pid.remove(&process.pid());
        self.add_root(process.clone());
        let parent = self.by_pid.get(&process.pid()).and_then(|child| child.parent);
        let inherited = parent.and_then(|pid| self.by_pid.get(&pid)).map(|p| p.space.clone());
        if let Some(child) = self.by_pid.get_mut(&process.pid()) {
            child.space = inherited.unwrap_or_default();
            child.clock_at_begin = Some(0);
            child.reaped_at_begin = Some(0);
            // If the PID was reused, keep what was counted under it.
            child.threads = earlier.map(|e| e.threads).unwrap_or_default();
            child.threads.values_mut().for_each(|t| t.index = None);
        }
        self.refresh_maps(process, now);
    }

    /// Drops the handles and mappings of a followed process that has ended; its threads are kept.
    pub fn ended(&mut self, pid: i32) {
        if let Some(tracked) = self.by_pid.get_mut(&pid) {
            tracked.process = None;
            tracked.memory = None;
            tracked.space.clear();
        }
    }

    /// Rereads the mappings of a process; unchanged mappings keep their ID. `now` is
    /// CLOCK_MONOTONIC in nanoseconds, taken before this call.
    pub fn refresh_maps(&mut self, process: &Process, now: u64) {
        let Some(tracked) = self.by_pid.get(&process.pid()) else { return };
        let known = tracked.space.clone();
        // The clone continues the generation counter, so that anyone who remembers a generation
        // notices that the mappings may have changed.
        let mut space = known.clone();
        space.clear();
        let kept_files = self.read_maps(process, &known, &mut space);
        if let Some(tracked) = self.by_pid.get_mut(&process.pid()) {
            if !known.iter().map(|m| m.id).eq(space.iter().map(|m| m.id)) {
                tracked.space = space;
            }
            tracked.kept_files = kept_files;
            tracked.space_since = now;
        }
    }

    /// The followed processes that are still alive, ordered by PID.
    pub fn alive(&self) -> Vec<Arc<Process>> {
        let held = self.by_pid.values().filter_map(|t| t.process.clone());
        let mut alive: Vec<_> = held.filter(|p| p.is_alive()).collect();
        alive.sort_unstable_by_key(|p| p.pid());
        alive
    }

    /// Reads the mappings into `space` and returns the files among them that are kept open.
    fn read_maps(
        &mut self,
        process: &Process,
        known: &AddressSpace,
        space: &mut AddressSpace,
    ) -> Vec<(Arc<str>, Arc<File>)> {
        let mut kept_files = Vec::new();
        match process.exec_maps() {
            Ok(maps) => {
                self.unreadable_maps += maps.malformed + usize::from(maps.truncated);
                for row in &maps.rows {
                    let new = self.images.resolve(Some(process), row);
                    if kept_files.len() < MAX_KEPT_FILES {
                        kept_files.extend(self.keep_file(process, row, &new));
                    }
                    let same = known.find(new.start).filter(|m| is_same(m, &new)).map(|m| m.id);
                    space.insert(same.unwrap_or_else(|| self.new_mapping_id()), new);
                }
            }
            Err(_) => self.unreadable_maps += usize::from(process.is_alive()),
        }
        kept_files
    }

    /// Opens the file of a mapping if a runtime wants to read it. Files with an image are open
    /// already.
    fn keep_file(
        &self,
        process: &Process,
        row: &MapRow,
        new: &NewMapping,
    ) -> Option<(Arc<str>, Arc<File>)> {
        let name = new.name.rsplit('/').next()?;
        if new.image.is_ok() || !self.keeps_file.iter().any(|keeps| keeps(name)) {
            return None;
        }
        let file = process::open_mapped(process, row).ok()?;
        Some((new.name.clone(), Arc::new(file)))
    }

    fn new_mapping_id(&mut self) -> MappingId {
        let id = MappingId(self.next_mapping);
        self.next_mapping += 1;
        id
    }

    /// A process by its PID.
    pub fn get(&self, pid: i32) -> Option<&Tracked> {
        self.by_pid.get(&pid)
    }

    /// Mutable access to a process by its PID.
    pub fn get_mut(&mut self, pid: i32) -> Option<&mut Tracked> {
        self.by_pid.get_mut(&pid)
    }

    /// The PIDs of all processes, in ascending order.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.by_pid.keys().copied().collect();
        pids.sort_unstable();
        pids
    }

    /// All processes with their PIDs, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (i32, &Tracked)> {
        self.by_pid.iter().map(|(pid, t)| (*pid, t))
    }

    /// Mutable access to all processes with their PIDs, in no particular order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (i32, &mut Tracked)> {
        self.by_pid.iter_mut().map(|(pid, t)| (*pid, t))
    }

    /// The number of threads seen, including ended ones.
    pub fn thread_count(&self) -> usize {
        self.by_pid.values().map(|t| t.threads.len()).sum()
    }

    /// The threads that samples were counted for, indexed by [`ThreadIndex`].
    pub fn named_threads(&self) -> &[NamedThread] {
        &self.named
    }

    /// Adds a thread that was found in `/proc`, unless it is already known. `baseline` is its CPU
    /// time at the start of the recording, in nanoseconds.
    pub fn add_thread(&mut self, pid: i32, tid: i32, baseline: u64) {
        let Some(tracked) = self.by_pid.get_mut(&pid) else { return };
        let name = tracked
            .process
            .as_ref()
            .and_then(|p| p.thread_name(tid).ok())
            .map_or_else(|| tracked.name.clone(), Into::into);
        tracked.threads.entry(tid).or_insert_with(|| Thread::new(name, baseline, None));
    }

    /// The index under which to count a sample of a thread; `None` if its process is not followed.
    pub fn sampled(&mut self, pid: i32, tid: i32) -> Option<ThreadIndex> {
        let tracked = self.by_pid.get_mut(&pid).filter(|t| !t.replaced)?;
        let process = tracked.name.clone();
        let thread = tracked
            .threads
            .entry(tid)
            .or_insert_with(|| Thread::new(tracked.name.clone(), 0, None));
        if let Some(index) = thread.index {
            return Some(index);
        }
        let name = thread.name.clone();
        let container = tracked.container.clone();
        let named = NamedThread { id: ThreadId { pid, tid }, name, process, container };
        let next = self.named.len() as ThreadIndex;
        let index = *self.named_index.entry(named.clone()).or_insert(next);
        if index == next {
            self.named.push(named);
        }
        thread.index = Some(index);
        Some(index)
    }

    /// Handles the creation of a thread or process. `inherited` says whether its creator's events
    /// were certainly in place at that time, so that the new thread has inherited them.
    pub fn forked(&mut self, fork: Fork, time: u64, inherited: bool) {
        let origin = self.origin_of(fork.parent_pid, fork.parent_tid).filter(|_| inherited);
        if fork.pid != fork.parent_pid {
            self.forked_process(fork, time);
        }
        let parent_name = self
            .by_pid
            .get(&fork.parent_pid)
            .and_then(|p| p.threads.get(&fork.parent_tid).map(|t| t.name.clone()));
        let Some(tracked) = self.by_pid.get_mut(&fork.pid).filter(|t| !t.replaced) else { return };
        let name = parent_name.unwrap_or_else(|| tracked.name.clone());
        let mut thread = Thread::new(name, 0, origin);
        match tracked.threads.get_mut(&fork.tid) {
            Some(known) if !known.ended => known.origin = origin.or(known.origin),
            known => {
                // The TID is reused: the CPU time of both threads is weighted together.
                thread.reused = known.is_some();
                tracked.threads.insert(fork.tid, thread);
            }
        }
    }

    fn forked_process(&mut self, fork: Fork, time: u64) {
        let follow = self.follow_children;
        let parent = self.by_pid.get(&fork.parent_pid).filter(|p| follow && !p.replaced);
        let Some(parent) = parent else {
            // Not a followed process: one that was followed under this PID has ended.
            if let Some(earlier) = self.by_pid.get_mut(&fork.pid) {
                earlier.replaced = true;
            }
            return;
        };
        let process = Process::open(fork.pid).ok().map(Arc::new);
        let mut child = Tracked {
            identity: parent.identity.clone(),
            memory: process.as_ref().and_then(|p| p.memory().ok()),
            process,
            ancestor: parent.file_access().cloned(),
            space: parent.space.clone(),
            parent: Some(fork.parent_pid),
            // A container runtime moves the first process into the container before it forks.
            container: parent.container.clone(),
            kept_files: Vec::new(),
            name: parent.name.clone(),
            space_since: time,
            clock_at_begin: Some(0),
            reaped_at_begin: Some(0),
            reaped_at_end: None,
            clock_at_end: None,
            threads: BTreeMap::new(),
            replaced: false,
        };
        // If the PID was reused, keep what was counted under it.
        if let Some(earlier) = self.by_pid.remove(&fork.pid) {
            child.threads = earlier.threads;
        }
        self.by_pid.insert(fork.pid, child);
    }

    fn origin_of(&self, pid: i32, tid: i32) -> Option<i32> {
        let thread = self.by_pid.get(&pid)?.threads.get(&tid)?;
        Some(thread.origin.unwrap_or(tid))
    }

    /// Handles the end of a thread.
    pub fn exited(&mut self, fork: Fork) {
        if let Some(t) = self.thread_mut(fork.pid, fork.tid) {
            t.ended = true;
        }
    }

    /// Mutable access to a thread of a process.
    pub(crate) fn thread_mut(&mut self, pid: i32, tid: i32) -> Option<&mut Thread> {
        self.by_pid.get_mut(&pid)?.threads.get_mut(&tid)
    }

    /// Handles a new thread name. If an exec caused it, the process has a new address space as
    /// well.
    pub fn named(&mut self, pid: i32, tid: i32, comm: Comm<'_>, time: u64) {
        let Some(tracked) = self.by_pid.get_mut(&pid).filter(|t| !t.replaced) else { return };
        let name: Arc<str> = String::from_utf8_lossy(comm.name).into();
        if comm.exec && time > tracked.space_since {
            tracked.space.clear();
            tracked.kept_files.clear();
            let now = tracked.process.as_ref().and_then(|p| p.read_identity().ok());
            tracked.identity = now.filter(|i| i.exe.is_some()).or(tracked.identity.take());
        }
        if pid == tid {
            tracked.name = name.clone();
        }
        if let Some(thread) = tracked.threads.get_mut(&tid) {
            thread.name = name;
            thread.index = None;
        }
        if pid == tid {
            // Samples of all its threads carry the process name, so they need new indices.
            tracked.threads.values_mut().for_each(|t| t.index = None);
        }
    }

    /// Handles a new executable mapping. `time` is CLOCK_MONOTONIC in nanoseconds.
    pub fn mapped(&mut self, pid: i32, event: &MmapEvent<'_>, time: u64) {
        let Some(tracked) = self.by_pid.get(&pid) else { return };
        if time < tracked.space_since {
            return;
        }
        let perms = Perms { read: true, write: false, execute: true, shared: false };
        let file = FileId { major: event.major, minor: event.minor, inode: event.inode };
        let offset = FileOffset(event.offset);
        let row = MapRow::from_event(Avma(event.start), event.len, offset, perms, file, event.path);
        let process = tracked.file_access().cloned();
        let room = tracked.kept_files.len() < MAX_KEPT_FILES;
        let Some(row) = row else {
            self.unreadable_maps += 1;
            return;
        };
        let new = self.images.resolve(process.as_deref(), &row);
        let id = self.new_mapping_id();
        let kept = process.filter(|_| room).and_then(|p| self.keep_file(&p, &row, &new));
        if let Some(tracked) = self.by_pid.get_mut(&pid) {
            tracked.kept_files.extend(kept);
            tracked.space.insert(id, new);
        }
    }
}

/// Whether a mapping that was read again is unchanged.
fn is_same(known: &Mapping, new: &NewMapping) -> bool {
    let same_image = match (&known.image, &new.image) {
        (Ok((a, a_bias)), Ok((b, b_bias))) => Arc::ptr_eq(a, b) && a_bias == b_bias,
        (Err(a), Err(b)) => a == b,
        _ => false,
    };
    same_image
        && (known.start, known.end, known.offset) == (new.start, new.end, new.offset)
        && (known.file, known.kind, &known.name) == (new.file, new.kind, &new.name)
}

#[cfg(test)]
mod tests;
