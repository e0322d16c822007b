//! The processes of a session: who is followed, what is mapped where, what threads are called.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use events::{Comm, Fork, MmapEvent};
use image::{AddressSpace, Avma, FileId, FileOffset, Mapping, MappingId, NewMapping};
use process::{Identity, Images, MapRow, Perms, Process, ProcessMemory};
use rustc_hash::FxHashMap;

use crate::family::Family;
use crate::ids::{ThreadId, ThreadIndex};

/// A thread as far as the session knows it.
#[derive(Debug, Clone)]
pub struct Thread {
    /// Its name now.
    pub name: Arc<str>,
    /// The index under which samples with this name are counted; drawn at the first sample.
    pub index: Option<ThreadIndex>,
    /// CPU time when the recording began, in nanoseconds: 0 for threads that began later.
    pub baseline: u64,
    /// Clock ticks in user mode and in the kernel when the recording began.
    pub(crate) ticks_at_begin: (u64, u64),
    /// The same at the end.
    pub(crate) ticks_at_end: (u64, u64),
    /// CPU time at the end, in nanoseconds, if it was alive then.
    pub at_end: Option<u64>,
    /// Another thread had its number before, within the recording.
    pub(crate) reused: bool,
    /// The thread whose events it inherited; `None` for those with events of their own.
    pub(crate) origin: Option<i32>,
    /// It ended during the recording.
    pub ended: bool,
}

impl Thread {
    /// The part of its CPU time in the recording that it spent in user mode, where that is known.
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

/// A followed process.
pub struct Tracked {
    /// A hold on it, while there is one to be had: a short-lived child may be gone.
    pub process: Option<Arc<Process>>,
    /// Who it is, as of its last exec that was seen.
    pub identity: Option<Identity>,
    /// Its memory, where it may be read.
    pub memory: Option<ProcessMemory>,
    /// The process whose view of files serves when its own is gone.
    pub(crate) ancestor: Option<Arc<Process>>,
    /// Its executable mappings at the time of the last event.
    pub space: AddressSpace,
    /// The process that forked it.
    pub parent: Option<i32>,
    /// The container that it runs in, by its id.
    pub container: Option<Arc<str>>,
    /// Its jitdumps, by the paths under which it mapped them.
    pub(crate) jit_dumps: Vec<(Arc<str>, Arc<File>)>,
    /// Its name.
    pub name: Arc<str>,
    /// Mapping events before this (CLOCK_MONOTONIC, nanoseconds) are in `space` already.
    pub(crate) space_since: u64,
    /// CPU time of all its threads, ended ones too, as the recording began; nanoseconds.
    pub(crate) clock_at_begin: Option<u64>,
    /// The same when it was last looked at: at the end, or shortly before the process' exit.
    pub(crate) clock_at_end: Option<u64>,
    /// CPU time of children that it had waited for as the recording began; nanoseconds.
    pub(crate) reaped_at_begin: Option<u64>,
    /// The same as it ended, of processes that had not exited by then.
    pub(crate) reaped_at_end: Option<u64>,
    /// Its threads, ended ones too.
    pub threads: BTreeMap<i32, Thread>,
    /// It is gone, and a process that is not followed has its PID now.
    pub replaced: bool,
}

impl Tracked {
    fn viewpoint(&self) -> Option<&Arc<Process>> {
        self.process.as_ref().or(self.ancestor.as_ref())
    }
}

/// A thread under one name, as samples are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedThread {
    /// Which thread.
    pub id: ThreadId,
    /// The thread's name.
    pub name: Arc<str>,
    /// The process' name.
    pub process: Arc<str>,
    /// The container that the process runs in, by its id.
    pub container: Option<Arc<str>>,
}

/// All processes that are or were followed.
pub struct Processes {
    by_pid: FxHashMap<i32, Tracked>,
    named: Vec<NamedThread>,
    named_index: FxHashMap<NamedThread, ThreadIndex>,
    images: Images,
    next_mapping: u32,
    follow_children: bool,
    /// Mappings whose rows in `/proc/PID/maps` could not be read or understood.
    pub unreadable_maps: usize,
    family_notes: Vec<String>,
}

impl Processes {
    /// None yet. With `follow_children`, those that they fork are followed, too.
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
        }
    }

    /// Follows the targets, and whom they had forked before: see [`Processes::add_root`].
    pub fn add_family(&mut self, family: &Family) {
        for process in &family.processes {
            self.add_root(process.clone());
        }
        self.family_notes = family.notes();
    }

    /// Who of the targets' children is recorded, and who is not: text for the profile.
    pub fn family_notes(&self) -> &[String] {
        &self.family_notes
    }

    /// Follows a process that runs already; its mappings are read by
    /// [`Processes::refresh_maps`], once the events that tell of changes are open.
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
            jit_dumps: Vec::new(),
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

    /// Follows a child of a followed process that has been forked since the recording began, and
    /// reads its mappings.
    pub fn add_child(&mut self, process: &Arc<Process>, now: u64) {
        let earlier = self.by_pid.remove(&process.pid());
        self.add_root(process.clone());
        let parent = self.by_pid.get(&process.pid()).and_then(|child| child.parent);
        let inherited = parent.and_then(|pid| self.by_pid.get(&pid)).map(|p| p.space.clone());
        if let Some(child) = self.by_pid.get_mut(&process.pid()) {
            child.space = inherited.unwrap_or_default();
            child.clock_at_begin = Some(0);
            child.reaped_at_begin = Some(0);
            // A process id that is used again keeps what was counted under it.
            child.threads = earlier.map(|e| e.threads).unwrap_or_default();
            child.threads.values_mut().for_each(|t| t.index = None);
        }
        self.refresh_maps(process, now);
    }

    /// A followed process has ended: what only serves to read it is let go.
    pub fn ended(&mut self, pid: i32) {
        if let Some(tracked) = self.by_pid.get_mut(&pid) {
            tracked.process = None;
            tracked.memory = None;
            tracked.space.clear();
        }
    }

    /// Reads the mappings anew; those that are as they were keep their identity. `now` is
    /// CLOCK_MONOTONIC from before this call.
    pub fn refresh_maps(&mut self, process: &Process, now: u64) {
        let Some(tracked) = self.by_pid.get(&process.pid()) else { return };
        let known = tracked.space.clone();
        // Its generation goes on: who keeps one sees that there may be something new.
        let mut space = known.clone();
        space.clear();
        let jit_dumps = self.read_maps(process, &known, &mut space);
        if let Some(tracked) = self.by_pid.get_mut(&process.pid()) {
            if !known.iter().map(|m| m.id).eq(space.iter().map(|m| m.id)) {
                tracked.space = space;
            }
            tracked.jit_dumps = jit_dumps;
            tracked.space_since = now;
        }
    }

    /// The followed processes that run.
    pub fn living(&self) -> Vec<Arc<Process>> {
        let held = self.by_pid.values().filter_map(|t| t.process.clone());
        let mut living: Vec<_> = held.filter(|p| p.is_alive()).collect();
        living.sort_unstable_by_key(|p| p.pid());
        living
    }

    /// The mappings go into `space`; the jitdumps among them are given back.
    fn read_maps(
        &mut self,
        process: &Process,
        known: &AddressSpace,
        space: &mut AddressSpace,
    ) -> Vec<(Arc<str>, Arc<File>)> {
        let mut jit_dumps = Vec::new();
        match process.exec_maps() {
            Ok(maps) => {
                self.unreadable_maps += maps.malformed + usize::from(maps.truncated);
                for row in &maps.rows {
                    let new = self.images.resolve(Some(process), row);
                    jit_dumps.extend(jit_dump(process, row, &new));
                    let same = known.find(new.start).filter(|m| is_same(m, &new)).map(|m| m.id);
                    space.insert(same.unwrap_or_else(|| self.draw_mapping()), new);
                }
            }
            Err(_) => self.unreadable_maps += usize::from(process.is_alive()),
        }
        jit_dumps
    }

    fn draw_mapping(&mut self) -> MappingId {
        let id = MappingId(self.next_mapping);
        self.next_mapping += 1;
        id
    }

    /// A process by its id.
    pub fn get(&self, pid: i32) -> Option<&Tracked> {
        self.by_pid.get(&pid)
    }

    /// A process by its id, to be changed.
    pub fn get_mut(&mut self, pid: i32) -> Option<&mut Tracked> {
        self.by_pid.get_mut(&pid)
    }

    /// The ids of all processes, in their order.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.by_pid.keys().copied().collect();
        pids.sort_unstable();
        pids
    }

    /// All processes with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (i32, &Tracked)> {
        self.by_pid.iter().map(|(pid, t)| (*pid, t))
    }

    /// All processes with their ids, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (i32, &mut Tracked)> {
        self.by_pid.iter_mut().map(|(pid, t)| (*pid, t))
    }

    /// All threads that were seen, ended ones too.
    pub fn thread_count(&self) -> usize {
        self.by_pid.values().map(|t| t.threads.len()).sum()
    }

    /// Threads as samples were counted for them, by [`ThreadIndex`].
    pub fn named_threads(&self) -> &[NamedThread] {
        &self.named
    }

    /// Notes a thread that was found in `/proc`.
    pub fn add_thread(&mut self, pid: i32, tid: i32, baseline: u64) {
        let Some(tracked) = self.by_pid.get_mut(&pid) else { return };
        let name = tracked
            .process
            .as_ref()
            .and_then(|p| p.thread_name(tid).ok())
            .map_or_else(|| tracked.name.clone(), Into::into);
        tracked.threads.entry(tid).or_insert_with(|| Thread::new(name, baseline, None));
    }

    /// The index for counting a sample; `None` for a process that is not followed.
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

    /// A thread or process was created. `inherited` says whether its creator's events surely
    /// were in place at that time, so that it has them too.
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
                // A thread id that is used again: the time of both is weighed together.
                thread.reused = known.is_some();
                tracked.threads.insert(fork.tid, thread);
            }
        }
    }

    fn forked_process(&mut self, fork: Fork, time: u64) {
        let follow = self.follow_children;
        let parent = self.by_pid.get(&fork.parent_pid).filter(|p| follow && !p.replaced);
        let Some(parent) = parent else {
            // A stranger; whoever was followed under its PID has ended.
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
            ancestor: parent.viewpoint().cloned(),
            space: parent.space.clone(),
            parent: Some(fork.parent_pid),
            // A runtime moves its first process into the container before that forks.
            container: parent.container.clone(),
            jit_dumps: Vec::new(),
            name: parent.name.clone(),
            space_since: time,
            clock_at_begin: Some(0),
            reaped_at_begin: Some(0),
            reaped_at_end: None,
            clock_at_end: None,
            threads: BTreeMap::new(),
            replaced: false,
        };
        // A process id that is used again keeps what was counted under it.
        if let Some(earlier) = self.by_pid.remove(&fork.pid) {
            child.threads = earlier.threads;
        }
        self.by_pid.insert(fork.pid, child);
    }

    fn origin_of(&self, pid: i32, tid: i32) -> Option<i32> {
        let thread = self.by_pid.get(&pid)?.threads.get(&tid)?;
        Some(thread.origin.unwrap_or(tid))
    }

    /// A thread ended.
    pub fn exited(&mut self, fork: Fork) {
        if let Some(t) = self.thread_mut(fork.pid, fork.tid) {
            t.ended = true;
        }
    }

    /// A thread of a process, to be changed.
    pub(crate) fn thread_mut(&mut self, pid: i32, tid: i32) -> Option<&mut Thread> {
        self.by_pid.get_mut(&pid)?.threads.get_mut(&tid)
    }

    /// A thread has a new name; after an exec, the process has a new address space as well.
    pub fn named(&mut self, pid: i32, tid: i32, comm: Comm<'_>, time: u64) {
        let Some(tracked) = self.by_pid.get_mut(&pid).filter(|t| !t.replaced) else { return };
        let name: Arc<str> = String::from_utf8_lossy(comm.name).into();
        if comm.exec && time > tracked.space_since {
            tracked.space.clear();
            tracked.jit_dumps.clear();
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
            // The process's name is a label of all its threads.
            tracked.threads.values_mut().for_each(|t| t.index = None);
        }
    }

    /// An executable mapping was made.
    pub fn mapped(&mut self, pid: i32, event: &MmapEvent<'_>, time: u64) {
        let Some(tracked) = self.by_pid.get(&pid) else { return };
        if time < tracked.space_since {
            return;
        }
        let perms = Perms { read: true, write: false, execute: true, shared: false };
        let file = FileId { major: event.major, minor: event.minor, inode: event.inode };
        let offset = FileOffset(event.offset);
        let row = MapRow::from_event(Avma(event.start), event.len, offset, perms, file, event.path);
        let process = tracked.viewpoint().cloned();
        let Some(row) = row else {
            self.unreadable_maps += 1;
            return;
        };
        let new = self.images.resolve(process.as_deref(), &row);
        let id = self.draw_mapping();
        let jit_dump = process.and_then(|p| jit_dump(&p, &row, &new));
        if let Some(tracked) = self.by_pid.get_mut(&pid) {
            tracked.jit_dumps.extend(jit_dump);
            tracked.space.insert(id, new);
        }
    }
}

/// Whether a mapping that is read again is the one that it was.
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

/// The file of a mapping that is a jitdump: a runtime that writes one maps it, executable, so
/// that profilers find it (tools/perf/Documentation/jitdump-specification.txt).
fn jit_dump(process: &Process, row: &MapRow, new: &NewMapping) -> Option<(Arc<str>, Arc<File>)> {
    let name = new.name.rsplit('/').next()?;
    let digits = name.strip_prefix("jit-")?.strip_suffix(".dump")?;
    if new.image.is_ok() || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let file = process::open_mapped(process, row).ok()?;
    Some((new.name.clone(), Arc::new(file)))
}
