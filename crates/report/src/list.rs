//! Writes the `list` report: annotated source.

use std::collections::BTreeMap;
use std::io::Write;

use printable::Printable;

use crate::ReportError;
use crate::graph::{Graph, NodeId};
use crate::header::Values;
use crate::measure;
use crate::report::Report;
use crate::source::Sources;

/// The number of lines before the first and after the last line with samples.
const MARGIN: i64 = 5;

impl Report<'_> {
    pub(crate) fn write_list(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        let graph = Graph::new(&self.work, self.detail(), self.value);
        // By function, then by file.
        let mut functions: BTreeMap<&str, BTreeMap<&str, Vec<NodeId>>> = BTreeMap::new();
        let pattern = self.pattern.as_ref();
        for id in self.used(&graph) {
            let info = &graph.node(id).info;
            if pattern.is_none_or(|p| p.is_match(&info.name)) {
                let files = functions.entry(&info.name).or_default();
                files.entry(&info.file).or_default().push(id);
            }
        }
        if functions.is_empty() {
            let pattern = pattern.map_or_else(String::new, |p| p.text().to_owned());
            return Err(ReportError::NoMatch { pattern });
        }
        let values = self.values();
        writeln!(out, "Total: {}", values.label(values.total))?;
        let mut sources = Sources::new(&self.options.source_path, &self.options.trim_path);
        for (name, mut files) in functions {
            files.remove("");
            if files.is_empty() {
                writeln!(out, "No source information for {}", Printable(name))?;
            }
            for (file, ids) in files {
                write_routine(&graph, &values, (name, file), &ids, &mut sources, out)?;
            }
        }
        Ok(())
    }
}

fn write_routine(
    graph: &Graph,
    values: &Values<'_>,
    (name, file): (&str, &str),
    ids: &[NodeId],
    sources: &mut Sources,
    out: &mut dyn Write,
) -> Result<(), ReportError> {
    let cum = graph.cum_sum(ids);
    let shown = (Printable(name), Printable(file));
    writeln!(out, "ROUTINE ======================== {} in {}", shown.0, shown.1)?;
    writeln!(
        out,
        "{:>10} {:>10} (flat, cum) {} of Total",
        values.label(graph.flat_sum(ids)),
        values.label(cum),
        measure::percentage(cum, values.total)
    )?;
    let (first, last) = extent(graph, ids);
    let lines = match sources.lines(file, first > last) {
        Ok(lines) => lines,
        Err(reason) => return Ok(writeln!(out, " Error: {}", Printable(reason))?),
    };
    let mut weights: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for node in ids.iter().map(|id| graph.node(*id)) {
        let sum = weights.entry(node.info.line).or_default();
        *sum = (sum.0.wrapping_add(node.flat), sum.1.wrapping_add(node.cum));
    }
    for (number, line) in (1_i64..).zip(lines).skip_while(|(n, _)| *n < first) {
        if number > last {
            break;
        }
        let (flat, cum) = weights.get(&number).copied().unwrap_or_default();
        let (flat, cum) = (values.label_or_dot(flat), values.label_or_dot(cum));
        write!(out, "{flat:>10} {cum:>10} {number:>6}:")?;
        out.write_all(line)?;
        writeln!(out)?;
    }
    Ok(())
}

/// The first and the last line to show. Functions start at their first line if it is known.
fn extent(graph: &Graph, ids: &[NodeId]) -> (i64, i64) {
    let infos = ids.iter().map(|id| &graph.node(*id).info);
    let first = |i: &crate::graph::NodeInfo| match i.start_line {
        0 => i.line.saturating_sub(MARGIN),
        start => start,
    };
    let begin = infos.clone().map(first).min().unwrap_or(1).max(1);
    let end = infos.map(|i| i.line.saturating_add(MARGIN)).max().unwrap_or(0);
    (begin, end)
}
