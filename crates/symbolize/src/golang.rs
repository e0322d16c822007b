//! Symbolizes Go code with Go's line table, which is in every Go program, stripped or not. It gives
//! the names that Go's own profiles have; DWARF differs in details (type arguments, wrappers).

use std::sync::Arc;

use gopclntab::{Format, LineTable, printed_name};
use image::{ElfImage, Svma};

use crate::compose::{Frame, NameSource, Symbolized};

/// Symbolizes the addresses that are Go code; `None` for others, such as C code in the program.
pub(crate) fn resolve(image: &Arc<ElfImage>, addresses: &[u64]) -> Vec<Option<Symbolized>> {
    let table = gopclntab::is_go(image).then(|| LineTable::from_image(image).ok()).flatten();
    let look = |a: &u64| look_up(table.as_ref()?, Svma(*a));
    addresses.iter().map(look).collect()
}

fn look_up(table: &LineTable, pc: Svma) -> Option<Symbolized> {
    let function = table.function_at(pc)?;
    let special = table.special();
    let (mut frames, mut callee, mut elided) = (Vec::new(), 0, None);
    for f in function.frames(pc) {
        if special.is_elided(f.id, callee) {
            elided = Some(frame(table, &f));
        } else {
            frames.push(frame(table, &f));
        }
        callee = f.id;
    }
    let wrapper = frames.is_empty();
    if wrapper {
        frames.extend(elided);
    }
    let (start, source) = (function.entry(), NameSource::Pclntab);
    (!frames.is_empty()).then_some(Symbolized { frames, start, source, wrapper })
}

/// Since Go 1.20 profiles hold the symbol's name, `main.F[go.shape.int]`, by which profile-guided
/// optimization finds the function (`runtime_FrameSymbolName` in runtime/pprof/proto.go); before
/// that, the printed name.
fn frame(table: &LineTable, f: &gopclntab::Frame<'_>) -> Frame {
    let (file, line) = match &f.position {
        Some((file, line)) => (Some(Arc::from(&**file)), Some(*line)),
        None => (None, None),
    };
    let name = match table.format() {
        Format::Go120 => Arc::from(&*f.function),
        _ => printed_name(&f.function).into(),
    };
    Frame {
        name,
        system_name: Arc::from(&*f.function),
        file,
        line,
        column: None,
        start_line: f.start_line,
    }
}
