//! Fuzzes profiles: decoding, validation, merging, and every report on what decodes.
//!
//! Damaged bytes hardly ever decode, and then only to what the corpus holds. So most inputs are made
//! from a decoded profile: [`remake`] changes its parts and encodes it again.

use pprof::{
    FunctionSpec, Label, LabelValue, Limits, Line, LocationIndex, MappingSpec, Profile,
    ProfileBuilder, ValueType,
};
use report::{Filters, Form, Granularity, Grouping, Options, Report};

use crate::mutate::{NUMBERS, Random};
use crate::targets::hash;

const SMALL: Limits = Limits { max_bytes: 1 << 20, max_strings: 1 << 14, max_memory: 1 << 25 };
/// The samples of a remade profile: more only take time.
const MAX_SAMPLES: usize = 24;

/// Makes a profile from the one that the bytes hold; `None` if they hold none.
pub fn remake(random: &mut Random, input: &[u8]) -> Option<Vec<u8>> {
    let mut profile = pprof::decode_with(input, &SMALL).ok()?;
    for _ in 0..=random.below(3) {
        change_tables(random, &mut profile);
    }
    let mut profile = with_other_samples(random, &profile)?;
    change_header(random, &mut profile);
    let mut out = Vec::new();
    // Long names take little space then.
    pprof::write_gz(&profile, &mut out).ok()?;
    Some(out)
}

/// True about once in `n` times.
fn rarely(random: &mut Random, n: usize) -> bool {
    random.below(n) == 0
}

fn number(random: &mut Random) -> i64 {
    let number = NUMBERS[random.below(NUMBERS.len())].cast_signed();
    match random.below(4) {
        0 => number.wrapping_neg(),
        1 => (random.next() >> random.below(64)).cast_signed(),
        _ => number,
    }
}

/// A name that reports may take for something else, or that is longer than they expect.
fn name(random: &mut Random) -> String {
    const NAMES: &[&str] = &[
        "",
        " ",
        "\n",
        "e\nrr\u{1b}[31m",
        "\u{9b}2J\u{202e}",
        "a;b;c",
        "[kernel]",
        "[",
        "(",
        "::",
        "a::b<c>",
        "main.(*T).f.func1",
        "runtime.goexit",
        "net/http.",
        "/",
        "..",
        "/a/../b.py",
        "thread",
        "pid",
        "thread_id",
        "process",
        "bytes",
        "alignment",
        "pprof::base",
        "cpu",
        "nanoseconds",
        "count",
        "KB",
        "GiB",
        "µs",
        "-1",
        "99999999999999999999",
        "漢字\u{301}",
    ];
    match random.below(8) {
        // Around the widths that formatting can pad to (16 bits).
        0 => "x".repeat(0xffff + random.below(3) - 1),
        1 => "λ".repeat(1 + random.below(300)),
        _ => NAMES[random.below(NAMES.len())].to_owned(),
    }
}

fn change_tables(random: &mut Random, profile: &mut Profile) {
    let r = random;
    if let at @ 1.. = profile.functions.len() {
        let f = &mut profile.functions[r.below(at)];
        match r.below(5) {
            0 => f.name = name(r).into(),
            1 => f.system_name = name(r).into(),
            2 => f.filename = name(r).into(),
            3 => f.start_line = number(r),
            _ => {}
        }
    }
    if let at @ 1.. = profile.mappings.len() {
        let m = &mut profile.mappings[r.below(at)];
        match r.below(6) {
            0 => m.file = name(r).into(),
            1 => m.build_id = name(r).into(),
            2 => m.start = number(r).cast_unsigned(),
            3 => m.limit = number(r).cast_unsigned(),
            4 => m.offset = number(r).cast_unsigned(),
            _ => m.has_inline_frames = !m.has_inline_frames,
        }
    }
    let functions = profile.functions.len();
    if let at @ 1.. = profile.locations.len() {
        let l = &mut profile.locations[r.below(at)];
        match r.below(6) {
            0 => l.address = number(r).cast_unsigned(),
            1 => l.mapping = None,
            2 => l.lines.clear(),
            3 => l.is_folded = !l.is_folded,
            4 if functions > 0 => {
                let position = u32::try_from(r.below(functions)).unwrap_or(0);
                let function = Some(pprof::FunctionIndex::new(position));
                l.lines.push(Line { function, line: number(r), column: number(r) });
            }
            _ => {
                for line in &mut l.lines {
                    (line.line, line.column) = (number(r), number(r));
                    line.function = line.function.filter(|_| !rarely(r, 4));
                }
            }
        }
    }
}

fn change_header(random: &mut Random, profile: &mut Profile) {
    let r = random;
    match r.below(12) {
        0 => profile.comments.push(name(r).into()),
        1 => profile.doc_url = name(r).into(),
        2 => profile.drop_frames = name(r).into(),
        3 => profile.keep_frames = name(r).into(),
        4 => profile.time_nanos = number(r),
        5 => profile.duration_nanos = number(r),
        6 => profile.period = number(r),
        7 => profile.period_type = ValueType::new(name(r), name(r)),
        8 => profile.default_sample_type = name(r).into(),
        9 => {
            if let at @ 1.. = profile.sample_types.len() {
                profile.sample_types[r.below(at)] = ValueType::new(name(r), name(r));
            }
        }
        _ => {}
    }
}

/// The profile with other stacks, values and labels, built anew.
fn with_other_samples(random: &mut Random, old: &Profile) -> Option<Profile> {
    let mut builder = ProfileBuilder::new(old.sample_types.clone());
    builder.set_period(old.period_type.clone(), old.period);
    builder.set_time_nanos(old.time_nanos).set_duration_nanos(old.duration_nanos);
    builder.set_frame_filter(&old.drop_frames, &old.keep_frames);
    old.comments.iter().for_each(|c| {
        builder.comment(c);
    });
    let mut mappings = Vec::new();
    for m in &old.mappings {
        let (start, limit, offset) = (m.start, m.limit, m.offset);
        let spec = MappingSpec { start, limit, offset, file: &m.file, build_id: &m.build_id };
        mappings.push(builder.mapping(spec).ok()?);
    }
    let mut functions = Vec::new();
    for f in &old.functions {
        functions.push(
            builder
                .function(FunctionSpec {
                    name: &f.name,
                    system_name: &f.system_name,
                    filename: &f.filename,
                    start_line: f.start_line,
                })
                .ok()?,
        );
    }
    let mut locations = Vec::new();
    for l in &old.locations {
        // The builder wants a mapping; a location without one is made at the end of the tables.
        let mapping = l.mapping.map_or(0, |m| m.index());
        let function = |f: pprof::FunctionIndex| functions.get(f.index()).copied();
        let lines: Vec<Line> = l
            .lines
            .iter()
            .map(|l| Line { function: l.function.and_then(function), ..*l })
            .collect();
        locations.push(builder.location(*mappings.get(mapping)?, l.address, &lines).ok()?);
    }
    let r = random;
    // Another part each time.
    let skipped = r.below(old.samples.len().saturating_sub(MAX_SAMPLES).saturating_add(1));
    for sample in old.samples.iter().skip(skipped).take(MAX_SAMPLES) {
        let of = |l: &LocationIndex| locations.get(l.index()).copied();
        let mut stack: Vec<LocationIndex> = sample.locations.iter().filter_map(of).collect();
        let mut values = sample.values.to_vec();
        let mut labels = sample.labels.to_vec();
        if rarely(r, 8) {
            change_sample(r, &locations, &mut stack, &mut values, &mut labels);
        }
        builder.add_sample(&stack, &values, &labels).ok()?;
    }
    Some(builder.finish())
}

fn change_sample(
    r: &mut Random,
    locations: &[LocationIndex],
    stack: &mut Vec<LocationIndex>,
    values: &mut [i64],
    labels: &mut Vec<Label>,
) {
    match r.below(7) {
        0 => stack.clear(),
        1 => stack.reverse(),
        2 if !locations.is_empty() => {
            let (frame, times) = (locations[r.below(locations.len())], 1 + r.below(70));
            stack.extend(std::iter::repeat_n(frame, times));
        }
        3 => values.iter_mut().for_each(|v| *v = number(r)),
        4 => labels.clear(),
        5 => labels.push(Label::number(name(r), number(r), name(r))),
        _ => match labels.first_mut() {
            Some(Label { key, .. }) if rarely(r, 2) => *key = name(r).into(),
            Some(Label { value: LabelValue::Text(text), .. }) => *text = name(r).into(),
            Some(Label { value: LabelValue::Number { value, unit }, .. }) => {
                (*value, *unit) = (number(r), name(r).into());
            }
            None => labels.push(Label::text(name(r), name(r))),
        },
    }
}

/// Reads a profile, and makes all reports on it.
pub fn run(input: &[u8]) -> u64 {
    let checked = pprof::validate::check(input).map_err(|v| v.len().min(10)).is_ok();
    let profile = match pprof::decode_with(input, &SMALL) {
        Ok(profile) => profile,
        Err(e) => return hash((checked, std::mem::discriminant(&e))),
    };
    let again = pprof::decode(&pprof::encode(&profile)).expect("a decoded profile can be encoded");
    assert_eq!(again, profile);
    let difference = report::combine(vec![profile.clone()], vec![again.clone()]);
    let combined = report::combine(vec![profile.clone(), again], Vec::new()).is_ok();
    let text = |kind| report::legacy_text(&profile, kind, &|_| None).map(|t| t.len() / 256).ok();
    let text: Vec<_> = pprof::kinds::GO.iter().map(text).collect();
    let mut sizes = reports(&profile);
    if let (Ok(difference), true) = (&difference, input.len().is_multiple_of(4)) {
        sizes.extend(reports(difference));
    }
    hash((checked, combined, difference.is_ok(), text, sizes))
}

/// Whether each report succeeds, and about how long it is.
fn reports(profile: &Profile) -> Vec<(bool, usize)> {
    let mut sizes = Vec::new();
    let forms = [
        Form::Top,
        Form::Tree,
        Form::Peek(".".into()),
        Form::List(".".into()),
        Form::Traces,
        Form::Tags,
        Form::Comments,
        Form::Raw,
        Form::Collapsed,
    ];
    // All of them on each input would only repeat the work: what is chosen depends on the input.
    let chosen = profile.samples.len().wrapping_add(profile.comments.len());
    let granularity = [
        Granularity::Functions,
        Granularity::FileFunctions,
        Granularity::Files,
        Granularity::Lines,
        Granularity::Addresses,
    ][chosen % 5];
    for form in forms {
        let options = Options {
            form,
            granularity,
            columns: chosen.is_multiple_of(2),
            no_inlines: chosen.is_multiple_of(3),
            cum: chosen % 2 == 1,
            drop_negative: chosen.is_multiple_of(7),
            node_fraction: if chosen.is_multiple_of(4) { 0.0 } else { 0.005 },
            filters: Filters {
                tag_focus: (chosen % 5 == 1).then(|| "1kb:64mb".to_owned()),
                focus: (chosen % 11 == 1).then(|| "main".to_owned()),
                ..Filters::default()
            },
            // Sources must not be read: paths come from the input.
            source_path: "/nonexistent".into(),
            ..Options::default()
        };
        let mut out = Vec::new();
        let written = Report::new(profile, options).and_then(|r| r.write(&mut out));
        let text = String::from_utf8_lossy(&out);
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\r', '\u{202e}']), "a name is not escaped");
        sizes.push((written.is_ok(), out.len() / 256));
    }
    let options = Options { granularity, ..Options::default() };
    let Ok(report) = Report::new(profile, options) else { return sizes };
    let mut out = Vec::new();
    sizes.push((report.write_speedscope(&mut out).is_ok(), out.len() / 256));
    out.clear();
    sizes.push((report.write_firefox(&mut out).is_ok(), out.len() / 256));
    let by = report.label_keys().into_iter().next();
    let document = report.flame_document_of(Grouping { by, inverted: chosen.is_multiple_of(2) });
    sizes.push((true, document.html().len() / 256));
    sizes.push((true, document.svg().len() / 256));
    sizes.push((true, report.table().entries.len()));
    sizes
}
