//! Reads code objects: the name, file and lines of the function that a frame executes.

use std::sync::Arc;

use image::{Avma, Memory, StructCopy};

use crate::lines::{Format, LineTable};
use crate::{FrameStyle, Layout, ReadError, text};

/// Bytes of a line table. Only generated code has larger ones; it is rejected.
const MAX_LINE_TABLE: u64 = 4 << 20;

/// The code of a function, method, class body or module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The qualified name (`Server.handle`) from 3.11 on, the unqualified name before.
    pub name: Arc<str>,
    /// The path of the source file as it was given to the compiler.
    pub file: Arc<str>,
    /// The first line of the definition.
    pub first_line: u32,
    style: FrameStyle,
    minor: u32,
    /// The address of the bytecode, for versions whose frames hold the address of an instruction.
    bytecode: u64,
    lines: LineTable,
    header: StructCopy,
}

impl Code {
    /// The line that a frame is on. `instruction` is the word at [`Layout::frame_instruction`] of
    /// the frame. `None` for code without a line.
    #[must_use]
    pub fn line(&self, instruction: u64) -> Option<u32> {
        let offset = match self.style {
            // `int f_lasti` and another int in one word; -1 before the first instruction.
            FrameStyle::Objects => match (instruction as u32).cast_signed() {
                ..0 => return Some(self.first_line),
                lasti if self.minor == 10 => u64::from(lasti.cast_unsigned()) * 2,
                lasti => u64::from(lasti.cast_unsigned()),
            },
            // The frame is being created.
            _ if instruction < self.bytecode => return Some(self.first_line),
            _ => instruction - self.bytecode,
        };
        self.lines.line(offset)
    }
}

/// Reads the code objects of one interpreter.
#[derive(Debug, Clone)]
pub struct CodeReader {
    layout: Layout,
    /// The address of `PyCode_Type`, if the image has its symbol.
    code_type: Option<Avma>,
}

impl CodeReader {
    /// A reader for an interpreter with this layout, whose `PyCode_Type` is at `code_type` if known.
    #[must_use]
    pub fn new(layout: Layout, code_type: Option<Avma>) -> Self {
        Self { layout, code_type }
    }

    /// Whether the code object at `at` is still the one that was read into `code`.
    #[must_use]
    pub fn is_unchanged<M: Memory + ?Sized>(&self, memory: &M, at: Avma, code: &Code) -> bool {
        self.header(memory, at).is_ok_and(|header| header == code.header)
    }

    /// The fields of a code object that never change, unlike its reference count, caches and
    /// (specializing) bytecode.
    fn header<M: Memory + ?Sized>(&self, memory: &M, at: Avma) -> Result<StructCopy, ReadError> {
        let l = &self.layout;
        let whole = StructCopy::read(memory, at, l.code_size())?;
        let fields =
            [l.object_type, l.code_name, l.code_file, l.code_lines, l.code_qualname, l.bytes_size];
        let of_version = fields.into_iter().filter(|f| Layout::has(*f));
        let mut bytes: Vec<u8> = of_version.flat_map(|f| whole.u64(f).to_le_bytes()).collect();
        bytes.extend(whole.u32(l.code_first_line).to_le_bytes());
        Ok(StructCopy::from(bytes))
    }

    /// Reads the code object at the address `at`.
    ///
    /// # Errors
    /// [`ReadError`] if it was freed or another object is in its place.
    pub fn read<M: Memory + ?Sized>(&self, memory: &M, at: Avma) -> Result<Code, ReadError> {
        let l = &self.layout;
        let block = StructCopy::read(memory, at, l.code_size())?;
        let of_type = Avma(block.u64(l.object_type));
        if self.code_type.is_some_and(|t| t != of_type) {
            return Err(ReadError::Implausible("an object is not a code object"));
        }
        let name_at = if Layout::has(l.code_qualname) { l.code_qualname } else { l.code_name };
        let name = text::read(memory, l, Avma(block.u64(name_at)))?;
        let file = text::read(memory, l, Avma(block.u64(l.code_file)))?;
        let first_line = block.u32(l.code_first_line);
        let bytes = self.bytes(memory, Avma(block.u64(l.code_lines)))?;
        let format = match l.minor {
            ..=9 => Format::Lnotab,
            10 => Format::Ranges,
            _ => Format::Locations,
        };
        let code = Code {
            name: name.into(),
            file: file.into(),
            first_line,
            style: l.style,
            minor: l.minor,
            bytecode: at.0.wrapping_add(l.code_bytes),
            lines: LineTable { format, bytes, first_line },
            header: self.header(memory, at)?,
        };
        // It may have been freed, and its memory reused, while it was read.
        if self.is_unchanged(memory, at, &code) {
            Ok(code)
        } else {
            Err(ReadError::Implausible("a code object changed while it was read"))
        }
    }

    fn bytes<M: Memory + ?Sized>(&self, memory: &M, at: Avma) -> Result<Vec<u8>, ReadError> {
        let l = &self.layout;
        let field =
            |offset| at.checked_add(offset).ok_or(ReadError::Implausible("an address overflows"));
        let size = memory.read_u64(field(l.bytes_size)?)?;
        if size > MAX_LINE_TABLE {
            return Err(ReadError::Implausible("a line table is larger than 4 MiB"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        memory.read(field(l.bytes_data)?, &mut bytes)?;
        Ok(bytes)
    }
}
