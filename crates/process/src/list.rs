//! Lists the processes of the machine, their parents and children.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::Process;
use crate::procdir::ProcDir;
use crate::stat::{Stat, decimal};

/// The PIDs of all processes that we can see, ascending.
///
/// # Errors
/// The error of reading `/proc`.
pub fn pids() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = decimal(name.as_encoded_bytes()).and_then(|n| i32::try_from(n).ok());
        pids.extend(pid.filter(|p| *p > 0));
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The PIDs of the descendants of these processes, except `without` and its descendants. A PID may
/// be reused before it is opened. Invisible processes have no descendants.
#[must_use]
pub fn descendants(of: &[i32], without: &BTreeSet<i32>) -> Vec<i32> {
    descend(of, without, &by_parent())
}

/// The PIDs of all processes that we can see, by their parent's PID.
#[must_use]
pub fn by_parent() -> BTreeMap<i32, Vec<i32>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in pids().unwrap_or_default() {
        let stat = ProcDir::open(pid).and_then(|dir| dir.read("stat")).ok();
        if let Some(stat) = stat.and_then(|text| Stat::parse(&text)) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    children
}

/// Whether the kernel lists the children of each thread (CONFIG_PROC_CHILDREN).
#[must_use]
pub fn lists_children() -> bool {
    std::fs::exists("/proc/thread-self/children").unwrap_or(false)
}

fn descend(of: &[i32], without: &BTreeSet<i32>, children: &BTreeMap<i32, Vec<i32>>) -> Vec<i32> {
    let mut found = Vec::new();
    let mut seen: BTreeSet<i32> = of.iter().copied().collect();
    let mut next: Vec<i32> = of.to_vec();
    while let Some(parent) = next.pop() {
        for &pid in children.get(&parent).into_iter().flatten() {
            if !without.contains(&pid) && seen.insert(pid) {
                found.push(pid);
                next.push(pid);
            }
        }
    }
    found
}

impl Process {
    /// The PID of its parent, or of the process that adopted it.
    ///
    /// # Errors
    /// The system's error, `ESRCH` once the process is gone.
    pub fn parent(&self) -> io::Result<i32> {
        let stat = Stat::parse(&self.dir.read("stat")?).ok_or(io::ErrorKind::InvalidData)?;
        Ok(stat.parent)
    }

    /// The PIDs of the children that this thread has forked, or adopted from a thread that ended.
    /// Zombies are among them. A PID may be reused before it is opened. Some children may be missing
    /// while others exit: the next call returns them.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` once the thread is gone, or where the kernel [does not list
    /// children](lists_children).
    pub fn thread_children(&self, tid: i32) -> io::Result<Vec<i32>> {
        Ok(numbers(&self.dir.read(&format!("task/{tid}/children"))?))
    }

    /// The path of its control group, such as `/system.slice/redis.service`: in the unified
    /// hierarchy or, without one, in systemd's. Empty where it has none.
    ///
    /// # Errors
    /// The system's error, `ESRCH` once the process is gone.
    pub fn cgroup(&self) -> io::Result<String> {
        Ok(unified(&String::from_utf8_lossy(&self.dir.read("cgroup")?)).to_string())
    }
}

/// Each number is followed by a space; one without it is cut.
fn numbers(text: &[u8]) -> Vec<i32> {
    let mut words: Vec<_> = text.split(|b| *b == b' ').collect();
    words.pop();
    words.into_iter().filter_map(|w| i32::try_from(decimal(w)?).ok()).filter(|n| *n > 0).collect()
}

/// The lines are `hierarchy:controllers:path` (cgroups(7)); the unified one is 0.
fn unified(text: &str) -> &str {
    let path_of = |wanted: fn(&str, &str) -> bool| {
        text.lines().find_map(|line| {
            let (id, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            wanted(id, controllers).then_some(path)
        })
    };
    // In a hybrid setup systemd's groups are in both, and the unified one is "/" at times.
    let new = path_of(|id, controllers| id == "0" && controllers.is_empty());
    let old = path_of(|_, controllers| controllers == "name=systemd");
    new.filter(|p| *p != "/").or(old).or(new).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_among_them() {
        let own = std::process::id().cast_signed();
        let all = pids().unwrap();
        assert!(all.contains(&own) && all.contains(&1) && all.is_sorted());
        assert!(Process::open(own).unwrap().cgroup().is_ok());
    }

    #[test]
    fn children_and_theirs() {
        let children = [(1, vec![2, 3]), (2, vec![4]), (3, vec![5]), (6, vec![7]), (4, vec![2])];
        let children = children.into_iter().collect();
        let found = |of: &[i32], without: &[i32]| {
            let mut found = descend(of, &without.iter().copied().collect(), &children);
            found.sort_unstable();
            found
        };
        assert_eq!(found(&[1], &[]), [2, 3, 4, 5]);
        assert_eq!(found(&[1], &[2]), [3, 5]);
        assert_eq!(found(&[2, 6], &[]), [4, 7], "a cycle comes to an end");
        assert_eq!(found(&[9], &[]), [0; 0]);
        let own = Process::open(std::process::id().cast_signed()).unwrap();
        let parent = own.parent().unwrap();
        assert!(descendants(&[parent], &BTreeSet::new()).contains(&own.pid()));
    }

    #[test]
    fn children_by_thread() {
        assert_eq!(numbers(b""), []);
        assert_eq!(numbers(b"12 345 "), [12, 345]);
        assert_eq!(numbers(b"0 12 345"), [12], "a number may be cut");
        assert!(lists_children());
        let own = Process::open(std::process::id().cast_signed()).unwrap();
        let mut command = std::process::Command::new("cat");
        let mut cat = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = cat.id().cast_signed();
        let me = nix::unistd::gettid().as_raw();
        assert!(own.thread_children(me).unwrap().contains(&pid));
        assert!(by_parent()[&own.pid()].contains(&pid));
        drop(cat.stdin.take());
        cat.wait().unwrap();
        assert!(!own.thread_children(me).unwrap().contains(&pid));
    }

    #[test]
    fn groups() {
        assert_eq!(unified("0::/system.slice/a.service\n"), "/system.slice/a.service");
        let mixed = "12:cpu,cpuacct:/x\n1:name=systemd:/system.slice/b.service\n0::/\n";
        assert_eq!(unified(mixed), "/system.slice/b.service");
        assert_eq!(unified("0::/a:b\n"), "/a:b");
        assert_eq!(unified("3:cpu:/x\n"), "");
        assert_eq!(unified(""), "");
    }
}
