//! Runs `exoprof record`: records profiles and writes one file per type.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use collect::kinds::{self, Kind};
use collect::{Ended, KindOutcome, RecordError, RecordOptions, Request};
use console::output::{FileName, Output, stem};
use console::stop::StopSignal;
use console::terminal::{in_one_line, say};
use console::usage::{UsageError, Verbosity};
use host::files::Folder;
use host::user::User;
use process::{Process, Spawned};

use crate::processes::{command_line, describe, open_all};
use crate::progress::Display;
use crate::record_args::{Backend, RecordArgs};
use crate::summary;

/// Runs the command.
pub fn run(args: &RecordArgs, verbosity: Verbosity) -> anyhow::Result<()> {
    let kinds = kinds_of(&args.types)?;
    if args.debuginfod {
        collect::debuginfod::use_servers_of_environment().map_err(|e| usage(e.to_string()))?;
    }
    let spawned = spawn(args)?;
    let pids = match &spawned {
        Some(child) => vec![child.pid()],
        None => args.pid.clone(),
    };
    if pids.is_empty() {
        return Err(usage("no target; give -p PID, or a command after --"));
    }
    let processes = open_all(&pids)?;
    let outputs = prepare_outputs(args, &kinds, &processes, spawned.is_some())?;
    for warning in outputs.iter().filter_map(Output::warning).take(1) {
        if verbosity > Verbosity::Quiet {
            say!("warning: {warning}");
        }
    }
    let stop = StopSignal::install().context("cannot handle signals")?;
    let options = options(args);
    let mut child = Child { waiting: spawned, running: None };
    let names: Vec<_> = kinds.iter().map(|k| k.name()).collect();
    let what = format!("{} of {}", names.join(", "), describe(&processes));
    if verbosity >= Verbosity::Verbose {
        say!("recording {what} for {:?} at {} Hz", options.duration, options.frequency);
    }
    let outcomes = {
        let mut request = Request::new(&processes, &options);
        request.before_exec = child.waiting.is_some();
        let release = Box::new(|| child.release());
        let mut display = Display::new(what, options.duration, verbosity, &stop, Some(release));
        collect::record(&kinds, &request, &mut display)
    };
    child.check()?;
    conclude(args, &kinds, outcomes, outputs, verbosity)?;
    if let (Some(pid), true) = (child.still_runs(), verbosity > Verbosity::Quiet) {
        say!("the command is still running (PID {pid})");
    }
    Ok(())
}

fn options(args: &RecordArgs) -> RecordOptions {
    RecordOptions {
        duration: args.duration,
        frequency: args.freq,
        kernel: args.kernel.wanted(),
        children: !args.no_children,
        descendants: true,
        backend: match args.backend {
            Backend::Auto => collect::Backend::Auto,
            Backend::Perf => collect::Backend::Perf,
            Backend::Ptrace => collect::Backend::Ptrace,
        },
        own: args.own.0.clone(),
        no_stop: args.no_stop,
        command: args.command.clone(),
        command_line: command_line(),
    }
}

/// Writes what was recorded, and says so. With `all`, kinds that do not fit the target are left
/// out with their reason; any other failure is the command's, after the rest has been written.
fn conclude(
    args: &RecordArgs,
    kinds: &[&Kind],
    outcomes: Vec<KindOutcome>,
    outputs: Vec<Output>,
    verbosity: Verbosity,
) -> anyhow::Result<()> {
    let mut failed = None;
    let mut exited = false;
    let (mut written, mut missed) = (0_usize, None);
    for ((kind, output), outcome) in kinds.iter().zip(outputs).zip(outcomes) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(RecordError::NotApplicable(why)) if args.types == "all" => {
                if verbosity > Verbosity::Quiet {
                    say!("no {}: {why}", kind.name());
                }
                continue;
            }
            // Kinds that need the target at the end, or are slow to attach, may miss it.
            Err(e) if args.types == "all" && e.is_exit() => {
                if verbosity > Verbosity::Quiet {
                    say!("no {}: {e}", kind.name());
                }
                missed.get_or_insert(e);
                continue;
            }
            Err(e) if kinds.len() == 1 => return Err(e.into()),
            Err(e) => {
                let e = anyhow::Error::from(e).context(format!("cannot record {}", kind.name()));
                if let Some(earlier) = failed.replace(e) {
                    say!("error: {}", in_one_line(earlier.as_ref()));
                }
                continue;
            }
        };
        let result = output.write_or_keep(|out| pprof::write_gz(&outcome.profile, out));
        let path = match result {
            Ok(path) => path,
            Err(e) if kinds.len() == 1 => return Err(e.into()),
            // The other profiles are written all the same.
            Err(e) => {
                if let Some(earlier) = failed.replace(e.into()) {
                    say!("error: {}", in_one_line(earlier.as_ref()));
                }
                continue;
            }
        };
        written += 1;
        if verbosity > Verbosity::Quiet {
            if outcome.ended == Ended::TargetsExited && !exited {
                exited = true;
                say!("the target exited after {:.1}s", outcome.stats.elapsed.as_secs_f64());
            }
            summary::print(path.as_deref(), &outcome, verbosity);
        }
    }
    match (failed, missed) {
        (Some(failed), _) => Err(failed),
        (None, Some(missed)) if written == 0 => Err(missed.into()),
        _ => Ok(()),
    }
}

fn usage(text: impl Into<String>) -> anyhow::Error {
    UsageError(text.into()).into()
}

fn kinds_of(types: &str) -> anyhow::Result<Vec<&'static Kind>> {
    if types == "all" {
        return Ok(kinds::all());
    }
    let mut found: Vec<&Kind> = Vec::new();
    for name in types.split(',') {
        let kind = kinds::find(name).ok_or_else(|| {
            let known: Vec<_> = kinds::all().into_iter().map(Kind::name).collect();
            usage(format!("unknown profile type {name:?}; available: {}, all", known.join(", ")))
        })?;
        if !found.iter().any(|k| k.name() == kind.name()) {
            found.push(kind);
        }
    }
    Ok(found)
}

/// Starts the command to profile, and holds it before its exec.
fn spawn(args: &RecordArgs) -> anyhow::Result<Option<Spawned>> {
    if args.command.is_empty() {
        return Ok(None);
    }
    Ok(Some(Spawned::new(&args.command)?))
}

fn prepare_outputs(
    args: &RecordArgs,
    kinds: &[&Kind],
    processes: &[Arc<Process>],
    spawned: bool,
) -> anyhow::Result<Vec<Output>> {
    let Some(first) = processes.first() else { return Ok(Vec::new()) };
    // Before its exec, the child still has our name.
    let program = args.command.first().map(PathBuf::from);
    let program = program.as_ref().and_then(|p| p.file_name()?.to_str());
    let comm = program.filter(|_| spawned).unwrap_or(&first.identity().comm);
    let numbered = |folder: PathBuf, kind: &Kind| FileName::Numbered {
        folder,
        stem: stem(comm, first.pid(), kind.name()),
    };
    let place = |kind: &&Kind| match &args.output {
        None => numbered(PathBuf::from("."), kind),
        Some(path) if path.is_dir() => numbered(path.clone(), kind),
        Some(path) => FileName::Named { path: path.clone(), replace: args.force },
    };
    if let (Some(path), true) = (&args.output, kinds.len() > 1)
        && !path.is_dir()
    {
        if path == Path::new("-") || path.symlink_metadata().is_ok() {
            let to = if path == Path::new("-") { "stdout".into() } else { path.to_string_lossy() };
            return Err(usage(format!("several types cannot go to {to}; give -o a directory")));
        }
        let made = Folder::make_for(path, &User::invoking());
        made.with_context(|| format!("cannot create the directory {}", path.display()))?;
    }
    kinds.iter().map(|kind| Ok(Output::prepare(place(kind))?)).collect()
}

/// The command that is profiled.
struct Child {
    waiting: Option<Spawned>,
    running: Option<Result<process::Running, process::SpawnError>>,
}

impl Child {
    fn release(&mut self) {
        self.running = self.waiting.take().map(Spawned::release);
    }

    /// Its pid, if it has not exited.
    fn still_runs(&mut self) -> Option<i32> {
        let Some(Ok(running)) = &mut self.running else { return None };
        running.try_wait().ok()?.is_none().then(|| running.pid())
    }

    /// Reports a command that could not be executed.
    fn check(&mut self) -> anyhow::Result<()> {
        match self.running.take() {
            Some(Err(e)) => Err(e.into()),
            other => {
                self.running = other;
                Ok(())
            }
        }
    }
}
