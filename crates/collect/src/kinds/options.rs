//! Options that only some kinds have. A row lists its own, and `record` offers them.

use std::collections::BTreeMap;
use std::time::Duration;

/// An option of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindOption {
    /// Its name: `--NAME` on the command line.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Its form, and what it is where it is not given.
    pub default: OptionValue,
}

/// A value of an option, in the option's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionValue {
    /// Given or not.
    Flag(bool),
    /// A size.
    Bytes(u64),
    /// A time.
    Duration(Duration),
    /// A number, at least 1.
    Number(u32),
}

/// The options that were given. The others have their defaults.
#[derive(Debug, Clone, Default)]
pub struct KindOptions(BTreeMap<&'static str, OptionValue>);

impl KindOptions {
    /// Gives an option a value.
    pub fn set(&mut self, option: &KindOption, value: OptionValue) {
        self.0.insert(option.name, value);
    }

    fn get(&self, option: &KindOption) -> OptionValue {
        self.0.get(option.name).copied().unwrap_or(option.default)
    }

    /// Whether a flag is given.
    #[must_use]
    pub fn flag(&self, option: &KindOption) -> bool {
        self.get(option) == OptionValue::Flag(true)
    }

    /// A number, or a size in bytes, or a time in nanoseconds.
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

/// Mean bytes between two heap samples, where sampling is turned on for the recording.
pub(crate) const HEAP_RATE: KindOption = KindOption {
    name: "heap-rate",
    help: "Sample one allocation per this many bytes, where the recording enables heap sampling",
    default: OptionValue::Bytes(512 << 10),
};

/// Reads what a Go program has sampled itself.
pub(crate) const HEAP_HISTORY: KindOption = KindOption {
    name: "heap-history",
    help: "Read the program's own heap samples without enabling sampling (Go only)",
    default: OptionValue::Flag(false),
};

/// Mean time between two samples of waiting.
pub(crate) const BLOCK_RATE: KindOption = KindOption {
    name: "block-rate",
    help: "Take one sample per this much blocked time, as Go's SetBlockProfileRate (block and mutex)",
    default: OptionValue::Duration(Duration::from_micros(10)),
};

/// One in this many lock contentions is sampled.
pub(crate) const MUTEX_FRACTION: KindOption = KindOption {
    name: "mutex-fraction",
    help: "Sample one contention in N, as Go's SetMutexProfileFraction (mutex of Go programs)",
    default: OptionValue::Number(10),
};

/// The waiting side instead of the unlocker.
pub(crate) const WAITERS: KindOption = KindOption {
    name: "waiters",
    help: "Charge mutex samples to the waiting thread instead of the unlocker (mutex only)",
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
