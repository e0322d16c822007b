//! Lists the profile kinds in a table. `record` and its help, `serve`, `doctor`, the validator and
//! the text forms read it. To add a kind, add a file here and an entry in `KINDS`.

mod allocs;
mod block;
mod cpu;
mod goroutine;
mod heap;
mod kind;
mod mutex;
pub mod options;
mod threadcreate;
mod wall;

use std::sync::{PoisonError, RwLock};

use pprof::KindFacts;

pub use self::kind::{Count, DumpText, Endpoint, Kind, Seconds};
use self::options::KindOption;

/// The built-in kinds.
static KINDS: &[Kind] = &[
    cpu::ROW,
    wall::ROW,
    heap::ROW,
    allocs::ROW,
    block::ROW,
    mutex::ROW,
    goroutine::ROW,
    threadcreate::ROW,
];

/// Kinds that the program which embeds this crate has added.
static REGISTERED: RwLock<Vec<&'static Kind>> = RwLock::new(Vec::new());

/// Adds a kind to the table. All later reads of the table include it.
pub fn register(kind: &'static Kind) {
    // A poisoned lock is safe to use: a panic cannot leave a push half done.
    REGISTERED.write().unwrap_or_else(PoisonError::into_inner).push(kind);
}

/// All kinds: the built-in ones, then the registered ones.
#[must_use]
pub fn all() -> Vec<&'static Kind> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    KINDS.iter().chain(registered.iter().copied()).collect()
}

/// Finds a kind by its name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kind> {
    all().into_iter().find(|k| k.name() == name)
}

/// The options of all kinds, without duplicates.
#[must_use]
pub fn all_options() -> Vec<&'static KindOption> {
    let mut found: Vec<&KindOption> = Vec::new();
    for option in all().into_iter().flat_map(|k| k.options) {
        if found.iter().all(|o| o.name != option.name) {
            found.push(option);
        }
    }
    found
}

/// The names of the kinds that are sampled at a rate for some time, for help texts: `cpu and wall`.
#[must_use]
pub fn sampled() -> String {
    let sampled = all().into_iter().filter(|k| k.endpoint.seconds == Seconds::Record);
    let names: Vec<&str> = sampled.map(Kind::name).collect();
    match &names[..] {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// The facts of all kinds, for [`pprof::validate::Expect::kinds`].
#[must_use]
pub fn all_facts() -> Vec<KindFacts> {
    all().into_iter().map(|k| k.facts).collect()
}
