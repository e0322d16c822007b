//! Lists the endpoints: one for each kind of profile, and the others of Go's `net/http/pprof`.

use collect::kinds::{self, Kind};

/// The source of an endpoint's response.
#[derive(Clone, Copy)]
pub enum Source {
    /// A profile of this kind.
    Profile(&'static Kind),
    /// The command line.
    Cmdline,
    /// Names of code addresses.
    Symbol,
    /// An execution trace, which cannot be taken from outside.
    Trace,
}

/// One endpoint below `/debug/pprof/`.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// Its name there.
    pub name: &'static str,
    /// Its description on the index page.
    pub about: &'static str,
    /// Its source.
    pub source: Source,
}

/// All endpoints, by name.
pub fn all() -> Vec<Endpoint> {
    let mut all: Vec<_> = kinds::all().into_iter().map(of_kind).collect();
    all.push(Endpoint {
        name: "cmdline",
        about: "The command line invocation of the program",
        source: Source::Cmdline,
    });
    all.push(Endpoint {
        name: "symbol",
        about: "Maps given program counters to function names. Counters can be specified in a \
                GET raw query or POST body, multiple counters are separated by '+'.",
        source: Source::Symbol,
    });
    all.push(Endpoint {
        name: "trace",
        about: "An execution trace: only the program itself can take one",
        source: Source::Trace,
    });
    all.sort_by_key(|e| e.name);
    all
}

fn of_kind(kind: &'static Kind) -> Endpoint {
    let collect::kinds::Endpoint { name, about, .. } = kind.endpoint;
    Endpoint { name, about, source: Source::Profile(kind) }
}

/// The kind of that name, or whose endpoint has that name.
pub fn kind_named(name: &str) -> Option<&'static Kind> {
    kinds::all().into_iter().find(|k| name == k.endpoint.name || name == k.name())
}

/// The endpoint of that name.
pub fn find(name: &str) -> Option<Endpoint> {
    all().into_iter().find(|e| e.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_endpoint_and_every_row_is_sane() {
        let all = all();
        assert!(all.is_sorted_by_key(|e| e.name));
        assert_eq!(all.len(), kinds::all().len() + 3);
        assert!(find("profile").is_some() && find("cpu").is_none() && find("nothing").is_none());
        for row in &all {
            assert!(!row.about.contains('\n') && !row.about.contains("  "), "{}", row.about);
        }
    }
}
