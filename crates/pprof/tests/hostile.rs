//! Decodes bytes that are not a profile or are malicious.

mod common;

use std::io::Write;

use common::{cpu, gz};
use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::{DecodeError, Limits, decode, decode_with, encode, proto, validate};
use prost::Message;

/// Knuth's MMIX generator, so that every run tests the same cases.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) as usize) % bound
    }
}

const SMALL: Limits = Limits { max_bytes: 1 << 16, max_strings: 1 << 10, max_memory: 1 << 20 };

/// Decodes the bytes. On success, calls everything that must not panic on the result.
fn exercise(bytes: &[u8]) -> bool {
    let Ok(profile) = decode_with(bytes, &SMALL) else { return false };
    let again = decode(&encode(&profile)).expect("a decoded profile can be encoded");
    assert_eq!(again, profile);
    if let Ok(merged) = pprof::merge([&profile, &profile]) {
        assert!(merged.samples.len() <= profile.samples.len());
    }
    true
}

#[test]
fn every_prefix_is_rejected() {
    let whole = gz(&cpu());
    for len in 0..whole.len() {
        let error = decode(&whole[..len]).expect_err("a prefix is not a profile");
        let expected = if len == 0 { DecodeError::Empty } else { DecodeError::TruncatedGzip };
        assert_eq!(error, expected, "{len} of {} bytes", whole.len());
    }
    let raw = encode(&cpu());
    for len in 0..raw.len() {
        exercise(&raw[..len]);
        let _ = validate::check(&raw[..len]);
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let mut random = Random(1);
    let (raw, packed) = (encode(&cpu()), gz(&cpu()));
    let mut survived = 0;
    for case in 0..2_000 {
        let mut bytes = if case % 4 == 0 { packed.clone() } else { raw.clone() };
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 + random.below(255) as u8;
        }
        survived += usize::from(exercise(&bytes));
        let _ = validate::check(&bytes);
    }
    // Some must succeed and some must fail, otherwise the cases test nothing.
    assert!((50..1_950).contains(&survived), "{survived} of 2000 still decode");
}

#[test]
fn noise_never_panics() {
    let mut random = Random(2);
    for _ in 0..2_000 {
        let len = random.below(200);
        let bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
        exercise(&bytes);
        let _ = validate::check(&bytes);
    }
}

#[test]
fn decompression_stops_at_the_limit() {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..256 {
        bomb.write_all(&[0x12; 1 << 16]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1 << 16);
    assert_eq!(decode_with(&bomb, &SMALL), Err(DecodeError::TooLarge { limit: 1 << 16 }));
    // The same for bytes that are not compressed.
    let raw = vec![0x12; (1 << 16) + 1];
    assert_eq!(decode_with(&raw, &SMALL), Err(DecodeError::TooLarge { limit: 1 << 16 }));
}

/// `start` followed by `n` copies of one field's bytes.
fn repeated(start: &[u8], field: &[u8], n: usize) -> Vec<u8> {
    [start, &field.repeat(n)].concat()
}

#[test]
fn small_files_cannot_use_much_memory() {
    let limits = Limits { max_memory: 100_000, max_strings: 30_000, ..SMALL };
    let too_much = Err(DecodeError::TooMuchMemory { limit: 100_000 });
    // string_table[0], one sample type.
    let start = [0x32, 0x00, 0x0a, 0x00];
    let samples = repeated(&start, &[0x12, 0x02, 0x10, 0x01], 10_000);
    assert_eq!(decode_with(&samples, &limits), too_much);
    let strings = repeated(&start, &[0x32, 0x00], 20_000);
    assert_eq!(decode_with(&strings, &limits), too_much);
    let comments = repeated(&start, &[0x68, 0x00], 20_000);
    assert_eq!(decode_with(&comments, &limits), too_much);
    let lines = repeated(&[], &[0x22, 0x00], 20_000);
    let mut location = start.to_vec();
    prost::encoding::bytes::encode(4, &[&[0x08, 0x01][..], &lines].concat(), &mut location);
    assert_eq!(decode_with(&location, &limits), too_much);
    let labels = repeated(&[0x10, 0x01], &[0x1a, 0x00], 20_000);
    let mut sample = start.to_vec();
    prost::encoding::bytes::encode(2, &labels, &mut sample);
    assert_eq!(decode_with(&sample, &limits), too_much);

    let strings = repeated(&start, &[0x32, 0x00], 1 << 10);
    assert_eq!(decode_with(&strings, &SMALL), Err(DecodeError::TooManyStrings { limit: 1 << 10 }));
}

/// Encodes the valid profile, changes the message and decodes it.
fn changed(change: impl FnOnce(&mut proto::Profile)) -> Result<pprof::Profile, DecodeError> {
    let mut wire = proto::Profile::decode(encode(&cpu()).as_slice()).unwrap();
    change(&mut wire);
    decode(&wire.encode_to_vec())
}

#[test]
fn inconsistencies_have_specific_errors() {
    use DecodeError as E;
    let cases: Vec<(Result<_, E>, &str)> = vec![
        (changed(|p| p.string_table[0] = b"x".to_vec()), "string_table[0] is not the empty string"),
        (changed(|p| p.string_table[2] = vec![0xff]), "string_table[2] is not valid UTF-8"),
        (changed(|p| p.function[0].name = 99), "Function.name is string 99, but the string table"),
        (changed(|p| p.doc_url = -1), "doc_url is string -1, but"),
        (changed(|p| p.mapping[0].id = 0), "a mapping has the reserved id 0"),
        (changed(|p| p.location[1].id = 1), "two locations have the id 1"),
        (changed(|p| p.function[1].id = 1), "two functions have the id 1"),
        (changed(|p| p.sample[0].location_id[0] = 9), "a sample refers to location 9, which does"),
        (changed(|p| p.sample[0].location_id[0] = 0), "a sample refers to location 0, which does"),
        (changed(|p| p.location[0].mapping_id = 9), "a location refers to mapping 9"),
        (changed(|p| p.location[0].line[0].function_id = 9), "a line refers to function 9"),
        (
            changed(|p| p.sample[1].value.push(1)),
            "sample 1 has 3 values, but there are 2 sample types",
        ),
        (changed(|p| p.sample_type.clear()), "the profile has samples but no sample types"),
        (decode(&[gz(&cpu()), gz(&cpu())].concat()), "several profiles are concatenated"),
        (
            decode(&[gz(&cpu()), b"more than a header of garbage".to_vec()].concat()),
            "the gzip stream is damaged",
        ),
        (decode(&[0x12, 0x7f]), "malformed Profile: field 2 claims 127 bytes, but 0 are left"),
        (decode(b"heap profile: 1: 2 [3: 4] @ heap/1"), "not a pprof protobuf profile but a text"),
        (decode(b"goroutine profile: total 4\n"), "not a pprof protobuf profile but a text"),
        (decode(b"--- contentionz 1 ---\n"), "not a pprof protobuf profile but a text"),
        (decode(b"PERFILE2abc"), "not a pprof protobuf profile but a perf.data file"),
        (decode(b"404 page not found\n"), "not a pprof protobuf profile but text: \"404 page"),
        (
            decode(&[[0; 8], [3, 0, 0, 0, 0, 0, 0, 0]].concat()),
            "not a pprof protobuf profile but an",
        ),
    ];
    for (result, beginning) in cases {
        let message = result.expect_err(beginning).to_string();
        assert!(message.starts_with(beginning), "{message:?} instead of {beginning:?}");
        assert!(!message.contains('\n'), "{message:?} has several lines");
    }
}
