//! Maps keys to actions.

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Model, SortOrder, View};

/// What to do after a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    GoOn,
    Quit,
}

/// All keys, for the help.
pub const KEYS: &[(&str, &str)] = &[
    ("q, Ctrl-C", "quit"),
    ("/", "filter functions by a regular expression; Enter keeps it, Esc drops it"),
    ("s", "sort: by flat, by cum, by name"),
    ("f", "toggle the flame graph"),
    ("i", "toggle the inverted flame graph"),
    ("t", "toggle the list of threads"),
    ("space", "pause or resume"),
    ("↑ ↓ PgUp PgDn Home", "scroll"),
    ("Esc", "back to the table"),
];

/// Handles an event.
pub fn handle(event: &Event, model: &mut Model) -> Next {
    let Event::Key(key) = event else { return Next::GoOn };
    if key.kind == KeyEventKind::Release {
        return Next::GoOn;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Next::Quit } else { Next::GoOn };
    }
    if model.typing.is_some() {
        typed(key, model);
        return Next::GoOn;
    }
    match key.code {
        KeyCode::Char('q') => return Next::Quit,
        KeyCode::Char('/') => model.typing = Some(model.filter().unwrap_or_default().to_owned()),
        KeyCode::Char('s') => {
            model.order = match model.order {
                SortOrder::Flat => SortOrder::Cum,
                SortOrder::Cum => SortOrder::Name,
                SortOrder::Name => SortOrder::Flat,
            };
        }
        KeyCode::Char('f') => toggle(model, View::Flame { inverted: false }),
        KeyCode::Char('i') => {
            let inverted = !matches!(model.view, View::Flame { inverted: true });
            model.show(View::Flame { inverted });
        }
        KeyCode::Char('t') => toggle(model, View::Threads),
        KeyCode::Char('?' | 'h') => toggle(model, View::Keys),
        KeyCode::Char(' ') => model.paused = !model.paused,
        KeyCode::Esc => match model.view {
            View::Table => model.set_filter(""),
            _ => model.show(View::Table),
        },
        KeyCode::Up => model.scroll = model.scroll.saturating_sub(1),
        KeyCode::Down => model.scroll = model.scroll.saturating_add(1),
        KeyCode::PageUp => model.scroll = model.scroll.saturating_sub(20),
        KeyCode::PageDown => model.scroll = model.scroll.saturating_add(20),
        KeyCode::Home => model.scroll = 0,
        _ => {}
    }
    Next::GoOn
}

fn toggle(model: &mut Model, view: View) {
    let same = std::mem::discriminant(&model.view) == std::mem::discriminant(&view);
    model.show(if same { View::Table } else { view });
}

fn typed(key: &KeyEvent, model: &mut Model) {
    let Some(text) = &mut model.typing else { return };
    match key.code {
        KeyCode::Char(c) => text.push(c),
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Enter => return model.typing = None,
        KeyCode::Esc => {
            model.typing = None;
            return model.set_filter("");
        }
        _ => return,
    }
    let text = text.clone();
    model.set_filter(&text);
}
