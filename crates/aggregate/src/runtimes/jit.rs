//! Names JIT-compiled code from the perf map and the jitdumps of a target, read as they grow.
//!
//! Compiled code moves and its memory is reused, so a frame is named when its sample is read, at
//! most about 20 ms after it was taken, and not at the end of the recording. Frames that have no
//! name by then are looked up again at the end, with the time of their sample: V8 buffers 2 MiB of
//! its jitdump before it writes, and Java writes its map only on request or at exit.

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

/// Maximum number of bytes read from a file at a time. Of a larger perf map, only this many bytes
/// at its end, which are the newest, are read.
const MAX_READ: u64 = 64 << 20;
/// Maximum number of bytes of a file that are read at the end of the recording.
const MAX_FINAL_READ: u64 = 512 << 20;
/// Maximum number of frames without a name that are kept for the end.
const MAX_PENDING: usize = 1 << 20;
/// Maximum number of jitdumps per process. A runtime writes only one; a restart by exec may leave
/// another.
const MAX_DUMPS: usize = 4;
/// With fewer addresses without a name than this, the process probably did not compile code, except
/// for a trampoline or two.
const FEW_NAMELESS: usize = 8;
/// Maximum number of notes for the profile's comments.
const MAX_NOTES: usize = 32;

/// Index of a name, or of a frame that does not have one yet.
type JitIndex = u32;

enum Slot {
    Known(JitFunction),
    Pending { source: usize, address: Avma, time: u64 },
    Unknown,
}

/// The names of all frames in compiled code.
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

/// The files that name the compiled code of one process, from one exec to the next.
struct Sources {
    pid: i32,
    ns_pid: i32,
    uid: u32,
    root: Option<Root>,
    map: Option<Growing<PerfMap>>,
    refused: bool,
    dumps: Vec<Growing<JitDump>>,
    round: u64,
    /// Names from the perf map, by address; cleared when a file has grown.
    cache: FxHashMap<u64, JitIndex>,
    /// Frames of this round that have no name yet, by address.
    waiting: FxHashMap<u64, JitIndex>,
}

/// A file that the target appends to, and what was parsed from it so far.
struct Growing<T> {
    file: File,
    path: String,
    offset: u64,
    content: T,
}

/// Creates the state for one recording.
pub(super) fn new() -> Box<dyn Runtime> {
    Box::new(Jit::default())
}

/// Whether a mapped file is a jitdump, by its name `jit-PID.dump`. A runtime that writes a jitdump
/// maps it as executable so that profilers find it
/// (tools/perf/Documentation/jitdump-specification.txt).
pub(super) fn is_dump(name: &str) -> bool {
    let digits = name.strip_prefix("jit-").and_then(|rest| rest.strip_suffix(".dump"));
    digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
}

impl Runtime for Jit {
    /// Any process may compile code. Its files are only opened once a frame is in such code.
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
    /// The name of the code at an address in memory without an image, at the time of a sample.
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
            s.open_dumps(tracked);
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

    /// Reads the rest of the files and names the frames that have no name yet.
    fn name_pending(&mut self) {
        let mut notes = Vec::new();
        for source in &mut self.sources {
            source.refresh(MAX_FINAL_READ, &mut notes);
            source.note_losses(&mut notes);
        }
        let mut nameless = vec![0; self.sources.len()];
        for slot in &mut self.slots {
            if let Slot::Pending { source, address, time } = *slot {
                *slot = self.sources[source].find(address, time).map_or(Slot::Unknown, Slot::Known);
                nameless[source] += usize::from(matches!(slot, Slot::Unknown));
            }
        }
        let nameless = self.sources.iter().zip(nameless);
        notes.extend(nameless.filter_map(|(source, n)| source.missing_names_note(n)));
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
        // The identity of a forked child is still that of its parent; its handle has its own.
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

    fn open_dumps(&mut self, tracked: &Tracked) {
        let dumps = tracked
            .kept_files
            .iter()
            .filter(|(path, _)| path.rsplit('/').next().is_some_and(is_dump));
        for (path, file) in dumps.skip(self.dumps.len()).take(MAX_DUMPS) {
            let Ok(file) = file.try_clone() else { continue };
            let content = JitDump::default();
            self.dumps.push(Growing { file, path: path.to_string(), offset: 0, content });
        }
    }

    /// Reads at most `most` new bytes of each file. Returns whether anything new was read.
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

    /// Opens the perf map, whose name contains the PID in the namespace of the process. `None` if
    /// there is none yet.
    ///
    /// # Errors
    /// If the map exists but must not be used.
    fn open_map(&self, notes: &mut Vec<String>) -> io::Result<Option<Growing<PerfMap>>> {
        let Some(root) = &self.root else { return Ok(None) };
        let path = format!("/tmp/perf-{}.map", self.ns_pid);
        let file = match root.open_file(&PathBuf::from(&path)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                notes.push(format!("cannot use {path} of process {}: {e}", self.pid));
                return Err(e);
            }
        };
        let stat = file.metadata()?;
        // Anyone can create a file with that name in /tmp, and its names could mislead.
        if stat.uid() != self.uid {
            let (owner, uid) = (stat.uid(), self.uid);
            let text = format!(
                "cannot use {path} of process {}: it belongs to user {owner}, not {uid}",
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
            notes.push(format!("{path} is {mib} MiB: only the last 64 MiB were read"));
        }
        Ok(Some(Growing { file, path, offset, content }))
    }

    fn find(&self, at: Avma, time: u64) -> Option<JitFunction> {
        let of_dump = self.dumps.iter().rev().find_map(|d| d.content.find(at, time));
        of_dump.or_else(|| self.map.as_ref()?.content.find(at))
    }

    /// A note on how to get names for compiled code, as runtimes only write them on request.
    fn missing_names_note(&self, nameless: usize) -> Option<String> {
        if nameless < FEW_NAMELESS || self.map.is_some() || self.refused || !self.dumps.is_empty() {
            return None;
        }
        Some(format!(
            "JIT-compiled code of process {} has no names: there is no /tmp/perf-{}.map; fix: \
             Java: jcmd {} Compiler.perfmap, and -XX:+PreserveFramePointer for whole stacks; \
             Node.js: --perf-basic-prof; .NET: DOTNET_PerfMapEnabled=1",
            self.pid, self.ns_pid, self.ns_pid
        ))
    }

    fn note_losses(&self, notes: &mut Vec<String>) {
        for dump in &self.dumps {
            if let Some(why) = dump.content.refused() {
                notes.push(format!("{}: {why}", dump.path));
            }
            if dump.content.left_out() > 0 {
                let n = dump.content.left_out();
                notes.push(format!("{}: too many entries, skipped: {n}", dump.path));
            }
        }
        if let Some(map) = &self.map {
            let (bad, over) = (map.content.malformed(), map.content.left_out());
            if bad > 0 {
                notes.push(format!("{}: lines that cannot be parsed: {bad}", map.path));
            }
            if over > 0 {
                notes.push(format!("{}: too many lines, skipped: {over}", map.path));
            }
        }
    }
}

impl<T: Default> Growing<T> {
    /// Reads at most `most` bytes of what was appended and passes them to `feed`. `pass_over`
    /// returns how many of the following bytes need not be read. Returns whether anything was read.
    fn read(
        &mut self,
        most: u64,
        feed: impl Fn(&mut T, &[u8]),
        pass_over: impl Fn(&mut T) -> u64,
    ) -> bool {
        let Ok(size) = self.file.metadata().map(|m| m.size()) else { return false };
        if size < self.offset {
            // The file was rewritten from the start, so what was parsed before is out of date.
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;

    use process::Process;

    use super::*;
    use crate::processes::Processes;

    #[test]
    fn only_numbered_files_are_dumps() {
        assert!(is_dump("jit-12.dump"));
        for name in ["jit-.dump", "jit-x1.dump", "jit-12.dump.1", "12.dump"] {
            assert!(!is_dump(name), "{name}");
        }
    }

    #[test]
    fn a_perf_map_is_read_as_it_grows_if_it_belongs_to_the_user_of_the_process() {
        let process = Arc::new(Process::open(std::process::id().cast_signed()).expect("we live"));
        let mut processes = Processes::new(false);
        processes.add_root(process.clone());
        let tracked = processes.get(process.pid()).expect("followed");
        let mut own = Sources::of(process.pid(), tracked);
        let other = Sources::of(process.pid(), tracked);
        let mut other = Sources { uid: own.uid + 1, ..other };
        let mut notes = Vec::new();
        assert!(!own.refresh(MAX_READ, &mut notes), "there is no map yet");
        assert_eq!(own.missing_names_note(FEW_NAMELESS - 1), None);
        let note = own.missing_names_note(FEW_NAMELESS).expect("many frames without names");
        assert!(note.contains(&format!("there is no /tmp/perf-{}.map", own.ns_pid)), "{note}");

        let path = format!("/tmp/perf-{}.map", own.ns_pid);
        let mut file = File::create(&path).expect("writable /tmp");
        file.write_all(b"1000 10 first\n").expect("space in /tmp");
        let grown = [(); 2].map(|()| own.refresh(MAX_READ, &mut notes));
        let refused = [(); 2].map(|()| other.refresh(MAX_READ, &mut notes));
        file.write_all(b"2000 10 second\nnonsense\n").expect("space in /tmp");
        let again = own.refresh(MAX_READ, &mut notes);
        std::fs::remove_file(&path).expect("just created");

        assert_eq!((grown, again), ([true, false], true));
        let name = |at| own.find(Avma(at), 0).map(|f| f.name.to_string());
        let names = [0x1000, 0x100f, 0x1010, 0x2000].map(name);
        let [first, second] = ["first", "second"].map(|n| Some(n.to_owned()));
        assert_eq!(names, [first.clone(), first, None, second]);
        assert_eq!(own.missing_names_note(FEW_NAMELESS), None);
        assert_eq!((refused, other.missing_names_note(FEW_NAMELESS)), ([false, false], None));
        assert_eq!(notes.len(), 1, "refused once: {notes:?}");
        assert!(notes[0].contains("belongs to user"), "{notes:?}");
        own.note_losses(&mut notes);
        assert_eq!(notes[1..], [format!("{path}: lines that cannot be parsed: 1")]);
    }

    #[test]
    fn notes_are_not_repeated_and_limited() {
        let mut all = Vec::new();
        note(&mut all, vec!["a".into(), "a".into()]);
        assert_eq!(all, ["a"]);
        note(&mut all, (0..MAX_NOTES).map(|i| i.to_string()).collect());
        assert_eq!(all.len(), MAX_NOTES);
    }
}
