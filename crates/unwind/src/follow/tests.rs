//! Compares rules found by following code with those of tables, for a C library that has tables.

use std::fs::File;
use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use image::{ElfImage, Svma};

use super::*;
use crate::cfi::{Fde, Frames, ImageCfi, Lookup};
use crate::rule::Rule;
use crate::tables::Tables;
use crate::x86_64::X86_64;

/// Number of addresses, by the result of following the code.
#[derive(Debug, Default)]
struct Tally {
    /// The CFA of the tables.
    right: u64,
    /// A CFA by another register, which may be right, too.
    other: u64,
    /// Another CFA.
    wrong: u64,
    /// No result, or more than one.
    unknown: u64,
    /// Registers, at the right addresses, whose slots differ from the tables.
    registers: u64,
}

/// The functions of an image (start, length), according to its tables.
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

/// The instructions of a function without the padding after jumps.
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
        match &follower.follow::<A>((image, 0), *pc, exact).rules[..] {
            [rule] if rule.cfa_register != table.cfa_register => tally.other += 1,
            [rule] if rule.cfa_offset != table.cfa_offset => tally.wrong += 1,
            [rule] => {
                tally.right += 1;
                let pairs = rule.saved.iter().zip(table.saved).take(A::SAVED.len());
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
fn rules_found_in_code_agree_with_tables() {
    let image = libc();
    let all: Vec<Instruction> = functions::<X86_64>(&image)
        .into_iter()
        .flat_map(|(at, length)| instructions(&image.bytes_at(at).unwrap()[..length], at))
        .collect();

    let calls = all.iter().filter(|i| i.mnemonic() == Mnemonic::Call);
    let returns: Vec<Svma> = calls.map(|i| Svma(i.next_ip())).collect();
    let returns = compare::<X86_64>(&image, &returns, false);
    // Every tenth instruction: all of them take ten seconds.
    let leaves: Vec<Svma> = all.iter().step_by(10).map(|i| Svma(i.ip())).collect();
    let leaves = compare::<X86_64>(&image, &leaves, true);
    // Wrong ones: calls through the linker's table that do not return; `vfprintf`, which jumps by a
    // table of its own; functions that never return. Where registers differ, the code has not yet
    // changed or has already restored them, but the tables name their slots.
    for (tally, wrong) in [(&returns, 0.005), (&leaves, 0.01)] {
        let of_all =
            |n: u64| n as f64 / (tally.right + tally.other + tally.wrong + tally.unknown) as f64;
        assert!(of_all(tally.wrong) < wrong, "{tally:?}");
        assert!(of_all(tally.right) > 0.8, "{tally:?}");
    }
    assert!(returns.right > 5_000 && leaves.right > 20_000, "{returns:?} {leaves:?}");
    assert_eq!(returns.registers, 0, "{returns:?}");
}

/// The address of the code in the image of [`image_of`].
const CODE: u64 = 0x1000;

fn image_of(code: &[u8]) -> ElfImage {
    let words = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // ET_DYN, EM_X86_64, EV_CURRENT; e_entry, e_phoff, e_shoff; e_ehsize, e_phentsize, e_phnum; no
    // sections. PT_LOAD, PF_R | PF_X, from the file's begin.
    file.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(words(&[0, 64, 0, 56 << 48 | 64 << 32, 1]));
    file.resize(64, 0);
    let size = CODE + code.len() as u64;
    file.extend(words(&[5 << 32 | 1, 0, 0, 0, size, size, CODE]));
    file.resize(CODE as usize, 0);
    file.extend(code);
    ElfImage::parse(image::ImageBytes::Owned(file)).unwrap()
}

/// The rule at an offset into the code: the register and the offset of the CFA.
fn rule_at(image: &ElfImage, at: u64, exact: bool) -> Option<(u8, i32)> {
    let found = Follower::new().follow::<X86_64>((image, 0), Svma(CODE + at), exact);
    assert!(found.rules.len() < 2, "{found:?}");
    found.rules.first().map(|rule| (rule.cfa_register, rule.cfa_offset))
}

/// Functions of 16 bytes that do nothing but call the next one; the last one jumps to itself.
fn chain(length: u8) -> Vec<u8> {
    let mut code = Vec::new();
    for n in 1..=length {
        let call = if n == length { &b"\xeb\xfe"[..] } else { b"\xe8\x0b\0\0\0\xc3" };
        code.extend(call);
        code.resize(usize::from(n) * 16, 0x90);
    }
    code
}

#[test]
fn a_result_at_a_call_depth_is_improved_at_a_lower_depth() {
    let image = image_of(&chain(8));
    let mut follower = Follower::new();
    let mut ends = |at: u64| {
        follower.follow::<X86_64>((&image, 0), Svma(CODE + at + 5), false).rules.is_empty()
    };
    // After the call in the first function is its `ret`, which is never reached.
    assert!(!ends(0), "beyond the limit of depth");
    assert!(ends(16 * 4));
    assert!(ends(16 * 2), "known by now");
}

#[test]
fn rules_at_exits() {
    // pop %rbx; test; je to the call; add $24, %rsp; pop %rbp; ret; call to itself; ret
    let image = image_of(b"\x5b\x85\xc0\x74\x06\x48\x83\xc4\x18\x5d\xc3\xe8\xfb\xff\xff\xff\xc3");
    assert_eq!(rule_at(&image, 0, true), Some((7, 48)));
    // leave; ret
    assert_eq!(rule_at(&image_of(b"\xc9\xc3"), 0, true), Some((6, 16)));
    // sub %rax, %rsp; ret
    assert_eq!(rule_at(&image_of(b"\x48\x29\xc4\xc3"), 0, true), None);
    // push %rbx; jmp *x(%rip), of a procedure linkage table: what is on top was put there.
    assert_eq!(rule_at(&image_of(b"\x53\xff\x25\0\0\0\0"), 0, true), None);
    // lea table, %rsi; movslq (%rsi,%rax,4), %rax; add %rsi, %rax; jmp *%rax; add $8, %rsp; ret;
    // table
    let switch = b"\x48\x8d\x35\x0e\0\0\0\x48\x63\x04\x86\x48\x01\xf0\xff\xe0\x48\x83\xc4\x08\xc3";
    let image = image_of(&[&switch[..], b"\xfb\xff\xff\xff"].concat());
    assert_eq!(rule_at(&image, 0, true), Some((7, 16)));
}

#[test]
fn recognises_calls_that_end_the_thread() {
    let ends = |code: &[u8]| {
        let image = image_of(code);
        Follower::new().follow::<X86_64>((&image, 0), Svma(CODE + 2), false).ends_thread
    };
    // call *%rax; mov %eax, %edi; call to a function that jumps to itself, or to one that returns
    assert!(ends(b"\xff\xd0\x89\xc7\xe8\x01\0\0\0\xf4\xeb\xfe"));
    assert!(!ends(b"\xff\xd0\x89\xc7\xe8\x01\0\0\0\xf4\xc3\x90"));
    // Another value than the result is passed.
    assert!(!ends(b"\xff\xd0\x89\xdf\xe8\x01\0\0\0\xf4\xeb\xfe"));
}

#[test]
fn a_search_ends_after_two_returns() {
    // je to the second; je to the third; ret. pop %rax; ret. pop %rax; pop %rax; ret
    let first = b"\x74\x09\x74\x0b\xc3\xcc\xcc\xcc\xcc\xcc\xcc";
    let image = image_of(&[&first[..], b"\x58\xc3\xcc\xcc", b"\x58\x58\xc3"].concat());
    let found = Follower::new().follow::<X86_64>((&image, 0), Svma(CODE), true);
    let offsets: Vec<i32> = found.rules.iter().map(|rule| rule.cfa_offset).collect();
    assert_eq!((offsets, found.sure), (vec![8, 16], true));
}
