//! Flame graphs: every stack at once, as wide as it is heavy.

mod document;
mod image;
pub(crate) mod json;
mod origin;
mod page;
mod tree;

pub use document::{Document, Grouping};
pub use tree::{FlameNode, FlameTree, Shape};
