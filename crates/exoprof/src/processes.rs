//! Opens the processes that the command line names.

use std::sync::Arc;

use printable::Printable;
use process::Process;

pub fn open_all(pids: &[i32]) -> anyhow::Result<Vec<Arc<Process>>> {
    let mut processes: Vec<Arc<Process>> = Vec::new();
    for &pid in pids {
        if processes.iter().all(|p| p.pid() != pid) {
            processes.push(Arc::new(Process::open(pid)?));
        }
    }
    Ok(processes)
}

pub fn describe(processes: &[Arc<Process>]) -> String {
    let names =
        processes.iter().map(|p| format!("{} ({})", Printable(&p.identity().comm), p.pid()));
    names.collect::<Vec<_>>().join(", ")
}

pub fn command_line() -> String {
    let words = std::env::args_os().map(|w| w.to_string_lossy().into_owned());
    words.collect::<Vec<_>>().join(" ")
}
