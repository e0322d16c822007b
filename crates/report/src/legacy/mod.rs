//! Writes profiles in the text form of Go's runtime/pprof with `debug=1`, which pprof still reads:
//! <https://github.com/google/pprof/blob/main/profile/legacy_profile.go>.

mod tabs;

use std::fmt::Write as _;

use pprof::{KindFacts, LabelValue, Location, Profile, SampleRef, TextForm};
use printable::Printable;

use crate::go;

/// Why a profile has no text form.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// The kind has no text form, or the profile lacks its sample types.
    #[error("profiles of {0} have no text form; omit debug=")]
    NoForm(String),
}

/// Maps an address to the start of its function, which profiles don't have. Without it, the offset
/// in the function is omitted.
pub type FunctionStartLookup<'a> = &'a dyn Fn(u64) -> Option<u64>;

/// Writes a profile in the text form of its kind.
///
/// # Errors
/// When the kind has no text form, or the profile lacks the types that its form needs.
pub fn legacy_text(
    profile: &Profile,
    kind: &KindFacts,
    starts: FunctionStartLookup<'_>,
) -> Result<String, LegacyError> {
    let stacks = Stacks { profile, starts };
    let types: Vec<_> = profile.sample_types.iter().map(ToString::to_string).collect();
    let none = || LegacyError::NoForm(types.join(", "));
    let index = |kind| profile.sample_type_index(kind).ok_or_else(none);
    let mut out = String::new();
    match kind.text {
        TextForm::None => return Err(none()),
        TextForm::Heap => {
            let (inuse_n, inuse) = (index("inuse_objects")?, index("inuse_space")?);
            let (alloc_n, alloc) = (index("alloc_objects")?, index("alloc_space")?);
            heap_text(&stacks, [inuse_n, inuse, alloc_n, alloc], &mut out);
        }
        TextForm::Contentions { title, sampling_period } => {
            // Delays are in nanoseconds, so a "cycle" is one. Values are already scaled.
            let _ = writeln!(out, "--- {title}:\ncycles/second=1000000000");
            if sampling_period {
                out.push_str("sampling period=1\n");
            }
            contention_text(&stacks, index("contentions")?, index("delay")?, &mut out);
        }
        TextForm::Count if profile.sample_types.len() != 1 => return Err(none()),
        TextForm::Count => count_text(&stacks, kind.name, &mut out),
    }
    for comment in profile.comments.iter().filter(|c| !c.is_empty()) {
        let _ = writeln!(out, "# {}", Printable(comment));
    }
    Ok(out)
}

/// Sampled objects and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Objects {
    count: i64,
    bytes: i64,
}

impl Objects {
    /// The sampled objects for the estimates `count` and `bytes`: an object of `size` bytes is
    /// sampled with probability 1 − e^(−size/rate). Without `size`, the mean size is used, which is
    /// less exact because the estimates are rounded.
    fn sampled(count: i64, bytes: i64, size: Option<i64>, rate: i64) -> Self {
        if rate <= 1 || count <= 0 || bytes <= 0 {
            return Self { count, bytes };
        }
        let size = size.map_or(bytes as f64 / count as f64, |size| size as f64);
        let probability = -(-size / rate as f64).exp_m1();
        let sampled = (count as f64 * probability).round().max(1.0);
        let whole = go::truncated;
        Self { count: whole(sampled), bytes: whole((sampled * size).round()) }
    }

    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// Readers scale the values by the rate in the first line, so the text must have unscaled ones.
fn heap_text(stacks: &Stacks<'_>, [inuse_n, inuse, alloc_n, alloc]: [usize; 4], out: &mut String) {
    let profile = stacks.profile;
    let rate = if &*profile.period_type.kind == "space" { profile.period } else { 1 };
    let mut rows = Vec::new();
    let mut total = (Objects::default(), Objects::default());
    for sample in profile.samples.iter() {
        let v = sample.values;
        let size = object_size(&sample);
        let live = Objects::sampled(v[inuse_n], v[inuse], size, rate);
        let all = Objects::sampled(v[alloc_n], v[alloc], size, rate);
        total.0.add(live);
        total.1.add(all);
        rows.push((live, all, sample));
    }
    rows.sort_by_key(|(live, ..)| live.bytes);
    // If both are equal, readers ignore the allocated objects.
    if total.0.bytes == total.1.bytes {
        // Not beyond the largest number.
        total.1.bytes = total.1.bytes.checked_add(1).unwrap_or(i64::MAX - 1);
    }
    let _ = writeln!(
        out,
        "heap profile: {}: {} [{}: {}] @ heap/{}",
        total.0.count,
        total.0.bytes,
        total.1.count,
        total.1.bytes,
        rate.saturating_mul(2)
    );
    for (live, all, sample) in rows {
        let _ = write!(out, "{}: {} [{}: {}] @", live.count, live.bytes, all.count, all.bytes);
        stacks.addresses(&sample, out);
        out.push('\n');
        stacks.frames(&sample, false, out);
    }
}

/// The label `bytes` of heap samples, which is the size of each of their objects.
fn object_size(sample: &SampleRef<'_>) -> Option<i64> {
    sample.labels.iter().find_map(|label| match label.value {
        LabelValue::Number { value, .. } if &*label.key == "bytes" && value > 0 => Some(value),
        _ => None,
    })
}

fn contention_text(stacks: &Stacks<'_>, count: usize, delay: usize, out: &mut String) {
    let mut rows: Vec<_> = stacks.profile.samples.iter().collect();
    rows.sort_by_key(|sample| std::cmp::Reverse(sample.values[delay]));
    for sample in rows {
        let _ = write!(out, "{} {} @", sample.values[delay], sample.values[count]);
        stacks.addresses(&sample, out);
        out.push('\n');
        stacks.frames(&sample, true, out);
    }
}

fn count_text(stacks: &Stacks<'_>, name: &str, out: &mut String) {
    let mut total = 0i64;
    let mut rows = Vec::new();
    for sample in stacks.profile.samples.iter() {
        total = total.saturating_add(sample.values[0]);
        let mut key = String::from("@");
        stacks.addresses(&sample, &mut key);
        labels(&sample, &mut key);
        rows.push((sample.values[0], key, sample));
    }
    rows.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let _ = writeln!(out, "{name} profile: total {total}");
    for (count, key, sample) in rows {
        let _ = writeln!(out, "{count} {key}");
        stacks.frames(&sample, false, out);
    }
}

fn labels(sample: &SampleRef<'_>, out: &mut String) {
    let mut texts: Vec<(&str, &str)> = Vec::new();
    for label in sample.labels {
        if let LabelValue::Text(value) = &label.value {
            texts.push((&label.key, value));
        }
    }
    if texts.is_empty() {
        return;
    }
    texts.sort_unstable();
    let quoted: Vec<_> = texts.iter().map(|(k, v)| format!("{k:?}:{v:?}")).collect();
    let _ = write!(out, "\n# labels: {{{}}}", quoted.join(", "));
}

/// Writes stacks.
struct Stacks<'a> {
    profile: &'a Profile,
    starts: FunctionStartLookup<'a>,
}

impl Stacks<'_> {
    fn located<'s>(&'s self, sample: &SampleRef<'s>) -> impl Iterator<Item = &'s Location> {
        sample.locations.iter().map(|index| &self.profile[*index])
    }

    /// Writes return addresses: call addresses, which profiles have, plus 1.
    fn addresses(&self, sample: &SampleRef<'_>, out: &mut String) {
        for location in self.located(sample) {
            let _ = write!(out, " {:#x}", location.address.wrapping_add(1));
        }
    }

    /// Writes the symbolized frames. `all` includes the innermost functions of Go's runtime.
    fn frames(&self, sample: &SampleRef<'_>, all: bool, out: &mut String) {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut show = all;
        for location in self.located(sample) {
            let address = format!("{:#x}", location.address);
            let known: Vec<_> =
                location.lines.iter().filter_map(|l| Some((l, l.function?))).collect();
            if known.is_empty() {
                show = true;
                rows.push(vec!["#".into(), address.clone()]);
            }
            for (line, function) in known {
                let function = &self.profile[function];
                let name = &*function.name;
                let is_runtime =
                    name.starts_with("runtime.") || name.starts_with("internal/runtime/");
                if name == "runtime.goexit" || (!show && is_runtime) {
                    continue;
                }
                show = true;
                // As in Go, offsets of inlined calls are relative to the physical function.
                let into = (self.starts)(location.address)
                    .and_then(|start| location.address.checked_sub(start));
                let into = into.map(|into| format!("+{into:#x}")).unwrap_or_default();
                let place = format!("{}:{}", Printable(&function.filename), line.line);
                rows.push(vec![
                    "#".into(),
                    address.clone(),
                    printable::line(name).into_owned() + &into,
                    place,
                ]);
            }
        }
        if !show && !all {
            return self.frames(sample, true, out);
        }
        tabs::align(&rows, out);
        out.push('\n');
    }
}
