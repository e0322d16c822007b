//! Merges and subtracts profiles.

mod common;

use common::{MAIN, cpu, cpu_builder, readable};
use pprof::{BASE_LABEL, LabelValue, MappingSpec, MergeError, Profile, ValueType, merge};

/// The CPU profile of another run, with all mappings `by` bytes higher.
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
fn runs_at_other_addresses_are_merged() {
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
    assert_eq!(merged.mappings, cpu().mappings);
    assert_eq!(merged.functions.len(), cpu().functions.len());
    assert_eq!(merged.time_nanos, second.time_nanos);
    assert_eq!(merged.duration_nanos, 2 * cpu().duration_nanos);
    assert_eq!(merged.period, second.period);
    assert_eq!(merged.comments, second.comments);
    assert_eq!(&*merged.default_sample_type, "samples");
}

#[test]
fn the_start_time_is_that_of_google_pprof() {
    let mut second = cpu();
    second.time_nanos = 0;
    assert_eq!(merge([&second, &cpu()]).unwrap().time_nanos, cpu().time_nanos);
    assert_eq!(merge([&cpu(), &second]).unwrap().time_nanos, 0);
}

#[test]
fn other_builds_are_not_merged() {
    let mut second = cpu();
    second.mappings[0].build_id = "ff".into();
    let merged = merge([&cpu(), &second]).unwrap();
    assert_eq!(merged.mappings.len(), 3);
    assert_eq!(merged.samples.len(), 2 * cpu().samples.len());
}

#[test]
fn flags_come_from_the_first_profile_with_samples_in_the_mapping() {
    let mut bare = cpu();
    bare.locations.iter_mut().for_each(|l| l.lines.clear());
    bare.set_symbol_flags();
    assert!(merge([&cpu(), &bare]).unwrap().mappings[0].has_functions);
    assert!(!merge([&bare, &cpu()]).unwrap().mappings[0].has_functions);

    // A profile without samples in a mapping is ignored, except for the main binary of the first
    // profile.
    let mut nowhere = cpu();
    for m in &mut nowhere.mappings {
        m.has_line_numbers = true;
    }
    nowhere.scale(0.0);
    let merged = merge([&nowhere, &bare]).unwrap();
    let is_claimed: Vec<bool> = merged.mappings.iter().map(|m| m.has_line_numbers).collect();
    assert_eq!(is_claimed, [true, false]);
}

#[test]
fn zero_samples_are_dropped() {
    let profile = |values: [[i64; 2]; 2]| {
        let mut b = cpu_builder();
        let main = b.mapping(MAIN).unwrap();
        for (at, values) in (0..).zip(values) {
            let l = b.location(main, MAIN.start + at, &[]).unwrap();
            b.add_sample(&[l], &values, &[]).unwrap();
        }
        b.finish()
    };
    let merged = merge([&profile([[0, 0], [1, 10]]), &profile([[5, 50], [1, 10]])]).unwrap();
    let samples: Vec<_> = merged.samples.iter().collect();
    let address = |nth: usize| merged.locations[samples[nth].locations[0].index()].address;
    assert_eq!((address(0), samples[0].values), (MAIN.start + 1, &[2, 20][..]));
    assert_eq!((address(1), samples[1].values), (MAIN.start, &[5, 50][..]));
}

#[test]
fn different_types_are_rejected() {
    assert_eq!(merge(&[]), Err(MergeError::NoProfiles));
    let mut other = cpu();
    other.sample_types[1] = ValueType::new("wall", "nanoseconds");
    let error = merge([&cpu(), &other]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot merge profile 2: it has sample types samples/count, wall/nanoseconds, \
         but the first has samples/count, cpu/nanoseconds"
    );
    let mut other = cpu();
    other.period_type = ValueType::new("wall", "nanoseconds");
    assert!(matches!(merge([&cpu(), &other]), Err(MergeError::PeriodTypes { profile: 2, .. })));
}

#[test]
fn a_profile_minus_itself_is_empty() {
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
fn nameless_or_invalid_mappings_do_not_panic() {
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

#[test]
fn locations_are_numbered_by_first_use_without_dropped_samples() {
    let build = |value: i64, whole: bool| {
        let mut b = cpu_builder();
        let main = b.mapping(MAIN).unwrap();
        let [one, two, three] = [1, 2, 3].map(|i| b.location(main, MAIN.start + i, &[]).unwrap());
        b.add_sample(&[three, one], &[value, value], &[]).unwrap();
        if whole {
            b.add_sample(&[two, one], &[1, 1], &[]).unwrap();
            b.add_sample(&[three, two], &[1, 1], &[]).unwrap();
        }
        b.finish()
    };
    let merged = merge([&build(5, true), &build(-5, false)]).unwrap();
    let at = |location: &pprof::Location| location.address - MAIN.start;
    assert_eq!(merged.locations.iter().map(at).collect::<Vec<_>>(), [2, 1, 3]);
    let stack = |s: pprof::SampleRef<'_>| s.locations.iter().map(|l| at(&merged[*l])).collect();
    let stacks: Vec<Vec<u64>> = merged.samples.iter().map(stack).collect();
    assert_eq!(stacks, [[2, 1], [3, 2]]);
}
