//! Reads the type information (BTF) of a committed object, to compare our mirrors with its
//! structures. The format: Documentation/bpf/btf.rst.

use std::collections::HashMap;

use object::{Object as _, ObjectSection as _};

const KIND_STRUCT: u32 = 4;

/// The structures of an object: by name their size and the offsets of their fields, in bytes.
pub(super) struct Structures(HashMap<String, (usize, HashMap<String, usize>)>);

impl Structures {
    pub fn of(object: &super::Object) -> Self {
        let file = object::File::parse(object.bytes).unwrap();
        let btf = file.section_by_name(".BTF").unwrap().data().unwrap();
        let word = |at: usize| u32::from_le_bytes(btf[at..at + 4].try_into().unwrap());
        assert_eq!(word(0) & 0xffff, 0xeb9f, "magic number");
        let [header, types, types_len, strings] = [4, 8, 12, 16].map(|at| word(at) as usize);
        let name = |offset: u32| {
            let text = &btf[header + strings + offset as usize..];
            String::from_utf8(text.split(|b| *b == 0).next().unwrap().to_vec()).unwrap()
        };
        let mut found = HashMap::new();
        let (mut at, end) = (header + types, header + types + types_len);
        while at < end {
            let (info, size) = (word(at + 4), word(at + 8) as usize);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let after = at + 12;
            if kind == KIND_STRUCT {
                let field = |i: usize| {
                    let at = after + 12 * i;
                    // The upper byte is a bit field's size.
                    (name(word(at)), (word(at + 8) & 0xff_ffff) as usize / 8)
                };
                found.insert(name(word(at)), (size, (0..count).map(field).collect()));
            }
            // What follows the head of each kind.
            at = after
                + match kind {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    4 | 5 | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    _ => 0,
                };
        }
        Self(found)
    }

    pub fn size(&self, structure: &str) -> usize {
        self.get(structure).0
    }

    pub fn offset(&self, structure: &str, field: &str) -> usize {
        let fields = &self.get(structure).1;
        *fields.get(field).unwrap_or_else(|| panic!("struct {structure} has no {field}"))
    }

    fn get(&self, structure: &str) -> &(usize, HashMap<String, usize>) {
        self.0.get(structure).unwrap_or_else(|| panic!("no struct {structure}"))
    }
}

/// Asserts that mirrors have the fields that the object's structures have, at the same offsets.
/// With `..tail` the structure goes on with an array of that name, where the mirror ends.
macro_rules! assert_mirrors {
    ($structures:expr, $($c:literal => $mirror:ty { $($field:ident),+ $(; .. $tail:ident)? })+) => {$(
        $(assert_eq!(
            std::mem::offset_of!($mirror, $field),
            $structures.offset($c, stringify!($field)),
            "{}.{}", $c, stringify!($field),
        );)+
        #[allow(unused_mut, unused_assignments)]
        let mut size = $structures.size($c);
        $(size = $structures.offset($c, stringify!($tail));)?
        assert_eq!(size_of::<$mirror>(), size, "size of struct {}", $c);
    )+};
}
pub(super) use assert_mirrors;
