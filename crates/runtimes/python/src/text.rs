//! Reads strings (PEP 393): a header, then one, two or four bytes per character.

use image::{Avma, Memory, StructCopy};

use crate::{Layout, ReadError};

/// Longer names and paths are truncated.
const MAX_CHARACTERS: u64 = 4096;

/// Reads the `str` object at `at`.
pub(crate) fn read<M: Memory + ?Sized>(
    memory: &M,
    layout: &Layout,
    at: Avma,
) -> Result<String, ReadError> {
    let size = layout.text_ascii.max(layout.text_state + 8).min(4096);
    let header = StructCopy::read(memory, at, usize::try_from(size).unwrap_or(0))?;
    let state = header.u32(layout.text_state) >> 2;
    let (kind, compact, ascii) = (state & 7, state >> 3 & 1 == 1, state >> 4 & 1 == 1);
    if !compact || !matches!(kind, 1 | 2 | 4) {
        return Err(ReadError::Implausible("a name is not a compact string"));
    }
    let length = header.u64(layout.text_length).min(MAX_CHARACTERS);
    let offset = if ascii { layout.text_ascii } else { layout.text_compact };
    let from =
        at.checked_add(offset).ok_or(ReadError::Implausible("the address of a name overflows"))?;
    let mut bytes = vec![0; usize::try_from(length * u64::from(kind)).unwrap_or(0)];
    memory.read(from, &mut bytes)?;
    let character = |code: u32| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    Ok(match kind {
        1 => bytes.into_iter().map(char::from).collect(),
        2 => bytes
            .chunks_exact(2)
            .map(|c| character(u32::from(u16::from_le_bytes([c[0], c[1]]))))
            .collect(),
        _ => bytes
            .chunks_exact(4)
            .map(|c| character(u32::from_le_bytes([c[0], c[1], c[2], c[3]])))
            .collect(),
    })
}
