//! Declares the structs that `bpf/goroutine.bpf.c` shares with us.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Object, object};
use crate::FieldOffsets;

/// The ring of captures and bpf_perf_event_read_value came with 5.8.
pub(crate) const OBJECT: Object = object!("goroutine", since "5.8");

/// Threads that can be known at the same time (`max_entries` of the map `threads`).
pub(crate) const MAX_THREADS: usize = 16_384;
/// A label's `key_len` or `value_len` where the text could not be read.
pub(crate) const UNREADABLE: u64 = u64::MAX;

/// `thread.flags`.
pub(crate) const LABELS_ARE_A_MAP: u32 = 1;
pub(crate) const HAS_CGO: u32 = 2;

/// The first word of a record.
pub(crate) const KIND_GOROUTINE: u32 = 1;
pub(crate) const KIND_SYSTEM_STACK: u32 = 2;
pub(crate) const KIND_LABELS: u32 = 3;

/// What the program knows about a thread.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Thread {
    pub m: u64,
    pub procid: u64,
    pub offsets: FieldOffsets,
    pub flags: u32,
    pub padding: u32,
}

/// The value of the map `threads`.
pub(crate) type ThreadBytes = [u8; size_of::<Thread>()];

/// A capture; `stack_len` bytes of stack follow.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Goroutine {
    pub kind: u32,
    pub tid: u32,
    pub time: u64,
    pub pc: u64,
    pub sp: u64,
    pub g: u64,
    pub goid: u64,
    pub low: u64,
    pub high: u64,
    pub sched_sp: u64,
    pub sched_pc: u64,
    pub vdso_sp: u64,
    pub vdso_pc: u64,
    pub system_sp: u64,
    pub labels: u64,
    pub stack_at: u64,
    pub stack_len: u64,
    pub stack_wanted: u64,
}

/// A copied system stack; `len` bytes follow.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct SystemStack {
    pub kind: u32,
    pub tid: u32,
    pub time: u64,
    pub at: u64,
    pub len: u64,
}

/// The labels of a goroutine, of which `copied` [`Label`]s follow.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Labels {
    pub kind: u32,
    pub tid: u32,
    pub time: u64,
    pub count: u64,
    pub copied: u64,
}

/// One label; its texts are cut to the available space.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Label {
    pub key_len: u64,
    pub value_len: u64,
    pub key: [u8; 64],
    pub value: [u8; 128],
}

const _: () = {
    assert!(size_of::<Thread>() == 64);
    assert!(size_of::<Goroutine>() == 17 * 8);
    assert!(size_of::<SystemStack>() == 32);
    assert!(size_of::<Labels>() == 32);
    assert!(size_of::<Label>() == 208);
};

#[cfg(test)]
#[test]
fn structures_are_those_of_the_object() {
    use crate::bpf::btf::{Structures, assert_mirrors};
    let structures = Structures::of(&OBJECT);
    macro_rules! assert_offsets {
        ($($field:ident),+) => {$(
            let offset = std::mem::offset_of!(Thread, offsets.$field);
            assert_eq!(offset, structures.offset("thread", stringify!($field)));
        )+};
    }
    assert_offsets!(
        m_procid, m_g0, m_gsignal, m_curg, m_vdso_sp, m_vdso_pc, g_sched_sp, g_sched_pc, g_goid,
        g_labels
    );
    assert_mirrors!(structures,
        "thread" => Thread { m, procid, flags, padding }
        "goroutine" => Goroutine {
            kind, tid, time, pc, sp, g, goid, low, high, sched_sp, sched_pc, vdso_sp, vdso_pc,
            system_sp, labels, stack_at, stack_len, stack_wanted; ..stack
        }
        "system_stack" => SystemStack { kind, tid, time, at, len; ..stack }
        "labels" => Labels { kind, tid, time, count, copied; ..label }
        "label" => Label { key_len, value_len, key, value }
    );
}
