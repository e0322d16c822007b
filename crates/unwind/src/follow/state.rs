//! Defines the symbolic values that a search tracks through code, and where control goes next.

use image::Svma;

use crate::registers::COUNT;

/// Words of the stack that are tracked; if the code stores more, all words are unknown.
const MAX_STORES: usize = 64;
/// Limit of the size of a frame, in bytes.
const MAX_FRAME: i64 = 1 << 24;
const MIN_FRAME: i64 = -MAX_FRAME;

/// A symbolic value of a register or of a word of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Unknown,
    /// The value of the register at the program counter, plus an offset in bytes.
    Start(u16, i32),
    /// The word in memory at [`Value::Start`].
    Word(u16, i32),
    /// The address of a `switch`'s jump table in the image.
    Table(u32),
    /// An entry of that table, relative to its start.
    Entry(u32),
    /// The target address of an entry.
    Case(u32),
}

impl Value {
    pub(crate) fn plus(self, n: i64) -> Self {
        match self {
            Self::Start(register, offset) => match i64::from(offset).saturating_add(n) {
                sum @ MIN_FRAME..=MAX_FRAME => Self::Start(register, sum as i32),
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }
}

/// The symbolic values at one instruction.
#[derive(Debug, Clone)]
pub(crate) struct State {
    values: [Value; COUNT],
    stores: Vec<(u16, i32, Value)>,
}

impl State {
    pub(super) fn new() -> Self {
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

    /// The value of the word at an address.
    pub(crate) fn load(&self, at: Value) -> Value {
        let Value::Start(register, offset) = at else { return Value::Unknown };
        if self.stores.len() == MAX_STORES {
            return Value::Unknown;
        }
        let stored = self.stores.iter().find(|(r, o, _)| (*r, *o) == (register, offset));
        stored.map_or(Value::Word(register, offset), |(_, _, value)| *value)
    }

    pub(crate) fn store(&mut self, at: Value, value: Value) {
        let Value::Start(register, offset) = at else { return };
        self.stores.retain(|(r, o, _)| (*r, *o) != (register, offset));
        if self.stores.len() < MAX_STORES {
            self.stores.push((register, offset, value));
        }
    }
}

/// Where control goes after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// To the next instruction, at this address.
    Next(Svma),
    Jump(Svma),
    /// To one of two addresses.
    Branch(Svma, Svma),
    /// To a function, whose address is known if the call is direct; then to the next instruction.
    Call(Option<Svma>, Svma),
    /// To one of the targets in a jump table, whose entries are relative to its address.
    Switch(Svma),
    /// Out of the function: a return, or a tail call through a linker's table.
    Return,
    /// To an address in a register: out of the function, or within it.
    IndirectJump,
    /// Nowhere.
    End,
}
