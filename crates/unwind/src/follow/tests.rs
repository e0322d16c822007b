//! What code says, against what tables say: of all instructions of a C library that has tables.

use std::fs::File;
use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use image::{ElfImage, Svma};

use super::*;
use crate::cfi::{Fde, Frames, ImageCfi, Lookup};
use crate::rule::Rule;
use crate::tables::Tables;
use crate::x86_64::X86_64;

/// How many places there are of which the code says…
#[derive(Debug, Default)]
struct Tally {
    /// …the same CFA as the tables,
    right: u64,
    /// the CFA by another register, which need not be wrong,
    other: u64,
    /// another CFA,
    wrong: u64,
    /// nothing, or more than one thing;
    unknown: u64,
    /// and of the right ones, registers that are elsewhere than the tables say.
    registers: u64,
}

/// The functions of an image that has tables, as they tell.
fn functions<A: Arch>(image: &Arc<ElfImage>) -> Vec<(Svma, usize)> {
    let cfi = ImageCfi::new(Arc::clone(image), A::VENDOR);
    let text = image.section(".text").unwrap();
    let (mut at, end) = (text.svma, text.svma.wrapping_add(text.size));
    let mut found = Vec::new();
    let range = |fde: &Fde<'_>, _: Frames<'_>| Some((fde.initial_address(), fde.len()));
    while at < end {
        if let Lookup::Found((start, length)) = cfi.with_fde(at, A::VENDOR, range) {
            found.push((Svma(start), usize::try_from(length).unwrap()));
            at = at.max(Svma(start + length - 1));
        }
        at = at.wrapping_add(1);
    }
    found
}

/// The instructions of a function that may be executed: what fills up behind a jump is not.
fn instructions(code: &[u8], at: Svma) -> Vec<Instruction> {
    let mut ends = false;
    let decoder = Decoder::with_ip(64, code, at.0, DecoderOptions::NONE);
    let executed = |instruction: &Instruction| {
        let fills = ends && instruction.mnemonic() == Mnemonic::Nop;
        ends = fills || matches!(instruction.mnemonic(), Mnemonic::Ret | Mnemonic::Jmp);
        !fills
    };
    decoder.into_iter().filter(executed).collect()
}

fn compare<A: Arch>(image: &Arc<ElfImage>, pcs: &[Svma], exact: bool) -> Tally {
    let (mut tables, mut follower) = (Tables::new(), Follower::new());
    let index = tables.image::<A>(image);
    let mut tally = Tally::default();
    for pc in pcs {
        follower.next_stack();
        let Rule::Narrow(table) = tables.rule::<A>(index, *pc, exact) else { continue };
        match &follower.follow::<A>((image, 0), *pc, exact).ways[..] {
            [way] if way.cfa_register != table.cfa_register => tally.other += 1,
            [way] if way.cfa_offset != table.cfa_offset => tally.wrong += 1,
            [way] => {
                tally.right += 1;
                let pairs = way.saved.iter().zip(table.saved).take(A::SAVED.len());
                tally.registers +=
                    pairs.filter(|(code, table)| **code != LOST && *code != table).count() as u64;
            }
            _ => tally.unknown += 1,
        }
    }
    tally
}

/// The C library that this test runs with.
fn libc() -> Arc<ElfImage> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let path = path.into_iter().find(|path| path.ends_with("/libc.so.6")).unwrap();
    Arc::new(ElfImage::open(&File::open(path).unwrap()).unwrap())
}

#[test]
fn code_agrees_with_tables() {
    let image = libc();
    let all: Vec<Instruction> = functions::<X86_64>(&image)
        .into_iter()
        .flat_map(|(at, length)| instructions(&image.bytes_at(at).unwrap()[..length], at))
        .collect();

    let calls = all.iter().filter(|i| i.mnemonic() == Mnemonic::Call);
    let returns: Vec<Svma> = calls.map(|i| Svma(i.next_ip())).collect();
    let returns = compare::<X86_64>(&image, &returns, false);
    // A tenth of the instructions: all take ten seconds.
    let leaves: Vec<Svma> = all.iter().step_by(10).map(|i| Svma(i.ip())).collect();
    let leaves = compare::<X86_64>(&image, &leaves, true);
    // Calls that do not return, but go through the linker's table; `vfprintf`, which jumps by a table
    // of its own; functions that never return. Where registers differ, the code has not yet changed
    // them, or has put them back, and tables go on to name their slots.
    for (tally, wrong) in [(&returns, 0.005), (&leaves, 0.01)] {
        let of_all =
            |n: u64| n as f64 / (tally.right + tally.other + tally.wrong + tally.unknown) as f64;
        assert!(of_all(tally.wrong) < wrong, "{tally:?}");
        assert!(of_all(tally.right) > 0.8, "{tally:?}");
    }
    assert!(returns.right > 5_000 && leaves.right > 20_000, "{returns:?} {leaves:?}");
    assert_eq!(returns.registers, 0, "{returns:?}");
}
