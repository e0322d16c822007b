//! Finds which source file of a crate imports which, and import cycles among them.
//!
//! Paths are read from the source text, without the compiler: `use` trees, and paths in code that
//! begin with `crate`, `self`, `super` or a child that the file declares. A path resolves to the
//! file of the longest module prefix it names. If that file re-exports the next name, the path is
//! followed to where the name is defined; importing `crate::Item` thus does not depend on
//! everything a `lib.rs` lists. Declaring a child (`mod x;`) or re-exporting an item (`pub use`) is
//! no dependency. Test code is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The longest chain of re-exports that is followed.
const MAX_HOPS: usize = 8;

/// A module: its path from the root of its crate.
type Module = Vec<String>;

/// A `use` declaration or a path in code, resolved from the crate root, and the name it introduces
/// in the file, if any.
struct Import {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

struct File {
    path: PathBuf,
    imports: Vec<Import>,
}

/// The files of one crate.
pub struct Crate {
    modules: BTreeMap<Module, File>,
}

impl Crate {
    /// Reads the files below a `src` folder.
    ///
    /// # Panics
    /// When the folder cannot be read.
    #[must_use]
    pub fn read(src: &Path) -> Self {
        let mut files = Vec::new();
        list(src, &mut files);
        let texts: Vec<(Module, PathBuf, String)> = files
            .into_iter()
            .filter_map(|file| {
                let path = file.strip_prefix(src).expect("below src").to_owned();
                let module = module_of(&path)?;
                let text = std::fs::read_to_string(&file).expect("source");
                Some((module, path, plain(&text)))
            })
            .collect();
        Self::of(texts)
    }

    fn of(texts: Vec<(Module, PathBuf, String)>) -> Self {
        let file = |(module, path, text): (Module, PathBuf, String)| {
            let imports = imports(&text, &module);
            (module, File { path, imports })
        };
        Self { modules: texts.into_iter().map(file).collect() }
    }

    /// The files that each file depends on.
    fn edges(&self) -> BTreeMap<&Module, BTreeSet<&Module>> {
        let needs = |(module, file): (&'_ Module, &File)| -> BTreeSet<&Module> {
            let used = file.imports.iter().filter(|i| !i.is_public);
            let found = used.filter_map(|i| self.home(&i.path));
            found.filter(|m| *m != module).collect()
        };
        self.modules.iter().map(|(module, file)| (module, needs((module, file)))).collect()
    }

    /// The module whose file defines what a path names.
    fn home(&self, path: &[String]) -> Option<&Module> {
        let mut path = path.to_vec();
        for _ in 0..MAX_HOPS {
            let depth = (0..=path.len()).rev().find(|n| self.modules.contains_key(&path[..*n]))?;
            let (module, file) = self.modules.get_key_value(&path[..depth])?;
            let re_export = path.get(depth).and_then(|name| {
                file.imports.iter().find(|i| i.is_public && i.name == *name && i.path != path)
            });
            match re_export {
                Some(i) => path = [&i.path, &path[depth + 1..]].concat(),
                None => return Some(module),
            }
        }
        None
    }

    /// Import cycles: sets of more than `most` files that all depend on each other, directly or
    /// indirectly, each as the paths of its files.
    #[must_use]
    pub fn cycles_of_more_than(&self, most: usize) -> Vec<Vec<PathBuf>> {
        let edges = self.edges();
        let reach: BTreeMap<&Module, BTreeSet<&Module>> =
            edges.keys().map(|m| (*m, reachable(m, &edges))).collect();
        let mut seen = BTreeSet::new();
        let mut cycles = Vec::new();
        for module in edges.keys() {
            let cycle: Vec<&Module> =
                reach[*module].iter().filter(|m| reach[**m].contains(*module)).copied().collect();
            if cycle.len() > most && seen.insert(cycle.clone()) {
                cycles.push(cycle.iter().map(|m| self.modules[*m].path.clone()).collect());
            }
        }
        cycles
    }
}

fn reachable<'a>(
    from: &'a Module,
    edges: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
) -> BTreeSet<&'a Module> {
    let mut found = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        next.extend(edges[module].iter().filter(|m| found.insert(**m)));
    }
    found
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            list(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// The module of a file; `None` for test code.
fn module_of(path: &Path) -> Option<Module> {
    let mut parts: Module =
        path.with_extension("").iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|p| ["mod", "lib", "main"].contains(&p.as_str())) {
        parts.pop();
    }
    (!parts.iter().any(|p| p == "tests")).then_some(parts)
}

/// The source text without comments, string contents and test modules.
fn plain(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let mut out = String::new();
    let mut tests = false;
    for line in lines {
        tests |= line.starts_with("#[cfg(test)]");
        if !tests {
            let outside = line.split('"').step_by(2);
            outside.for_each(|part| out += part);
            out.push('\n');
        }
        // A test module ends with a brace at the left margin.
        tests &= !(line.starts_with('}') || line.starts_with("mod ") && line.ends_with(';'));
    }
    out
}

fn imports(text: &str, module: &Module) -> Vec<Import> {
    let mut found = Vec::new();
    let mut children = BTreeSet::new();
    for statement in text.split([';', '{', '}']) {
        let words: Vec<&str> = statement.split_whitespace().collect();
        if let [.., "mod", child] = words[..] {
            children.insert(child.to_owned());
        }
    }
    let mut bodies = String::new();
    let mut rest = text;
    while let Some((at, begin)) = next_use(rest) {
        let end = begin + rest[begin..].find(';').unwrap_or(rest.len() - begin);
        let line = rest[..at].rsplit('\n').next().unwrap_or_default();
        let is_public = line.trim_start().starts_with("pub");
        for (path, name) in leaves(&rest[begin..end]) {
            let path: Vec<&str> = path.split("::").map(str::trim).collect();
            found.extend(import(&path, name, is_public, module, &children));
        }
        bodies += &rest[..at];
        rest = &rest[end..];
    }
    bodies += rest;
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let paths = bodies.split(|c| !is_part(c)).map(|p| p.trim_end_matches(':'));
    for path in paths.filter(|p| p.contains("::")) {
        let path: Vec<&str> = path.split("::").collect();
        found.extend(import(&path, String::new(), false, module, &children));
    }
    found
}

/// The next `use` declaration: the offsets of its keyword and of its tree.
fn next_use(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find("use ")?;
        let before = text[..at].rsplit('\n').next().unwrap_or_default().trim();
        if before.is_empty() || before.starts_with("pub") {
            return Some((at, at + 4));
        }
        from = at + 4;
    }
}

/// The paths of a `use` tree, each with the name it introduces.
fn leaves(tree: &str) -> Vec<(String, String)> {
    let Some((before, inner)) = tree.split_once('{') else {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(p, a)| (p, Some(a)));
        let path = path.trim().trim_end_matches("::self").to_owned();
        let name = alias.or_else(|| path.rsplit("::").next()).unwrap_or_default();
        return vec![(path.clone(), name.trim().to_owned())];
    };
    let inner = &inner[..inner.rfind('}').unwrap_or(inner.len())];
    let mut depth = 0;
    let parts = inner.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts = parts.filter(|p| !p.trim().is_empty());
    parts.flat_map(|part| leaves(&format!("{}{}", before.trim(), part.trim()))).collect()
}

/// Resolves a path from the crate root; `None` for a path into another crate.
fn import(
    path: &[&str],
    name: String,
    is_public: bool,
    module: &Module,
    children: &BTreeSet<String>,
) -> Option<Import> {
    let first = *path.first()?;
    let ups = path.iter().take_while(|p| **p == "super").count();
    let begin = match first {
        "crate" => Vec::new(),
        "self" => module.clone(),
        "super" => module[..module.len().checked_sub(ups)?].to_vec(),
        child if children.contains(child) => module.clone(),
        _ => return None,
    };
    let skip = if children.contains(first) { 0 } else { ups.max(1) };
    let rest = path[skip..].iter().map(|p| (*p).to_owned());
    Some(Import { path: begin.into_iter().chain(rest).collect(), name, is_public })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(of: &[(&str, &str)]) -> Crate {
        let texts = of.iter().map(|(path, text)| {
            let path = PathBuf::from(path);
            (module_of(&path).expect("no tests"), path, plain(text))
        });
        Crate::of(texts.collect())
    }

    fn cycles(of: &[(&str, &str)]) -> Vec<Vec<PathBuf>> {
        files(of).cycles_of_more_than(1)
    }

    #[test]
    fn a_cycle_is_reported_by_its_files() {
        let found = cycles(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a.rs", "use crate::b::{self, B};\n"),
            ("b/mod.rs", "mod inner;\nfn f() { inner::g() }\n"),
            ("b/inner.rs", "fn g() { super::super::c::h() }\n"),
            ("c.rs", "use std::io;\n\nuse crate::a::A as Other;\n"),
        ]);
        let cycle = ["a.rs", "b/mod.rs", "b/inner.rs", "c.rs"].map(PathBuf::from);
        assert_eq!(found, [cycle]);
    }

    #[test]
    fn a_name_is_followed_to_where_it_comes_from() {
        let lib = "mod a;\nmod b;\npub use a::{A, A2 as Renamed};\npub use self::b::B;\n";
        assert!(cycles(&[("lib.rs", lib), ("a.rs", ""), ("b.rs", "use crate::A;\n")]).is_empty());
        let both =
            [("lib.rs", lib), ("a.rs", "use crate::B;\n"), ("b.rs", "use crate::Renamed;\n")];
        assert_eq!(cycles(&both), [["a.rs", "b.rs"].map(PathBuf::from)]);
    }

    #[test]
    fn comments_strings_and_tests_are_no_dependencies() {
        let a = "//! [`crate::b`]\nconst P: &str = \"crate::b::B\";\n\n#[cfg(test)]\nmod tests {\n    \
                 use crate::b::B;\n}\n";
        let b = "use crate::a::P;\n";
        assert!(cycles(&[("lib.rs", "mod a;\nmod b;\n"), ("a.rs", a), ("b.rs", b)]).is_empty());
    }
}
