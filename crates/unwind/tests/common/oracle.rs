//! Unwinds with framehop, as an oracle that shares no code with our unwinder.

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder as _};
use image::Memory;

use super::{Recording, Stop};

/// framehop, loaded with the images of a recording.
pub struct Framehop {
    unwinder: UnwinderX86_64<Vec<u8>>,
    cache: CacheX86_64,
}

impl Framehop {
    pub fn new(recording: &Recording) -> Self {
        let mut unwinder = UnwinderX86_64::new();
        for mapping in recording.space.iter() {
            let Ok((image, bias)) = &mapping.image else { continue };
            let base = image.segments().iter().map(|s| s.svma).min().unwrap();
            let data = |name| image.section(name).map(|s| s.data.to_vec());
            let range = |name| image.section(name).map(|s| s.svma.0..s.svma.0 + s.size);
            let sections = ExplicitModuleSectionInfo {
                base_svma: base.0,
                text_svma: range(".text"),
                text: data(".text"),
                got_svma: range(".got"),
                eh_frame_svma: range(".eh_frame"),
                eh_frame: data(".eh_frame"),
                eh_frame_hdr_svma: range(".eh_frame_hdr"),
                eh_frame_hdr: data(".eh_frame_hdr"),
                ..Default::default()
            };
            let range = mapping.start.0..mapping.end.0;
            let base = bias.to_avma(base).0;
            unwinder.add_module(Module::new(mapping.name.to_string(), range, base, sections));
        }
        Self { unwinder, cache: CacheX86_64::new() }
    }

    /// The frames, without how the stack ends: framehop treats an undefined return address as an
    /// error.
    pub fn frames(&mut self, stop: &Stop) -> Vec<u64> {
        self.frames_in(stop, &stop.memory)
    }

    /// Like [`Framehop::frames`], with other memory.
    pub fn frames_in<M: Memory>(&mut self, stop: &Stop, memory: &M) -> Vec<u64> {
        let r = &stop.registers;
        let (pc, sp, bp) = (r.pc().unwrap().0, r.sp().unwrap().0, r.fp().unwrap());
        let mut read = |at| memory.read_u64(image::Avma(at)).map_err(|_| ());
        let regs = UnwindRegsX86_64::new(pc, sp, bp);
        let mut frames = self.unwinder.iter_frames(pc, regs, &mut self.cache, &mut read);
        std::iter::from_fn(|| frames.next().ok().flatten()).map(|f| f.address()).collect()
    }
}
