//! Writes the `top` report: one line per entry.

use std::io::Write;

use crate::ReportError;
use crate::graph::{EdgeFilter, Edges, NodeId};
use crate::header::Values;
use crate::report::{Report, Selection};

/// A line of [`Form::Top`](crate::Form::Top).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// Whether it is inlined into its callers.
    pub inlined: Inlined,
    /// The weight of the entry itself.
    pub flat: i64,
    /// The weight of the entry and its callees.
    pub cum: i64,
}

/// Whether an entry is inlined into its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inlined {
    /// Nowhere.
    No,
    /// Into some.
    Partly,
    /// Into all.
    Everywhere,
}

impl Inlined {
    /// The text in reports.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::No => "",
            Self::Partly => "(partial-inline)",
            Self::Everywhere => "(inline)",
        }
    }
}

/// All lines of [`Form::Top`](crate::Form::Top), with its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The lines above the entries.
    pub header: Vec<String>,
    /// The entries, in order.
    pub entries: Vec<Entry>,
    /// The unit that fits all values.
    pub unit: String,
}

impl Report<'_> {
    /// The content of [`Form::Top`](crate::Form::Top).
    #[must_use]
    pub fn table(&self) -> Table {
        let selection = self.select();
        let values = self.values_for(&selection);
        let header = self.header(&selection, &values);
        let edges = self.calls_of_inlined(&selection);
        let entry = |id: &NodeId| {
            let node = selection.graph.node(*id);
            let callers = edges.callers(*id);
            let (some, others) =
                (callers.iter().any(|e| e.is_inline), callers.iter().any(|e| !e.is_inline));
            let inlined = match (some, others) {
                (true, true) => Inlined::Partly,
                (true, false) => Inlined::Everywhere,
                (false, _) => Inlined::No,
            };
            Entry { name: node.info.printable(), inlined, flat: node.flat, cum: node.cum }
        };
        let entries = selection.shown.iter().map(entry).collect();
        Table { header, entries, unit: values.shown_in }
    }

    /// Formats a value in a unit.
    #[must_use]
    pub fn label(&self, value: i64, unit: &str) -> String {
        Values { shown_in: unit.to_owned(), ..self.values() }.label(value)
    }

    /// Formats a value as a percentage of the total.
    #[must_use]
    pub fn percentage(&self, value: i64) -> String {
        self.values().percentage(value)
    }

    pub(crate) fn write_top(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        let Table { header, entries, unit } = self.table();
        for line in header {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "      flat  flat%   sum%        cum   cum%")?;
        let values = Values { shown_in: unit, ..self.values() };
        let mut sum = 0_i64;
        for entry in &entries {
            sum = sum.wrapping_add(entry.flat);
            let space = if entry.inlined == Inlined::No { "" } else { " " };
            writeln!(
                out,
                "{:>10} {} {} {:>10} {}  {}{space}{}",
                values.label(entry.flat),
                values.percentage(entry.flat),
                values.percentage(sum),
                values.label(entry.cum),
                values.percentage(entry.cum),
                entry.name,
                entry.inlined.label(),
            )?;
        }
        Ok(())
    }

    /// The callers of entries that may be inlined. The calls of other entries don't matter, and there
    /// may be very many.
    fn calls_of_inlined(&self, selection: &Selection) -> Edges {
        let graph = &selection.graph;
        let mut inlined = vec![false; graph.nodes.len()];
        for id in &selection.shown {
            inlined[*id as usize] = graph.node(*id).may_be_inline;
        }
        if !inlined.contains(&true) {
            return Edges::default();
        }
        let none = vec![false; graph.nodes.len()];
        let kept = selection.kept.as_deref();
        let wanted = EdgeFilter { kept, callers_of: &inlined, callees_of: &none };
        let mut edges = Edges::new(&self.work, graph, self.value, &wanted);
        edges.trim(&selection.is_shown(), selection.edge_cutoff);
        edges
    }
}
