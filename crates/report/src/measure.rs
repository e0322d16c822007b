//! Scales values to readable units.

use std::borrow::Cow;

use crate::go;

/// A unit and its factor within its dimension.
struct Unit {
    name: &'static str,
    aliases: &'static [&'static str],
    factor: f64,
}

/// Units that can be converted to each other.
struct Dimension {
    units: &'static [Unit],
    /// The unit of values that are smaller than every unit: name and factor.
    default: (&'static str, f64),
}

const fn unit(name: &'static str, aliases: &'static [&'static str], factor: f64) -> Unit {
    Unit { name, aliases, factor }
}

const KIB: f64 = 1024.0;

static DIMENSIONS: [Dimension; 3] = [
    Dimension {
        units: &[
            unit("B", &["b", "byte"], 1.0),
            unit("kB", &["kb", "kbyte", "kilobyte"], KIB),
            unit("MB", &["mb", "mbyte", "megabyte"], KIB * KIB),
            unit("GB", &["gb", "gbyte", "gigabyte"], KIB * KIB * KIB),
            unit("TB", &["tb", "tbyte", "terabyte"], KIB * KIB * KIB * KIB),
            unit("PB", &["pb", "pbyte", "petabyte"], KIB * KIB * KIB * KIB * KIB),
        ],
        default: ("B", 1.0),
    },
    Dimension {
        units: &[
            unit("ns", &["ns", "nanosecond"], 1.0),
            unit("us", &["μs", "us", "microsecond"], 1e3),
            unit("ms", &["ms", "millisecond"], 1e6),
            unit("s", &["s", "sec", "second"], 1e9),
            unit("hrs", &["hour", "hr"], 3600e9),
        ],
        default: ("s", 1e9),
    },
    Dimension {
        units: &[
            unit("n*GCU", &["nanogcu"], 1e-9),
            unit("u*GCU", &["microgcu"], 1e-6),
            unit("m*GCU", &["milligcu"], 1e-3),
            unit("GCU", &["gcu"], 1.0),
            unit("k*GCU", &["kilogcu"], 1e3),
            unit("M*GCU", &["megagcu"], 1e6),
            unit("G*GCU", &["gigagcu"], 1e9),
            unit("T*GCU", &["teragcu"], 1e12),
            unit("P*GCU", &["petagcu"], 1e15),
        ],
        default: ("GCU", 1.0),
    },
];

impl Dimension {
    fn find(&self, name: &str) -> Option<&Unit> {
        let name = name.to_lowercase();
        let name = match name.strip_suffix('s') {
            Some(singular) if name.len() > 2 => singular,
            _ => &name,
        };
        self.units.iter().find(|u| u.aliases.contains(&name))
    }

    /// The largest unit in which the value is at least 1.
    fn fitting(&self, value: f64) -> (&'static str, f64) {
        let fits = |u: &&Unit| value / u.factor >= 1.0;
        self.units.iter().rfind(fits).map_or(self.default, |u| (u.name, u.factor))
    }
}

/// Whether values of one unit can be converted to the other.
pub(crate) fn are_convertible(one: &str, other: &str) -> bool {
    one == other || DIMENSIONS.iter().any(|d| d.find(one).is_some() && d.find(other).is_some())
}

/// The number of nanoseconds in a unit of time.
pub(crate) fn nanoseconds(unit: &str) -> Option<f64> {
    DIMENSIONS[1].find(unit).map(|u| u.factor)
}

/// A value in another unit, with that unit's name, which is empty for counts.
///
/// `minimum` and `auto` choose the unit that fits the value.
pub(crate) fn scale<'u>(value: i64, from: &str, to: &'u str) -> (f64, Cow<'u, str>) {
    if value < 0 && value != i64::MIN {
        let (v, unit) = scale(-value, from, to);
        return (-v, unit);
    }
    for dimension in &DIMENSIONS {
        let Some(known) = dimension.find(from) else { continue };
        let base = value as f64 * known.factor;
        let (name, factor) = match to {
            "minimum" | "auto" => dimension.fitting(base),
            _ => dimension.find(to).map_or(dimension.default, |u| (u.name, u.factor)),
        };
        return (base / factor, Cow::Borrowed(name));
    }
    let unit = if matches!(to, "count" | "sample" | "unit" | "minimum" | "auto") { "" } else { to };
    (value as f64, Cow::Borrowed(unit))
}

/// A value in the unit `to`, as text.
pub(crate) fn label(value: i64, from: &str, to: &str) -> String {
    let (value, unit) = scale(value, from, to);
    let text = format!("{value:.2}");
    match text.strip_suffix(".00").unwrap_or(&text) {
        "0" | "-0" => "0".to_owned(),
        number => format!("{number}{}", printable::Printable(&unit)),
    }
}

/// A percentage of the total, at least six characters wide.
pub(crate) fn percentage(value: i64, total: i64) -> String {
    let ratio = if total == 0 { 0.0 } else { (value as f64 / total as f64).abs() * 100.0 };
    if (99.95..=100.05).contains(&ratio) {
        "  100%".to_owned()
    } else if ratio >= 1.0 {
        format!("{ratio:5.2}%")
    } else {
        format!("{:>5}%", go::two_digits(ratio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        let cases = [
            (0, "nanoseconds", "auto", "0"),
            (1, "nanoseconds", "auto", "1ns"),
            (1_500, "nanoseconds", "minimum", "1.50us"),
            (30_000_000_000, "nanoseconds", "auto", "30s"),
            (7_200, "seconds", "auto", "2hrs"),
            (-1_536, "bytes", "auto", "-1.50kB"),
            (512, "bytes", "ms", "512B"),
            (5, "count", "minimum", "5"),
            (5, "count", "widgets", "5widgets"),
            (1, "nanoseconds", "s", "0"),
            (i64::MIN, "count", "auto", "-9223372036854775808"),
        ];
        for (value, from, to, text) in cases {
            assert_eq!(label(value, from, to), text, "{value} {from} {to}");
        }
    }

    #[test]
    fn percentages() {
        let cases = [(0, 0, "    0%"), (1, 3, "33.33%"), (9_999, 10_000, "  100%")];
        for (value, total, text) in cases {
            assert_eq!(percentage(value, total), text);
        }
        assert_eq!(percentage(5, 1_000), "  0.5%");
        assert_eq!(percentage(-2_000, 1_000), "200.00%");
    }
}
