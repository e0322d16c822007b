//! Declares the structs that `bpf/interpreter.h` shares with us.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Object, object};
use crate::ChainLayout;

/// Its programs use bpf_loop.
pub(crate) const OBJECT: Object = object!("interpreter", since "5.17");

/// The value of the map `LAYOUTS`.
pub(crate) type LayoutBytes = [u8; size_of::<ChainLayout>()];

/// `chain.status`; what is above is [`crate::ChainEnd::TooMany`].
pub(crate) const STATUS_COMPLETE: u32 = 0;
pub(crate) const STATUS_NO_THREAD: u32 = 1;
pub(crate) const STATUS_UNREADABLE: u32 = 2;

/// A followed chain; `count` [`Frame`]s follow.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Chain {
    pub time: u64,
    pub pid: u32,
    pub tid: u32,
    pub status: u32,
    pub count: u32,
}

/// `struct chain_frame`.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Frame {
    pub address: u64,
    pub code: u64,
    pub instruction: u64,
    pub anchor: u64,
}

const _: () = {
    assert!(size_of::<ChainLayout>() == 64);
    assert!(size_of::<Chain>() == 24);
    assert!(size_of::<Frame>() == 32);
};

#[cfg(test)]
#[test]
fn structures_are_those_of_the_object() {
    use crate::bpf::btf::{Structures, assert_mirrors};
    for object in [&OBJECT, &super::waits::OBJECT_WITH_CHAINS] {
        let structures = Structures::of(object);
        assert_mirrors!(structures,
            "layout" => ChainLayout {
                head, thread_bias, interpreter_next, interpreter_threads, thread_next, thread_id,
                thread_frame, flags, c_frame_current, c_frame_previous, frame_code,
                frame_previous, frame_instruction, frame_owner
            }
            "chain" => Chain { time, pid, tid, status, count; ..frames }
            "chain_frame" => Frame { address, code, instruction, anchor }
        );
    }
}
