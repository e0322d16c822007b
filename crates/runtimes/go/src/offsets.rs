//! The offsets of the runtime's struct fields, per Go version. A new version is a new column here.
//!
//! `scripts/go-offsets GOROOT` prints the column of a toolchain from its DWARF, and a test compares
//! its output with this table. Every row names the field in Go's sources (`g`, `m`, `p`:
//! runtime/runtime2.go; `mcache`: runtime/mcache.go; `memRecordCycle`, `bucket`: runtime/mprof.go;
//! `synctestBubble`: runtime/synctest.go). The script printed all columns but 1.19, which was taken
//! from the sources and checked against Debian's prometheus. Offsets are in bytes and equal on
//! amd64 and arm64.

use image::ElfImage;

use crate::dwarf::Structs;

/// This version does not have the field.
const NO: u64 = u64::MAX;

/// The minor versions of the columns.
const VERSIONS: [u32; 8] = [19, 21, 22, 23, 24, 25, 26, 27];

macro_rules! layout {
    ($($field:ident = $go:literal [$($offset:expr),* $(,)?];)*) => {
        /// Byte offsets of the fields that this crate reads, for one Go version.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Layout {
            /// The minor version: 24 for Go 1.24.
            pub minor: u32,
            $(pub(crate) $field: u64,)*
        }

        impl Layout {
            /// The measured layout of Go 1.`minor`. `None` if the table has no such column.
            #[must_use]
            pub fn of_minor(minor: u32) -> Option<Self> {
                let column = VERSIONS.iter().position(|v| *v == minor)?;
                $(let $field: [u64; VERSIONS.len()] = [$($offset),*];)*
                Some(Self { minor, $($field: $field[column],)* })
            }

            /// The layout of any version. `lookup` returns the offset of a field by its name in
            /// Go's sources. `None` if it lacks a field that every measured version has.
            #[must_use]
            pub fn of_names(minor: u32, lookup: impl Fn(&str) -> Option<u64>) -> Option<Self> {
                $(
                    let optional = [$($offset),*].contains(&NO);
                    let $field = lookup($go).or(optional.then_some(NO))?;
                )*
                Some(Self { minor, $($field,)* })
            }

            /// The layout of the measured version that is nearest to `minor`: a guess that the
            /// caller must verify.
            #[must_use]
            pub fn nearest(minor: u32) -> Self {
                let distance = |column: &usize| VERSIONS[*column].abs_diff(minor);
                let column = (0..VERSIONS.len()).rev().min_by_key(distance).unwrap_or(0);
                $(let $field: [u64; VERSIONS.len()] = [$($offset),*];)*
                Self { minor, $($field: $field[column],)* }
            }

            /// All rows: the name of the field in Go's sources and its offset, or `None` if this
            /// version does not have the field.
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, Option<u64>)> {
                vec![$(($go, present(self.$field)),)*]
            }
        }
    };
}

layout! {
    //                                             1.19 1.21 1.22 1.23 1.24 1.25 1.26 1.27
    g_m = "runtime.g.m"                           [48, 48, 48, 48, 48, 48, 48, 48];
    g_sched_sp = "runtime.g.sched.sp"             [56, 56, 56, 56, 56, 56, 56, 56];
    g_sched_pc = "runtime.g.sched.pc"             [64, 64, 64, 64, 64, 64, 64, 64];
    g_sched_bp = "runtime.g.sched.bp"             [104, 104, 104, 104, 104, 96, 96, 96];
    g_syscallsp = "runtime.g.syscallsp"           [112, 112, 112, 112, 112, 104, 104, 104];
    g_syscallpc = "runtime.g.syscallpc"           [120, 120, 120, 120, 120, 112, 112, 112];
    g_syscallbp = "runtime.g.syscallbp"           [NO, NO, NO, 128, 128, 120, 120, 120];
    g_stktopsp = "runtime.g.stktopsp"             [128, 128, 128, 136, 136, 128, 128, 128];
    g_status = "runtime.g.atomicstatus"           [144, 144, 144, 152, 152, 144, 144, 144];
    g_goid = "runtime.g.goid"                     [152, 152, 152, 160, 160, 152, 152, 152];
    g_waitsince = "runtime.g.waitsince"           [168, 168, 168, 176, 176, 168, 168, 168];
    g_waitreason = "runtime.g.waitreason"         [176, 176, 176, 184, 184, 176, 176, 176];
    g_tracking_seq = "runtime.g.trackingSeq"      [189, 188, 191, 199, 199, 191, 191, 191];
    g_lockedm = "runtime.g.lockedm"               [232, 208, 208, 216, 216, 208, 208, 208];
    g_parent = "runtime.g.parentGoid"             [NO, 272, 272, 280, 280, 272, 280, 280];
    g_gopc = "runtime.g.gopc"                     [296, 280, 280, 288, 288, 280, 288, 288];
    g_startpc = "runtime.g.startpc"               [312, 296, 296, 304, 304, 296, 304, 304];
    g_labels = "runtime.g.labels"                 [360, 344, 344, 352, 352, 344, 352, 352];
    g_running_cleanups = "runtime.g.runningCleanups" [NO, NO, NO, NO, NO, 218, 220, 220];
    // `syncGroup` in 1.24, without an id.
    g_bubble = "runtime.g.bubble"                 [NO, NO, NO, NO, 392, 384, 392, 392];
    bubble_id = "runtime.synctestBubble.id"       [NO, NO, NO, NO, NO, 72, 72, 72];
    m_g0 = "runtime.m.g0"                         [0, 0, 0, 0, 0, 0, 0, 0];
    m_procid = "runtime.m.procid"                 [72, 72, 72, 72, 72, 64, 64, 64];
    m_gsignal = "runtime.m.gsignal"               [80, 80, 80, 80, 80, 72, 72, 72];
    m_curg = "runtime.m.curg"                     [192, 192, 192, 192, 192, 184, 184, 184];
    m_id = "runtime.m.id"                         [232, 232, 232, 232, 232, 224, 232, 232];
    m_alllink = "runtime.m.alllink"               [336, 336, 328, 328, 352, 344, 352, 352];
    m_createstack = "runtime.m.createstack"       [360, 360, 352, 352, 376, 368, 392, 392];
    m_vdso_sp = "runtime.m.vdsoSP"                [800, 808, 1120, 856, 904, 896, 896, 896];
    m_vdso_pc = "runtime.m.vdsoPC"                [808, 816, 1128, 864, 912, 904, 904, 904];
    p_id = "runtime.p.id"                         [0, 0, 0, 0, 0, 0, 0, 0];
    p_mcache = "runtime.p.mcache"                 [64, 64, 64, 56, 56, 56, 56, 56];
    mcache_next_sample = "runtime.mcache.nextSample" [0, 0, 0, 0, 0, 0, 0, 0];
    mcache_rate = "runtime.mcache.memProfRate"    [NO, NO, NO, NO, 8, 8, 8, 8];
    module_text = "runtime.moduledata.text"       [176, 176, 176, 176, 176, 176, 176, 176];
    module_gofunc = "runtime.moduledata.gofunc"   [304, 320, 320, 320, 320, 320, 320, 344];
    bucket_allnext = "runtime.bucket.allnext"     [8, 8, 8, 8, 8, 8, 8, 8];
    bucket_typ = "runtime.bucket.typ"             [16, 16, 16, 16, 16, 16, 16, 16];
    bucket_size = "runtime.bucket.size"           [32, 32, 32, 32, 32, 32, 32, 32];
    bucket_nstk = "runtime.bucket.nstk"           [40, 40, 40, 40, 40, 40, 40, 40];
    sizeof_bucket = "sizeof.bucket"               [48, 48, 48, 48, 48, 48, 48, 48];
    // From 1.27 on only {allocs, frees}: bytes are counts times bucket.size.
    sizeof_cycle = "sizeof.memRecordCycle"        [32, 32, 32, 32, 32, 32, 32, 16];
}

impl Layout {
    /// The layout that the program's own DWARF describes. `None` without (complete) DWARF.
    #[must_use]
    pub fn of_dwarf(minor: u32, image: &ElfImage) -> Option<Self> {
        let structs = Structs::read_from(image);
        Self::of_names(minor, |name| structs.offset(name))
    }
}

/// The offset, or `None` if the version does not have the field.
pub(crate) fn present(offset: u64) -> Option<u64> {
    (offset != NO).then_some(offset)
}

impl Layout {
    /// How many bytes of a `g` are read: up to the end of the last field in use.
    pub(crate) fn g_size(&self) -> usize {
        let last = present(self.g_bubble).unwrap_or(0).max(self.g_labels);
        usize::try_from(last + 8).unwrap_or(0)
    }

    /// How many bytes of an `m` are in use: up to the end of the last field that is read.
    pub(crate) fn m_size(&self) -> u64 {
        let ends = [self.m_createstack.saturating_add(32 * 8), self.m_vdso_pc.saturating_add(8)];
        ends.into_iter().max().unwrap_or(0)
    }

    /// Whether labels are a map (before Go 1.24) or a slice of pairs (runtime/pprof/label.go).
    pub(crate) fn labels_are_a_map(&self) -> bool {
        self.minor < 24
    }

    /// Whether the runtime stores mutex counts and delays unscaled, so that the reader has to
    /// multiply them by the fraction (`scaleMutexProfile` in runtime/pprof of Go 1.19).
    pub(crate) fn mutex_is_unscaled(&self) -> bool {
        self.minor < 20
    }
}
