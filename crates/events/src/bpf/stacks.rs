//! Declares the structs that `bpf/stacks.h` shares with us.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Object, object};
use crate::USER_REGISTERS;

/// Its program uses bpf_copy_from_user_task.
pub(crate) const OBJECT: Object = object!("stacks", since "5.18");

/// Words of a register set.
pub(crate) const REGISTERS: usize = USER_REGISTERS.count_ones() as usize;
pub(crate) const PAGE_BYTES: usize = 4096;
/// At most this many bytes of a stack are copied.
pub(crate) const STACK_BYTES: usize = 6 * PAGE_BYTES;

/// `copy_head.what`.
pub(crate) const THREAD_RUNS: u32 = 0;
pub(crate) const THREAD_SAME: u32 = 1;
pub(crate) const THREAD_COPIED: u32 = 2;
pub(crate) const THREAD_OF_32_BITS: u32 = 3;

/// The process whose threads are copied.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct TargetProcess {
    pub tgid: u32,
    pub pid_level: u32,
}

/// The value of the map `whose`.
pub(crate) type WhoseBytes = [u8; size_of::<TargetProcess>()];

/// A thread; `stack_bytes` bytes of its stack follow.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct CopyHead {
    pub tid: u32,
    pub what: u32,
    pub state: u32,
    pub syscall: i32,
    pub stack_bytes: u32,
    pub unused: u32,
    pub switches: u64,
    pub thread_pointer: u64,
    pub arguments: [u64; 6],
    pub registers: [u64; REGISTERS],
}

const _: () = {
    assert!(size_of::<TargetProcess>() == 8);
    assert!(size_of::<CopyHead>() == 88 + REGISTERS * 8);
};

#[cfg(test)]
#[test]
fn structures_are_those_of_the_object() {
    use crate::bpf::btf::{Structures, assert_mirrors};
    let structures = Structures::of(&OBJECT);
    assert_mirrors!(structures,
        "whose" => TargetProcess { tgid, pid_level }
        "copy_head" => CopyHead {
            tid, what, state, syscall, stack_bytes, unused, switches, thread_pointer, arguments,
            registers
        }
    );
    assert_eq!(structures.size("copy"), size_of::<CopyHead>() + STACK_BYTES);
}
