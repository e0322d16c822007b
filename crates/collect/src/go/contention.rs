//! Records the `block` and `mutex` profiles of Go programs.
//!
//! The counts in the runtime's records only grow, so a profile is the difference between the end
//! and the start of the recording. If the program does not sample by itself, sampling is switched
//! on for the recording.

use std::marker::PhantomData;
use std::time::Duration;

use assemble::Stats;
use goruntime::{Contention, ContentionReader, LogicalFrame, RecordedStacks, TicksClock};
use host::Ticks;
use pprof::KindFacts;
use process::Claimed;

use super::collector::GoKind;
use super::profile::GoProfile;
use super::program::Program;
use super::rates::{self, RateRequest, Setter};
use crate::kinds::options::{KindOption, OptionValue};
use crate::options::RecordOptions;
use crate::outcome::RecordError;

/// The mean blocked time between two samples.
pub(crate) const BLOCK_RATE: KindOption = KindOption {
    name: "block-rate",
    help: "Sample once per this much blocked time, like Go's SetBlockProfileRate (block, mutex)",
    default: OptionValue::Duration(Duration::from_micros(10)),
};

/// The mean number of lock contentions per sample.
pub(crate) const MUTEX_FRACTION: KindOption = KindOption {
    name: "mutex-fraction",
    help: "Sample one contention in N, like Go's SetMutexProfileFraction (mutex, Go only)",
    default: OptionValue::Number(10),
};

/// How long the rate of the tick counter is measured before it is first needed. The result is
/// accurate to 0.02%.
const TICKS_BASE: Duration = Duration::from_millis(100);

/// The side of a contention that a profile shows.
pub(crate) trait Side: 'static {
    /// The sampling rate to set in the program.
    fn request(options: &RecordOptions, clock: TicksClock) -> RateRequest;
    fn reader() -> ContentionReader;
    /// Whether a record belongs to the profile.
    fn keeps(_: &[LogicalFrame<'_>]) -> bool {
        true
    }
    /// Describes the rate for the reader.
    fn describe(rate: u64, clock: TicksClock) -> String;
    /// The minimum count of a sampled record, as in Go's own profiles.
    const MIN_COUNT: i64;
}

pub(crate) struct Waiting;
pub(crate) struct Unlocking;
pub(crate) struct LockWaiting;

/// `block`: where goroutines wait.
pub(crate) type Block = Records<Waiting>;
/// `mutex`: where goroutines release locks that others wait for.
pub(crate) type Mutex = Records<Unlocking>;
/// `mutex --waiters`: where goroutines wait for locks.
pub(crate) type LockWaits = Records<LockWaiting>;

impl Side for Waiting {
    fn request(options: &RecordOptions, clock: TicksClock) -> RateRequest {
        let rate = clock.block_rate(options.own.number(&BLOCK_RATE).max(1));
        RateRequest { what: Claimed::BlockRate, rate, no_stop: options.no_stop }
    }

    fn reader() -> ContentionReader {
        ContentionReader::block()
    }

    fn describe(rate: u64, clock: TicksClock) -> String {
        let nanos = clock.nanoseconds(i64::try_from(rate).unwrap_or(i64::MAX));
        // The rate in ticks is slightly less than what was requested. Round it, to show the
        // request.
        let nanos = nanos.max(1).cast_unsigned();
        let unit = 10_u64.pow(nanos.ilog10().saturating_sub(2));
        let rounded = nanos.saturating_add(unit / 2) / unit * unit;
        format!("one sample per {:?} of waiting", Duration::from_nanos(rounded))
    }

    const MIN_COUNT: i64 = 1;
}

impl Side for Unlocking {
    fn request(options: &RecordOptions, _: TicksClock) -> RateRequest {
        RateRequest {
            what: Claimed::MutexFraction,
            rate: options.own.number(&MUTEX_FRACTION).max(1),
            no_stop: options.no_stop,
        }
    }

    fn reader() -> ContentionReader {
        ContentionReader::mutex()
    }

    fn describe(rate: u64, _: TicksClock) -> String {
        match rate {
            1 => "every contention is sampled".to_owned(),
            _ => format!("one contention in {rate} is sampled"),
        }
    }

    const MIN_COUNT: i64 = 0;
}

impl Side for LockWaiting {
    fn request(options: &RecordOptions, clock: TicksClock) -> RateRequest {
        Waiting::request(options, clock)
    }

    fn reader() -> ContentionReader {
        Waiting::reader()
    }

    /// Keeps waits in `sync.(*Mutex).Lock`, `sync.(*RWMutex).RLock` and the functions that they
    /// call.
    fn keeps(frames: &[LogicalFrame<'_>]) -> bool {
        let lock = |name: &str| {
            let of_sync = name.strip_prefix("internal/").unwrap_or(name);
            ["sync.(*Mutex).", "sync.(*RWMutex)."].iter().any(|p| of_sync.starts_with(p))
        };
        frames.iter().any(|f| lock(&f.function))
    }

    fn describe(rate: u64, clock: TicksClock) -> String {
        Waiting::describe(rate, clock)
    }

    const MIN_COUNT: i64 = 1;
}

/// The contention records of a program.
pub(crate) struct Records<S> {
    setter: Setter,
    request: RateRequest,
    /// The rate that applied. It scales the records of runtimes that do not scale them themselves.
    rate: u64,
    base: Ticks,
    /// Measured before the recording. At its end it is measured again over its whole length, which
    /// is more accurate.
    clock: TicksClock,
    reader: ContentionReader,
    before: Contention,
    read: Option<Contention>,
    side: PhantomData<S>,
}

impl<S: Side> Records<S> {
    fn set(&mut self, setter: Setter) {
        self.rate = match &setter {
            Setter::Own(rate) => *rate,
            Setter::Held(held) => held.rate,
            Setter::Another => self.rate,
        };
        self.setter = setter;
    }
}

fn read(reader: &mut ContentionReader, program: &Program) -> Result<Contention, RecordError> {
    reader.read(&program.runtime, &program.memory).map_err(|e| program.error(e))
}

impl<S: Side> GoKind for Records<S> {
    /// The sample types of `mutex` are the same.
    const FACTS: KindFacts = pprof::kinds::BLOCK;

    fn attach(program: &Program, options: &RecordOptions) -> Result<Self, RecordError> {
        let base = Ticks::now();
        std::thread::sleep(TICKS_BASE);
        let clock = TicksClock { per_second: Ticks::now().rate_since(base) };
        let request = S::request(options, clock);
        let mut reader = S::reader();
        let before = read(&mut reader, program)?;
        let setter = rates::set(program, request)?;
        let mut this = Self {
            setter: Setter::Another,
            request,
            rate: request.rate,
            base,
            clock,
            reader,
            before,
            read: None,
            side: PhantomData,
        };
        this.set(setter);
        Ok(this)
    }

    fn is_snapshot(&self) -> bool {
        false
    }

    fn poll(&mut self, program: &Program) {
        if let Setter::Another = self.setter
            && let Ok(setter) = rates::set(program, self.request)
        {
            self.set(setter);
        }
    }

    fn read(&mut self, program: &Program) -> Result<(), RecordError> {
        self.read = Some(read(&mut self.reader, program)?);
        Ok(())
    }

    fn has_read(&self) -> bool {
        self.read.is_some()
    }

    fn end(&mut self, _: &Program) {
        self.clock.per_second = Ticks::now().rate_since(self.base);
        if let Setter::Held(_) = self.setter {
            self.setter = Setter::Another;
        }
    }

    fn add_to(&self, program: &Program, profile: &mut GoProfile) -> Result<(), RecordError> {
        let Some(read) = &self.read else { return Ok(()) };
        let mut stacks = RecordedStacks::new(&program.runtime);
        for record in read.clone().since(&self.before).records {
            // Truncate to whole contentions, as the runtime itself does.
            #[allow(clippy::cast_possible_truncation)]
            let mut count = (record.count as i64).max(S::MIN_COUNT);
            let mut nanos = self.clock.nanoseconds(record.ticks);
            if self.request.what == Claimed::MutexFraction && program.runtime.mutex_is_unscaled() {
                let rate = i64::try_from(self.rate).unwrap_or(i64::MAX);
                count = count.saturating_mul(rate);
                nanos = nanos.saturating_mul(rate);
            }
            let frames = stacks.frames(&record.stack);
            if !S::keeps(&frames) {
                continue;
            }
            profile.add_or(program, &frames, &[count, nanos], Vec::new(), "[no stack recorded]")?;
        }
        Ok(())
    }

    fn account(&self, program: &Program, stats: &mut Stats) {
        let Some(read) = &self.read else {
            stats.notes.push("the target exited before its records could be read".into());
            return;
        };
        let records = read.clone().since(&self.before).records;
        let mut stacks = RecordedStacks::new(&program.runtime);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let kept = records
            .iter()
            .filter(|r| S::keeps(&stacks.frames(&r.stack)))
            .map(|r| r.count as u64)
            .sum::<u64>();
        stats.samples.kept += kept;
        stats.lost += read.implausible as u64;
        let setter = match self.setter {
            Setter::Own(_) => "the program's own rate",
            _ => "set for the recording; waits that began earlier are not included",
        };
        stats.notes.push(format!("{} ({setter})", S::describe(self.rate, self.clock)));
    }
}
