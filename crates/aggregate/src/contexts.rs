//! Aggregates samples as they arrive into a calling context tree with counts on its nodes.
//!
//! Each node stands for a stack; its parent is the stack of the caller. Stacks share their outer
//! frames, so memory grows with the number of *different* calling contexts, not with the number of
//! samples: a recursion of random depth costs one node per level, not one stack per depth.

use rustc_hash::FxHashMap;

use crate::ids::{Count, CountKey, FrameIndex, FrameKey, NodeIndex, ROOT};

/// Maximum number of nodes; they take about 100 MB.
const MAX_NODES: usize = 2_000_000;

#[derive(Clone, Copy)]
struct Node {
    parent: NodeIndex,
    frame: FrameIndex,
}

/// The calling context tree.
pub struct StackTree {
    frames: Vec<FrameKey>,
    frame_index: FxHashMap<FrameKey, FrameIndex>,
    nodes: Vec<Node>,
    children: FxHashMap<(NodeIndex, FrameIndex), NodeIndex>,
    full: bool,
}

impl Default for StackTree {
    fn default() -> Self {
        Self {
            frames: Vec::new(),
            frame_index: FxHashMap::default(),
            nodes: vec![Node { parent: ROOT, frame: u32::MAX }],
            children: FxHashMap::default(),
            full: false,
        }
    }
}

impl StackTree {
    /// The index of a frame; a new frame is added.
    pub fn frame(&mut self, key: FrameKey) -> FrameIndex {
        let next = self.frames.len() as FrameIndex;
        *self.frame_index.entry(key).or_insert_with(|| {
            self.frames.push(key);
            next
        })
    }

    /// The node of `frame` called from `parent`. Once the tree is full, the node of a new context
    /// is that of its nearest known caller: see [`StackTree::is_full`].
    pub fn child(&mut self, parent: NodeIndex, frame: FrameIndex) -> NodeIndex {
        if let Some(&node) = self.children.get(&(parent, frame)) {
            return node;
        }
        if self.nodes.len() >= MAX_NODES {
            self.full = true;
            return parent;
        }
        let node = self.nodes.len() as NodeIndex;
        self.nodes.push(Node { parent, frame });
        self.children.insert((parent, frame), node);
        node
    }

    /// Whether calling contexts were left out because the tree is full.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The frames of a stack, leaf first.
    pub fn stack(&self, leaf: NodeIndex) -> impl Iterator<Item = FrameIndex> + '_ {
        let mut at = leaf;
        std::iter::from_fn(move || {
            if at == ROOT {
                return None;
            }
            let node = self.nodes[at as usize];
            at = node.parent;
            Some(node.frame)
        })
    }

    /// The number of calling contexts, including the root.
    pub fn context_count(&self) -> usize {
        self.nodes.len()
    }

    /// The frame of a node; `None` for [`ROOT`].
    pub fn frame_of(&self, node: NodeIndex) -> Option<FrameKey> {
        let frame = self.nodes.get(node as usize)?.frame;
        self.frames.get(frame as usize).copied()
    }

    /// The nodes on the path to `leaf`, outermost frame first, without the root.
    pub fn path_from_root(&self, leaf: NodeIndex) -> Vec<NodeIndex> {
        let parent = |node: &NodeIndex| Some(self.nodes[*node as usize].parent);
        let up = std::iter::successors(Some(leaf), parent);
        let mut path: Vec<NodeIndex> = up.take_while(|n| *n != ROOT).collect();
        path.reverse();
        path
    }

    /// All frames, by index.
    pub fn frames(&self) -> &[FrameKey] {
        &self.frames
    }
}

/// Counts per thread, stack and labels.
#[derive(Default)]
pub struct Counts {
    by_stack: FxHashMap<CountKey, Count>,
}

impl Counts {
    /// Adds one sample.
    pub fn add(&mut self, key: CountKey, weight: u64) {
        let c = self.by_stack.entry(key).or_default();
        c.samples += 1;
        c.weight += weight;
    }

    /// All counts, sorted by key so that equal recordings give equal files.
    pub fn sorted(self) -> Vec<(CountKey, Count)> {
        let mut all: Vec<_> = self.by_stack.into_iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }
}

#[cfg(test)]
mod tests {
    use image::Avma;

    use super::*;
    use crate::ids::Place;

    #[test]
    fn stacks_share_their_outer_frames() {
        let mut tree = StackTree::default();
        let key = |a| FrameKey { place: Place::Kernel, address: Avma(a) };
        let [main, f, g] = [1, 2, 3].map(|a| tree.frame(key(a)));
        let at_main = tree.child(ROOT, main);
        let at_f = tree.child(at_main, f);
        let at_g = tree.child(at_main, g);
        assert_eq!(tree.child(at_main, f), at_f);
        assert_eq!(tree.stack(at_g).collect::<Vec<_>>(), [g, main]);
        assert_eq!(tree.nodes.len(), 4);
        assert_eq!(tree.frame(key(2)), f);
    }

    #[test]
    fn paths_lead_from_the_root_and_frames_are_found_by_node() {
        let mut tree = StackTree::default();
        let keys = [1, 2].map(|a| FrameKey { place: Place::Kernel, address: Avma(a) });
        let [main, f] = keys.map(|key| tree.frame(key));
        let at_main = tree.child(ROOT, main);
        let at_f = tree.child(at_main, f);
        assert_eq!(tree.path_from_root(at_f), [at_main, at_f]);
        assert_eq!(tree.path_from_root(ROOT), []);
        assert_eq!(
            [ROOT, at_main, at_f].map(|n| tree.frame_of(n)),
            [None, Some(keys[0]), Some(keys[1])]
        );
        assert_eq!((tree.context_count(), tree.frames()), (3, &keys[..]));
    }

    #[test]
    fn a_full_tree_counts_new_contexts_at_their_caller() {
        let mut tree = StackTree::default();
        let f = tree.frame(FrameKey { place: Place::Kernel, address: Avma(1) });
        tree.nodes.resize(MAX_NODES - 1, Node { parent: ROOT, frame: f });
        let last = tree.child(ROOT, f);
        assert_eq!((last as usize, tree.is_full()), (MAX_NODES - 1, false));
        assert_eq!(tree.child(last, f), last);
        assert!(tree.is_full());
        assert_eq!(tree.child(ROOT, f), last, "known contexts are still found");
    }

    #[test]
    fn counts_add_up_and_are_sorted() {
        let key = |stack| CountKey { thread: 0, stack, labels: 0 };
        let mut counts = Counts::default();
        for (stack, weight) in [(2, 5), (1, 1), (2, 6)] {
            counts.add(key(stack), weight);
        }
        let [one, two] = [(1, 1), (2, 11)].map(|(samples, weight)| Count { samples, weight });
        assert_eq!(counts.sorted(), [(key(1), one), (key(2), two)]);
    }
}
