//! A recording of waiting beside what the program measured itself in the same time.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::{Profile, Program, Recorder, Recording, Sample, Target, Truth, procfs};

/// How much of a recording may lie beside the program's marks. On a quiet machine it is under 1%.
const APART: f64 = 0.025;
/// On a quiet machine exoprof waits for a CPU for some ten milliseconds in all; rings are full after
/// some hundred.
const STARVED: Duration = Duration::from_millis(100);

/// A profile, and the program's own numbers.
#[derive(Debug)]
pub struct Compared {
    /// What was recorded.
    pub profile: Profile,
    truth: Truth,
    /// The last mark.
    after: Truth,
    wall: f64,
}

impl Compared {
    /// Records a program in one of its modes for so long. The program's marks lie within the
    /// recording, a little after its begin and before its end: its loads are steady, so both are
    /// taken per second.
    ///
    /// # Panics
    /// When anything goes wrong, or records were lost.
    #[must_use]
    pub fn of(
        program: Program,
        mode: &str,
        recording: (f64, &[&str]),
        env: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(program.path());
        command.arg(mode).envs(env.iter().copied());
        Self::of_command(command, recording)
    }

    /// As [`Compared::of`], of any command that obeys as these programs do.
    ///
    /// Where exoprof waited for a CPU for long, it may not read all records in time. Where the program
    /// or this process did, the marks are far from the begin and the end of the recording, and what is
    /// compared is of different times, in which such a machine is not the same. Then it is done
    /// again, up to three times, and said.
    ///
    /// # Panics
    /// When anything goes wrong, or records were lost.
    #[must_use]
    pub fn of_command(mut command: Command, recording: (f64, &[&str])) -> Self {
        for attempt in 1.. {
            let (recording, this, waited) = Self::once(&mut command, recording);
            let beside = this.profile.duration_nanos as f64 / 1e9 - this.wall;
            let lost = account(&this.profile).1;
            let late = lost > 0 && waited > STARVED;
            if attempt == 3 || !late && beside <= APART * this.wall {
                assert_eq!(lost, 0, "exoprof waited {waited:.1?} for a CPU: {}", *recording);
                return this;
            }
            // Past the capture of the test's output: everyone shall read it.
            let said = format!(
                "STARVED MACHINE: exoprof waited {waited:.1?} for a CPU, {lost} records lost, marks \
                 {beside:.3} s off the ends of a recording of {:.3} s: attempt {attempt} of 3 is dropped\n",
                this.wall
            );
            let _ = std::io::stderr().write_all(said.as_bytes());
        }
        unreachable!("the third attempt counts")
    }

    /// And how long exoprof waited for a CPU.
    fn once(command: &mut Command, (seconds, args): (f64, &[&str])) -> (Recording, Self, Duration) {
        let mut target = Target::spawn_command(command);
        target.go(0);
        // By perf events, how densely is sampled is chosen by what it does at the begin.
        let nothing = target.mark();
        while target.mark().since(&nothing).total() == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut running = Recorder::of(target.pid()).args(args).args(["-d", "10m"]).start();
        running.wait_recording();
        let before = target.mark();
        let began = Instant::now();
        // The length of the measurement, not a wait for something to happen.
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let after = target.mark();
        let truth = after.since(&before);
        let wall = began.elapsed().as_secs_f64();
        // Its main thread waits for the next word again, as it has done all the time.
        while !procfs::status(target.pid(), "State").starts_with('S') {
            std::thread::sleep(Duration::from_millis(1));
        }
        let waited = procfs::run_delay(running.pid());
        running.signal(Signal::SIGINT);
        let recording = running.finish().recording();
        let _ = target.finish();
        let this = Self { profile: recording.profile.clone(), truth, after, wall };
        (recording, this, waited)
    }

    /// What the program says of some sites, per second.
    #[must_use]
    pub fn truth(&self, sites: &[&str]) -> f64 {
        sites.iter().map(|site| self.truth.ns(site)).sum::<u64>() as f64 / self.wall
    }

    /// The profile's sum of a column, per second.
    #[must_use]
    pub fn measured(&self, kind: &str, keep: impl Fn(&Sample) -> bool) -> f64 {
        self.profile.sum(kind, keep) as f64 * 1e9 / self.profile.duration_nanos as f64
    }

    /// The delay below a site, as a share of the program's.
    #[must_use]
    pub fn ratio_of_delays(&self, site: &str) -> f64 {
        self.measured("delay", |s| s.has(site)) / self.truth(&[site])
    }

    /// Asserts that the delay below a site is the program's, within a tolerance.
    ///
    /// The program tells of a wait when it has ended: it has as much more or less than the recording
    /// as is beyond the marks of what lies across them. That is in the tolerance, unless the program
    /// has waited for a CPU for so long that one such wait is most of it.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn assert_delay(&self, site: &str, tolerance: f64) {
        let ratio = self.ratio_of_delays(site);
        let longest = self.after.ns(&format!("{site}_max")) as f64 / 1e9;
        let allowed = f64::max(tolerance, 0.75 * tolerance + longest / self.wall);
        assert!(
            (ratio - 1.0).abs() <= allowed,
            "delay of {site}: {ratio:.4} of the truth, allowed {allowed:.4}\n{}",
            self.profile.describe(8, |s| s.has(site))
        );
    }

    /// Asserts that the number of waits below a site is the program's, within a tolerance.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn assert_count(&self, site: &str, tolerance: f64) {
        let measured = self.measured("contentions", |s| s.has(site));
        let ratio = measured / self.truth(&[&format!("{site}_n")]);
        assert!((ratio - 1.0).abs() <= tolerance, "count of {site}: {ratio:.4} of the truth");
    }

    /// Asserts that the profile says something of itself.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn assert_says(&self, words: &str) {
        let comments = &self.profile.comments;
        assert!(comments.iter().any(|c| c.contains(words)), "{words}: {comments:#?}");
    }
}

/// Samples kept and records lost, as the profile's comments have it: `samples: 1 kept, 2 lost, …`.
///
/// # Panics
/// When they have it not.
#[must_use]
pub fn account(profile: &Profile) -> (u64, u64) {
    let line = profile.comments.iter().find_map(|c| c.strip_prefix("samples: "));
    let mut numbers = line.expect("an account").split(", ").map(|part| {
        let number = part.split(' ').next().unwrap_or_default();
        number.parse().expect("a number")
    });
    (numbers.next().expect("kept"), numbers.next().expect("lost"))
}
