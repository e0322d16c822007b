//! Checks strings, mappings, locations and functions.

use std::collections::{HashMap, HashSet};

use super::expect::Expect;
use super::violation::{Violation, Violations};
use super::wire::WireTables;
use crate::proto;

/// The smallest page of the architectures that exoprof records.
const PAGE: u64 = 4096;

/// Names that stand for an unknown name.
const PLACEHOLDERS: [&str; 6] = ["", "?", "??", "unknown", "<unknown>", "[unknown]"];

/// Whether google/pprof never symbolizes a mapping of this name.
fn is_never_symbolized(file: &str) -> bool {
    file.is_empty()
        || ["[", "//anon", "/memfd:", "linux-vdso"].iter().any(|prefix| file.starts_with(prefix))
}

/// Checks the string table and decodes it.
pub(super) fn strings<'p>(
    profile: &'p proto::Profile,
    found: &mut Violations,
) -> Vec<Option<&'p str>> {
    found.add_if(profile.string_table.first().is_none_or(|s| !s.is_empty()), || {
        Violation::FirstString
    });
    let mut known = HashMap::new();
    let mut strings = Vec::with_capacity(profile.string_table.len());
    for (index, bytes) in profile.string_table.iter().enumerate() {
        let text = std::str::from_utf8(bytes).ok();
        found.add_if(text.is_none(), || Violation::Utf8 { index });
        let first = *known.entry(bytes).or_insert(index);
        found.add_if(first != index, || Violation::DuplicateString {
            index,
            first,
            text: String::from_utf8_lossy(bytes).into_owned(),
        });
        strings.push(text);
    }
    strings
}

/// Ids must be 1..N, in order.
pub(super) fn ids(p: &WireTables<'_>, found: &mut Violations) {
    let mut sequential = |table: &'static str, ids: &mut dyn Iterator<Item = u64>| {
        for (position, id) in ids.enumerate() {
            found.add_if(id != position as u64 + 1, || Violation::IdNotSequential {
                table,
                position,
                id,
            });
        }
    };
    sequential("mapping", &mut p.profile.mapping.iter().map(|m| m.id));
    sequential("location", &mut p.profile.location.iter().map(|l| l.id));
    sequential("function", &mut p.profile.function.iter().map(|f| f.id));
}

pub(super) fn mappings(p: &WireTables<'_>, expect: &Expect<'_>, found: &mut Violations) {
    for m in &p.profile.mapping {
        let id = m.id;
        let name = p.text(m.filename, "Mapping.filename", found);
        let build_id = p.text(m.build_id, "Mapping.build_id", found);
        let file = || name.to_owned();
        found.add_if(m.memory_start >= m.memory_limit, || Violation::MappingRange {
            id,
            file: file(),
            start: m.memory_start,
            limit: m.memory_limit,
        });
        let fields =
            [("start", m.memory_start), ("limit", m.memory_limit), ("offset", m.file_offset)];
        for (field, value) in fields {
            found.add_if(!value.is_multiple_of(PAGE) && !name.starts_with('['), || {
                Violation::MappingUnaligned { id, file: file(), field, value }
            });
        }
        let is_hex = build_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        found.add_if(!is_hex || !build_id.len().is_multiple_of(2), || Violation::BuildId {
            id,
            file: file(),
            build_id: build_id.to_owned(),
        });
        found.add_if(name.ends_with(" (deleted)"), || Violation::DeletedPath { id, file: file() });
        let in_proc_root = name.starts_with("/proc/") && name.contains("/root/");
        found.add_if(in_proc_root, || Violation::ProcRootPath { id, file: file() });
    }
    if let Some(expected) = expect.main_binary {
        let file = p.profile.mapping.first().map_or("", |m| p.peek(m.filename));
        let is_it = file == expected || file.rsplit('/').next() == Some(expected);
        found.add_if(!is_it, || Violation::MainBinary {
            file: file.to_owned(),
            expected: expected.to_owned(),
        });
    }
}

pub(super) fn locations(p: &WireTables<'_>, expect: &Expect<'_>, found: &mut Violations) {
    let mut known = HashMap::new();
    for location in &p.profile.location {
        let (id, address) = (location.id, location.address);
        in_mapping(p, location, found);
        for (nth, line) in location.line.iter().enumerate() {
            found
                .add_if(line.function_id == 0, || Violation::LineWithoutFunction { id, line: nth });
            found.add_if(
                line.function_id != 0 && !p.functions.contains_key(&line.function_id),
                || Violation::Dangling {
                    from: format!("location {id}"),
                    table: "function",
                    id: line.function_id,
                },
            );
            let value = line.line.min(line.column);
            found.add_if(value < 0, || Violation::NegativeLine {
                place: format!("location {id}"),
                value,
            });
        }
        line_order(p, location, expect, found);
        let key = (location.mapping_id, address, &location.line, location.is_folded);
        let first = *known.entry(key).or_insert(id);
        found.add_if(first != id, || Violation::DuplicateLocation { id, first });
    }
}

/// A location must be in its mapping and have what the mapping's flags claim.
fn in_mapping(p: &WireTables<'_>, location: &proto::Location, found: &mut Violations) {
    let (id, address) = (location.id, location.address);
    if location.mapping_id == 0 {
        found.add(Violation::NoMapping { id, address });
        return;
    }
    let Some(m) = p.mappings.get(&location.mapping_id) else {
        let from = format!("location {id}");
        found.add(Violation::Dangling { from, table: "mapping", id: location.mapping_id });
        return;
    };
    let (start, limit) = (m.memory_start, m.memory_limit);
    found.add_if(address < start || address >= limit, || Violation::AddressOutside {
        id,
        address,
        mapping: m.id,
        start,
        limit,
    });
    let file = p.peek(m.filename);
    found.add_if(location.line.is_empty() && is_never_symbolized(file), || {
        Violation::NeverSymbolized { id, address, file: file.to_owned() }
    });
    let lines = &location.line;
    let filename = |l: &proto::Line| p.functions.get(&l.function_id).map(|f| f.filename);
    let has_names = !lines.is_empty() && lines.iter().all(|l| !p.function_name(l).is_empty());
    let has_files = !lines.is_empty() && lines.iter().all(|l| filename(l).is_some_and(|f| f != 0));
    let has_lines = !lines.is_empty() && lines.iter().all(|l| l.line != 0);
    let claims = [
        ("has_functions", m.has_functions, has_names),
        ("has_filenames", m.has_filenames, has_files),
        ("has_line_numbers", m.has_line_numbers, has_lines),
        ("has_inline_frames", m.has_inline_frames, !lines.is_empty()),
    ];
    for (flag, is_claimed, is_true) in claims {
        found.add_if(is_claimed && !is_true, || Violation::UnfoundedFlag {
            id: m.id,
            file: file.to_owned(),
            flag,
            location: id,
            address,
        });
    }
}

fn line_order(
    p: &WireTables<'_>,
    location: &proto::Location,
    expect: &Expect<'_>,
    found: &mut Violations,
) {
    let place = |name: &str| location.line.iter().position(|l| p.function_name(l) == name);
    for (inner, outer) in expect.inlined {
        if let (Some(inside), Some(around)) = (place(inner), place(outer)) {
            found.add_if(inside > around, || Violation::LineOrder {
                id: location.id,
                inner: (*inner).to_owned(),
                outer: (*outer).to_owned(),
            });
        }
    }
}

pub(super) fn functions(p: &WireTables<'_>, found: &mut Violations) {
    let mut known = HashMap::new();
    for f in &p.profile.function {
        let id = f.id;
        let name = p.text(f.name, "Function.name", found);
        let system_name = p.text(f.system_name, "Function.system_name", found);
        p.text(f.filename, "Function.filename", found);
        let owned = || name.to_owned();
        found.add_if(PLACEHOLDERS.contains(&name), || Violation::PlaceholderName {
            id,
            name: owned(),
        });
        found.add_if(!name.is_empty() && system_name.is_empty(), || Violation::NoSystemName {
            id,
            name: owned(),
        });
        found.add_if(f.start_line < 0, || Violation::NegativeLine {
            place: format!("function {id}"),
            value: f.start_line,
        });
        let key = (f.name, f.system_name, f.filename, f.start_line);
        let first = *known.entry(key).or_insert(id);
        found.add_if(first != id, || Violation::DuplicateFunction { id, first, name: owned() });
    }
}

/// Every entry must be used by a sample, except the main binary.
pub(super) fn usage(p: &WireTables<'_>, found: &mut Violations) {
    let locations: HashSet<u64> =
        p.profile.sample.iter().flat_map(|s| s.location_id.iter().copied()).collect();
    let mut mappings = HashSet::new();
    let mut functions = HashSet::new();
    for location in &p.profile.location {
        mappings.insert(location.mapping_id);
        functions.extend(location.line.iter().map(|l| l.function_id));
    }
    let mut used =
        |table: &'static str, used: &HashSet<u64>, ids: &mut dyn Iterator<Item = u64>| {
            for id in ids.filter(|id| !used.contains(id)) {
                found.add(Violation::Unused { table, id });
            }
        };
    used("location", &locations, &mut p.profile.location.iter().map(|l| l.id));
    used("mapping", &mappings, &mut p.profile.mapping.iter().skip(1).map(|m| m.id));
    used("function", &functions, &mut p.profile.function.iter().map(|f| f.id));
}
