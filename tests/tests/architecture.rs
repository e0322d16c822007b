//! The house stands: which crate may import which, and one gimli for all who read DWARF.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// What each crate may import of the others.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("pprof", &[]),
    ("image", &[]),
    ("unwind", &["image"]),
    ("symbolize", &["image"]),
    ("goruntime", &["image"]),
    ("pyruntime", &["image"]),
    ("host", &["image"]),
    ("process", &["image", "host"]),
    ("events", &["host"]),
    (
        "collect",
        &[
            "pprof",
            "image",
            "unwind",
            "symbolize",
            "goruntime",
            "pyruntime",
            "process",
            "host",
            "events",
        ],
    ),
    ("report", &["pprof"]),
    (
        "exoprof",
        &[
            "pprof",
            "image",
            "unwind",
            "symbolize",
            "goruntime",
            "pyruntime",
            "process",
            "host",
            "events",
            "collect",
            "report",
        ],
    ),
];

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

#[test]
fn arrows_point_one_way() {
    let metadata = metadata();
    let crates: BTreeMap<&str, _> =
        metadata.workspace_packages().into_iter().map(|p| (p.name.as_str(), p)).collect();
    let named: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    let outside = ["exoprof-tests", "exoprof-fuzz"];
    let known: BTreeSet<&str> = crates.keys().copied().filter(|n| !outside.contains(n)).collect();
    assert_eq!(known, named, "a new crate needs a row here");
    for (name, allowed) in MAY_IMPORT {
        let imports = crates[name]
            .dependencies
            .iter()
            .filter(|d| d.kind == DependencyKind::Normal && named.contains(d.name.as_str()));
        for import in imports {
            assert!(allowed.contains(&import.name.as_str()), "{name} imports {}", import.name);
        }
    }
}

#[test]
fn prost_and_object_live_in_one_place() {
    let metadata = metadata();
    for (library, home) in
        [("prost", &["pprof"][..]), ("object", &["image", "symbolize", "exoprof-tests"])]
    {
        let users: Vec<&str> = metadata
            .workspace_packages()
            .into_iter()
            .filter(|p| {
                let uses = |d: &cargo_metadata::Dependency| {
                    d.name == library && d.kind == DependencyKind::Normal
                };
                p.dependencies.iter().any(uses)
            })
            .map(|p| p.name.as_str())
            .collect();
        assert!(users.iter().all(|u| home.contains(u)), "{library} is used by {users:?}");
    }
}

#[test]
fn all_agree_on_one_gimli() {
    let metadata = metadata();
    let versions: BTreeSet<String> = metadata
        .packages
        .iter()
        .filter(|p| p.name.as_str() == "gimli")
        .map(|p| p.version.to_string())
        .collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
}
