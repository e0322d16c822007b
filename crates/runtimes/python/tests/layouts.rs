//! Compares the tables of CPython offsets with real interpreters.

use std::path::{Path, PathBuf};
use std::process::Command;

use image::{Avma, Bias, ElfImage, Memory, Svma, Unreadable};
use pyruntime::{FrameStyle, Layout, Runtime};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// The offsets of 3.9 to 3.12 must equal the DWARF of builds with debug information. Prints the
/// versions that have no such build on this machine.
#[test]
fn offsets_match_dwarf() {
    for minor in 9..=12 {
        let layout = Layout::of_minor(minor).unwrap();
        let name = format!("libpython3.{minor}.so.1.0");
        let versions = std::fs::read_dir("/root/.pyenv/versions").into_iter().flatten().flatten();
        let found = versions.map(|v| v.path().join("lib").join(&name)).find(|path| path.exists());
        let Some(library) = found else {
            println!("NOT RUN for 3.{minor}: no {name} with debug information");
            continue;
        };
        let out = Command::new(repository().join("scripts/python-offsets"))
            .arg(&library)
            .output()
            .expect("scripts/python-offsets runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let printed = |row: &str| {
            let line = text.lines().find(|l| l.split_whitespace().next() == Some(row));
            line.and_then(|l| l.split_whitespace().nth(1)).unwrap_or_else(|| panic!("no {row}"))
        };
        for (row, offset) in [
            ("interpreters_head", layout.interpreters_head),
            ("interp_next", layout.interpreter_next),
            ("interp_threads", layout.interpreter_threads),
            ("thread_next", layout.thread_next),
            ("thread_id", layout.thread_id),
            ("thread_frame", layout.thread_frame),
            ("code_first_line", layout.code_first_line),
            ("code_name", layout.code_name),
            ("code_file", layout.code_file),
            ("code_lines", layout.code_lines),
            ("code_bytes", layout.code_bytes),
            ("object_type", layout.object_type),
            ("bytes_size", layout.bytes_size),
            ("bytes_data", layout.bytes_data),
            ("text_length", layout.text_length),
            ("text_state", layout.text_state),
        ] {
            assert_eq!(printed(row), offset.to_string(), "3.{minor}: {row}");
        }
        let frame = if layout.style == FrameStyle::Objects {
            ["object_frame_code", "object_frame_back", "object_frame_lasti"]
        } else {
            ["frame_code", "frame_previous", "frame_instr"]
        };
        let known = [layout.frame_code, layout.frame_previous, layout.frame_instruction];
        for (row, offset) in frame.iter().zip(known) {
            assert_eq!(printed(row), offset.to_string(), "3.{minor}: {row}");
        }
    }
}

/// Memory as if an image were mapped at its link-time addresses, without relocations.
struct Mapped<'a>(&'a ElfImage);

impl Memory for Mapped<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let bytes = self.0.bytes_at(Svma(addr.0)).ok_or(Unreadable(addr))?;
        buf.copy_from_slice(bytes.get(..buf.len()).ok_or(Unreadable(addr))?);
        Ok(())
    }
}

fn debian(suite: &str, minor: u32) -> Option<ElfImage> {
    let path = repository().join(format!(".cache/python/{suite}/usr/bin/python3.{minor}"));
    let file = std::fs::File::open(path).ok();
    if file.is_none() {
        println!("NOT RUN for 3.{minor}: scripts/setup-tests --all-python unpacks it");
    }
    file.map(|f| ElfImage::open(&f).unwrap())
}

/// Interpreters of 3.13 and later contain their own offsets, in the order of the headers of
/// `libpython3.14-dev`.
#[test]
fn debug_offsets_are_read() {
    for (suite, minor, head, owner, code) in
        [("trixie", 13, 632, 70, 200), ("sid", 14, 808, 74, 208)]
    {
        let Some(image) = debian(suite, minor) else { continue };
        let name = format!("/usr/bin/python3.{minor}");
        let runtime = Runtime::find(&image, Bias(0), &Mapped(&image), &name).unwrap().unwrap();
        let layout = runtime.layout();
        assert_eq!((layout.minor, layout.style), (minor, FrameStyle::EntryFrame));
        assert_eq!(layout.interpreters_head, head);
        assert_eq!((layout.frame_owner, layout.code_bytes), (owner, code));
        assert_eq!((layout.text_ascii, layout.bytes_data, layout.object_type), (40, 32, 8));
    }
}

/// Memory with the cookie and a known version, followed by small random numbers that look like
/// offsets.
struct Random(u64);

impl Memory for Random {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let mut state = self.0 ^ addr.0;
        for (i, byte) in buf.iter_mut().enumerate() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = if i % 8 < 2 { (state >> 56) as u8 } else { 0 };
        }
        if let Some(begin) = buf.get_mut(..24) {
            begin.copy_from_slice(b"xdebugpy\0\0\x0e\x03\0\0\0\0\0\0\0\0\0\0\0\0");
        } else if let Some(begin) = buf.get_mut(..8) {
            begin.copy_from_slice(b"xdebugpy");
        }
        Ok(())
    }
}

/// A target whose memory is random is rejected.
#[test]
fn random_memory_is_rejected() {
    let Some(image) = debian("trixie", 13) else { return };
    for seed in 0..2000 {
        let memory = Random(seed);
        let runtime = Runtime::find(&image, Bias(0), &memory, "python3.13").unwrap();
        let reader = runtime.expect("the image has the section").code_reader();
        assert!(reader.read(&memory, Avma(seed * 8)).is_err());
    }
}
