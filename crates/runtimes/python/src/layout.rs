//! The offsets of the interpreter's struct fields, per Python version.
//!
//! From 3.13 on, `_PyRuntime` begins with a table of offsets (`_Py_DebugOffsets`,
//! Include/internal/pycore_runtime.h; pycore_debug_offsets.h from 3.14). For 3.9 to 3.12,
//! `scripts/python-offsets` printed the columns from the DWARF of builds of python.org's sources
//! (3.9.18, 3.10.13, 3.11.7, 3.12.1), and a test compares them with the builds that it finds. They
//! apply to ordinary builds, not to `--with-pydebug` or `--with-trace-refs`. Offsets are in bytes
//! and equal on amd64 and arm64.

/// This version does not have the field.
const NO: u64 = u64::MAX;

/// The minor versions of the columns.
const VERSIONS: [u32; 4] = [9, 10, 11, 12];

/// How the frames of a thread are linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameStyle {
    /// 3.9, 3.10: `PyThreadState.frame` points to the innermost frame object. Each frame has its
    /// own C call of the evaluation loop.
    Objects,
    /// 3.11: `PyThreadState.cframe` points to a struct in the C frame of the evaluation loop, which
    /// points to the innermost frame. The outermost frame of a C frame has `is_entry` set, or its
    /// `previous` is the innermost frame of the previous C frame.
    EntryFlag,
    /// 3.12: the same, but the outermost frame of a C frame is an empty frame on the C stack.
    EntryFrameThroughCFrame,
    /// 3.13 and later: the same, but `PyThreadState.current_frame` points to the innermost frame.
    EntryFrame,
}

macro_rules! layout {
    ($($(#[$doc:meta])* $field:ident = $c:literal [$($offset:expr),* $(,)?] $new:expr;)*) => {
        /// Byte offsets of the fields that the profiler reads, for one Python version.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Layout {
            /// The minor version: 11 for Python 3.11.
            pub minor: u32,
            /// How frames are linked.
            pub style: FrameStyle,
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Layout {
            /// The layout of Python 3.`minor`, for 3.9 to 3.12.
            #[must_use]
            pub fn of_minor(minor: u32) -> Option<Self> {
                let column = VERSIONS.iter().position(|v| *v == minor)?;
                $(let $field: [u64; VERSIONS.len()] = [$($offset),*];)*
                Some(Self { minor, style: style(minor), $($field: $field[column],)* })
            }

            /// The layout that an interpreter of 3.13 or 3.14 states itself. `words` is its table,
            /// starting with the cookie. `None` for another version or implausible offsets.
            #[must_use]
            pub fn of_debug_offsets(words: &[u64]) -> Option<Self> {
                let minor = minor_of_hex(*words.get(1)?)?;
                let column = match minor {
                    13 => 0,
                    14 => 1,
                    _ => return None,
                };
                $(let $field: [usize; 2] = $new;)*
                let word = |at: usize| match at {
                    NONE => Some(NO),
                    FIXED..NONE => Some((at - FIXED) as u64),
                    // The structs of the interpreter are smaller.
                    at => words.get(at).copied().filter(|offset| *offset < 1 << 22),
                };
                Some(Self { minor, style: style(minor), $($field: word($field[column])?,)* })
            }

            /// All rows: the name of the field in C and its offset, or `None` if this version does
            /// not have the field.
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, Option<u64>)> {
                vec![$(($c, Some(self.$field).filter(|o| *o != NO)),)*]
            }
        }
    };
}

/// Instead of an index into the table: the version does not have the field.
const NONE: usize = usize::MAX;
/// Added to an offset, instead of an index into the table, which lacks the field.
const FIXED: usize = 1 << 32;

layout! {
    //                                      3.9  3.10  3.11  3.12   3.13, 3.14: word of the table
    /// The first interpreter.
    interpreters_head = "_PyRuntimeState.interpreters.head" [32, 32, 40, 40] [5, 5];
    /// The next interpreter.
    interpreter_next = "PyInterpreterState.next" [0, 0, 0, 0] [8, 8];
    /// An interpreter's first thread.
    interpreter_threads = "PyInterpreterState.threads.head" [8, 8, 16, 72] [9, 9];
    /// The next thread.
    thread_next = "PyThreadState.next" [8, 8, 8, 8] [21, 24];
    /// `pthread_self()` of the thread.
    thread_id = "PyThreadState.thread_id" [176, 176, 152, 136] [24, 27];
    /// `frame`, `cframe` or `current_frame`: see [`FrameStyle`].
    thread_frame = "PyThreadState.frame" [24, 24, 56, 56] [23, 26];
    /// The innermost frame of a C frame.
    c_frame_current = "_PyCFrame.current_frame" [NO, NO, 8, 0] [NONE, NONE];
    /// The previous (outer) C frame.
    c_frame_previous = "_PyCFrame.previous" [NO, NO, 16, 8] [NONE, NONE];
    /// The frame's code object, from 3.13 on possibly another kind of object.
    frame_code = "_PyInterpreterFrame.f_code" [32, 32, 32, 0] [30, 33];
    /// The calling frame.
    frame_previous = "_PyInterpreterFrame.previous" [24, 24, 48, 8] [29, 32];
    /// The frame's current instruction: an index (`f_lasti`) in 3.9 and 3.10, an address since.
    frame_instruction = "_PyInterpreterFrame.prev_instr" [104, 96, 56, 56] [31, 34];
    /// The owner of the frame (`enum _frameowner`), one byte.
    frame_owner = "_PyInterpreterFrame.owner" [NO, NO, 69, 70] [33, 36];
    /// Whether it is the outermost frame of its C frame, one byte.
    frame_is_entry = "_PyInterpreterFrame.is_entry" [NO, NO, 68, NO] [NONE, NONE];
    /// The first line of the function (`int`).
    code_first_line = "PyCodeObject.co_firstlineno" [40, 40, 72, 68] [39, 44];
    /// The unqualified name.
    code_name = "PyCodeObject.co_name" [112, 112, 120, 120] [36, 41];
    /// The qualified name, with the names of the enclosing class and functions.
    code_qualname = "PyCodeObject.co_qualname" [NO, NO, 128, 128] [37, 42];
    /// The path of the source file.
    code_file = "PyCodeObject.co_filename" [104, 104, 112, 112] [35, 40];
    /// The line table; `co_lnotab` in 3.9.
    code_lines = "PyCodeObject.co_linetable" [120, 120, 136, 136] [38, 43];
    /// The bytecode: a pointer to a `bytes` object up to 3.10, the bytecode itself since.
    code_bytes = "PyCodeObject.co_code_adaptive" [48, 48, 184, 192] [43, 48];
    /// The type of the object.
    object_type = "PyObject.ob_type" [8, 8, 8, 8] [45, 51];
    /// Number of bytes.
    bytes_size = "PyBytesObject.ob_size" [16, 16, 16, 16] [65, 75];
    /// The bytes.
    bytes_data = "PyBytesObject.ob_sval" [32, 32, 32, 32] [66, 76];
    /// Number of characters.
    text_length = "PyASCIIObject.length" [16, 16, 16, 16] [69, 79];
    /// Bit fields: `interned`, then `kind`.
    text_state = "PyASCIIObject.state" [32, 32, 32, 32] [68, 78];
    /// The first character of an ASCII string.
    text_ascii = "sizeof.PyASCIIObject" [48, 48, 48, 40] [70, 80];
    /// The first character of any other compact string.
    text_compact = "sizeof.PyCompactUnicodeObject" [72, 72, 72, 56] [FIXED + 56, FIXED + 56];
}

impl Layout {
    /// Whether an offset of this layout belongs to a field that the version has.
    #[must_use]
    pub fn has(offset: u64) -> bool {
        offset != NO
    }

    /// The bits of a frame's reference to its code object that are not part of the address. From
    /// 3.14 on they say how the reference is counted (`Py_TAG_BITS`,
    /// Include/internal/pycore_stackref.h).
    #[must_use]
    pub fn code_tag_mask(&self) -> u64 {
        if self.minor >= 14 { 3 } else { 0 }
    }

    /// How many bytes of a code object are read: up to the last field in use.
    pub(crate) fn code_size(&self) -> usize {
        let last = [self.code_lines, self.code_bytes, self.code_first_line, self.code_file];
        let last = last.into_iter().max().unwrap_or(0);
        usize::try_from(last.min(1 << 16) + 8).unwrap_or(0)
    }
}

fn style(minor: u32) -> FrameStyle {
    match minor {
        ..=10 => FrameStyle::Objects,
        11 => FrameStyle::EntryFlag,
        12 => FrameStyle::EntryFrameThroughCFrame,
        _ => FrameStyle::EntryFrame,
    }
}

/// The minor version of a `PY_VERSION_HEX` of Python 3.
pub(crate) fn minor_of_hex(hex: u64) -> Option<u32> {
    (hex >> 24 == 3).then_some((hex >> 16 & 0xff) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_offsets_of_unknown_versions_are_rejected() {
        let mut words = vec![0; 120];
        words[1] = 0x030f_0000;
        assert_eq!(Layout::of_debug_offsets(&words), None);
        words[1] = 0x030e_0000;
        assert!(Layout::of_debug_offsets(&words).is_some());
        words[34] = 1 << 40;
        assert_eq!(Layout::of_debug_offsets(&words), None, "an offset larger than any struct");
        assert_eq!(Layout::of_debug_offsets(&words[..60]), None);
    }
}
