//! Tests each rule of the validator with a profile that violates it.

mod common;

use common::{cpu, gz};
use pprof::KindFacts;
use pprof::validate::{Expect, Violation, check, check_expecting};
use pprof::{encode, proto};
use prost::Message;

/// Encodes the valid profile, changes it, and returns the message of each violation.
fn violations(change: impl FnOnce(&mut proto::Profile)) -> Vec<String> {
    let mut wire = proto::Profile::decode(encode(&cpu()).as_slice()).unwrap();
    change(&mut wire);
    match check(&wire.encode_to_vec()) {
        Ok(report) => panic!("nothing found: {report:?}"),
        Err(found) => found.iter().map(ToString::to_string).collect(),
    }
}

/// Adds a string and returns its index.
fn string(p: &mut proto::Profile, text: &str) -> i64 {
    p.string_table.push(text.as_bytes().to_vec());
    p.string_table.len() as i64 - 1
}

#[track_caller]
fn assert_found(found: &[String], message: &str) {
    assert!(found.iter().any(|m| m.starts_with(message)), "{message:?} is not in {found:#?}");
}

#[test]
fn a_valid_profile_passes() {
    let report = check(&gz(&cpu())).unwrap();
    assert_eq!(report.kind, "cpu");
    assert_eq!((report.samples, report.mappings, report.locations), (3, 2, 3));
    assert_eq!((report.unsymbolized, report.functions), (1, 3));
    assert_eq!(check(&encode(&cpu())), Ok(report));
}

#[test]
fn strings_and_ids() {
    assert_found(&violations(|p| p.string_table[0] = b"x".to_vec()), "string_table[0]");
    assert_found(&violations(|p| p.string_table[1] = vec![0xc0]), "string_table[1] is not valid");
    assert_found(&violations(|p| p.string_table.push(b"cpu".to_vec())), "string_table[");
    assert_found(&violations(|p| p.function[0].name = 99), "Function.name is string 99, but");
    assert_found(&violations(|p| p.mapping.swap(0, 1)), "mapping ids are not 1..N");
    assert_found(&violations(|p| p.location[2].id = 4), "location ids are not 1..N in order");
    assert_found(&violations(|p| p.function[2].id = 4), "function ids are not 1..N in order");
    let found = violations(|p| p.sample[0].location_id[0] = 7);
    assert_found(&found, "sample 0 refers to location 7, which does not exist");
}

#[test]
fn mappings() {
    let found = violations(|p| p.mapping[0].memory_limit = p.mapping[0].memory_start);
    assert_found(&found, "mapping 1 (/usr/bin/worker) is empty or inverted");
    let found = violations(|p| p.mapping[0].file_offset += 1);
    assert_found(&found, "mapping 1 (/usr/bin/worker): offset 0x2001 is not page-aligned");
    let named = |name: &'static str| {
        violations(move |p| {
            let name = string(p, name);
            p.mapping[1].filename = name;
        })
    };
    assert_found(&named("/lib/a.so (deleted)"), "mapping 2: path \"/lib/a.so (deleted)\" ends");
    assert_found(&named("/proc/7/root/lib/a.so"), "mapping 2: path \"/proc/7/root/lib/a.so\" is");
    for name in ["[vdso]", "//anon", "/memfd:jit", "linux-vdso.so.1", ""] {
        // The string "" is also a duplicate, so there is a second violation.
        assert_found(&named(name), "location 3 at 0x7f0000100000 has no lines, and");
    }
    let found = violations(|p| {
        let id = string(p, "ABCD");
        p.mapping[0].build_id = id;
    });
    assert_found(&found, "mapping 1 (/usr/bin/worker): build ID \"ABCD\" is not lower-case hex");
    let found = violations(|p| p.mapping[1].has_functions = true);
    assert_found(&found, "mapping 2 (/usr/lib/x86_64-linux-gnu/libc.so.6) has has_functions, but");
    let found = violations(|p| p.location[0].line[0].line = 0);
    assert_found(&found, "mapping 1 (/usr/bin/worker) has has_line_numbers, but location 1");
    let found = violations(|p| p.function[0].filename = 0);
    assert_found(&found, "mapping 1 (/usr/bin/worker) has has_filenames, but location");
}

#[test]
fn kernel_mappings_need_no_alignment() {
    let mut wire = proto::Profile::decode(encode(&cpu()).as_slice()).unwrap();
    let name = string(&mut wire, "[kernel.kallsyms]");
    wire.mapping[1] = proto::Mapping { filename: name, ..wire.mapping[1] };
    wire.mapping[1].memory_start += 1;
    wire.location[2].line = wire.location[0].line.clone();
    check(&wire.encode_to_vec()).unwrap();
}

#[test]
fn locations_and_functions() {
    assert_found(&violations(|p| p.location[0].mapping_id = 0), "location 1 at 0x555555556200 has");
    let found = violations(|p| p.location[0].mapping_id = 9);
    assert_found(&found, "location 1 refers to mapping 9");
    let found = violations(|p| p.location[0].address = p.mapping[0].memory_limit);
    assert_found(&found, "location 1: 0x555555580000 is outside mapping 1");
    let found = violations(|p| {
        p.location[0] = proto::Location { id: 1, ..p.location[1].clone() };
    });
    assert_found(&found, "location 2 repeats location 1");
    let found = violations(|p| p.location[0].line[1].function_id = 0);
    assert_found(&found, "location 1: line 1 has no function");
    assert_found(&violations(|p| p.location[0].line[0].line = -1), "location 1 has a negative");
    for name in ["unknown", "", "??", "[unknown]"] {
        let found = violations(|p| {
            let name = string(p, name);
            p.function[0].name = name;
        });
        assert_found(&found, &format!("function 1 is named {name:?}"));
    }
    assert_found(&violations(|p| p.function[0].system_name = 0), "function 1 (");
    let found = violations(|p| p.function[1] = proto::Function { id: 2, ..p.function[0] });
    assert_found(&found, "function 2 repeats function 1");
    let found = violations(|p| {
        p.sample.remove(1);
    });
    assert_found(&found, "location 3 is unused");
    assert_found(&violations(|p| p.location[2].mapping_id = 1), "mapping 2 is unused");
    let found = violations(|p| p.location[0].line.truncate(1));
    assert!(found.iter().any(|m| m.starts_with("function") && m.ends_with("is unused")));
}

#[test]
fn samples_and_labels() {
    assert_found(
        &violations(|p| p.sample[1].value.truncate(1)),
        "sample 1 has 1 values, but there are 2",
    );
    assert_found(&violations(|p| p.sample[1].value[0] = -4), "sample 1 has a negative value: -4");
    assert_found(&violations(|p| p.sample[1].location_id.clear()), "sample 1 has an empty stack");
    let found = violations(|p| p.sample[2].label = p.sample[0].label.clone());
    assert_found(&found, "sample 2 repeats sample 0");
    let found = violations(|p| {
        let label = p.sample[0].label[0];
        p.sample[0].label.push(label);
    });
    assert_found(&found, "sample 0: several values for label \"comm\"");
    let found = violations(|p| p.sample[0].label[0].num = 1);
    assert_found(&found, "sample 0: label \"comm\" has both a string and a number");
    let found = violations(|p| p.sample[2].label[1].str = p.sample[2].label[0].str);
    assert_found(&found, "label \"tid\" has both strings and numbers as values");
    assert_found(
        &violations(|p| p.sample[0].label[1].num_unit = 0),
        "sample 0: numeric label \"tid\"",
    );
    let found = violations(|p| {
        let key = string(p, "pprof::base");
        p.sample[0].label[0].key = key;
    });
    assert_found(&found, "sample 0: label \"pprof::base\" starts with the reserved");
    assert_found(&violations(|p| p.sample[0].label[0].key = 0), "sample 0: a label has no key");
}

#[test]
fn header() {
    assert_found(&violations(|p| p.time_nanos = 0), "time_nanos is 0");
    assert_found(&violations(|p| p.duration_nanos = -1), "duration_nanos is -1");
    assert_found(&violations(|p| p.period = 0), "period is 0");
    assert_found(&violations(|p| p.period_type = None), "period_type is missing");
    let found = violations(|p| {
        let text = string(p, "#hidden");
        p.comment.push(text);
    });
    assert_found(&found, "comment \"#hidden\"");
    for url in ["/doc", "example.org", "https://"] {
        let found = violations(|p| p.doc_url = string(p, url));
        assert_found(&found, &format!("doc_url {url:?} is not absolute"));
    }
    let found = violations(|p| p.default_sample_type = string(p, "wall"));
    assert_found(&found, "default_sample_type \"wall\" is not one of the sample types");
    let found = violations(|p| p.sample_type.swap(0, 1));
    assert_found(
        &found,
        "no known kind of profile has sample types cpu/nanoseconds, samples/count and period type cpu",
    );
}

#[test]
fn expectations() {
    let bytes = encode(&cpu());
    let expect = |main_binary, inlined| {
        check_expecting(&bytes, &Expect { main_binary, inlined, kinds: &[] })
    };
    let pair = [("worker::inlined", "worker::hot<u64>")];
    let reverse = [("worker::hot<u64>", "worker::inlined")];
    assert!(expect(Some("worker"), &pair).is_ok());
    assert!(expect(Some("/usr/bin/worker"), &[]).is_ok());
    let found = expect(Some("other"), &[]).unwrap_err();
    assert!(matches!(&found[..], [Violation::MainBinary { .. }]), "{found:?}");
    let found = expect(None, &reverse).unwrap_err();
    assert!(matches!(&found[..], [Violation::LineOrder { id: 1, .. }]), "{found:?}");
}

#[test]
fn kinds_are_found_by_their_types() {
    let kind_of = |types: &[(&str, &str)], period: (&str, &str), default: &str| {
        let mut p = cpu();
        let value_type = |t: &(&str, &str)| pprof::ValueType::new(t.0, t.1);
        p.sample_types = types.iter().map(value_type).collect();
        p.period_type = value_type(&period);
        p.default_sample_type = default.into();
        let own = KindFacts {
            name: "wall",
            sample_types: &[("samples", "count"), ("wall", "nanoseconds")],
            period_type: ("wall", "nanoseconds"),
            ..pprof::kinds::CPU
        };
        let expect = Expect { kinds: &[own], ..Expect::default() };
        let found = check_expecting(&encode(&p), &expect);
        found
            .map(|r| r.kind)
            .map_err(|v| v.iter().filter(|v| !matches!(v, Violation::ValueCount { .. })).count())
    };
    let wall = [("samples", "count"), ("wall", "nanoseconds")];
    assert_eq!(kind_of(&wall, ("wall", "nanoseconds"), ""), Ok("wall".into()));
    let block = [("contentions", "count"), ("delay", "nanoseconds")];
    assert_eq!(kind_of(&block, ("contentions", "count"), ""), Ok("block or mutex".into()));
    assert_eq!(kind_of(&block, ("delay", "count"), ""), Err(1));
    // The number of values differs from the fixture's samples; no other violation may be found.
    assert_eq!(kind_of(&[("goroutine", "count")], ("goroutine", "count"), ""), Err(0));
    let heap = [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ];
    assert_eq!(kind_of(&heap, ("space", "bytes"), "alloc_space"), Err(0));
    assert_eq!(kind_of(&heap[..3], ("space", "bytes"), ""), Err(1));
}

#[test]
fn a_long_list_is_truncated() {
    let found = violations(|p| {
        let sample = proto::Sample { location_id: vec![], ..p.sample[0].clone() };
        p.sample.extend(std::iter::repeat_n(sample, 300));
    });
    assert_eq!(found.len(), 101);
    assert_found(&found[100..], "and 499 more violations");
}
