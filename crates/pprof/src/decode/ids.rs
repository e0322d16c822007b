//! Maps wire ids to positions in a table.

use std::collections::HashMap;

use super::error::DecodeError;
use super::limits::Budget;

/// Positions by id.
///
/// Ids up to the number of entries (in most files, all ids) are in a vector, others in a map. The map
/// is hashed with a random key, because the file's author chooses the ids.
pub(super) struct Ids {
    table: &'static str,
    /// Position + 1, or 0.
    dense: Vec<u32>,
    sparse: HashMap<u64, u32>,
}

impl Ids {
    pub(super) fn new(
        table: &'static str,
        entries: usize,
        budget: &mut Budget,
    ) -> Result<Self, DecodeError> {
        budget.charge((entries + 1) * size_of::<u32>())?;
        Ok(Self { table, dense: vec![0; entries + 1], sparse: HashMap::new() })
    }

    /// Records the position of an id.
    pub(super) fn insert(
        &mut self,
        id: u64,
        at: u32,
        budget: &mut Budget,
    ) -> Result<(), DecodeError> {
        if id == 0 {
            return Err(DecodeError::ZeroId { table: self.table });
        }
        let duplicate = DecodeError::DuplicateId { table: self.table, id };
        if let Some(slot) = usize::try_from(id).ok().and_then(|id| self.dense.get_mut(id)) {
            return if std::mem::replace(slot, at + 1) == 0 { Ok(()) } else { Err(duplicate) };
        }
        budget.charge(2 * size_of::<(u64, u32)>())?;
        if self.sparse.insert(id, at).is_none() { Ok(()) } else { Err(duplicate) }
    }

    /// The position of an id. Errors name `from`, the kind of entry that refers to it.
    #[inline]
    pub(super) fn get(&self, id: u64, from: &'static str) -> Result<u32, DecodeError> {
        let dense = usize::try_from(id).ok().and_then(|id| self.dense.get(id)).copied();
        match dense {
            Some(next) if next > 0 => Ok(next - 1),
            _ => self.get_sparse(id, from),
        }
    }

    #[cold]
    fn get_sparse(&self, id: u64, from: &'static str) -> Result<u32, DecodeError> {
        let found = self.sparse.get(&id).copied();
        found.ok_or(DecodeError::DanglingId { from, table: self.table, id })
    }
}
