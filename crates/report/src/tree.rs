//! Writes the `tree` and `peek` reports: entries between their callers and callees.

use std::io::Write;

use crate::ReportError;
use crate::graph::{EdgeFilter, Edges, NodeId};
use crate::measure;
use crate::report::Report;

const SEPARATOR: &str = "----------------------------------------------------------+-------------";
const LEGEND: &str = "      flat  flat%   sum%        cum   cum%   calls calls% + context \t \t ";

impl Report<'_> {
    pub(crate) fn write_tree(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        let selection = self.select();
        let graph = &selection.graph;
        let mut rows: Vec<(NodeId, String)> =
            selection.shown.iter().map(|id| (*id, graph.node(*id).info.printable())).collect();
        if let Some(pattern) = &self.pattern {
            rows.retain(|(_, name)| pattern.is_match(name));
            if rows.is_empty() {
                return Err(ReportError::NoMatch { pattern: pattern.text().to_owned() });
            }
        }
        let mut wanted = vec![false; graph.nodes.len()];
        rows.iter().for_each(|(id, _)| wanted[*id as usize] = true);
        let kept = selection.kept.as_deref();
        let of = EdgeFilter { kept, callers_of: &wanted, callees_of: &wanted };
        let mut edges = Edges::new(&self.work, graph, self.value, &of);
        edges.trim(&selection.is_shown(), selection.edge_cutoff);

        let values = self.values_for(&selection);
        for line in self.header(&selection, &values) {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "{SEPARATOR}\n{LEGEND}")?;
        let mut sum = 0_i64;
        for (id, name) in rows {
            let node = graph.node(id);
            let write_calls = |out: &mut dyn Write, calls: Vec<(crate::graph::Edge, String)>| {
                calls.into_iter().try_for_each(|(edge, name)| {
                    let weight = values.label(edge.weight);
                    let share = measure::percentage(edge.weight, node.cum);
                    let inlined = if edge.is_inline { " (inline)" } else { "" };
                    writeln!(out, "{weight:>50} {share} |   {name}{inlined}")
                })
            };
            writeln!(out, "{SEPARATOR}")?;
            write_calls(out, edges.sorted_callers(graph, id))?;
            sum = sum.wrapping_add(node.flat);
            writeln!(
                out,
                "{:>10} {} {} {:>10} {}                | {name}",
                values.label(node.flat),
                values.percentage(node.flat),
                values.percentage(sum),
                values.label(node.cum),
                values.percentage(node.cum),
            )?;
            write_calls(out, edges.sorted_callees(graph, id))?;
        }
        if !selection.shown.is_empty() {
            writeln!(out, "{SEPARATOR}")?;
        }
        Ok(())
    }
}
