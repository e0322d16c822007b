//! Compares recorded waits with what the program itself measured in the same time.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::chance::Deviation;
use crate::notes::note;
use crate::quiet::{Noise, Watch};
use crate::{Profile, Program, Recorder, Recording, Sample, Target, Truth, procfs};

/// The allowed difference between the recording's length and the time between the program's marks,
/// as a share of the latter. On a quiet machine it is under 1%.
const MAX_DIFFERENCE: f64 = 0.025;
/// Limit for the program's first wait, far above what it needs.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long exoprof may wait for a CPU before lost records are blamed on the machine. On a quiet
/// machine it waits for some 10 ms in total; the ring buffers fill up after some 100 ms.
const STARVED: Duration = Duration::from_millis(100);

/// A profile and the program's own measurements.
#[derive(Debug)]
pub struct Compared {
    /// The recorded profile.
    pub profile: Profile,
    truth: Truth,
    /// The program's counters at the end, not the difference.
    after: Truth,
    wall: f64,
}

impl Compared {
    /// Records a program in one of its modes; `recording` holds the seconds to measure and
    /// exoprof's arguments. The program's marks lie within the recording, a little after its start
    /// and before its end. Its load is steady, so both sides are compared per second.
    ///
    /// # Panics
    /// When anything fails or records were lost.
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

    /// Like [`Compared::of`], for any command that speaks the handshake of `tests/targets`.
    ///
    /// Retries up to twice on a busy machine, and reports each retry. If exoprof waits long for a
    /// CPU, it may not read all records in time. If the program or this process waits, the marks
    /// drift away from the recording's start and end, so the two sides cover different times, in
    /// which the load of such a machine differs.
    ///
    /// # Panics
    /// When anything fails or records were lost.
    #[must_use]
    pub fn of_command(mut command: Command, recording: (f64, &[&str])) -> Self {
        for attempt in 1.. {
            let (recording, this, noise) = Self::once(&mut command, recording);
            let difference = this.profile.duration_nanos as f64 / 1e9 - this.wall;
            let lost = account(&this.profile).1;
            let late = lost > 0 && noise.total() > STARVED;
            if attempt == 3 || !late && difference <= MAX_DIFFERENCE * this.wall {
                assert_eq!(lost, 0, "exoprof: {noise}: {}", *recording);
                return this;
            }
            note(&format!(
                "STARVED MACHINE: exoprof: {noise}; {lost} records lost, a recording \
                 {difference:.3} s longer than the {:.3} s between the marks: dropped attempt \
                 {attempt} of 3",
                this.wall
            ));
        }
        unreachable!("the third attempt counts")
    }

    /// One attempt; also returns what kept exoprof from running.
    fn once(command: &mut Command, (seconds, args): (f64, &[&str])) -> (Recording, Self, Noise) {
        let mut target = Target::spawn_command(&mut *command);
        target.go(0);
        // With perf events, exoprof chooses the sampling density by the load at the start.
        let nothing = target.mark();
        let started = Instant::now();
        while target.mark().since(&nothing).total() == 0 {
            assert!(started.elapsed() < PATIENCE, "{command:?} does not wait");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut running = Recorder::of(target.pid()).args(args).args(["-d", "10m"]).start();
        running.wait_recording();
        let watch = Watch::of(running.pid());
        let before = target.mark();
        let began = Instant::now();
        // The length of the measurement, not a wait for an event.
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let after = target.mark();
        let truth = after.since(&before);
        let wall = began.elapsed().as_secs_f64();
        // The main thread waits for the next command again, as it did during the recording.
        while !procfs::status(target.pid(), "State").starts_with('S') {
            std::thread::sleep(Duration::from_millis(1));
        }
        let noise = watch.noise();
        running.signal(Signal::SIGINT);
        let recording = running.finish().recording();
        let _ = target.finish();
        let this = Self { profile: recording.profile.clone(), truth, after, wall };
        (recording, this, noise)
    }

    /// The program's own nanoseconds at these sites, per second.
    #[must_use]
    pub fn truth(&self, sites: &[&str]) -> f64 {
        sites.iter().map(|site| self.truth.ns(site)).sum::<u64>() as f64 / self.wall
    }

    /// The profile's sum of a column, per second.
    #[must_use]
    pub fn measured(&self, kind: &str, keep: impl Fn(&Sample) -> bool) -> f64 {
        self.profile.sum(kind, keep) as f64 * 1e9 / self.profile.duration_nanos as f64
    }

    /// How far the recorded delay below a site is from the program's own measurement, where every
    /// wait is sampled.
    ///
    /// The program accounts for a wait when the wait ends. A wait that spans a mark therefore makes
    /// its number differ from the recording's by the part beyond the mark: a uniform share of the
    /// wait, at each end.
    #[must_use]
    pub fn delay(&self, site: &str) -> Deviation {
        let longest = self.after.ns(&format!("{site}_max")) as f64 / 1e9;
        let measured = self.measured("delay", |s| s.has(site));
        let sigma = (2.0_f64 / 12.0).sqrt() * longest / self.wall;
        Deviation::ratio(&format!("delay of {site}"), measured, self.truth(&[site]), sigma)
    }

    /// How far the recorded number of waits below a site is from the program's, where every wait is
    /// sampled. One at each end may be on one side only.
    #[must_use]
    pub fn count(&self, site: &str) -> Deviation {
        let what = format!("count of {site}");
        let measured = self.measured("contentions", |s| s.has(site)) * self.wall;
        let truth = self.truth(&[&format!("{site}_n")]) * self.wall;
        Deviation::between(&what, measured, (truth - 2.0, truth + 2.0), 0.0)
    }

    /// See [`chance_of`].
    #[must_use]
    pub fn chance(&self, keep: impl Fn(&Sample) -> bool) -> f64 {
        chance_of(&self.profile, keep)
    }

    /// Asserts that a comment of the profile contains these words.
    ///
    /// # Panics
    /// When none does.
    #[track_caller]
    pub fn assert_says(&self, words: &str) {
        let comments = &self.profile.comments;
        assert!(comments.iter().any(|c| c.contains(words)), "{words}: {comments:#?}");
    }
}

/// The relative standard deviation of the recorded delay of these samples by chance.
///
/// Waits are sampled with a probability p that is proportional to their length, at most 1, and scaled
/// by 1/p; so each sample stands for about the same delay, and the number n of these samples is the
/// whole number by their share of the delay. Their sum has a relative variance of (1−p)/n: none if
/// every wait is sampled. p is n by the number of waits that they stand for.
#[must_use]
pub fn chance_of(profile: &Profile, keep: impl Fn(&Sample) -> bool) -> f64 {
    let of = |kind: &str| profile.sum(kind, &keep) as f64;
    let share = of("delay") / profile.total("delay") as f64;
    let samples = account(profile).0 as f64 * share;
    let p = f64::min(1.0, samples / of("contentions"));
    ((1.0 - p) / samples).sqrt()
}

/// Samples kept and records lost, from the profile's comment `samples: 1 kept, 2 lost, …`.
///
/// # Panics
/// When the profile has no such comment.
#[must_use]
pub fn account(profile: &Profile) -> (u64, u64) {
    let line = profile.comments.iter().find_map(|c| c.strip_prefix("samples: "));
    let mut numbers = line.expect("a comment with the number of samples").split(", ").map(|part| {
        let number = part.split(' ').next().unwrap_or_default();
        number.parse().expect("a number")
    });
    (numbers.next().expect("kept"), numbers.next().expect("lost"))
}
