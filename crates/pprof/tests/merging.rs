//! Merging and subtracting.

mod common;

use common::{LIBC, MAIN, cpu, cpu_builder, readable};
use pprof::{BASE_LABEL, LabelValue, MappingSpec, MergeError, Profile, ValueType, merge};

/// The cpu profile of another run: all mappings lie `by` higher.
fn moved(by: u64) -> Profile {
    let mut p = cpu();
    for m in &mut p.mappings {
        m.start += by;
        m.limit += by;
    }
    for l in &mut p.locations {
        l.address += by;
    }
    p
}

#[test]
fn runs_at_other_addresses_meet() {
    let mut second = moved(0x10_0000);
    second.time_nanos -= 5;
    second.period += 1;
    second.comments.push("second".into());
    second.default_sample_type = "samples".into();
    let merged = merge([&cpu(), &second]).unwrap();
    let doubled: Vec<String> = readable(&cpu())
        .iter()
        .map(|line| {
            line.replace("[7, 70", "[14, 140")
                .replace("[3, 30", "[6, 60")
                .replace("[1, 10", "[2, 20")
        })
        .collect();
    assert_eq!(readable(&merged), doubled);
    assert_eq!((&merged.mappings, &merged.functions), (&cpu().mappings, &cpu().functions));
    assert_eq!(merged.time_nanos, second.time_nanos);
    assert_eq!(merged.duration_nanos, 2 * cpu().duration_nanos);
    assert_eq!(merged.period, second.period);
    assert_eq!(merged.comments, second.comments);
    assert_eq!(&*merged.default_sample_type, "samples");
}

#[test]
fn an_unknown_time_is_not_the_earliest() {
    let mut second = cpu();
    second.time_nanos = 0;
    assert_eq!(merge([&second, &cpu()]).unwrap().time_nanos, cpu().time_nanos);
    assert_eq!(merge([&cpu(), &second]).unwrap().time_nanos, cpu().time_nanos);
}

#[test]
fn other_builds_stay_apart() {
    let mut second = cpu();
    second.mappings[0].build_id = "ff".into();
    let merged = merge([&cpu(), &second]).unwrap();
    assert_eq!(merged.mappings.len(), 3);
    assert_eq!(merged.samples.len(), 2 * cpu().samples.len());
}

#[test]
fn flags_hold_only_when_all_profiles_claim_them() {
    let mut bare = cpu();
    bare.locations.iter_mut().for_each(|l| l.lines.clear());
    bare.set_symbol_flags();
    assert!(!merge([&cpu(), &bare]).unwrap().mappings[0].has_functions);
    assert!(!merge([&bare, &cpu()]).unwrap().mappings[0].has_functions);

    // A profile without a location in the mapping has no say.
    let mut b = cpu_builder();
    b.mapping(MAIN).unwrap();
    let libc = b.mapping(LIBC).unwrap();
    let l = b.location(libc, LIBC.start, &[]).unwrap();
    b.add_sample(&[l], &[1, 1], &[]).unwrap();
    let elsewhere = b.finish();
    assert!(!elsewhere.mappings[0].has_functions);
    assert!(merge([&cpu(), &elsewhere]).unwrap().mappings[0].has_functions);
    assert!(merge([&elsewhere, &cpu()]).unwrap().mappings[0].has_functions);
}

#[test]
fn different_types_are_refused() {
    assert_eq!(merge(&[]), Err(MergeError::NoProfiles));
    let mut other = cpu();
    other.sample_types[1] = ValueType::new("wall", "nanoseconds");
    let error = merge([&cpu(), &other]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "profile 2 has the sample types samples/count, wall/nanoseconds, \
         the first has samples/count, cpu/nanoseconds"
    );
    let mut other = cpu();
    other.period_type = ValueType::new("wall", "nanoseconds");
    assert!(matches!(merge([&cpu(), &other]), Err(MergeError::PeriodTypes { profile: 2, .. })));
}

#[test]
fn a_profile_less_itself_is_empty() {
    let mut base = cpu();
    base.negate();
    let nothing = merge([&cpu(), &base]).unwrap();
    assert!(nothing.samples.is_empty() && nothing.locations.is_empty());
    assert_eq!(nothing.mappings.len(), 1, "the main binary stays");
}

#[test]
fn base_samples_are_marked() {
    let mut base = cpu();
    base.negate();
    base.mark_as_base();
    base.mark_as_base();
    let difference = merge([&cpu(), &base]).unwrap();
    assert_eq!(difference.samples.len(), 2 * cpu().samples.len());
    for (nth, sample) in difference.samples.iter().enumerate() {
        let marks: Vec<_> = sample.labels.iter().filter(|l| &*l.key == BASE_LABEL).collect();
        assert_eq!(marks.len(), usize::from(nth >= 3), "{sample:?}");
        assert!(marks.iter().all(|l| l.value == LabelValue::Text("true".into())));
        assert_eq!(sample.values[0] < 0, nth >= 3);
        assert_eq!(sample.labels.len(), if nth >= 3 { 3 } else { 2 });
    }
}

#[test]
fn scaling_rounds_and_drops_zeros() {
    let mut p = cpu();
    p.scale(0.5);
    let values: Vec<i64> = p.samples.iter().map(|s| s.values[0]).collect();
    assert_eq!(values, [4, 2, 1]);
    p.scale(1e-9);
    assert!(p.samples.is_empty());
}

#[test]
fn mappings_without_names_or_sense_do_not_panic() {
    let mut b = cpu_builder();
    let m = b
        .mapping(MappingSpec {
            start: u64::MAX,
            limit: 0,
            offset: u64::MAX,
            file: "",
            build_id: "",
        })
        .unwrap();
    let l = b.location(m, 0, &[]).unwrap();
    b.add_sample(&[l], &[1, 1], &[]).unwrap();
    let p = b.finish();
    assert_eq!(merge([&cpu(), &p]).unwrap().samples.len(), 4);
}
