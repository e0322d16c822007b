//! Finds the unwind rule of code without tables, such as musl's, by following its instructions.
//!
//! From the program counter the code is followed forward, along both sides of each branch, until
//! the function returns. By then it must have torn down its frame, so that at the `ret` it is known
//! where the frame was and which of the caller's registers were saved in it:
//!
//! ```text
//!   pc ──► pop rbx ──► jne ─┬─► add $24, rsp ──► pop rbp ──► ret      CFA = rsp + 48
//!                           └─► call abort ──► (does not return)
//! ```
//!
//! After a call that does not return, compilers may put anything. So called functions are followed,
//! too, to see whether any path through them leads to a `ret`. The result is no proof: it is
//! accepted only if a call instruction precedes the return address that it leads to (see
//! [`crate::fallback`]).
//!
//! The code belongs to the target and may be hostile: each search has a limit of instructions, and
//! all searches together have a budget.

pub(crate) mod aarch64;
pub(crate) mod state;
pub(crate) mod x86_64;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

use image::{ElfImage, Svma};
use rustc_hash::{FxHashMap, FxHashSet};

use self::state::{Flow, State, Value};
use crate::arch::Arch;
use crate::rule::{LOST, Narrow, SAME, SLOTS};

/// Limit of instructions of one search. musl's `printf_core` has 900.
const MAX_INSTRUCTIONS: u32 = 2048;
/// Limit of instructions to see whether a called function returns.
const MAX_CALLEE: u32 = 512;
/// Limit of the depth of calls in a called function.
const MAX_CALL_DEPTH: u8 = 4;
/// A search ends after this many returns.
const MAX_EXITS: usize = 2;
/// Initial budget of all searches together, in instructions: musl has 100,000.
const INITIAL_BUDGET: u32 = 4 << 20;
/// Instructions that each stack adds to the budget: less than a millisecond.
const BUDGET_PER_STACK: u32 = 16 << 10;
/// Limit of functions for which it is cached whether they return.
const MAX_REMEMBERED: usize = 1 << 14;
/// Limit of instructions between a return and the call that ends the thread with the result.
const MAX_MOVES: usize = 3;

/// What following the code from one address gave.
#[derive(Debug, Default)]
pub(crate) struct FollowResult {
    /// The result of the call before the address is passed to a function that ends the thread or
    /// the process: the frame is the root.
    pub(crate) ends_thread: bool,
    /// Candidates for the rule: several if paths through the code disagree. Shared, since each
    /// frame clones them.
    pub(crate) rules: Arc<[Narrow]>,
    /// The rules are those at a `ret`, not only at jumps that may stay within the function.
    pub(crate) sure: bool,
}

/// The rule at the program counter where the search began, if the function returns here.
fn rule<A: Arch>(state: &State) -> Option<Narrow> {
    let (cfa, return_address) = A::leave(state);
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
    let mut saved = [LOST; SLOTS];
    for (slot_of, register) in saved.iter_mut().zip(A::SAVED) {
        *slot_of = slot(*register, state.get(*register));
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

/// The searches of one [`crate::Unwinder`], with their budget and cache.
pub(crate) struct Follower {
    /// By image number and function address: whether the function returns, and the call depth at
    /// which that was determined.
    returns: FxHashMap<(u32, u64), (bool, u8)>,
    budget: u32,
}

impl Follower {
    pub(crate) fn new() -> Self {
        Self { returns: FxHashMap::default(), budget: INITIAL_BUDGET }
    }

    /// Adds to the budget. To be called for each stack.
    pub(crate) fn next_stack(&mut self) {
        self.budget = self.budget.saturating_add(BUDGET_PER_STACK).min(INITIAL_BUDGET);
    }

    /// Clears the cache, when image numbers become invalid.
    pub(crate) fn clear(&mut self) {
        self.returns.clear();
    }

    /// Follows the code of a numbered image from a program counter (`exact`) or a return address.
    pub(crate) fn follow<A: Arch>(
        &mut self,
        image: (&ElfImage, u32),
        pc: Svma,
        exact: bool,
    ) -> FollowResult {
        let mut search = Search::<A> { image, follower: self, arch: PhantomData };
        if !exact && !search.call_returns(pc) {
            return FollowResult::default();
        }
        let ends_thread = !exact && search.ends_thread(pc);
        if ends_thread {
            return FollowResult { ends_thread, ..FollowResult::default() };
        }
        search.candidate_rules(pc)
    }
}

struct Search<'a, A> {
    image: (&'a ElfImage, u32),
    follower: &'a mut Follower,
    arch: PhantomData<A>,
}

impl<A: Arch> Search<'_, A> {
    fn step(&mut self, at: Svma, state: &mut State) -> Flow {
        let Some(left) = self.follower.budget.checked_sub(1) else { return Flow::End };
        self.follower.budget = left;
        let flow = self.image.0.bytes_at(at).map_or(Flow::End, |code| A::execute(code, at, state));
        match flow {
            // All cases leave the function with the same frame, so that one is enough.
            Flow::Switch(table) => self.case(table).map_or(Flow::IndirectJump, Flow::Jump),
            flow => flow,
        }
    }

    /// The first target in a jump table.
    fn case(&self, table: Svma) -> Option<Svma> {
        let entry = i32::from_le_bytes(*self.image.0.bytes_at(table)?.first_chunk()?);
        Some(table.wrapping_add(i64::from(entry).cast_unsigned()))
    }

    /// Whether the call before a return address may return.
    fn call_returns(&mut self, pc: Svma) -> bool {
        let (before, _) = crate::code::code_around(self.image.0, pc);
        let target = A::direct_call_target(before);
        target.is_none_or(|n| self.returns(pc.wrapping_add(n.cast_unsigned()), 0))
    }

    /// The distinct rules at all exits of the function.
    fn candidate_rules(&mut self, from: Svma) -> FollowResult {
        let (mut sure, mut perhaps) = (Vec::new(), Vec::new());
        let mut queue = VecDeque::from([(from, State::new())]);
        let mut seen = FxHashSet::default();
        let (mut left, mut found) = (MAX_INSTRUCTIONS, 0);
        while let Some((mut at, mut state)) = queue.pop_front() {
            while seen.insert(at) && left > 0 {
                left -= 1;
                match self.step(at, &mut state) {
                    Flow::Next(next) | Flow::Jump(next) => at = next,
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
                    Flow::Return => {
                        add(&mut sure, rule::<A>(&state));
                        found += 1;
                        break;
                    }
                    Flow::IndirectJump | Flow::Switch(_) => {
                        add(&mut perhaps, rule::<A>(&state));
                        break;
                    }
                    Flow::End => break,
                }
            }
            if found == MAX_EXITS {
                break;
            }
        }
        let is_sure = !sure.is_empty();
        let rules = if is_sure { sure } else { perhaps };
        FollowResult { ends_thread: false, rules: rules.into(), sure: is_sure }
    }

    /// Whether a function may return: a path through it leads to a `ret`, or to where the search
    /// gives up.
    fn returns(&mut self, function: Svma, depth: u8) -> bool {
        let key = (self.image.1, function.0);
        match self.follower.returns.get(&key) {
            // At a lower depth the search may go farther.
            Some((true, at)) if *at > depth => {}
            Some((known, _)) => return *known,
            None => {}
        }
        if depth == MAX_CALL_DEPTH {
            return true;
        }
        let returns = self.has_exit(function, depth);
        if self.follower.returns.len() < MAX_REMEMBERED {
            self.follower.returns.insert(key, (returns, depth));
        }
        returns
    }

    fn has_exit(&mut self, function: Svma, depth: u8) -> bool {
        let mut seen = FxHashSet::default();
        let mut queue = vec![function];
        let mut state = State::new();
        while let Some(mut at) = queue.pop() {
            while seen.insert(at) {
                if seen.len() > MAX_CALLEE as usize || self.follower.budget == 0 {
                    return true;
                }
                match self.step(at, &mut state) {
                    Flow::Next(next) | Flow::Jump(next) => at = next,
                    Flow::Branch(one, other) => {
                        queue.push(other);
                        at = one;
                    }
                    // Recursion adds no path to a return.
                    Flow::Call(callee, next) => {
                        if callee.is_some_and(|f| f == function || !self.returns(f, depth + 1)) {
                            break;
                        }
                        at = next;
                    }
                    Flow::Return | Flow::IndirectJump | Flow::Switch(_) => return true,
                    Flow::End => break,
                }
            }
        }
        false
    }

    /// Whether the result of a call is passed on at once to a function that does not return, as in
    /// `exit(main())` and musl's `__pthread_exit(start())`.
    fn ends_thread(&mut self, pc: Svma) -> bool {
        let (mut at, mut state) = (pc, State::new());
        for _ in 0..=MAX_MOVES {
            let passed_on = state.get(A::ARGUMENT) == Value::Start(A::RESULT, 0);
            match self.step(at, &mut state) {
                Flow::Next(next) => at = next,
                Flow::Call(Some(function), _) | Flow::Jump(function) => {
                    return passed_on && !self.returns(function, 0);
                }
                _ => return false,
            }
        }
        false
    }
}

/// Adds the rule at an exit. Of rules for the same frame, only what they have in common is kept.
fn add(rules: &mut Vec<Narrow>, rule: Option<Narrow>) {
    let Some(rule) = rule else { return };
    let same = |known: &&mut Narrow| {
        (known.cfa_register, known.cfa_offset, known.saved[0])
            == (rule.cfa_register, rule.cfa_offset, rule.saved[0])
    };
    match rules.iter_mut().find(same) {
        Some(known) => {
            for (one, other) in known.saved.iter_mut().zip(rule.saved) {
                if *one != other {
                    *one = LOST;
                }
            }
        }
        None => rules.push(rule),
    }
}
