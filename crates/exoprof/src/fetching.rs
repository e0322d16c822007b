//! Shows the progress of fetching profiles.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use console::terminal::{in_one_line, say};
use console::usage::Verbosity;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use view::source::{FetchProgress, SaveError};

/// Shows the elapsed time and the bytes received, on a terminal.
pub struct Fetching {
    verbosity: Verbosity,
    bar: ProgressBar,
}

impl Fetching {
    /// Creates a display that shows nothing yet.
    pub fn new(verbosity: Verbosity) -> Self {
        Self { verbosity, bar: ProgressBar::hidden() }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {bytes}") {
        bar.set_style(style);
    }
    // The spinner must turn while the server records and sends nothing.
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

impl FetchProgress for Fetching {
    fn fetching(&mut self, url: &str, seconds: Option<u32>) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        say!("Fetching profile over HTTP from {url}");
        if let Some(seconds) = seconds {
            say!("Please wait... ({seconds}s)");
        }
        if std::io::stderr().is_terminal() {
            self.bar = bar();
        }
    }

    fn received(&mut self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    fn fetched(&mut self) {
        self.bar.finish_and_clear();
    }

    fn saved(&mut self, path: &Path) {
        if self.verbosity > Verbosity::Quiet {
            say!("Saved profile in {}", path.display());
        }
    }

    fn not_saved(&mut self, why: &SaveError) {
        say!("warning: cannot save the profile: {}", in_one_line(why));
    }
}
