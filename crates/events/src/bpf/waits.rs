//! Declares the structs that `bpf/waits.h` and the table of futexes in `bpf/waits.bpf.c` share with
//! us.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Object, object};
use crate::USER_REGISTERS;

/// Its programs use task storage in tracing programs.
pub(crate) const OBJECT: Object = object!("waits", since "5.11");
/// The same, following the frames of interpreters, by bpf_loop.
pub(crate) const OBJECT_WITH_CHAINS: Object = object!("waits_chains", since "5.17");

/// Words of a register set.
pub(crate) const REGISTERS: usize = USER_REGISTERS.count_ones() as usize;
/// Frames of a kernel stack.
pub(crate) const KERNEL_FRAMES: usize = 32;

/// `settings.flags`.
pub(crate) mod flags {
    pub const WANT_BLOCK: u32 = 1;
    pub const WANT_MUTEX: u32 = 2;
    pub const FUTEX_ONLY: u32 = 4;
    /// All flags that select what is sampled.
    pub const WANTS: u32 = WANT_BLOCK | WANT_MUTEX | FUTEX_ONLY;
    pub const CHILDREN: u32 = 8;
    pub const RUNNING: u32 = 16;
    pub const SEEDING: u32 = 32;
}

/// `record.kind` and `record.flags`.
pub(crate) const RECORD_WAIT: u32 = 1;
pub(crate) const RECORD_WAKER: u32 = 2;
pub(crate) const FLAG_STACK_CHANGED: u32 = 1;
pub(crate) const FLAG_WOKEN: u32 = 2;

/// Keys of the map `counters`.
pub(crate) const COUNTERS: usize = 7;

/// The settings of the programs.
#[derive(Debug, Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Settings {
    pub block_rate: u64,
    pub mutex_rate: u64,
    pub begin: u64,
    pub flags: u32,
    pub pid_level: u32,
}

/// The value of the map `settings`.
pub(crate) type SettingsBytes = [u8; size_of::<Settings>()];

/// A sample; after one of kind [`RECORD_WAIT`] a kernel stack follows.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct RecordHead {
    pub kind: u32,
    pub flags: u32,
    pub tid: u32,
    pub syscall: i32,
    pub state: u32,
    pub futex_op: u32,
    pub futex_value: u32,
    pub kernel_bytes: i32,
    pub out: u64,
    pub wait_ns: u64,
    pub wait_count: u64,
    pub run_ns: u64,
    pub lost_ns: u64,
    pub lost_count: u64,
    pub chain: u64,
    pub sp: u64,
    pub ip: u64,
}

/// A wait that has not ended, as the iterator lists it.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Waiting {
    pub tid: u32,
    pub tgid: u32,
    pub root_tid: u32,
    pub syscall: i32,
    pub state: u32,
    pub futex_op: u32,
    pub futex_value: u32,
    pub kernel_bytes: i32,
    pub out: u64,
    pub now: u64,
    pub thread_pointer: u64,
    pub registers: [u64; REGISTERS],
    pub kernel: [u64; KERNEL_FRAMES],
}

/// The key of the map `futexes`.
pub(crate) type FutexKey = [u8; 16];
/// Its value.
pub(crate) type FutexBytes = [u8; size_of::<Futex>()];

/// The waiters of a futex.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Futex {
    pub lock: u32,
    pub waiters: u32,
    pub since_sum: u64,
    pub charged: u64,
}

const _: () = {
    assert!(size_of::<Settings>() == 32);
    assert!(size_of::<RecordHead>() == 104);
    assert!(size_of::<Waiting>() == 56 + (REGISTERS + KERNEL_FRAMES) * 8);
    assert!(size_of::<Futex>() == 24);
};

#[cfg(test)]
#[test]
fn structures_are_those_of_the_objects() {
    use crate::bpf::btf::{Structures, assert_mirrors};
    for object in [&OBJECT, &OBJECT_WITH_CHAINS] {
        let structures = Structures::of(object);
        assert_mirrors!(structures,
            "settings" => Settings { block_rate, mutex_rate, begin, flags, pid_level }
            "record_head" => RecordHead {
                kind, flags, tid, syscall, state, futex_op, futex_value, kernel_bytes, out,
                wait_ns, wait_count, run_ns, lost_ns, lost_count, chain, sp, ip
            }
            "waiting" => Waiting {
                tid, tgid, root_tid, syscall, state, futex_op, futex_value, kernel_bytes, out,
                now, thread_pointer, registers, kernel
            }
            "futex" => Futex { lock, waiters, since_sum, charged }
        );
        assert_eq!(structures.size("futex_key"), size_of::<FutexKey>());
        let record = size_of::<RecordHead>() + KERNEL_FRAMES * 8;
        assert_eq!(structures.size("record"), record);
    }
}
