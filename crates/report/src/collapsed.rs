//! Writes collapsed stacks, for flame graph tools.

use std::collections::BTreeMap;
use std::io::Write;

use crate::ReportError;
use crate::graph::{Graph, NodeId};
use crate::report::Report;

impl Report<'_> {
    pub(crate) fn write_collapsed(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        let graph = Graph::of_locations(&self.work, self.detail());
        let mut stacks: BTreeMap<Vec<NodeId>, i64> = BTreeMap::new();
        let mut stack = Vec::new();
        for sample in self.work.samples() {
            let weight = sample.value(self.value);
            stack.clear();
            stack.extend(graph.frames_from_root(sample).map(|(id, _)| id));
            match stacks.get_mut(&stack) {
                Some(sum) => *sum = sum.wrapping_add(weight),
                None => drop(stacks.insert(stack.clone(), weight)),
            }
        }
        let names: Vec<String> = graph.nodes.iter().map(|n| name(&n.info.printable())).collect();
        let mut lines: Vec<(String, i64)> = Vec::new();
        for (stack, sum) in stacks.into_iter().filter(|(stack, sum)| *sum != 0 && !stack.is_empty())
        {
            let frames: Vec<&str> = stack.iter().map(|id| &*names[*id as usize]).collect();
            lines.push((frames.join(";"), sum));
        }
        lines.sort_unstable();
        for (stack, sum) in lines {
            writeln!(out, "{stack} {sum}")?;
        }
        Ok(())
    }
}

/// A name without the character that separates frames.
fn name(text: &str) -> String {
    text.replace(';', ":")
}
