//! A file that shrinks underneath. Alone in its binary: the count of faults is that of a process.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::Arc;

use host::sigbus;
use image::{ElfImage, ImageBytes};

const PAGE: usize = 4096;
/// Set in the copy of this test that is meant to die; its value says how.
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
    assert_eq!(&bytes[..4], b"\x7fELF", "what is left of the file is still read");
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
        // SAFETY: raises a signal, which is to end this process.
        unsafe { libc::raise(libc::SIGBUS) };
    }
    file.as_file().set_len(PAGE as u64).unwrap();
    // The zero that a wrongly helpful handler would give is no reason to die of SIGBUS.
    std::process::exit(i32::from(std::hint::black_box(bytes[2 * PAGE])));
}
