//! Prints threads as text, in Go's formats for goroutines (`debug=1` and `debug=2`), so that tools
//! which parse those also parse these.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use aggregate::ids::{FrameIndex, Function, NodeIndex, Place};
use aggregate::recorder::Recorder;
use assemble::conclude::Named;
use image::{ElfImage, Svma};
use printable::Printable;
use rustc_hash::FxHashMap;

use super::dumped::DumpedThread;
use super::waiting::in_header;

/// The number of frames that Go prints from each end of a stack (`tracebackInnerFrames` in its
/// runtime).
const INNER: usize = 50;
const OUTER: usize = 50;

/// Prints the stacks of a recorder.
pub(super) struct Printer<'a> {
    recorder: &'a Recorder,
    named: &'a Named,
    /// The offset in bytes of each frame's address from the start of its function, if known.
    offsets: FxHashMap<FrameIndex, u64>,
}

/// One entry of a stack: a function, or a call that was inlined into the next entry.
struct Row<'a> {
    frame: FrameIndex,
    function: Option<&'a Function>,
    inlined: bool,
}

impl<'a> Printer<'a> {
    /// Creates a printer for the stacks that the recorder has unwound.
    pub fn new(recorder: &'a Recorder, named: &'a Named) -> Self {
        Self { recorder, named, offsets: offsets(recorder) }
    }

    /// Prints each thread separately, then the deadlocks among the notes.
    pub fn one_by_one(&self, threads: &[DumpedThread], notes: &[String]) -> String {
        let names: BTreeMap<i32, &str> =
            threads.iter().map(|t| (t.thread.id.tid, &*t.thread.name)).collect();
        let mut text = String::new();
        for t in threads {
            let name = in_header(&t.thread.name);
            let _ = writeln!(text, "goroutine {} [{}, thread {name}]:", t.thread.id.tid, t.state);
            self.stack(&mut text, t.stack);
            if let Some(held) = t.waits_for {
                let name = Printable(names.get(&held.owner).copied().unwrap_or_default());
                let (address, owner) = (held.address, held.owner);
                let _ =
                    writeln!(text, "waits for mutex {address:#x} held by thread {owner} ({name})");
            }
            text.push('\n');
        }
        for note in notes.iter().filter(|n| n.starts_with("deadlock")) {
            let _ = writeln!(text, "{note}\n");
        }
        text.pop();
        text
    }

    fn stack(&self, text: &mut String, stack: NodeIndex) {
        let rows = self.rows(stack);
        let hidden = rows.len().saturating_sub(INNER + OUTER);
        for (i, row) in rows.iter().enumerate() {
            if hidden > 0 && i == INNER {
                let _ = writeln!(text, "...{hidden} frames elided...");
            }
            if hidden > 0 && (INNER..INNER + hidden).contains(&i) {
                continue;
            }
            let arguments = if self.is_code(row.frame) { "(...)" } else { "" };
            let _ = write!(text, "{}{arguments}\n\t{}", self.name(row), self.position(row));
            match self.offsets.get(&row.frame) {
                Some(offset) if !row.inlined => {
                    let _ = writeln!(text, " +{offset:#x}");
                }
                _ => text.push('\n'),
            }
        }
    }

    /// Groups equal stacks and prints the most frequent first.
    pub fn grouped(&self, threads: &[DumpedThread], name: &str) -> String {
        let mut groups: BTreeMap<NodeIndex, usize> = BTreeMap::new();
        for t in threads {
            *groups.entry(t.stack).or_default() += 1;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(stack, n)| (std::cmp::Reverse(*n), *stack));
        let mut text = format!("{name} profile: total {}\n", threads.len());
        for (stack, n) in groups {
            let _ = write!(text, "{n} @");
            for frame in self.recorder.tree.stack(stack).filter(|f| self.is_code(*f)) {
                let _ = write!(text, " {}", self.recorder.tree.frames()[frame as usize].address);
            }
            text.push('\n');
            for row in self.rows(stack) {
                let address = self.recorder.tree.frames()[row.frame as usize].address;
                let offset = self.offsets.get(&row.frame).copied().unwrap_or(0);
                let (name, position) = (self.name(&row), self.position(&row));
                let _ = writeln!(text, "#\t{address}\t{name}+{offset:#x}\t{position}");
            }
            text.push('\n');
        }
        text
    }

    fn rows(&self, stack: NodeIndex) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for frame in self.recorder.tree.stack(stack) {
            let functions = self.named.resolved.get(frame as usize).map(|r| &r.functions);
            let functions = functions.map_or(&[][..], |f| f);
            if functions.is_empty() {
                rows.push(Row { frame, function: None, inlined: false });
            }
            for (i, f) in functions.iter().enumerate() {
                let inlined = i + 1 < functions.len();
                rows.push(Row { frame, function: Some(f), inlined });
            }
        }
        rows
    }

    fn is_code(&self, frame: FrameIndex) -> bool {
        let place = self.recorder.tree.frames().get(frame as usize).map(|f| f.place);
        !matches!(place, Some(Place::Marker))
    }

    fn name(&self, row: &Row<'_>) -> String {
        match row.function {
            Some(f) => printable::line(&f.name).into_owned(),
            None => self.bare(row.frame),
        }
    }

    /// The file and offset, as in `libfoo.so+0x1234`, for an address without a name.
    fn bare(&self, frame: FrameIndex) -> String {
        let key = self.recorder.tree.frames()[frame as usize];
        let mapping = match key.place {
            Place::User(id) => self.recorder.mappings.get(&id),
            _ => None,
        };
        let Some(m) = mapping else { return format!("[{}]", key.address) };
        let file = m.name.rsplit('/').next().unwrap_or_default();
        let svma = m.image_at(key.address).map_or(key.address.0, |(_, svma)| svma.0);
        format!("{}+{svma:#x}", Printable(file))
    }

    fn position(&self, row: &Row<'_>) -> String {
        if let Some(Function { file: Some(file), line, .. }) = row.function {
            return format!("{}:{line}", Printable(file));
        }
        let key = self.recorder.tree.frames()[row.frame as usize];
        let mapping = match key.place {
            Place::User(id) => self.recorder.mappings.get(&id),
            _ => None,
        };
        mapping.map_or_else(|| "?:0".to_owned(), |m| format!("{}:0", Printable(&m.name)))
    }
}

/// An image and the frames in it.
type FramesOf<'a> = (&'a Arc<ElfImage>, Vec<(FrameIndex, Svma)>);

/// Computes each frame's offset from the start of its function.
fn offsets(recorder: &Recorder) -> FxHashMap<FrameIndex, u64> {
    let mut by_image: BTreeMap<*const ElfImage, FramesOf<'_>> = BTreeMap::new();
    for (i, key) in recorder.tree.frames().iter().enumerate() {
        let Place::User(id) = key.place else { continue };
        let mapping = recorder.mappings.get(&id);
        if let Some((image, svma)) = mapping.and_then(|m| m.image_at(key.address)) {
            let of_image =
                by_image.entry(Arc::as_ptr(image)).or_insert_with(|| (image, Vec::new()));
            of_image.1.push((i as FrameIndex, svma));
        }
    }
    let mut offsets = FxHashMap::default();
    for (image, wanted) in by_image.into_values() {
        let addresses: Vec<Svma> = wanted.iter().map(|(_, svma)| *svma).collect();
        for ((frame, svma), start) in wanted.iter().zip(unwind::function_starts(image, &addresses))
        {
            if let Some(offset) = start.and_then(|start| svma.0.checked_sub(start.0)) {
                offsets.insert(*frame, offset);
            }
        }
    }
    offsets
}
