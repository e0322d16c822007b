//! Why the kernel refuses a BPF program, in a line.

use aya::programs::ProgramError;

/// Without the verifier's log, which has hundreds of lines.
pub(crate) fn refusal(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => {
            format!("the BPF_PROG_LOAD syscall returned {io_error}")
        }
        other => other.to_string(),
    }
}
