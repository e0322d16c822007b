//! Unwinds code without call frame information, using methods that the code itself confirms.
//!
//! | frame | code | method |
//! |---|---|---|
//! | any | in an image that is not Go's (musl has no tables) | follow the code to its `ret` ([`crate::follow`]), if a call confirms the result; else: |
//! | leaf | in no mapping (a call through a null pointer) | frameless, if a call confirms it |
//! | leaf | in an image with tables, but without an entry (glibc's `clone3` at its `syscall`) | frameless, if a call confirms it |
//! | leaf | without tables (JIT) | its instructions; or frameless, if a direct call confirms it; else the frame pointer |
//! | leaf | V8's builtins | its instructions; or frameless, if there may be a return address; else the frame pointer |
//! | caller | without tables (JIT), V8's builtins, or Go | frame pointer |
//! | caller | in an image with tables, but without an entry | frame pointer, if a direct call to this code or a prologue in it confirms it |
//!
//! *Frameless* means that the stack is as the call left it. A *leaf* is a frame whose program
//! counter is exact, so also one that a signal interrupted. A call *confirms* a return address if a
//! call instruction precedes it.
//!
//! Code in anonymous mappings is read from the target's memory. If that is unavailable, it is
//! unknown whether a leaf has already set up its frame record.

use std::sync::Arc;

use image::{Avma, MappingKind, Memory};

use crate::End;
use crate::arch::{Arch, Stage};
use crate::code::code_before;
use crate::end::{BreakReason, RootReason, broken, unreadable};
use crate::frame::{Cursor, FrameKind};
use crate::go::StackSwitch;
use crate::modules::{Code, Module};
use crate::rule::{Narrow, SAME};
use crate::step::{Stepper, check_cfa};

/// Limit of the length of `_start`, in bytes.
const START_LENGTH: u64 = 64;
/// Limit of the length of a function for a direct call to count as having entered it, in bytes.
const FUNCTION_LENGTH: u64 = 1 << 20;
/// How far back prologues are searched for, in bytes.
const NEAR: u32 = 1 << 10;
/// How far back they are searched for [`Cursor::searches`] times a stack, in bytes.
const FAR: u32 = 32 << 10;

impl<M: Memory> Stepper<'_, M> {
    #[cold]
    pub(crate) fn without_rule<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        module: Option<Module>,
        followed: Option<u32>,
    ) -> Result<(), End> {
        let Some(module) = module else {
            let reason = BreakReason::NoMapping;
            return if cursor.kind.is_exact() {
                self.confirmed_frameless::<A>(cursor, reason)
            } else {
                broken(reason)
            };
        };
        if self.is_entry_point(cursor, &module) {
            return Err(End::Root(RootReason::EntryPoint));
        }
        let code = Code::around(self.tables, &module, cursor.pc, self.memory);
        if !cursor.kind.is_exact() && A::ends_thread(code.at()) {
            return Err(End::Root(RootReason::ThreadExit));
        }
        let keeps_frame_pointers = module
            .image
            .and_then(|(image, _)| self.tables.cfi(image))
            .is_none_or(crate::cfi::ImageCfi::keeps_frame_pointers);
        if let Some(switching) = self.switching(cursor, &module) {
            return self
                .leave_stack::<A>(cursor, &switching)
                .unwrap_or_else(|| self.frame_pointer_elsewhere::<A>(cursor, &switching));
        }
        let is_builtin = module.svma(cursor.lookup_address()).is_some_and(|(image, svma)| {
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
            _ if module.kind == MappingKind::Vsyscall => self.frameless::<A>(cursor),
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
                    End::Broken(_) => self.frame_pointer::<A>(cursor, Some(module)),
                    end => Err(end),
                }),
            (false, false) => self.frame_pointer::<A>(cursor, Some(module)),
        }
    }

    /// Unwinds by the rules that were found by following the code, if one of them leads to a return
    /// address.
    fn by_code<A: Arch>(&mut self, cursor: &mut Cursor, index: u32) -> Result<(), End> {
        let Some(followed) = self.tables.followed(index) else {
            return broken(BreakReason::NoUnwindInfo);
        };
        if followed.ends_thread {
            return Err(End::Root(RootReason::ThreadExit));
        }
        let rules = Arc::clone(&followed.rules);
        let sure = followed.sure && rules.len() == 1;
        let (mut found, mut end) = (None, End::Broken(BreakReason::NoUnwindInfo));
        for rule in &*rules {
            let Some((cfa, slot)) = frame_of(cursor, rule) else { continue };
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
            // The caller may be JIT code, whose bytes may be unavailable.
            let may_be_jit = sure && self.module::<A>(pc.wrapping_sub(1)).is_some();
            match self.follows_call::<A>(pc) {
                Some(true) => {}
                None if may_be_jit => {}
                _ => continue,
            }
            if found.is_some_and(|(known, _)| known != cfa) {
                return broken(BreakReason::NoUnwindInfo);
            }
            found = found.or(Some((cfa, rule)));
        }
        found.map_or(Err(end), |(_, rule)| self.apply_narrow::<A>(rule, cursor))
    }

    /// The Go function at the cursor, if it is one that changes stacks, such as
    /// `runtime.systemstack`.
    fn switching(&self, cursor: &Cursor, module: &Module) -> Option<StackSwitch> {
        let lookup = cursor.lookup_address();
        let (image, svma) = module.svma(lookup)?;
        StackSwitch::of(&self.tables.cfi(image)?.go_function(svma)?, svma)
    }

    /// Unwinds by a frame record that may be on another stack, if a call confirms it.
    fn frame_pointer_elsewhere<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        switching: &StackSwitch,
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
        // Before Go 1.21 the function has no frame record. The register points to its caller's, so
        // that the caller would be skipped.
        if !cursor.kind.is_exact() && switching.depth == Some(0) {
            return Err(unreadable(cursor.floor, Avma(fp)));
        }
        self.frame_record::<A>(cursor, fp, None)?;
        cursor.go.at_switch = false;
        Ok(())
    }

    fn is_entry_point(&self, cursor: &Cursor, module: &Module) -> bool {
        let Some((image, svma)) = module.svma(cursor.lookup_address()) else { return false };
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

    /// Builtins without a frame have the return address on top of the stack. It may lead to JIT
    /// code, whose bytes may be unavailable: for interpreted functions nothing else is on the
    /// stack, and the frame pointer is theirs. Builtins with a frame have no code address there.
    fn builtin_leaf<A: Arch>(&mut self, cursor: &mut Cursor, code: &Code) -> Result<(), End> {
        match A::stage(code.before(), code.at()) {
            Stage::Frameless => self.frameless::<A>(cursor),
            Stage::Pushed => self.pushed::<A>(cursor),
            Stage::Body => {
                let sp = cursor.registers.get(A::SP).map(Avma);
                let top = sp.map(|sp| A::frameless(&cursor.registers, sp, self.memory));
                let pc = top.and_then(Result::ok).map(|(to, _)| Avma(to & !self.pac_mask));
                let returns = pc.is_some_and(|pc| {
                    self.module::<A>(pc.wrapping_sub(1)).is_some()
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

    /// The frame record is complete, but the frame pointer is still the caller's.
    fn pushed<A: Arch>(&mut self, cursor: &mut Cursor) -> Result<(), End> {
        let sp = cursor.registers.get(A::SP);
        let sp = sp.ok_or(End::Broken(BreakReason::UnknownRegister(A::SP)))?;
        self.frame_record::<A>(cursor, sp, None)
    }

    /// Whether the return address is on top of the stack (or in the link register) and follows a
    /// call to code shortly before the leaf's program counter. If so, the frame pointer is still
    /// the caller's and would skip that caller.
    fn is_called_near<A: Arch>(&mut self, cursor: &Cursor) -> bool {
        let Some(sp) = cursor.registers.get(A::SP).map(Avma) else { return false };
        let Ok((to, _)) = A::frameless(&cursor.registers, sp, self.memory) else { return false };
        let pc = Avma(to & !self.pac_mask);
        self.direct_call_target::<A>(pc).is_some_and(|target| is_near(cursor, target))
    }

    /// Unwinds as if the stack is as a call left it, without confirmation.
    fn frameless<A: Arch>(&mut self, cursor: &mut Cursor) -> Result<(), End> {
        let Some(sp) = cursor.registers.get(A::SP).map(Avma) else {
            return broken(BreakReason::UnknownRegister(A::SP));
        };
        let (return_address, cfa) = A::frameless(&cursor.registers, sp, self.memory)
            .map_err(|at| unreadable(cursor.floor, at.0))?;
        check_cfa::<A>(cursor, cfa, true)?;
        let pc = self.check_return::<A>(cursor, cfa, return_address)?;
        cursor.registers.set(A::RA, return_address);
        cursor.registers.set(A::SP, cfa);
        cursor.enter::<A>(pc, cfa, FrameKind::Return);
        Ok(())
    }

    /// As [`Self::frameless`], if a call precedes the return address; otherwise the stack breaks
    /// with `reason`.
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
        confirm_in: Option<Module>,
    ) -> Result<(), End> {
        let Some(fp) = cursor.registers.get(A::FP) else {
            return broken(BreakReason::UnknownRegister(A::FP));
        };
        // A leaf may not have set up its frame yet, or may use the register for something else. So
        // null ends the chain only in a caller.
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
        confirm_in: Option<Module>,
    ) -> Result<(), End> {
        let fp = self.word(cursor, Avma(record))?;
        let return_address = self.word(cursor, Avma(record.wrapping_add(8)))?;
        let cfa = record.wrapping_add(16);
        check_cfa::<A>(cursor, cfa, false)?;
        let pc = Avma(return_address & !self.pac_mask);
        let confirmed = match confirm_in {
            Some(module) => {
                self.is_direct_call_to::<A>(pc, cursor, &module)
                    // Unknown (`None`) where it returns to JIT code whose bytes are unavailable.
                    || (self.sets_up_frame::<A>(cursor, &module)
                        && self.follows_call::<A>(pc) != Some(false))
            }
            None => return_address == 0 || self.follows_call::<A>(pc) != Some(false),
        };
        if !confirmed {
            return broken(BreakReason::NoUnwindInfo);
        }
        let pc = self.check_return::<A>(cursor, cfa, return_address)?;
        // Which other registers the function saved is unknown.
        for register in A::SAVED {
            cursor.registers.forget(*register);
        }
        cursor.registers.set(A::FP, fp);
        cursor.registers.set(A::RA, return_address);
        if A::HAS_LINK_REGISTER {
            // The record may be anywhere in the frame, which is only a lower bound of the CFA.
            cursor.registers.forget(A::SP);
        } else {
            cursor.registers.set(A::SP, cfa);
        }
        cursor.enter::<A>(pc, cfa, FrameKind::Return);
        Ok(())
    }

    /// Whether the code before the cursor's program counter has set up a frame record. C++
    /// calls V8's builtins through a pointer; without symbols, this check recognizes them.
    ///
    /// Functions of programs without unwind tables (Chromium) can be longer than [`NEAR`]. Farther
    /// back a prologue only counts if it makes a frame of the size that this one has.
    fn sets_up_frame<A: Arch>(&self, cursor: &mut Cursor, module: &Module) -> bool {
        let code = |most: u32| {
            let (image, svma) = module.svma(cursor.pc)?;
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

    /// Whether the call before `pc` enters the code without entries that the cursor is in. This
    /// tells a function with a frame record from one that left the caller's frame pointer
    /// unchanged.
    fn is_direct_call_to<A: Arch>(&mut self, pc: Avma, cursor: &Cursor, module: &Module) -> bool {
        let Some(target) = self.direct_call_target::<A>(pc) else { return false };
        let Some((image, svma)) = module.svma(target) else { return false };
        is_near(cursor, target) && self.tables.rule::<A>(image, svma, true).is_without_entry()
    }

    /// The target of the call before an address, if it is a direct one.
    fn direct_call_target<A: Arch>(&mut self, pc: Avma) -> Option<Avma> {
        let calling = self.module::<A>(pc.wrapping_sub(1))?;
        let code = Code::around(self.tables, &calling, pc, self.memory);
        let relative = A::direct_call_target(code.before())?;
        Some(pc.wrapping_add(relative.cast_unsigned()))
    }
}

/// The CFA according to a rule, and the address of the saved return address, if it is saved.
fn frame_of(cursor: &Cursor, rule: &Narrow) -> Option<(u64, Option<Avma>)> {
    let base = cursor.registers.get(u16::from(rule.cfa_register))?;
    let cfa = base.wrapping_add(i64::from(rule.cfa_offset).cast_unsigned());
    let slot = |n: i16| Avma(cfa.wrapping_add((i64::from(n) * 8).cast_unsigned()));
    Some((cfa, (rule.saved[0] != SAME).then(|| slot(rule.saved[0]))))
}

/// Whether the function at `target` may contain the cursor's program counter.
fn is_near(cursor: &Cursor, target: Avma) -> bool {
    cursor.pc.0.checked_sub(target.0).is_some_and(|n| n < FUNCTION_LENGTH)
}
