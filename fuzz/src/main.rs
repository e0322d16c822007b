//! Feeds damaged input to everything that reads what a target can write.
//!
//! A fuzzer for a stable compiler: it mutates a kept corpus, keeps what leads to an outcome not
//! seen before, and fails on a panic, a hang or memory beyond the limit. Everything follows from
//! the seed that it prints, apart from when it ends.
//!
//! ```text
//!   exoprof-fuzz elf --seconds 60           mutate fuzz/corpus/elf for a minute
//!   exoprof-fuzz elf --seed 7 --rounds 1000 the same inputs each time
//!   exoprof-fuzz elf --replay FILE…         run kept inputs as they are
//! ```

mod mutate;
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

/// The bounds of the parsers are stated in work; this is far beyond what that work takes even in
/// an unoptimized build on a busy machine.
const HANG: Duration = Duration::from_secs(60);
/// All address space: a parser that believes a length fails here.
const MAX_MEMORY: u64 = 6 << 30;
/// Inputs that are kept for their outcomes.
const MAX_QUEUE: usize = 2000;

#[derive(Debug, Parser)]
#[command(about = "Feeds damaged input to what reads a target's files and memory")]
struct Args {
    /// What to feed; `list` tells what there is
    target: String,
    /// For how long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// For how many inputs, instead
    #[arg(long)]
    rounds: Option<u64>,
    /// Where the sequence of inputs begins
    #[arg(long)]
    seed: Option<u64>,
    /// The folder with a folder for each target
    #[arg(long, default_value = "fuzz/corpus")]
    corpus: PathBuf,
    /// Where inputs are kept that made it fail
    #[arg(long, default_value = "target/fuzz/findings")]
    findings: PathBuf,
    /// Run these as they are, and nothing else
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
        bail!("no target {:?}; `list` tells what there is", args.target);
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
        println!("{}: {} inputs are fine", target.name, runner.runs);
        return Ok(ExitCode::SUCCESS);
    }
    let budget = match args.rounds {
        Some(rounds) => Budget::Rounds(rounds),
        None => Budget::Until(Instant::now() + Duration::from_secs(args.seconds)),
    };
    if corpus.is_empty() {
        bail!("no corpus in {}", args.corpus.join(target.corpus).display());
    }
    println!("{}: seed {seed}, {} kept inputs", target.name, corpus.len());
    let sound = runner.fuzz(corpus, seed, &budget);
    println!(
        "{}: {} inputs, {} outcomes, slowest {:?}",
        target.name,
        runner.runs,
        runner.outcomes.len(),
        runner.slowest
    );
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

/// When the input that is being run was begun, in milliseconds from the start; 0 between two.
static BEGUN: AtomicU64 = AtomicU64::new(0);

impl<'a> Runner<'a> {
    fn new(target: &'a Target, findings: &'a Path) -> Self {
        let current = findings.join(format!("{}.current", target.name));
        let began = Instant::now();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(500));
                let begun = BEGUN.load(Ordering::SeqCst);
                let now = began.elapsed().as_millis() as u64;
                if begun > 0 && now.saturating_sub(begun) > HANG.as_millis() as u64 {
                    eprintln!("hang: the input is {}", current.display());
                    std::process::abort();
                }
            }
        });
        Self { target, findings, outcomes: HashSet::new(), runs: 0, slowest: Duration::ZERO }
    }

    /// Runs one input; false when it panicked.
    fn run(&mut self, input: &[u8]) -> bool {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        // Kept before it is run: an abort or a kill leaves no time.
        let current = self.findings.join(format!("{}.current", self.target.name));
        if let Err(e) = std::fs::write(&current, input) {
            eprintln!("{}: {e}", current.display());
            return false;
        }
        let began = Instant::now();
        BEGUN.store(start.elapsed().as_millis() as u64 + 1, Ordering::SeqCst);
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target.run)(input)));
        BEGUN.store(0, Ordering::SeqCst);
        self.runs += 1;
        self.slowest = self.slowest.max(began.elapsed());
        let Ok(outcome) = outcome else {
            let mut hasher = DefaultHasher::new();
            input.hash(&mut hasher);
            let name = format!("{}-{:016x}", self.target.name, hasher.finish());
            let kept = self.findings.join(name);
            // The copy in `current` is there in any case.
            let _ = std::fs::write(&kept, input);
            eprintln!("panic: the input is {}", kept.display());
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
            let input = mutator.next(&queue, self.target.max_len);
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
