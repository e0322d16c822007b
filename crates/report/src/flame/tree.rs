//! Builds the tree of a flame graph.
//!
//! Stacks are sorted once. Then each node is a range of adjacent stacks, its weight is the difference
//! of two running sums, and its children are found by binary search. So the cost depends on the shown
//! calls only, although a profile of half a million stacks has tens of millions of calls.

use pprof::LabelValue;

use crate::graph::{Graph, magnitude};
use crate::labels::is_base;
use crate::report::Report;
use crate::work::FilteredProfile;

/// Calls narrower than one of this many columns are merged. No screen has a tenth as many.
const COLUMNS: u64 = 20_000;

/// The shape of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Leaves at the top level, callers below their callees.
    pub inverted: bool,
    /// The key of a label to group stacks by, such as `thread`.
    pub by: Option<String>,
    /// The most nodes: the lightest calls are merged until the tree fits. 0 for all visible ones.
    pub max_nodes: usize,
}

/// A call, in the context of all its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlameNode {
    /// Position in [`FlameTree::names`].
    pub name: u32,
    /// The number of callers; 0 at the top level.
    pub depth: u32,
    /// The weight of the call and its callees: the sum of absolute values, with a diff's base.
    pub weight: u64,
    /// The diff base's part of `weight`.
    pub base: u64,
}

/// All calls, each before its callees, heavier callees first.
#[derive(Debug, Clone, Default)]
pub struct FlameTree {
    /// The names of entries.
    pub names: Vec<String>,
    /// The calls.
    pub nodes: Vec<FlameNode>,
    /// The weight of all stacks.
    pub total: u64,
    /// The diff base's part of `total`.
    pub base: u64,
}

impl Report<'_> {
    /// The tree of a flame graph.
    #[must_use]
    pub fn flame(&self, shape: &Shape) -> FlameTree {
        let (mut names, stacks) = Stacks::new(&self.work, self.detail(), self.value, shape);
        let merged = u32::try_from(names.len()).unwrap_or(u32::MAX);
        names.push("(lighter calls)".to_owned());
        let (total, base) = stacks.weight(0, stacks.order.len());
        let mut lightest = (total / COLUMNS).max(1);
        let nodes = loop {
            match stacks.nodes(lightest, merged, shape.max_nodes) {
                Some(nodes) => break nodes,
                None => lightest = lightest.saturating_mul(2),
            }
        };
        FlameTree { names, nodes, total, base }
    }
}

/// All stacks, sorted by their frames.
struct Stacks {
    /// The frames of all stacks, from the root of the tree.
    frames: Vec<u32>,
    /// The start of each stack's frames, and the end of the last.
    begins: Vec<usize>,
    /// The stacks, sorted.
    order: Vec<u32>,
    /// For each position in `order`, the weight of all previous stacks and the base's part of it.
    sums: Vec<(u64, u64)>,
}

/// A node whose callees are not in the result yet.
struct Open {
    first: usize,
    last: usize,
    depth: usize,
    node: FlameNode,
}

impl Stacks {
    fn new(
        work: &FilteredProfile<'_>,
        detail: crate::graph::Detail,
        value: usize,
        shape: &Shape,
    ) -> (Vec<String>, Self) {
        let graph = Graph::of_locations(work, detail);
        let mut names: Vec<String> = graph.nodes.iter().map(|n| n.info.printable()).collect();
        let mut groups = Groups::default();
        let (mut frames, mut begins, mut weights) = (Vec::new(), vec![0], Vec::new());
        for sample in work.samples() {
            let weight = sample.value(value);
            let begin = frames.len();
            if let Some(key) = &shape.by {
                frames.push(groups.of(key, sample.labels, &mut names));
            }
            let inner = frames.len();
            frames.extend(graph.frames_from_root(sample).map(|(id, _)| id));
            if weight == 0 || frames.len() == inner {
                frames.truncate(begin);
                continue;
            }
            if shape.inverted {
                frames[inner..].reverse();
            }
            begins.push(frames.len());
            weights.push((magnitude(weight).unsigned_abs(), sample.labels.iter().any(is_base)));
        }
        let count = u32::try_from(weights.len()).unwrap_or(u32::MAX);
        let mut stacks = Self { frames, begins, order: (0..count).collect(), sums: Vec::new() };
        let mut order = std::mem::take(&mut stacks.order);
        order.sort_unstable_by(|a, b| stacks.frames(*a).cmp(stacks.frames(*b)));
        stacks.order = order;
        let mut sum = (0_u64, 0_u64);
        stacks.sums.push(sum);
        for at in &stacks.order {
            let (weight, is_base) = weights[*at as usize];
            let base = if is_base { weight } else { 0 };
            sum = (sum.0.saturating_add(weight), sum.1.saturating_add(base));
            stacks.sums.push(sum);
        }
        (names, stacks)
    }

    fn frames(&self, stack: u32) -> &[u32] {
        let at = stack as usize;
        &self.frames[self.begins[at]..self.begins[at + 1]]
    }

    /// The frame at a depth of the stack at a position in the order. Shorter stacks sort before
    /// longer ones with the same frames.
    fn frame(&self, position: usize, depth: usize) -> Option<u32> {
        self.frames(self.order[position]).get(depth).copied()
    }

    fn weight(&self, first: usize, last: usize) -> (u64, u64) {
        let (from, to) = (self.sums[first], self.sums[last]);
        (to.0 - from.0, to.1 - from.1)
    }

    /// The tree without calls below `lightest`, or `None` if it has more than `max` nodes.
    fn nodes(&self, lightest: u64, merged: u32, max: usize) -> Option<Vec<FlameNode>> {
        let mut nodes = Vec::new();
        let mut open = self.callees(0, self.order.len(), 0, lightest, merged);
        while let Some(next) = open.pop() {
            nodes.push(next.node);
            if max > 0 && nodes.len() > max && lightest < u64::MAX {
                return None;
            }
            if next.node.name != merged {
                open.extend(self.callees(next.first, next.last, next.depth + 1, lightest, merged));
            }
        }
        Some(nodes)
    }

    /// The callees in a range of stacks with the same frames above `depth`, heaviest last.
    fn callees(
        &self,
        first: usize,
        last: usize,
        depth: usize,
        lightest: u64,
        merged: u32,
    ) -> Vec<Open> {
        let node = |name, (weight, base)| {
            let depth = u32::try_from(depth).unwrap_or(u32::MAX);
            FlameNode { name, depth, weight, base }
        };
        let mut callees = Vec::new();
        let (mut light, mut light_base) = (0, 0);
        let mut at = first + self.run(first, last, |p| self.frame(p, depth).is_none());
        while at < last {
            let Some(name) = self.frame(at, depth) else { break };
            let end = at + self.run(at, last, |p| self.frame(p, depth) == Some(name));
            let weight = self.weight(at, end);
            if weight.0 < lightest {
                light += weight.0;
                light_base += weight.1;
            } else {
                callees.push(Open { first: at, last: end, depth, node: node(name, weight) });
            }
            at = end;
        }
        callees.sort_by_key(|c| c.node.weight);
        if light > 0 {
            let node = node(merged, (light, light_base));
            callees.insert(0, Open { first: last, last, depth, node });
        }
        callees
    }

    /// The number of positions from `first` for which the condition holds; it must hold for a prefix.
    /// Searches near the start first, because most runs are short.
    fn run(&self, first: usize, last: usize, holds: impl Fn(usize) -> bool) -> usize {
        let mut step = 1;
        while first + step <= last && holds(first + step - 1) {
            step *= 2;
        }
        let (mut low, mut high) = (step / 2, (step - 1).min(last - first));
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(first + middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Names for the values of a label.
#[derive(Default)]
struct Groups {
    known: std::collections::HashMap<String, u32>,
}

impl Groups {
    fn of(&mut self, key: &str, labels: &[pprof::Label], names: &mut Vec<String>) -> u32 {
        let label = labels.iter().find(|l| &*l.key == key);
        let name = match label.map(|l| &l.value) {
            Some(LabelValue::Text(text)) => format!("{key}: {text}"),
            Some(LabelValue::Number { value, unit }) => format!("{key}: {value} {unit}"),
            None => format!("(no {key})"),
        };
        *self.known.entry(name).or_insert_with_key(|name| {
            names.push(printable::line(name).into_owned());
            u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use pprof::{Label, ProfileBuilder, ValueType};

    use super::*;
    use crate::Options;

    fn profile(stacks: &[(&str, &str, i64)]) -> pprof::Profile {
        let mut b = ProfileBuilder::new(vec![ValueType::new("cpu", "nanoseconds")]);
        let mapping = b.mapping(pprof::MappingSpec { limit: 1 << 20, ..Default::default() });
        let mapping = mapping.unwrap();
        for (stack, thread, value) in stacks {
            let location = |name: &str| {
                let spec = pprof::FunctionSpec { name, ..Default::default() };
                let line = pprof::Line::new(b.function(spec).unwrap(), 0);
                b.location(mapping, u64::from(name.as_bytes()[0]), &[line]).unwrap()
            };
            let frames: Vec<_> = stack.rsplit(';').map(location).collect();
            b.add_sample(&frames, &[*value], &[Label::text("thread", *thread)]).unwrap();
        }
        b.finish()
    }

    fn drawn(profile: &pprof::Profile, shape: &Shape) -> Vec<String> {
        let tree = Report::new(profile, Options::default()).unwrap().flame(shape);
        let line = |n: &FlameNode| {
            let indent = " ".repeat(n.depth as usize);
            format!("{indent}{} {}", tree.names[n.name as usize], n.weight)
        };
        tree.nodes.iter().map(line).collect()
    }

    #[test]
    fn shapes() {
        let profile = profile(&[
            ("a;b;c", "t", 5),
            ("a;b", "t", 2),
            ("a;d", "u", 4),
            ("e", "u", 1),
            ("a;b;c", "u", 1),
        ]);
        let down = ["a 12", " b 8", "  c 6", " d 4", "e 1"];
        assert_eq!(drawn(&profile, &Shape::default()), down);
        let up = Shape { inverted: true, ..Shape::default() };
        let expected = ["c 6", " b 6", "  a 6", "d 4", " a 4", "b 2", " a 2", "e 1"];
        assert_eq!(drawn(&profile, &up), expected);
        let by = Shape { by: Some("thread".into()), ..Shape::default() };
        let expected = [
            "thread: t 7",
            " a 7",
            "  b 7",
            "   c 5",
            "thread: u 6",
            " a 5",
            "  d 4",
            "  b 1",
            "   c 1",
            " e 1",
        ];
        assert_eq!(drawn(&profile, &by), expected);
        let by = Shape { by: Some("gone".into()), ..Shape::default() };
        assert_eq!(drawn(&profile, &by)[0], "(no gone) 13");
    }

    #[test]
    fn light_calls_are_merged_and_none_is_lost() {
        let stacks: Vec<(String, i64)> = (0..225_u8)
            .map(|n| (format!("a;{};{}", char::from(b'b' + n / 15), char::from(b'A' + n % 15)), 1))
            .collect();
        let stacks: Vec<_> = stacks.iter().map(|(s, v)| (&**s, "t", *v)).collect();
        let profile = profile(&stacks);
        let shape = Shape { max_nodes: 30, ..Shape::default() };
        let tree = Report::new(&profile, Options::default()).unwrap().flame(&shape);
        assert!(tree.nodes.len() <= 30, "{}", tree.nodes.len());
        assert_eq!((tree.total, tree.nodes[0].weight), (225, 225));
        let below: u64 = tree.nodes.iter().filter(|n| n.depth == 1).map(|n| n.weight).sum();
        assert_eq!(below, 225);
    }

    #[test]
    fn runs_of_any_length_are_found() {
        let stacks = Stacks { frames: vec![], begins: vec![], order: vec![], sums: vec![] };
        for last in 0..40 {
            for end in 0..=last {
                assert_eq!(stacks.run(0, last, |p| p < end), end, "{end} of {last}");
            }
        }
    }
}
