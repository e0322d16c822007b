//! Top: one line for an entry.

use std::io::Write;

use crate::ReportError;
use crate::graph::{Edges, Wanted};
use crate::report::{Report, Selection};

impl Report<'_> {
    pub(crate) fn write_top(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        let selection = self.select();
        let values = self.values_for(&selection);
        for line in self.header(&selection, &values) {
            writeln!(out, "{line}")?;
        }
        let edges = self.calls_of_inlined(&selection);
        writeln!(out, "      flat  flat%   sum%        cum   cum%")?;
        let mut sum = 0_i64;
        for id in &selection.shown {
            let node = selection.graph.node(*id);
            sum = sum.wrapping_add(node.flat);
            let callers = edges.callers(*id);
            let inlined =
                match (callers.iter().any(|e| e.is_inline), callers.iter().any(|e| !e.is_inline)) {
                    (true, true) => " (partial-inline)",
                    (true, false) => " (inline)",
                    (false, _) => "",
                };
            writeln!(
                out,
                "{:>10} {} {} {:>10} {}  {}{inlined}",
                values.label(node.flat),
                values.percentage(node.flat),
                values.percentage(sum),
                values.label(node.cum),
                values.percentage(node.cum),
                node.info.printable(),
            )?;
        }
        Ok(())
    }

    /// The callers of entries that may be inlined. The calls of others make no difference, and
    /// there can be very many.
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
        let wanted = Wanted { kept, callers_of: &inlined, callees_of: &none };
        let mut edges = Edges::new(&self.work, graph, self.value, &wanted);
        edges.trim(graph, selection.edge_cutoff);
        edges
    }
}
