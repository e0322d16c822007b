//! Tests of targets in their own namespaces, as container runtimes create them, and of files that
//! have changed since the target started.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use exoprof_tests::expect::{assert_reach, assert_roots, assert_site_shares};
use exoprof_tests::programs::{JIT, SHARES, SHARES_STATIC, SLEEPY};
use exoprof_tests::{Profile, Recorder, Target, record, record_busy, repository};

const SITES: &[&str] = &["heavy_a", "heavy_b", "heavy_c", "heavy_d"];

/// The first process in the PID namespace that `unshare --fork` created, by its PID in our
/// namespace.
fn inner_pid(target: &Target) -> u32 {
    let outer = target.pid();
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
    children.split_whitespace().next().expect("unshare has a child").parse().unwrap()
}

/// A shell in new mount and PID namespaces; at its end, `script` executes the target.
fn contained(script: &str, args: &[&Path]) -> Target {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--pid", "--fork", "sh", "-ec", script, "sh"]).args(args);
    let mut target = Target::spawn_command(unshare);
    target.go(0);
    target
}

/// An overlayfs root that no other process sees, with a user namespace inside: names, lines and
/// paths are those of the container; PIDs are those of our namespace.
#[test]
fn overlay_root_with_namespaces() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["lower/app", "lower/proc", "upper", "work", "root"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    fs::copy(SHARES_STATIC.path(), at("lower/app/service")).unwrap();
    fs::copy("/bin/busybox", at("lower/app/busybox")).unwrap();
    // Container runtimes use pivot_root too; with a mere chroot, its path would precede all others.
    let script = "cd \"$1\"; mount -t tmpfs none upper; mkdir upper/u upper/w; \
                  mount -t overlay overlay -o lowerdir=lower,upperdir=upper/u,workdir=upper/w root; \
                  cd root; mount -t proc proc proc; pivot_root . .; /app/busybox umount -l .; \
                  exec /app/busybox unshare -U -r /app/service";
    let mut target = contained(script, &[folder.path()]);
    let pid = inner_pid(&target);
    let profile = assert_site_shares(SITES, || {
        let before = target.mark();
        let recording = record_busy(pid, 3.0, &["-F", "997"]);
        (recording.profile.clone(), target.mark().since(&before))
    });
    assert_roots(&profile, 0.99);
    let main = &profile.mappings[0];
    assert_eq!(main.file, "/app/service", "the path as the target sees it");
    let labels = profile.by_label("samples", "pid");
    assert_eq!(labels.keys().collect::<Vec<_>>(), [&pid.to_string()], "the PID as we see it");
    let heavy = profile.samples.iter().flat_map(|s| &s.stack).find(|f| f.is("heavy_a"));
    assert!(heavy.is_some_and(|f| f.line > 0 && f.file.ends_with("shares.c")), "{heavy:?}");
}

/// Without the right to follow the links of mappings, files are opened by path; paths in a mere
/// chroot begin with the chroot's own path.
#[test]
fn chroot_without_the_right_to_follow_mappings() {
    let folder = tempfile::tempdir().unwrap();
    let script = "cd \"$1\"; for f in \"$2\" $(ldd \"$2\" | grep -o '/[^ ]*'); do \
                  mkdir -p \".${f%/*}\"; cp \"$f\" \".$f\"; done; exec chroot . \"$2\"";
    let target = contained(script, &[folder.path(), &SHARES.path()]);
    let pid = inner_pid(&target);
    let less = "-sys_admin,-checkpoint_restore";
    let (bounds, inherited) = (format!("--bounding-set={less}"), format!("--inh-caps={less}"));
    let launcher: Vec<&OsStr> = ["setpriv", &bounds, &inherited].map(OsStr::new).into();
    let run = || {
        let args = ["-d", "1s", "-F", "499", "-p", &pid.to_string()];
        Recorder::launched_by(&launcher).args(args).run()
    };
    let profile = run().recording().profile;
    assert_roots(&profile, 0.99);
    assert_named(&profile);
    assert!(!profile.comments.iter().any(|c| c.contains("not read")), "{:?}", profile.comments);
    // Once deleted, such a file cannot be opened at all; the message says so, with the fix.
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let libc = maps.split_whitespace().find(|f| f.ends_with("/libc.so.6")).expect("libc is mapped");
    assert!(Path::new(libc).starts_with(folder.path()), "not the system's: {libc}");
    fs::remove_file(libc).unwrap();
    let outcome = run();
    let stderr = outcome.stderr.clone();
    for text in [stderr, outcome.recording().profile.comments.join("\n")] {
        let line = text.lines().find(|l| l.contains("not read: ")).expect(&text);
        let fix = "fix: sudo setcap cap_bpf,cap_checkpoint_restore,";
        assert!(line.contains("/libc.so.6: ") && line.contains(fix), "{line}");
    }
}

/// A perf map is in the target's own /tmp, under its PID in its own namespace. A file of that name
/// in our /tmp belongs to another process.
#[test]
fn perf_map_in_namespaces() {
    let planted = PathBuf::from("/tmp/perf-1.map");
    fs::write(&planted, "0 7fffffffffff planted\n").unwrap();
    let script = "mount -t tmpfs none /tmp; exec \"$1\" map";
    // The new /tmp would hide a program below /tmp.
    let program = JIT.path();
    assert!(!program.starts_with("/tmp"), "{}", program.display());
    let target = contained(script, &[&program]);
    let pid = inner_pid(&target);
    let profile = record_busy(pid, 2.0, &["-F", "997"]).profile;
    fs::remove_file(&planted).unwrap();
    assert_reach(&profile, 0.9, "a name of its own", |s| s.has("jit_first") || s.has("jit_second"));
    assert_eq!(profile.sum("samples", |s| s.has("planted")), 0);
}

/// Python with its own root, in its own namespaces.
#[test]
fn python_in_namespaces() {
    let root = repository().join(".cache/python/trixie");
    fs::copy(repository().join("tests/targets/pyshares.py"), root.join("pyshares.py")).unwrap();
    let script =
        "exec unshare --user --map-root-user chroot \"$1\" /usr/bin/python3.13 /pyshares.py";
    let target = contained(script, &[&root]);
    let profile = record_busy(inner_pid(&target), 2.0, &["-F", "997"]).profile;
    let heavy =
        |s: &exoprof_tests::Sample| s.stack.iter().any(|f| f.function.starts_with("heavy_"));
    assert_reach(&profile, 0.95, "a Python function", heavy);
}

/// A control group, removed when dropped.
struct Group(PathBuf);

impl Group {
    fn make(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let field = |line: &str, n: usize| line.split(' ').nth(n).unwrap_or_default().to_owned();
        let is_group = |l: &&str| {
            field(l, 2) == "cgroup2" || (field(l, 2) == "cgroup" && l.contains("name=systemd"))
        };
        let mount = mounts.lines().find(is_group).expect("control groups are mounted");
        let path = PathBuf::from(field(mount, 1)).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
        let _ = self.0.parent().map(fs::remove_dir);
    }
}

/// The container's ID is a label of each sample and is in the comments.
#[test]
fn container_id() {
    let id = "e90b8831a4b8".repeat(6)[..64].to_owned();
    let group = Group::make(&format!("exoprof-test/docker-{id}.scope"));
    let target = Target::working(SHARES, &[]);
    fs::write(group.0.join("cgroup.procs"), target.pid().to_string()).unwrap();
    let recording = record(target.pid(), &["-d", "1s", "-F", "499"]);
    let labels = recording.profile.by_label("samples", "container");
    assert_eq!(labels.keys().collect::<Vec<_>>(), [&id]);
    let comments = recording.profile.comments.join("\n");
    assert!(comments.contains(&format!("container {id}")), "{comments}");
    let _ = target.finish();
    drop(group);
}

fn assert_named(profile: &Profile) {
    assert_reach(profile, 0.97, "a function of the running program", |s| {
        SITES.iter().any(|site| s.has(site))
    });
}

/// An upgrade puts a new file at the path while the old one is still running.
#[test]
fn program_that_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service");
    fs::copy(SHARES.path(), &path).unwrap();
    let mut target = Target::spawn_command(Command::new(&path));
    target.go(0);
    let fresh = folder.path().join("service.new");
    fs::copy(SLEEPY.path(), &fresh).unwrap();
    fs::rename(&fresh, &path).unwrap();
    let profile = record_busy(target.pid(), 2.0, &["-F", "499"]).profile;
    assert_named(&profile);
    assert_eq!(profile.mappings[0].file, path.to_str().unwrap(), "without ` (deleted)`");
    let build_id = |path: &Path| {
        let mut readelf = Command::new("readelf");
        let notes = readelf.arg("-n").arg(path).env("LC_ALL", "C").output().unwrap().stdout;
        let notes = String::from_utf8_lossy(&notes).into_owned();
        notes
            .split("Build ID: ")
            .nth(1)
            .and_then(|t| t.split_whitespace().next().map(str::to_owned))
    };
    assert_eq!(Some(profile.mappings[0].build_id.clone()), build_id(&SHARES.path()));
    assert_ne!(build_id(&SHARES.path()), build_id(&path));
}
