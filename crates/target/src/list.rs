//! Which processes there are.

use std::io;

use crate::Process;
use crate::stat::decimal;

/// The ids of all processes that we can see, ascending. Those of threads are not among them.
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

impl Process {
    /// The path of its control group, such as `/system.slice/redis.service`: that of the unified
    /// hierarchy, or where there is none, that of systemd's own. Empty where it has none.
    ///
    /// # Errors
    /// The system's error, `ESRCH` once the process is gone.
    pub fn cgroup(&self) -> io::Result<String> {
        Ok(unified(&String::from_utf8_lossy(&self.dir.read("cgroup")?)).to_string())
    }
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
    // In a mixed setup systemd's groups are in both, and the unified one is "/" at times.
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
    fn groups() {
        assert_eq!(unified("0::/system.slice/a.service\n"), "/system.slice/a.service");
        let mixed = "12:cpu,cpuacct:/x\n1:name=systemd:/system.slice/b.service\n0::/\n";
        assert_eq!(unified(mixed), "/system.slice/b.service");
        assert_eq!(unified("0::/a:b\n"), "/a:b");
        assert_eq!(unified("3:cpu:/x\n"), "");
        assert_eq!(unified(""), "");
    }
}
