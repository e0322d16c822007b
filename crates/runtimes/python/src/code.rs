//! Code objects: what a frame executes.

use std::sync::Arc;

use image::{Avma, Memory};

use crate::lines::{Format, LineTable};
use crate::raw::Block;
use crate::{FrameStyle, Layout, ReadError, text};

/// Larger line tables are those of generated code; lines are then not told.
const MAX_LINE_TABLE: u64 = 4 << 20;

/// A function, method, class body or module as it was compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The qualified name (`Server.handle`) from 3.11 on, the name alone before.
    pub name: Arc<str>,
    /// The file as the compiler was told.
    pub file: Arc<str>,
    /// The line that it begins on.
    pub first_line: u32,
    style: FrameStyle,
    minor: u32,
    /// Where the bytecode begins, where instructions are told by address.
    bytecode: u64,
    lines: LineTable,
    header: Block,
}

impl Code {
    /// The line of a frame by its instruction word; `None` for code that belongs to no line.
    #[must_use]
    pub fn line(&self, instruction: u64) -> Option<u32> {
        let offset = match self.style {
            // `int f_lasti`, followed by another int; -1 before the first instruction.
            FrameStyle::Objects => match (instruction as u32).cast_signed() {
                ..0 => return Some(self.first_line),
                lasti if self.minor == 10 => u64::from(lasti.cast_unsigned()) * 2,
                lasti => u64::from(lasti.cast_unsigned()),
            },
            // One before the first while the frame is made.
            _ if instruction < self.bytecode => return Some(self.first_line),
            _ => instruction - self.bytecode,
        };
        self.lines.line(offset)
    }
}

/// Reads code objects.
#[derive(Debug, Clone)]
pub struct CodeReader {
    layout: Layout,
    /// `PyCode_Type`, where the image names it.
    code_type: Option<Avma>,
}

impl CodeReader {
    pub(crate) fn new(layout: Layout, code_type: Option<Avma>) -> Self {
        Self { layout, code_type }
    }

    /// Whether a code object is still what it was when it was read.
    #[must_use]
    pub fn is_unchanged<M: Memory + ?Sized>(&self, memory: &M, at: Avma, code: &Code) -> bool {
        self.header(memory, at).is_ok_and(|header| header == code.header)
    }

    /// What of a code object never changes: not its count of references, its caches or its
    /// bytecode, which specializes itself.
    fn header<M: Memory + ?Sized>(&self, memory: &M, at: Avma) -> Result<Block, ReadError> {
        let l = &self.layout;
        let whole = Block::read(memory, at, l.code_size())?;
        let fields =
            [l.object_type, l.code_name, l.code_file, l.code_lines, l.code_qualname, l.bytes_size];
        let of_version = fields.into_iter().filter(|f| Layout::has(*f));
        let mut words: Vec<u64> = of_version.map(|f| whole.u64(f)).collect();
        words.push(u64::from(whole.u32(l.code_first_line)));
        Ok(Block::of_words(&words))
    }

    /// Reads the code object at an address.
    ///
    /// # Errors
    /// [`ReadError`]: it is gone, or something else is in its place.
    pub fn read<M: Memory + ?Sized>(&self, memory: &M, at: Avma) -> Result<Code, ReadError> {
        let l = &self.layout;
        let block = Block::read(memory, at, l.code_size())?;
        let of_type = Avma(block.u64(l.object_type));
        if self.code_type.is_some_and(|t| t != of_type) {
            return Err(ReadError::Implausible("an object that is no code"));
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
        // Freed and used again while it was read?
        if self.is_unchanged(memory, at, &code) {
            Ok(code)
        } else {
            Err(ReadError::Implausible("a code object that changes"))
        }
    }

    fn bytes<M: Memory + ?Sized>(&self, memory: &M, at: Avma) -> Result<Vec<u8>, ReadError> {
        let l = &self.layout;
        let field = |offset| at.checked_add(offset).ok_or(ReadError::Implausible("an address"));
        let size = memory.read_u64(field(l.bytes_size)?)?;
        if size > MAX_LINE_TABLE {
            return Err(ReadError::Implausible("a line table of more than 4 MiB"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        memory.read(field(l.bytes_data)?, &mut bytes)?;
        Ok(bytes)
    }
}
