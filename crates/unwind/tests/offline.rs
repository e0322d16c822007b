//! Unwinds recorded stacks with less memory, with other unwind tables, or without tables.

mod common;

use std::path::Path;

use common::{Recording, Regions, Stop, build, build_with, record};
use image::{AddressSpace, Arch, Avma, ElfImage, MappingId, MappingKind, NewMapping};
use unwind::{BreakReason, End, Frame, Registers, RootReason, Unwinder, function_starts};

const AT_BOTTOM: &str = "recorder.run_to('bottom')\nrecorder.header()\nrecorder.stop()\n";

fn deep(dir: &Path, flags: &[&str]) -> Recording {
    let program = build(dir, "deep.c", flags);
    record(dir, &program, AT_BOTTOM)
}

fn pcs(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|f| f.pc.0).collect()
}

fn unwind_in(recording: &Recording, space: &AddressSpace) -> (Vec<u64>, End) {
    unwind_stop(&recording.stops[0], space)
}

fn unwind_stop(stop: &Stop, space: &AddressSpace) -> (Vec<u64>, End) {
    let mut frames = Vec::new();
    let mut unwinder = Unwinder::new(Arch::X86_64);
    let end = unwinder.unwind(space, &stop.registers, &stop.memory, &mut frames);
    (pcs(&frames), end)
}

#[test]
fn a_truncated_stack_continues_with_other_memory_at_every_length() {
    let dir = tempfile::tempdir().unwrap();
    let recording = deep(dir.path(), &[]);
    let stop = &recording.stops[0];
    let sp = stop.registers.sp().unwrap().0;
    let mut unwinder = Unwinder::new(Arch::X86_64);
    let mut lengths = 0;
    for length in (0..).step_by(8) {
        let mut window = vec![0; length];
        image::Memory::read(&stop.memory, Avma(sp), &mut window).unwrap();
        let window = Regions(vec![(sp, window)]);
        let mut frames = Vec::new();
        let end = unwinder.unwind(&recording.space, &stop.registers, &window, &mut frames);
        if end.is_root() {
            break;
        }
        let End::Truncated { sp: at, unreadable } = end else { panic!("{length}: {end}") };
        assert_eq!(unwinder.cursor().registers().sp(), Some(at));
        assert_eq!(unwinder.cursor().depth(), frames.len());
        assert!(unreadable.0 >= sp + length as u64, "{unreadable} was captured");
        assert_eq!(pcs(&frames), stop.pcs[..frames.len()], "the frames so far are correct");
        let cursor = unwinder.cursor().clone();
        let end = unwinder.resume(&recording.space, &cursor, &stop.memory, &mut frames);
        assert!(end.is_root(), "{length}: {end}");
        assert_eq!(pcs(&frames), stop.pcs, "resumed after {length} bytes");
        lengths += 1;
    }
    assert!(lengths > 50, "only {lengths} lengths were too short");
}

#[test]
fn a_stack_deeper_than_the_limit_ends_as_too_deep() {
    let dir = tempfile::tempdir().unwrap();
    let recording = deep(dir.path(), &[]);
    let stop = &recording.stops[0];
    let mut unwinder = Unwinder::new(Arch::X86_64);
    for (limit, end) in [
        (stop.pcs.len() - 1, End::Broken(BreakReason::TooDeep)),
        (stop.pcs.len(), End::Root(RootReason::Undefined)),
    ] {
        let mut frames = Vec::new();
        unwinder.set_max_frames(limit);
        let got = unwinder.unwind(&recording.space, &stop.registers, &stop.memory, &mut frames);
        assert_eq!((got, frames.len()), (end, limit));
    }
}

#[test]
fn cached_rules_give_the_same_frames() {
    let dir = tempfile::tempdir().unwrap();
    let recording = deep(dir.path(), &[]);
    let stop = &recording.stops[0];
    let mut unwinder = Unwinder::new(Arch::X86_64);
    let mut frames = Vec::new();
    unwinder.unwind(&recording.space, &stop.registers, &stop.memory, &mut frames);
    let cold = unwinder.cache_stats();
    unwinder.unwind(&recording.space, &stop.registers, &stop.memory, &mut frames);
    let warm = unwinder.cache_stats();
    assert_eq!(warm.misses, cold.misses);
    assert_eq!(warm.hits, cold.hits * 2 + cold.misses);
    assert_eq!(frames[..stop.pcs.len()], frames[stop.pcs.len()..]);
}

#[test]
fn tables_are_found_without_their_search_table_or_section_headers() {
    let dir = tempfile::tempdir().unwrap();
    let recording = deep(dir.path(), &[]);
    // With an unknown version of .eh_frame_hdr, the entries of .eh_frame are searched one by one.
    let without_header = |_: &str, file: &[u8]| {
        let mut file = file.to_vec();
        let image = image::ElfImage::parse(image::ImageBytes::Owned(file.clone())).ok()?;
        let hdr = image.eh_frame_hdr()?.data.as_ptr().addr() - image.bytes().as_ptr().addr();
        file[hdr] = 9;
        Some(file)
    };
    // Clear e_shoff, e_shnum and e_shstrndx, so that only the program headers are left.
    let without_sections = |_: &str, file: &[u8]| {
        let mut file = file.to_vec();
        file[0x28..0x30].fill(0);
        file[0x3c..0x40].fill(0);
        Some(file)
    };
    for space in [recording.with_images(without_header), recording.with_images(without_sections)] {
        let (frames, end) = unwind_in(&recording, &space);
        assert_eq!(frames, recording.stops[0].pcs);
        assert!(end.is_root(), "{end}");
    }
}

/// Writes C functions that fill `.debug_frame`, because a small section would not be compressed.
fn many_functions(dir: &Path) -> String {
    let path = dir.join("many.c");
    let function = |i| format!("int many_{i}(int *a) {{ return *a + {i}; }}\n");
    std::fs::write(&path, (0..200).map(function).collect::<String>()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn debug_frame_is_used_without_eh_frame_however_it_is_compressed() {
    let methods = [("none", None), ("zlib", Some([1, 0, 0, 0])), ("zstd", Some([2, 0, 0, 0]))];
    for (compress, ch_type) in methods {
        let dir = tempfile::tempdir().unwrap();
        let many = many_functions(dir.path());
        let option = format!("-Wl,--compress-debug-sections={compress}");
        let flags = ["-g", "-fno-asynchronous-unwind-tables", "-fno-exceptions", &option, &many];
        let recording = deep(dir.path(), &flags);
        let program = recording.space.iter().find(|m| m.name.ends_with("/program")).unwrap();
        let (image, bias) = program.image.as_ref().unwrap();
        let section = image.section(".debug_frame").unwrap();
        let found = section.compressed.then(|| section.data[..4].try_into().unwrap());
        assert_eq!(found, ch_type, "{compress}");
        let (frames, end) = unwind_in(&recording, &recording.space);
        assert_eq!(frames, recording.stops[0].pcs, "{compress}");
        assert!(end.is_root(), "{compress}: {end}");

        // Code analysis would find the same frames, so also test the tables alone.
        let pc = [bias.to_svma(recording.stops[0].registers.pc().unwrap())];
        assert!(function_starts(image, &pc)[0].is_some(), "{compress}");
        let corrupted = recording.with_images(|name, file| {
            let at = section.data.as_ptr().addr() - image.bytes().as_ptr().addr();
            let mut file = file.to_vec();
            file.get_mut(at..at + section.data.len())?.fill(0xff);
            name.ends_with("/program").then_some(file)
        });
        let program = corrupted.iter().find(|m| m.name.ends_with("/program")).unwrap();
        let (image, _) = program.image.as_ref().unwrap();
        assert_eq!(function_starts(image, &pc), [None], "{compress}");
    }
}

#[test]
fn code_without_any_tables_is_unwound_by_frame_pointers() {
    let dir = tempfile::tempdir().unwrap();
    let mut recording = deep(dir.path(), &["-fno-omit-frame-pointer"]);
    let program = recording.space.iter().find(|m| m.name.ends_with("/program")).unwrap();
    let (image, bias) = program.image.as_ref().unwrap();
    let code = image.bytes_at(bias.to_svma(program.start)).unwrap().to_vec();
    let code = (program.start.0, code);
    recording.stops[0].memory.0.push(code);
    let stop = &recording.stops[0];
    // No image at all, like code of a just-in-time compiler.
    let space = recording.with_images(|name, _| name.ends_with("/program").then(Vec::new));
    let (frames, end) = unwind_in(&recording, &space);
    // `_start` has no frame record: it clears rbp and never returns.
    assert_eq!(frames, stop.pcs);
    assert!(end.is_root(), "{end}");
}

#[test]
fn a_frame_without_tables_is_unwound_by_its_code_or_ends_the_stack() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "deep.c", &["-fno-asynchronous-unwind-tables"]);
    let recording = record(dir.path(), &program, AT_BOTTOM);
    let (frames, end) = unwind_in(&recording, &recording.space);
    // gdb gives up after two frames. The C library, from the caller of `main` on, has tables.
    assert!(end.is_root(), "{end}");
    let callers = frames[1..17].iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(
        (frames.len(), callers.len()),
        (21, 3),
        "16 alternating calls from 3 places: {frames:x?}"
    );

    // The leaf can still be unwound. Now put a trap into its caller where the call returns.
    let traps = |name: &str, file: &[u8]| {
        let program = recording.space.iter().find(|m| &*m.name == name)?;
        let (image, bias) = program.image.as_ref().ok()?;
        let code = image.bytes_at(bias.to_svma(image::Avma(frames[1])))?;
        let at = code.as_ptr().addr() - image.bytes().as_ptr().addr();
        let mut file = file.to_vec();
        file[at] = 0xcc;
        name.ends_with("/program").then_some(file)
    };
    let (short, end) = unwind_in(&recording, &recording.with_images(traps));
    assert_eq!(short, frames[..2]);
    assert_eq!(end, End::Broken(BreakReason::NoUnwindInfo));
}

#[test]
fn roots_without_tables_are_recognised_by_code_or_entry_point() {
    let dir = tempfile::tempdir().unwrap();
    let program = build_with("musl-gcc", dir.path(), "musl.c", &["-static"]);
    let script = "
gdb.execute('set follow-fork-mode child', to_string=True)
recorder.run_to('in_child')
recorder.header()
recorder.stop()
";
    let recording = record(dir.path(), &program, script);
    let (frames, end) = unwind_in(&recording, &recording.space);
    assert_eq!((frames.len(), end), (2, End::Root(RootReason::ThreadExit)), "in musl's __clone");

    let program = build(dir.path(), "entry.c", &["-static", "-nostartfiles"]);
    let recording = record(dir.path(), &program, AT_BOTTOM);
    let (frames, end) = unwind_in(&recording, &recording.space);
    assert_eq!((frames.len(), end), (3, End::Root(RootReason::EntryPoint)));
}

/// No unwind entry covers the return of the system call in glibc's `clone3`. In the caller, a call
/// instruction confirms the return address. In the new thread there is none.
#[test]
fn a_new_thread_is_its_own_root() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "born.c", &[]);
    let script = "
recorder.run_to('*&returned')
recorder.header()
recorder.stop()
for result in (7, 0):
    gdb.execute('set $rsp = (long) &stack + 2048')
    gdb.execute('set $rax = %d' % result)
    recorder.stop()
";
    let recording = record(dir.path(), &program, script);
    let [of_caller, of_other, of_new] = [0, 1, 2].map(|i| {
        let (frames, end) = unwind_stop(&recording.stops[i], &recording.space);
        (frames.len(), end)
    });
    assert!(of_caller.0 > 2 && of_caller.1.is_root(), "{of_caller:?}");
    assert_eq!(of_other, (1, End::Broken(BreakReason::NoUnwindInfo)));
    assert_eq!(of_new, (1, End::Root(RootReason::ThreadBegin)));
}

#[test]
fn missing_or_wild_registers_break_the_stack_with_a_reason() {
    let memory = Regions(vec![(0x7000, vec![0; 64])]);
    let mut space = AddressSpace::default();
    let image = Err(image::ImageAbsence::Anonymous);
    let mapping = NewMapping {
        start: Avma(0x10_0000),
        end: Avma(0x20_0000),
        offset: image::FileOffset(0),
        name: "//anon".into(),
        file: None,
        kind: MappingKind::Anonymous,
        image,
    };
    space.insert(MappingId(1), mapping);
    let mut unwinder = Unwinder::new(Arch::X86_64);
    let mut end_of = |pc: Option<u64>, sp: Option<u64>, bp: u64| {
        let mut registers = Registers::unknown(Arch::X86_64);
        pc.into_iter().for_each(|pc| registers.set_pc(Avma(pc)));
        sp.into_iter().for_each(|sp| registers.set_sp(Avma(sp)));
        registers.set(6, bp);
        let mut frames = Vec::new();
        (unwinder.unwind(&space, &registers, &memory, &mut frames), frames.len())
    };
    let broken = End::Broken;
    assert_eq!(end_of(None, Some(0x7000), 0), (broken(BreakReason::NoRegisters), 0));
    assert_eq!(end_of(Some(0x10_0000), None, 0), (broken(BreakReason::NoRegisters), 0));
    assert_eq!(end_of(Some(0x1), Some(0x7000), 0), (broken(BreakReason::NoMapping), 1));
    assert_eq!(end_of(Some(0x10_0010), Some(0x7000), 3), (broken(BreakReason::NoUnwindInfo), 1));
    let null = End::Root(RootReason::NullReturn);
    assert_eq!(end_of(Some(0x10_0010), Some(0x7000), 0x7008), (null, 1));
    let (sp, unreadable) = (Avma(0x7000), Avma(0x9000));
    let truncated = End::Truncated { sp, unreadable };
    assert_eq!(end_of(Some(0x10_0010), Some(0x7000), 0x9000), (truncated, 1));
}

/// Unwinds aarch64 JIT code. The stack is laid out by hand, because the test also runs on x86-64.
#[test]
fn aarch64_link_register_records_and_authentication_codes() {
    const CODE: u64 = 0x40_0000;
    const STACK: u64 = 0x7f_0000;
    const PAC: u64 = 0x00ff_0000_0000_0000;
    const BL_BACK: u32 = 0x97ff_ff00;
    let mut code = vec![0; 0x1000];
    let mut put = |at: usize, words: &[u32]| {
        for (i, word) in words.iter().enumerate() {
            code[at + i * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
    };
    put(0x100, &[0xa9bf_7bfd]); // stp x29, x30, [sp, #-16]!
    put(0x3fc, &[BL_BACK]);
    put(0x7fc, &[BL_BACK]);
    let mut stack = vec![0; 0x800];
    let mut word = |at: usize, value: u64| stack[at..][..8].copy_from_slice(&value.to_le_bytes());
    // The frame record of the function around 0x400. That of its caller is the last one.
    word(0x40, STACK + 0x80);
    word(0x48, (CODE + 0x800) | 0x0055_0000_0000_0000);
    let memory = Regions(vec![(CODE, code), (STACK, stack)]);
    let mut space = AddressSpace::default();
    let mapping = NewMapping {
        start: Avma(CODE),
        end: Avma(CODE + 0x1000),
        offset: image::FileOffset(0),
        name: "//anon".into(),
        file: None,
        kind: MappingKind::Anonymous,
        image: Err(image::ImageAbsence::Anonymous),
    };
    space.insert(MappingId(1), mapping);
    // x0 to x29, lr, sp, pc: perf uses DWARF's order.
    let mut values = [0; 33];
    (values[29], values[30]) = (STACK + 0x40, CODE + 0x400);
    (values[31], values[32]) = (STACK, CODE + 0x100);
    let registers = Registers::from_perf(Arch::Aarch64, &values, (1 << 33) - 1);
    let mut unwinder = Unwinder::new(Arch::Aarch64);
    unwinder.set_pac_mask(PAC);
    let mut frames = Vec::new();
    let end = unwinder.unwind(&space, &registers, &memory, &mut frames);
    assert_eq!(pcs(&frames), [CODE + 0x100, CODE + 0x400, CODE + 0x800]);
    assert_eq!(end, End::Root(RootReason::NullReturn), "the last frame record is null");
    assert_eq!(unwinder.cursor().registers().sp(), None, "a frame record does not give the CFA");
}

/// The Go program `plain`, built for another or this architecture.
fn go_program(arch: &str) -> std::sync::Arc<ElfImage> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let goroot = root.join(".cache/go/1.27.3/go");
    let program = root.join(format!(".cache/gobuild/plain-1.27.3-{arch}"));
    let built = std::process::Command::new(goroot.join("bin/go"))
        .current_dir(root.join("tests/targets/go/plain"))
        .env("GOROOT", &goroot)
        .envs([("GOARCH", arch), ("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local")])
        .envs([("GOPROXY", "off"), ("GOTELEMETRY", "off")])
        // Git refuses to read the checkout of another user, which `go build` would do.
        .env("GOFLAGS", "-mod=mod -buildvcs=false")
        .env("GOCACHE", root.join(".cache/gocache"))
        .args(["build", "-p", "2", "-ldflags=-s -w", "-o"])
        .arg(&program)
        .arg(".")
        .status()
        .expect("Go is not installed; fix: scripts/setup-tests");
    assert!(built.success());
    std::sync::Arc::new(ElfImage::open(&std::fs::File::open(&program).unwrap()).unwrap())
}

/// The address space of a process that has mapped the program where it was linked.
fn space_of(image: &std::sync::Arc<ElfImage>) -> AddressSpace {
    let mut space = AddressSpace::default();
    let mapping = NewMapping {
        start: Avma(0x1000),
        end: Avma(0x100_0000),
        offset: image::FileOffset(0),
        name: "/plain".into(),
        file: None,
        kind: MappingKind::File,
        image: Ok((image.clone(), image::Bias(0))),
    };
    space.insert(MappingId(1), mapping);
    space
}

/// Unwinds a Go program for x86-64 with a stack laid out by hand. The caller's frame pointer is saved
/// below the return address.
#[test]
fn x86_64_go_frames_by_the_line_table() {
    let image = go_program("amd64");
    assert_eq!(image.arch(), Arch::X86_64);
    let table = gopclntab::LineTable::from_image(&image).unwrap();
    // An address in a function where its frame is set up, and the depth of the frame.
    let place = |name: &str| {
        let f = table.function_named(name).unwrap();
        let depth = |pc| f.sp_delta(image::Svma(pc)).unwrap();
        let at = (f.entry().0..f.end().0).find(|pc| depth(*pc) >= 16).unwrap();
        (at + 1, u64::from(depth(at)))
    };
    let keep = table.function_named("main.keep").unwrap().entry().0;
    let ((wait, wait_depth), (main, main_depth)) = (place("main.waitMutex"), place("main.main"));
    let goexit = table.function_named("runtime.goexit").unwrap().entry().0 + 1;
    const STACK: u64 = 0x40_0000_0000;
    let mut stack = vec![0; 0x4000];
    let mut word = |at: u64, value: u64| {
        stack[usize::try_from(at - STACK).unwrap()..][..8].copy_from_slice(&value.to_le_bytes());
    };
    // keep (no frame yet) <- waitMutex <- main <- goexit
    word(STACK, wait);
    let of_wait = STACK + 8;
    word(of_wait + wait_depth - 8, 0x1111);
    word(of_wait + wait_depth, main);
    let of_main = of_wait + wait_depth + 8;
    word(of_main + main_depth - 8, 0x2222);
    word(of_main + main_depth, goexit);
    let space = space_of(&image);
    let mut registers = Registers::unknown(Arch::X86_64);
    registers.set_pc(Avma(keep));
    registers.set_sp(Avma(STACK));
    registers.set(6, 0x3333);
    let mut frames = Vec::new();
    let memory = Regions(vec![(STACK, stack)]);
    let mut unwinder = Unwinder::new(Arch::X86_64);
    let end = unwinder.unwind(&space, &registers, &memory, &mut frames);
    assert_eq!(pcs(&frames), [keep, wait, main, goexit], "{end}");
    assert!(end.is_root(), "{end}");
    assert_eq!(unwinder.cursor().registers().get(6), Some(0x2222), "saved by main.main");
}

/// Unwinds a Go program for arm64. The stack is laid out by hand like after the compiler's
/// prologue, because the test also runs on x86-64. The link register is saved at the stack pointer.
#[test]
fn aarch64_go_frames_by_the_line_table() {
    let image = go_program("arm64");
    assert_eq!(image.arch(), Arch::Aarch64);
    let table = gopclntab::LineTable::from_image(&image).unwrap();
    // An address in a function where its frame is set up or not, and the depth of the frame.
    let place = |name: &str, framed: bool| {
        let f = table.function_named(name).unwrap();
        let pcs = (f.entry().0..f.end().0).step_by(4);
        let at = pcs.map(image::Svma).find(|pc| (f.sp_delta(*pc).unwrap() > 0) == framed).unwrap();
        (at.0 + 4, u64::from(f.sp_delta(at).unwrap()))
    };
    let (keep, _) = place("main.keep", false);
    let (wait, wait_depth) = place("main.waitMutex", true);
    let (main, main_depth) = place("main.main", true);
    let goexit = table.function_named("runtime.goexit").unwrap().entry().0 + 4;
    const STACK: u64 = 0x40_0000_0000;
    let mut stack = vec![0; 0x4000];
    let mut word = |at: u64, value: u64| {
        stack[usize::try_from(at - STACK).unwrap()..][..8].copy_from_slice(&value.to_le_bytes());
    };
    // keep (no frame yet) <- waitMutex <- main <- goexit
    word(STACK, main);
    word(STACK + wait_depth, goexit);
    let space = space_of(&image);
    let mut registers = Registers::unknown(Arch::Aarch64);
    registers.set_pc(Avma(keep - 4));
    registers.set_sp(Avma(STACK));
    registers.set(30, wait);
    let mut frames = Vec::new();
    let memory = Regions(vec![(STACK, stack)]);
    let end = Unwinder::new(Arch::Aarch64).unwind(&space, &registers, &memory, &mut frames);
    assert_eq!(pcs(&frames), [keep - 4, wait, main, goexit], "{end}, depth {main_depth}");
    assert!(end.is_root(), "{end}");
}
