//! Runs `exoprof doctor`: prints what can be recorded, and the fix for what cannot.

use anyhow::Context as _;
use clap::Args;
use collect::doctor::{Finding, Subject};
use console::terminal::to_stdout;
use host::rights::Rights;
use printable::{Printable, line as one_line};
use process::Process;

/// Options of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  exoprof doctor               check this machine
  sudo exoprof doctor -p 1234  check this process too")]
pub struct DoctorArgs {
    /// Check whether this process can be recorded
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
}

/// Runs the command.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let subject = Subject::examine(args.pid).with_context(|| match args.pid {
        Some(pid) => format!("cannot inspect process {pid}"),
        None => "cannot read /proc".to_owned(),
    })?;
    let mut text = about(&subject.rights);
    if let Some(pid) = args.pid {
        text += &match Process::open(pid) {
            Ok(p) => {
                let comm = Printable(&p.identity().comm);
                format!("process {pid}: {comm}, uid {}\n", p.identity().uid)
            }
            Err(e) => format!("process {pid}: {}\n", one_line(&e.to_string())),
        };
    }
    text.push('\n');
    subject.findings().iter().for_each(|f| text += &line(f));
    to_stdout(&text).context("cannot write to stdout")
}

fn about(rights: &Rights) -> String {
    let read =
        |name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let setting = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    format!(
        "kernel: {} {} {}\nrights: uid {}, capabilities {:#x}{}\nsettings: perf_event_paranoid {}, \
         kptr_restrict {}, yama.ptrace_scope {}\n",
        read("ostype").trim(),
        read("osrelease").trim(),
        std::env::consts::ARCH,
        rights.uid,
        rights.capabilities,
        if rights.filtered() { ", under a seccomp filter" } else { "" },
        setting(rights.perf_event_paranoid),
        setting(rights.kptr_restrict),
        setting(rights.ptrace_scope),
    )
}

fn line(f: &Finding) -> String {
    match &f.verdict {
        Ok(how) => format!("{:<15} yes  {}\n", f.what, one_line(how)),
        Err(o) => {
            let (reason, fix) = (one_line(&o.reason), one_line(&o.fix));
            format!("{:<15} no   {reason}\n{:<20} fix: {fix}\n", f.what, "")
        }
    }
}
