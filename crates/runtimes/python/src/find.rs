//! Recognizing an interpreter in an image.

use image::{Avma, Bias, ElfImage, Memory, Svma, Unreadable};

use crate::layout::minor_of_hex;
use crate::{CodeReader, Layout};

/// `_Py_Debug_Cookie`.
const COOKIE: &[u8; 8] = b"xdebugpy";
/// Words of the table of offsets that are looked at: more than any version has.
const DEBUG_WORDS: usize = 128;
/// More symbols than any program has.
const MAX_SYMBOLS: usize = 4 << 20;

/// Why an interpreter cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Its memory cannot be read.
    #[error("the interpreter's state: {0}")]
    Unreadable(#[from] Unreadable),
    /// Only its file name and symbols could tell, and they do not.
    #[error("a Python interpreter of unknown version")]
    NoVersion,
    /// A version that nobody has looked at yet.
    #[error("Python 3.{0} is not known")]
    UnknownVersion(u32),
    /// Its threads use the same code at the same time (3.13t and later).
    #[error("Python 3.{0} without global lock is not known")]
    FreeThreaded(u32),
}

/// An interpreter in a process.
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
    /// Looks for an interpreter in an image that is mapped with this bias from a file of this
    /// name. `Ok(None)` for all other images.
    ///
    /// # Errors
    /// [`FindError`] for an interpreter that cannot be followed.
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
        symbols.look(image, ".dynsym", ".dynstr");
        symbols.look(image, ".symtab", ".strtab");
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
                let stated = symbols.version.map(|at| memory.read_u32(bias.to_avma(at)));
                let stated = stated.transpose()?.and_then(|hex| minor_of_hex(u64::from(hex)));
                let minor = stated.or_else(|| minor_of_name(file_name));
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

    /// Where the fields are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where `_PyRuntime` lies.
    #[must_use]
    pub fn address(&self) -> Avma {
        self.address
    }

    /// Whether the address lies in the evaluation loop, as far as symbols tell: in a stripped
    /// program not in those parts that the compiler has put elsewhere.
    #[must_use]
    pub fn evaluates(&self, at: Avma) -> bool {
        self.evaluation.iter().any(|(start, end)| *start <= at && at < *end)
    }

    /// What reads its code objects.
    #[must_use]
    pub fn code_reader(&self) -> CodeReader {
        CodeReader::new(self.layout.clone(), self.code_type)
    }
}

impl Symbols {
    fn look(&mut self, image: &ElfImage, table: &str, strings: &str) {
        let (Some(symbols), Some(strings)) = (image.section(table), image.section(strings)) else {
            return;
        };
        // Elf64_Sym: name u32, info u8, other u8, section u16, value u64, size u64.
        for symbol in symbols.data.chunks_exact(24).take(MAX_SYMBOLS) {
            let name = u32::from_le_bytes([symbol[0], symbol[1], symbol[2], symbol[3]]) as usize;
            let Some(text) = strings.data.get(name..) else { continue };
            if !text.starts_with(b"_Py") && !text.starts_with(b"Py") {
                continue;
            }
            let text = text.split(|b| *b == 0).next().unwrap_or_default();
            let word = |at: usize| symbol[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
            let (value, size) = (Svma(word(8)), word(16));
            match text {
                _ if value.0 == 0 => {}
                b"_PyRuntime" => self.runtime = Some(value),
                b"Py_Version" => self.version = Some(value),
                b"PyCode_Type" => self.code_type = Some(value),
                _ if text.starts_with(b"_PyEval_EvalFrameDefault") => {
                    self.evaluation.push((value, size));
                }
                _ => {}
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

/// Only such images are searched for `_PyRuntime`: `/usr/bin/python3.9`, `libpython3.11.so.1.0`.
/// From 3.13 on a section of its own tells.
fn may_be_python(file_name: &str) -> bool {
    file_name.rsplit('/').next().is_some_and(|name| name.contains("python"))
}

/// `libpython3.11.so.1.0`, `python3.9`, `python3.12-config`: 11, 9, 12.
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
    fn versions_of_file_names() {
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
