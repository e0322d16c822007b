//! Writes numbers with their nouns, for notes.

/// A number with its noun: "1 wait", "2 waits".
pub(crate) fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
