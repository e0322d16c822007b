//! Describes kinds of profiles: their sample types and text forms.
//!
//! The constants are the kinds of Go's runtime/pprof. Programs with other kinds define their own
//! [`KindFacts`] and pass them to [`crate::validate`].

/// A type and its unit: `("cpu", "nanoseconds")`.
pub type TypeAndUnit = (&'static str, &'static str);

/// The facts of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindFacts {
    /// Its name.
    pub name: &'static str,
    /// The types of the samples' values, in order.
    pub sample_types: &'static [TypeAndUnit],
    /// The type of the period.
    pub period_type: TypeAndUnit,
    /// The type that readers show first, if that is not the last.
    pub default_sample_type: Option<&'static str>,
    /// Its text form.
    pub text: TextForm,
}

/// The text form of a kind, as Go's runtime/pprof writes it with `debug=1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextForm {
    /// It has none.
    None,
    /// `heap profile: …`: objects in use and all allocated objects.
    Heap,
    /// `--- TITLE:`: contentions and delays.
    Contentions {
        /// The title.
        title: &'static str,
        /// Whether the header has a line with the sampling period.
        sampling_period: bool,
    },
    /// `NAME profile: total …`: one count.
    Count,
}

const fn of_count(name: &'static str, types: &'static [TypeAndUnit]) -> KindFacts {
    KindFacts {
        name,
        sample_types: types,
        period_type: (name, "count"),
        default_sample_type: None,
        text: TextForm::Count,
    }
}

/// CPU time.
pub const CPU: KindFacts = KindFacts {
    name: "cpu",
    sample_types: &[("samples", "count"), ("cpu", "nanoseconds")],
    period_type: ("cpu", "nanoseconds"),
    default_sample_type: None,
    text: TextForm::None,
};

/// Memory in use.
pub const HEAP: KindFacts = KindFacts {
    name: "heap",
    sample_types: &[
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ],
    period_type: ("space", "bytes"),
    default_sample_type: None,
    text: TextForm::Heap,
};

/// Allocated memory: as [`HEAP`], with another default sample type.
pub const ALLOCS: KindFacts =
    KindFacts { name: "allocs", default_sample_type: Some("alloc_space"), ..HEAP };

/// Time blocked.
pub const BLOCK: KindFacts = KindFacts {
    name: "block",
    sample_types: &[("contentions", "count"), ("delay", "nanoseconds")],
    period_type: ("contentions", "count"),
    default_sample_type: None,
    text: TextForm::Contentions { title: "contention", sampling_period: false },
};

/// Lock contention, attributed to the holder.
pub const MUTEX: KindFacts = KindFacts {
    name: "mutex",
    text: TextForm::Contentions { title: "mutex", sampling_period: true },
    ..BLOCK
};

/// Goroutines.
pub const GOROUTINE: KindFacts = of_count("goroutine", &[("goroutine", "count")]);
/// Thread creations.
pub const THREADCREATE: KindFacts = of_count("threadcreate", &[("threadcreate", "count")]);
/// Leaked goroutines, which nothing can wake.
pub const GOROUTINELEAK: KindFacts = of_count("goroutineleak", &[("goroutineleak", "count")]);

/// The kinds of Go's runtime/pprof.
pub const GO: &[KindFacts] =
    &[CPU, ALLOCS, HEAP, BLOCK, MUTEX, GOROUTINE, THREADCREATE, GOROUTINELEAK];
