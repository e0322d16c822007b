//! Iterates over the fields of a protobuf message without copying.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::error::DecodeError;

/// The content of one field.
pub(super) enum Value<'a> {
    /// A number.
    Varint(u64),
    /// A message, a string or packed numbers.
    Bytes(&'a [u8]),
    /// A fixed-size number or a group. Profiles have none; protobuf requires readers to skip unknown
    /// fields.
    Skipped,
}

/// Walks the fields of a message.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Fields<'a> {
    /// Walks `bytes`; `message` names the type in errors.
    pub(super) const fn new(bytes: &'a [u8], message: &'static str) -> Self {
        Self { rest: bytes, message }
    }

    /// The next field's number and content.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (field, kind) = decode_key(&mut self.rest).map_err(|e| self.malformed(e))?;
        let value = match kind {
            WireType::Varint => Value::Varint(self.varint()?),
            WireType::LengthDelimited => {
                let len = self.varint()?;
                let split = usize::try_from(len).ok().and_then(|n| self.rest.split_at_checked(n));
                let Some((bytes, rest)) = split else {
                    return Err(self.malformed(format_args!(
                        "field {field} claims {len} bytes, but {} are left",
                        self.rest.len()
                    )));
                };
                self.rest = rest;
                Value::Bytes(bytes)
            }
            _ => {
                skip_field(kind, field, &mut self.rest, DecodeContext::default())
                    .map_err(|e| self.malformed(e))?;
                Value::Skipped
            }
        };
        Ok(Some((field, value)))
    }

    /// The error for a field whose wire type differs from the schema's.
    pub(super) fn wrong_type(&self, field: u32) -> DecodeError {
        self.malformed(format_args!("field {field} has the wrong wire type"))
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        decode_varint(&mut self.rest).map_err(|e| self.malformed(e))
    }

    fn malformed(&self, reason: impl std::fmt::Display) -> DecodeError {
        DecodeError::Wire { message: self.message, reason: reason.to_string() }
    }
}

impl<'a> Value<'a> {
    /// The bytes of a message or string.
    pub(super) fn bytes(self, of: &Fields<'_>, field: u32) -> Result<&'a [u8], DecodeError> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(of.wrong_type(field)),
        }
    }

    /// A single number.
    pub(super) fn number(self, of: &Fields<'_>, field: u32) -> Result<u64, DecodeError> {
        match self {
            Value::Varint(number) => Ok(number),
            _ => Err(of.wrong_type(field)),
        }
    }

    /// An upper bound on the numbers that [`each_number`](Self::each_number) visits.
    pub(super) const fn max_numbers(&self) -> usize {
        match self {
            Value::Bytes(packed) => packed.len(),
            Value::Varint(_) | Value::Skipped => 1,
        }
    }

    /// Visits each number of a repeated field, packed or not.
    #[inline]
    pub(super) fn each_number(
        self,
        of: &Fields<'_>,
        field: u32,
        mut each: impl FnMut(u64) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        match self {
            Value::Varint(number) => each(number),
            Value::Bytes(mut packed) => {
                while !packed.is_empty() {
                    each(decode_varint(&mut packed).map_err(|e| of.malformed(e))?)?;
                }
                Ok(())
            }
            Value::Skipped => Err(of.wrong_type(field)),
        }
    }
}
