//! Names the linker's PLT stubs, which have no symbols: `memcpy@plt`.
//!
//! A stub jumps through a slot, and the relocation of that slot names the function. The slot is
//! read from the stub's instructions, which works for all layouts of linkers (`.plt`, `.plt.sec`,
//! `.plt.got`, with and without endbr64 and bnd); counting stubs does not.

use image::{Arch, ElfImage, Section};
use rustc_hash::FxHashMap;

/// `sizeof(Elf64_Rela)`, and `sizeof(Elf64_Sym)`, too.
const ROW: usize = 24;
const MAX_NAME: usize = 4096;

/// A stub: its name, `memcpy@plt`, and its address in the image.
#[derive(Debug, Clone)]
pub(crate) struct Stub {
    pub(crate) name: String,
    pub(crate) start: u64,
}

/// The stubs at the addresses, in their order.
pub(crate) fn resolve(image: &ElfImage, addresses: &[u64]) -> Vec<Option<Stub>> {
    let found: Vec<Option<(u64, PltSlot)>> = addresses.iter().map(|&a| stub_at(image, a)).collect();
    let mut names: FxHashMap<PltSlot, Option<String>> =
        found.iter().flatten().map(|(_, slot)| (*slot, None)).collect();
    if !names.is_empty() {
        for section in [".rela.plt", ".rela.dyn"] {
            read_relocations(image, section, &mut names);
        }
    }
    let stub = |(start, slot): (u64, PltSlot)| {
        let name = names.get(&slot)?.clone()?;
        Some(Stub { name, start })
    };
    found.into_iter().map(|f| f.and_then(stub)).collect()
}

/// How a stub identifies its relocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PltSlot {
    /// By the address of the slot that it jumps through.
    At(u64),
    /// By the row in `.rela.plt`, which it pushes for the dynamic linker.
    Row(u32),
}

fn stub_at(image: &ElfImage, address: u64) -> Option<(u64, PltSlot)> {
    let (section, entry) = [(".plt", 16), (".plt.sec", 16), (".plt.got", 16), (".plt.got", 8)]
        .into_iter()
        .filter_map(|(name, entry)| Some((image.section(name)?, entry)))
        .find(|(s, entry)| {
            let inside = address.checked_sub(s.svma.0).is_some_and(|o| o < s.size);
            inside && slot(image.arch(), s, address, *entry).is_some()
        })?;
    slot(image.arch(), &section, address, entry)
}

fn slot(arch: Arch, section: &Section<'_>, address: u64, entry: u64) -> Option<(u64, PltSlot)> {
    let index = address.checked_sub(section.svma.0)? / entry;
    let offset = match arch {
        Arch::X86_64 => index * entry,
        // The first stub is twice as large as the others.
        Arch::Aarch64 if index >= 2 => index * entry,
        Arch::Aarch64 => return None,
    };
    let start = section.svma.0.checked_add(offset)?;
    let from = usize::try_from(offset).ok()?;
    let code = section.data.get(from..)?;
    let code = &code[..code.len().min(entry as usize)];
    let slot = match arch {
        Arch::X86_64 => x86_slot(code, start),
        Arch::Aarch64 => arm_slot(code, start),
    }?;
    Some((start, slot))
}

/// `[endbr64] [bnd] jmp *disp32(%rip)`, or the lazy half `[endbr64] push imm32`.
fn x86_slot(code: &[u8], start: u64) -> Option<PltSlot> {
    let mut rest = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    if let [0x68, a, b, c, d, ..] = rest {
        return Some(PltSlot::Row(u32::from_le_bytes([*a, *b, *c, *d])));
    }
    rest = rest.strip_prefix(&[0xf2]).unwrap_or(rest);
    let [0xff, 0x25, a, b, c, d, after @ ..] = rest else { return None };
    let displacement = i64::from(i32::from_le_bytes([*a, *b, *c, *d]));
    let next = start.wrapping_add((code.len() - after.len()) as u64);
    Some(PltSlot::At(next.wrapping_add_signed(displacement)))
}

/// `[bti c] adrp x16, page; ldr x17, [x16, #offset]`.
fn arm_slot(code: &[u8], start: u64) -> Option<PltSlot> {
    let word = |i: usize| Some(u32::from_le_bytes(code.get(i..i + 4)?.try_into().ok()?));
    let at = if word(0)? == 0xd503_245f { 4 } else { 0 };
    let (adrp, ldr) = (word(at)?, word(at + 4)?);
    if adrp & 0x9f00_001f != 0x9000_0010 || ldr & 0xffc0_03ff != 0xf940_0211 {
        return None;
    }
    let page = i64::from(((adrp >> 5 & 0x7_ffff) << 2 | adrp >> 29 & 3) as i32) << 43 >> 31;
    let base = start.wrapping_add(at as u64) & !0xfff;
    Some(PltSlot::At(base.wrapping_add_signed(page).wrapping_add(u64::from(ldr >> 10 & 0xfff) * 8)))
}

fn read_relocations(image: &ElfImage, name: &str, wanted: &mut FxHashMap<PltSlot, Option<String>>) {
    let Some(section) = image.section(name) else { return };
    for (row, raw) in section.data.chunks_exact(ROW).enumerate() {
        let word = |i: usize| {
            let mut b = [0; 8];
            b.copy_from_slice(&raw[i..i + 8]);
            u64::from_le_bytes(b)
        };
        let by_row = (name == ".rela.plt").then(|| u32::try_from(row).ok()).flatten();
        for slot in [Some(PltSlot::At(word(0))), by_row.map(PltSlot::Row)].into_iter().flatten() {
            if let Some(found @ None) = wanted.get_mut(&slot) {
                let symbol = word(8) >> 32;
                *found = match symbol {
                    // An indirect function of this file, written as binutils do.
                    0 if word(16) != 0 => Some(format!("*ABS*+{:#x}@plt", word(16))),
                    0 => None,
                    n => dynamic_name(image, n).map(|n| format!("{n}@plt")),
                };
            }
        }
    }
}

fn dynamic_name(image: &ElfImage, index: u64) -> Option<String> {
    let at = usize::try_from(index).ok()?.checked_mul(ROW)?;
    let raw = image.section(".dynsym")?.data.get(at..at.checked_add(4)?)?;
    let name = u32::from_le_bytes(raw.try_into().ok()?) as usize;
    let rest = image.section(".dynstr")?.data.get(name..)?;
    let end = rest.iter().take(MAX_NAME).position(|&b| b == 0)?;
    (end > 0).then(|| String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_slot_from_all_forms_of_stubs() {
        let jmp = [0xff, 0x25, 0x10, 0, 0, 0, 0x68, 0, 0, 0, 0];
        assert_eq!(x86_slot(&jmp, 0x1000), Some(PltSlot::At(0x1016)));
        let sec = [0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0xf0, 0xff, 0xff, 0xff, 0x90];
        assert_eq!(x86_slot(&sec, 0x1000), Some(PltSlot::At(0x100b - 0x10)));
        let lazy = [0xf3, 0x0f, 0x1e, 0xfa, 0x68, 7, 0, 0, 0];
        assert_eq!(x86_slot(&lazy, 0x1000), Some(PltSlot::Row(7)));
        // The first stub: push 8(%rip); jmp *16(%rip).
        assert_eq!(x86_slot(&[0xff, 0x35, 2, 0x2f, 0, 0, 0xff, 0x25], 0x1000), None);
        assert_eq!(x86_slot(&[], 0), None);
        // adrp x16, 0x20000 from 0x10000; ldr x17, [x16, #8]
        let arm = [0x90000090u32.to_le_bytes(), 0xf9400611u32.to_le_bytes()].concat();
        assert_eq!(arm_slot(&arm, 0x10000), Some(PltSlot::At(0x20008)));
        // adrp x16, one page down.
        let arm = [0xf0fffff0u32.to_le_bytes(), 0xf9400211u32.to_le_bytes()].concat();
        assert_eq!(arm_slot(&arm, 0x10000), Some(PltSlot::At(0xf000)));
    }
}
