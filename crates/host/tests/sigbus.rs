//! Tests reading a mapped file that is truncated meanwhile.
//!
//! The only test in its binary, because the fault counter counts for the whole process.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::Arc;

use host::sigbus;
use image::{ElfImage, ImageBytes};

const PAGE: usize = 4096;
/// Set in the child process that is expected to die. The value selects how.
const DIE: &str = "SIGBUS_TEST_DIE";

fn copy_of_cat() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy("/bin/cat", file.path()).unwrap();
    file
}

#[test]
fn a_truncated_image_reads_as_zeros_and_any_other_fault_kills() {
    if let Ok(how) = std::env::var(DIE) {
        die(&how);
    }
    let file = copy_of_cat();
    let image = Arc::new(ElfImage::open(&File::open(file.path()).unwrap()).unwrap());
    sigbus::guard(&image).unwrap();
    let bytes = image.bytes();
    assert!(bytes.len() > 4 * PAGE);
    file.as_file().set_len(PAGE as u64).unwrap();
    assert_eq!(sigbus::faults(), 0);
    assert_eq!(&bytes[..4], b"\x7fELF", "the rest of the file is still readable");
    assert!(bytes[2 * PAGE..3 * PAGE].iter().all(|b| *b == 0));
    assert_eq!(sigbus::faults(), 1, "one page, one fault");
    assert!(bytes[3 * PAGE..4 * PAGE].iter().all(|b| *b == 0));
    assert_eq!(sigbus::faults(), 2);

    for how in ["unregistered", "sent", "dropped"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let status = child.env(DIE, how).stdout(std::process::Stdio::null()).status().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{how}: {status}");
    }
}

#[allow(unsafe_code)]
fn die(how: &str) -> ! {
    sigbus::install().unwrap();
    let file = copy_of_cat();
    let bytes = ImageBytes::map(&File::open(file.path()).unwrap()).unwrap();
    if how == "dropped" {
        drop(sigbus::Registration::new(bytes.as_ptr_range()).unwrap());
    }
    if how == "sent" {
        // SAFETY: raises a signal, which ends this process as intended.
        unsafe { libc::raise(libc::SIGBUS) };
    }
    file.as_file().set_len(PAGE as u64).unwrap();
    // If the handler wrongly supplies a zero here, the process exits without SIGBUS and the test
    // fails.
    std::process::exit(i32::from(std::hint::black_box(bytes[2 * PAGE])));
}
