//! Writes the `traces` report: every sample with its labels and frames.

use std::io::Write;

use crate::ReportError;
use crate::graph::Graph;
use crate::labels::{Labels, Units};
use crate::report::Report;

const SEPARATOR: &str = "-----------+-------------------------------------------------------";

impl Report<'_> {
    pub(crate) fn write_traces(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        let values = self.values();
        for line in self.profile_header(&values) {
            writeln!(out, "{line}")?;
        }
        let graph = Graph::of_locations(&self.work, self.detail().with_long_paths());
        let names: Vec<String> = graph.nodes.iter().map(|n| n.info.printable()).collect();
        let units = Units::new(&self.work);
        for sample in self.work.samples() {
            let mut value = Some(sample.value(self.value));
            for location in self.work.stack(sample) {
                let ids = graph.at(location);
                for (nth, id) in ids.iter().enumerate() {
                    // The leaf's line has the value; the sample's labels come before it.
                    let label = match value.take() {
                        Some(value) => {
                            writeln!(out, "{SEPARATOR}")?;
                            for line in Labels::new(self.work.labels(sample)).lines(&units) {
                                writeln!(out, "{line}")?;
                            }
                            values.label(value)
                        }
                        None => String::new(),
                    };
                    let inlined = if nth + 1 < ids.len() { " (inline)" } else { "" };
                    writeln!(out, "{label:>10}   {}{inlined}", names[*id as usize])?;
                }
            }
        }
        writeln!(out, "{SEPARATOR}")?;
        Ok(())
    }
}
