//! Which mapping an address lies in, and the image's tables there.

use image::{AddressSpace, Avma, Bias, MappingId, MappingKind, Memory, Svma};

use crate::arch::Arch;
use crate::tables::{ImageIndex, Tables, code_around};

/// A stack seldom alternates between more mappings.
const RECENT: usize = 4;

/// One executable mapping with its tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    start: Avma,
    end: Avma,
    pub(crate) id: MappingId,
    pub(crate) kind: MappingKind,
    pub(crate) image: Option<(ImageIndex, Bias)>,
}

impl Place {
    /// Whether the address lies in it.
    #[inline]
    pub(crate) fn contains(&self, addr: Avma) -> bool {
        self.start <= addr && addr < self.end
    }

    /// What the image calls the address.
    pub(crate) fn svma(&self, addr: Avma) -> Option<(ImageIndex, Svma)> {
        let (image, bias) = self.image?;
        Some((image, bias.to_svma(addr)))
    }
}

/// Look-ups in one address space, remembered for one stack: a look-up that outlived the borrow of
/// the address space could be out of date.
pub(crate) struct Places<'s> {
    space: &'s AddressSpace,
    recent: [Option<Place>; RECENT],
    last: usize,
    oldest: usize,
}

impl<'s> Places<'s> {
    pub(crate) fn new(space: &'s AddressSpace) -> Self {
        Self { space, recent: [None; RECENT], last: 0, oldest: 0 }
    }

    /// The mapping at an address.
    #[inline]
    pub(crate) fn find<A: Arch>(&mut self, tables: &mut Tables, addr: Avma) -> Option<Place> {
        let hit = |place: &Option<Place>| place.filter(|p| p.contains(addr));
        if let Some(place) = hit(&self.recent[self.last]) {
            return Some(place);
        }
        for (i, place) in self.recent.iter().enumerate() {
            if let Some(place) = hit(place) {
                self.last = i;
                return Some(place);
            }
        }
        self.look_up::<A>(tables, addr)
    }

    fn look_up<A: Arch>(&mut self, tables: &mut Tables, addr: Avma) -> Option<Place> {
        let mapping = self.space.find(addr)?;
        let image = mapping.image.as_ref().ok().filter(|(image, _)| image.arch() == A::ARCH);
        let place = Place {
            start: mapping.start,
            end: mapping.end,
            id: mapping.id,
            kind: mapping.kind,
            image: image.map(|(image, bias)| (tables.image::<A>(image), *bias)),
        };
        self.last = self.oldest;
        self.recent[self.last] = Some(place);
        self.oldest = (self.oldest + 1) % RECENT;
        Some(place)
    }
}

/// Up to 16 bytes of code on each side of an address: from the image, else from memory.
pub(crate) struct Code {
    before: Vec<u8>,
    at: Vec<u8>,
}

impl Code {
    pub(crate) fn around<M: Memory>(tables: &Tables, place: &Place, pc: Avma, memory: &M) -> Self {
        if let Some((cfi, svma)) =
            place.svma(pc).and_then(|(image, svma)| Some((tables.cfi(image)?, svma)))
        {
            let (before, at) = code_around(cfi.image(), svma);
            return Self { before: before.into(), at: at.into() };
        }
        let read = |start: Avma| {
            let mut bytes = [0; 16];
            memory.read(start, &mut bytes).map_or(Vec::new(), |()| bytes.into())
        };
        Self { before: read(pc.wrapping_sub(16)), at: read(pc) }
    }

    /// The code that ends at the address.
    pub(crate) fn before(&self) -> &[u8] {
        &self.before
    }

    /// The code that begins at the address.
    pub(crate) fn at(&self) -> &[u8] {
        &self.at
    }
}
