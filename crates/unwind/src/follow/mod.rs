//! What code itself says of its frame, where no table does: musl's, which is built without any.
//!
//! From the program counter the code is followed forward, both ways at each branch, to where its
//! function returns. On the way it has to take its own frame down, so that at the `ret` it is known
//! where that lay, and which registers of the caller's were kept in it:
//!
//! ```text
//!   pc ──► pop rbx ──► jne ─┬─► add $24, rsp ──► pop rbp ──► ret      CFA = rsp + 48
//!                           └─► call abort ──► (does not return)
//! ```
//!
//! Compilers put anything after a call that does not return, so that a function that was called on
//! the way is itself followed, if nothing of it leads to a `ret`. That is no proof: what comes of it
//! counts only where a call comes before the return address that it leads to (see
//! [`crate::fallback`]).
//!
//! The code belongs to the target: each search, and all of them together, are bounded.

pub(crate) mod aarch64;
pub(crate) mod x86_64;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

use image::{ElfImage, Svma};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::arch::Arch;
use crate::registers::COUNT;
use crate::rule::{LOST, Narrow, SAME};

/// Instructions that one search follows. musl's `printf_core` has 900.
const SEARCH: u32 = 2048;
/// Instructions of a function that may be one that does not return…
const CALLEE: u32 = 512;
/// …and how many of those may be within each other.
const DEPTH: u8 = 4;
/// As many ways out of a function settle it.
const ENOUGH: usize = 2;
/// Words of the stack that are kept in mind; after more no word of it is known.
const STORES: usize = 64;
/// A frame is not larger.
const FRAME: i64 = 1 << 24;
const BELOW: i64 = -FRAME;
/// What all searches together may follow at first: musl has 100,000 instructions in all…
const AT_FIRST: u32 = 4 << 20;
/// …and for each stack from then on: less than a millisecond.
const PER_STACK: u32 = 16 << 10;
/// Functions of which it is remembered whether they return.
const REMEMBERED: usize = 1 << 14;
/// Instructions between a return and the call that ends the thread with what was returned.
const MOVES: usize = 3;

/// What is known of a register or of a word of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Unknown,
    /// What the register held at the program counter, and so many bytes more.
    Start(u16, i32),
    /// What lay in memory at the register's value at the program counter, and so many bytes more.
    Word(u16, i32),
    /// An address within the image, of a table that a `switch` jumps by;
    Table(u32),
    /// an entry of it, relative to it;
    Entry(u32),
    /// and the address that it stands for.
    Case(u32),
}

impl Value {
    pub(crate) fn plus(self, n: i64) -> Self {
        match self {
            Self::Start(register, offset) => match i64::from(offset).saturating_add(n) {
                sum @ BELOW..=FRAME => Self::Start(register, sum as i32),
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }
}

/// What is known at one place of the code.
#[derive(Debug, Clone)]
pub(crate) struct State {
    values: [Value; COUNT],
    stores: Vec<(u16, i32, Value)>,
}

impl State {
    fn new() -> Self {
        let mut values = [Value::Unknown; COUNT];
        for (number, value) in (0..).zip(&mut values) {
            *value = Value::Start(number, 0);
        }
        Self { values, stores: Vec::new() }
    }

    pub(crate) fn get(&self, register: u16) -> Value {
        self.values.get(usize::from(register)).copied().unwrap_or(Value::Unknown)
    }

    pub(crate) fn set(&mut self, register: u16, value: Value) {
        if let Some(known) = self.values.get_mut(usize::from(register)) {
            *known = value;
        }
    }

    pub(crate) fn forget(&mut self, register: u16) {
        self.set(register, Value::Unknown);
    }

    /// The word at an address.
    pub(crate) fn load(&self, at: Value) -> Value {
        let Value::Start(register, offset) = at else { return Value::Unknown };
        if self.stores.len() == STORES {
            return Value::Unknown;
        }
        let stored = self.stores.iter().find(|(r, o, _)| (*r, *o) == (register, offset));
        stored.map_or(Value::Word(register, offset), |(_, _, value)| *value)
    }

    pub(crate) fn store(&mut self, at: Value, value: Value) {
        let Value::Start(register, offset) = at else { return };
        self.stores.retain(|(r, o, _)| (*r, *o) != (register, offset));
        if self.stores.len() < STORES {
            self.stores.push((register, offset, value));
        }
    }

    /// The rule that holds at the program counter, if the function returns here.
    fn rule<A: Arch>(&self) -> Option<Narrow> {
        let (cfa, return_address) = A::leave(self);
        let Value::Start(cfa_register, cfa_offset) = cfa else { return None };
        let slot = |register: u16, value: Value| match value {
            Value::Start(same, 0) if same == register => SAME,
            Value::Word(base, offset) if base == cfa_register => {
                let words = offset - cfa_offset;
                let words = (words % 8 == 0).then_some(words / 8).and_then(|n| n.try_into().ok());
                words.filter(|n| *n != SAME).unwrap_or(LOST)
            }
            _ => LOST,
        };
        let mut saved = [LOST; crate::rule::SLOTS];
        for (slot_of, register) in saved.iter_mut().zip(A::SAVED) {
            *slot_of = slot(*register, self.get(*register));
        }
        saved[0] = slot(A::RA, return_address);
        if saved[0] == LOST || (saved[0] == SAME && !A::HAS_LINK_REGISTER) {
            return None;
        }
        Some(Narrow {
            cfa_register: cfa_register.try_into().ok()?,
            plt_push: 0,
            plt: false,
            cfa_offset,
            saved,
        })
    }
}

/// Where an instruction leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// On to the address after it.
    On(Svma),
    Jump(Svma),
    /// To the first address or to the second.
    Branch(Svma, Svma),
    /// To a function, if that is known, and from there to the address after it.
    Call(Option<Svma>, Svma),
    /// To any address of a table, whose entries are relative to it.
    Switch(Svma),
    /// Out of the function: a return, or a jump through a linker's table.
    Leave,
    /// Out of the function, or somewhere within it: a jump to what a register says.
    Somewhere,
    /// Nowhere.
    End,
}

/// What was found out about one place of the code.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    /// The call that is returned from is the last but one of its thread: what it gave is passed to a
    /// function that ends the thread or the process.
    pub(crate) ends_thread: bool,
    /// The rules that it may be: more than one where the code does not agree with itself. Shared, since
    /// each frame takes them.
    pub(crate) ways: Arc<[Narrow]>,
    /// They lead to a `ret`, and not only to jumps that may stay within the function.
    pub(crate) sure: bool,
}

/// All searches of one [`crate::Unwinder`].
pub(crate) struct Follower {
    /// By an image's number and a function's address: whether it returns, and how deep in others it
    /// was when that was found out.
    returns: FxHashMap<(u32, u64), (bool, u8)>,
    left: u32,
}

impl Follower {
    pub(crate) fn new() -> Self {
        Self { returns: FxHashMap::default(), left: AT_FIRST }
    }

    /// To be called for each stack.
    pub(crate) fn next_stack(&mut self) {
        self.left = self.left.saturating_add(PER_STACK).min(AT_FIRST);
    }

    /// Images' numbers do not hold any longer.
    pub(crate) fn clear(&mut self) {
        self.returns.clear();
    }

    /// Follows the code of an image from a program counter (`exact`), or a return address.
    pub(crate) fn follow<A: Arch>(
        &mut self,
        image: (&ElfImage, u32),
        pc: Svma,
        exact: bool,
    ) -> Followed {
        let mut search = Search::<A> { image, follower: self, arch: PhantomData };
        if !exact && !search.goes_on(pc) {
            return Followed::default();
        }
        let ends_thread = !exact && search.ends_thread(pc);
        if ends_thread {
            return Followed { ends_thread, ..Followed::default() };
        }
        search.ways(pc)
    }
}

struct Search<'a, A> {
    image: (&'a ElfImage, u32),
    follower: &'a mut Follower,
    arch: PhantomData<A>,
}

impl<A: Arch> Search<'_, A> {
    fn step(&mut self, at: Svma, state: &mut State) -> Flow {
        let Some(left) = self.follower.left.checked_sub(1) else { return Flow::End };
        self.follower.left = left;
        let flow = self.image.0.bytes_at(at).map_or(Flow::End, |code| A::execute(code, at, state));
        match flow {
            // All cases leave the function in the same way.
            Flow::Switch(table) => self.case(table).map_or(Flow::Somewhere, Flow::Jump),
            flow => flow,
        }
    }

    /// The first case of a table.
    fn case(&self, table: Svma) -> Option<Svma> {
        let entry = i32::from_le_bytes(*self.image.0.bytes_at(table)?.first_chunk()?);
        Some(table.wrapping_add(i64::from(entry).cast_unsigned()))
    }

    /// Whether the call before a return address is one that returns, as far as is known.
    fn goes_on(&mut self, pc: Svma) -> bool {
        let (before, _) = crate::tables::code_around(self.image.0, pc);
        let target = A::direct_call_target(before);
        target.is_none_or(|n| self.returns(pc.wrapping_add(n.cast_unsigned()), 0))
    }

    /// The distinct rules of all ways out of the function.
    fn ways(&mut self, from: Svma) -> Followed {
        let (mut sure, mut perhaps) = (Vec::new(), Vec::new());
        let mut queue = VecDeque::from([(from, State::new())]);
        let mut seen = FxHashSet::default();
        let (mut left, mut found) = (SEARCH, 0);
        while let Some((mut at, mut state)) = queue.pop_front() {
            while seen.insert(at) && left > 0 {
                left -= 1;
                match self.step(at, &mut state) {
                    Flow::On(next) | Flow::Jump(next) => at = next,
                    Flow::Branch(one, other) => {
                        queue.push_back((other, state.clone()));
                        at = one;
                    }
                    Flow::Call(function, next) => {
                        if function.is_some_and(|f| !self.returns(f, 0)) {
                            break;
                        }
                        at = next;
                    }
                    Flow::Leave => {
                        add(&mut sure, state.rule::<A>());
                        found += 1;
                        break;
                    }
                    Flow::Somewhere | Flow::Switch(_) => {
                        add(&mut perhaps, state.rule::<A>());
                        break;
                    }
                    Flow::End => break,
                }
            }
            if found == ENOUGH {
                break;
            }
        }
        let is_sure = !sure.is_empty();
        let ways = if is_sure { sure } else { perhaps };
        Followed { ends_thread: false, ways: ways.into(), sure: is_sure }
    }

    /// Whether a function may return: some way through it leads to a `ret`, or to where it is not
    /// followed.
    fn returns(&mut self, function: Svma, depth: u8) -> bool {
        let key = (self.image.1, function.0);
        match self.follower.returns.get(&key) {
            // Further up more could be found out.
            Some((true, at)) if *at > depth => {}
            Some((known, _)) => return *known,
            None => {}
        }
        if depth == DEPTH {
            return true;
        }
        let returns = self.leads_out(function, depth);
        if self.follower.returns.len() < REMEMBERED {
            self.follower.returns.insert(key, (returns, depth));
        }
        returns
    }

    fn leads_out(&mut self, function: Svma, depth: u8) -> bool {
        let mut seen = FxHashSet::default();
        let mut queue = vec![function];
        let mut state = State::new();
        while let Some(mut at) = queue.pop() {
            while seen.insert(at) {
                if seen.len() > CALLEE as usize || self.follower.left == 0 {
                    return true;
                }
                match self.step(at, &mut state) {
                    Flow::On(next) | Flow::Jump(next) => at = next,
                    Flow::Branch(one, other) => {
                        queue.push(other);
                        at = one;
                    }
                    // A function that calls itself gets no further by that.
                    Flow::Call(callee, next) => {
                        if callee.is_some_and(|f| f == function || !self.returns(f, depth + 1)) {
                            break;
                        }
                        at = next;
                    }
                    Flow::Leave | Flow::Somewhere | Flow::Switch(_) => return true,
                    Flow::End => break,
                }
            }
        }
        false
    }

    /// `exit(main())`, and musl's `__pthread_exit(start())`: what was returned is passed on at once,
    /// to a function that does not return.
    fn ends_thread(&mut self, pc: Svma) -> bool {
        let (mut at, mut state) = (pc, State::new());
        for _ in 0..=MOVES {
            let passed_on = state.get(A::ARGUMENT) == Value::Start(A::RESULT, 0);
            match self.step(at, &mut state) {
                Flow::On(next) => at = next,
                Flow::Call(Some(function), _) | Flow::Jump(function) => {
                    return passed_on && !self.returns(function, 0);
                }
                _ => return false,
            }
        }
        false
    }
}

/// Adds a way out, or what it has in common with one that leads to the same frame.
fn add(ways: &mut Vec<Narrow>, way: Option<Narrow>) {
    let Some(way) = way else { return };
    let same = |known: &&mut Narrow| {
        (known.cfa_register, known.cfa_offset, known.saved[0])
            == (way.cfa_register, way.cfa_offset, way.saved[0])
    };
    match ways.iter_mut().find(same) {
        Some(known) => {
            for (one, other) in known.saved.iter_mut().zip(way.saved) {
                if *one != other {
                    *one = LOST;
                }
            }
        }
        None => ways.push(way),
    }
}
