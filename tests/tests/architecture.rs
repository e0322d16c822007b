//! The house stands: which crate may import which, and one gimli for all who read DWARF.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use exoprof_tests::imports::Crate;

/// What each crate may import of the others.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("pprof", &[]),
    ("image", &[]),
    ("gopclntab", &["image"]),
    ("unwind", &["image", "gopclntab"]),
    ("symbolize", &["image", "gopclntab"]),
    ("goruntime", &["image", "gopclntab"]),
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
        ],
    ),
    ("report", &["pprof"]),
    ("console", &[]),
    ("serve", &["pprof", "process", "host", "collect", "report", "console"]),
    ("view", &["pprof", "report", "console"]),
    (
        "exoprof",
        &[
            "pprof",
            "image",
            "gopclntab",
            "unwind",
            "symbolize",
            "goruntime",
            "pyruntime",
            "process",
            "host",
            "events",
            "aggregate",
            "assemble",
            "collect",
            "report",
            "console",
            "serve",
            "view",
        ],
    ),
];

/// Files that need each other are read and changed together: no more than so many.
const MOST_IN_A_CIRCLE: usize = 3;
/// Crates that have a larger circle, and of how many files: no more is added to it.
const LARGER_CIRCLES: &[(&str, usize)] = &[("pprof", 5)];

fn metadata() -> Metadata {
    // Packages for other platforms were never downloaded.
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

/// Crates that others could use alone have package names with a prefix; rows here go without.
fn short(package: &str) -> &str {
    package.strip_prefix("exoprof-").unwrap_or(package)
}

#[test]
fn arrows_point_one_way() {
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
fn prost_object_and_anyhow_live_in_their_places() {
    let metadata = metadata();
    for (library, home) in [
        ("prost", &["pprof"][..]),
        ("object", &["image", "symbolize", "tests"]),
        // Errors of libraries are types of their own.
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
    // framehop, the oracle of unwind's tests, shares no type with us: it may lag behind.
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

/// How paths are read: see [`exoprof_tests::imports`].
#[test]
fn no_circle_of_more_than_three_files() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let name = short(&package.name);
        let src = package.manifest_path.with_file_name("src");
        if !MAY_IMPORT.iter().any(|(named, _)| *named == name) {
            continue;
        }
        let larger = LARGER_CIRCLES.iter().find(|(of, _)| *of == name).map(|(_, size)| *size);
        let most = larger.unwrap_or(MOST_IN_A_CIRCLE);
        let circles = Crate::read(src.as_std_path()).circles_of_more_than(most);
        wrong.extend(circles.into_iter().map(|files| format!("{name}: {} {files:?}", files.len())));
    }
    assert!(wrong.is_empty(), "files that all need each other:\n{}", wrong.join("\n"));
}
