//! Writes a flame graph as an SVG, static in any viewer and interactive in a browser.

use std::fmt::Write as _;

use super::document::Document;
use super::page::{SCRIPT, STYLE, escape};
use super::tree::{FlameNode, FlameTree};

/// The width in viewers that set none, in pixels.
const WIDTH: u32 = 1200;
/// The height of a frame in pixels; equal to the script's.
const ROW: u32 = 18;
/// Pixels above the frames: title and buttons.
const TOP: u32 = 48;
/// Pixels below the frames: details of the selected frame.
const BOTTOM: u32 = 24;
/// Narrower frames are not drawn. A fraction of the width.
const NARROWEST: f64 = 1.0 / 2400.0;
/// Frames of this width or more have names. A fraction of the width.
const NAMED: f64 = 1.0 / 60.0;

impl Document {
    /// The flame graph as an SVG image.
    #[must_use]
    pub fn svg(&self) -> String {
        let empty = FlameTree::default();
        let tree = self.trees.first().map_or(&empty, |(_, tree)| tree);
        let (frames, rows) = self.frames(tree);
        let frames_height = rows.saturating_mul(ROW);
        let height = frames_height.saturating_add(TOP + BOTTOM);
        let title = escape(&self.title);
        let mut out = String::new();
        let _ = write!(
            out,
            r#"<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" id="exoprof" class="image" width="100%" height="{height}" style="min-width:{WIDTH}px" font-family="ui-monospace, monospace" font-size="12">
<title>{title}</title>
<style>{STYLE}</style>
<rect class="paper" width="100%" height="100%"/>
<text x="8" y="18" class="title">{title}</text>
<g id="controls"></g>
<svg id="flame" x="0" y="{TOP}" width="100%" height="{}">
{frames}</svg>
<text id="details" x="8" y="{}"> </text>
<script type="application/json" id="data">{}</script>
<script><![CDATA[
{SCRIPT}
]]></script>
</svg>
"#,
            frames_height,
            height.saturating_sub(8),
            self.json()
        );
        // Browsers use the width in percent, others the minimum width.
        out
    }
}

impl Document {
    /// The frames, and their number of rows.
    fn frames(&self, tree: &FlameTree) -> (String, u32) {
        let mut out = String::new();
        let mut rows = 1;
        let total = tree.total.max(1) as f64;
        // The start of the next frame at each depth.
        let mut begins: Vec<u64> = vec![0];
        for node in &tree.nodes {
            let depth = node.depth as usize;
            begins.truncate(depth + 1);
            let x = begins.get(depth).copied().unwrap_or(0);
            if let Some(begin) = begins.get_mut(depth) {
                *begin = x.saturating_add(node.weight);
            }
            begins.push(x);
            let share = node.weight as f64 / total;
            if share < NARROWEST {
                continue;
            }
            rows = rows.max(node.depth.saturating_add(1));
            self.frame(tree, node, x as f64 / total, share, &mut out);
        }
        (out, rows)
    }

    fn frame(&self, tree: &FlameTree, node: &FlameNode, x: f64, share: f64, out: &mut String) {
        let name = &tree.names[node.name as usize];
        let escaped = escape(name);
        let y = node.depth.saturating_mul(ROW);
        let (class, hue) = match self.origins.hue(node.name) {
            Some(hue) => ("frame", hue),
            None => ("frame rest", 0),
        };
        let _ = write!(
            out,
            r#"<svg class="{class}" x="{:.4}%" y="{y}" width="{:.4}%" height="{}" style="--hue:{hue};--shift:{}"><title>{escaped} ({:.2}%)</title><rect width="100%" height="100%"/>"#,
            x * 100.0,
            share * 100.0,
            ROW - 1,
            shift(name),
            share * 100.0,
        );
        if share >= NAMED {
            let _ = write!(out, r#"<text x="3" y="13">{escaped}</text>"#);
        }
        out.push_str("</svg>\n");
    }
}

/// Varies the lightness of an origin's functions, from -4 to 4, so that neighbors can be
/// distinguished. Equal to the script's.
fn shift(name: &str) -> i64 {
    let hash =
        name.encode_utf16().fold(7_u32, |h, unit| h.wrapping_mul(31).wrapping_add(u32::from(unit)));
    i64::from((hash >> 3) % 9) - 4
}
