//! Shows the progress of a recording.

use std::io::IsTerminal as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use collect::{Progress, Watcher};
use console::stop::StopSignal;
use console::usage::Verbosity;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is redrawn. More often would only take CPU time from the target.
const REDRAW: Duration = Duration::from_millis(200);

/// A progress bar on a terminal, one line elsewhere, nothing with `--quiet`.
pub struct Display<'a> {
    stop: &'a StopSignal,
    bar: ProgressBar,
    drawn: Instant,
    /// Called once all threads are attached.
    on_attached: Option<Box<dyn FnOnce() + 'a>>,
}

impl<'a> Display<'a> {
    /// Creates a display for a recording of this length.
    pub fn new(
        what: String,
        duration: Duration,
        verbosity: Verbosity,
        stop: &'a StopSignal,
        on_attached: Option<Box<dyn FnOnce() + 'a>>,
    ) -> Self {
        // Log lines would break up the bar.
        let bar = if verbosity == Verbosity::Normal && std::io::stderr().is_terminal() {
            terminal_bar(duration)
        } else {
            ProgressBar::hidden()
        };
        bar.set_message(what);
        Self { stop, bar, drawn: Instant::now(), on_attached }
    }
}

fn terminal_bar(duration: Duration) -> ProgressBar {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let bar = ProgressBar::with_draw_target(Some(millis), ProgressDrawTarget::stderr());
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let template =
        if plain { "{msg} [{bar:30}] {prefix}" } else { "{msg} [{bar:30.cyan}] {prefix}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

impl Watcher for Display<'_> {
    fn attached(&mut self) {
        if let Some(call) = self.on_attached.take() {
            call();
        }
    }

    fn progress(&mut self, p: Progress) {
        if self.drawn.elapsed() < REDRAW {
            return;
        }
        self.drawn = Instant::now();
        let total = Duration::from_millis(self.bar.length().unwrap_or(0));
        let left = total.saturating_sub(p.elapsed);
        self.bar.set_prefix(format!(
            "{:.0}s, {:.0}s left, {} samples, {} lost",
            p.elapsed.as_secs_f64(),
            left.as_secs_f64(),
            p.samples,
            p.lost
        ));
        self.bar.set_position(u64::try_from(p.elapsed.as_millis()).unwrap_or(u64::MAX));
    }

    fn stop(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stop.as_fd())
    }
}

impl Drop for Display<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
