//! Tests that the shell of `exoprof view` prints exactly what `go tool pprof` prints.

#[allow(dead_code)]
#[path = "../../report/tests/common/mod.rs"]
mod common;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../report/tests/data").join(name)
}

/// Runs a shell and feeds it these commands.
fn shell(command: &mut Command, commands: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the shell starts");
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn view(folder: &Path, args: &[&str], commands: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exoprof"));
    command.arg("view").args(args).env("HOME", folder).current_dir(folder);
    shell(&mut command, commands)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// All commands and options of both shells. The order matters: options stay set.
const COMMANDS: &str = "
top10
top -cum
top3
  top 5 -cum run
text 2
list run
list nowhere
peek main foo
peek json|main -run
tree
tree 5
traces
tags
tags thread -MainThread
comments
raw
sample_index=samples
top
sample_index=nothing
cpu
focus=main //: a comment
top
ignore=run
hide=e
tree
:
top
granularity=lines
top
granularity=filefunctions
top
granularity=files
top
granularity=addresses
top
granularity=nothing
granularity=functions
unit=ms
top
unit=minimum
compact_labels=false
top
nodecount=4
top
tree
nodecount=-1
trim=no
top
trim
sort=cum
top
cum=1
flat=1
top -json
divide_by=3
top
divide_by=1
relative_percentages
focus=run
top
focus=
noinlines=t
tree
noinlines=f
tagfocus=thread=.*
tagshow=thread$
traces
top 2 >out.txt
top 2 > more.txt
tree -
toop
focus
list
top >
edgefraction=x
options
quit
top";

#[test]
fn the_shell_answers_like_pprof() {
    for name in ["python.pb.gz", "go-vet.pb.gz"] {
        let file = recording(name);
        let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let args = [file.to_str().unwrap()];
        let pprof = shell(&mut common::pprof_command(theirs.path(), &args), COMMANDS);
        let own = view(ours.path(), &args, COMMANDS);
        assert!(own.status.success() && pprof.status.success());
        let expected = text(&pprof.stdout).replace("(pprof) ", "(exoprof) ");
        assert_eq!(text(&own.stdout), expected, "{name}");
        for redirected in ["out.txt", "more.txt"] {
            let read = |folder: &Path| std::fs::read_to_string(folder.join(redirected)).unwrap();
            assert_eq!(read(ours.path()), read(theirs.path()));
        }
        // `options` must print the same list, too.
        let options = |text: String| {
            text.lines().filter(|l| l.contains(" = ")).map(str::to_owned).collect::<Vec<_>>()
        };
        let (own, theirs) = (text(&own.stderr), text(&pprof.stderr));
        assert_eq!(options(own.clone()), options(theirs));
        assert!(own.contains("  nodefraction              = 0.005"), "{own}");
        assert!(own.contains("unrecognized command: \"toop\""), "{own}");
        assert!(
            own.contains("did you mean: focus=<val>") || own.contains("please specify"),
            "{own}"
        );
    }
}

#[test]
fn the_end_of_a_script_is_not_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = recording("python.pb.gz");
    let output = view(folder.path(), &["-q", file.to_str().unwrap()], "top2");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let stdout = text(&output.stdout);
    assert!(stdout.starts_with("(exoprof) Showing nodes"), "{stdout}");
    assert!(stdout.ends_with("(exoprof) "), "{stdout}");
}

#[test]
fn the_profile_can_be_saved() {
    let folder = tempfile::tempdir().unwrap();
    let file = recording("python.pb.gz");
    let output = view(folder.path(), &[file.to_str().unwrap()], "proto >copy.pb.gz\nproto\n");
    assert!(text(&output.stderr).contains("proto requires a file"), "{output:?}");
    let read = |path: &Path| pprof::decode(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(read(&folder.path().join("copy.pb.gz")), read(&file));
}

#[test]
fn help_knows_every_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = recording("python.pb.gz");
    let commands = "help\nhelp top\nhelp focus\nhelp lines\nhelp nothing\n";
    let output = view(folder.path(), &[file.to_str().unwrap()], commands);
    let stderr = text(&output.stderr);
    for part in ["  Commands:", "  Options:", "top [n]", "unknown command: nothing"] {
        assert!(stderr.contains(part), "{stderr}");
    }
}
