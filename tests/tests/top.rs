//! Tests of `exoprof top` in a real terminal (tmux): what it shows, what keys do, and that it
//! restores the terminal.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use exoprof_tests::{Target, exoprof, programs, recorder};

/// The function with half of the program's CPU time.
const HEAVIEST: &str = "heavy_a";

/// Limit for waiting for the screen, far above what anything needs.
const PATIENCE: Duration = Duration::from_secs(180);

/// A tmux terminal, closed with the test.
struct Terminal {
    socket: String,
}

impl Terminal {
    /// Starts a shell in a terminal; its prompt is `ready> `.
    fn new(name: &str) -> Self {
        let socket = format!("exoprof-{name}-{}", std::process::id());
        let terminal = Self { socket };
        let shell = "env PS1='ready> ' bash --norc --noprofile";
        terminal.tmux(&["new-session", "-d", "-x", "120", "-y", "30", shell]);
        terminal.wait_for(|screen| screen.contains("ready>"));
        terminal
    }

    fn tmux(&self, args: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket, "-f", "/dev/null"]).args(args);
        // tmux runs the user's login shell, which is nologin for nobody.
        command.env("SHELL", "/bin/sh");
        let output = command.output().expect("tmux starts: run scripts/setup-tests");
        assert!(output.status.success(), "{args:?}: {output:?}");
        output
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    #[track_caller]
    fn wait_for(&self, holds: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let screen = self.screen();
            if holds(&screen) {
                return screen;
            }
            assert!(began.elapsed() < PATIENCE, "the screen is still:\n{screen}");
            // A step of polling, not a wait for time to pass.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a command and prints the terminal's settings before and after it.
    fn run(&self, command: &str) {
        let line = format!("clear; stty -g; {command}; echo status=$?; stty -g");
        self.keys(&[&line, "Enter"]);
    }

    /// Waits until the command has ended, checks that the terminal is restored, and returns the
    /// exit status.
    #[track_caller]
    fn ended(&self) -> String {
        let has_prompt = |screen: &str| {
            screen.lines().rfind(|l| !l.is_empty()).is_some_and(|l| l.starts_with("ready>"))
        };
        let screen = self.wait_for(|s| s.contains("\nstatus=") && has_prompt(s));
        let settings: Vec<&str> = screen.lines().filter(|l| l.matches(':').count() > 10).collect();
        let [before, after] = &*settings else { panic!("{screen}") };
        assert_eq!(before, after);
        assert_eq!(self.flag("alternate_on"), "0", "still on the alternate screen");
        assert_eq!(self.flag("cursor_flag"), "1", "the cursor is hidden");
        screen.lines().find_map(|l| l.strip_prefix("status=")).unwrap().to_owned()
    }

    fn flag(&self, name: &str) -> String {
        let output = self.tmux(&["display-message", "-p", &format!("#{{{name}}}")]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

fn busy() -> Target {
    let mut target = Target::spawn(programs::SHARES, &[]);
    target.go(600_000);
    target
}

fn top(target: &Target) -> String {
    format!("{} top -p {}", recorder::binary().display(), target.pid())
}

/// The PID of the `exoprof top` that watches this target.
fn pid_of_top(target: &Target) -> i32 {
    let wanted = format!("top\0-p\0{}\0", target.pid());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
    let is_top = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Not the shell, whose command line quotes it.
        String::from_utf8_lossy(&line).ends_with(&wanted)
    };
    pids.find(is_top).expect("exoprof top runs")
}

#[test]
fn heaviest_functions_and_keys() {
    let target = busy();
    let terminal = Terminal::new("keys");
    terminal.run(&top(&target));
    let screen = terminal.wait_for(|s| s.contains("FUNCTION") && s.contains('%'));
    assert!(screen.contains("threads") && screen.contains("0 lost"), "{screen}");
    let flat = |screen: &str| -> Option<f64> {
        let row = screen.lines().find(|l| l.contains(HEAVIEST))?;
        row.trim().split('%').next()?.trim().parse().ok()
    };
    // The program spends half of its time there. 99 samples a second are few, and fewer on a busy
    // machine; sooner or later the share is in this range.
    terminal.wait_for(|s| flat(s).is_some_and(|share| (30.0..70.0).contains(&share)));

    terminal.keys(&["s"]);
    terminal.wait_for(|s| s.contains("CUM ▼"));
    terminal.keys(&["/"]);
    terminal.keys(&["^main$", "Enter"]);
    terminal.wait_for(|s| s.contains("main") && !s.contains(HEAVIEST));
    terminal.keys(&["Escape"]);
    terminal.wait_for(|s| s.contains(HEAVIEST));
    terminal.keys(&["f"]);
    terminal.wait_for(|s| s.contains("main") && s.contains('▕'));
    terminal.keys(&["t"]);
    terminal.wait_for(|s| s.contains("TID  THREAD") && s.contains(&target.pid().to_string()));
    terminal.keys(&["q"]);
    assert_eq!(terminal.ended(), "0");
}

#[test]
fn the_terminal_is_restored_on_sigterm_and_when_the_target_ends() {
    let mut target = busy();
    let terminal = Terminal::new("term");
    terminal.run(&top(&target));
    terminal.wait_for(|s| s.contains("FUNCTION"));
    let pid = nix::unistd::Pid::from_raw(pid_of_top(&target));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(terminal.ended(), "0");

    terminal.run(&top(&target));
    terminal.wait_for(|s| s.contains("FUNCTION"));
    target.kill();
    assert_eq!(terminal.ended(), "0");
    terminal.wait_for(|s| s.contains("the target has exited"));
}

#[test]
fn without_a_terminal_it_says_so() {
    let target = busy();
    let output = exoprof().args(["top", "-p", &target.pid().to_string()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("requires a terminal"), "{output:?}");
}
