//! Measures whether the machine was quiet: how long a process was ready to run and did not, because
//! other processes had the CPUs (its run queue) or another machine had them (steal).

use std::fmt;
use std::fs;
use std::time::Duration;

use crate::procfs;

/// How long a process was kept from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    /// All its threads waited so long for a CPU.
    pub queued: Duration,
    /// The host took CPUs from this machine for so long, in total.
    pub stolen: Duration,
}

impl Noise {
    /// Either.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.queued + self.stolen
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it waited {:.1?} for a CPU, and {:.1?} were stolen", self.queued, self.stolen)
    }
}

/// Measures a process from now on.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    before: Noise,
}

impl Watch {
    /// Starts to measure.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self { pid, before: so_far(pid) }
    }

    /// The noise since the start. Threads that have ended since are not counted.
    #[must_use]
    pub fn noise(&self) -> Noise {
        let now = so_far(self.pid);
        Noise {
            queued: now.queued.saturating_sub(self.before.queued),
            stolen: now.stolen.saturating_sub(self.before.stolen),
        }
    }
}

/// How long any process of the machine was ready to run and did not.
#[derive(Debug, Clone, Copy)]
pub struct Pressure(Duration);

impl Pressure {
    /// Starts to measure.
    #[must_use]
    pub fn start() -> Self {
        Self(pressure())
    }

    /// The time since then in which somebody waited for a CPU; 0 where the kernel does not count it.
    #[must_use]
    pub fn waited(self) -> Duration {
        pressure().saturating_sub(self.0)
    }
}

/// The total of `some` in /proc/pressure/cpu, in microseconds (Documentation/accounting/psi.rst).
fn pressure() -> Duration {
    let text = fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let some = text.lines().find(|line| line.starts_with("some "));
    let total = some.and_then(|line| line.rsplit_once("total=")?.1.parse().ok());
    Duration::from_micros(total.unwrap_or(0))
}

fn so_far(pid: u32) -> Noise {
    let stat = fs::read_to_string("/proc/stat").expect("/proc/stat can be read");
    Noise { queued: procfs::run_delay(pid), stolen: stolen(&stat) }
}

/// The eighth number of the first line of proc_stat(5), in ticks of 100 Hz on all machines.
fn stolen(stat: &str) -> Duration {
    let ticks = stat.lines().next().and_then(|all| all.split_whitespace().nth(8)?.parse().ok());
    Duration::from_millis(10 * ticks.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_the_eighth_number() {
        let stat = "cpu  69549 1 9442 259389 629 2 73 145 3 4\ncpu0 1 1 1 1 1 1 1 9 1 1\n";
        assert_eq!(stolen(stat), Duration::from_millis(1450));
    }

    #[test]
    fn who_shares_a_cpu_waits_for_it() {
        let mut busy = std::process::Command::new("/bin/sh");
        // Both on the first CPU that this process may use.
        let script = "c=$(taskset -cp $$ | sed 's/.*: *//; s/[-,].*//'); \
                      exec taskset -c $c sh -c 'while :; do :; done & while :; do :; done'";
        let mut busy = busy.args(["-c", script]).spawn().expect("a shell");
        let watch = Watch::of(busy.id());
        // Each of the two waits while the other one runs.
        let waited = (0..3000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            watch.noise().queued > Duration::from_millis(20)
        });
        for pid in procfs::children(busy.id()).into_iter().chain([busy.id()]) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = busy.wait();
        assert!(waited, "no waiting was measured");
    }
}
