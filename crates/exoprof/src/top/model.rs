//! Holds what `top` shows: the last seconds, and the chosen view, order and filter.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use collect::Interval;
use pprof::{LabelValue, Profile};
use printable::Printable;
use regex::{Regex, RegexBuilder};
use report::{Entry, FlameTree, Options, Report, Shape};

/// The seconds that are shown together: at 99 Hz, one second has too few samples.
const SHOWN: usize = 5;

/// The order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortOrder {
    Flat,
    Cum,
    Name,
}

/// What fills the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    Table,
    Flame { inverted: bool },
    Threads,
    Keys,
}

/// The state of the screen.
pub struct Model {
    target: String,
    frequency: u32,
    intervals: VecDeque<Interval>,
    samples: u64,
    lost: u64,
    /// The order of the table.
    pub order: SortOrder,
    /// What fills the screen.
    pub view: View,
    /// Rows or levels scrolled past.
    pub scroll: usize,
    /// The filter while it is typed.
    pub typing: Option<String>,
    filter: Option<Regex>,
    /// How an invalid filter was interpreted.
    pub complaint: Option<String>,
    /// The screen is frozen.
    pub paused: bool,
    picture: ViewData,
}

/// The last seconds, ready to be drawn.
#[derive(Default)]
pub struct ViewData {
    /// Functions.
    pub entries: Vec<Row>,
    /// Threads, the heaviest first, with their share of one CPU in per cent.
    pub threads: Vec<(String, f64)>,
    /// All calls, from the root and from the leaf.
    pub flame: [FlameTree; 2],
    /// CPUs in use.
    pub cpus: f64,
}

/// A function.
pub struct Row {
    /// The function.
    pub entry: Entry,
    /// Its share of all CPU time in per cent: flat and cumulative.
    pub share: (f64, f64),
}

impl Model {
    /// Creates a model without samples.
    pub fn new(target: String, frequency: u32) -> Self {
        Self {
            target,
            frequency,
            intervals: VecDeque::new(),
            samples: 0,
            lost: 0,
            order: SortOrder::Flat,
            view: View::Table,
            scroll: 0,
            typing: None,
            filter: None,
            complaint: None,
            paused: false,
            picture: ViewData::default(),
        }
    }

    /// The sampling rate.
    pub const fn frequency(&self) -> u32 {
        self.frequency
    }

    /// The last seconds.
    pub const fn picture(&self) -> &ViewData {
        &self.picture
    }

    /// Adds an interval.
    pub fn add(&mut self, interval: Interval) {
        self.samples += interval.samples;
        self.lost += interval.lost;
        self.intervals.push_back(interval);
        if self.intervals.len() > SHOWN {
            self.intervals.pop_front();
        }
        if !self.paused {
            self.picture = self.drawn();
        }
    }

    fn drawn(&self) -> ViewData {
        let elapsed: Duration = self.intervals.iter().map(|i| i.elapsed).sum();
        let cpu: Duration = self.intervals.iter().map(|i| i.cpu).sum();
        let seconds = elapsed.as_secs_f64().max(0.001);
        let cpus = cpu.as_secs_f64() / seconds;
        let profiles: Vec<Profile> = self.intervals.iter().map(|i| i.profile.clone()).collect();
        let Ok(profile) = report::combine(profiles, Vec::new()) else {
            return ViewData { cpus, ..ViewData::default() };
        };
        let options = Options { node_fraction: 0.0, ..Options::default() };
        // Our profiles have sample types, and the options hold no regular expression.
        let Ok(report) = Report::new(&profile, options) else { return ViewData::default() };
        let total = report.total().max(1) as f64;
        let row = |entry: Entry| {
            let share = |value: i64| value as f64 * 100.0 / total;
            Row { share: (share(entry.flat), share(entry.cum)), entry }
        };
        let shape = |inverted| Shape { inverted, max_nodes: 5_000, ..Shape::default() };
        ViewData {
            entries: report.table().entries.into_iter().map(row).collect(),
            threads: threads(&profile, seconds),
            flame: [false, true].map(|inverted| match self.view {
                // Only the current view is computed.
                View::Flame { .. } => report.flame(&shape(inverted)),
                _ => FlameTree::default(),
            }),
            cpus,
        }
    }

    /// Switches to another view.
    pub fn show(&mut self, view: View) {
        self.view = view;
        self.scroll = 0;
        self.picture = self.drawn();
    }

    /// The rows of the table that match the filter, in order.
    pub fn rows(&self) -> Vec<&Row> {
        let matches = |row: &&Row| self.filter.as_ref().is_none_or(|f| f.is_match(&row.entry.name));
        let mut rows: Vec<&Row> = self.picture.entries.iter().filter(matches).collect();
        match self.order {
            // Reports are sorted this way already.
            SortOrder::Flat => {}
            SortOrder::Cum => rows.sort_by_key(|r| std::cmp::Reverse(r.entry.cum)),
            SortOrder::Name => rows.sort_by(|a, b| a.entry.name.cmp(&b.entry.name)),
        }
        rows
    }

    /// The filter, as it was typed.
    pub fn filter(&self) -> Option<&str> {
        self.filter.as_ref().map(Regex::as_str)
    }

    /// Sets the filter; an empty text clears it. An invalid expression is matched as plain text.
    pub fn set_filter(&mut self, text: &str) {
        let regex =
            |text: &str| RegexBuilder::new(text).case_insensitive(true).size_limit(1 << 20).build();
        self.scroll = 0;
        self.complaint = None;
        self.filter = match text {
            "" => None,
            text => regex(text)
                .inspect_err(|_| {
                    self.complaint =
                        Some("invalid regular expression, matching as plain text".to_owned())
                })
                .or_else(|_| regex(&regex::escape(text)))
                .ok(),
        };
    }

    /// The line at the top.
    pub fn headline(&self) -> String {
        let last = self.intervals.back();
        let rate = |i: &Interval| i.samples as f64 / i.elapsed.as_secs_f64().max(0.001);
        let threads = last.map_or(0, |i| i.threads);
        format!(
            "{}   {:.2} CPUs   {threads} {}   {:.0} samples/s at {} Hz   {} lost{}",
            Printable(&self.target),
            self.picture.cpus,
            if threads == 1 { "thread" } else { "threads" },
            last.map_or(0.0, rate),
            self.frequency,
            self.lost,
            if self.paused { "   PAUSED" } else { "" },
        )
    }

    /// The number of samples so far.
    pub const fn samples(&self) -> u64 {
        self.samples
    }
}

/// Each thread's share of one CPU in per cent, by name and id.
fn threads(profile: &Profile, seconds: f64) -> Vec<(String, f64)> {
    let mut used: BTreeMap<String, i64> = BTreeMap::new();
    for sample in &profile.samples {
        let text = |key: &str| {
            let label = sample.labels.iter().find(|l| &*l.key == key)?;
            match &label.value {
                LabelValue::Text(text) => Some(text.to_string()),
                LabelValue::Number { .. } => None,
            }
        };
        let (name, id) = (text("thread").unwrap_or_default(), text("thread_id"));
        let sum = used.entry(format!("{:>8}  {name}", id.unwrap_or_default())).or_default();
        *sum += sample.values.get(1).copied().unwrap_or(0);
    }
    let mut threads: Vec<(String, f64)> =
        used.into_iter().map(|(name, ns)| (name, ns as f64 / 1e7 / seconds)).collect();
    threads.sort_by(|a, b| b.1.total_cmp(&a.1));
    threads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(functions: &[(&str, i64)]) -> Interval {
        let types = ["samples", "cpu"].map(|kind| pprof::ValueType::new(kind, "nanoseconds"));
        let mut b = pprof::ProfileBuilder::new(types.to_vec());
        b.set_period(pprof::ValueType::new("cpu", "nanoseconds"), 1);
        let mapping = b.mapping(pprof::MappingSpec { limit: 9, ..Default::default() }).unwrap();
        for (name, ns) in functions {
            let spec = pprof::FunctionSpec { name, ..Default::default() };
            let line = pprof::Line::new(b.function(spec).unwrap(), 0);
            let location = b.location(mapping, 1, &[line]).unwrap();
            let labels = [("thread", "io"), ("thread_id", "7")];
            let labels = labels.map(|(k, v)| pprof::Label::text(k, v));
            b.add_sample(&[location], &[1, *ns], &labels).unwrap();
        }
        let (samples, lost, threads) = (functions.len() as u64, 1, 3);
        let elapsed = Duration::from_secs(1);
        let cpu = Duration::from_nanos(functions.iter().map(|f| f.1 as u64).sum());
        Interval { profile: b.finish(), elapsed, cpu, samples, lost, threads }
    }

    fn names(model: &Model) -> Vec<&str> {
        model.rows().iter().map(|r| &*r.entry.name).collect()
    }

    #[test]
    fn rows_are_of_the_last_seconds() {
        let mut model = Model::new("x".into(), 99);
        model.add(interval(&[("old", 900_000_000)]));
        for _ in 0..SHOWN {
            model.add(interval(&[("b", 300_000_000), ("Alpha(int)", 100_000_000)]));
        }
        assert_eq!(names(&model), ["b", "Alpha(int)"]);
        assert!((model.rows()[0].share.0 - 75.0).abs() < 0.01);
        assert!((model.picture().cpus - 0.4).abs() < 0.001);
        let [(thread, percent)] = &*model.picture().threads else { panic!() };
        assert_eq!(thread.trim(), "7  io");
        assert!((percent - 40.0).abs() < 0.01);
        assert!(model.headline().contains("3 threads   2 samples/s at 99 Hz   6 lost"));
    }

    #[test]
    fn filters_and_orders() {
        let mut model = Model::new("x".into(), 99);
        model.add(interval(&[("b", 3), ("Alpha(int)", 1), ("c", 2)]));
        model.order = SortOrder::Name;
        assert_eq!(names(&model), ["Alpha(int)", "b", "c"]);
        model.set_filter("^alpha|c$");
        assert_eq!(names(&model), ["Alpha(int)", "c"]);
        model.set_filter("a(");
        assert_eq!(names(&model), ["Alpha(int)"]);
        assert!(model.complaint.is_some());
        model.set_filter("");
        assert_eq!(names(&model).len(), 3);
    }

    #[test]
    fn a_pause_keeps_the_picture() {
        let mut model = Model::new("x".into(), 99);
        model.add(interval(&[("a", 3)]));
        model.paused = true;
        model.add(interval(&[("b", 30)]));
        assert_eq!(names(&model), ["a"]);
    }
}
