//! Decodes the tables of a profile in dependency order.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;

use super::error::DecodeError;
use super::ids::Ids;
use super::limits::{Budget, Limits};
use super::wire::Fields;
use crate::samples::LabelSet;
use crate::{
    Function, FunctionIndex, Label, LabelValue, Line, Location, LocationIndex, Mapping,
    MappingIndex, Profile, Samples, ValueType, proto,
};

/// The top-level fields, with undecoded messages.
#[derive(Default)]
struct Raw<'a> {
    sample_types: Vec<&'a [u8]>,
    samples: Vec<&'a [u8]>,
    mappings: Vec<&'a [u8]>,
    locations: Vec<&'a [u8]>,
    functions: Vec<&'a [u8]>,
    strings: Vec<&'a [u8]>,
    period_type: Option<&'a [u8]>,
    comments: Vec<i64>,
    /// String indices.
    drop_frames: i64,
    keep_frames: i64,
    default_sample_type: i64,
    doc_url: i64,
    time_nanos: i64,
    duration_nanos: i64,
    period: i64,
}

/// Decodes an uncompressed profile.
pub(super) fn profile(bytes: &[u8], limits: &Limits) -> Result<Profile, DecodeError> {
    let mut budget = Budget::new(limits);
    let raw = top_level(bytes, limits, &mut budget)?;
    let mut decoder = Decoder { strings: strings(&raw.strings, &mut budget)?, budget };
    let (mappings, mapping_ids) = decoder.mappings(&raw.mappings)?;
    let (functions, function_ids) = decoder.functions(&raw.functions)?;
    let (locations, location_ids) =
        decoder.locations(&raw.locations, &mapping_ids, &function_ids)?;
    let sample_types: Vec<ValueType> =
        raw.sample_types.iter().map(|b| decoder.value_type(b)).collect::<Result<_, _>>()?;
    let samples = decoder.samples(&raw.samples, sample_types.len(), &location_ids)?;
    Ok(Profile {
        sample_types,
        default_sample_type: decoder.string(raw.default_sample_type, "default_sample_type")?,
        samples,
        mappings,
        locations,
        functions,
        drop_frames: decoder.string(raw.drop_frames, "drop_frames")?,
        keep_frames: decoder.string(raw.keep_frames, "keep_frames")?,
        time_nanos: raw.time_nanos,
        duration_nanos: raw.duration_nanos,
        period_type: match raw.period_type {
            Some(bytes) => decoder.value_type(bytes)?,
            None => ValueType::default(),
        },
        period: raw.period,
        comments: raw
            .comments
            .iter()
            .map(|&c| decoder.string(c, "comment"))
            .collect::<Result<_, _>>()?,
        doc_url: decoder.string(raw.doc_url, "doc_url")?,
    })
}

/// Splits a profile into its top-level fields.
fn top_level<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    budget: &mut Budget,
) -> Result<Raw<'a>, DecodeError> {
    let mut raw = Raw::default();
    let mut fields = Fields::new(bytes, "Profile");
    while let Some((field, value)) = fields.next()? {
        let table = match field {
            1 => &mut raw.sample_types,
            2 => &mut raw.samples,
            3 => &mut raw.mappings,
            4 => &mut raw.locations,
            5 => &mut raw.functions,
            6 if raw.strings.len() < limits.max_strings => &mut raw.strings,
            6 => return Err(DecodeError::TooManyStrings { limit: limits.max_strings }),
            11 => {
                raw.period_type = Some(value.bytes(&fields, field)?);
                continue;
            }
            13 => {
                value.each_number(&fields, field, |c| {
                    budget.charge(size_of::<i64>() + size_of::<Arc<str>>())?;
                    raw.comments.push(c.cast_signed());
                    Ok(())
                })?;
                continue;
            }
            _ => {
                if let Some(number) = raw.number_mut(field)? {
                    // Two's complement in a varint.
                    *number = value.number(&fields, field)?.cast_signed();
                }
                continue;
            }
        };
        budget.charge_one::<&[u8]>()?;
        table.push(value.bytes(&fields, field)?);
    }
    Ok(raw)
}

impl Raw<'_> {
    /// The variable for a scalar field. `None` for unknown fields.
    const fn number_mut(&mut self, field: u32) -> Result<Option<&mut i64>, DecodeError> {
        Ok(Some(match field {
            7 => &mut self.drop_frames,
            8 => &mut self.keep_frames,
            // google/pprof detects concatenated profiles in the same way.
            9 if self.time_nanos != 0 => return Err(DecodeError::Concatenated),
            9 => &mut self.time_nanos,
            10 => &mut self.duration_nanos,
            12 => &mut self.period,
            14 => &mut self.default_sample_type,
            15 => &mut self.doc_url,
            _ => return Ok(None),
        }))
    }
}

fn strings(raw: &[&[u8]], budget: &mut Budget) -> Result<Vec<Arc<str>>, DecodeError> {
    if raw.first() != Some(&&[][..]) {
        return Err(DecodeError::FirstString);
    }
    let empty: Arc<str> = "".into();
    let mut strings = Vec::with_capacity(raw.len());
    for (index, bytes) in raw.iter().enumerate() {
        budget.charge_one::<Arc<str>>()?;
        if bytes.is_empty() {
            strings.push(Arc::clone(&empty));
            continue;
        }
        // An Arc has two counters beside the text.
        budget.charge(bytes.len() + 2 * size_of::<usize>())?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8 { index })?;
        strings.push(text.into());
    }
    Ok(strings)
}

struct Decoder {
    strings: Vec<Arc<str>>,
    budget: Budget,
}

impl Decoder {
    fn string(&self, index: i64, field: &'static str) -> Result<Arc<str>, DecodeError> {
        let found = usize::try_from(index).ok().and_then(|i| self.strings.get(i));
        let len = self.strings.len();
        found.cloned().ok_or(DecodeError::StringIndex { field, index, len })
    }

    fn value_type(&mut self, bytes: &[u8]) -> Result<ValueType, DecodeError> {
        self.budget.charge_one::<ValueType>()?;
        let wire: proto::ValueType = message(bytes, "ValueType")?;
        Ok(ValueType {
            kind: self.string(wire.r#type, "ValueType.type")?,
            unit: self.string(wire.unit, "ValueType.unit")?,
        })
    }

    fn mappings(&mut self, raw: &[&[u8]]) -> Result<(Vec<Mapping>, Ids), DecodeError> {
        let mut ids = Ids::new("mapping", raw.len(), &mut self.budget)?;
        let mut mappings = Vec::new();
        for (at, bytes) in (0..).zip(raw) {
            self.budget.charge_one::<Mapping>()?;
            let wire: proto::Mapping = message(bytes, "Mapping")?;
            ids.insert(wire.id, at, &mut self.budget)?;
            mappings.push(Mapping {
                start: wire.memory_start,
                limit: wire.memory_limit,
                offset: wire.file_offset,
                file: self.string(wire.filename, "Mapping.filename")?,
                build_id: self.string(wire.build_id, "Mapping.build_id")?,
                has_functions: wire.has_functions,
                has_filenames: wire.has_filenames,
                has_line_numbers: wire.has_line_numbers,
                has_inline_frames: wire.has_inline_frames,
            });
        }
        Ok((mappings, ids))
    }

    fn functions(&mut self, raw: &[&[u8]]) -> Result<(Vec<Function>, Ids), DecodeError> {
        let mut ids = Ids::new("function", raw.len(), &mut self.budget)?;
        let mut functions = Vec::new();
        for (at, bytes) in (0..).zip(raw) {
            self.budget.charge_one::<Function>()?;
            let wire: proto::Function = message(bytes, "Function")?;
            ids.insert(wire.id, at, &mut self.budget)?;
            functions.push(Function {
                name: self.string(wire.name, "Function.name")?,
                system_name: self.string(wire.system_name, "Function.system_name")?,
                filename: self.string(wire.filename, "Function.filename")?,
                start_line: wire.start_line,
            });
        }
        Ok((functions, ids))
    }

    fn locations(
        &mut self,
        raw: &[&[u8]],
        mappings: &Ids,
        functions: &Ids,
    ) -> Result<(Vec<Location>, Ids), DecodeError> {
        let mut ids = Ids::new("location", raw.len(), &mut self.budget)?;
        let mut locations = Vec::new();
        for (at, bytes) in (0..).zip(raw) {
            self.budget.charge_one::<Location>()?;
            let (id, location) = self.location(bytes, mappings, functions)?;
            ids.insert(id, at, &mut self.budget)?;
            locations.push(location);
        }
        Ok((locations, ids))
    }

    /// Decodes field by field: lines of two bytes take twelve times their size in memory, so each must
    /// be charged to the budget before it is decoded.
    fn location(
        &mut self,
        bytes: &[u8],
        mappings: &Ids,
        functions: &Ids,
    ) -> Result<(u64, Location), DecodeError> {
        let (mut id, mut location) = (0, Location::default());
        let mut fields = Fields::new(bytes, "Location");
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => id = value.number(&fields, field)?,
                2 => {
                    location.mapping = match value.number(&fields, field)? {
                        0 => None,
                        id => Some(MappingIndex::new(mappings.get(id, "location")?)),
                    }
                }
                3 => location.address = value.number(&fields, field)?,
                4 => {
                    self.budget.charge_one::<Line>()?;
                    let wire: proto::Line = message(value.bytes(&fields, field)?, "Line")?;
                    let function = match wire.function_id {
                        0 => None,
                        id => Some(FunctionIndex::new(functions.get(id, "line")?)),
                    };
                    location.lines.push(Line { function, line: wire.line, column: wire.column });
                }
                5 => location.is_folded = value.number(&fields, field)? != 0,
                _ => {}
            }
        }
        Ok((id, location))
    }

    /// Decodes samples straight into their flat storage, without allocations per sample.
    fn samples(
        &mut self,
        raw: &[&[u8]],
        width: usize,
        locations: &Ids,
    ) -> Result<Samples, DecodeError> {
        if width == 0 && !raw.is_empty() {
            return Err(DecodeError::NoSampleTypes);
        }
        let mut samples = Samples::new(width);
        let mut sets = LabelReader::default();
        let mut values = Vec::new();
        let budget_per_sample =
            width * size_of::<i64>() + size_of::<usize>() + size_of::<LabelSet>();
        for (sample, bytes) in raw.iter().enumerate() {
            self.budget.charge(budget_per_sample)?;
            values.clear();
            sets.current.clear();
            let mut given = 0;
            let mut fields = Fields::new(bytes, "Sample");
            while let Some((field, value)) = fields.next()? {
                match field {
                    1 => {
                        // A packed frame takes at least one byte.
                        self.budget.charge(value.max_numbers() * size_of::<LocationIndex>())?;
                        value.each_number(&fields, field, |id| {
                            samples.push_frame(LocationIndex::new(locations.get(id, "sample")?));
                            Ok(())
                        })?;
                    }
                    2 => value.each_number(&fields, field, |number| {
                        given += 1;
                        if given <= width {
                            values.push(number.cast_signed());
                        }
                        Ok(())
                    })?,
                    3 => {
                        self.budget.charge_one::<proto::Label>()?;
                        sets.current.push(message(value.bytes(&fields, field)?, "Label")?);
                    }
                    _ => {}
                }
            }
            if given != width {
                return Err(DecodeError::ValueCount { sample, given, expected: width });
            }
            let set = sets.finish(self, &mut samples)?;
            samples.finish_sample(&values, set);
        }
        Ok(samples)
    }

    fn label(&self, wire: &proto::Label) -> Result<Label, DecodeError> {
        let key = self.string(wire.key, "Label.key")?;
        let value = if wire.str == 0 {
            let unit = self.string(wire.num_unit, "Label.num_unit")?;
            LabelValue::Number { value: wire.num, unit }
        } else {
            LabelValue::Text(self.string(wire.str, "Label.str")?)
        };
        Ok(Label { key, value })
    }
}

/// Deduplicates label sets while labels are still string indices.
#[derive(Default)]
struct LabelReader {
    /// Labels of the current sample.
    current: Vec<proto::Label>,
    known: HashMap<Vec<proto::Label>, LabelSet>,
}

impl LabelReader {
    fn finish(
        &mut self,
        decoder: &mut Decoder,
        samples: &mut Samples,
    ) -> Result<LabelSet, DecodeError> {
        if self.current.is_empty() {
            return Ok(0);
        }
        if let Some(&set) = self.known.get(self.current.as_slice()) {
            return Ok(set);
        }
        let sizes = size_of::<Label>() + size_of::<proto::Label>();
        decoder.budget.charge(self.current.len() * sizes + size_of::<Vec<proto::Label>>() * 2)?;
        let labels: Vec<Label> =
            self.current.iter().map(|wire| decoder.label(wire)).collect::<Result<_, _>>()?;
        let set = samples.labels_mut().push(labels);
        self.known.insert(self.current.clone(), set);
        Ok(set)
    }
}

fn message<M: Message + Default>(bytes: &[u8], message: &'static str) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|e| DecodeError::Wire { message, reason: e.to_string() })
}
