//! Unwinds the recordings in `tests/fixtures` and compares the result with gdb's frames.
//!
//! A recording contains the registers, memory and module files of a program stopped by gdb, and
//! gdb's frames. The test requires neither gdb nor a compiler, so it detects regressions on any
//! machine. With EXOPROF_UPDATE_FIXTURES=NAME it also makes recordings: see
//! `tests/fixtures/README.md`.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Recording, build_with, dump, read_with};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use image::{Arch, ElfImage, ImageBytes};
use unwind::Unwinder;

/// A program from `tests/programs`, how to build it, and gdb's script.
struct Fixture {
    name: &'static str,
    compiler: &'static str,
    source: &'static str,
    flags: &'static [&'static str],
    script: &'static str,
    stops: usize,
}

const FIXTURES: [Fixture; 4] = [
    Fixture {
        name: "steps",
        compiler: "gcc",
        source: "steps.c",
        flags: &["-fpie", "-pie", "-Wl,-z,lazy"],
        script: "recorder.run_to('start')\nrecorder.header()\nrecorder.step(120)\n",
        stops: 120,
    },
    Fixture {
        name: "signals",
        compiler: "gcc",
        source: "signals.c",
        flags: &[],
        script: SIGNALS,
        stops: 80,
    },
    Fixture {
        name: "exceptions",
        compiler: "g++",
        source: "throws.cc",
        flags: &["-Wl,-z,now"],
        script: EXCEPTIONS,
        stops: 100,
    },
    Fixture {
        name: "musl",
        compiler: "musl-gcc",
        source: "musl.c",
        flags: &["-static"],
        script: "recorder.run_to('*main')\nrecorder.header()\nrecorder.step_calls(6000, 40)\n",
        stops: 150,
    },
];

const SIGNALS: &str = "
gdb.execute('handle SIGUSR1 SIGUSR2 nostop noprint pass', to_string=True)
recorder.run_to('*victim')
recorder.header()
recorder.stop()
gdb.execute('tbreak on_usr1', to_string=True)
gdb.execute('signal SIGUSR1', to_string=True)
recorder.step(40)
recorder.run_to('in_handler')
recorder.step(39)
";

const EXCEPTIONS: &str = "
gdb.execute('set environment LD_BIND_NOW 1', to_string=True)
recorder.run_to('throws')
recorder.header()
gdb.execute('tbreak _Unwind_RaiseException', to_string=True)
gdb.execute('continue', to_string=True)
recorder.step(100)
";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn unpack(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).expect("a gzip file");
    bytes
}

fn pack(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be created");
    let mut out = GzEncoder::new(File::create(path).expect("the file"), Compression::best());
    out.write_all(bytes).and_then(|()| out.finish()).expect("it can be written");
}

/// The path of a module. Fixtures share modules, which are named after the mapped file. A program
/// is named after its fixture.
fn module_path(name: &str, fixture: &str) -> PathBuf {
    let base = name.rsplit('/').next().unwrap_or(name);
    let base = if base == "program" { format!("{fixture}.program") } else { base.into() };
    folder().join("modules").join(format!("{base}.gz"))
}

fn load(fixture: &Fixture) -> Recording {
    let bytes = unpack(&folder().join(format!("{}.recording.gz", fixture.name)));
    let mut opened: BTreeMap<String, Arc<ElfImage>> = BTreeMap::new();
    read_with(&bytes, &mut |name: &str| {
        let known = opened.entry(name.to_owned()).or_insert_with(|| {
            let bytes = ImageBytes::Owned(unpack(&module_path(name, fixture.name)));
            Arc::new(ElfImage::parse(bytes).expect("a module"))
        });
        Arc::clone(known)
    })
}

/// Makes a recording with this machine's compiler, libraries and gdb.
fn update(fixture: &Fixture) {
    let dir = tempfile::tempdir().expect("a folder");
    let program = build_with(fixture.compiler, dir.path(), fixture.source, fixture.flags);
    let recording = dump(dir.path(), &program, fixture.script);
    pack(&folder().join(format!("{}.recording.gz", fixture.name)), &recording);
    let maps = common::read(&recording);
    for mapping in maps.space.iter().filter(|m| m.name.starts_with('/')) {
        let (image, _) = mapping.image.as_ref().expect("an image");
        pack(&module_path(&mapping.name, fixture.name), image.bytes());
    }
}

#[test]
fn recordings_unwind_to_the_frames_of_gdb() {
    for fixture in &FIXTURES {
        if std::env::var("EXOPROF_UPDATE_FIXTURES").is_ok_and(|name| name == fixture.name) {
            update(fixture);
        }
        let recording = load(fixture);
        assert_eq!(recording.stops.len(), fixture.stops, "{}", fixture.name);
        let mut unwinder = Unwinder::new(Arch::X86_64);
        let mut frames = Vec::new();
        for (i, stop) in recording.stops.iter().enumerate() {
            assert!(stop.complete, "{} stop {i}: gdb gave up", fixture.name);
            frames.clear();
            let end = unwinder.unwind(&recording.space, &stop.registers, &stop.memory, &mut frames);
            let pcs: Vec<u64> = frames.iter().map(|f| f.pc.0).collect();
            assert_eq!(pcs, stop.pcs, "{} stop {i}: {end}", fixture.name);
            assert!(end.is_root(), "{} stop {i}: {end}", fixture.name);
        }
    }
}

#[test]
fn fixtures_are_under_five_megabytes() {
    let sizes = |dir: PathBuf| {
        let entries = fs::read_dir(dir).expect("the fixtures").flatten();
        entries
            .filter_map(|e| e.metadata().ok())
            .filter(|m| m.is_file())
            .map(|m| m.len())
            .sum::<u64>()
    };
    let all = sizes(folder()) + sizes(folder().join("modules"));
    assert!(all > 100_000 && all < 5 << 20, "{all} bytes");
}
