//! Declares the type of options that only some kinds have. Each kind's row lists its options, and
//! `record` offers them. An option is declared beside the collector that reads it.

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

#[cfg(test)]
mod tests {
    use super::*;

    const fn option(name: &'static str, default: OptionValue) -> KindOption {
        KindOption { name, help: "", default }
    }

    #[test]
    fn given_or_by_default() {
        let size = option("size", OptionValue::Bytes(512 << 10));
        let time = option("time", OptionValue::Duration(Duration::from_micros(10)));
        let flag = option("flag", OptionValue::Flag(false));
        let mut options = KindOptions::default();
        assert_eq!(options.number(&size), 512 << 10);
        assert_eq!(options.number(&time), 10_000);
        assert!(!options.flag(&flag));
        options.set(&flag, OptionValue::Flag(true));
        options.set(&size, OptionValue::Bytes(1));
        assert!(options.flag(&flag) && !options.flag(&option("other", OptionValue::Flag(false))));
        assert_eq!(options.number(&size), 1);
    }
}
