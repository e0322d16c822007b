//! Finds the mapping at an address, and the unwind tables of its image.

use image::{AddressSpace, Avma, Bias, MappingId, MappingKind, Memory, Svma};

use crate::arch::Arch;
use crate::code::code_around;
use crate::tables::{ImageIndex, Tables};

/// Mappings that are remembered; stacks rarely alternate between more.
const RECENT: usize = 4;

/// An executable mapping and the tables of its image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    start: Avma,
    end: Avma,
    pub(crate) id: MappingId,
    pub(crate) kind: MappingKind,
    pub(crate) image: Option<(ImageIndex, Bias)>,
}

impl Module {
    /// Whether the mapping contains the address.
    #[inline]
    pub(crate) fn contains(&self, addr: Avma) -> bool {
        self.start <= addr && addr < self.end
    }

    /// The image at an address, and the address in the image.
    pub(crate) fn svma(&self, addr: Avma) -> Option<(ImageIndex, Svma)> {
        let (image, bias) = self.image?;
        Some((image, bias.to_svma(addr)))
    }
}

/// Look-ups in one address space, cached while one stack is unwound. The borrow of the address
/// space keeps the cache from becoming stale.
pub(crate) struct Modules<'s> {
    space: &'s AddressSpace,
    recent: [Option<Module>; RECENT],
    last: usize,
    oldest: usize,
}

impl<'s> Modules<'s> {
    pub(crate) fn new(space: &'s AddressSpace) -> Self {
        Self { space, recent: [None; RECENT], last: 0, oldest: 0 }
    }

    /// The mapping at an address.
    #[inline]
    pub(crate) fn find<A: Arch>(&mut self, tables: &mut Tables, addr: Avma) -> Option<Module> {
        let hit = |module: &Option<Module>| module.filter(|p| p.contains(addr));
        if let Some(module) = hit(&self.recent[self.last]) {
            return Some(module);
        }
        for (i, module) in self.recent.iter().enumerate() {
            if let Some(module) = hit(module) {
                self.last = i;
                return Some(module);
            }
        }
        self.look_up::<A>(tables, addr)
    }

    fn look_up<A: Arch>(&mut self, tables: &mut Tables, addr: Avma) -> Option<Module> {
        let mapping = self.space.find(addr)?;
        let image = mapping.image.as_ref().ok().filter(|(image, _)| image.arch() == A::ARCH);
        let module = Module {
            start: mapping.start,
            end: mapping.end,
            id: mapping.id,
            kind: mapping.kind,
            image: image.map(|(image, bias)| (tables.image::<A>(image), *bias)),
        };
        self.last = self.oldest;
        self.recent[self.last] = Some(module);
        self.oldest = (self.oldest + 1) % RECENT;
        Some(module)
    }
}

/// Up to 16 bytes of code on each side of an address, from the image or else from memory.
pub(crate) struct Code {
    before: Vec<u8>,
    at: Vec<u8>,
}

impl Code {
    pub(crate) fn around<M: Memory>(
        tables: &Tables,
        module: &Module,
        pc: Avma,
        memory: &M,
    ) -> Self {
        if let Some((cfi, svma)) =
            module.svma(pc).and_then(|(image, svma)| Some((tables.cfi(image)?, svma)))
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
