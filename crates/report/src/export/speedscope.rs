//! Exports to speedscope: <https://www.speedscope.app/file-format-schema.json>.

use std::collections::HashMap;
use std::io::Write;

use super::tracks::Track;
use crate::flame::json;
use crate::graph::{Graph, NodeId};
use crate::report::Report;
use crate::{Granularity, ReportError};

const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

impl Report<'_> {
    /// Writes a file for <https://www.speedscope.app>: all threads together, then each thread.
    ///
    /// Profiles have no timestamps: in the view "time order", equal stacks are adjacent and the order
    /// has no meaning.
    ///
    /// # Errors
    /// When writing fails, or for negative weights, which differences have and speedscope cannot
    /// show.
    pub fn write_speedscope(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        let graph = Graph::of_locations(&self.work, self.detail_with_files());
        let tracks = self.tracks(&graph);
        if tracks.iter().any(|t| t.stacks.values().any(|weight| *weight < 0)) {
            return Err(ReportError::Negative { viewer: "speedscope" });
        }
        let mut frames = Frames::new(&graph);
        let title = self.title();
        write!(out, "{{\"$schema\":\"{SCHEMA}\",\"exporter\":\"exoprof\",\"name\":")?;
        string(&title, out)?;
        write!(out, ",\"activeProfileIndex\":0,\"profiles\":[")?;
        if tracks.len() != 1 {
            self.profile(&title, &tracks, &mut frames, out)?;
        }
        for (nth, track) in tracks.iter().enumerate() {
            if nth > 0 || tracks.len() != 1 {
                out.write_all(b",")?;
            }
            let name = track.thread.display_name();
            self.profile(&name, std::slice::from_ref(track), &mut frames, out)?;
        }
        out.write_all(b"],\"shared\":{\"frames\":[")?;
        frames.write(out)?;
        out.write_all(b"]}}\n")?;
        Ok(())
    }

    /// Writes one profile of the file, with some of the tracks.
    fn profile(
        &self,
        name: &str,
        tracks: &[Track],
        frames: &mut Frames<'_>,
        out: &mut dyn Write,
    ) -> Result<(), ReportError> {
        let unit = match self.unit() {
            unit @ ("nanoseconds" | "microseconds" | "milliseconds" | "seconds" | "bytes") => unit,
            _ => "none",
        };
        let stacks = || tracks.iter().flat_map(|t| &t.stacks);
        let total = stacks().fold(0_i64, |sum, (_, weight)| sum.saturating_add(*weight));
        out.write_all(b"{\"type\":\"sampled\",\"name\":")?;
        string(name, out)?;
        write!(out, ",\"unit\":\"{unit}\",\"startValue\":0,\"endValue\":{total},\"samples\":[")?;
        for (nth, (stack, _)) in stacks().enumerate() {
            out.write_all(if nth == 0 { b"[" } else { b",[" })?;
            for (nth, id) in stack.iter().enumerate() {
                let comma = if nth == 0 { "" } else { "," };
                write!(out, "{comma}{}", frames.number(*id))?;
            }
            out.write_all(b"]")?;
        }
        out.write_all(b"],\"weights\":[")?;
        for (nth, (_, weight)) in stacks().enumerate() {
            write!(out, "{}{weight}", if nth == 0 { "" } else { "," })?;
        }
        out.write_all(b"]}")?;
        Ok(())
    }

    /// As [`detail`](Self::detail), with the source files of functions.
    fn detail_with_files(&self) -> crate::graph::Detail {
        match self.options.granularity {
            Granularity::Functions => crate::graph::Detail::of(Granularity::FileFunctions, false),
            _ => self.detail(),
        }
    }
}

/// Numbers the frames that occur.
struct Frames<'g> {
    graph: &'g Graph,
    numbers: HashMap<NodeId, usize>,
    list: Vec<NodeId>,
}

impl<'g> Frames<'g> {
    fn new(graph: &'g Graph) -> Self {
        Self { graph, numbers: HashMap::new(), list: Vec::new() }
    }

    fn number(&mut self, id: NodeId) -> usize {
        *self.numbers.entry(id).or_insert_with(|| {
            self.list.push(id);
            self.list.len() - 1
        })
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        for (nth, id) in self.list.iter().enumerate() {
            let info = &self.graph.node(*id).info;
            out.write_all(if nth == 0 { b"{\"name\":" } else { b",{\"name\":" })?;
            // Entries without a name, and those of addresses, are named by all their properties.
            let name = match (info.name.is_empty(), info.address) {
                (false, 0) => printable::line(&info.name).into_owned(),
                _ => info.printable(),
            };
            string(&name, out)?;
            if !info.file.is_empty() {
                out.write_all(b",\"file\":")?;
                string(&info.file, out)?;
            }
            if info.line > 0 {
                write!(out, ",\"line\":{}", info.line)?;
            }
            out.write_all(b"}")?;
        }
        Ok(())
    }
}

fn string(text: &str, out: &mut dyn Write) -> Result<(), ReportError> {
    let mut quoted = String::with_capacity(text.len() + 2);
    json::string(text, &mut quoted);
    Ok(out.write_all(quoted.as_bytes())?)
}
