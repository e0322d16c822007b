//! Decodes recorded profiles into a form that is easy to query: every stack expanded to frames,
//! leaf first, inlined calls included.

use std::collections::BTreeMap;
use std::sync::Arc;

use pprof::validate::{Expect, check_expecting};

/// A decoded profile.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Such as `cpu/nanoseconds`, in order.
    pub sample_types: Vec<String>,
    /// The type that readers show first; empty means the last one.
    pub default_sample_type: String,
    /// All samples.
    pub samples: Vec<Sample>,
    /// All mappings; the main binary first.
    pub mappings: Vec<Arc<Mapping>>,
    /// The profile's comments.
    pub comments: Vec<String>,
    /// Such as `cpu/nanoseconds`.
    pub period_type: String,
    /// The sampling period in units of `period_type`.
    pub period: i64,
    /// Length of the recording in nanoseconds.
    pub duration_nanos: i64,
    /// Start of the recording in nanoseconds since the epoch.
    pub time_nanos: i64,
}

/// One stack with its values and labels.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Leaf first; each inlined call is a frame of its own.
    pub stack: Vec<Frame>,
    /// One value per sample type.
    pub values: Vec<i64>,
    /// Labels; numbers are in decimal.
    pub labels: BTreeMap<String, String>,
}

/// One stack frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The demangled name; empty where the profile leaves symbolization to its reader.
    pub function: String,
    /// The mangled name.
    pub system_name: String,
    /// Source file; empty when unknown.
    pub file: String,
    /// Line; 0 when unknown.
    pub line: i64,
    /// The function's first line; 0 when unknown.
    pub start_line: i64,
    /// The mapping that contains the address.
    pub mapping: Option<Arc<Mapping>>,
    /// Address in the process's memory.
    pub address: u64,
    /// The call was inlined into the next frame.
    pub inlined: bool,
}

/// A mapped file.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub limit: u64,
    /// File offset of `start`.
    pub offset: u64,
    /// Path or a name such as `[vdso]`.
    pub file: String,
    /// Lower-case hex, or empty.
    pub build_id: String,
}

impl Profile {
    /// Decodes a profile that exoprof wrote, after the strict validator has accepted it.
    ///
    /// # Panics
    /// When the validator or the decoder rejects it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        let kinds = collect::kinds::all_facts();
        let expect = Expect { kinds: &kinds, ..Expect::default() };
        if let Err(complaints) = check_expecting(bytes, &expect) {
            panic!("the validator rejects the profile: {complaints:#?}");
        }
        let decoded = pprof::decode(bytes).expect("a valid profile can be decoded");
        Self::expand(&decoded)
    }

    /// Decodes a profile of another program, gzipped or not, without the validator: its rules are
    /// exoprof's own.
    ///
    /// # Panics
    /// When the decoder rejects it.
    #[must_use]
    pub fn decode_foreign(bytes: &[u8]) -> Self {
        Self::expand(&pprof::decode(bytes).expect("a profile"))
    }

    fn expand(decoded: &pprof::Profile) -> Self {
        let mappings: Vec<_> = decoded
            .mappings
            .iter()
            .map(|m| {
                Arc::new(Mapping {
                    start: m.start,
                    limit: m.limit,
                    offset: m.offset,
                    file: m.file.to_string(),
                    build_id: m.build_id.to_string(),
                })
            })
            .collect();
        let locations: Vec<_> = decoded
            .locations
            .iter()
            .map(|location| frames_of(decoded, &mappings, location))
            .collect();
        let samples = decoded
            .samples
            .iter()
            .map(|sample| Sample {
                stack: sample
                    .locations
                    .iter()
                    .flat_map(|location| locations[location.index()].iter().cloned())
                    .collect(),
                values: sample.values.to_vec(),
                labels: sample.labels.iter().map(label_text).collect(),
            })
            .collect();
        Self {
            sample_types: decoded.sample_types.iter().map(ToString::to_string).collect(),
            default_sample_type: decoded.default_sample_type.to_string(),
            samples,
            mappings,
            comments: decoded.comments.iter().map(ToString::to_string).collect(),
            period_type: decoded.period_type.to_string(),
            period: decoded.period,
            duration_nanos: decoded.duration_nanos,
            time_nanos: decoded.time_nanos,
        }
    }

    /// The index of a sample type such as `cpu`.
    ///
    /// # Panics
    /// When the profile has no such type.
    #[must_use]
    pub fn column(&self, kind: &str) -> usize {
        self.sample_types
            .iter()
            .position(|t| t.split('/').next() == Some(kind))
            .unwrap_or_else(|| panic!("no sample type {kind} in {:?}", self.sample_types))
    }

    /// The sum of a sample type over all samples.
    #[must_use]
    pub fn total(&self, kind: &str) -> i64 {
        self.sum(kind, |_| true)
    }

    /// The sum of a sample type over the samples that satisfy `keep`.
    #[must_use]
    pub fn sum(&self, kind: &str, keep: impl Fn(&Sample) -> bool) -> i64 {
        let column = self.column(kind);
        self.samples.iter().filter(|s| keep(s)).map(|s| s.values[column]).sum()
    }

    /// The sums of a sample type by the text of a label; samples without it are under `""`.
    #[must_use]
    pub fn by_label(&self, kind: &str, label: &str) -> BTreeMap<String, i64> {
        let column = self.column(kind);
        let mut sums = BTreeMap::new();
        for sample in &self.samples {
            *sums.entry(sample.label(label).to_owned()).or_default() += sample.values[column];
        }
        sums
    }

    /// The heaviest stacks as text, for assertion messages.
    #[must_use]
    pub fn describe(&self, at_most: usize, keep: impl Fn(&Sample) -> bool) -> String {
        let mut kept: Vec<_> = self.samples.iter().filter(|s| keep(s)).collect();
        kept.sort_by_key(|s| std::cmp::Reverse(s.values.first().copied().unwrap_or(0)));
        kept.iter().take(at_most).map(|s| format!("{s}\n")).collect()
    }
}

fn frames_of(
    decoded: &pprof::Profile,
    mappings: &[Arc<Mapping>],
    location: &pprof::Location,
) -> Vec<Frame> {
    let bare = Frame {
        function: String::new(),
        system_name: String::new(),
        file: String::new(),
        line: 0,
        start_line: 0,
        mapping: location.mapping.map(|m| Arc::clone(&mappings[m.index()])),
        address: location.address,
        inlined: false,
    };
    if location.lines.is_empty() {
        return vec![bare];
    }
    let last = location.lines.len() - 1;
    let with_line = |(at, line): (usize, &pprof::Line)| {
        let mut frame = Frame { line: line.line, inlined: at < last, ..bare.clone() };
        if let Some(function) = line.function.map(|f| &decoded[f]) {
            frame.function = function.name.to_string();
            frame.system_name = function.system_name.to_string();
            frame.file = function.filename.to_string();
            frame.start_line = function.start_line;
        }
        frame
    };
    location.lines.iter().enumerate().map(with_line).collect()
}

fn label_text(label: &pprof::Label) -> (String, String) {
    let value = match &label.value {
        pprof::LabelValue::Text(text) => text.to_string(),
        pprof::LabelValue::Number { value, .. } => value.to_string(),
    };
    (label.key.to_string(), value)
}

impl Sample {
    /// The text of a label, or `""`.
    #[must_use]
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }

    /// Whether a function with this plain name is anywhere in the stack.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// The position of the innermost function with this plain name, counted from the leaf.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.stack.iter().position(|f| f.is(name))
    }

    /// The innermost frame.
    ///
    /// # Panics
    /// When the stack is empty, which no valid sample is.
    #[must_use]
    pub fn leaf(&self) -> &Frame {
        self.stack.first().expect("a stack has a leaf")
    }

    /// The outermost frame.
    ///
    /// # Panics
    /// When the stack is empty, which no valid sample is.
    #[must_use]
    pub fn root(&self) -> &Frame {
        self.stack.last().expect("a stack has a root")
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.values)?;
        for (at, frame) in self.stack.iter().enumerate() {
            if at == 40 && self.stack.len() > 60 {
                write!(f, " < … {} more …", self.stack.len() - 41)?;
            }
            if at < 40 || self.stack.len() <= 60 || at + 1 == self.stack.len() {
                write!(f, " < {frame}")?;
            }
        }
        Ok(())
    }
}

impl Frame {
    /// Whether this is the function of this plain name: namespace, type arguments, parameters and
    /// the suffixes of clones such as `.isra.0` are ignored.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.function == name || plain_name(&self.function) == name
    }
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.function.is_empty() {
            let file = self.mapping.as_ref().map_or("?", |m| m.file.as_str());
            return write!(f, "{file}@{:#x}", self.address);
        }
        let file = self.file.rsplit('/').next().unwrap_or_default();
        write!(f, "{} {file}:{}", self.function, self.line)
    }
}

/// Strips a function's name down: `unsigned long mixing::Mixer<unsigned long>::many<4>(unsigned
/// long)` is `many`.
fn plain_name(function: &str) -> &str {
    // Cut bracketed parts from the end, then take the last word.
    let mut rest = function.trim_end_matches(" const");
    loop {
        rest = rest.trim_end_matches("::");
        let (open, close) = match rest.as_bytes().last() {
            Some(b')') => ('(', ')'),
            Some(b'>') => ('<', '>'),
            _ => break,
        };
        let mut depth = 0_usize;
        let begin = rest.char_indices().rev().find(|&(_, c)| {
            if c == close {
                depth += 1;
            } else if c == open {
                depth -= 1;
            }
            depth == 0
        });
        let Some((begin, _)) = begin.filter(|&(begin, _)| begin > 0) else { break };
        rest = &rest[..begin];
    }
    let word = rest.rsplit([':', ' ', '>', '&', '*']).next().unwrap_or(rest);
    match word.split_once('.') {
        Some((before, _)) if !before.is_empty() => before,
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::plain_name;

    #[test]
    fn plain_names() {
        for (full, plain) in [
            ("main", "main"),
            ("hot(unsigned long)", "hot"),
            ("unsigned long mixing::Mixer<unsigned long>::many<4>(unsigned long)", "many"),
            ("mixing::Mixer<unsigned long>::step(unsigned long)", "step"),
            ("rust_shares::generic_mix::<u32, 2>", "generic_mix"),
            ("<rust_shares::Holder<u16> as rust_shares::Work>::work", "work"),
            ("rust_shares::generic_mix", "generic_mix"),
            ("heavy_a.isra.0", "heavy_a"),
            ("[truncated stack]", "stack]"),
            ("", ""),
        ] {
            assert_eq!(plain_name(full), plain, "{full}");
        }
    }
}
