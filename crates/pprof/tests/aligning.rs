//! Selects and scales sample types; samples as a list; limits and requests.

mod common;

use common::{cpu, gz};
use pprof::parca::write_raw_request;
use pprof::{DecodeError, Limits, decode_with};

#[test]
fn selected_types_keep_their_values_and_labels() {
    let mut p = cpu();
    p.select_sample_types(&[1]);
    assert_eq!(p.sample_types, [cpu().sample_types[1].clone()]);
    let values: Vec<_> = p.samples.iter().map(|s| s.values.to_vec()).collect();
    assert_eq!(values, [[70_000_000], [30_000_000], [10_000_000]]);
    assert!(p.samples.iter().zip(&cpu().samples).all(|(a, b)| a.labels == b.labels));

    let mut p = cpu();
    p.select_sample_types(&[1, 0]);
    assert_eq!(p.samples.get(1).map(|s| s.values.to_vec()), Some(vec![30_000_000, 3]));
}

#[test]
fn each_type_has_its_ratio() {
    let mut p = cpu();
    p.scale_each(&[1.0, 1.0]);
    assert_eq!(p, cpu());
    // 0.4 of 1, 3 and 7, rounded; the other type has no ratio.
    p.scale_each(&[0.4]);
    let values: Vec<_> = p.samples.iter().map(|s| s.values.to_vec()).collect();
    assert_eq!(values, [[3, 70_000_000], [1, 30_000_000]], "a type without ratio keeps no sample");
}

#[test]
fn samples_are_a_list() {
    let p = cpu();
    assert_eq!((p.samples.len(), p.samples.width(), p.samples.is_empty()), (3, 2, false));
    let mut left = p.samples.iter();
    assert_eq!(left.len(), 3);
    let first = left.next().expect("three samples");
    assert_eq!((left.len(), first.value(1), first.value(2)), (2, 70_000_000, 0));
    assert!(p.samples.get(3).is_none());
    let mut other = cpu();
    other.negate();
    assert_ne!(other.samples, p.samples);
    other.negate();
    assert_eq!(other.samples, p.samples);
    other.samples.retain(|s| s.value(0) != 3);
    assert_eq!(other.samples.iter().map(|s| s.value(0)).collect::<Vec<_>>(), [7, 1]);
    assert_ne!(other.samples, p.samples);
}

#[test]
fn limits_grow_with_the_file_between_bounds() {
    let max = Limits::default();
    let small = Limits::of_file(1000);
    assert_eq!((small.max_bytes, small.max_memory), (96 << 20, 192 << 20));
    let large = Limits::of_file(10 << 20);
    assert_eq!((large.max_bytes, large.max_memory), (200 << 20, 400 << 20));
    assert_eq!(Limits::of_file(usize::MAX), max);
    assert_eq!((max.max_bytes, max.max_memory, max.max_strings), (1 << 30, 8 << 30, 1 << 22));
}

#[test]
fn a_limit_allows_what_it_says() {
    let file = gz(&cpu());
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*file), &mut plain).unwrap();
    let exactly = Limits { max_bytes: plain.len() as u64, ..Limits::default() };
    for bytes in [&file, &plain] {
        assert!(decode_with(bytes, &exactly).is_ok());
        let less = Limits { max_bytes: exactly.max_bytes - 1, ..exactly };
        let error = decode_with(bytes, &less).unwrap_err();
        assert_eq!(error, DecodeError::TooLarge { limit: less.max_bytes });
    }
}

#[test]
fn parca_requests_name_the_series_and_contain_the_profile() {
    let labels = [("job".to_owned(), "a".to_owned())];
    // Keys and lengths of protobuf: series (2) of labels (1) of label (1) of name and value, and of
    // samples (2) of the profile (1).
    let expected =
        b"\x12\x13\x0a\x0a\x0a\x08\x0a\x03job\x12\x01a\x12\x05\x0a\x03\x01\x02\x03".to_vec();
    assert_eq!(write_raw_request(labels, &[1, 2, 3]), expected);
}
