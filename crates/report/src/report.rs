//! Prepares a report: filters the profile, selects entries, formats headers.

use std::io::Write;

use pprof::Profile;
use printable::SafeWriter;

use crate::graph::{Detail, Graph, NodeId, magnitude};
use crate::header::{self, Shown, Values};
use crate::measure;
use crate::regexp::Pattern;
use crate::work::FilteredProfile;
use crate::{Form, Granularity, Options, ReportError, filter, go, prune, samplevalue};

/// A report over a profile.
pub struct Report<'p> {
    pub(crate) work: FilteredProfile<'p>,
    pub(crate) options: Options,
    /// The reported sample type.
    pub(crate) value: usize,
    total: i64,
    /// The expression of peek and list.
    pub(crate) pattern: Option<Pattern>,
    warnings: Vec<String>,
}

/// The entries that top and tree show.
pub(crate) struct Selection {
    pub(crate) graph: Graph,
    /// The shown entries, in order.
    pub(crate) shown: Vec<NodeId>,
    /// Whether each entry is part of the graph; `None` if all are.
    pub(crate) kept: Option<Vec<bool>>,
    /// Calls below this weight are dropped.
    pub(crate) edge_cutoff: i64,
    before_limit: usize,
    dropped: usize,
    node_fraction: f64,
}

impl Selection {
    /// Whether each entry is shown.
    pub(crate) fn is_shown(&self) -> Vec<bool> {
        let mut is_shown = vec![false; self.graph.nodes.len()];
        self.shown.iter().for_each(|id| is_shown[*id as usize] = true);
        is_shown
    }
}

impl<'p> Report<'p> {
    /// Prepares a report.
    ///
    /// # Errors
    /// When the profile has no such sample type, or an expression is invalid.
    pub fn new(profile: &'p Profile, options: Options) -> Result<Self, ReportError> {
        let value = samplevalue::index(profile, options.sample_index.as_deref())?;
        let pattern = match &options.form {
            Form::Peek(text) => Some(Pattern::new("peek", text)?),
            Form::List(text) => Some(Pattern::new("list", text)?),
            _ => None,
        };
        let mut work = FilteredProfile::new(profile);
        work.trim_path.clone_from(&options.trim_path);
        prune::apply(&mut work);
        // By default, percentages are of the unfiltered total.
        let whole = samplevalue::total(&work, value);
        let warnings = filter::apply(&mut work, &options.filters)?;
        let total = if options.relative { samplevalue::total(&work, value) } else { whole };
        if options.no_inlines {
            work.drop_inlined();
        }
        Ok(Self { work, options, value, total, pattern, warnings })
    }

    /// Warnings for the user, such as filters that match nothing.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Writes the report.
    ///
    /// # Errors
    /// When writing fails, or peek or list match nothing.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        // Source files and invalid UTF-8 too must not control a terminal.
        let out = &mut SafeWriter(out);
        match &self.options.form {
            Form::Top => self.write_top(out),
            Form::Tree | Form::Peek(_) => self.write_tree(out),
            Form::List(_) => self.write_list(out),
            Form::Traces => self.write_traces(out),
            Form::Raw => self.write_raw(out),
            Form::Collapsed => self.write_collapsed(out),
            Form::Tags => self.write_tags(out),
            Form::Comments => self.write_comments(out),
        }
    }

    /// The properties that distinguish entries of this report.
    pub(crate) const fn detail(&self) -> Detail {
        match self.options.form {
            Form::List(_) => Detail::of_source(self.options.columns),
            Form::Raw => Detail::of(Granularity::Addresses, false),
            _ if self.drops_columns() => {
                Detail::of(self.options.granularity, false).without_columns()
            }
            _ => Detail::of(self.options.granularity, self.options.columns),
        }
    }

    /// As in pprof, dropping inlined calls also drops columns, unless columns are requested.
    pub(crate) const fn drops_columns(&self) -> bool {
        self.options.no_inlines && !self.options.columns
    }

    /// The entries of a graph with a weight to show.
    pub(crate) fn used(&self, graph: &Graph) -> Vec<NodeId> {
        let mut used = graph.used();
        if self.options.drop_negative {
            used.retain(|id| {
                let node = graph.node(*id);
                node.flat > 0 || (node.flat == 0 && node.cum >= 0)
            });
        }
        used
    }

    /// The lines about the profile.
    #[must_use]
    pub fn about(&self) -> Vec<String> {
        self.profile_header(&self.values())
    }

    /// The value of 100 %.
    #[must_use]
    pub const fn total(&self) -> i64 {
        self.total
    }

    /// The entries to show: those above the cutoff, in order, up to the limit.
    pub(crate) fn select(&self) -> Selection {
        let graph = Graph::new(&self.work, self.detail(), self.value);
        let mut shown = self.used(&graph);
        let options = &self.options;
        let trims = options.form.trims() && options.trim;
        let fraction = |f: f64| if trims { f } else { 0.0 };
        let total = graph.flat_sum(&shown) as f64;
        let node_fraction = fraction(options.node_fraction);
        let cutoff = go::integer(total * node_fraction).wrapping_abs();
        let edge_cutoff = go::integer(total * fraction(options.edge_fraction)).wrapping_abs();
        let limit = match options.node_count.unwrap_or(options.form.default_count()) {
            0 => usize::MAX,
            _ if !trims => usize::MAX,
            limit => limit,
        };

        let used = shown.len();
        if cutoff > 0 {
            shown.retain(|id| magnitude(graph.node(*id).cum) >= cutoff);
        }
        let before_limit = shown.len();
        graph.sort(&mut shown, options.cum);
        shown.truncate(limit);
        let kept = (shown.len() < used).then(|| {
            let mut kept = vec![false; graph.nodes.len()];
            shown.iter().for_each(|id| kept[*id as usize] = true);
            kept
        });
        let dropped = used - before_limit;
        Selection { graph, shown, kept, edge_cutoff, before_limit, dropped, node_fraction }
    }

    /// Values in the requested unit, or each in the unit that fits it.
    pub(crate) fn values(&self) -> Values<'_> {
        let unit = self.options.unit.as_deref().unwrap_or("minimum");
        let ratio = 1.0 / self.options.divide_by;
        Values { total: self.total, unit: self.unit(), shown_in: unit.to_owned(), ratio }
    }

    /// Values in the requested unit, or in one that fits all shown entries.
    pub(crate) fn values_for(&self, selection: &Selection) -> Values<'_> {
        let mut values = self.values();
        if values.shown_in != "minimum" || selection.shown.is_empty() {
            return values;
        }
        let weights = selection.shown.iter().map(|id| {
            let node = selection.graph.node(*id);
            magnitude(if node.flat == 0 { node.cum } else { node.flat })
        });
        let smallest = weights.filter(|w| *w > 0).min().unwrap_or(self.total);
        let (smallest, largest) = (values.divided(smallest), values.divided(self.total));
        let unit = |value: i64| measure::scale(value, self.unit(), "minimum").1;
        let mut chosen = unit(smallest);
        if chosen != unit(largest) && smallest.wrapping_mul(100) < largest {
            // Two decimals can show a hundredth.
            chosen = unit(smallest.wrapping_mul(100));
        }
        values.shown_in =
            if chosen.is_empty() { self.unit().to_owned() } else { chosen.into_owned() };
        values
    }

    /// The lines above top and tree.
    pub(crate) fn header(&self, selection: &Selection, values: &Values<'_>) -> Vec<String> {
        let mut lines = match self.options.compact {
            true => Vec::new(),
            false => self.profile_header(values),
        };
        let shown = Shown {
            flat: selection.graph.flat_sum(&selection.shown),
            nodes: selection.shown.len(),
            nodes_before_limit: selection.before_limit,
            dropped: selection.dropped,
            node_fraction: selection.node_fraction,
        };
        lines.extend(header::of_selection(&self.options.filters.described(), &shown, values));
        lines
    }

    /// The lines about the profile.
    pub(crate) fn profile_header(&self, values: &Values<'_>) -> Vec<String> {
        let sample_type = &self.work.profile.sample_types[self.value].kind;
        header::of_profile(self.work.profile, sample_type, values)
    }

    /// The name of the main binary.
    pub(crate) fn main_name(&self) -> String {
        let main = self.work.profile.mappings.first().map_or("", |m| &*m.file);
        if main.is_empty() { "profile" } else { crate::go::base(main) }.to_owned()
    }

    /// The title: the process and the sample type.
    #[must_use]
    pub fn title(&self) -> String {
        let name = self.process_name().map_or_else(|| self.main_name(), str::to_owned);
        let title = format!("{name} {}", self.work.profile.sample_types[self.value].kind);
        printable::line(&title).into_owned()
    }

    /// The name of the process if all samples have the same, which may differ from the binary's name.
    fn process_name(&self) -> Option<&'p str> {
        let mut names = self.work.samples().map(|sample| {
            let label = self.work.labels(sample).find(|l| &*l.key == "process");
            match label.map(|l| &l.value) {
                Some(pprof::LabelValue::Text(text)) if !text.is_empty() => Some(&**text),
                _ => None,
            }
        });
        let first = names.next().flatten()?;
        names.all(|name| name == Some(first)).then_some(first)
    }

    /// The unit of the values.
    pub(crate) fn unit(&self) -> &'p str {
        &self.work.profile.sample_types[self.value].unit
    }
}
