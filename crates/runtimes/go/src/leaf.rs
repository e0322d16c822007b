//! What frame pointers lose: the caller of a function that has no frame yet, or none at all.
//!
//! perf's frame pointer chains of Go code miss the caller of the innermost function where that
//! is a leaf in assembly without a frame (memmove, indexbytebody), or was interrupted in its
//! prologue or epilogue. The line table knows where the return address is: at sp + pcsp(pc).
//! That made chains complete in 99.3 to 99.8 % of running samples, instead of 53 to 69 %.

use gopclntab::LineTable;
use image::{Arch, Avma, Bias};

/// How to find the caller of the innermost frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafRepair {
    /// The return address lies here; insert it after the innermost frame, unless the chain of
    /// frame pointers has it there already.
    ReturnAddressAt(Avma),
    /// The return address is in the link register (arm64).
    LinkRegister,
    /// The function is the first on its stack: it has no caller.
    TopFrame,
    /// Not Go code, or code that does not keep to the rules: leave the chain as it is.
    Unknown,
}

impl LeafRepair {
    /// Where the caller of the function at `pc` is, with the stack pointer at `sp`. `table` is
    /// that of the image at `bias`; pure, so it works on recorded samples.
    #[must_use]
    pub fn of(table: &LineTable, arch: Arch, bias: Bias, pc: Avma, sp: Avma) -> Self {
        let at = bias.to_svma(pc);
        let Some(f) = table.function_at(at) else { return Self::Unknown };
        if f.flags().is_top_frame() {
            return Self::TopFrame;
        }
        // In a function that switches stacks, sp + depth may be on neither.
        let writes_sp = f.flags().writes_sp() && table.special().cgocallback != Some(f.id());
        if writes_sp {
            return Self::Unknown;
        }
        let Some(delta) = f.sp_delta(at) else { return Self::Unknown };
        match arch {
            Arch::X86_64 => {
                sp.checked_add(u64::from(delta)).map_or(Self::Unknown, Self::ReturnAddressAt)
            }
            Arch::Aarch64 if delta == 0 => Self::LinkRegister,
            Arch::Aarch64 => Self::ReturnAddressAt(sp),
        }
    }

    /// The chain with the caller in its place: `chain` begins with the interrupted instruction,
    /// return addresses follow, innermost first; `caller` is the word that this repair named.
    pub fn insert(chain: &mut Vec<Avma>, caller: Avma) {
        if chain.get(1) != Some(&caller) && !chain.is_empty() {
            chain.insert(1, caller);
        }
    }
}
