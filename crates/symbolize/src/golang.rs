//! Go's own line table as a symbol source: it stays in a program that was stripped of all else.

use std::sync::Arc;

use image::pclntab::{self, LineTable, printed_name};
use image::{ElfImage, Svma};

use crate::compose::{Frame, NameSource, NoSymbol, Symbolized};

/// Names what the other tables left nameless, in an image that has Go code.
pub(crate) fn fill(
    image: &Arc<ElfImage>,
    addresses: &[u64],
    symbols: &mut [Result<Symbolized, NoSymbol>],
) {
    if symbols.iter().all(Result::is_ok) || !pclntab::is_go(image) {
        return;
    }
    let Ok(table) = LineTable::from_image(image) else { return };
    for (address, symbol) in addresses.iter().zip(symbols).filter(|(_, s)| s.is_err()) {
        if let Some(found) = look_up(&table, Svma(*address)) {
            *symbol = Ok(found);
        }
    }
}

fn look_up(table: &LineTable, pc: Svma) -> Option<Symbolized> {
    let function = table.function_at(pc)?;
    let frames: Vec<Frame> = function.frames(pc).map(|f| frame(&f)).collect();
    let (start, source) = (function.entry(), NameSource::Pclntab);
    (!frames.is_empty()).then_some(Symbolized { frames, start, source })
}

fn frame(f: &pclntab::Frame<'_>) -> Frame {
    let (file, line) = match &f.position {
        Some((file, line)) => (Some(Arc::from(&**file)), Some(*line)),
        None => (None, None),
    };
    Frame {
        name: printed_name(&f.function).into(),
        system_name: Arc::from(&*f.function),
        file,
        line,
        column: None,
        start_line: f.start_line,
    }
}
