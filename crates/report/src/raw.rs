//! Writes the `raw` report: the whole profile as text.

use std::io::Write;

use pprof::{Line, Mapping, Profile};
use printable::{Printable, line as one_line};

use crate::labels::Labels;
use crate::report::Report;
use crate::{ReportError, go};

const LABEL_INDENT: &str = "                ";

impl Report<'_> {
    pub(crate) fn write_raw(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        let profile = self.work.profile;
        write_header(profile, out)?;
        for sample in self.work.samples() {
            for value in sample.values {
                write!(out, " {value:>10}")?;
            }
            write!(out, ": ")?;
            for location in self.work.stack(sample) {
                write!(out, "{} ", location.index() + 1)?;
            }
            writeln!(out)?;
            for labels in
                Labels::new(self.work.labels(sample)).raw().iter().filter(|l| !l.is_empty())
            {
                writeln!(out, "{LABEL_INDENT}{labels}")?;
            }
        }
        writeln!(out, "Locations")?;
        for at in 0..profile.locations.len() {
            self.write_location(at, out)?;
        }
        writeln!(out, "Mappings")?;
        for (nth, mapping) in (1_usize..).zip(&profile.mappings) {
            let has_inline_frames = mapping.has_inline_frames && !self.options.no_inlines;
            write_mapping(nth, &Mapping { has_inline_frames, ..mapping.clone() }, out)?;
        }
        Ok(())
    }

    fn write_location(&self, at: usize, out: &mut dyn Write) -> Result<(), ReportError> {
        let profile = self.work.profile;
        let location = &profile.locations[at];
        write!(out, "{:>6}: {:#x} ", at + 1, location.address)?;
        if let Some(mapping) = location.mapping {
            write!(out, "M={} ", mapping.index() + 1)?;
        }
        if location.is_folded {
            write!(out, "[F] ")?;
        }
        let lines = self.work.lines(at);
        if lines.is_empty() {
            writeln!(out)?;
        }
        for (nth, line) in lines.iter().enumerate() {
            let indent = if nth == 0 { "" } else { "             " };
            let column = if self.drops_columns() { 0 } else { line.column };
            writeln!(out, "{indent}{}", describe(profile, &Line { column, ..*line }))?;
        }
        Ok(())
    }
}

fn write_header(profile: &Profile, out: &mut dyn Write) -> Result<(), ReportError> {
    for comment in &profile.comments {
        writeln!(out, "Comment: {}", Printable(comment))?;
    }
    if !profile.doc_url.is_empty() {
        writeln!(out, "Doc: {}", Printable(&profile.doc_url))?;
    }
    let period = &profile.period_type;
    writeln!(out, "PeriodType: {} {}", Printable(&period.kind), Printable(&period.unit))?;
    writeln!(out, "Period: {}", profile.period)?;
    if profile.time_nanos != 0 {
        writeln!(out, "Time: {}", go::time_in_full(profile.time_nanos))?;
    }
    if profile.duration_nanos != 0 {
        // pprof formats it with `%.4v`, which truncates the text.
        let duration: String = go::duration(profile.duration_nanos).chars().take(4).collect();
        writeln!(out, "Duration: {duration}")?;
    }
    let types = profile.sample_types.iter().map(|t| {
        let default = if t.kind == profile.default_sample_type { "[dflt]" } else { "" };
        format!("{}/{}{default}", Printable(&t.kind), Printable(&t.unit))
    });
    writeln!(out, "Samples:\n{}", types.collect::<Vec<_>>().join(" ").trim())?;
    Ok(())
}

fn describe(profile: &Profile, line: &Line) -> String {
    let function = line.function.and_then(|f| profile.functions.get(f.index()));
    let Some(f) = function else { return "??".to_owned() };
    let system_name =
        if f.name == f.system_name { String::new() } else { format!("({})", f.system_name) };
    let (line, column) = (line.line, line.column);
    let text = format!("{} {}:{line}:{column} s={}{system_name}", f.name, f.filename, f.start_line);
    one_line(&text).into_owned()
}

fn write_mapping(nth: usize, m: &Mapping, out: &mut dyn Write) -> Result<(), ReportError> {
    let flags = [
        (m.has_functions, "[FN]"),
        (m.has_filenames, "[FL]"),
        (m.has_line_numbers, "[LN]"),
        (m.has_inline_frames, "[IN]"),
    ];
    let flags: String = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, f)| f).collect();
    let (start, limit, offset) = (m.start, m.limit, m.offset);
    let (file, build_id) = (Printable(&m.file), Printable(&m.build_id));
    writeln!(out, "{nth}: {start:#x}/{limit:#x}/{offset:#x} {file} {build_id} {flags}")?;
    Ok(())
}
