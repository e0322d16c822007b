//! Groups the labels of samples by key.

use std::collections::BTreeMap;

use pprof::{BASE_LABEL, Label, LabelValue};
use printable::line;

use crate::measure;
use crate::work::FilteredProfile;

/// Whether a label marks the sample as part of a diff's base.
pub(crate) fn is_base(label: &Label) -> bool {
    &*label.key == BASE_LABEL && matches!(&label.value, LabelValue::Text(text) if &**text == "true")
}

/// Whether the values of a label are thread names, here or in other profilers.
pub(crate) fn is_thread_name(key: &str) -> bool {
    matches!(key, "thread" | "thread_name" | "thread name")
}

/// The labels of one sample.
#[derive(Debug, Default)]
pub(crate) struct Labels<'p> {
    texts: BTreeMap<&'p str, Vec<&'p str>>,
    /// Numbers with units.
    numbers: BTreeMap<&'p str, Vec<(i64, &'p str)>>,
}

impl<'p> Labels<'p> {
    pub(crate) fn new(labels: impl Iterator<Item = &'p Label>) -> Self {
        let mut by_key = Self::default();
        for label in labels {
            match &label.value {
                LabelValue::Text(text) => by_key.texts.entry(&label.key).or_default().push(text),
                // The format uses this for "no value".
                LabelValue::Number { value: 0, unit } if unit.is_empty() => {}
                LabelValue::Number { value, unit } => {
                    by_key.numbers.entry(&label.key).or_default().push((*value, unit));
                }
            }
        }
        by_key
    }

    /// As the raw report shows them: texts, then numbers.
    pub(crate) fn raw(&self) -> [String; 2] {
        let texts = self.texts.iter().map(|(k, v)| format!("{k}:[{}]", v.join(" ")));
        let numbers = self.numbers.iter().map(|(key, values)| {
            let has_units = values.iter().any(|(_, unit)| !unit.is_empty());
            let value = |(v, unit): &(i64, &str)| match has_units {
                true => format!("{v} {unit}"),
                false => v.to_string(),
            };
            let values: Vec<String> = values.iter().map(value).collect();
            format!("{key}:[{}]", values.join(" "))
        });
        [sorted(texts).join(" "), sorted(numbers).join(" ")]
    }

    /// As traces show them, one per line.
    pub(crate) fn lines(&self, units: &Units<'p>) -> Vec<String> {
        let texts = self.texts.iter().map(|(k, v)| format!("{k:>10}:  {}", v.join(" ")));
        let numbers = self.numbers.iter().map(|(key, values)| {
            let unit = units.of(key);
            let values: Vec<String> =
                values.iter().map(|(v, _)| measure::label(*v, unit, "auto")).collect();
            format!("{key:>10}:  {}", values.join(" "))
        });
        let mut lines = sorted(texts);
        lines.extend(sorted(numbers));
        lines
    }
}

/// Labels, each on one line, sorted.
fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<String> = texts.map(|text| line(&text).into_owned()).collect();
    texts.sort_unstable();
    texts
}

/// The unit of each key: the first that occurs.
#[derive(Debug, Default)]
pub(crate) struct Units<'p> {
    by_key: BTreeMap<&'p str, &'p str>,
}

impl<'p> Units<'p> {
    pub(crate) fn new(work: &FilteredProfile<'p>) -> Self {
        let mut by_key = BTreeMap::new();
        for label in work.profile.samples.iter().flat_map(|s| s.labels) {
            match &label.value {
                LabelValue::Number { unit, .. } if !unit.is_empty() => {
                    by_key.entry(&*label.key).or_insert(&**unit);
                }
                _ => {}
            }
        }
        Self { by_key }
    }

    /// The unit of a key. Without one in the profile, it is derived from the key.
    pub(crate) fn of<'k>(&self, key: &'k str) -> &'k str
    where
        'p: 'k,
    {
        match self.by_key.get(key) {
            Some(unit) => unit,
            None if matches!(key, "alignment" | "request") => "bytes",
            None => key,
        }
    }
}
