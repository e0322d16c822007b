//! Names of code that a target compiles while it runs: its perf map and its jitdumps, read as
//! they grow.
//!
//! Code moves, and its memory is used again, so a frame is named when its sample is read, at most
//! some 20 ms after it was taken, and not at the end. What has no name by then is asked for once
//! more at the end, with the sample's time: V8 holds its jitdump back until 2 MiB are full, and
//! Java writes its map only on request or at its exit.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use image::Avma;
use process::Root;
use rustc_hash::FxHashMap;
use symbolize::jit::{JitDump, JitFunction, PerfMap};

use super::{CodeAddress, Presence, Roles, Runtime};
use crate::ids::Function;
use crate::processes::Tracked;

/// Of a larger perf map only so much is read, the newest part, and so much of a file at a time.
const MAX_READ: u64 = 64 << 20;
/// At the end, what is still missing of a jitdump is read up to this.
const MAX_FINAL_READ: u64 = 512 << 20;
/// Frames without a name, kept for the end.
const MAX_PENDING: usize = 1 << 20;
/// No runtime writes more than one; a restart by exec may leave another.
const MAX_DUMPS: usize = 4;
/// Below so many addresses without a name, code was hardly compiled but for a trampoline or two.
const FEW_NAMELESS: usize = 8;
/// Notes for the profile's comments.
const MAX_NOTES: usize = 32;

/// Index of a name, or of a frame that waits for one.
type JitIndex = u32;

enum Slot {
    Known(JitFunction),
    Pending { source: usize, address: Avma, time: u64 },
    Unknown,
}

/// All compiled code that frames were found in.
#[derive(Default)]
struct Jit {
    slots: Vec<Slot>,
    known: FxHashMap<JitFunction, JitIndex>,
    sources: Vec<Sources>,
    by_pid: FxHashMap<i32, usize>,
    round: u64,
    pending: usize,
    notes: Vec<String>,
}

/// Where the names of one process (from one exec to the next) come from.
struct Sources {
    pid: i32,
    ns_pid: i32,
    uid: u32,
    root: Option<Root>,
    map: Option<Growing<PerfMap>>,
    refused: bool,
    dumps: Vec<Growing<JitDump>>,
    round: u64,
    /// By address: what the perf map says, as long as it does not grow.
    cache: FxHashMap<u64, JitIndex>,
    /// Frames of this round that have no name yet.
    waiting: FxHashMap<u64, JitIndex>,
}

struct Growing<T> {
    file: File,
    path: String,
    offset: u64,
    content: T,
}

/// The compiled code of a recording.
pub(super) fn new() -> Box<dyn Runtime> {
    Box::new(Jit::default())
}

impl Runtime for Jit {
    /// Any process may compile code; its files are looked for when it has executed some.
    fn attach(&mut self, _pid: i32, _tracked: &Tracked) -> Presence {
        Presence::Attached(Roles { code: true, ..Roles::default() })
    }

    fn detach(&mut self, pid: i32) {
        self.by_pid.remove(&pid);
    }

    fn next_round(&mut self) {
        self.round += 1;
    }

    fn code_at(&mut self, code: &CodeAddress<'_>) -> Option<u32> {
        self.lookup(code)
    }

    fn finish(&mut self) {
        self.name_pending();
    }

    fn functions(&self, index: u32) -> Vec<Function> {
        vec![match self.slots.get(index as usize) {
            Some(Slot::Known(f)) => Function {
                name: f.name.clone(),
                system_name: f.raw.clone(),
                file: f.file.clone(),
                line: f.line,
                column: 0,
                start_line: f.start_line,
            },
            Some(Slot::Pending { .. } | Slot::Unknown) | None => {
                Function::named("[anonymous code]")
            }
        }]
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

impl Jit {
    /// The name of the code at an address of anonymous memory, at the time of a sample.
    fn lookup(&mut self, code: &CodeAddress<'_>) -> Option<JitIndex> {
        let CodeAddress { pid, tracked, address: at, time } = *code;
        let source = *self.by_pid.entry(pid).or_insert_with(|| {
            self.sources.push(Sources::of(pid, tracked));
            self.sources.len() - 1
        });
        let s = &mut self.sources[source];
        if s.round != self.round {
            s.round = self.round;
            s.waiting.clear();
            s.take_dumps(tracked);
            let mut notes = Vec::new();
            if s.refresh(MAX_READ, &mut notes) {
                s.cache.clear();
            }
            note(&mut self.notes, notes);
        }
        let s = &mut self.sources[source];
        if let Some(index) = s.cache.get(&at.0).or_else(|| s.waiting.get(&at.0)) {
            return Some(*index);
        }
        let found = s.find(at, time);
        let timed = !s.dumps.is_empty();
        match found {
            Some(function) => {
                let index = self.index_of(function);
                if !timed {
                    self.sources[source].cache.insert(at.0, index);
                }
                Some(index)
            }
            None if self.pending < MAX_PENDING => {
                self.pending += 1;
                let index = self.slots.len() as JitIndex;
                self.slots.push(Slot::Pending { source, address: at, time });
                self.sources[source].waiting.insert(at.0, index);
                Some(index)
            }
            None => None,
        }
    }

    fn index_of(&mut self, function: JitFunction) -> JitIndex {
        if let Some(index) = self.known.get(&function) {
            return *index;
        }
        let index = self.slots.len() as JitIndex;
        self.slots.push(Slot::Known(function.clone()));
        self.known.insert(function, index);
        index
    }

    /// Reads what has come since, and names what waits for a name.
    fn name_pending(&mut self) {
        let mut notes = Vec::new();
        for source in &mut self.sources {
            source.refresh(MAX_FINAL_READ, &mut notes);
            source.account(&mut notes);
        }
        let mut nameless = vec![0; self.sources.len()];
        for slot in &mut self.slots {
            if let Slot::Pending { source, address, time } = *slot {
                *slot = self.sources[source].find(address, time).map_or(Slot::Unknown, Slot::Known);
                nameless[source] += usize::from(matches!(slot, Slot::Unknown));
            }
        }
        let mapless = self.sources.iter().zip(nameless);
        notes.extend(mapless.filter_map(|(source, n)| source.remedy(n)));
        note(&mut self.notes, notes);
    }
}

fn note(all: &mut Vec<String>, new: Vec<String>) {
    for line in new {
        if all.len() < MAX_NOTES && !all.contains(&line) {
            all.push(line);
        }
    }
}

impl Sources {
    fn of(pid: i32, tracked: &Tracked) -> Self {
        let process = tracked.process.as_ref();
        // A forked child's identity is still its parent's; its handle knows better.
        let own = process.map(|p| p.identity());
        Self {
            pid,
            ns_pid: own.and_then(|i| i.ns_pids.last().copied()).unwrap_or(pid),
            uid: own.or(tracked.identity.as_ref()).map_or(u32::MAX, |i| i.uid),
            root: process.and_then(|p| Root::of(p).ok()),
            map: None,
            refused: false,
            dumps: Vec::new(),
            round: 0,
            cache: FxHashMap::default(),
            waiting: FxHashMap::default(),
        }
    }

    fn take_dumps(&mut self, tracked: &Tracked) {
        for (path, file) in tracked.jit_dumps.iter().skip(self.dumps.len()).take(MAX_DUMPS) {
            let Ok(file) = file.try_clone() else { continue };
            let content = JitDump::default();
            self.dumps.push(Growing { file, path: path.to_string(), offset: 0, content });
        }
    }

    /// Whether anything new was read.
    fn refresh(&mut self, most: u64, notes: &mut Vec<String>) -> bool {
        if self.map.is_none() && !self.refused {
            match self.open_map(notes) {
                Ok(map) => self.map = map,
                Err(_) => self.refused = true,
            }
        }
        let mut grown = false;
        if let Some(map) = &mut self.map {
            grown |= map.read(most, PerfMap::feed, |_| 0);
        }
        for dump in &mut self.dumps {
            grown |= dump.read(most, JitDump::feed, JitDump::pass_over);
        }
        grown
    }

    /// The perf map, as the process names it: by its PID in its own namespace. `None` while there
    /// is none; an error where there is one that must not be used.
    fn open_map(&self, notes: &mut Vec<String>) -> io::Result<Option<Growing<PerfMap>>> {
        let Some(root) = &self.root else { return Ok(None) };
        let path = format!("/tmp/perf-{}.map", self.ns_pid);
        let file = match root.open_file(&PathBuf::from(&path)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                notes.push(format!("{path} of process {} was not used: {e}", self.pid));
                return Err(e);
            }
        };
        let stat = file.metadata()?;
        // Anyone may put a file of that name into /tmp, and names from it would mislead.
        if stat.uid() != self.uid {
            let (owner, uid) = (stat.uid(), self.uid);
            let text = format!(
                "{path} of process {} was not used: it belongs to user {owner}, not {uid}",
                self.pid
            );
            notes.push(text);
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut content = PerfMap::default();
        let mut offset = 0;
        if stat.size() > MAX_READ {
            offset = stat.size() - MAX_READ;
            content.skip_line();
            let mib = stat.size() >> 20;
            notes.push(format!("{path} has {mib} MiB: only its last 64 MiB were read"));
        }
        Ok(Some(Growing { file, path, offset, content }))
    }

    fn find(&self, at: Avma, time: u64) -> Option<JitFunction> {
        let of_dump = self.dumps.iter().rev().find_map(|d| d.content.find(at, time));
        of_dump.or_else(|| self.map.as_ref()?.content.find(at))
    }

    /// What gives names to code that has none, in runtimes that do not tell unasked.
    fn remedy(&self, nameless: usize) -> Option<String> {
        if nameless < FEW_NAMELESS || self.map.is_some() || self.refused || !self.dumps.is_empty() {
            return None;
        }
        Some(format!(
            "code that process {} compiled while it ran has no names: there is no \
             /tmp/perf-{}.map (Java: jcmd {} Compiler.perfmap, and -XX:+PreserveFramePointer for \
             whole stacks; Node.js: --perf-basic-prof; .NET: DOTNET_PerfMapEnabled=1)",
            self.pid, self.ns_pid, self.ns_pid
        ))
    }

    fn account(&self, notes: &mut Vec<String>) {
        for dump in &self.dumps {
            if let Some(why) = dump.content.refused() {
                notes.push(format!("{}: {why}", dump.path));
            }
            if dump.content.left_out() > 0 {
                let n = dump.content.left_out();
                notes.push(format!("{}: {n} entries were left out: too many", dump.path));
            }
        }
        if let Some(map) = &self.map {
            let (bad, over) = (map.content.malformed(), map.content.left_out());
            if bad > 0 {
                notes.push(format!("{}: {bad} lines could not be understood", map.path));
            }
            if over > 0 {
                notes.push(format!("{}: {over} lines were left out: too many", map.path));
            }
        }
    }
}

impl<T: Default> Growing<T> {
    /// Reads what was appended, up to a limit. `pass_over` tells what need not be read.
    fn read(
        &mut self,
        most: u64,
        feed: impl Fn(&mut T, &[u8]),
        pass_over: impl Fn(&mut T) -> u64,
    ) -> bool {
        let Ok(size) = self.file.metadata().map(|m| m.size()) else { return false };
        if size < self.offset {
            // Begun anew: what it said before is gone.
            self.offset = 0;
            self.content = T::default();
        }
        let end = size.min(self.offset.saturating_add(most));
        let mut grown = false;
        let mut buffer = vec![0; 256 << 10];
        while self.offset < end {
            let left = usize::try_from(end - self.offset).unwrap_or(usize::MAX).min(buffer.len());
            let Ok(n) = self.file.read_at(&mut buffer[..left], self.offset) else { break };
            if n == 0 {
                break;
            }
            grown = true;
            self.offset += n as u64;
            feed(&mut self.content, &buffer[..n]);
            self.offset = self.offset.saturating_add(pass_over(&mut self.content));
        }
        grown
    }
}
