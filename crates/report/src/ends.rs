//! Applies the filters that cut stacks at one end: `show_from` and `prune_from`.

use crate::filter::Matches;
use crate::regexp::Pattern;
use crate::work::FilteredProfile;
use crate::{Filters, ReportError, prune};

/// The two expressions.
pub(crate) struct EndFilters {
    show_from: Option<Pattern>,
    prune_from: Option<Pattern>,
}

impl EndFilters {
    pub(crate) fn new(filters: &Filters) -> Result<Self, ReportError> {
        Ok(Self {
            show_from: Pattern::optional("show_from", filters.show_from.as_deref())?,
            prune_from: Pattern::optional("prune_from", filters.prune_from.as_deref())?,
        })
    }

    /// Drops the callers of the outermost match of `show_from`, and samples without a match. Returns
    /// the filter's name if nothing matches.
    pub(crate) fn show_from(&self, work: &mut FilteredProfile<'_>) -> Option<&'static str> {
        let pattern = self.show_from.as_ref()?;
        let profile = work.profile;
        let matches = Matches::of("show_from", pattern, profile);
        let mut matched = vec![false; profile.locations.len()];
        work.rewrite_lines(|location, lines, out| {
            let whole = matches.mapping(profile, location);
            let outermost = lines.iter().rposition(|line| matches.line(line) == Some(true));
            matched[location] = whole || outermost.is_some();
            let kept = if whole { lines.len() } else { outermost.map_or(lines.len(), |at| at + 1) };
            out.extend_from_slice(&lines[..kept]);
        });
        let hidden: Vec<bool> = (profile.locations.iter().enumerate())
            .map(|(at, _)| work.is_hidden(crate::graph::location_index(at)))
            .collect();
        work.restrict(|sample| {
            let is = |l: &pprof::LocationIndex| matched[l.index()] && !hidden[l.index()];
            sample.locations.iter().rposition(is).map(|at| 0..at + 1)
        });
        (!matched.contains(&true)).then_some("show_from")
    }

    /// Drops the callees of the innermost match of `prune_from`.
    pub(crate) fn prune_from(&self, work: &mut FilteredProfile<'_>) {
        let Some(pattern) = &self.prune_from else { return };
        let profile = work.profile;
        let in_function: Vec<bool> = (profile.functions.iter())
            .map(|f| !f.name.is_empty() && pattern.is_match(prune::simple(&f.name)))
            .collect();
        let mut matched = vec![false; profile.locations.len()];
        work.rewrite_lines(|location, lines, out| {
            let is_match = |line: &pprof::Line| {
                line.function.is_some_and(|f| in_function.get(f.index()).is_some_and(|m| *m))
            };
            let innermost = lines.iter().position(is_match);
            matched[location] = innermost.is_some();
            out.extend_from_slice(&lines[innermost.unwrap_or(0)..]);
        });
        work.restrict(|sample| {
            let innermost = sample.locations.iter().position(|l| matched[l.index()]);
            Some(innermost.unwrap_or(0)..sample.locations.len())
        });
    }
}
