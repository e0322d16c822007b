//! Walks the DIEs of a unit to find the function and the inlined calls at each address.

use std::ops::Range;

use gimli::{AttributeValue, EntriesRaw, UnitOffset};

use super::fuel::{Dwarf, Fuel, Reader, Stop, Unit};
use super::ranges::{Ranges, inside};

/// Limit of the nesting of functions and inlined calls. Compilers stop inlining long before.
const MAX_DEPTH: usize = 256;

/// Where an inlined function was called.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CallSite {
    /// `DW_AT_call_file`: an index into the files of the line program.
    pub(crate) file: Option<u64>,
    /// `DW_AT_call_line`.
    pub(crate) line: Option<u32>,
    /// `DW_AT_call_column`.
    pub(crate) column: Option<u32>,
}

/// A function or an inlined call that holds an address.
#[derive(Debug)]
pub(crate) struct Node {
    parent: Option<u32>,
    pub(crate) die: UnitOffset,
    /// For an inlined call: its position in the caller.
    pub(crate) call: CallSite,
}

/// The innermost node at an address.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    node: u32,
    /// The node of the physical function.
    function: u32,
    /// The number of inlined calls around the address.
    inlined: usize,
    begin: u64,
}

/// A DIE whose children are being walked.
struct Scope {
    depth: isize,
    die: UnitOffset,
    call: CallSite,
    /// Created when an address needs it, so that memory is in proportion to the addresses.
    node: Option<u32>,
    /// The node of the physical function; `None` if that holds no address.
    function: Option<u32>,
    inlined: usize,
}

/// A walk and its results.
pub(crate) struct Walk<'b> {
    sorted: &'b [u64],
    nodes: Vec<Node>,
    leaves: Vec<Option<Leaf>>,
    missing: usize,
    scopes: Vec<Scope>,
}

impl<'b> Walk<'b> {
    /// A walk for addresses that are sorted and distinct.
    pub(crate) fn new(sorted: &'b [u64]) -> Self {
        Self {
            sorted,
            nodes: Vec::new(),
            leaves: vec![None; sorted.len()],
            missing: sorted.len(),
            scopes: Vec::new(),
        }
    }

    /// Walks until each address has its function. Results from before an error are kept.
    ///
    /// The first walk skips the children of types and of functions that hold no address, if the
    /// compiler says where they end: that is most of a unit. There may be functions among them
    /// (nested ones, those of local classes), which a second walk finds if an address is left.
    pub(crate) fn run<'a>(
        &mut self,
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        fuel: &mut Fuel,
    ) -> Result<(), Stop> {
        if self.walk(dwarf, unit, true, fuel)? && self.missing > 0 {
            self.scopes.clear();
            self.walk(dwarf, unit, false, fuel)?;
        }
        Ok(())
    }

    /// One walk. Returns whether anything was skipped.
    fn walk<'a>(
        &mut self,
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        may_skip: bool,
        fuel: &mut Fuel,
    ) -> Result<bool, Stop> {
        let mut entries = unit.entries_raw(None)?;
        // The depth at which `entries` was restarted.
        let mut base = 0;
        let mut skipped = false;
        while !entries.is_empty() {
            let (die, depth) = (entries.next_offset(), base + entries.next_depth());
            let Some(abbrev) = entries.read_abbreviation()? else { continue };
            fuel.spend(abbrev.attributes().len() as u64 + 1)?;
            while self.scopes.last().is_some_and(|s| s.depth >= depth) {
                self.scopes.pop();
            }
            if self.missing == 0 && self.scopes.is_empty() {
                return Ok(skipped);
            }
            let inside_hit = self.scopes.last().is_some_and(|s| s.function.is_some());
            let (is_function, is_inlined) = match abbrev.tag() {
                gimli::DW_TAG_subprogram => (true, false),
                gimli::DW_TAG_inlined_subroutine => (false, inside_hit),
                _ => (false, false),
            };
            let opaque = may_skip && !inside_hit && abbrev.has_children() && !is_open(abbrev.tag());
            if !(is_function || is_inlined) || self.scopes.len() >= MAX_DEPTH {
                let sibling = skip(&mut entries, abbrev, opaque)?;
                if let Some(next) = sibling.filter(|next| *next >= entries.next_offset()) {
                    (entries, base, skipped) = (unit.entries_raw(Some(next))?, depth, true);
                }
                continue;
            }
            let (ranges, call, sibling) = attributes(&mut entries, abbrev, unit)?;
            let mut scope = Scope { depth, die, call, node: None, function: None, inlined: 0 };
            if let (true, Some(outer)) = (is_inlined, self.scopes.last()) {
                (scope.function, scope.inlined) = (outer.function, outer.inlined + 1);
            }
            ranges.each(dwarf, unit, fuel, |begin, end, fuel| {
                let hit = inside(self.sorted, begin, end);
                fuel.spend(hit.len() as u64)?;
                if !hit.is_empty() {
                    self.take(&mut scope, hit, begin);
                }
                Ok(())
            })?;
            let sibling = sibling.filter(|next| *next >= entries.next_offset());
            if let (true, None, Some(next)) = (opaque, scope.function, sibling) {
                (entries, base, skipped) = (unit.entries_raw(Some(next))?, depth, true);
            } else if abbrev.has_children() {
                self.scopes.push(scope);
            }
        }
        Ok(skipped)
    }

    /// Records that the scope covers some addresses.
    fn take(&mut self, scope: &mut Scope, hit: Range<usize>, begin: u64) {
        for i in hit {
            let wanted = match (self.leaves[i], scope.inlined) {
                // Folded functions share their code; the first one is used.
                (None, 0) => true,
                (Some(_), 0) | (None, _) => false,
                (Some(leaf), n) => scope.function == Some(leaf.function) && n > leaf.inlined,
            };
            if !wanted {
                continue;
            }
            let node = self.node_of(scope);
            let function = *scope.function.get_or_insert(node);
            match &mut self.leaves[i] {
                Some(leaf) => (leaf.node, leaf.inlined) = (node, scope.inlined),
                none => {
                    *none = Some(Leaf { node, function, inlined: 0, begin });
                    self.missing -= 1;
                }
            }
        }
    }

    /// The node of a scope. If it is an inlined call, its parents are the open scopes.
    fn node_of(&mut self, scope: &mut Scope) -> u32 {
        if let Some(node) = scope.node {
            return node;
        }
        let mut parent = None;
        if scope.inlined > 0 {
            let first = self.scopes.len() - scope.inlined.min(self.scopes.len());
            for outer in &mut self.scopes[first..] {
                let node = outer.node.unwrap_or_else(|| {
                    self.nodes.push(Node { parent, die: outer.die, call: outer.call });
                    self.nodes.len() as u32 - 1
                });
                outer.node = Some(node);
                parent = Some(node);
            }
        }
        self.nodes.push(Node { parent, die: scope.die, call: scope.call });
        let node = self.nodes.len() as u32 - 1;
        scope.node = Some(node);
        node
    }

    /// For the address of that number: the start of the function's contiguous code, and the nodes
    /// from the innermost inlined call to the physical function.
    pub(crate) fn chain(&self, number: usize) -> Option<(u64, impl Iterator<Item = &Node>)> {
        let leaf = self.leaves.get(number)?.as_ref()?;
        let node = |n: u32| self.nodes.get(n as usize);
        let chain = std::iter::successors(node(leaf.node), move |n| node(n.parent?));
        Some((leaf.begin, chain))
    }
}

/// Whether such a DIE commonly contains functions, so that it is never skipped.
fn is_open(tag: gimli::DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_compile_unit
            | gimli::DW_TAG_partial_unit
            | gimli::DW_TAG_namespace
            | gimli::DW_TAG_module
    )
}

/// Skips the attributes of a DIE. If `sibling`, returns where its children end, if that is known.
fn skip(
    entries: &mut EntriesRaw<'_, Reader<'_>>,
    abbrev: &gimli::Abbreviation,
    sibling: bool,
) -> gimli::Result<Option<UnitOffset>> {
    let specs = abbrev.attributes();
    let at = specs.iter().position(|s| sibling && s.name() == gimli::DW_AT_sibling);
    let Some(at) = at else {
        entries.skip_attributes(specs)?;
        return Ok(None);
    };
    entries.skip_attributes(&specs[..at])?;
    let value = entries.read_attribute(specs[at])?.value();
    entries.skip_attributes(&specs[at + 1..])?;
    Ok(match value {
        AttributeValue::UnitRef(offset) => Some(offset),
        _ => None,
    })
}

fn attributes<'a>(
    entries: &mut EntriesRaw<'_, Reader<'a>>,
    abbrev: &gimli::Abbreviation,
    unit: &Unit<'a>,
) -> gimli::Result<(Ranges<'a>, CallSite, Option<UnitOffset>)> {
    let (mut ranges, mut call) = (Ranges::default(), CallSite::default());
    let mut sibling = None;
    let number = |attr: &gimli::Attribute<Reader<'a>>| {
        attr.udata_value().and_then(|v| u32::try_from(v).ok()).filter(|&v| v != 0)
    };
    for spec in abbrev.attributes() {
        let attr = entries.read_attribute(*spec)?;
        ranges.note(&attr);
        match attr.name() {
            gimli::DW_AT_call_file => {
                if let AttributeValue::FileIndex(file) = attr.value() {
                    // Before DWARF 5, 0 means no file.
                    call.file = (file > 0 || unit.header.version() >= 5).then_some(file);
                }
            }
            gimli::DW_AT_call_line => call.line = number(&attr),
            gimli::DW_AT_call_column => call.column = number(&attr),
            gimli::DW_AT_sibling => {
                if let AttributeValue::UnitRef(offset) = attr.value() {
                    sibling = Some(offset);
                }
            }
            _ => {}
        }
    }
    Ok((ranges, call, sibling))
}
