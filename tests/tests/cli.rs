//! Tests of the command line: output names, failures before anything is recorded, helpful messages.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use exoprof_tests::programs;
use exoprof_tests::recorder::{binary, without_tracefs};
use exoprof_tests::server::open_folder;
use exoprof_tests::{Profile, Recorder, Target, exoprof};
use nix::sys::signal::Signal;

/// The user `nobody`, who has no rights over root's processes.
const NOBODY: u32 = 65534;

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn names_count_up_and_nothing_is_overwritten() {
    let target = Target::working(programs::SHARES, &[]);
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().unwrap();
    let name = |n: usize| format!("exoprof.shares.{pid}.cpu.{n:03}.pb.gz");
    // Somebody else's file already has the second name.
    fs::write(folder.path().join(name(2)), "mine").unwrap();
    for _ in 0..2 {
        let output = exoprof()
            .args(["record", "-p", &pid, "-d", "300ms"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(names_in(folder.path()), [name(1), name(2), name(3)]);
    assert_eq!(fs::read(folder.path().join(name(2))).unwrap(), b"mine");
    let _ = Profile::decode(&fs::read(folder.path().join(name(3))).unwrap());
}

/// The target chooses its process name; the name must not lead out of the output folder.
#[test]
fn hostile_process_names() {
    let script = "printf '../../e\\nv\\033[1m' >/proc/$$/comm; echo ready; \
                  while :; do read -t 0 && exit 0; done";
    let mut command = Command::new("bash");
    command.args(["-c", script]);
    let target = Target::spawn_command(command);
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("a/b");
    fs::create_dir_all(&folder).unwrap();
    let output = exoprof()
        .args(["record", "-p", &target.pid().to_string(), "-d", "500ms"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = names_in(&folder);
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(names[0].starts_with("exoprof.") && names[0].ends_with(".cpu.001.pb.gz"), "{names:?}");
    assert!(!names[0].contains(['\n', '\u{1b}']), "{names:?}");
    assert!(!output.stderr.contains(&0x1b), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names_in(outer.path()), ["a"]);
}

/// Runs a recording that must fail immediately: a recording would last ten minutes.
#[track_caller]
fn assert_fails_at_once(recorder: Recorder, code: i32, words: &[&str]) {
    let began = Instant::now();
    let outcome = recorder.args(["-d", "10m"]).run();
    assert!(began.elapsed() < Duration::from_secs(300), "it recorded before it failed");
    assert_eq!(outcome.status.code(), Some(code), "{outcome}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    let stderr = outcome.stderr.to_lowercase();
    for word in words {
        assert!(stderr.contains(&word.to_lowercase()), "the message lacks {word:?}: {outcome}");
    }
}

#[test]
fn existing_output_needs_force() {
    let target = Target::working(programs::SHARES, &[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("there.pb.gz");
    fs::write(&path, "mine").unwrap();
    let with_output = || Recorder::of(target.pid()).name_itself().args([Path::new("-o"), &path]);
    assert_fails_at_once(with_output(), 1, &["there.pb.gz", "--force"]);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let outcome = with_output().args(["-d", "300ms", "--force"]).run();
    assert!(outcome.status.success(), "{outcome}");
    let _ = Profile::decode(&fs::read(&path).unwrap());
    assert_eq!(names_in(folder.path()), ["there.pb.gz"]);
}

#[test]
fn unwritable_outputs_fail() {
    let target = Target::working(programs::SHARES, &[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let below_a_file = file.path().join("x.pb.gz");
    for path in ["/nonexistent/x.pb.gz", "/proc/x.pb.gz", below_a_file.to_str().unwrap()] {
        let recorder = Recorder::of(target.pid()).name_itself().args(["-o", path]);
        assert_fails_at_once(recorder, 1, &[path]);
    }
}

#[test]
fn output_to_stdout() {
    let target = Target::working(programs::SHARES, &[]);
    let outcome = Recorder::of(target.pid()).name_itself().args(["-d", "500ms", "-o", "-"]).run();
    assert!(outcome.status.success(), "{outcome}");
    assert!(Profile::decode(&outcome.stdout).total("samples") > 0);
    assert_eq!(outcome.files(), Vec::<String>::new());
    assert!(outcome.stderr.contains("heavy_a"), "{outcome}");
}

/// As in `exoprof record … 2>&1 | head -3`: the reader closes the pipe before all is printed.
#[test]
fn stderr_is_a_closed_pipe() {
    let target = Target::working(programs::SHARES, &[]);
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = exoprof()
        .args(["-v", "record", "cpu,wall", "-d", "300ms", "-p", &target.pid().to_string()])
        .stderr(writer)
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(names_in(folder.path()).len(), 2);
}

#[test]
fn owner_under_sudo() {
    let target = Target::working(programs::SHARES, &[]);
    let nobody = NOBODY.to_string();
    for named in [true, false] {
        let mut recorder = Recorder::of(target.pid())
            .args(["-d", "300ms"])
            .env("SUDO_UID", &nobody)
            .env("SUDO_GID", &nobody);
        if !named {
            recorder = recorder.name_itself();
        }
        let outcome = recorder.run();
        assert!(outcome.status.success(), "{outcome}");
        let file = outcome.folder.path().join(&outcome.files()[0]);
        let file = fs::metadata(file).unwrap();
        assert_eq!((file.uid(), file.gid()), (NOBODY, NOBODY));
    }
}

#[test]
fn durations() {
    let target = Target::working(programs::SHARES, &[]);
    for (form, least) in [("1", 1000), ("1s", 1000), ("700ms", 700)] {
        let recording = Recorder::of(target.pid()).args(["-d", form]).run().recording();
        let lasted = recording.profile.duration_nanos / 1_000_000;
        assert!((least..least + 900).contains(&lasted), "{form} lasted {lasted} ms");
    }
    let mut running = Recorder::of(target.pid()).args(["-d", "2m"]).start();
    running.wait_recording();
    running.signal(Signal::SIGINT);
    let _ = running.finish().recording();
}

#[test]
fn wrong_usage_is_status_2() {
    let wrong: &[&[&str]] = &[
        &[],
        &["record"],
        &["nonsense"],
        &["record", "-p"],
        &["record", "-p", "x"],
        &["record", "-p", "-1"],
        &["record", "-p", "0"],
        &["record", "-p", "1", "--nonsense"],
        &["record", "nonsense", "-p", "1"],
        &["record", "-p", "1", "-d", "soon"],
        &["record", "-p", "1", "-d", "0"],
        &["record", "-p", "1", "-d", "-1s"],
        &["record", "-p", "1", "-F", "0"],
        &["record", "-p", "1", "-F", "x"],
        &["record", "-p", "1", "--backend", "nonsense"],
        &["record", "-p", "1", "--", "true"],
    ];
    for args in wrong {
        let output = exoprof().args(*args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(!stderr.is_empty() && output.stdout.is_empty(), "{args:?}: {stderr}");
    }
}

#[test]
fn help_shows_an_example() {
    for command in ["record", "dump", "serve", "report", "view", "top", "doctor"] {
        let output = exoprof().args([command, "--help"]).output().unwrap();
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}");
        assert!(help.contains(&format!("exoprof {command} ")), "{command}: {help}");
        assert!(help.to_lowercase().contains("example"), "{command}: {help}");
    }
}

#[test]
fn no_such_process() {
    let mut gone = Target::spawn(programs::SHARES, &[]);
    let pid = gone.pid();
    gone.kill();
    gone.wait();
    let outcome = Recorder::of(pid).run();
    outcome.assert_fails(1, &[&pid.to_string(), "no such process"]);
}

#[test]
fn zombie() {
    let mut target = Target::spawn(programs::SHARES, &[]);
    let pid = target.pid();
    target.kill();
    while !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
    let outcome = Recorder::of(pid).run();
    outcome.assert_fails(1, &[&pid.to_string(), "zombie"]);
}

/// Kernel threads have no memory map, so `/proc/PID/exe` cannot be read.
#[test]
fn kernel_thread() {
    assert!(fs::read_link("/proc/2/exe").is_err(), "PID 2 is not a kernel thread here");
    Recorder::of(2).run().assert_fails(1, &["2", "kernel thread"]);
}

/// Copies a program to where every user may run it.
fn public_copy(folder: &Path, program: &Path) -> PathBuf {
    let copy = folder.join(program.file_name().unwrap());
    fs::copy(program, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// Runs a program as nobody, or as the user who runs the tests if that is not root.
fn as_nobody(program: &Path) -> Command {
    if !nix::unistd::geteuid().is_root() {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        return command;
    }
    let mut command = Command::new("setpriv");
    let [user, group] = ["--reuid", "--regid"].map(|option| format!("{option}={NOBODY}"));
    command.args([&user, &group]).args(["--clear-groups", "--inh-caps=-all"]).arg(program);
    command.stdin(Stdio::null());
    command
}

#[test]
fn without_rights_the_message_names_the_fix() {
    let target = Target::working(programs::SHARES, &[]);
    let folder = open_folder();
    let output = as_nobody(&public_copy(folder.path(), binary()))
        .args(["record", "-d", "10m", "-p", &target.pid().to_string()])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    // The process belongs to root: no sysctl helps; sudo or a capability does.
    assert!(stderr.contains("CAP_") || stderr.contains("perf_event_paranoid"), "{stderr}");
    assert!(stderr.contains("sudo") || stderr.contains("sysctl"), "no command: {stderr}");
    assert_eq!(names_in(folder.path()).len(), 1, "only the copy of the binary is there");
}

/// Where tracefs is not mounted, a user without root is not told to mount it: only root could read
/// it.
#[test]
fn threadcreate_without_root_and_tracefs() {
    let folder = open_folder();
    let mut command = as_nobody(&public_copy(folder.path(), &programs::SHARES.path()));
    command.current_dir(folder.path());
    let target = Target::spawn_command(command);
    let mut command = as_nobody(&public_copy(folder.path(), binary()));
    command.args(["record", "threadcreate", "-d", "1s", "-p", &target.pid().to_string()]);
    let output = without_tracefs(&command).current_dir(folder.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("tracefs, which only root may read; fix: run exoprof as root"),
        "{stderr}"
    );
}

/// A user's own process can be recorded without root where `perf_event_paranoid` is 2 or less, the
/// kernel's default. Debian's kernels have 3; the message then names the sysctl.
#[test]
fn own_process_without_root() {
    let folder = open_folder();
    let mut command = as_nobody(&public_copy(folder.path(), &programs::SHARES.path()));
    command.current_dir(folder.path());
    let mut target = Target::spawn_command(command);
    target.go(0);
    let output = as_nobody(&public_copy(folder.path(), binary()))
        .args(["record", "-d", "1s", "-F", "499", "-o", "own.pb.gz"])
        .args(["-p", &target.pid().to_string()])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap();
    if paranoid.trim().parse::<i32>().unwrap() > 2 {
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("perf_event_paranoid"), "{stderr}");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let profile = Profile::decode(&fs::read(folder.path().join("own.pb.gz")).unwrap());
    assert!(profile.sum("samples", |s| s.has("heavy_a")) > 0, "{}", profile.describe(4, |_| true));
}

/// Docker's default seccomp profile blocks perf_event_open, whatever the rights.
#[test]
fn perf_blocked_by_seccomp() {
    let target = Target::working(programs::SHARES, &[]);
    let launcher = programs::NOPERF.path();
    let outcome = Recorder::launched_by(&[launcher.as_os_str()])
        .args(["-p", &target.pid().to_string(), "--backend", "perf", "-d", "10m"])
        .run();
    outcome.assert_fails(1, &["perf_event_open", "seccomp"]);
}

#[test]
fn summary_and_quiet() {
    let target = Target::working(programs::SHARES, &[]);
    let recording = Recorder::of(target.pid()).args(["-d", "1s", "-F", "499"]).run().recording();
    let said = &recording.stderr;
    for word in ["profile.pb.gz", "samples", "lost", "truncated", "heavy_a", "heavy_b"] {
        assert!(said.contains(word), "the summary lacks {word}: {said}");
    }
    assert!(!said.contains('\u{1b}') && !said.contains('\r'), "color or a bar: {said:?}");
    assert!(recording.stdout.is_empty());
    let quiet = Recorder::of(target.pid()).args(["-d", "300ms", "-q"]).run().recording();
    assert_eq!(quiet.stderr, "");
}

/// On a terminal there is a progress bar; NO_COLOR turns off the colors, not the bar.
#[test]
fn progress_on_a_terminal() {
    let target = Target::working(programs::SHARES, &[]);
    let folder = tempfile::tempdir().unwrap();
    for no_color in [false, true] {
        let line = format!(
            "{} record -p {} -d 1s --force -o {}/x.pb.gz",
            binary().display(),
            target.pid(),
            folder.path().display()
        );
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let output = command.output().unwrap();
        let screen = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{screen}");
        assert!(screen.matches('\r').count() > 2, "no progress: {screen:?}");
        // SGR sequences end in `m`; those that move the cursor do not.
        let coloured = screen.split("\u{1b}[").skip(1).any(|rest| {
            rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
        });
        assert!(!(no_color && coloured), "{screen:?}");
    }
}

#[test]
fn commands_that_cannot_start() {
    let outcome = Recorder::new().command(&["/nonexistent/program"]).run();
    outcome.assert_fails(1, &["/nonexistent/program"]);
}
