//! Runs `exoprof top`: shows the heaviest functions of a running process, live.

mod draw;
mod flame;
mod keys;
mod model;
mod screen;

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use collect::{Live, RecordOptions};
use console::stop::StopSignal;
use console::terminal::say;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use process::Process;

use crate::record_args::KernelArgs;
use keys::Next;
use model::Model;
use screen::Screen;

/// Options of `top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo exoprof top -p $(pidof -s redis-server)
  sudo exoprof top -p 1234 -F 499 --no-children

Keys: q quits, / filters, s sorts, f shows the flame graph, t shows the threads, ? lists all keys")]
pub struct TopArgs {
    /// Show this process; repeatable
    #[arg(short, long, value_name = "PID", required = true, value_parser = clap::value_parser!(i32).range(1..))]
    pid: Vec<i32>,
    /// Sample at this rate in Hz, per running thread
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    freq: u32,
    /// `--kernel` and `--no-kernel`
    #[command(flatten)]
    kernel: KernelArgs,
    /// Do not record child processes
    #[arg(long)]
    no_children: bool,
}

/// How often the screen is refreshed.
const REFRESH: Duration = Duration::from_secs(1);
/// How often samples (at 99 Hz) and keys are read.
const READ: Duration = Duration::from_millis(100);

/// Why the view ended.
enum Ended {
    Asked,
    TargetsExited,
}

/// Runs the command.
pub fn run(args: &TopArgs) -> anyhow::Result<()> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("top requires a terminal; use exoprof record to write a file");
    }
    let processes = crate::processes::open_all(&args.pid)?;
    let options = RecordOptions {
        frequency: args.freq,
        kernel: args.kernel.wanted(),
        children: !args.no_children,
        descendants: true,
        ..RecordOptions::default()
    };
    let stop = StopSignal::install().context("cannot handle signals")?;
    let mut live = Live::attach(&processes, &options)?;
    let mut model = Model::new(crate::processes::describe(&processes), args.freq);
    let mut screen = Screen::enter().context("cannot set up the terminal")?;
    let ended = show(&mut screen, &mut live, &mut model, &processes, &stop);
    drop(screen);
    match ended? {
        Ended::TargetsExited => say!("the target has exited"),
        Ended::Asked => {}
    }
    Ok(())
}

fn show(
    screen: &mut Screen,
    live: &mut Live,
    model: &mut Model,
    processes: &[std::sync::Arc<Process>],
    stop: &StopSignal,
) -> anyhow::Result<Ended> {
    // At higher rates the ring buffers fill sooner.
    let read = READ * 99 / model.frequency().max(99);
    let mut refreshed = Instant::now();
    screen.draw(|frame| draw::draw(frame, model))?;
    loop {
        let mut changed = false;
        if waits_for_us(read, stop)? {
            if is_readable(stop)? {
                return Ok(Ended::Asked);
            }
            while let Some(event) = screen.event()? {
                changed = true;
                if keys::handle(&event, model) == Next::Quit {
                    return Ok(Ended::Asked);
                }
            }
        }
        live.poll();
        if refreshed.elapsed() >= REFRESH {
            refreshed = Instant::now();
            model.add(live.take()?);
            changed = true;
            if !processes.iter().any(|p| p.is_alive()) && !live.any_alive() {
                return Ok(Ended::TargetsExited);
            }
        }
        if changed {
            screen.draw(|frame| draw::draw(frame, model))?;
        }
    }
}

/// Waits for a key or a signal, at most for `time`.
fn waits_for_us(time: Duration, stop: &StopSignal) -> anyhow::Result<bool> {
    let stdin = io::stdin();
    let mut fds = [
        PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        PollFd::new(stop.as_fd(), PollFlags::POLLIN),
    ];
    let timeout = PollTimeout::try_from(time.max(Duration::from_millis(1)))?;
    match poll(&mut fds, timeout) {
        Ok(ready) => Ok(ready > 0),
        // The window was resized, which is an event to read.
        Err(nix::errno::Errno::EINTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn is_readable(stop: &StopSignal) -> anyhow::Result<bool> {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
