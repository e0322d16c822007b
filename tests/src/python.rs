//! Finds the installed Python interpreters and runs scripts with them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Frame, Sample, Target, repository};

/// An interpreter and its root directory.
#[derive(Debug)]
pub struct Interpreter {
    root: PathBuf,
    program: String,
}

impl std::fmt::Display for Interpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.program, self.root.display())
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|e| e.path()).collect())
        .unwrap_or_default();
    all.sort();
    all
}

/// The machine's own interpreters, and those of other Debian releases, each unpacked by
/// `scripts/setup-tests` into its own root.
///
/// # Panics
/// When one is incomplete.
#[must_use]
pub fn interpreters() -> Vec<Interpreter> {
    let mut all = vec![Interpreter { root: "/".into(), program: "/usr/bin/python3".into() }];
    for root in entries(&repository().join(".cache/python")) {
        let is_python = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let digits = name.strip_prefix("python3.").unwrap_or("x");
            digits.bytes().all(|b| b.is_ascii_digit())
        };
        let program = entries(&root.join("usr/bin")).into_iter().find(is_python);
        let program = program.unwrap_or_else(|| panic!("no python in {}", root.display()));
        let program = program.strip_prefix(&root).expect("it is below its root");
        let program = format!("/{}", program.display());
        all.push(Interpreter { root, program });
    }
    for version in entries(Path::new("/root/.pyenv/versions")) {
        let minor = version.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let minor = minor.strip_prefix("3.").and_then(|v| v.split('.').next()?.parse().ok());
        if minor.is_some_and(|minor: u32| (9..=14).contains(&minor)) {
            let program = version.join("bin/python3").display().to_string();
            all.push(Interpreter { root: "/".into(), program });
        }
    }
    all
}

impl Interpreter {
    /// Whether its root is the machine's, and it therefore has the whole standard library.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A command that runs a script of `tests/targets` with it.
    ///
    /// # Panics
    /// When the script cannot be copied into its root.
    #[must_use]
    pub fn command(&self, script: &str, args: &[&str]) -> Command {
        let path = repository().join("tests/targets").join(script);
        let mut command = Command::new("chroot");
        command.arg(&self.root).arg(&self.program);
        if self.is_complete() {
            command.arg(path);
        } else {
            std::fs::copy(path, self.root.join(script)).expect("the script is copied");
            command.arg(format!("/{script}"));
        }
        command.args(args);
        command
    }

    /// Runs a script and makes it work until it is ended.
    #[must_use]
    pub fn start(&self, script: &str, args: &[&str]) -> Target {
        let mut target = Target::spawn_command(self.command(script, args));
        target.go(0);
        target
    }
}

/// The frames of Python functions, leaf first.
pub fn in_python(sample: &Sample) -> impl Iterator<Item = &Frame> {
    let is_python = |f: &&Frame| f.mapping.as_ref().is_some_and(|m| m.file == "[python]");
    sample.stack.iter().filter(is_python)
}

/// The name of a Python function without those of its class and enclosing functions.
#[must_use]
pub fn last_name(f: &Frame) -> &str {
    f.function.rsplit('.').next().unwrap_or_default()
}
