//! Tests of the files that root writes where other users could put links, pipes and directories in
//! the way, and of full disks.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use exoprof_tests::{Profile, Recorder, Target, exoprof, programs};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

/// The user `nobody`, who runs sudo here.
const NOBODY: u32 = 65534;
/// Limit for waiting, far above what anything needs.
const PATIENCE: Duration = Duration::from_secs(120);

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn to(path: &Path) -> [&Path; 2] {
    [Path::new("-o"), path]
}

/// Whoever owns the directory replaces the pipe while root records.
#[test]
fn a_link_in_place_of_the_pipe_is_not_followed() {
    let target = Target::working(programs::SHARES, &[]);
    let folder = tempfile::tempdir().unwrap();
    let (pipe, victim) = (folder.path().join("pipe"), folder.path().join("victim"));
    fs::write(&victim, "root's").unwrap();
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let reader = pipe.clone();
    let reader = std::thread::spawn(move || fs::read(reader).unwrap());
    let mut running =
        Recorder::of(target.pid()).name_itself().args(["-d", "10m"]).args(to(&pipe)).start();
    running.wait_recording();
    running.wait_used(target.pid(), 0.5);
    fs::remove_file(&pipe).unwrap();
    symlink(&victim, &pipe).unwrap();
    running.signal(Signal::SIGINT);
    let outcome = running.finish();
    assert!(outcome.status.success(), "{outcome}");
    assert_eq!(fs::read(&victim).unwrap(), b"root's");
    assert!(Profile::decode(&reader.join().unwrap()).total("samples") > 0);
}

#[test]
fn a_pipe_without_a_reader_ends_on_sigterm() {
    let target = Target::working(programs::SHARES, &[]);
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let mut child = exoprof()
        .args(["record", "-d", "300ms", "-p", &target.pid().to_string()])
        .args(to(&pipe))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Longer than the recording: it must not be over either.
    std::thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().unwrap().is_none(), "it waits for a reader");
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(180) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it survives SIGTERM");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As in `-o >(gzip -d >file)` and `-o /dev/stdout`.
#[test]
fn descriptors_are_written_by_name() {
    let target = Target::working(programs::SHARES, &[]);
    for name in ["/dev/stdout", "/dev/fd/1", "/dev/fd/7"] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let script = r#"exec "$0" -q record -d 300ms -p "$1" -o "$2" 7>&1"#;
        let mut child = Command::new("bash")
            .args(["-c", script])
            .arg(exoprof_tests::recorder::binary())
            .args([&target.pid().to_string(), name])
            .stdout(writer)
            .spawn()
            .unwrap();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert!(child.wait().unwrap().success(), "{name}");
        assert!(Profile::decode(&bytes).total("samples") > 0, "{name}");
    }
}

#[test]
fn spools_that_others_can_change_are_rejected() {
    let target = Target::working(programs::SHARES, &[]);
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().unwrap();
    let serve = |word: &str| {
        let mut child = exoprof()
            .args(["serve", "-p", &pid, "--listen", "127.0.0.1:0"])
            .args(["--push", "http://127.0.0.1:1", "--spool"])
            .arg(folder.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > PATIENCE {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(word) && stderr.contains("fix: "), "{stderr}");
    };
    set_mode(folder.path(), 0o777);
    serve("other users may write to it");
    set_mode(folder.path(), 0o700);
    chown(folder.path(), Some(NOBODY), None).unwrap();
    serve("belongs to another user");
}

/// The user of sudo has put a link to root's directory where the report is to be written.
#[test]
fn links_of_the_user_of_sudo_lead_root_nowhere() {
    let target = Target::working(programs::SHARES, &[]);
    let folder = tempfile::tempdir().unwrap();
    let (home, secret) = (folder.path().join("home"), folder.path().join("secret"));
    set_mode(folder.path(), 0o755);
    fs::create_dir(&home).unwrap();
    fs::create_dir(&secret).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    symlink(&secret, home.join("link")).unwrap();
    let recording = Recorder::of(target.pid()).args(["-d", "300ms"]).run();
    assert!(recording.status.success(), "{recording}");
    let mut child = exoprof()
        .arg("view")
        .arg(&recording.path)
        .env("SUDO_UID", NOBODY.to_string())
        .env("SUDO_GID", NOBODY.to_string())
        .current_dir(&home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"top > link/report\ntop > report\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 0, "{output:?}");
    let report = fs::metadata(home.join("report")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&report), NOBODY, "{output:?}");
}

/// A small file system, unmounted with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "exoprof-test"]).arg(folder.path());
        assert!(mount.status().unwrap().success(), "{mount:?}");
        Self(folder)
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.path().join("other")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_fills_up_costs_no_profile() {
    let target = Target::working(programs::SHARES, &[]);
    let (disk, other) = (SmallDisk::new(), tempfile::tempdir().unwrap());
    let path = disk.0.path().join("p.pb.gz");
    let recorder = Recorder::of(target.pid()).name_itself().args(["-d", "10m"]).args(to(&path));
    let mut running = recorder.env("TMPDIR", other.path().to_str().unwrap()).start();
    running.wait_recording();
    running.wait_used(target.pid(), 0.5);
    disk.fill();
    running.signal(Signal::SIGINT);
    let outcome = running.finish();
    outcome.assert_fails(1, &["p.pb.gz", "no space left on device", "it was saved as"]);
    let kept: Vec<_> = fs::read_dir(other.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{outcome}");
    assert!(outcome.stderr.contains(kept[0].to_str().unwrap()), "{outcome}");
    assert!(Profile::decode(&fs::read(&kept[0]).unwrap()).total("samples") > 0);
    assert_eq!(kept[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(disk.0.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_full_disk_is_found_before_recording() {
    let target = Target::working(programs::SHARES, &[]);
    let disk = SmallDisk::new();
    disk.fill();
    let path = disk.0.path().join("p.pb.gz");
    let began = Instant::now();
    let recorder = Recorder::of(target.pid()).name_itself().args(["-d", "10m"]).args(to(&path));
    recorder.run().assert_fails(1, &["p.pb.gz", "bytes are free"]);
    assert!(began.elapsed() < PATIENCE);
}
