//! Applies the filters on labels: `tagfocus`, `tagignore`, `tagshow`, `taghide`.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use pprof::{Label, LabelValue};
use regex::Regex;

use crate::labels::Units;
use crate::measure;
use crate::regexp::Pattern;
use crate::work::FilteredProfile;
use crate::{Filters, ReportError};

/// All four filters.
pub(crate) struct TagFilters {
    focus: Option<TagFilter>,
    ignore: Option<TagFilter>,
    show: Option<Pattern>,
    hide: Option<Pattern>,
}

/// A condition on a sample's labels.
struct TagFilter {
    /// Only labels of this key count.
    key: Option<String>,
    test: Test,
}

enum Test {
    /// A number within a range.
    Range(Range),
    /// Texts. Without a key, each expression must match some `key:value`; with a key, one of the
    /// expressions must match some value.
    Texts(Vec<Pattern>),
}

/// A range of numbers in one unit; a missing end is open.
#[derive(Debug, PartialEq)]
struct Range {
    min: Option<f64>,
    max: Option<f64>,
    unit: String,
}

impl TagFilters {
    pub(crate) fn new(filters: &Filters) -> Result<Self, ReportError> {
        Ok(Self {
            focus: TagFilter::new("tagfocus", filters.tag_focus.as_deref())?,
            ignore: TagFilter::new("tagignore", filters.tag_ignore.as_deref())?,
            show: Pattern::optional("tagshow", filters.tag_show.as_deref())?,
            hide: Pattern::optional("taghide", filters.tag_hide.as_deref())?,
        })
    }

    /// Applies the filters. Returns the names of those that matched nothing.
    pub(crate) fn apply(&self, work: &mut FilteredProfile<'_>) -> Vec<&'static str> {
        let mut unmatched = Vec::new();
        if self.focus.is_some() || self.ignore.is_some() {
            let units = Units::new(work);
            let (mut focused, mut ignored) = (self.focus.is_none(), self.ignore.is_none());
            work.restrict(|sample| {
                let is = |filter: &TagFilter| filter.matches(sample.labels, &units);
                let is_focused = self.focus.as_ref().is_none_or(is);
                let is_ignored = self.ignore.as_ref().is_some_and(is);
                focused |= is_focused;
                ignored |= is_ignored;
                (is_focused && !is_ignored).then_some(0..sample.locations.len())
            });
            unmatched.extend((!focused).then_some("tagfocus"));
            unmatched.extend((!ignored).then_some("tagignore"));
        }
        if self.show.is_some() || self.hide.is_some() {
            let keys: BTreeSet<Arc<str>> =
                work.samples().flat_map(|s| s.labels).map(|l| Arc::clone(&l.key)).collect();
            let is_shown = |key: &str| self.show.as_ref().is_none_or(|p| p.is_match(key));
            let is_hidden = |key: &str| self.hide.as_ref().is_some_and(|p| p.is_match(key));
            unmatched.extend((!keys.iter().any(|k| is_shown(k))).then_some("tagshow"));
            if self.hide.is_some() {
                unmatched.extend((!keys.iter().any(|k| is_hidden(k))).then_some("taghide"));
            }
            work.hide_labels(keys.into_iter().filter(|k| !is_shown(k) || is_hidden(k)).collect());
        }
        unmatched
    }
}

impl TagFilter {
    fn new(option: &'static str, text: Option<&str>) -> Result<Option<Self>, ReportError> {
        let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(None) };
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (Some(key.to_owned()).filter(|k| !k.is_empty()), value),
            None => (None, text),
        };
        let test = match Range::new(value) {
            Some(range) => Test::Range(range),
            None => {
                let patterns = value.split(',').map(|text| Pattern::new(option, text));
                Test::Texts(patterns.collect::<Result<_, _>>()?)
            }
        };
        Ok(Some(Self { key, test }))
    }

    fn matches(&self, labels: &[Label], units: &Units<'_>) -> bool {
        let of_key =
            || labels.iter().filter(|l| self.key.as_deref().is_none_or(|key| key == &*l.key));
        match &self.test {
            Test::Range(range) => of_key().any(|l| match &l.value {
                LabelValue::Number { value: 0, unit } if unit.is_empty() => false,
                LabelValue::Number { value, .. } => range.holds(*value, units.of(&l.key)),
                LabelValue::Text(_) => false,
            }),
            Test::Texts(patterns) => {
                let matches = |pattern: &Pattern| {
                    of_key().any(|l| match &l.value {
                        LabelValue::Text(text) if self.key.is_some() => pattern.is_match(text),
                        LabelValue::Text(text) => pattern.is_match(&format!("{}:{text}", l.key)),
                        LabelValue::Number { .. } => false,
                    })
                };
                match self.key {
                    Some(_) => patterns.iter().any(matches),
                    None => patterns.iter().all(matches),
                }
            }
        }
    }
}

impl Range {
    /// `32kb`, `:64kb`, `4mb:` or `12kb:64mb`; `None` for anything else.
    fn new(text: &str) -> Option<Self> {
        static NUMBER: LazyLock<Option<Regex>> =
            LazyLock::new(|| Regex::new("^([+-]?[0-9]+)([A-Za-z]+)?$").ok());
        let number = |text: &str, to: Option<&str>| {
            let parts = NUMBER.as_ref()?.captures(text)?;
            let own = parts.get(2).map_or("", |unit| unit.as_str());
            let (value, unit) = measure::scale(parts[1].parse().ok()?, own, to.unwrap_or(own));
            Some((value, unit.into_owned()))
        };
        match text.split_once(':') {
            None => {
                let (value, unit) = number(text, None)?;
                Some(Self { min: Some(value), max: Some(value), unit })
            }
            Some((min, "")) => {
                let (min, unit) = number(min, None)?;
                Some(Self { min: Some(min), max: None, unit })
            }
            Some(("", max)) => {
                let (max, unit) = number(max, None)?;
                Some(Self { min: None, max: Some(max), unit })
            }
            Some((min, max)) => {
                let (min, unit) = number(min, None)?;
                let (max, of_max) = number(max, Some(&unit))?;
                (unit == of_max).then_some(Self { min: Some(min), max: Some(max), unit })
            }
        }
    }

    fn holds(&self, value: i64, unit: &str) -> bool {
        let (value, unit) = measure::scale(value, unit, &self.unit);
        unit == self.unit
            && self.min.is_none_or(|min| value >= min)
            && self.max.is_none_or(|max| value <= max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let kb = Range::new("4kb:1mb").unwrap();
        assert_eq!((kb.min, kb.max, &*kb.unit), (Some(4.0), Some(1024.0), "kB"));
        assert!(kb.holds(4096, "bytes") && kb.holds(1 << 20, "bytes"));
        assert!(!kb.holds(4095, "bytes") && !kb.holds(5, "seconds"));
        assert!(Range::new("7").unwrap().holds(7, ""));
        assert!(Range::new(":7").unwrap().holds(-1, ""));
        assert!(Range::new("7:").unwrap().holds(8, ""));
        for text in ["", ":", "a7", "7:8:9", "1kb:2s", "99999999999999999999"] {
            assert_eq!(Range::new(text), None, "{text}");
        }
    }
}
