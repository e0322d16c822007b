//! Code without call frame information: only ways that the code itself confirms.
//!
//! | frame | code | way |
//! |---|---|---|
//! | any | an image, not of Go: musl has no tables | by following the code to its `ret` ([`crate::follow`]), if a call confirms it; else: |
//! | leaf | in no mapping (a call through a null pointer) | frameless, if a call confirms it |
//! | leaf | an image with tables, but no entry here (glibc's `clone3` at its `syscall`) | frameless, if a call confirms it |
//! | leaf | no tables at all (JIT) | by its instructions, or frameless if a direct call confirms it, else the frame pointer |
//! | leaf | V8's builtins | by its instructions, or frameless if there may be a return address, else the frame pointer |
//! | caller | no tables at all (JIT), V8's builtins, or Go | frame pointer |
//! | caller | an image with tables, but no entry here | frame pointer, if a direct call to this very code, or the set-up of a frame record in it, confirms it |
//!
//! Code of anonymous mappings is read from the memory that is given; where that does not hold
//! it, a leaf that has not yet set up its frame record cannot be told from one that has.
//!
//! Frameless means that the stack is as the call left it. A leaf is any frame whose program
//! counter is exact: also one that a signal interrupted.

use std::sync::Arc;

use image::{Avma, MappingKind, Memory};

use crate::arch::{Arch, Stage};
use crate::end::{BreakReason, RootReason};
use crate::go::Switching;
use crate::places::{Code, Place};
use crate::rule::{Narrow, SAME};
use crate::step::{Stepper, broken, check_cfa, unreadable};
use crate::tables::code_before;
use crate::{Cursor, End, FrameKind};

/// How far after its entry point `_start` may still be.
const START_LENGTH: u64 = 64;
/// A function that a direct call is taken to have entered is no longer than this.
const FUNCTION_LENGTH: u64 = 1 << 20;
/// How far back the set-up of a frame record is looked for, in bytes…
const NEAR: u32 = 1 << 10;
/// …and how far back [`Cursor::searches`] times a stack.
const FAR: u32 = 32 << 10;

impl<M: Memory> Stepper<'_, M> {
    #[cold]
    pub(crate) fn without_rule<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        place: Option<Place>,
        followed: Option<u32>,
    ) -> Result<(), End> {
        let Some(place) = place else {
            let reason = BreakReason::NoMapping;
            return if cursor.kind.is_exact() {
                self.confirmed_frameless::<A>(cursor, reason)
            } else {
                broken(reason)
            };
        };
        if self.is_entry_point(cursor, &place) {
            return Err(End::Root(RootReason::EntryPoint));
        }
        let code = Code::around(self.tables, &place, cursor.pc, self.memory);
        if !cursor.kind.is_exact() && A::ends_thread(code.at()) {
            return Err(End::Root(RootReason::ThreadExit));
        }
        let keeps_frame_pointers = place
            .image
            .and_then(|(image, _)| self.tables.cfi(image))
            .is_none_or(crate::cfi::ImageCfi::keeps_frame_pointers);
        if let Some(switching) = self.switching(cursor, &place) {
            return self
                .leave_stack::<A>(cursor, &switching)
                .unwrap_or_else(|| self.frame_pointer_elsewhere::<A>(cursor, &switching));
        }
        let is_builtin = place.svma(cursor.lookup_address()).is_some_and(|(image, svma)| {
            self.tables.cfi(image).is_some_and(|cfi| cfi.is_builtin(svma))
        });
        if let Some(index) = followed {
            match self.by_code::<A>(cursor, index) {
                Err(End::Broken(_)) => {}
                // Nothing lies above the stack that a new thread begins on.
                Err(End::Truncated { .. })
                    if A::begins_thread(code.before(), &cursor.registers) => {}
                stepped => return stepped,
            }
        }
        match (keeps_frame_pointers, cursor.kind.is_exact()) {
            (false, true) if is_builtin => self.builtin_leaf::<A>(cursor, &code),
            (false, false) if is_builtin => self.frame_pointer::<A>(cursor, None),
            _ if place.kind == MappingKind::Vsyscall => self.frameless::<A>(cursor),
            (true, true) => self.leaf_with_frame_pointer::<A>(cursor, &code),
            (true, false) => self.frame_pointer::<A>(cursor, None),
            (false, true) => self
                .confirmed_frameless::<A>(cursor, BreakReason::NoUnwindInfo)
                .or_else(|end| match end {
                    End::Broken(_) | End::Truncated { .. }
                        if A::begins_thread(code.before(), &cursor.registers) =>
                    {
                        Err(End::Root(RootReason::ThreadBegin))
                    }
                    End::Broken(_) => self.frame_pointer::<A>(cursor, Some(place)),
                    end => Err(end),
                }),
            (false, false) => self.frame_pointer::<A>(cursor, Some(place)),
        }
    }

    /// By what the code says of its frame, where that leads to a return address.
    fn by_code<A: Arch>(&mut self, cursor: &mut Cursor, index: u32) -> Result<(), End> {
        let Some(followed) = self.tables.followed(index) else {
            return broken(BreakReason::NoUnwindInfo);
        };
        if followed.ends_thread {
            return Err(End::Root(RootReason::ThreadExit));
        }
        let ways = Arc::clone(&followed.ways);
        let sure = followed.sure && ways.len() == 1;
        let (mut found, mut end) = (None, End::Broken(BreakReason::NoUnwindInfo));
        for way in &*ways {
            let Some((cfa, slot)) = frame_of(cursor, way) else { continue };
            let return_address = match slot {
                Some(at) => self.word(cursor, at),
                None => cursor.registers.get(A::RA).ok_or(end),
            };
            let pc = match return_address {
                Ok(address) => Avma(address & !self.pac_mask),
                Err(unknown) => {
                    end = unknown;
                    continue;
                }
            };
            // The bytes of JIT code are not at hand.
            let may_be_jit = sure && self.place::<A>(pc.wrapping_sub(1)).is_some();
            match self.follows_call::<A>(pc) {
                Some(true) => {}
                None if may_be_jit => {}
                _ => continue,
            }
            if found.is_some_and(|(known, _)| known != cfa) {
                return broken(BreakReason::NoUnwindInfo);
            }
            found = found.or(Some((cfa, way)));
        }
        found.map_or(Err(end), |(_, way)| self.narrow::<A>(way, cursor))
    }

    /// The Go function that holds the cursor, if it sets the stack pointer by itself, as
    /// `runtime.systemstack` does.
    fn switching(&self, cursor: &Cursor, place: &Place) -> Option<Switching> {
        let lookup = cursor.lookup_address();
        let (image, svma) = place.svma(lookup)?;
        Switching::of(&self.tables.cfi(image)?.go_function(svma)?, svma)
    }

    /// The frame record may lie on another stack: the call before its return address vouches.
    fn frame_pointer_elsewhere<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        switching: &Switching,
    ) -> Result<(), End> {
        cursor.go.at_switch = true;
        let Some(fp) = cursor.registers.get(A::FP) else {
            return broken(BreakReason::UnknownRegister(A::FP));
        };
        if fp == 0 {
            return Err(End::Root(RootReason::FrameChainEnd));
        }
        if fp & 7 != 0 {
            return broken(BreakReason::BadCfa);
        }
        // Before Go 1.21 it keeps no record of its own: the register holds its caller's, which
        // would leave that caller out.
        if !cursor.kind.is_exact() && switching.depth == Some(0) {
            return Err(unreadable(cursor.floor, Avma(fp)));
        }
        self.frame_record::<A>(cursor, fp, None)?;
        cursor.go.at_switch = false;
        Ok(())
    }

    fn is_entry_point(&self, cursor: &Cursor, place: &Place) -> bool {
        let Some((image, svma)) = place.svma(cursor.lookup_address()) else { return false };
        let entry = self.tables.cfi(image).map(|cfi| cfi.image().entry());
        entry.is_some_and(|e| e.0 != 0 && svma >= e && svma.0 - e.0 < START_LENGTH)
    }

    fn leaf_with_frame_pointer<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        code: &Code,
    ) -> Result<(), End> {
        match A::stage(code.before(), code.at()) {
            Stage::Frameless => self.frameless::<A>(cursor),
            Stage::Pushed => self.pushed::<A>(cursor),
            Stage::Body if self.is_called_near::<A>(cursor) => self.frameless::<A>(cursor),
            Stage::Body => self.frame_pointer::<A>(cursor, None).or_else(|end| match end {
                End::Broken(reason) => self.confirmed_frameless::<A>(cursor, reason),
                end => Err(end),
            }),
        }
    }

    /// Builtins that need no frame have the return address on top, be it that of JIT code, whose
    /// bytes are not at hand: of an interpreted function nothing else is on the stack, and the frame
    /// pointer is its own. What a builtin with a frame has there is no address of code.
    fn builtin_leaf<A: Arch>(&mut self, cursor: &mut Cursor, code: &Code) -> Result<(), End> {
        match A::stage(code.before(), code.at()) {
            Stage::Frameless => self.frameless::<A>(cursor),
            Stage::Pushed => self.pushed::<A>(cursor),
            Stage::Body => {
                let sp = cursor.registers.get(A::SP).map(Avma);
                let top = sp.map(|sp| A::frameless(&cursor.registers, sp, self.memory));
                let pc = top.and_then(Result::ok).map(|(to, _)| Avma(to & !self.pac_mask));
                let returns = pc.is_some_and(|pc| {
                    self.place::<A>(pc.wrapping_sub(1)).is_some()
                        && self.follows_call::<A>(pc) != Some(false)
                });
                if returns {
                    self.frameless::<A>(cursor)
                } else {
                    self.frame_pointer::<A>(cursor, None)
                }
            }
        }
    }

    /// The frame record is complete, but the frame pointer still the caller's.
    fn pushed<A: Arch>(&mut self, cursor: &mut Cursor) -> Result<(), End> {
        let sp = cursor.registers.get(A::SP);
        let sp = sp.ok_or(End::Broken(BreakReason::UnknownRegister(A::SP)))?;
        self.frame_record::<A>(cursor, sp, None)
    }

    /// Whether the return address lies on top of the stack (or in the link register) and comes
    /// after a call to code shortly before the leaf's program counter: the frame pointer is then
    /// still the caller's, and would leave that caller out.
    fn is_called_near<A: Arch>(&mut self, cursor: &Cursor) -> bool {
        let Some(sp) = cursor.registers.get(A::SP).map(Avma) else { return false };
        let Ok((to, _)) = A::frameless(&cursor.registers, sp, self.memory) else { return false };
        let pc = Avma(to & !self.pac_mask);
        self.direct_call_target::<A>(pc).is_some_and(|target| is_near(cursor, target))
    }

    /// The stack as a call left it, without confirmation.
    fn frameless<A: Arch>(&mut self, cursor: &mut Cursor) -> Result<(), End> {
        let Some(sp) = cursor.registers.get(A::SP).map(Avma) else {
            return broken(BreakReason::UnknownRegister(A::SP));
        };
        let (return_address, cfa) = A::frameless(&cursor.registers, sp, self.memory)
            .map_err(|at| unreadable(cursor.floor, at.0))?;
        check_cfa::<A>(cursor, cfa, true)?;
        let pc = self.admit::<A>(cursor, cfa, return_address)?;
        cursor.registers.set(A::RA, return_address);
        cursor.registers.set(A::SP, cfa);
        cursor.enter::<A>(pc, cfa, FrameKind::Return);
        Ok(())
    }

    /// As [`Self::frameless`], if the return address is one: a call comes before it. `reason` is
    /// what to say otherwise.
    fn confirmed_frameless<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        reason: BreakReason,
    ) -> Result<(), End> {
        let sp = cursor.registers.get(A::SP).map(Avma).ok_or(End::Broken(reason))?;
        let (return_address, _) = A::frameless(&cursor.registers, sp, self.memory)
            .map_err(|at| unreadable(cursor.floor, at.0))?;
        let pc = Avma(return_address & !self.pac_mask);
        if self.follows_call::<A>(pc) != Some(true) {
            return broken(reason);
        }
        self.frameless::<A>(cursor)
    }

    fn frame_pointer<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        confirm_in: Option<Place>,
    ) -> Result<(), End> {
        let Some(fp) = cursor.registers.get(A::FP) else {
            return broken(BreakReason::UnknownRegister(A::FP));
        };
        // A leaf may not have set up its own frame yet, or may use the register for something
        // else: only a caller's null is the end of the chain.
        if fp == 0 && confirm_in.is_none() && !cursor.kind.is_exact() {
            return Err(End::Root(RootReason::FrameChainEnd));
        }
        if fp < cursor.floor.0 || fp & 7 != 0 {
            return broken(BreakReason::NoUnwindInfo);
        }
        self.frame_record::<A>(cursor, fp, confirm_in)
    }

    /// Unwinds by the pair of frame pointer and return address at `record`.
    fn frame_record<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        record: u64,
        confirm_in: Option<Place>,
    ) -> Result<(), End> {
        let fp = self.word(cursor, Avma(record))?;
        let return_address = self.word(cursor, Avma(record.wrapping_add(8)))?;
        let cfa = record.wrapping_add(16);
        check_cfa::<A>(cursor, cfa, false)?;
        let pc = Avma(return_address & !self.pac_mask);
        let confirmed = match confirm_in {
            Some(place) => {
                self.is_direct_call_to::<A>(pc, cursor, &place)
                    // Unknown where it returns to JIT code, whose bytes are not at hand.
                    || (self.sets_up_frame::<A>(cursor, &place)
                        && self.follows_call::<A>(pc) != Some(false))
            }
            None => return_address == 0 || self.follows_call::<A>(pc) != Some(false),
        };
        if !confirmed {
            return broken(BreakReason::NoUnwindInfo);
        }
        let pc = self.admit::<A>(cursor, cfa, return_address)?;
        // What else the function saved is not known.
        for register in A::SAVED {
            cursor.registers.forget(*register);
        }
        cursor.registers.set(A::FP, fp);
        cursor.registers.set(A::RA, return_address);
        if A::HAS_LINK_REGISTER {
            // The record may lie anywhere in the frame, so that only a bound is known.
            cursor.registers.forget(A::SP);
        } else {
            cursor.registers.set(A::SP, cfa);
        }
        cursor.enter::<A>(pc, cfa, FrameKind::Return);
        Ok(())
    }

    /// Whether the code before the cursor's program counter has set up a frame record, as that of
    /// V8's builtins does (in a program without symbols), which C++ calls through a pointer.
    ///
    /// So has the code of programs without unwind tables (Chromium) whose functions are longer
    /// than is looked at at first: there, what lies between the stack pointer and the record has to
    /// be what the last set-up before makes.
    fn sets_up_frame<A: Arch>(&self, cursor: &mut Cursor, place: &Place) -> bool {
        let code = |most: u32| {
            let (image, svma) = place.svma(cursor.pc)?;
            Some(code_before(self.tables.cfi(image)?.image(), svma, most))
        };
        if code(NEAR).is_some_and(A::sets_up_frame) {
            return true;
        }
        let Some(left) = cursor.searches.checked_sub(1) else { return false };
        let (fp, sp) = (cursor.registers.get(A::FP), cursor.registers.get(A::SP));
        let size = fp.zip(sp).and_then(|(fp, sp)| fp.checked_sub(sp));
        let set_up = code(FAR).and_then(A::frame_size);
        cursor.searches = left;
        !cursor.kind.is_exact() && set_up.is_some() && set_up == size
    }

    /// Whether the call before `pc` enters the stretch without entries that the cursor is in. It
    /// is this that tells a function with a frame record from one that has left its caller's
    /// frame pointer alone.
    fn is_direct_call_to<A: Arch>(&mut self, pc: Avma, cursor: &Cursor, place: &Place) -> bool {
        let Some(target) = self.direct_call_target::<A>(pc) else { return false };
        let Some((image, svma)) = place.svma(target) else { return false };
        is_near(cursor, target) && self.tables.rule::<A>(image, svma, true).is_without_entry()
    }

    /// Where the call before the address goes, if it is a direct one.
    fn direct_call_target<A: Arch>(&mut self, pc: Avma) -> Option<Avma> {
        let calling = self.place::<A>(pc.wrapping_sub(1))?;
        let code = Code::around(self.tables, &calling, pc, self.memory);
        let relative = A::direct_call_target(code.before())?;
        Some(pc.wrapping_add(relative.cast_unsigned()))
    }
}

/// The CFA by a rule, and where the return address is saved, if it is.
fn frame_of(cursor: &Cursor, way: &Narrow) -> Option<(u64, Option<Avma>)> {
    let base = cursor.registers.get(u16::from(way.cfa_register))?;
    let cfa = base.wrapping_add(i64::from(way.cfa_offset).cast_unsigned());
    let slot = |n: i16| Avma(cfa.wrapping_add((i64::from(n) * 8).cast_unsigned()));
    Some((cfa, (way.saved[0] != SAME).then(|| slot(way.saved[0]))))
}

/// Whether a function that begins at `target` may hold the cursor's program counter.
fn is_near(cursor: &Cursor, target: Avma) -> bool {
    cursor.pc.0.checked_sub(target.0).is_some_and(|n| n < FUNCTION_LENGTH)
}
