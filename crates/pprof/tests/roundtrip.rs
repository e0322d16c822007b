//! Builds profiles, encodes them and decodes them again.

mod common;

use common::{MAIN, cpu, cpu_builder, gz, readable};
use pprof::{BuildError, FunctionSpec, Label, Line, LocationIndex, MappingSpec, decode, encode};
use prost::Message;

#[test]
fn decoding_inverts_encoding() {
    let profile = cpu();
    assert_eq!(decode(&encode(&profile)).unwrap(), profile);
    assert_eq!(decode(&gz(&profile)).unwrap(), profile);
    assert_eq!(
        readable(&profile),
        [
            "worker::inlined+worker::hot<u64>;worker::main [7, 70000000] 2",
            "0x7f0000100000;worker::inlined+worker::hot<u64>;worker::main [3, 30000000] 2",
            "worker::inlined+worker::hot<u64>;worker::main [1, 10000000] 2",
        ]
    );
}

#[test]
fn output_is_deterministic() {
    assert_eq!(gz(&cpu()), gz(&cpu()));
    let again = decode(&gz(&cpu())).unwrap();
    assert_eq!(encode(&again), encode(&cpu()));
}

#[test]
fn every_field_survives() {
    let mut profile = cpu();
    profile.drop_frames = "alloc::.*".into();
    profile.keep_frames = "alloc::keep".into();
    profile.default_sample_type = "samples".into();
    profile.doc_url = "https://example.org/cpu".into();
    profile.comments.push("second".into());
    profile.locations[2].is_folded = true;
    profile.locations[0].mapping = None;
    profile.locations[0].lines[0].function = None;
    profile.locations[0].lines[1].line = -1;
    profile.mappings[1].has_inline_frames = true;
    profile.duration_nanos = i64::MIN;
    let read = decode(&encode(&profile)).unwrap();
    assert_eq!(read, profile);
    assert_eq!(read.default_sample_type_index(), Some(0));
    assert_eq!(cpu().default_sample_type_index(), Some(1));
}

#[test]
fn unpacked_and_unknown_fields_are_read() {
    let packed = pprof::proto::Profile::decode(encode(&cpu()).as_slice()).unwrap();
    let mut bytes = Vec::new();
    for sample in &packed.sample {
        let mut inner = Vec::new();
        for id in &sample.location_id {
            prost::encoding::uint64::encode(1, id, &mut inner);
        }
        for value in &sample.value {
            prost::encoding::int64::encode(2, value, &mut inner);
        }
        for label in &sample.label {
            prost::encoding::message::encode(3, label, &mut inner);
        }
        prost::encoding::fixed64::encode(77, &5, &mut inner);
        prost::encoding::bytes::encode(2, &inner, &mut bytes);
    }
    let comments = packed.comment.clone();
    for comment in &comments {
        prost::encoding::int64::encode(13, comment, &mut bytes);
    }
    let rest = pprof::proto::Profile { sample: vec![], comment: vec![], ..packed };
    bytes.extend(rest.encode_to_vec());
    prost::encoding::string::encode(500, &"later".to_owned(), &mut bytes);
    assert_eq!(decode(&bytes).unwrap(), cpu());
}

#[test]
fn sparse_ids_become_dense() {
    let mut wire = pprof::proto::Profile::decode(encode(&cpu()).as_slice()).unwrap();
    let far = |id: u64| if id == 0 { 0 } else { u64::MAX - id * 1_000 };
    for m in &mut wire.mapping {
        m.id = far(m.id);
    }
    for f in &mut wire.function {
        f.id = far(f.id);
    }
    for l in &mut wire.location {
        (l.id, l.mapping_id) = (far(l.id), far(l.mapping_id));
        for line in &mut l.line {
            line.function_id = far(line.function_id);
        }
    }
    for id in wire.sample.iter_mut().flat_map(|s| &mut s.location_id) {
        *id = far(*id);
    }
    let profile = decode(&wire.encode_to_vec()).unwrap();
    assert_eq!(profile, cpu());
}

#[test]
fn equal_entries_are_merged() {
    let mut b = cpu_builder();
    let main = b.mapping(MAIN).unwrap();
    assert_eq!(b.mapping(MAIN).unwrap(), main);
    let other = b.mapping(MappingSpec { offset: 0, ..MAIN }).unwrap();
    assert_ne!(other, main);
    let spec = FunctionSpec { name: "f", system_name: "_f", filename: "f.c", start_line: 1 };
    let f = b.function(spec).unwrap();
    assert_eq!(b.function(spec).unwrap(), f);
    assert_ne!(b.function(FunctionSpec { start_line: 2, ..spec }).unwrap(), f);
    let l = b.location(main, MAIN.start, &[Line::new(f, 1)]).unwrap();
    assert_eq!(b.location(main, MAIN.start, &[Line::new(f, 1)]).unwrap(), l);
    assert_ne!(b.location(main, MAIN.start, &[Line::new(f, 2)]).unwrap(), l);

    let (a, z) = (Label::text("a", "1"), Label::number("z", 9, "id"));
    let empty = Label::text("comm", "");
    b.add_sample(&[l], &[1, i64::MAX], &[a.clone(), z.clone()]).unwrap();
    b.add_sample(&[l], &[2, 5], &[z, empty, a]).unwrap();
    b.add_sample(&[l], &[4, 4], &[]).unwrap();
    b.add_sample(&[l, l], &[8, 8], &[]).unwrap();
    assert_eq!(b.sample_count(), 3);
    b.comment("recorded by exoprof");
    let p = b.finish();
    let values: Vec<&[i64]> = p.samples.iter().map(|s| s.values).collect();
    assert_eq!(values, [&[3, i64::MAX][..], &[4, 4], &[8, 8]]);
    assert_eq!(p.comments.len(), 1);
    // The second mapping, two functions and a location were never sampled.
    assert_eq!((p.mappings.len(), p.functions.len(), p.locations.len()), (1, 1, 1));
}

#[test]
fn inconsistent_samples_are_rejected() {
    let mut b = cpu_builder();
    let main = b.mapping(MAIN).unwrap();
    let l = b.location(main, MAIN.start, &[]).unwrap();
    let count = BuildError::ValueCount { given: 1, expected: 2 };
    assert_eq!(b.add_sample(&[l], &[1], &[]), Err(count));
    let foreign = LocationIndex::new(1);
    let unknown = BuildError::Unknown { table: "location", index: 1 };
    assert_eq!(b.add_sample(&[foreign], &[1, 1], &[]), Err(unknown));
    assert_eq!(b.finish().samples.len(), 0);
}

#[test]
fn flags_require_all_locations() {
    let p = cpu();
    assert_eq!(&*p.mappings[0].file, MAIN.file);
    let flags = |m: &pprof::Mapping| {
        [m.has_functions, m.has_filenames, m.has_line_numbers, m.has_inline_frames]
    };
    assert_eq!(flags(&p.mappings[0]), [true; 4]);
    assert_eq!(flags(&p.mappings[1]), [false; 4], "its only location has no lines");

    let mut p = cpu();
    p.locations[0].lines.clear();
    p.set_symbol_flags();
    assert_eq!(flags(&p.mappings[0]), [false; 4]);
}

#[test]
fn retain_and_compact_keep_references() {
    let mut p = cpu();
    p.samples.retain(|s| s.locations.len() == 3);
    let before = readable(&p);
    p.compact();
    assert_eq!(readable(&p), before);
    p.samples.retain(|_| false);
    p.compact();
    assert_eq!((p.locations.len(), p.functions.len(), p.mappings.len()), (0, 0, 1));
}

#[test]
fn profiles_can_exceed_the_buffer() {
    let mut b = cpu_builder();
    let main = b.mapping(MAIN).unwrap();
    let locations: Vec<LocationIndex> =
        (0..2_000).map(|i| b.location(main, MAIN.start + i, &[]).unwrap()).collect();
    for i in 0..20_000_usize {
        let stack: Vec<LocationIndex> =
            (0..20).map(|d| locations[(i * 7 + d * d * (i % 13 + 1)) % 2_000]).collect();
        b.add_sample(&stack, &[1, i as i64], &[Label::number("tid", i as i64 % 97, "id")]).unwrap();
    }
    let p = b.finish();
    assert_eq!(decode(&gz(&p)).unwrap(), p);
}
