//! Encodes profiles message by message, so that only a buffer and a string index are needed.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use rustc_hash::FxHashMap;

use crate::{Label, LabelValue, Location, Profile, SampleRef, ValueType, proto};

/// The buffer is written out once it holds this many bytes.
const CHUNK: usize = 64 * 1024;

/// Writes a profile as one gzip stream, the usual form of a pprof file.
///
/// The stream has no timestamp and no file name, so equal profiles give equal bytes.
///
/// # Errors
/// When writing to `out` fails.
pub fn write_gz(profile: &Profile, out: impl Write) -> io::Result<()> {
    let mut gz = GzEncoder::new(out, Compression::fast());
    write(profile, &mut gz)?;
    gz.finish()?.flush()
}

/// Writes a profile without compression.
///
/// # Errors
/// When writing to `out` fails.
pub fn write(profile: &Profile, out: impl Write) -> io::Result<()> {
    let mut encoder = Encoder::new(out);
    encoder.profile(profile)?;
    encoder.finish()
}

/// Encodes a profile without compression.
#[must_use]
pub fn encode(profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to a vector cannot fail.
    let written = write(profile, &mut bytes);
    debug_assert!(written.is_ok());
    bytes
}

struct Encoder<'p, W> {
    out: W,
    buffer: Vec<u8>,
    strings: Vec<&'p str>,
    string_indices: FxHashMap<&'p str, i64>,
}

impl<'p, W: Write> Encoder<'p, W> {
    fn new(out: W) -> Self {
        Self {
            out,
            buffer: Vec::with_capacity(CHUNK + CHUNK / 4),
            strings: vec![""],
            string_indices: std::iter::once(("", 0)).collect(),
        }
    }

    /// Writes tables in the order of their field numbers. Strings follow once all are known.
    fn profile(&mut self, p: &'p Profile) -> io::Result<()> {
        for kind in &p.sample_types {
            let message = self.value_type(kind);
            self.message(1, &message)?;
        }
        let mut scratch = proto::Sample::default();
        for sample in &p.samples {
            self.sample(sample, &mut scratch);
            self.message(2, &scratch)?;
        }
        for (id, m) in (1..).zip(&p.mappings) {
            let message = proto::Mapping {
                id,
                memory_start: m.start,
                memory_limit: m.limit,
                file_offset: m.offset,
                filename: self.string(&m.file),
                build_id: self.string(&m.build_id),
                has_functions: m.has_functions,
                has_filenames: m.has_filenames,
                has_line_numbers: m.has_line_numbers,
                has_inline_frames: m.has_inline_frames,
            };
            self.message(3, &message)?;
        }
        for (id, location) in (1..).zip(&p.locations) {
            self.message(4, &wire_location(id, location))?;
        }
        for (id, f) in (1..).zip(&p.functions) {
            let message = proto::Function {
                id,
                name: self.string(&f.name),
                system_name: self.string(&f.system_name),
                filename: self.string(&f.filename),
                start_line: f.start_line,
            };
            self.message(5, &message)?;
        }
        self.header(p)
    }

    /// Writes the scalar fields and the string table.
    fn header(&mut self, p: &'p Profile) -> io::Result<()> {
        let period_type = self.value_type(&p.period_type);
        let header = proto::Profile {
            drop_frames: self.string(&p.drop_frames),
            keep_frames: self.string(&p.keep_frames),
            time_nanos: p.time_nanos,
            duration_nanos: p.duration_nanos,
            period_type: (period_type != proto::ValueType::default()).then_some(period_type),
            period: p.period,
            comment: p.comments.iter().map(|c| self.string(c)).collect(),
            default_sample_type: self.string(&p.default_sample_type),
            doc_url: self.string(&p.doc_url),
            ..proto::Profile::default()
        };
        for text in std::mem::take(&mut self.strings) {
            prost::encoding::encode_key(
                6,
                prost::encoding::WireType::LengthDelimited,
                &mut self.buffer,
            );
            prost::encoding::encode_varint(text.len() as u64, &mut self.buffer);
            self.buffer.extend_from_slice(text.as_bytes());
            self.flush_chunk()?;
        }
        // In protobuf, concatenated encodings of parts encode the whole message.
        self.buffer.extend_from_slice(&header.encode_to_vec());
        Ok(())
    }

    fn sample(&mut self, sample: SampleRef<'p>, to: &mut proto::Sample) {
        to.location_id.clear();
        to.location_id.extend(sample.locations.iter().map(|l| l.wire_id()));
        to.value.clear();
        to.value.extend_from_slice(sample.values);
        to.label.clear();
        for label in sample.labels {
            let label = self.label(label);
            to.label.push(label);
        }
    }

    fn label(&mut self, label: &'p Label) -> proto::Label {
        let key = self.string(&label.key);
        match &label.value {
            LabelValue::Text(text) => {
                proto::Label { key, str: self.string(text), num: 0, num_unit: 0 }
            }
            LabelValue::Number { value, unit } => {
                proto::Label { key, str: 0, num: *value, num_unit: self.string(unit) }
            }
        }
    }

    fn value_type(&mut self, kind: &'p ValueType) -> proto::ValueType {
        proto::ValueType { r#type: self.string(&kind.kind), unit: self.string(&kind.unit) }
    }

    /// The string's index in the string table.
    fn string(&mut self, text: &'p str) -> i64 {
        *self.string_indices.entry(text).or_insert_with(|| {
            let index = self.strings.len();
            self.strings.push(text);
            i64::try_from(index).unwrap_or(i64::MAX)
        })
    }

    fn message(&mut self, field: u32, message: &impl Message) -> io::Result<()> {
        prost::encoding::message::encode(field, message, &mut self.buffer);
        self.flush_chunk()
    }

    fn flush_chunk(&mut self) -> io::Result<()> {
        if self.buffer.len() >= CHUNK {
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.out.flush()
    }
}

fn wire_location(id: u64, location: &Location) -> proto::Location {
    proto::Location {
        id,
        mapping_id: location.mapping.map_or(0, |m| m.wire_id()),
        address: location.address,
        line: location
            .lines
            .iter()
            .map(|l| proto::Line {
                function_id: l.function.map_or(0, |f| f.wire_id()),
                line: l.line,
                column: l.column,
            })
            .collect(),
        is_folded: location.is_folded,
    }
}
