//! The table of offsets against the DWARF of each toolchain.

mod common;

use std::collections::HashMap;
use std::process::Command;

use common::{for_each_version, goroot, workspace};
use goruntime::Layout;

#[test]
fn offsets_are_those_that_the_toolchain_has() {
    for_each_version(|version| {
        let output = Command::new(workspace().join("scripts/go-offsets"))
            .arg(goroot(version))
            .env("GOCACHE", workspace().join(".cache/gocache"))
            .env("GOMAXPROCS", "1")
            .output()
            .expect("scripts/go-offsets");
        let text = String::from_utf8(output.stdout).expect("text");
        let printed: HashMap<&str, Option<u64>> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, offset)| (name, offset.parse().ok()))
            .collect();
        let minor = version.split('.').nth(1).and_then(|m| m.parse().ok()).expect("a version");
        let rows = Layout::of_minor(minor).expect("a layout").rows();
        for (name, offset) in rows {
            let theirs = printed.get(name);
            assert_eq!(
                Some(&offset),
                theirs,
                "{version}: {name}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    });
}
