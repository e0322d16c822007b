//! Defines the options that only some kinds have. Each kind's row lists its options, and `record`
//! offers them.

use std::collections::BTreeMap;
use std::time::Duration;

/// An option of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindOption {
    /// Its name: `--NAME` on the command line.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Its type and its default value.
    pub default: OptionValue,
}

/// The value of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionValue {
    /// A flag: given or not.
    Flag(bool),
    /// A size in bytes.
    Bytes(u64),
    /// A length of time.
    Duration(Duration),
    /// A number, at least 1.
    Number(u32),
}

/// The options that were given. All others have their defaults.
#[derive(Debug, Clone, Default)]
pub struct KindOptions(BTreeMap<&'static str, OptionValue>);

impl KindOptions {
    /// Sets an option.
    pub fn set(&mut self, option: &KindOption, value: OptionValue) {
        self.0.insert(option.name, value);
    }

    fn get(&self, option: &KindOption) -> OptionValue {
        self.0.get(option.name).copied().unwrap_or(option.default)
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn flag(&self, option: &KindOption) -> bool {
        self.get(option) == OptionValue::Flag(true)
    }

    /// The value of a number, a size in bytes, or a time in nanoseconds.
    #[must_use]
    pub fn number(&self, option: &KindOption) -> u64 {
        match self.get(option) {
            OptionValue::Flag(given) => u64::from(given),
            OptionValue::Bytes(n) => n,
            OptionValue::Duration(d) => u64::try_from(d.as_nanos()).unwrap_or(u64::MAX),
            OptionValue::Number(n) => n.into(),
        }
    }
}

/// The mean number of allocated bytes between two heap samples, if the recording switches sampling
/// on.
pub(crate) const HEAP_RATE: KindOption = KindOption {
    name: "heap-rate",
    help: "Take one sample per this many bytes, unless the program is already sampling (Go only)",
    default: OptionValue::Bytes(512 << 10),
};

/// Reads the samples that a Go program has taken itself.
pub(crate) const HEAP_HISTORY: KindOption = KindOption {
    name: "heap-history",
    help: "Read the program's own heap samples without enabling sampling (Go only)",
    default: OptionValue::Flag(false),
};

/// The mean blocked time between two samples.
pub(crate) const BLOCK_RATE: KindOption = KindOption {
    name: "block-rate",
    help: "Sample once per this much blocked time, like Go's SetBlockProfileRate (block, mutex)",
    default: OptionValue::Duration(Duration::from_micros(10)),
};

/// The mean number of lock contentions per sample.
pub(crate) const MUTEX_FRACTION: KindOption = KindOption {
    name: "mutex-fraction",
    help: "Sample one contention in N, like Go's SetMutexProfileFraction (mutex, Go only)",
    default: OptionValue::Number(10),
};

/// Charges mutex samples to the waiting thread instead of the unlocking thread.
pub(crate) const WAITERS: KindOption = KindOption {
    name: "waiters",
    help: "Charge samples to the waiting thread instead of the unlocking thread (mutex only)",
    default: OptionValue::Flag(false),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_or_by_default() {
        let mut options = KindOptions::default();
        assert_eq!(options.number(&HEAP_RATE), 512 << 10);
        assert_eq!(options.number(&BLOCK_RATE), 10_000);
        assert!(!options.flag(&WAITERS));
        options.set(&WAITERS, OptionValue::Flag(true));
        options.set(&HEAP_RATE, OptionValue::Bytes(1));
        assert!(options.flag(&WAITERS) && !options.flag(&HEAP_HISTORY));
        assert_eq!(options.number(&HEAP_RATE), 1);
    }
}
