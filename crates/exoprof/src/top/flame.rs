//! Draws the flame graph on the terminal: one row per level, the root at the top.

use printable::line;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use report::FlameTree;

/// Background colors on which dark text is readable.
const COLOURS: [Color; 6] = [
    Color::Indexed(216),
    Color::Indexed(222),
    Color::Indexed(186),
    Color::Indexed(151),
    Color::Indexed(153),
    Color::Indexed(182),
];

/// Draws the levels below `scroll`, and returns how far it can be scrolled at most.
pub fn draw(buffer: &mut Buffer, area: Rect, tree: &FlameTree, scroll: usize) -> usize {
    let levels = tree.nodes.iter().map(|n| n.depth as usize + 1).max().unwrap_or(0);
    let scroll = scroll.min(levels.saturating_sub(usize::from(area.height)));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let cells = |weight: u64| weight as f64 / tree.total.max(1) as f64 * f64::from(area.width);
    // Where the next call begins, for each depth.
    let mut begins: Vec<u64> = vec![0];
    for node in &tree.nodes {
        let depth = node.depth as usize;
        begins.truncate(depth + 1);
        let x = begins.get(depth).copied().unwrap_or(0);
        if let Some(begin) = begins.get_mut(depth) {
            *begin = x.saturating_add(node.weight);
        }
        begins.push(x);
        let (from, to) =
            (cells(x).round() as u16, cells(x.saturating_add(node.weight)).round() as u16);
        let row = depth.checked_sub(scroll).and_then(|row| u16::try_from(row).ok());
        let Some(row) = row.filter(|row| *row < area.height) else { continue };
        let to = to.min(area.width);
        if to <= from {
            continue;
        }
        let name = &tree.names[node.name as usize];
        let colour =
            COLOURS[name.bytes().fold(0, |h: usize, b| h.wrapping_mul(31) + usize::from(b))
                % COLOURS.len()];
        let style = match plain {
            true => Style::reset(),
            false => Style::new().bg(colour).fg(Color::Black),
        };
        let width = usize::from(to - from);
        let (x, y) = (area.x + from, area.y + row);
        // A gap at the right end separates it from its neighbor.
        let text = format!(
            "{:<width$}",
            line(name).chars().take(width.saturating_sub(1)).collect::<String>()
        );
        buffer.set_stringn(x, y, text, width, style);
        if plain || width > 1 {
            buffer.set_string(x + to - from - 1, y, "▕", style);
        }
    }
    scroll
}
