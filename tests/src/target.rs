//! Runs a ground-truth program and speaks its handshake (see `tests/targets/truth.h`).

use std::borrow::BorrowMut;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::Program;

/// Limit for waiting for a line, far above what any program needs, so that a hung test ends.
const PATIENCE: Duration = Duration::from_secs(180);

/// CPU nanoseconds by site, as measured by the program itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Truth(pub BTreeMap<String, u64>);

impl Truth {
    fn parse(line: &str) -> Self {
        Self(
            line.split_whitespace()
                .filter_map(|word| word.split_once('='))
                .map(|(name, ns)| (name.to_owned(), ns.parse().expect("nanoseconds")))
                .collect(),
        )
    }

    /// The difference to an earlier mark.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let used =
            self.0.iter().map(|(k, v)| (k.clone(), v - earlier.0.get(k).copied().unwrap_or(0)));
        Self(used.collect())
    }

    /// Nanoseconds of one site.
    ///
    /// # Panics
    /// When the program has no such site.
    #[must_use]
    pub fn ns(&self, site: &str) -> u64 {
        *self.0.get(site).unwrap_or_else(|| panic!("no site {site} in {self:?}"))
    }

    /// Nanoseconds of all sites.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The share of one site in the total, from 0 to 1.
    #[must_use]
    pub fn share(&self, site: &str) -> f64 {
        self.ns(site) as f64 / self.total() as f64
    }
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    ready: String,
}

impl Target {
    /// Builds and starts a program and waits until it is ready. It idles until [`Self::go`].
    #[must_use]
    pub fn spawn(program: Program, args: &[&str]) -> Self {
        let mut command = Command::new(program.path());
        command.args(args);
        Self::spawn_command(command)
    }

    /// Like [`Self::spawn`], then makes it work until it is stopped.
    #[must_use]
    pub fn working(program: Program, args: &[&str]) -> Self {
        let mut target = Self::spawn(program, args);
        target.go(0);
        target
    }

    /// Starts any command that speaks the handshake.
    ///
    /// # Panics
    /// When it does not start or does not say `ready`.
    #[must_use]
    pub fn spawn_command(mut command: impl BorrowMut<Command>) -> Self {
        let command: &mut Command = command.borrow_mut();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take();
        let mut target = Self { child, stdin, lines, ready: String::new() };
        target.ready = target.expect("ready");
        target
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A value from the program's `ready` line, such as its port.
    ///
    /// # Panics
    /// When the line has no such value.
    #[must_use]
    pub fn given(&self, key: &str) -> &str {
        self.ready
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .find(|(name, _)| *name == key)
            .unwrap_or_else(|| panic!("no {key} in {:?}", self.ready))
            .1
    }

    /// Makes it work for `ms` milliseconds of CPU time (per thread, if the target's header says
    /// so); 0 means without end.
    pub fn go(&mut self, ms: u64) {
        self.send(&format!("go {ms}"));
    }

    /// Waits until the work of [`Self::go`] is done.
    pub fn wait_done(&mut self) {
        self.expect("done");
    }

    /// The CPU time used so far.
    pub fn mark(&mut self) -> Truth {
        self.send("mark");
        Truth::parse(&self.expect("truth"))
    }

    /// Sends a line.
    ///
    /// # Panics
    /// When the program has ended.
    pub fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("the target reads stdin");
    }

    /// Waits for a line that begins with `prefix`, skipping others.
    ///
    /// # Panics
    /// When the program ends or takes minutes.
    pub fn expect(&mut self, prefix: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with(prefix) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("no {prefix:?} within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without {prefix:?}: {:?}", self.child.wait());
                }
            }
        }
    }

    /// Closes stdin, which makes the program end soon after. It stays a zombie until
    /// [`Self::finish`] or until it is dropped.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Ends the program and returns all CPU time that it used.
    ///
    /// # Panics
    /// When its exit status is not 0: a profiler must not make it fail.
    #[must_use]
    pub fn finish(mut self) -> Truth {
        self.close();
        let truth = Truth::parse(&self.expect("truth"));
        let status = self.wait();
        assert!(status.success(), "the target ended with {status}");
        truth
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child can be waited for")
    }

    /// Kills it without reaping it: it stays a zombie.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended already; either way it must be reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
