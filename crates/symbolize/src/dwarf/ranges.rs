//! Matches addresses against the code ranges of units, functions and inlined calls.

use gimli::{Attribute, AttributeValue, DebugAddrIndex};

use super::fuel::{Dwarf, Fuel, Reader, Stop, Unit};

/// Fuel for a range, which takes about as long as four attributes.
const RANGE_COST: u64 = 4;

/// `DW_AT_low_pc`, `DW_AT_high_pc` and `DW_AT_ranges` of one DIE.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ranges<'a> {
    low: Option<AttributeValue<Reader<'a>>>,
    high: Option<AttributeValue<Reader<'a>>>,
    list: Option<AttributeValue<Reader<'a>>>,
}

impl<'a> Ranges<'a> {
    /// Stores an attribute, if it is one of the three.
    pub(crate) fn note(&mut self, attr: &Attribute<Reader<'a>>) {
        match attr.name() {
            gimli::DW_AT_low_pc => self.low = Some(attr.value()),
            gimli::DW_AT_high_pc => self.high = Some(attr.value()),
            gimli::DW_AT_ranges => self.list = Some(attr.value()),
            _ => {}
        }
    }

    /// Calls `f` with each non-empty range [begin, end). Returns whether there was any.
    pub(crate) fn each(
        &self,
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        fuel: &mut Fuel,
        mut f: impl FnMut(u64, u64, &mut Fuel) -> Result<(), Stop>,
    ) -> Result<bool, Stop> {
        let mut any = false;
        if let Some(list) = &self.list {
            let Some(offset) = dwarf.attr_ranges_offset(unit, *list)? else { return Ok(false) };
            let mut ranges = dwarf.ranges(unit, offset)?;
            while let Some(r) = ranges.next()? {
                fuel.spend(RANGE_COST)?;
                if r.begin < r.end {
                    any = true;
                    f(r.begin, r.end, fuel)?;
                }
            }
            return Ok(any);
        }
        let Some(low) = self.low.as_ref().map(|v| address(dwarf, unit, v)).transpose()?.flatten()
        else {
            return Ok(false);
        };
        let high = match &self.high {
            Some(AttributeValue::Udata(size)) => low.checked_add(*size),
            Some(value) => address(dwarf, unit, value)?,
            None => None,
        };
        if let Some(high) = high.filter(|&h| low < h) {
            any = true;
            f(low, high, fuel)?;
        }
        Ok(any)
    }
}

/// The value of an attribute of class address.
pub(crate) fn address<'a>(
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    value: &AttributeValue<Reader<'a>>,
) -> gimli::Result<Option<u64>> {
    match value {
        AttributeValue::Addr(a) => Ok(Some(*a)),
        AttributeValue::DebugAddrIndex(DebugAddrIndex(i)) => {
            dwarf.address(unit, DebugAddrIndex(*i)).map(Some)
        }
        _ => Ok(None),
    }
}

/// The numbers of the sorted addresses in [begin, end).
pub(crate) fn inside(sorted: &[u64], begin: u64, end: u64) -> std::ops::Range<usize> {
    let first = sorted.partition_point(|&a| a < begin);
    let count = sorted[first..].iter().take_while(|&&a| a < end).count();
    first..first + count
}

/// Which units claim to contain which addresses.
pub(crate) struct Claims<'b> {
    sorted: &'b [u64],
    pairs: Vec<(u32, u32)>,
    counts: Vec<u8>,
    /// Addresses that were claimed in an earlier round, which take no more claims.
    closed: Vec<bool>,
    limit: u8,
}

impl<'b> Claims<'b> {
    pub(crate) fn new(sorted: &'b [u64], limit: u8) -> Self {
        let (counts, closed) = (vec![0; sorted.len()], vec![false; sorted.len()]);
        Self { sorted, pairs: Vec::new(), counts, closed, limit }
    }

    /// Adds the claim of a unit to [begin, end). Claims beyond the limit for an address are
    /// dropped.
    pub(crate) fn add(
        &mut self,
        unit: usize,
        begin: u64,
        end: u64,
        fuel: &mut Fuel,
    ) -> Result<(), Stop> {
        let hit = inside(self.sorted, begin, end);
        fuel.spend(hit.len() as u64)?;
        for i in hit {
            if self.counts[i] < self.limit && !self.closed[i] {
                self.counts[i] += 1;
                self.pairs.push((unit as u32, i as u32));
            }
        }
        Ok(())
    }

    /// Ends a round. Returns its distinct pairs (unit, address), sorted.
    pub(crate) fn take(&mut self) -> Vec<(u32, u32)> {
        self.closed = self.counts.iter().map(|&c| c > 0).collect();
        let mut pairs = std::mem::take(&mut self.pairs);
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// The numbers of the addresses that no unit claims.
    pub(crate) fn unclaimed(&self) -> Vec<u32> {
        (0..self.counts.len() as u32).filter(|&i| self.counts[i as usize] == 0).collect()
    }
}
