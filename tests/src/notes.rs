//! Notes of a test that must be seen although it passes: a machine that is not quiet, another round
//! of measuring.

use std::io::Write as _;

/// Shows a line with the test's name. `scripts/test` prints all of them at the end, from the file that
/// `EXOPROF_TEST_NOTES` names; the output of tests that pass is not shown.
pub fn note(text: &str) {
    let thread = std::thread::current();
    write(&format!("{}: {text}", thread.name().unwrap_or("a test")));
}

/// Shows a line that is the same in many tests.
pub fn of_all(text: &str) {
    write(text);
}

fn write(text: &str) {
    let line = format!("{}\n", text.trim_end().replace('\n', "; "));
    // A note that cannot be written must not fail the test.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("EXOPROF_TEST_NOTES") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        // One write of one line: lines of processes that run at the same time do not mix.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
