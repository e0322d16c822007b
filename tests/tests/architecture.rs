//! Checks the architecture: which crate may import which, no large import cycles, and a single
//! version of gimli.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use exoprof_tests::imports::Crate;

/// The workspace crates that each crate may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("printable", &[]),
    ("pprof", &[]),
    ("image", &[]),
    ("gopclntab", &["image"]),
    ("unwind", &["image", "gopclntab"]),
    ("symbolize", &["image", "gopclntab"]),
    ("goruntime", &["image", "gopclntab", "printable"]),
    ("pyruntime", &["image"]),
    ("host", &["image"]),
    ("process", &["image", "host"]),
    ("events", &["host"]),
    (
        "aggregate",
        &[
            "image",
            "gopclntab",
            "unwind",
            "symbolize",
            "goruntime",
            "pyruntime",
            "process",
            "host",
            "events",
        ],
    ),
    ("assemble", &["pprof", "image", "unwind", "symbolize", "process", "host", "aggregate"]),
    (
        "collect",
        &[
            "pprof",
            "image",
            "gopclntab",
            "unwind",
            "goruntime",
            "process",
            "host",
            "events",
            "aggregate",
            "assemble",
            "printable",
        ],
    ),
    ("report", &["pprof", "printable"]),
    ("console", &["host", "printable"]),
    ("serve", &["pprof", "process", "host", "collect", "report", "console", "printable"]),
    ("view", &["pprof", "host", "report", "console", "printable"]),
    (
        "exoprof",
        &["pprof", "process", "host", "collect", "report", "console", "serve", "view", "printable"],
    ),
];

/// Files that import each other in a cycle must be read and changed together: a cycle has at most
/// this many.
const MAX_CYCLE: usize = 3;

/// What names a particular language runtime, and the folders and files where it may occur: the
/// runtime's part in a recording, which all other code sees as a row of a table, and the profiles
/// that it records itself.
const RUNTIMES: &[(&str, &[&str])] = &[
    ("runtimes::go", &[]),
    ("runtimes::jit", &[]),
    ("runtimes::python", &[]),
    (
        "goruntime::",
        &[
            "aggregate/src/runtimes/go/",
            "collect/src/go/",
            "collect/src/outcome.rs",
            "runtimes/go/",
        ],
    ),
    ("pyruntime::", &["aggregate/src/runtimes/python/", "runtimes/python/"]),
    ("symbolize::jit", &["aggregate/src/runtimes/jit.rs", "symbolize/"]),
    ("GoroutineCapture", &["aggregate/src/runtimes/go/", "events/"]),
    ("GoStacks", &["aggregate/src/runtimes/", "unwind/"]),
];

fn metadata() -> Metadata {
    // Packages for other platforms are not downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .other_options([
            "--offline".into(),
            "--locked".into(),
            "--filter-platform".into(),
            platform,
        ])
        .exec()
        .expect("cargo metadata")
}

/// Strips the prefix of published packages' names; the tables in this file use names without it.
fn short(package: &str) -> &str {
    package.strip_prefix("exoprof-").unwrap_or(package)
}

#[test]
fn crates_import_only_what_is_allowed() {
    let metadata = metadata();
    let crates: BTreeMap<&str, _> =
        metadata.workspace_packages().into_iter().map(|p| (short(&p.name), p)).collect();
    let named: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    let outside = ["tests", "fuzz"];
    let known: BTreeSet<&str> = crates.keys().copied().filter(|n| !outside.contains(n)).collect();
    assert_eq!(known, named, "a new crate needs a row here");
    for (name, allowed) in MAY_IMPORT {
        let imports = crates[name]
            .dependencies
            .iter()
            .filter(|d| d.kind == DependencyKind::Normal && named.contains(short(&d.name)));
        for import in imports {
            assert!(allowed.contains(&short(&import.name)), "{name} imports {}", import.name);
        }
    }
}

#[test]
fn prost_object_and_anyhow_are_used_where_allowed() {
    let metadata = metadata();
    for (library, home) in [
        ("prost", &["pprof"][..]),
        ("object", &["image", "symbolize", "tests"]),
        // Libraries have their own error types.
        ("anyhow", &["exoprof", "fuzz"]),
    ] {
        let users: Vec<&str> = metadata
            .workspace_packages()
            .into_iter()
            .filter(|p| {
                let uses = |d: &cargo_metadata::Dependency| {
                    d.name == library && d.kind == DependencyKind::Normal
                };
                p.dependencies.iter().any(uses)
            })
            .map(|p| short(&p.name))
            .collect();
        assert!(users.iter().all(|u| home.contains(u)), "{library} is used by {users:?}");
    }
}

#[test]
fn all_agree_on_one_gimli() {
    let metadata = metadata();
    let packages: BTreeMap<_, _> = metadata.packages.iter().map(|p| (&p.id, p)).collect();
    let resolve = metadata.resolve.as_ref().expect("a dependency graph");
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in &resolve.nodes {
        for dependency in &node.deps {
            let package = packages[&dependency.pkg];
            if package.name.as_str() == "gimli" {
                let user = packages[&node.id].name.to_string();
                versions.entry(user).or_default().insert(package.version.to_string());
            }
        }
    }
    // framehop, the reference in unwind's tests, shares no type with us, so its version may differ.
    versions.remove("framehop");
    let distinct: BTreeSet<_> = versions.values().flatten().collect();
    assert_eq!(distinct.len(), 1, "{versions:?}");
    assert!(versions.contains_key("addr2line"), "{versions:?}");
}

#[test]
fn framehop_is_only_used_in_tests() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        for dependency in package.dependencies.iter().filter(|d| d.name == "framehop") {
            assert_eq!(dependency.kind, DependencyKind::Development, "{}", package.name);
        }
    }
}

/// See [`exoprof_tests::imports`] for how imports are found.
#[test]
fn no_import_cycle_of_more_than_three_files() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let name = short(&package.name);
        let src = package.manifest_path.with_file_name("src");
        if !MAY_IMPORT.iter().any(|(named, _)| *named == name) {
            continue;
        }
        let cycles = Crate::read(src.as_std_path()).cycles_of_more_than(MAX_CYCLE);
        wrong.extend(cycles.into_iter().map(|files| format!("{name}: {} {files:?}", files.len())));
    }
    assert!(wrong.is_empty(), "files that import each other in a cycle:\n{}", wrong.join("\n"));
}

#[test]
fn runtimes_are_named_only_in_their_own_code() {
    let crates = exoprof_tests::repository().join("crates");
    let mut files = Vec::new();
    list_sources(&crates, &mut files);
    assert!(files.len() > 100, "{} files", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("source");
        let code: Vec<&str> = text.lines().filter_map(|line| line.split("//").next()).collect();
        let code = code.join("\n");
        let file = path.strip_prefix(&crates).expect("below").display().to_string();
        let named = RUNTIMES.iter().filter(|(name, _)| code.contains(name));
        let named = named.filter(|(_, homes)| !homes.iter().any(|home| file.starts_with(home)));
        wrong.extend(named.map(|(name, _)| format!("{file}: {name}")));
    }
    assert!(wrong.is_empty(), "files that name a runtime:\n{}", wrong.join("\n"));
    let table = std::fs::read_to_string(crates.join("aggregate/src/runtimes/mod.rs"));
    let table = table.expect("the table of runtimes");
    let public = table.lines().filter(|line| line.starts_with("pub") && line.contains(" mod "));
    assert_eq!(public.collect::<Vec<_>>(), [""; 0], "modules of runtimes are private");
}

/// What a library has to say goes into errors, notes or `tracing`.
#[test]
fn libraries_do_not_print() {
    let deny = "#![deny(clippy::print_stderr, clippy::print_stdout)]";
    for package in metadata().workspace_packages() {
        let lib = package.manifest_path.with_file_name("src").join("lib.rs");
        let text = std::fs::read_to_string(&lib).unwrap_or_default();
        if MAY_IMPORT.iter().any(|(named, _)| *named == short(&package.name)) {
            assert!(text.contains(deny), "{lib} does not deny printing");
        }
    }
}

/// The source files of all crates, without tests.
fn list_sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        let is_test = path.file_name().is_some_and(|name| name == "tests");
        if path.is_dir() && !is_test {
            list_sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// Ways to change the file system by a path, which another user could have exchanged meanwhile.
const WRITES: &[&str] = &[
    "File::create",
    "OpenOptions",
    "File::options",
    "fs::write",
    "fs::copy",
    "create_dir",
    "DirBuilder",
    "fs::rename",
    "fs::remove",
    "fs::hard_link",
    "symlink(",
    "fs::set_permissions",
    ".set_permissions(",
    "NamedTempFile",
    "tempfile",
    "chown(",
    "fchmodat",
    "mkfifo",
];

/// Files in which a line of [`WRITES`] may occur: the module for it, and code that only reads.
const MAY_WRITE: &[(&str, &[&str])] = &[
    ("host/src/files.rs", &["DirBuilder", "fchmodat", "chown("]),
    ("host/src/user.rs", &["chown("]),
    // The lock of the spool, by its descriptor.
    ("serve/src/push/spool.rs", &["chown("]),
    // Opens for reading, with flags.
    ("symbolize/src/files.rs", &["OpenOptions", "File::options"]),
];

#[test]
fn files_are_written_by_one_module() {
    let crates = exoprof_tests::repository().join("crates");
    let mut files = Vec::new();
    list_sources(&crates, &mut files);
    let mut wrong = Vec::new();
    for path in files {
        let file = path.strip_prefix(&crates).expect("below").display().to_string();
        if !file.contains("/src/") || file.ends_with("/tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("source");
        // Unit tests are at the end of a file.
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let allowed = MAY_WRITE.iter().find(|(named, _)| *named == file);
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            let found = WRITES.iter().filter(|write| line.contains(*write));
            let found = found.filter(|write| !allowed.is_some_and(|(_, of)| of.contains(write)));
            wrong.extend(found.map(|write| format!("{file}:{}: {write}", number + 1)));
        }
    }
    assert!(wrong.is_empty(), "use host::files:\n{}", wrong.join("\n"));
}
