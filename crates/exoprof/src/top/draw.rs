//! Draws the screen of `top`.

use printable::{Printable, line};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::flame;
use super::keys::KEYS;
use super::model::{Model, SortOrder, View};

/// Draws the screen.
pub fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Line::styled(model.headline(), bold), head);
    match model.view {
        View::Table => table(frame, body, model),
        View::Threads => threads(frame, body, model),
        View::Flame { inverted } => {
            let tree = &model.picture().flame[usize::from(inverted)];
            let scroll = flame::draw(frame.buffer_mut(), body, tree, model.scroll);
            model.scroll = scroll;
        }
        View::Keys => keys(frame, body),
    }
    frame.render_widget(Line::raw(foot_line(model)), foot);
}

fn table(frame: &mut Frame<'_>, area: Rect, model: &mut Model) {
    if model.samples() == 0 {
        let text = "no samples yet: the target has used no CPU time";
        return frame.render_widget(Paragraph::new(text), area);
    }
    let rows = model.rows();
    let visible = usize::from(area.height.saturating_sub(1));
    let scroll = model.scroll.min(rows.len().saturating_sub(visible));
    let cells = rows.iter().skip(scroll).take(visible).map(|row| {
        let percent = |share: f64| Cell::new(format!("{share:>7.2}%"));
        let name = format!("{} {}", row.entry.name, row.entry.inlined.label());
        Row::new([percent(row.share.0), percent(row.share.1), Cell::new(line(&name).into_owned())])
    });
    let mark = |order: SortOrder| if order == model.order { '▼' } else { ' ' };
    let header = Row::new([
        format!("   FLAT {}", mark(SortOrder::Flat)),
        format!("    CUM {}", mark(SortOrder::Cum)),
        format!("FUNCTION {}", mark(SortOrder::Name)),
    ]);
    let widths = [Constraint::Length(9), Constraint::Length(9), Constraint::Fill(1)];
    let table = Table::new(cells, widths).header(header.style(reversed()));
    frame.render_widget(table, area);
    model.scroll = scroll;
}

fn threads(frame: &mut Frame<'_>, area: Rect, model: &mut Model) {
    let threads = &model.picture().threads;
    let visible = usize::from(area.height.saturating_sub(1));
    let scroll = model.scroll.min(threads.len().saturating_sub(visible));
    let cells = threads.iter().skip(scroll).take(visible).map(|(name, percent)| {
        Row::new([Cell::new(format!("{percent:>7.1}%")), Cell::new(line(name))])
    });
    let header = Row::new(["    CPU", "     TID  THREAD"]).style(reversed());
    let widths = [Constraint::Length(9), Constraint::Fill(1)];
    frame.render_widget(Table::new(cells, widths).header(header), area);
    model.scroll = scroll;
}

fn keys(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<Line<'_>> =
        KEYS.iter().map(|(key, does)| Line::raw(format!("  {key:<20} {does}"))).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn foot_line(model: &Model) -> String {
    if let Some(text) = &model.typing {
        let complaint = model.complaint.as_deref().unwrap_or_default();
        return format!("filter: {}▏ {complaint}", Printable(text));
    }
    let filter = model.filter().map(|f| format!("filter {}   ", Printable(f)));
    let keys = "q quit  / filter  s sort  f flame graph  t threads  ? keys";
    format!("{}{keys}   last 5 s", filter.unwrap_or_default())
}

fn reversed() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn every_view_fits_any_size() {
        for (width, height) in [(1, 1), (20, 3), (80, 24), (300, 90)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let mut model = Model::new("evil\u{1b}[2J (1)".into(), 99);
            for view in [
                View::Table,
                View::Threads,
                View::Keys,
                View::Flame { inverted: false },
                View::Flame { inverted: true },
            ] {
                model.show(view);
                model.scroll = usize::MAX;
                terminal.draw(|frame| draw(frame, &mut model)).unwrap();
            }
            let text: String =
                terminal.backend().buffer().content().iter().map(|c| c.symbol()).collect();
            assert!(!text.contains('\u{1b}'));
        }
    }
}
