//! Caches the unwind tables of images and the rules that were built from them.

use std::sync::Arc;

use gimli::{UnwindContext, UnwindContextStorage, UnwindTableRow};
use image::{ElfImage, Svma};
use rustc_hash::FxHashMap;

use crate::arch::Arch;
use crate::cfi::{Fde, Frames, ImageCfi, Lookup};
use crate::code::code_around;
use crate::follow::{FollowResult, Follower};
use crate::rule::{Compiled, Rule, WideRule, compile};

/// Limit of cached rules: 24 MiB at 48 bytes an entry, with the spare room of the hash table.
const MAX_RULES: usize = 1 << 18;
/// Limit of wide rules. Each holds its expressions, which take some KiB in a hostile file.
const MAX_WIDE: usize = 1 << 12;
/// Limit of results of following code, of up to some 200 bytes each.
const MAX_FOLLOWED: usize = 1 << 16;
/// Entries of the first-level cache, a power of two: at 48 bytes each it fits into the L2 cache.
const HOT: usize = 1 << 12;
/// Limit of images, which their tables keep alive.
const MAX_IMAGES: usize = 1 << 12;

/// Fixed storage for gimli: rules for all registers that compilers mention (general, pseudo and
/// vector registers), and more nested remember/restore pairs than they write.
struct Storage;

impl UnwindContextStorage<usize> for Storage {
    type Rules = [(gimli::Register, gimli::RegisterRule<usize>); 128];
    type Stack = Box<[UnwindTableRow<usize, Self>; 16]>;
}

/// Identifies an image within [`Tables`], until [`Tables::trim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ImageIndex(u32);

/// How often rules were found in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Rules taken from the cache.
    pub hits: u64,
    /// Rules compiled from call frame information.
    pub misses: u64,
    /// How often the cache was full and was cleared.
    pub cleared: u64,
}

pub(crate) struct Tables {
    images: Vec<ImageCfi>,
    // By the address of the image. The reference in `images` keeps the address from being reused.
    by_address: FxHashMap<usize, ImageIndex>,
    rules: FxHashMap<Key, Rule>,
    /// A direct-mapped first-level cache of `rules`.
    hot: Box<[Option<(Key, Rule)>]>,
    wide: Vec<WideRule>,
    follower: Follower,
    followed: Vec<FollowResult>,
    context: UnwindContext<usize, Storage>,
    pub(crate) stats: CacheStats,
}

/// An exact program counter and a return address may have the same look-up address but different
/// rules (see [`Tables::build_rule`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    lookup: u64,
    image: ImageIndex,
    exact: bool,
}

impl Key {
    /// The index in the first-level cache.
    #[inline]
    fn slot(self) -> usize {
        let mixed = self.lookup ^ u64::from(self.image.0) << 40 ^ u64::from(self.exact) << 63;
        // Fibonacci hashing: the product's high bits depend on all of the address.
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HOT.trailing_zeros())) as usize
    }
}

impl Tables {
    pub(crate) fn new() -> Self {
        Self {
            images: Vec::new(),
            by_address: FxHashMap::default(),
            rules: FxHashMap::default(),
            hot: vec![None; HOT].into(),
            wide: Vec::new(),
            follower: Follower::new(),
            followed: Vec::new(),
            context: UnwindContext::new_in(),
            stats: CacheStats::default(),
        }
    }

    /// Clears what exceeds its limit. To be called between stacks, since it invalidates indices.
    pub(crate) fn trim(&mut self) {
        self.follower.next_stack();
        let too_many_images = self.images.len() >= MAX_IMAGES;
        let too_many_wide = self.wide.len() >= MAX_WIDE || self.followed.len() >= MAX_FOLLOWED;
        if too_many_images || too_many_wide || self.rules.len() >= MAX_RULES {
            self.rules.clear();
            self.hot.fill(None);
            self.wide.clear();
            self.followed.clear();
            self.stats.cleared += 1;
            tracing::debug!(stats = ?self.stats, too_many_images, too_many_wide, "cleared the rule cache");
        }
        if too_many_images {
            self.images.clear();
            self.by_address.clear();
            self.follower.clear();
        }
    }

    /// The index of an image's tables, which are loaded on first use.
    pub(crate) fn image<A: Arch>(&mut self, image: &Arc<ElfImage>) -> ImageIndex {
        let address = Arc::as_ptr(image).addr();
        if let Some(index) = self.by_address.get(&address) {
            return *index;
        }
        let index = ImageIndex(u32::try_from(self.images.len()).unwrap_or(u32::MAX));
        self.images.push(ImageCfi::new(Arc::clone(image), A::VENDOR));
        self.by_address.insert(address, index);
        index
    }

    pub(crate) fn cfi(&self, index: ImageIndex) -> Option<&ImageCfi> {
        self.images.get(index.0 as usize)
    }

    pub(crate) fn wide(&self, index: u32) -> Option<&WideRule> {
        self.wide.get(index as usize)
    }

    /// The result of following code, for [`Rule::Followed`].
    pub(crate) fn followed(&self, index: u32) -> Option<&FollowResult> {
        self.followed.get(index as usize)
    }

    /// The rule for a program counter (`exact`) or a return address.
    #[inline]
    pub(crate) fn rule<A: Arch>(&mut self, image: ImageIndex, pc: Svma, exact: bool) -> Rule {
        let lookup = pc.0.wrapping_sub(u64::from(!exact));
        let key = Key { lookup, image, exact };
        let slot = key.slot();
        match &self.hot[slot] {
            Some((found, rule)) if *found == key => {
                self.stats.hits += 1;
                *rule
            }
            _ => self.rule_slow::<A>(key, pc, slot),
        }
    }

    #[inline(never)]
    fn rule_slow<A: Arch>(&mut self, key: Key, pc: Svma, slot: usize) -> Rule {
        let rule = if let Some(rule) = self.rules.get(&key) {
            self.stats.hits += 1;
            *rule
        } else {
            self.stats.misses += 1;
            let rule = self.build_rule::<A>(key.image, pc, Svma(key.lookup), key.exact);
            self.rules.insert(key, rule);
            rule
        };
        self.hot[slot] = Some((key, rule));
        rule
    }

    /// Builds the rule of an address from the call frame information, or else from the code.
    ///
    /// A signal handler returns to the *first* byte of the trampoline, which a look-up of the
    /// return address minus one misses. glibc's entry starts one byte early for this reason, those
    /// of other trampolines do not. So trampolines are recognized by their code, whatever the
    /// tables say. Any other return address that is the first byte of a function and follows no
    /// call was put there by hand: a context starts there (`makecontext`).
    #[cold]
    fn build_rule<A: Arch>(
        &mut self,
        index: ImageIndex,
        pc: Svma,
        lookup: Svma,
        exact: bool,
    ) -> Rule {
        let Self { images, wide, context, .. } = self;
        let Some(cfi) = images.get(index.0 as usize) else { return Rule::NoEntry };
        let (before, at) = code_around(cfi.image(), pc);
        if A::is_sigreturn(before, at) {
            return Rule::SignalFrame;
        }
        if let Some(rule) = cfi.go_function(lookup).and_then(|f| A::go_rule(&f, lookup)) {
            return rule;
        }
        let after_call = exact || before.is_empty() || A::ends_with_call(before);
        if !after_call && cfi.begins_function(pc, A::VENDOR) {
            return self.signal_entry_at::<A>(index, pc).unwrap_or(Rule::ContextStart);
        }
        let mut used =
            |fde: &Fde<'_>, section: Frames<'_>| row_of::<A>(cfi, fde, section, context, lookup);
        match cfi.with_fde(lookup, A::VENDOR, &mut used) {
            Lookup::Found(Compiled::Rule(rule)) => rule,
            Lookup::Found(Compiled::Wide(rule)) => {
                let Ok(index) = u32::try_from(wide.len()) else { return Rule::Bad };
                wide.push(rule);
                Rule::Wide(index)
            }
            Lookup::None => self.follow::<A>(index, pc, exact),
            Lookup::Bad => Rule::Bad,
        }
    }

    /// Follows the code, where no table covers the address. Not for Go and V8: their code changes
    /// stacks and jumps between functions, but keeps frame pointers.
    fn follow<A: Arch>(&mut self, index: ImageIndex, pc: Svma, exact: bool) -> Rule {
        let Some(cfi) = self.images.get(index.0 as usize) else { return Rule::NoEntry };
        if cfi.is_go() || cfi.is_builtin(pc) {
            return Rule::NoEntry;
        }
        let found = self.follower.follow::<A>((cfi.image(), index.0), pc, exact);
        if !found.ends_thread && found.rules.is_empty() {
            return Rule::NoEntry;
        }
        let Ok(index) = u32::try_from(self.followed.len()) else { return Rule::NoEntry };
        self.followed.push(found);
        Rule::Followed(index)
    }

    /// The rule of a signal trampoline that starts at `pc` but whose code is unknown.
    fn signal_entry_at<A: Arch>(&mut self, index: ImageIndex, pc: Svma) -> Option<Rule> {
        let Self { images, wide, context, .. } = self;
        let cfi = images.get(index.0 as usize)?;
        let mut used = |fde: &Fde<'_>, section: Frames<'_>| {
            let signal = fde.is_signal_trampoline();
            if signal { row_of::<A>(cfi, fde, section, context, pc) } else { None }
        };
        let Lookup::Found(Compiled::Wide(rule)) = cfi.with_fde(pc, A::VENDOR, &mut used) else {
            return None;
        };
        let index = u32::try_from(wide.len()).ok()?;
        wide.push(rule);
        Some(Rule::Wide(index))
    }
}

fn row_of<A: Arch>(
    cfi: &ImageCfi,
    fde: &Fde<'_>,
    section: Frames<'_>,
    context: &mut UnwindContext<usize, Storage>,
    lookup: Svma,
) -> Option<Compiled> {
    let bases = cfi.bases();
    let row = match section {
        Frames::Eh(s) => fde.unwind_info_for_address(s, bases, context, lookup.0),
        Frames::Debug(s) => fde.unwind_info_for_address(s, bases, context, lookup.0),
    };
    let cie = fde.cie();
    let return_address = cie.return_address_register().0;
    compile::<A, _>(row.ok()?, return_address, fde.is_signal_trampoline(), cie.encoding(), section)
}
