//! Tests that no name, number or length in a profile makes a report panic.

use pprof::{FunctionSpec, Label, Line, MappingSpec, Profile, ProfileBuilder, ValueType};
use report::{Form, Granularity, Grouping, Options, Report};

/// Longer than what a format string can pad to, which is 65,535.
const LONG: usize = 70_000;

fn forms() -> [Form; 9] {
    [
        Form::Top,
        Form::Tree,
        Form::Peek(".".into()),
        Form::List(".".into()),
        Form::Traces,
        Form::Tags,
        Form::Comments,
        Form::Raw,
        Form::Collapsed,
    ]
}

fn text(profile: &Profile, form: Form, granularity: Granularity) -> String {
    let source_path = "/nonexistent".into();
    let options = Options { form, granularity, columns: true, source_path, ..Options::default() };
    let mut out = Vec::new();
    Report::new(profile, options).unwrap().write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn profile(name: &str, value: i64) -> Profile {
    let kind = || ValueType::new(name, name);
    let mut b = ProfileBuilder::new(vec![kind(), kind()]);
    b.set_period(kind(), value).set_time_nanos(value).set_duration_nanos(value);
    b.comment(name);
    let mapping = b
        .mapping(MappingSpec { limit: u64::MAX, file: name, build_id: name, ..Default::default() })
        .unwrap();
    let spec = FunctionSpec { name, system_name: name, filename: name, start_line: value };
    let function = b.function(spec).unwrap();
    let line = Line { function: Some(function), line: value, column: value };
    let locations: Vec<_> =
        [0, 1, u64::MAX].iter().map(|a| b.location(mapping, *a, &[line, line]).unwrap()).collect();
    let labels = [
        Label::text(name, name),
        Label::number(format!("{name}n"), value, name),
        Label::number("thread_id", value, ""),
    ];
    for values in [[value, value], [value, 1], [1, value]] {
        b.add_sample(&locations, &values, &labels).unwrap();
    }
    b.add_sample(&[], &[value, value], &[]).unwrap();
    b.finish()
}

#[test]
fn names_of_any_length_and_numbers_of_any_size() {
    let long = "x".repeat(LONG);
    for name in ["", "a", "\n", &long] {
        for value in [0, 1, -1, i64::MAX, i64::MIN, i64::MIN + 1] {
            let profile = profile(name, value);
            for granularity in [Granularity::Functions, Granularity::Files, Granularity::Addresses]
            {
                for form in forms() {
                    let options = Options {
                        form,
                        granularity,
                        source_path: "/nonexistent".into(),
                        ..Options::default()
                    };
                    // Peek and list fail where nothing matches.
                    let _ = Report::new(&profile, options).unwrap().write(&mut std::io::sink());
                }
            }
            let report = Report::new(&profile, Options::default()).unwrap();
            let _ = report.write_speedscope(&mut std::io::sink());
            let _ = report.write_firefox(&mut std::io::sink());
            let by = report.label_keys().into_iter().next();
            let document = report.flame_document_of(Grouping { by, inverted: true });
            let _ = (document.html(), document.svg());
        }
    }
}

#[test]
fn sums_of_heap_profiles_at_the_end_of_their_range() {
    let kind = pprof::kinds::HEAP;
    let types = kind.sample_types.iter().map(|(name, unit)| ValueType::new(*name, *unit));
    let mut b = ProfileBuilder::new(types.collect());
    b.set_period(ValueType::new("space", "bytes"), i64::MAX);
    let mapping = b.mapping(MappingSpec { limit: u64::MAX, ..Default::default() }).unwrap();
    for (address, value) in [(1, i64::MAX), (u64::MAX, i64::MAX)] {
        let location = b.location(mapping, address, &[]).unwrap();
        b.add_sample(&[location], &[value; 4], &[Label::number("bytes", value, "bytes")]).unwrap();
    }
    let text = report::legacy_text(&b.finish(), &kind, &|_| None).unwrap();
    assert!(text.starts_with("heap profile: "), "{text}");
}

#[test]
fn long_label_keys_are_padded() {
    let long = "k".repeat(LONG);
    let tags = text(&profile(&long, 7), Form::Tags, Granularity::Functions);
    assert!(tags.starts_with(&format!(" {long}: Total ")), "{}", &tags[..100]);
    let second = tags.lines().nth(1).unwrap();
    let indent = second.len() - second.trim_start().len();
    assert!(indent > LONG, "{indent}");
}

#[test]
fn names_are_one_line_in_every_report() {
    let name = "e\nrr\u{1b}[31m\u{9b}\u{202e}";
    let shown = r"e\nrr\x1b[31m\u{9b}\u{202e}";
    let profile = profile(name, 7);
    for form in forms() {
        let text = text(&profile, form.clone(), Granularity::Lines);
        assert!(text.contains(shown), "{form:?}: {text}");
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{form:?}: {text}");
        assert!(!text.lines().any(|l| l.starts_with("rr")), "{form:?}: {text}");
    }
}
