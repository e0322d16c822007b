//! Follows the chain of frames of a thread that does not run, from outside. This is what the BPF
//! program of [`events::Chains`] does at the moment of a sample. The caller makes sure that the
//! thread does not run meanwhile.

use events::{ChainEnd, ChainFrame, ChainLayout};
use image::{Avma, Memory};

/// Maximum number of interpreters and threads that are searched; the same as in the BPF program.
const MAX_THREADS: usize = 1024;
/// Maximum number of frames; the same as in the BPF program.
const MAX_FRAMES: usize = 1000;
/// Maximum distance of fields that are read from one struct, in bytes. They are read at once, and
/// no real interpreter has offsets that are further apart.
const MAX_SPAN: usize = 4096;

/// Follows the chain of the thread with this thread pointer; innermost frame first.
pub(super) fn chain(
    memory: &impl Memory,
    layout: &ChainLayout,
    thread_pointer: u64,
) -> (ChainEnd, Vec<ChainFrame>) {
    let mut frames = Vec::new();
    let id = thread_pointer.wrapping_add(layout.thread_bias);
    let end = Walk { memory, layout }.follow(id, &mut frames);
    (end.unwrap_or(ChainEnd::Unreadable), frames)
}

struct Walk<'a, M> {
    memory: &'a M,
    layout: &'a ChainLayout,
}

impl<M: Memory> Walk<'_, M> {
    /// Appends the frames of a thread to `out`. `None` if memory cannot be read.
    fn follow(&self, id: u64, out: &mut Vec<ChainFrame>) -> Option<ChainEnd> {
        let l = self.layout;
        let Some(thread) = self.find_thread(id)? else { return Some(ChainEnd::NoThread) };
        let [mut frame] = self.fields(thread, [l.thread_frame])?;
        let (mut c_frame, mut outer) = (0, None);
        if l.flags & ChainLayout::THROUGH_C_FRAME != 0 {
            c_frame = frame;
            [frame] = self.fields(c_frame, [l.c_frame_current])?;
            outer = self.outer(c_frame)?;
        }
        while frame != 0 {
            if out.len() >= MAX_FRAMES {
                return Some(ChainEnd::TooMany);
            }
            let offsets = [l.frame_code, l.frame_instruction, l.frame_previous, l.frame_owner];
            let [code, instruction, previous, owner] = self.fields(frame, offsets)?;
            let owner = if l.frame_owner == 0 { 0 } else { owner as u8 };
            out.push(ChainFrame { address: frame, code, instruction, c_frame, owner });
            frame = previous;
            if let Some((before, at)) = outer
                && frame != 0
                && frame == at
            {
                c_frame = before;
                outer = self.outer(c_frame)?;
            }
        }
        Some(ChainEnd::Complete)
    }

    /// The previous C frame and its current interpreter frame, if the layout uses them to assign
    /// frames to C frames. The outer `None` means that memory cannot be read.
    fn outer(&self, c_frame: u64) -> Option<Option<(u64, u64)>> {
        let l = self.layout;
        if l.flags & ChainLayout::ANCHORED_BY_C_FRAMES == 0 {
            return Some(None);
        }
        let [before] = self.fields(c_frame, [l.c_frame_previous])?;
        if before == 0 {
            return Some(None);
        }
        let [at] = self.fields(before, [l.c_frame_current])?;
        Some(Some((before, at)))
    }

    fn find_thread(&self, id: u64) -> Option<Option<u64>> {
        let l = self.layout;
        let mut interpreter = self.memory.read_u64(Avma(l.head)).ok()?;
        let mut looked = 0;
        while interpreter != 0 && looked < MAX_THREADS {
            looked += 1;
            let links = [l.interpreter_next, l.interpreter_threads];
            let [next] = self.fields(interpreter, [links[0]])?;
            let [mut thread] = self.fields(interpreter, [links[1]])?;
            while thread != 0 && looked < MAX_THREADS {
                looked += 1;
                let [of_thread, next] = self.fields(thread, [l.thread_id, l.thread_next])?;
                if of_thread == id {
                    return Some(Some(thread));
                }
                thread = next;
            }
            interpreter = next;
        }
        Some(None)
    }

    /// Reads several words of one struct at once.
    fn fields<const N: usize>(&self, at: u64, offsets: [u32; N]) -> Option<[u64; N]> {
        let first = offsets.iter().copied().min()? as usize;
        let span = offsets.iter().copied().max()? as usize - first + 8;
        let mut bytes = [0; MAX_SPAN];
        let bytes = bytes.get_mut(..span)?;
        self.memory.read(Avma(at).wrapping_add(first as u64), bytes).ok()?;
        let word = |offset: u32| {
            let at = offset as usize - first;
            bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
        };
        Some(offsets.map(word))
    }
}

#[cfg(test)]
mod tests {
    use image::Unreadable;

    use super::*;

    /// Words from address 0x1000 on.
    struct Words(Vec<u64>);

    impl Memory for Words {
        fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
            let bytes: Vec<u8> = self.0.iter().flat_map(|w| w.to_le_bytes()).collect();
            let at = addr.0.checked_sub(0x1000).ok_or(Unreadable(addr))? as usize;
            let end = at.checked_add(buf.len()).ok_or(Unreadable(addr))?;
            buf.copy_from_slice(bytes.get(at..end).ok_or(Unreadable(addr))?);
            Ok(())
        }
    }

    /// Each struct has four words: interpreter (next, threads), thread (next, id, frame), C frame
    /// (current, previous), frame (code, previous, instruction).
    fn layout(flags: u32) -> ChainLayout {
        ChainLayout {
            head: 0x1000,
            interpreter_threads: 8,
            thread_id: 8,
            thread_frame: 16,
            flags,
            c_frame_previous: 8,
            frame_previous: 8,
            frame_instruction: 16,
            ..ChainLayout::default()
        }
    }

    fn at(row: u64) -> u64 {
        0x1000 + row * 32
    }

    fn words(rows: &[[u64; 4]]) -> Words {
        Words(rows.concat())
    }

    #[test]
    fn frames_belong_to_the_c_frame_that_they_were_reached_through() {
        let memory = words(&[
            [at(1), 0, 0, 0],
            [0, at(2), 0, 0],
            [at(3), 5, 0, 0],
            [0, 77, at(4), 0],
            // Two C frames and the thread's own.
            [at(7), at(5), 0, 0],
            [at(8), at(6), 0, 0],
            [0, 0, 0, 0],
            [0xc1, at(8), 1, 0],
            [0xc2, at(9), 2, 0],
            [0xc3, 0, 3, 0],
        ]);
        let flags = ChainLayout::THROUGH_C_FRAME | ChainLayout::ANCHORED_BY_C_FRAMES;
        let (end, frames) = chain(&memory, &layout(flags), 77);
        assert_eq!(end, ChainEnd::Complete);
        let seen: Vec<_> = frames.iter().map(|f| (f.code, f.instruction, f.c_frame)).collect();
        assert_eq!(seen, [(0xc1, 1, at(4)), (0xc2, 2, at(5)), (0xc3, 3, at(5))]);
        assert_eq!(chain(&memory, &layout(flags), 78).0, ChainEnd::NoThread);
    }

    #[test]
    fn chains_that_lead_nowhere_or_in_circles_end() {
        let rows =
            [[at(1), 0, 0, 0], [at(1), at(2), 0, 0], [at(2), 5, at(3), 0], [0xc1, at(3), 1, 0]];
        assert_eq!(chain(&words(&rows), &layout(0), 77).0, ChainEnd::NoThread);
        let (end, frames) = chain(&words(&rows), &layout(0), 5);
        assert_eq!((end, frames.len()), (ChainEnd::TooMany, MAX_FRAMES));
        assert_eq!(chain(&words(&rows[..3]), &layout(0), 5).0, ChainEnd::Unreadable);
        let scattered = ChainLayout { frame_instruction: u32::MAX, ..layout(0) };
        assert_eq!(chain(&words(&rows), &scattered, 5).0, ChainEnd::Unreadable);
    }
}
