//! Recognizes a Python interpreter in a mapped image and finds its layout.

use image::{Avma, Bias, ElfImage, Memory, Svma, Unreadable};

use crate::layout::minor_of_hex;
use crate::{CodeReader, Layout};

/// `_Py_Debug_Cookie`, with which `_PyRuntime` begins from 3.13 on.
const COOKIE: &[u8; 8] = b"xdebugpy";
/// Words of the table of offsets (`_Py_DebugOffsets`) that are read: more than any version has.
const DEBUG_WORDS: usize = 128;

/// Why the frames of an interpreter cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// The memory of `_PyRuntime` or `Py_Version` cannot be read.
    #[error("cannot read the state of the Python interpreter: {0}")]
    Unreadable(#[from] Unreadable),
    /// Neither a symbol nor the file name states the version.
    #[error("the version of the Python interpreter is unknown")]
    NoVersion,
    /// The layout of this version is unknown.
    #[error("Python 3.{0} is not supported")]
    UnknownVersion(u32),
    /// A free-threaded build (3.13t and later), whose layout differs.
    #[error("free-threaded Python 3.{0} is not supported")]
    FreeThreaded(u32),
}

/// A Python interpreter in a process.
#[derive(Debug, Clone)]
pub struct Runtime {
    layout: Layout,
    address: Avma,
    code_type: Option<Avma>,
    evaluation: Vec<(Avma, Avma)>,
}

#[derive(Default)]
struct Symbols {
    runtime: Option<Svma>,
    version: Option<Svma>,
    code_type: Option<Svma>,
    evaluation: Vec<(Svma, u64)>,
}

impl Runtime {
    /// Looks for an interpreter in an image that is mapped with `bias` from the file `file_name` (a
    /// path or a name). `Ok(None)` if the image is not a Python interpreter.
    ///
    /// # Errors
    /// [`FindError`] for an interpreter whose frames cannot be read.
    pub fn find<M: Memory + ?Sized>(
        image: &ElfImage,
        bias: Bias,
        memory: &M,
        file_name: &str,
    ) -> Result<Option<Self>, FindError> {
        let section = image.section(".PyRuntime").map(|s| s.svma);
        if section.is_none() && !may_be_python(file_name) {
            return Ok(None);
        }
        let mut symbols = Symbols::default();
        symbols.add_table(image, ".dynsym", ".dynstr");
        symbols.add_table(image, ".symtab", ".strtab");
        let Some(at) = section.or(symbols.runtime) else { return Ok(None) };
        let address = bias.to_avma(at);
        let layout = match debug_offsets(memory, address)? {
            Some(words) => {
                let minor = words.get(1).copied().and_then(minor_of_hex);
                let minor = minor.ok_or(FindError::NoVersion)?;
                if words.get(2) != Some(&0) {
                    return Err(FindError::FreeThreaded(minor));
                }
                Layout::of_debug_offsets(&words).ok_or(FindError::UnknownVersion(minor))?
            }
            None => {
                let version = symbols.version.map(|at| memory.read_u32(bias.to_avma(at)));
                let version = version.transpose()?.and_then(|hex| minor_of_hex(u64::from(hex)));
                let minor = version.or_else(|| minor_of_name(file_name));
                let minor = minor.ok_or(FindError::NoVersion)?;
                Layout::of_minor(minor).ok_or(FindError::UnknownVersion(minor))?
            }
        };
        let range = |(at, size): &(Svma, u64)| {
            let start = bias.to_avma(*at);
            (start, start.wrapping_add(*size))
        };
        Ok(Some(Self {
            layout,
            address,
            code_type: symbols.code_type.map(|at| bias.to_avma(at)),
            evaluation: symbols.evaluation.iter().map(range).collect(),
        }))
    }

    /// The field offsets of this interpreter.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The address of `_PyRuntime`.
    #[must_use]
    pub fn address(&self) -> Avma {
        self.address
    }

    /// Whether `at` is in the evaluation loop (`_PyEval_EvalFrameDefault`), as far as symbols show.
    /// A stripped program lacks the symbols of parts that the compiler moved away (`.cold`).
    #[must_use]
    pub fn evaluates(&self, at: Avma) -> bool {
        self.evaluation.iter().any(|(start, end)| *start <= at && at < *end)
    }

    /// A reader of the interpreter's code objects.
    #[must_use]
    pub fn code_reader(&self) -> CodeReader {
        CodeReader::new(self.layout.clone(), self.code_type)
    }
}

impl Symbols {
    fn add_table(&mut self, image: &ElfImage, table: &str, strings: &str) {
        // A value of 0 is an import.
        for symbol in image.symbols(table, strings).filter(|s| s.value.0 != 0) {
            if symbol.is_named(b"_PyRuntime") {
                self.runtime = Some(symbol.value);
            } else if symbol.is_named(b"Py_Version") {
                self.version = Some(symbol.value);
            } else if symbol.is_named(b"PyCode_Type") {
                self.code_type = Some(symbol.value);
            } else if symbol.starts_with(b"_PyEval_EvalFrameDefault") {
                self.evaluation.push((symbol.value, symbol.size));
            }
        }
    }
}

fn debug_offsets<M: Memory + ?Sized>(memory: &M, at: Avma) -> Result<Option<Vec<u64>>, Unreadable> {
    let mut bytes = [0; 8 * DEBUG_WORDS];
    memory.read(at, &mut bytes[..8])?;
    if bytes[..8] != *COOKIE {
        return Ok(None);
    }
    memory.read(at, &mut bytes)?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(Some(words.iter().map(|w| u64::from_le_bytes(*w)).collect()))
}

/// Whether the file name looks like an interpreter's: `/usr/bin/python3.9`, `libpython3.11.so.1.0`.
/// Only such images are searched for `_PyRuntime`, unless they have its section (3.13 and later).
fn may_be_python(file_name: &str) -> bool {
    file_name.rsplit('/').next().is_some_and(|name| name.contains("python"))
}

/// The minor version in a file name: 11 for `libpython3.11.so.1.0`, 9 for `python3.9`.
fn minor_of_name(file_name: &str) -> Option<u32> {
    let name = file_name.rsplit('/').next()?;
    let (_, rest) = name.split_once("python3.")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_state_the_version() {
        for (name, minor) in [
            ("/usr/lib/libpython3.11.so.1.0", Some(11)),
            ("/usr/bin/python3.9", Some(9)),
            ("/usr/bin/python3", None),
            ("/usr/bin/python3.x", None),
            ("/python3.11/bash", None),
        ] {
            assert_eq!(minor_of_name(name), minor, "{name}");
        }
        assert!(may_be_python("/usr/bin/python3") && !may_be_python("/python3/bash"));
    }
}
