//! Symbolizes kernel addresses with lists of kernel symbols (/proc/kallsyms).

use symbolize::kernel::{KernelSymbol, NoKernelSymbol, resolve};

const LIST: &str = "\
0000000000000000 A fixed_percpu_data
0000000000001000 A cpu_debug_store
ffffffff81000000 T startup_64
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000100 t local_one
ffffffff81000200 T __x64_sys_read
ffffffff81000200 T sys_read
ffffffff81000200 t a_read
ffffffff81000300 W weak_one
ffffffff81000400 T _etext
ffffffff81200000 R __start_rodata
ffffffff81300000 D init_task
ffffffffc0100000 t ext4_read\t[ext4]
ffffffffc0100100 d ext4_data\t[ext4]
ffffffffc0000000 t bpf_prog_6deef7357e7b4530\t[bpf]
ffffffffc0000080 t bpf_prog_two_F\t[bpf]
";

fn names(list: &str, addresses: &[u64]) -> Vec<Result<(String, String, u64), NoKernelSymbol>> {
    let plain = |s: KernelSymbol| (s.name.to_string(), s.module.to_string(), s.start);
    let found = resolve(list.as_bytes(), addresses).unwrap();
    found.names.into_iter().map(|n| n.map(plain)).collect()
}

#[test]
fn an_address_has_the_name_of_the_function_that_contains_it() {
    let kernel = "[kernel.kallsyms]";
    let cases = [
        (0xffffffff81000000, Ok(("startup_64", kernel, 0xffffffff81000000))),
        (0xffffffff810001ff, Ok(("local_one", kernel, 0xffffffff81000100))),
        (0xffffffff81000200, Ok(("sys_read", kernel, 0xffffffff81000200))),
        (0xffffffff81000399, Ok(("weak_one", kernel, 0xffffffff81000300))),
        (0xffffffff81000400, Err(NoKernelSymbol::NotCovered)),
        (0xffffffff81200010, Err(NoKernelSymbol::NotCovered)),
        (0xffffffff80ffffff, Err(NoKernelSymbol::NotCovered)),
        (0xffffffffc0100010, Ok(("ext4_read", "[ext4]", 0xffffffffc0100000))),
        (0xffffffffc0100110, Err(NoKernelSymbol::NotCovered)),
        (0xffffffffc0000010, Ok(("bpf_prog_6deef7357e7b4530", "[bpf]", 0xffffffffc0000000))),
        (0xffffffffc0000081, Ok(("bpf_prog_two_F", "[bpf]", 0xffffffffc0000080))),
        // No function is as long as this gap.
        (0xffffffffc00fffff + 0x100000, Err(NoKernelSymbol::NotCovered)),
        (0x5000, Err(NoKernelSymbol::NotCovered)),
        (u64::MAX, Err(NoKernelSymbol::NotCovered)),
    ];
    let addresses: Vec<u64> = cases.iter().map(|c| c.0).rev().collect();
    let found = names(LIST, &addresses);
    for ((address, want), got) in cases.iter().rev().zip(found) {
        let want = want.map(|(n, m, s)| (n.to_owned(), m.to_owned(), s));
        assert_eq!(got, want, "{address:#x}");
    }
    let found = resolve(LIST.as_bytes(), &[]).unwrap();
    assert_eq!(found.stext, Some(0xffffffff81000000));
    assert_eq!(found.etext, Some(0xffffffff81000400));
    assert_eq!(found.malformed, 0);
}

#[test]
fn functions_end_at_the_next_symbol() {
    let ends = |addresses: &[u64]| -> Vec<u64> {
        let found = resolve(LIST.as_bytes(), addresses).unwrap().names;
        found.into_iter().map(|n| n.unwrap().end).collect()
    };
    // For a single address, reading ends early. In the last case, several addresses lie in one
    // function.
    assert_eq!(ends(&[0xffffffff81000001]), [0xffffffff81000100]);
    assert_eq!(ends(&[0xffffffff81000200]), [0xffffffff81000300]);
    let module = 0xffffffffc0000010;
    assert_eq!(
        ends(&[0xffffffff810001ff, module, 0xffffffff81000100, 0xffffffff81000399]),
        [0xffffffff81000200, 0xffffffffc0000080, 0xffffffff81000200, 0xffffffff81000400],
    );
}

#[test]
fn hidden_and_empty_lists_have_reasons() {
    let hidden: String = LIST.lines().map(|l| format!("0000000000000000{}\n", &l[16..])).collect();
    assert_eq!(names(&hidden, &[0xffffffff81000000]), [Err(NoKernelSymbol::KptrRestricted)]);
    assert_eq!(names("", &[0xffffffff81000000]), [Err(NoKernelSymbol::NoSymbols)]);
}

#[test]
fn malformed_lines_are_counted() {
    let long = format!("ffffffff81000900 T {}\n", "x".repeat(100_000));
    let bad = format!(
        "\u{0}\nzz T x\nffffffff81000000\nffffffff81000000 T\nffffffff8100000000 T x\n\n{long}{LIST}"
    );
    let found = resolve(bad.as_bytes(), &[0xffffffff81000150]).unwrap();
    assert_eq!(&*found.names[0].as_ref().unwrap().name, "local_one");
    assert!(found.malformed >= 5, "{}", found.malformed);
}

#[test]
fn reading_ends_after_the_last_address_in_kernel_text() {
    let end = LIST.find("ffffffff81000300").unwrap();
    let end = end + LIST[end..].find('\n').unwrap() + 1;
    let tail = "no line\n";
    let list = format!("{}{tail}{}", &LIST[..end], &LIST[end..]);
    let malformed = |address| resolve(list.as_bytes(), &[address]).unwrap().malformed;
    assert_eq!(malformed(0xffffffff81000250), 0, "a_read ends where weak_one begins");
    assert_eq!(malformed(0xffffffff81000310), 1);
    assert_eq!(malformed(0xffffffffc0000010), 1, "modules come last");
    // An unsorted list is read to its end.
    let moved = LIST.replace("ffffffff81000100 t local_one", "ffffffff81000280 t local_one");
    let found = resolve(moved.as_bytes(), &[0xffffffff81000290]).unwrap();
    assert_eq!(&*found.names[0].as_ref().unwrap().name, "local_one");
}
