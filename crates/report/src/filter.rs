//! Focus, ignore, hide and show.

use pprof::Line;

use crate::ends::Ends;
use crate::regexp::Pattern;
use crate::tagfilter::TagFilters;
use crate::work::Work;
use crate::{Filters, ReportError};

impl Filters {
    /// The filters that are set, as headers show them.
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

/// An expression, and what it matches.
struct Matches {
    name: &'static str,
    functions: Vec<bool>,
    mappings: Vec<bool>,
    any: bool,
}

impl Matches {
    fn new(
        name: &'static str,
        value: Option<&str>,
        work: &Work<'_>,
    ) -> Result<Option<Self>, ReportError> {
        let Some(text) = value.filter(|v| !v.is_empty()) else { return Ok(None) };
        let pattern = Pattern::new(name, text)?;
        let profile = work.profile;
        let function =
            |f: &pprof::Function| pattern.is_match(&f.name) || pattern.is_match(&f.filename);
        Ok(Some(Self {
            name,
            functions: profile.functions.iter().map(function).collect(),
            mappings: profile.mappings.iter().map(|m| pattern.is_match(&m.file)).collect(),
            any: false,
        }))
    }

    /// `None` for a line without a function.
    fn line(&self, line: &Line) -> Option<bool> {
        Some(self.functions.get(line.function?.index()).is_some_and(|m| *m))
    }

    fn mapping(&self, work: &Work<'_>, location: usize) -> bool {
        let mapping = work.profile.locations.get(location).and_then(|l| l.mapping);
        mapping.and_then(|m| self.mappings.get(m.index())).is_some_and(|m| *m)
    }

    fn location(&self, work: &Work<'_>, location: usize) -> bool {
        let lines = work.lines(location);
        lines.iter().any(|l| self.line(l) == Some(true)) || self.mapping(work, location)
    }
}

/// Applies the filters, and returns a warning for each that matched nothing.
pub(crate) fn apply(work: &mut Work<'_>, filters: &Filters) -> Result<Vec<String>, ReportError> {
    // All expressions are looked at before any is applied.
    let ends = Ends::new(filters)?;
    let tags = TagFilters::new(filters)?;
    let mut unmatched = by_name(work, filters)?;
    unmatched.extend(ends.show_from(work));
    unmatched.extend(tags.apply(work));
    ends.prune_from(work);
    let warning = |name: &str| format!("the {name} expression matched no samples");
    Ok(unmatched.into_iter().map(warning).collect())
}

/// Applies the filters on frames anywhere in a stack, and returns those that matched nothing.
fn by_name(work: &mut Work<'_>, filters: &Filters) -> Result<Vec<&'static str>, ReportError> {
    let focus = Matches::new("focus", filters.focus.as_deref(), work)?;
    let ignore = Matches::new("ignore", filters.ignore.as_deref(), work)?;
    let mut hide = Matches::new("hide", filters.hide.as_deref(), work)?;
    let mut show = Matches::new("show", filters.show.as_deref(), work)?;
    if focus.is_none() && ignore.is_none() && hide.is_none() && show.is_none() {
        return Ok(Vec::new());
    }
    // Samples go by the frames that they had, also by those that are then hidden.
    let (wanted, unmatched) = wanted_locations(work, focus, ignore);
    let hidden = hide_lines(work, hide.as_mut(), show.as_mut());
    drop_samples(work, &wanted, &hidden);
    if hidden.iter().any(|h| *h) {
        work.hide(hidden);
    }
    let of_lines = [hide, show].into_iter().flatten().filter(|m| !m.any).map(|m| m.name);
    Ok(unmatched.into_iter().chain(of_lines).collect())
}

/// For each location whether a sample through it is wanted (focus) or not (ignore), and the
/// expressions that match none.
fn wanted_locations(
    work: &Work<'_>,
    focus: Option<Matches>,
    ignore: Option<Matches>,
) -> (Vec<Option<bool>>, Vec<&'static str>) {
    let decide = |location: usize| {
        if ignore.as_ref().is_some_and(|i| i.location(work, location)) {
            return Some(false);
        }
        focus.as_ref().is_none_or(|f| f.location(work, location)).then_some(true)
    };
    let wanted: Vec<Option<bool>> = (0..work.profile.locations.len()).map(decide).collect();
    let unmatched = [(focus, true), (ignore, false)].into_iter().filter_map(|(filter, mark)| {
        filter.filter(|_| !wanted.contains(&Some(mark))).map(|f| f.name)
    });
    let unmatched = unmatched.collect();
    (wanted, unmatched)
}

/// Takes lines out, and returns which locations have lost all.
fn hide_lines(
    work: &mut Work<'_>,
    mut hide: Option<&mut Matches>,
    mut show: Option<&mut Matches>,
) -> Vec<bool> {
    let count = work.profile.locations.len();
    let mut hidden = vec![false; count];
    if let Some(hide) = &mut hide {
        let matched: Vec<bool> = (0..count).map(|l| hide.location(work, l)).collect();
        let by_mapping: Vec<bool> = (0..count).map(|l| hide.mapping(work, l)).collect();
        hide.any = matched.contains(&true);
        work.rewrite_lines(|location, lines, out| {
            let before = out.len();
            if !by_mapping[location] {
                out.extend(lines.iter().filter(|l| hide.line(l) != Some(true)));
            }
            hidden[location] = matched[location] && out.len() == before;
        });
    }
    if let Some(show) = &mut show {
        let by_mapping: Vec<bool> = (0..count).map(|l| show.mapping(work, l)).collect();
        let mut any = false;
        work.rewrite_lines(|location, lines, out| {
            let before = out.len();
            let stays = |l: &&Line| by_mapping[location] || show.line(l) != Some(false);
            out.extend(lines.iter().filter(stays));
            hidden[location] |= out.len() == before;
            any |= out.len() > before;
        });
        show.any = any;
    }
    hidden
}

/// Takes out samples through an unwanted location, through no wanted one, or without frames left.
fn drop_samples(work: &mut Work<'_>, wanted: &[Option<bool>], hidden: &[bool]) {
    let is = |flags: &[bool], l: &pprof::LocationIndex| flags.get(l.index()).is_some_and(|f| *f);
    work.restrict(|sample| {
        let mut verdict = false;
        for location in sample.locations {
            match wanted.get(location.index()).copied().flatten() {
                Some(true) => verdict = true,
                Some(false) => return None,
                None => {}
            }
        }
        // Who hides frames takes samples that have no other with them.
        let hides = hidden.contains(&true) && sample.locations.iter().all(|l| is(hidden, l));
        (verdict && !hides).then_some(0..sample.locations.len())
    });
}
