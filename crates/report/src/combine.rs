//! Adds up and subtracts profiles of different files.

use pprof::{Mapping, MappingIndex, MergeError, Profile, ValueType};

use crate::{go, measure};

/// Why profiles cannot be combined. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CombineError {
    /// The profiles have no common sample type.
    #[error("the profiles have no common sample type")]
    NothingInCommon,
    /// Their units cannot be converted to each other.
    #[error("cannot combine {what} of {one} with {what} of {other}")]
    Units {
        /// What has these units: periods or samples.
        what: &'static str,
        /// One type and unit.
        one: ValueType,
        /// The other.
        other: ValueType,
    },
    /// They cannot be merged.
    #[error(transparent)]
    Merge(#[from] MergeError),
}

/// Adds `profiles` up, and subtracts `bases`.
///
/// Sample types that some profile lacks are dropped, and units are converted to the finest. With
/// bases, reports take percentages of the bases' total.
///
/// # Errors
/// When the profiles measure different things.
pub fn combine(profiles: Vec<Profile>, bases: Vec<Profile>) -> Result<Profile, CombineError> {
    let mut profile = sum(profiles)?;
    if !bases.is_empty() {
        let mut base = sum(bases)?;
        base.mark_as_base();
        base.scale(-1.0);
        profile = sum(vec![profile, base])?;
    }
    for mapping in &mut profile.mappings {
        if mapping.build_id.is_empty() && is_url(&mapping.file) {
            mapping.file = "".into();
        }
    }
    Ok(profile)
}

fn sum(mut profiles: Vec<Profile>) -> Result<Profile, CombineError> {
    for profile in &mut profiles {
        add_mapping(profile);
    }
    if let [_] = profiles.as_slice() {
        return Ok(profiles.remove(0));
    }
    align_types(&mut profiles)?;
    align_units(&mut profiles)?;
    Ok(pprof::merge(&profiles)?)
}

/// Gives a profile without mappings an empty one, as pprof does.
fn add_mapping(profile: &mut Profile) {
    if profile.mappings.is_empty() {
        profile.mappings.push(Mapping::default());
        for location in &mut profile.locations {
            location.mapping = Some(MappingIndex::new(0));
        }
    }
}

/// Whether a mapping's file is the URL that the profile was fetched from.
fn is_url(file: &str) -> bool {
    let is_scheme = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    file.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme))
}

/// Keeps the sample types that all profiles have, in the order of the first.
fn align_types(profiles: &mut [Profile]) -> Result<(), CombineError> {
    let Some((first, others)) = profiles.split_first() else { return Ok(()) };
    let is_common = |t: &&ValueType| others.iter().all(|p| p.sample_type_index(&t.kind).is_some());
    let common: Vec<_> = first.sample_types.iter().filter(is_common).cloned().collect();
    let Some(default) = common.first() else { return Err(CombineError::NothingInCommon) };
    for profile in profiles {
        let positions: Vec<usize> =
            common.iter().filter_map(|t| profile.sample_type_index(&t.kind)).collect();
        if positions.iter().copied().eq(0..profile.sample_types.len()) {
            continue;
        }
        profile.select_sample_types(&positions);
        if profile.sample_type_index(&profile.default_sample_type).is_none() {
            profile.default_sample_type = default.kind.clone();
        }
    }
    Ok(())
}

/// Converts periods and values to the finest unit that any profile has.
fn align_units(profiles: &mut [Profile]) -> Result<(), CombineError> {
    let period = finest("periods", profiles.iter().map(|p| &p.period_type))?;
    let types = profiles.iter().map(|p| p.sample_types.len()).min().unwrap_or(0);
    let mut units = Vec::with_capacity(types);
    for nth in 0..types {
        units.push(finest("samples", profiles.iter().map(|p| &p.sample_types[nth]))?);
    }
    for profile in profiles {
        if let Some(period) = &period {
            let (scaled, _) =
                measure::scale(profile.period, &profile.period_type.unit, &period.unit);
            profile.period = go::integer(scaled);
            profile.period_type.unit = period.unit.clone();
        }
        let mut ratios = Vec::with_capacity(types);
        for (own, unit) in profile.sample_types.iter_mut().zip(&units) {
            let Some(unit) = unit else { continue };
            ratios.push(measure::scale(1, &own.unit, &unit.unit).0);
            own.unit = unit.unit.clone();
        }
        profile.scale_each(&ratios);
    }
    Ok(())
}

/// The type with the finest unit. All types must measure the same quantity.
fn finest<'t>(
    what: &'static str,
    types: impl Iterator<Item = &'t ValueType>,
) -> Result<Option<ValueType>, CombineError> {
    let mut finest: Option<&ValueType> = None;
    for t in types {
        let Some(known) = finest else {
            finest = Some(t);
            continue;
        };
        let singular = |t: &'t ValueType| t.kind.strip_suffix('s').unwrap_or(&t.kind);
        if singular(known) != singular(t) || !measure::are_convertible(&known.unit, &t.unit) {
            let (one, other) = (known.clone(), t.clone());
            return Err(CombineError::Units { what, one, other });
        }
        if measure::scale(1, &t.unit, &known.unit).0 < 1.0 {
            finest = Some(t);
        }
    }
    Ok(finest.cloned())
}
