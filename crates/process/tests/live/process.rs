use std::path::Path;
use std::process::Command;
use std::time::Duration;

use host::TargetRights;
use image::{Memory as _, Unreadable};
use process::{CpuTimes, CpuTimesReader, OpenError, Process, ProcessMemory};

use crate::support::{Target, as_nobody, copy_of_cat};

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[test]
fn a_process_is_identified_until_it_exits_but_not_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut target = Target::cat(&copy_of_cat(dir.path()));
    let process = Process::open(target.pid()).unwrap();
    let id = process.identity();
    assert_eq!(id.comm, "cat");
    assert_eq!(id.cmdline, [dir.path().join("cat")]);
    assert_eq!(id.exe.as_deref(), Some(dir.path().join("cat").as_os_str()));
    assert_eq!((id.uid, id.exe_deleted), (own_uid(), false));
    assert_eq!(id.ns_pids, [target.pid()]);
    assert!(process.is_alive() && process.same_process());
    assert!(!process.wait_exit(Some(Duration::ZERO)).unwrap());
    assert_eq!(process.threads().unwrap(), [target.pid()]);
    let rows = process.maps().unwrap().rows;
    let memory = process.memory().unwrap();
    let first = rows.iter().find(|r| r.path.ends_with(b"/cat")).unwrap();
    let mut magic = [0; 4];
    memory.read(first.start, &mut magic).unwrap();
    assert_eq!(&magic, b"\x7fELF");

    target.kill();
    assert!(process.wait_exit(None).unwrap());
    assert!(!process.is_alive() && process.same_process(), "a zombie keeps its PID");
    assert_eq!(memory.read(first.start, &mut magic), Err(Unreadable(first.start)));
    assert!(process.process_cpu_time().unwrap() > 0, "a zombie keeps its clock");
    target.child.wait().unwrap();
    assert!(!process.same_process() && process.process_cpu_time().is_err());
    assert!(process.threads().is_err() && process.maps().is_err());
    assert!(process.read_identity().is_err());
}

#[test]
fn a_name_that_is_not_utf8_is_parsed() {
    let dir = tempfile::tempdir().unwrap();
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"a) R\xd0\xff:\n1");
    let path = dir.path().join(name);
    std::fs::rename(copy_of_cat(dir.path()), &path).unwrap();
    let target = Target::cat(&path);
    let process = Process::open(target.pid()).unwrap();
    assert_eq!(process.identity().ns_pids, [target.pid()]);
    assert_eq!(TargetRights::read(target.pid()).unwrap().uid, own_uid());
    assert!(process.thread_mode_ticks(target.pid()).is_ok());
    assert!(process.thread_switches(target.pid()).unwrap() > 0);
    assert_eq!(process.threads_by_own_number().unwrap()[&target.pid()], target.pid());
    // `cat` has replied and is about to block in read again. The R in its name must not be taken
    // for its state.
    let mut states = (0..2000).map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        process.thread_state_letter(target.pid()).unwrap()
    });
    assert!(states.any(|state| state == 'S'));
}

#[test]
fn reading_stops_at_unreadable_memory() {
    let script = "import mmap,ctypes\n\
        m = mmap.mmap(-1, 3*4096)\n\
        m.write(b'x' * 12288)\n\
        a = ctypes.addressof(ctypes.c_char.from_buffer(m))\n\
        ctypes.CDLL(None).mprotect(ctypes.c_void_p(a + 8192), 4096, 0)\n\
        print(a, flush=True)\n\
        input()";
    let (target, line) = Target::python(script, &[]);
    let memory: ProcessMemory = Process::open(target.pid()).unwrap().memory().unwrap();
    let addr = image::Avma(line.parse().unwrap());
    let mut buf = [0; 3 * 4096];
    assert_eq!(memory.read_upto(addr, &mut buf).unwrap(), 8192);
    assert!(buf[..8192].iter().all(|b| *b == b'x'));
    assert_eq!(memory.read(addr, &mut buf), Err(Unreadable(addr)));
}

/// Three threads that have used CPU and now sleep, a fourth that has ended, and a reaped child.
const BUSY: &str = "
import threading, time, os, subprocess, sys
def burn(s):
    t = time.thread_time()
    while time.thread_time() - t < s: pass
gate = threading.Event(); burnt = threading.Semaphore(0)
def worker():
    burn(0.1); burnt.release(); gate.wait()
for _ in range(3): threading.Thread(target=worker, daemon=True).start()
for _ in range(3): burnt.acquire()
t = threading.Thread(target=burn, args=(0.2,)); t.start(); t.join()
subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 0.2: pass'])
print(time.process_time_ns(), flush=True)
input()
";

#[test]
fn cpu_time_by_thread_process_and_children() {
    let (target, line) = Target::python(BUSY, &[]);
    let own: u64 = line.parse().unwrap();
    let process = Process::open(target.pid()).unwrap();
    let mut times = CpuTimes::default();
    let mut reader = CpuTimesReader::new(&process).unwrap();
    for _ in 0..2 {
        reader.read(&process, &mut times).unwrap();
        let mut tids = process.threads().unwrap();
        tids.sort_unstable();
        let mut listed: Vec<i32> = times.by_thread.keys().copied().collect();
        listed.sort_unstable();
        assert_eq!(listed, tids);
    }
    assert_eq!(times.by_thread.len(), 4);
    for (tid, ns) in &times.by_thread {
        // Each worker used at least 0.1 s by its own clock; allow 1 ms for reading the clock.
        assert!(*tid == target.pid() || *ns >= 99_000_000, "thread {tid}: {ns}");
        assert_eq!(process.thread_name(*tid).unwrap().get(..6), Some("python"));
    }
    let clock = process.process_cpu_time().unwrap();
    assert!(clock >= own, "the clock never goes back: {clock} after {own}");
    // The ended thread used at least 0.2 s, which only the process's clock still includes.
    assert!(clock - times.total() >= 199_000_000, "{clock} {}", times.total());
    let children = process.reaped_children_cpu_time().unwrap();
    // In ticks of 10 ms; user and system time are each rounded down.
    assert!(children >= 180_000_000, "{children}");
    assert_eq!(process.thread_cpu_time(target.pid()).unwrap(), times.by_thread[&target.pid()]);

    let other = times.by_thread.keys().find(|t| **t != target.pid()).unwrap();
    match Process::open(*other) {
        Err(OpenError::NotALeader { tid, pid }) => assert_eq!((tid, pid), (*other, target.pid())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_process_outlives_its_main_thread() {
    let script = "
import threading, os, ctypes, time
def rest():
    while open(f'/proc/{os.getpid()}/stat').read().rsplit(')')[1].split()[0] != 'Z': time.sleep(0.001)
    os.write(1, b'ready\\n')
    os.read(0, 1)
threading.Thread(target=rest).start()
ctypes.CDLL(None).syscall(60, 0)
";
    let (target, line) = Target::python(script, &[]);
    assert_eq!(line, "ready");
    let process = Process::open(target.pid()).unwrap();
    assert!(process.is_alive());
    let rows = process.exec_maps().unwrap().rows;
    assert!(rows.iter().any(|r| &*r.path == b"[vdso]"), "{rows:?}");
    process.memory().unwrap().probe(rows[0].start).unwrap();
    let mut images = process::Images::new();
    assert!(rows.iter().any(|r| images.resolve(Some(&process), r).image.is_ok()));
}

#[test]
fn processes_that_cannot_be_profiled_are_reported() {
    let mut target = Target::cat(Path::new("/bin/cat"));
    let pid = target.pid();
    let text = |pid| Process::open(pid).unwrap_err().to_string();
    let process = Process::open(pid).unwrap();
    target.kill();
    assert!(process.wait_exit(None).unwrap());
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(stat.contains(") Z "), "{stat}");
    assert!(matches!(Process::open(pid), Err(OpenError::Zombie { .. })));
    assert!(text(pid).contains("zombie"), "{}", text(pid));
    target.child.wait().unwrap();
    assert!(matches!(Process::open(pid), Err(OpenError::NoSuchProcess { .. })));
    for bad in [0, -1, i32::MIN, i32::MAX] {
        assert!(matches!(Process::open(bad), Err(OpenError::NoSuchProcess { .. })), "{bad}");
    }
    match Process::open(2) {
        Err(OpenError::KernelThread { comm, .. }) => assert_eq!(&*comm, "kthreadd"),
        other => panic!("{other:?}"),
    }
    match as_nobody(|| Process::open(1)) {
        Err(e @ OpenError::Permission { uid: 0, .. }) => assert!(e.to_string().contains("sudo")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_process_in_another_pid_namespace_has_two_pids() {
    let mut unshare = Command::new("unshare");
    let mut target = Target::start(unshare.args(["-mpf", "--mount-proc", "cat"]));
    target.ping();
    let children = format!("/proc/{0}/task/{0}/children", target.pid());
    let inner = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    let process = Process::open(inner).unwrap();
    assert_eq!(process.identity().ns_pids, [inner, 1]);
    assert_eq!(process.identity().comm, "cat");
    drop(target.child.stdin.take());
    assert!(process.wait_exit(None).unwrap());
}

#[test]
fn rights_over_a_target_are_readable_without_privileges() {
    let rights = as_nobody(|| TargetRights::read(1)).unwrap();
    assert_eq!((rights.pid, rights.uid, rights.dumpable), (1, 0, true));
    let script = "import ctypes,os\nos.setresuid(65534,65534,65534)\n\
        ctypes.CDLL(None).prctl(4, 0)\nprint(flush=True)\ninput()";
    let (target, _) = Target::python(script, &[]);
    let rights = TargetRights::read(target.pid()).unwrap();
    assert_eq!((rights.uid, rights.dumpable), (65534, false));
    assert!(host::Rights::read().unwrap().attach(&rights).is_ok());
}
