//! Lists the endpoints: those of Go's `net/http/pprof`, and one for each further kind.

use collect::kinds::{KINDS, Kind};

/// What an endpoint gives.
#[derive(Clone, Copy)]
pub enum Source {
    /// A profile of this kind.
    Profile(ProfileSource),
    /// The command line.
    Cmdline,
    /// Names of code addresses.
    Symbol,
    /// An execution trace, which cannot be taken from outside.
    Trace,
}

/// How a kind is asked for.
#[derive(Clone, Copy)]
pub struct ProfileSource {
    /// The kind.
    pub kind: &'static Kind,
    /// As Go's CPU profile: it always takes a while (30 s), has no text form, and bad `seconds`
    /// are not an error.
    pub like_cpu: bool,
    /// Recordings in the same lane change the same things in a process: one at a time.
    pub lane: &'static str,
    /// What profile stores call it.
    pub metric: &'static str,
    /// Its text forms are those of a dump.
    pub dumped: bool,
}

/// One endpoint below `/debug/pprof/`.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// Its name there.
    pub name: &'static str,
    /// What it gives, for people.
    pub about: &'static str,
    /// What it gives.
    pub source: Source,
}

/// How Go calls and describes a kind.
struct GoName {
    kind: &'static str,
    endpoint: &'static str,
    about: &'static str,
    like_cpu: bool,
    lane: &'static str,
    metric: &'static str,
    dumped: bool,
}

const fn go(
    kind: &'static str,
    endpoint: &'static str,
    lane: &'static str,
    about: &'static str,
) -> GoName {
    GoName { kind, endpoint, about, like_cpu: false, lane, metric: kind, dumped: false }
}

/// Kinds that Go has too, or that need a word more than their own.
const GO_NAMES: &[GoName] = &[
    GoName {
        like_cpu: true,
        metric: "process_cpu",
        ..go(
            "cpu",
            "profile",
            "cpu",
            "CPU profile. You can specify the duration in the seconds GET parameter. After you \
             get the profile file, use the go tool pprof command to investigate the profile.",
        )
    },
    GoName {
        like_cpu: true,
        ..go(
            "wall",
            "wall",
            "wall",
            "Where threads spend their time, running or waiting. You can specify the duration in \
             the seconds GET parameter.",
        )
    },
    GoName {
        metric: "memory",
        ..go("allocs", "allocs", "heap", "A sampling of memory allocations")
    },
    GoName {
        metric: "memory",
        ..go("heap", "heap", "heap", "A sampling of memory allocations of live objects")
    },
    go(
        "block",
        "block",
        "block",
        "Stack traces that led to blocking on synchronization primitives",
    ),
    go("mutex", "mutex", "mutex", "Stack traces of holders of contended mutexes"),
    GoName {
        dumped: true,
        ..go(
            "goroutine",
            "goroutine",
            "goroutine",
            "Stack traces of all current goroutines, or of all threads. Use debug=2 as a query \
             parameter to export in the same format as an unrecovered panic.",
        )
    },
    go(
        "threadcreate",
        "threadcreate",
        "threadcreate",
        "Stack traces that led to the creation of new OS threads",
    ),
];

/// All endpoints, by name.
pub fn all() -> Vec<Endpoint> {
    let mut all: Vec<_> = KINDS.iter().map(of_kind).collect();
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
    let own = go(kind.name, kind.name, kind.name, kind.about);
    let row = GO_NAMES.iter().find(|g| g.kind == kind.name).unwrap_or(&own);
    let GoName { endpoint, about, like_cpu, lane, metric, dumped, .. } = *row;
    let source = ProfileSource { kind, like_cpu, lane, metric, dumped };
    Endpoint { name: endpoint, about, source: Source::Profile(source) }
}

/// The endpoint of a kind, by the kind's or the endpoint's name.
pub fn of_kind_named(name: &str) -> Option<(Endpoint, ProfileSource)> {
    all().into_iter().find_map(|e| match e.source {
        Source::Profile(source) if name == e.name || name == source.kind.name => Some((e, source)),
        _ => None,
    })
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
        assert_eq!(all.len(), KINDS.len() + 3);
        assert!(find("profile").is_some() && find("cpu").is_none() && find("nothing").is_none());
        for row in GO_NAMES {
            assert!(!row.about.contains('\n') && !row.about.contains("  "), "{}", row.about);
        }
    }
}
