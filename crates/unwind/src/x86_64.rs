//! Implements the parts of unwinding that are specific to x86-64 on Linux: see [`Arch`].

use gopclntab::Function;
use image::{Avma, Memory, Svma, Unreadable};

use crate::Registers;
use crate::arch::{Arch, Stage};
use crate::follow::state::{Flow, State, Value};
use crate::numbers::x86_64::{RAX, RBP, RDI, RIP, RSP};
use crate::rule::{LOST, Narrow, Rule, SAME, SLOTS};

/// Bytes of stack that `PUSH_REGS_HOST_TO_ABI0` uses (Go's runtime/cgo/abi_amd64.h), where C enters
/// Go code. From the lowest address up: rbx, r12 to r15, rbp.
const REGISTERS_OF_C: i32 = 48;
/// Bytes for the arguments of `cgocallback`, below those.
const CALLBACK_ARGUMENTS: i32 = 24;

/// Unwinding on x86-64.
pub(crate) struct X86_64;

/// `mov $15, %rax; syscall` (glibc, Go) and `mov $15, %eax; syscall` (musl, Go's shorter form).
const SIGRETURN: [&[u8]; 2] = [b"\x48\xc7\xc0\x0f\0\0\0\x0f\x05", b"\xb8\x0f\0\0\0\x0f\x05"];

/// The order of `struct sigcontext` (arch/x86/include/uapi/asm/sigcontext.h), in DWARF numbers:
/// r8..r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
const SIGCONTEXT: [u16; 17] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, RBP, 3, 1, 0, 2, RSP, RIP];

/// push %rbp; mov %rsp, %rbp in both encodings
const SETUP: [&[u8]; 2] = [b"\x55\x48\x89\xe5", b"\x55\x48\x8b\xec"];

impl Arch for X86_64 {
    const ARCH: image::Arch = image::Arch::X86_64;
    const SP: u16 = RSP;
    const FP: u16 = RBP;
    const PC: u16 = RIP;
    const RA: u16 = RIP;
    const SAVED: &'static [u16] = &[RIP, RBP, 3, 12, 13, 14, 15];
    const ARGUMENT: u16 = RDI;
    const RESULT: u16 = RAX;
    const VENDOR: gimli::Vendor = gimli::Vendor::Default;
    const HAS_LINK_REGISTER: bool = false;

    fn ends_with_call(before: &[u8]) -> bool {
        Self::direct_call_target(before).is_some()
            || (2..=7)
                .any(|len| before.len() >= len && is_indirect_call(&before[before.len() - len..]))
    }

    fn direct_call_target(before: &[u8]) -> Option<i64> {
        let [0xe8, a, b, c, d] = *before.last_chunk::<5>()? else { return None };
        Some(i64::from(i32::from_le_bytes([a, b, c, d])))
    }

    fn is_sigreturn(before: &[u8], at: &[u8]) -> bool {
        SIGRETURN.iter().any(|code| {
            let (load, syscall) = code.split_at(code.len() - 2);
            at.starts_with(code)
                || (at.starts_with(syscall) && before.ends_with(load))
                // In the system call, before the kernel restores the registers.
                || before.ends_with(code)
        })
    }

    fn ends_thread(at: &[u8]) -> bool {
        // musl: mov %eax, %edi; xor %eax, %eax; mov $60 (__NR_exit), %al; syscall; hlt
        at.starts_with(b"\x89\xc7\x31\xc0\xb0\x3c\x0f\x05\xf4")
    }

    fn begins_thread(before: &[u8], registers: &Registers) -> bool {
        before.ends_with(b"\x0f\x05") && registers.get(RAX) == Some(0)
    }

    /// Go's line table gives the stack depth at each instruction (`pcsp`). At that depth is the
    /// return address, and below it the frame pointer if the function has a frame
    /// (cmd/internal/obj/x86: `PUSHQ BP` or its older form). No other register is saved. Functions
    /// that change stacks (`mcall`, `systemstack`) are unwound by frame pointers: see
    /// [`crate::go`].
    fn go_rule(function: &Function<'_>, lookup: Svma) -> Option<Rule> {
        // `mcall` never returns: what is above it belongs to the parked goroutine.
        let name = function.name();
        // For Go a signal handler is the top of its stack, but it returns to the interrupted code.
        let is_handler = ["runtime.sigtramp", "runtime.cgoSigtramp"].contains(&&*name);
        if (function.flags().is_top_frame() && !is_handler) || name == "runtime.mcall" {
            return Some(Rule::Root);
        }
        // Even if `.debug_frame` has an entry for it.
        if function.flags().writes_sp() {
            return Some(Rule::NoEntry);
        }
        let depth = i32::try_from(function.sp_delta(lookup)?).ok()?;
        let mut saved = [LOST; SLOTS];
        saved[0] = -1;
        saved[1] = if depth >= 8 { -2 } else { SAME };
        if depth >= REGISTERS_OF_C && name == "crosscall2" {
            // Since Go 1.21 a frame pointer is pushed before.
            let own = if depth % CALLBACK_ARGUMENTS == 0 { 0 } else { 1 };
            saved[2..7].copy_from_slice(&[-7 - own, -6 - own, -5 - own, -4 - own, -3 - own]);
        }
        let cfa_offset = depth.checked_add(8)?;
        Some(Rule::Narrow(Narrow {
            cfa_register: RSP as u8,
            plt_push: 0,
            plt: false,
            cfa_offset,
            saved,
        }))
    }

    fn sets_up_frame(before: &[u8]) -> bool {
        // Padding after a return: int3, nop, or the first byte of a longer nop.
        let boundary = |w: &[u8]| w[0] == 0xc3 && matches!(w[1], 0xcc | 0x90 | 0x66 | 0x0f);
        let last = before.windows(4).rposition(|w| SETUP.contains(&w));
        last.is_some_and(|at| !before[at..].windows(2).any(boundary))
    }

    fn frame_size(before: &[u8]) -> Option<u64> {
        // push %rbp
        let begins = memchr::memrchr_iter(0x55, before).map(|at| &before[at..]);
        let set_up = |code: &&[u8]| SETUP.iter().any(|setup| code.starts_with(setup));
        let mut code = begins.into_iter().find(set_up)?.get(SETUP[0].len()..)?;
        let mut size = 0;
        loop {
            code = match code {
                // push of %rax to %rdi, and of %r8 to %r15
                [0x50..=0x57, rest @ ..] | [0x41, 0x50..=0x57, rest @ ..] => {
                    size += 8;
                    rest
                }
                // sub $n, %rsp
                [0x48, 0x83, 0xec, n, ..] => return Some(size + u64::from(*n)),
                [0x48, 0x81, 0xec, a, b, c, d, ..] => {
                    return Some(size + u64::from(u32::from_le_bytes([*a, *b, *c, *d])));
                }
                _ => return Some(size),
            };
        }
    }

    fn is_epilogue(at: &[u8]) -> bool {
        let mut code = at;
        loop {
            code = match code {
                // ret, repz ret, bnd ret, ret n; or a tail call: jmp rel32, jmp rel8, jmp *x(%rip)
                [0xc3 | 0xc2 | 0xe9 | 0xeb, ..] | [0xf2 | 0xf3, 0xc3, ..] | [0xff, 0x25, ..] => {
                    return true;
                }
                // pop of %rax to %rdi; leave
                [0x58..=0x5f | 0xc9, rest @ ..]
                // pop of %r8 to %r15
                | [0x41, 0x58..=0x5f, rest @ ..]
                // vzeroupper
                | [0xc5, 0xf8, 0x77, rest @ ..]
                // add $n, %rsp
                | [0x48, 0x83, 0xc4, _, rest @ ..]
                | [0x48, 0x81, 0xc4, _, _, _, _, rest @ ..] => rest,
                _ => return false,
            };
        }
    }

    /// After the handler's `ret` has popped `pretcode` of `struct rt_sigframe`
    /// (arch/x86/include/asm/sigframe.h), `sp` points to its `struct ucontext`: `uc_flags`,
    /// `uc_link` (8 bytes each) and `uc_stack` (24) precede `uc_mcontext`.
    fn read_signal_frame<M: Memory>(sp: Avma, memory: &M) -> Result<Registers, Unreadable> {
        const MCONTEXT: u64 = 40;
        let mut raw = [0; SIGCONTEXT.len() * 8];
        memory.read(sp.wrapping_add(MCONTEXT), &mut raw)?;
        Ok(Registers::from_words(Self::ARCH, SIGCONTEXT, &raw))
    }

    fn frameless<M: Memory>(_: &Registers, sp: Avma, memory: &M) -> Result<(u64, u64), Unreadable> {
        Ok((memory.read_u64(sp)?, sp.0.wrapping_add(8)))
    }

    fn execute(code: &[u8], at: Svma, state: &mut State) -> Flow {
        crate::follow::x86_64::execute(code, at, state)
    }

    fn leave(state: &State) -> (Value, Value) {
        crate::follow::x86_64::leave(state)
    }

    fn stage(before: &[u8], at: &[u8]) -> Stage {
        const PUSH_RBP: u8 = 0x55;
        const POP_RBP: u8 = 0x5d;
        const RET: u8 = 0xc3;
        const ENDBR64: &[u8] = b"\xf3\x0f\x1e\xfa";
        const MOV_RSP_RBP: [&[u8]; 2] = [b"\x48\x89\xe5", b"\x48\x8b\xec"];
        let moves = |code: &[u8]| MOV_RSP_RBP.iter().any(|mov| code.starts_with(mov));
        let body = at.strip_prefix(ENDBR64).unwrap_or(at);
        match body {
            [PUSH_RBP, rest @ ..] if moves(rest) => Stage::Frameless,
            [RET, ..] => Stage::Frameless,
            [POP_RBP, RET, ..] => Stage::Pushed,
            code if moves(code) && before.last() == Some(&PUSH_RBP) => Stage::Pushed,
            _ => Stage::Body,
        }
    }
}

/// Whether the bytes are exactly one `call r/m64`: `[REX] FF /2` with its ModRM, SIB and
/// displacement (Intel SDM volume 2, 2.1). The optional REX prefix precedes the slice.
fn is_indirect_call(code: &[u8]) -> bool {
    let [0xff, modrm, rest @ ..] = code else { return false };
    let (mode, opcode, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let has_sib = mode != 3 && rm == 4;
    let base = if has_sib { rest.first().map_or(0, |sib| sib & 7) } else { rm };
    let displacement = match mode {
        1 => 1,
        2 => 4,
        0 if base == 5 => 4,
        _ => 0,
    };
    opcode == 2 && rest.len() == usize::from(has_sib) + displacement
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_all_forms_of_calls_and_nothing_else() {
        let calls: [&[u8]; 8] = [
            b"\xe8\x01\x02\x03\x04",
            b"\xff\xd0",                     // call *%rax
            b"\x41\xff\xd4",                 // call *%r12
            b"\xff\x15\x01\x02\x03\x04",     // call *x(%rip)
            b"\xff\x10",                     // call *(%rax)
            b"\xff\x50\x18",                 // call *24(%rax)
            b"\xff\x54\x24\x08",             // call *8(%rsp)
            b"\x41\xff\x94\xc4\x01\x02\0\0", // call *x(%r12,%rax,8)
        ];
        for code in calls {
            assert!(X86_64::ends_with_call(&[&[0x90; 8], code].concat()), "{code:x?}");
        }
        let others: [&[u8]; 4] =
            [b"\xff\xe0", b"\xff\x25\x01\x02\x03\x04", b"\xc3", b"\xff\x74\x24\x08"];
        for code in others {
            assert!(!X86_64::ends_with_call(&[&[0x90; 8], code].concat()), "{code:x?}");
        }
    }

    #[test]
    fn ignores_the_prologue_of_the_function_before() {
        assert!(X86_64::sets_up_frame(b"\xc3\xcc\xcc\x55\x48\x89\xe5\x41\x54\xff\xd0"));
        assert!(!X86_64::sets_up_frame(b"\x55\x48\x89\xe5\x5d\xc3\xcc\xcc\x50\xff\xd0"));
        assert!(!X86_64::sets_up_frame(b"\x50\xff\xd0"));
    }

    #[test]
    fn reads_the_size_of_a_frame_from_its_prologue() {
        let pushes = b"\x55\x48\x89\xe5\x41\x57\x41\x56\x53";
        let size = |rest: &[u8]| {
            X86_64::frame_size(&[b"\x55\x48\x89\xe5\xc3", &pushes[..], rest].concat())
        };
        assert_eq!(size(b"\x48\x83\xec\x18\xff\xd0"), Some(24 + 24));
        assert_eq!(size(b"\x48\x81\xec\x08\x02\0\0\xff\xd0"), Some(24 + 0x208));
        assert_eq!(size(b"\xff\xd0"), Some(24));
        assert_eq!(size(b"\x48\x81\xec\x08"), Some(24), "cut short");
        assert_eq!(X86_64::frame_size(b"\x50\xff\xd0"), None);
        assert_eq!(X86_64::frame_size(b"\x55\x48\x89"), None);
    }

    #[test]
    fn recognises_epilogues() {
        let yes: [&[u8]; 4] =
            [b"\xc3", b"\x5b\x5d\x41\x5c\xc3", b"\xc9\xc3", b"\x48\x83\xc4\x08\x5b\xe9abcd"];
        let no: [&[u8]; 4] = [b"\x5b\x5d", b"\x55\xc3", b"\x48\x89\xc7\xc3", b""];
        assert!(yes.iter().all(|code| X86_64::is_epilogue(code)));
        assert!(!no.iter().any(|code| X86_64::is_epilogue(code)));
    }

    #[test]
    fn perf_registers_are_in_the_order_of_the_kernel() {
        // bits 0-8 and 16-23, value = bit
        let values: Vec<u64> = (0..=8).chain(16..=23).collect();
        let r = Registers::from_perf(image::Arch::X86_64, &values, 0x00ff_01ff);
        let dwarf: Vec<Option<u64>> = (0..=16).map(|n| r.get(n)).collect();
        let expected = [0, 3, 2, 1, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23, 8];
        assert_eq!(dwarf, expected.map(Some));
    }

    #[test]
    fn registers_that_were_not_recorded_are_unknown() {
        let r = Registers::from_perf(image::Arch::X86_64, &[7, 8], 1 << 7 | 1 << 8);
        assert_eq!((r.sp(), r.pc(), r.fp()), (Some(Avma(7)), Some(Avma(8)), None));
    }
}
