//! Builds pprof profiles from Go stacks, in the same form as Go's own runtime/pprof.

use std::sync::Arc;

use goruntime::LogicalFrame;
use pprof::{
    BuildError, FunctionSpec, KindFacts, Label, Line, LocationIndex, MappingIndex, MappingSpec,
    Profile, ProfileBuilder, ValueType,
};

use super::program::Program;

/// The first address of frames that stand for something other than code (markers).
const MARKER_BASE: u64 = 0x1000;

/// Fills a builder with samples of Go programs.
pub(crate) struct GoProfile {
    builder: ProfileBuilder,
    stack: Vec<LocationIndex>,
    /// Add `pid` and `process` labels, because there are several processes.
    label_processes: bool,
    /// The names of markers. Each has its own address.
    markers: Vec<String>,
    /// The mappings added so far, with their PIDs: a cache, since each frame looks up its mapping.
    mappings: Vec<(i32, Arc<image::Mapping>, MappingIndex)>,
}

impl GoProfile {
    pub fn new(kind: &KindFacts, period: i64, label_processes: bool) -> Self {
        let value = |(name, unit): &(&str, &str)| ValueType::new(*name, *unit);
        let mut builder = ProfileBuilder::new(kind.sample_types.iter().map(value).collect());
        builder.set_period(value(&kind.period_type), period);
        if let Some(default) = kind.default_sample_type {
            builder.set_default_sample_type(default);
        }
        Self {
            builder,
            stack: Vec::new(),
            label_processes,
            markers: Vec::new(),
            mappings: Vec::new(),
        }
    }

    pub fn builder(&mut self) -> &mut ProfileBuilder {
        &mut self.builder
    }

    /// Adds the mapping of a program's executable. The first one that is added is the profile's
    /// main mapping.
    pub fn add_program(&mut self, program: &Program) -> Result<(), BuildError> {
        self.mapping(program, program.main.start.0).map(drop)
    }

    /// Adds a stack. `runtime.goexit`, the root of every stack, is omitted as in Go. If the stack
    /// is empty then, it gets a single marker frame with the name `otherwise`.
    pub fn add_or(
        &mut self,
        program: &Program,
        frames: &[LogicalFrame<'_>],
        values: &[i64],
        mut labels: Vec<Label>,
        otherwise: &str,
    ) -> Result<(), BuildError> {
        let mut stack = std::mem::take(&mut self.stack);
        stack.clear();
        for piece in LogicalFrame::locations(frames) {
            if piece.first().is_some_and(|f| f.function != "runtime.goexit") {
                stack.push(self.location(program, piece)?);
            }
        }
        if stack.is_empty() {
            stack.push(self.marker(otherwise)?);
        }
        if self.label_processes {
            let process = &program.process;
            for (key, value) in
                [("pid", process.pid().to_string()), ("process", process.identity().comm.clone())]
            {
                if labels.iter().all(|l| &*l.key != key) {
                    labels.push(Label::text(key, value));
                }
            }
        }
        self.builder.add_sample(&stack, values, &labels)?;
        self.stack = stack;
        Ok(())
    }

    pub fn finish(self) -> Profile {
        self.builder.finish()
    }

    fn location(
        &mut self,
        program: &Program,
        piece: &[LogicalFrame<'_>],
    ) -> Result<LocationIndex, BuildError> {
        let mut lines = Vec::with_capacity(piece.len());
        for f in piece {
            let (file, line) = f.position.as_ref().map_or(("", 0), |(file, line)| (file, *line));
            // Go itself writes the full name, including type arguments, to both fields.
            let function = self.builder.function(FunctionSpec {
                name: &f.function,
                system_name: &f.function,
                filename: file,
                start_line: i64::from(f.start_line.unwrap_or(0)),
            })?;
            lines.push(Line::new(function, i64::from(line)));
        }
        let address = piece.first().map_or(0, |f| f.pc.0);
        let mapping = self.mapping(program, address)?;
        self.builder.location(mapping, address, &lines)
    }

    /// Adds a frame that stands for something other than code.
    fn marker(&mut self, name: &str) -> Result<LocationIndex, BuildError> {
        let function = self.builder.function(FunctionSpec {
            name,
            system_name: name,
            filename: "",
            start_line: 0,
        })?;
        let known = self.markers.iter().position(|m| m == name).unwrap_or_else(|| {
            self.markers.push(name.to_owned());
            self.markers.len() - 1
        });
        let limit = MARKER_BASE + (1 << 20);
        let spec =
            MappingSpec { start: MARKER_BASE, limit, file: "[exoprof]", ..MappingSpec::default() };
        let mapping = self.builder.mapping(spec)?;
        let address = MARKER_BASE + known as u64;
        self.builder.location(mapping, address, &[Line::new(function, 0)])
    }

    fn mapping(&mut self, program: &Program, address: u64) -> Result<MappingIndex, BuildError> {
        let Some(m) = program.mapping_at(image::Avma(address)) else {
            return self.builder.mapping(MappingSpec {
                limit: 1 << 63,
                file: "[unmapped]",
                ..MappingSpec::default()
            });
        };
        let pid = program.process.pid();
        let known = self.mappings.iter().find(|(of, known, _)| *of == pid && Arc::ptr_eq(known, m));
        if let Some((.., index)) = known {
            return Ok(*index);
        }
        let build_id = m.image.as_ref().map(|(i, _)| i.build_id_hex()).unwrap_or_default();
        let index = self.builder.mapping(MappingSpec {
            start: m.start.0,
            limit: m.end.0,
            offset: m.offset.0,
            file: &m.name,
            build_id: &build_id,
        })?;
        self.mappings.push((pid, m.clone(), index));
        Ok(index)
    }
}
