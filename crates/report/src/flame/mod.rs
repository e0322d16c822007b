//! Draws flame graphs: trees of calls, as pages, SVG images and JSON.

mod document;
mod image;
pub(crate) mod json;
mod origin;
mod page;
mod tree;

pub use document::{Document, Grouping};
pub use tree::{FlameNode, FlameTree, Shape};
