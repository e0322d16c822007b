//! Applies the filters on frames: focus, ignore, hide and show.

use pprof::{Line, Profile};

use crate::ends::EndFilters;
use crate::regexp::Pattern;
use crate::tagfilter::TagFilters;
use crate::work::FilteredProfile;
use crate::{Filters, ReportError};

impl Filters {
    /// The active filters, as headers show them.
    pub(crate) fn described(&self) -> Vec<String> {
        let all = [
            ("focus", &self.focus),
            ("ignore", &self.ignore),
            ("hide", &self.hide),
            ("show", &self.show),
            ("show_from", &self.show_from),
            ("tagfocus", &self.tag_focus),
            ("tagignore", &self.tag_ignore),
            ("tagshow", &self.tag_show),
            ("taghide", &self.tag_hide),
        ];
        let set = all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        set.filter(|(_, value)| !value.is_empty()).map(|(name, v)| format!("{name}={v}")).collect()
    }
}

/// The functions and mappings that an expression matches.
pub(crate) struct Matches {
    name: &'static str,
    functions: Vec<bool>,
    mappings: Vec<bool>,
    any: bool,
}

impl Matches {
    fn new(
        name: &'static str,
        value: Option<&str>,
        work: &FilteredProfile<'_>,
    ) -> Result<Option<Self>, ReportError> {
        let pattern = Pattern::optional(name, value)?;
        Ok(pattern.map(|pattern| Self::of(name, &pattern, work.profile)))
    }

    pub(crate) fn of(name: &'static str, pattern: &Pattern, profile: &Profile) -> Self {
        let function =
            |f: &pprof::Function| pattern.is_match(&f.name) || pattern.is_match(&f.filename);
        Self {
            name,
            functions: profile.functions.iter().map(function).collect(),
            mappings: profile.mappings.iter().map(|m| pattern.is_match(&m.file)).collect(),
            any: false,
        }
    }

    /// `None` for a line without a function.
    pub(crate) fn line(&self, line: &Line) -> Option<bool> {
        Some(self.functions.get(line.function?.index()).is_some_and(|m| *m))
    }

    pub(crate) fn mapping(&self, profile: &Profile, location: usize) -> bool {
        let mapping = profile.locations.get(location).and_then(|l| l.mapping);
        mapping.and_then(|m| self.mappings.get(m.index())).is_some_and(|m| *m)
    }

    fn location(&self, work: &FilteredProfile<'_>, location: usize) -> bool {
        let lines = work.lines(location);
        lines.iter().any(|l| self.line(l) == Some(true)) || self.mapping(work.profile, location)
    }
}

/// Applies the filters. Returns a warning for each that matched nothing.
pub(crate) fn apply(
    work: &mut FilteredProfile<'_>,
    filters: &Filters,
) -> Result<Vec<String>, ReportError> {
    // Compile all expressions first, so that an invalid one changes nothing.
    let ends = EndFilters::new(filters)?;
    let tags = TagFilters::new(filters)?;
    let mut unmatched = by_name(work, filters)?;
    unmatched.extend(ends.show_from(work));
    unmatched.extend(tags.apply(work));
    ends.prune_from(work);
    let warning = |name: &str| format!("the {name} expression matched no samples");
    Ok(unmatched.into_iter().map(warning).collect())
}

/// Applies the filters on frames anywhere in a stack. Returns those that matched nothing.
fn by_name(
    work: &mut FilteredProfile<'_>,
    filters: &Filters,
) -> Result<Vec<&'static str>, ReportError> {
    let focus = Matches::new("focus", filters.focus.as_deref(), work)?;
    let ignore = Matches::new("ignore", filters.ignore.as_deref(), work)?;
    let mut hide = Matches::new("hide", filters.hide.as_deref(), work)?;
    let mut show = Matches::new("show", filters.show.as_deref(), work)?;
    if focus.is_none() && ignore.is_none() && hide.is_none() && show.is_none() {
        return Ok(Vec::new());
    }
    // Samples are chosen before frames are hidden: hidden frames count.
    let (selects, unmatched) = selecting_locations(work, focus, ignore);
    let hidden = hide_lines(work, hide.as_mut(), show.as_mut());
    drop_samples(work, &selects, &hidden);
    if hidden.iter().any(|h| *h) {
        work.hide(hidden);
    }
    let of_lines = [hide, show].into_iter().flatten().filter(|m| !m.any).map(|m| m.name);
    Ok(unmatched.into_iter().chain(of_lines).collect())
}

/// For each location, whether it selects samples (focus) or rejects them (ignore); and the
/// expressions that match no location.
fn selecting_locations(
    work: &FilteredProfile<'_>,
    focus: Option<Matches>,
    ignore: Option<Matches>,
) -> (Vec<Option<bool>>, Vec<&'static str>) {
    let decide = |location: usize| {
        if ignore.as_ref().is_some_and(|i| i.location(work, location)) {
            return Some(false);
        }
        focus.as_ref().is_none_or(|f| f.location(work, location)).then_some(true)
    };
    let selects: Vec<Option<bool>> = (0..work.profile.locations.len()).map(decide).collect();
    let unmatched = [(focus, true), (ignore, false)].into_iter().filter_map(|(filter, mark)| {
        filter.filter(|_| !selects.contains(&Some(mark))).map(|f| f.name)
    });
    let unmatched = unmatched.collect();
    (selects, unmatched)
}

/// Removes lines. Returns whether each location lost all its lines.
fn hide_lines(
    work: &mut FilteredProfile<'_>,
    mut hide: Option<&mut Matches>,
    mut show: Option<&mut Matches>,
) -> Vec<bool> {
    let profile = work.profile;
    let count = profile.locations.len();
    let mut hidden = vec![false; count];
    if let Some(hide) = &mut hide {
        let matched: Vec<bool> = (0..count).map(|l| hide.location(work, l)).collect();
        hide.any = matched.contains(&true);
        work.rewrite_lines(|location, lines, out| {
            let before = out.len();
            if !hide.mapping(profile, location) {
                out.extend(lines.iter().filter(|l| hide.line(l) != Some(true)));
            }
            hidden[location] = matched[location] && out.len() == before;
        });
    }
    if let Some(show) = &mut show {
        let mut any = false;
        work.rewrite_lines(|location, lines, out| {
            let before = out.len();
            let stays = |l: &&Line| show.mapping(profile, location) || show.line(l) != Some(false);
            out.extend(lines.iter().filter(stays));
            hidden[location] |= out.len() == before;
            any |= out.len() > before;
        });
        show.any = any;
    }
    hidden
}

/// Drops samples with a rejected location, without a selected one, or without frames.
fn drop_samples(work: &mut FilteredProfile<'_>, selects: &[Option<bool>], hidden: &[bool]) {
    let is = |flags: &[bool], l: &pprof::LocationIndex| flags.get(l.index()).is_some_and(|f| *f);
    work.restrict(|sample| {
        let mut is_selected = false;
        for location in sample.locations {
            match selects.get(location.index()).copied().flatten() {
                Some(true) => is_selected = true,
                Some(false) => return None,
                None => {}
            }
        }
        // A sample without a visible frame is dropped.
        let is_empty = hidden.contains(&true) && sample.locations.iter().all(|l| is(hidden, l));
        (is_selected && !is_empty).then_some(0..sample.locations.len())
    });
}
