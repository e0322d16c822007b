//! Assigns frames to origins (packages, namespaces, binaries), which determine their color.

use std::collections::HashMap;

use pprof::Function;

use crate::go;
use crate::graph::{Graph, is_kernel, magnitude};
use crate::report::Report;

/// The kernel, which is orange as in other flame graphs.
const KERNEL: &str = "kernel";
const KERNEL_HUE: u32 = 22;
/// The heaviest other origin is blue.
const FIRST_HUE: u32 = 208;
/// The golden angle, with which successive hues are far apart, however many there are.
const NEXT_HUE: f64 = 137.507_764;

/// A package, a namespace, a script, or a binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) name: String,
    /// Degrees on the color wheel.
    pub(super) hue: u32,
    /// The flat weight of its code.
    pub(super) weight: u64,
}

/// All origins, heaviest first, and the origin of each entry.
#[derive(Debug, Default)]
pub(super) struct Origins {
    pub(super) all: Vec<Origin>,
    pub(super) of_entries: Vec<usize>,
}

impl Origins {
    /// The hue of an entry. `None` for names that are not code.
    pub(super) fn hue(&self, entry: u32) -> Option<u32> {
        let origin = self.of_entries.get(entry as usize)?;
        Some(self.all.get(*origin)?.hue)
    }
}

impl Report<'_> {
    pub(super) fn origins(&self) -> Origins {
        let graph = Graph::new(&self.work, self.detail(), self.value);
        let profile = self.work.profile;
        let mut names: Vec<Option<String>> = vec![None; graph.nodes.len()];
        let nothing = [pprof::Line::default()];
        for (at, location) in profile.locations.iter().enumerate() {
            let mapping = location.mapping.and_then(|m| profile.mappings.get(m.index()));
            let binary = mapping.map_or("", |m| &*m.file);
            let lines = match self.work.lines(at) {
                [] => nothing.as_slice(),
                lines => lines,
            };
            for (id, line) in graph.at(crate::graph::location_index(at)).iter().zip(lines) {
                let function = line.function.and_then(|f| profile.functions.get(f.index()));
                names[*id as usize].get_or_insert_with(|| origin(function, binary));
            }
        }
        let mut weights: HashMap<&str, u64> = HashMap::new();
        for (name, node) in names.iter().zip(&graph.nodes) {
            let sum = weights.entry(name.as_deref().unwrap_or_default()).or_default();
            *sum = sum.saturating_add(magnitude(node.flat).unsigned_abs());
        }
        let mut sorted: Vec<(&str, u64)> = weights.into_iter().collect();
        sorted.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut all = Vec::with_capacity(sorted.len());
        let mut hues = 0;
        for (name, weight) in sorted {
            let hue = if name == KERNEL { KERNEL_HUE } else { nth_hue(hues) };
            hues += u32::from(name != KERNEL);
            numbers.insert(name, all.len());
            all.push(Origin { name: printable::line(name).into_owned(), hue, weight });
        }
        let of = |name: &Option<String>| numbers[name.as_deref().unwrap_or_default()];
        Origins { of_entries: names.iter().map(of).collect(), all }
    }
}

/// The n-th hue, at a distance from the kernel's.
fn nth_hue(n: u32) -> u32 {
    let hue = go::truncated_from_0(f64::from(FIRST_HUE) + f64::from(n) * NEXT_HUE) % 360;
    let hue = u32::try_from(hue).unwrap_or(0);
    if hue.abs_diff(KERNEL_HUE) < 14 { hue + 40 } else { hue }
}

/// The origin of a function in a binary.
fn origin(function: Option<&Function>, binary: &str) -> String {
    if is_kernel(binary) {
        return KERNEL.to_owned();
    }
    let in_binary = || match binary {
        "" => "unknown".to_owned(),
        file => go::base(file).to_owned(),
    };
    let Some(function) = function else { return in_binary() };
    if function.filename.ends_with(".py") {
        return go::base(&function.filename).to_owned();
    }
    package(&function.name).map_or_else(in_binary, str::to_owned)
}

/// The package of a Go function (`net/http.(*conn).serve`), or the outermost namespace of a C++ or
/// Rust function. `None` for a C function.
fn package(name: &str) -> Option<&str> {
    if let Some(at) = name.find("::") {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let before = &name[..at];
        let begin = before
            .rfind(|c| !is_part(c))
            .map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8));
        return Some(&before[begin..]).filter(|s| !s.is_empty() && !before.ends_with(')'));
    }
    if name.contains(['+', '[', '@']) || name.starts_with('.') {
        return None;
    }
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let dot = last + name[last..].find('.')?;
    // Compilers add such suffixes to C functions.
    let suffix = name[dot + 1..].split('.').next().unwrap_or_default();
    let is_suffix = suffix.starts_with(|c: char| c.is_ascii_digit())
        || matches!(
            suffix,
            "part" | "isra" | "constprop" | "cold" | "lto_priv" | "llvm" | "localalias"
        );
    (!is_suffix && dot > last).then(|| &name[..dot])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages() {
        for (name, expected) in [
            ("runtime.mallocgc", Some("runtime")),
            ("net/http.(*conn).serve", Some("net/http")),
            ("example.com/x/y.F.func1", Some("example.com/x/y")),
            ("std::vector<int, std::allocator<int> >::push_back(int&&)", Some("std")),
            ("void rocksdb::Put<char>(int)", Some("rocksdb")),
            ("<alloc::vec::Vec<T> as Drop>::drop", Some("alloc")),
            ("(anonymous namespace)::helper(int)", None),
            ("größe::ändern", Some("größe")),
            ("memcpy", None),
            ("memcpy.part.0", None),
            ("foo.constprop.3.isra.1", None),
            ("redis-server+0x64da0", None),
            ("memcpy@plt", None),
            ("[truncated stack]", None),
            (".hidden", None),
            ("::x", None),
            ("", None),
        ] {
            assert_eq!(package(name), expected, "{name}");
        }
    }

    #[test]
    fn colours_differ() {
        let hues: Vec<u32> = (0..8).map(nth_hue).chain([KERNEL_HUE]).collect();
        for (at, one) in hues.iter().enumerate() {
            assert!(*one < 400);
            for other in &hues[at + 1..] {
                let apart = one.abs_diff(*other) % 360;
                assert!(apart.min(360 - apart) >= 12, "{hues:?}");
            }
        }
    }
}
