//! Writes samples into a pprof profile: their locations, mappings, functions and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aggregate::contexts::StackTree;
use aggregate::ids::{FrameKey, Function, NodeIndex, Place};
use aggregate::processes::NamedThread;
use aggregate::runtimes::Runtimes;
use image::{AddressSpace, Mapping, MappingId};
use pprof::{
    BuildError, FunctionSpec, Label, Line, LocationIndex, MappingIndex, MappingSpec, Profile,
    ProfileBuilder,
};

use crate::symbols::Resolved;

const PAGE: u64 = 4096;
/// Addresses from here on stand for markers: frames that are not code.
const MARKER_BASE: u64 = 0x1000;
/// Functions of a runtime that have no address get one outside user space: from here on, each
/// runtime has a range of [`RUNTIME_SIZE`] addresses, one per function.
const RUNTIME_BASE: u64 = 1 << 62;
const RUNTIME_SIZE: u64 = 1 << 32;

/// A sample: a stack with its values.
pub struct Valued {
    /// The thread that was sampled.
    pub thread: NamedThread,
    /// The stack.
    pub stack: NodeIndex,
    /// Labels beyond those of the thread. They win over the thread's if keys are equal.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// One per sample type.
    pub values: Vec<i64>,
}

/// The tables that samples refer to.
pub struct Tables<'a> {
    /// The calling contexts.
    pub tree: &'a StackTree,
    /// The functions of the tree's frames, by frame index.
    pub resolved: &'a [Resolved],
    /// The mappings of [`Place::User`] frames.
    pub mappings: &'a BTreeMap<MappingId, Arc<Mapping>>,
    /// Runtimes, whose frames may have mappings of their own.
    pub runtimes: &'a Runtimes,
    /// The mapping of the first target's executable; it becomes the profile's first mapping.
    pub main: Option<MappingId>,
    /// Add `pid` and `process` to the labels.
    pub label_processes: bool,
}

/// Fills a builder with samples.
pub struct Assembler<'a> {
    tables: Tables<'a>,
    builder: ProfileBuilder,
    locations: Vec<Option<LocationIndex>>,
    mapping_index: BTreeMap<MappingId, MappingIndex>,
    stack: Vec<LocationIndex>,
    /// Files with nameless functions. Their mappings must not be marked as symbolized, or readers
    /// would not look for the names.
    nameless: BTreeSet<Arc<str>>,
}

impl<'a> Assembler<'a> {
    /// `builder` already has the profile's header.
    ///
    /// # Errors
    /// The profile exceeds what its format can hold.
    pub fn new(tables: Tables<'a>, builder: ProfileBuilder) -> Result<Self, BuildError> {
        let locations = vec![None; tables.tree.frames().len()];
        let mut this = Self {
            tables,
            builder,
            locations,
            mapping_index: BTreeMap::new(),
            stack: Vec::new(),
            nameless: BTreeSet::new(),
        };
        if let Some(main) = this.tables.main {
            this.mapping(main)?;
        }
        Ok(this)
    }

    fn add(&mut self, sample: &Valued) -> Result<(), BuildError> {
        let tree = self.tables.tree;
        let mut stack = std::mem::take(&mut self.stack);
        stack.clear();
        let mut callee = None;
        for frame in tree.stack(sample.stack) {
            let resolved = &self.tables.resolved[frame as usize];
            let elided = resolved.wrapper && !callee.is_some_and(is_panic);
            callee = resolved.functions.last().map(|f| &*f.name);
            if elided {
                continue;
            }
            stack.push(self.location(frame as usize, tree.frames()[frame as usize])?);
        }
        if stack.is_empty()
            && let Some(leaf) = tree.stack(sample.stack).next()
        {
            stack.push(self.location(leaf as usize, tree.frames()[leaf as usize])?);
        }
        let labels = labels(sample, self.tables.label_processes);
        self.builder.add_sample(&stack, &sample.values, &labels)?;
        self.stack = stack;
        Ok(())
    }

    /// Adds all samples and returns the profile.
    ///
    /// # Errors
    /// The profile exceeds what its format can hold.
    pub fn assemble(mut self, samples: &[Valued]) -> Result<Profile, BuildError> {
        for sample in samples {
            self.add(sample)?;
        }
        Ok(self.finish())
    }

    fn finish(self) -> Profile {
        let mut profile = self.builder.finish();
        for m in profile.mappings.iter_mut().filter(|m| self.nameless.contains(&m.file)) {
            m.has_functions = false;
            m.has_filenames = false;
            m.has_line_numbers = false;
            m.has_inline_frames = false;
        }
        profile
    }

    fn location(&mut self, index: usize, frame: FrameKey) -> Result<LocationIndex, BuildError> {
        if let Some(location) = self.locations[index] {
            return Ok(location);
        }
        let resolved = &self.tables.resolved[index];
        let mut lines = Vec::with_capacity(resolved.functions.len());
        for f in &resolved.functions {
            lines.push(self.line(f)?);
        }
        if let (true, Place::User(id)) = (resolved.nameless, frame.place)
            && let Some(m) = self.tables.mappings.get(&id)
        {
            self.nameless.insert(m.name.clone());
        }
        let (mapping, address) = self.place(frame)?;
        let location = self.builder.location(mapping, address, &lines)?;
        self.locations[index] = Some(location);
        Ok(location)
    }

    fn line(&mut self, f: &Function) -> Result<Line, BuildError> {
        let function = self.builder.function(FunctionSpec {
            name: &f.name,
            system_name: &f.system_name,
            filename: f.file.as_deref().unwrap_or_default(),
            start_line: i64::from(f.start_line),
        })?;
        Ok(Line { column: i64::from(f.column), ..Line::new(function, i64::from(f.line)) })
    }

    fn place(&mut self, frame: FrameKey) -> Result<(MappingIndex, u64), BuildError> {
        let at = frame.address.0;
        Ok(match frame.place {
            Place::User(id) | Place::Runtime { mapping: Some(id), .. }
                if self.tables.mappings.contains_key(&id) =>
            {
                (self.mapping(id)?, at)
            }
            Place::User(_) | Place::Runtime { mapping: Some(_), .. } | Place::Unmapped => {
                (self.whole("[unmapped]", 0, 1 << 63)?, at)
            }
            Place::Runtime { runtime, mapping: None, index } => {
                let start = RUNTIME_BASE + u64::from(runtime) * RUNTIME_SIZE;
                let file = self.tables.runtimes.mapping(runtime);
                (self.whole(file, start, start + RUNTIME_SIZE)?, start + u64::from(index))
            }
            Place::Kernel => (self.whole("[kernel.kallsyms]", 1 << 63, !(PAGE - 1))?, at),
            Place::Marker => (self.whole("[exoprof]", MARKER_BASE, 1 << 20)?, MARKER_BASE + at),
        })
    }

    fn whole(&mut self, file: &str, start: u64, limit: u64) -> Result<MappingIndex, BuildError> {
        self.builder.mapping(MappingSpec { start, limit, file, ..MappingSpec::default() })
    }

    fn mapping(&mut self, id: MappingId) -> Result<MappingIndex, BuildError> {
        if let Some(index) = self.mapping_index.get(&id) {
            return Ok(*index);
        }
        let Some(m) = self.tables.mappings.get(&id) else {
            return self.whole("[unmapped]", 0, 1 << 63);
        };
        let build_id = m.image.as_ref().map(|(i, _)| i.build_id_hex()).unwrap_or_default();
        let index = self.builder.mapping(MappingSpec {
            start: m.start.0,
            limit: m.end.0,
            offset: m.offset.0,
            file: &m.name,
            build_id: &build_id,
        })?;
        self.mapping_index.insert(id, index);
        Ok(index)
    }
}

/// Whether Go shows a wrapper that called this function (`elideWrapperCalling` in its
/// runtime/traceback.go).
fn is_panic(function: &str) -> bool {
    ["runtime.gopanic", "runtime.sigpanic", "runtime.panicwrap"].contains(&function)
}

/// A label that the program has set replaces ours of the same name.
fn labels(sample: &Valued, processes: bool) -> Vec<Label> {
    let thread = &sample.thread;
    let mut labels = vec![
        Label::text("thread", thread.name.clone()),
        Label::text("thread_id", thread.id.tid.to_string()),
    ];
    if let Some(container) = &thread.container {
        labels.push(Label::text("container", container.clone()));
    }
    if processes {
        labels.push(Label::text("pid", thread.id.pid.to_string()));
        labels.push(Label::text("process", thread.process.clone()));
    }
    labels.retain(|ours| sample.labels.iter().all(|(key, _)| *key != ours.key));
    labels.extend(sample.labels.iter().map(|(k, v)| Label::text(k.clone(), v.clone())));
    labels
}

/// The mapping of a process' executable.
pub fn main_mapping(space: &AddressSpace, exe: Option<&str>) -> Option<Arc<Mapping>> {
    let named = space.iter().find(|m| exe.is_some_and(|exe| &*m.name == exe));
    named.or_else(|| space.iter().find(|m| m.image.is_ok())).cloned()
}
