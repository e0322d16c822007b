//! Fuzzes every parser of data that a profiled process or a file's author controls.
//!
//! The fuzzer works with a stable compiler. It mutates the inputs of a corpus, keeps those with a
//! new outcome, and fails on a panic, a hang or too much memory. The printed seed determines all
//! inputs, but not when the run ends.
//!
//! ```text
//!   exoprof-fuzz elf --seconds 60           mutate fuzz/corpus/elf for a minute
//!   exoprof-fuzz elf --seed 7 --rounds 1000 the same inputs each time
//!   exoprof-fuzz elf --replay FILE…         run inputs without changes
//! ```

mod mutate;
mod profiles;
mod targets;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use nix::sys::resource::{Resource, setrlimit};

use crate::mutate::{Mutator, Random};
use crate::targets::{TARGETS, Target};

/// The time after which a run counts as a hang. Parsers limit their work, not their time. This is
/// far longer than that work takes, even in an unoptimized build on a busy machine.
const HANG: Duration = Duration::from_secs(60);
/// The limit on address space, in bytes. A parser that trusts a length in the input exceeds it.
const MAX_MEMORY: u64 = 6 << 30;
/// The maximum number of inputs that are kept for mutation.
const MAX_QUEUE: usize = 2000;

#[derive(Debug, Parser)]
#[command(about = "Fuzz the parsers of a profiled process's files and memory")]
struct Args {
    /// Parser to fuzz; `list` prints all parsers
    target: String,
    /// Duration in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Number of inputs, instead of --seconds
    #[arg(long)]
    rounds: Option<u64>,
    /// Seed of the sequence of inputs [default: the current time]
    #[arg(long)]
    seed: Option<u64>,
    /// Directory with one directory of inputs per parser
    #[arg(long, default_value = "fuzz/corpus")]
    corpus: PathBuf,
    /// Directory for failing inputs
    #[arg(long, default_value = "target/fuzz/findings")]
    findings: PathBuf,
    /// Run only these inputs, without changes
    #[arg(long, num_args = 1..)]
    replay: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if args.target == "list" {
        for target in TARGETS {
            println!("{:10} {}", target.name, target.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(target) = TARGETS.iter().find(|t| t.name == args.target) else {
        bail!("unknown parser {:?}; fix: exoprof-fuzz list", args.target);
    };
    setrlimit(Resource::RLIMIT_AS, MAX_MEMORY, MAX_MEMORY).context("setrlimit")?;
    let mut corpus = Vec::new();
    let replay = !args.replay.is_empty();
    let paths =
        if args.replay.is_empty() { files(&args.corpus.join(target.corpus))? } else { args.replay };
    for path in paths {
        corpus.push(std::fs::read(&path).with_context(|| path.display().to_string())?);
    }
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_nanos() as u64)
    });
    std::fs::create_dir_all(&args.findings)?;
    let mut runner = Runner::new(target, &args.findings);
    for input in &corpus {
        if !runner.run(input) {
            return Ok(ExitCode::FAILURE);
        }
    }
    if replay {
        println!("{}: {} inputs passed", target.name, runner.runs);
        return Ok(ExitCode::SUCCESS);
    }
    let budget = match args.rounds {
        Some(rounds) => Budget::Rounds(rounds),
        None => Budget::Until(Instant::now() + Duration::from_secs(args.seconds)),
    };
    if corpus.is_empty() {
        bail!("the corpus {} has no files", args.corpus.join(target.corpus).display());
    }
    println!("{}: seed {seed}, corpus of {} inputs", target.name, corpus.len());
    let passed = runner.fuzz(corpus, seed, &budget);
    println!(
        "{}: {} inputs, {} outcomes, slowest {:?}",
        target.name,
        runner.runs,
        runner.outcomes.len(),
        runner.slowest
    );
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    paths.sort();
    Ok(paths)
}

enum Budget {
    Rounds(u64),
    Until(Instant),
}

struct Runner<'a> {
    target: &'a Target,
    findings: &'a Path,
    outcomes: HashSet<u64>,
    runs: u64,
    slowest: Duration,
}

/// The start of the current run, in milliseconds since the first run; 0 between runs.
static RUN_START: AtomicU64 = AtomicU64::new(0);

impl<'a> Runner<'a> {
    fn new(target: &'a Target, findings: &'a Path) -> Self {
        let current = findings.join(format!("{}.current", target.name));
        let started = Instant::now();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(500));
                let run_start = RUN_START.load(Ordering::SeqCst);
                let now = started.elapsed().as_millis() as u64;
                if run_start > 0 && now.saturating_sub(run_start) > HANG.as_millis() as u64 {
                    eprintln!("hang; input: {}", current.display());
                    std::process::abort();
                }
            }
        });
        Self { target, findings, outcomes: HashSet::new(), runs: 0, slowest: Duration::ZERO }
    }

    /// Runs one input. Returns false if it panicked.
    fn run(&mut self, input: &[u8]) -> bool {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        // Written before the run, because the process may abort or be killed.
        let current = self.findings.join(format!("{}.current", self.target.name));
        if let Err(e) = std::fs::write(&current, input) {
            eprintln!("{}: {e}", current.display());
            return false;
        }
        let run_start = Instant::now();
        RUN_START.store(start.elapsed().as_millis() as u64 + 1, Ordering::SeqCst);
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target.run)(input)));
        RUN_START.store(0, Ordering::SeqCst);
        self.runs += 1;
        self.slowest = self.slowest.max(run_start.elapsed());
        let Ok(outcome) = outcome else {
            let mut hasher = DefaultHasher::new();
            input.hash(&mut hasher);
            let name = format!("{}-{:016x}", self.target.name, hasher.finish());
            let kept = self.findings.join(name);
            // Ignore errors: `current` is a copy, too.
            let _ = std::fs::write(&kept, input);
            eprintln!("panic; input: {}", kept.display());
            return false;
        };
        self.outcomes.insert(outcome);
        true
    }

    fn fuzz(&mut self, corpus: Vec<Vec<u8>>, seed: u64, budget: &Budget) -> bool {
        let mut mutator = Mutator::new(Random::new(seed));
        let kept = corpus.len();
        let mut queue = corpus;
        let mut round = 0;
        loop {
            let over = match budget {
                Budget::Rounds(n) => round >= *n,
                Budget::Until(end) => Instant::now() >= *end,
            };
            if over {
                return true;
            }
            round += 1;
            let input = mutator.next(&queue, self.target.max_len, self.target.remake);
            let before = self.outcomes.len();
            if !self.run(&input) {
                eprintln!("seed {seed}, round {round}");
                return false;
            }
            if self.outcomes.len() > before {
                if queue.len() >= MAX_QUEUE {
                    queue.truncate(kept.max(MAX_QUEUE / 2));
                }
                queue.push(input);
            }
        }
    }
}
