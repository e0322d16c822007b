//! Formats numbers, durations, times and paths as Go's standard library does.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `%.2g` of a number from 0 to 1.
pub(crate) fn two_digits(x: f64) -> String {
    let scientific = format!("{x:.1e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let Ok(exponent) = exponent.parse::<i32>() else { return scientific };
    let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
    if x == 0.0 {
        "0".to_owned()
    } else if exponent < -4 {
        format!("{mantissa}e-{:02}", -exponent)
    } else if exponent >= 0 {
        mantissa.to_owned()
    } else {
        let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
        format!("0.{}{}", "0".repeat(zeros), mantissa.replace('.', ""))
    }
}

/// `int64(x)` as on amd64: out-of-range values become `i64::MIN`.
pub(crate) fn integer(x: f64) -> i64 {
    const END: f64 = 9_223_372_036_854_775_808.0;
    if (-END..END).contains(&x) { truncated(x) } else { i64::MIN }
}

/// The integer part; the nearest end of the range for a number outside of it, and 0 for NaN.
#[expect(clippy::cast_possible_truncation, reason = "a cast from a float saturates")]
pub(crate) const fn truncated(x: f64) -> i64 {
    x as i64
}

/// As [`truncated`], from 0 up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates"
)]
pub(crate) const fn truncated_from_0(x: f64) -> u64 {
    x as u64
}

/// `time.Duration.String`, such as `1m30.5s`.
pub(crate) fn duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64, digits: usize| {
        let part = format!("{:0digits$}", value % unit);
        let part = part.trim_end_matches('0');
        if part.is_empty() {
            (value / unit).to_string()
        } else {
            format!("{}.{part}", value / unit)
        }
    };
    let text = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000, 6)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000, 9);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, m) => format!("{m}m{seconds}s"),
                (h, m) => format!("{h}h{m}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// A time with the local zone's name: `2006-01-02 15:04:05 MST`.
pub(crate) fn time_to_second(unix_nanos: i64) -> String {
    local(unix_nanos, "%Y-%m-%d %H:%M:%S %Z")
}

/// `time.Time.String`.
pub(crate) fn time_in_full(unix_nanos: i64) -> String {
    local(unix_nanos, "%Y-%m-%d %H:%M:%S%.f %z %Z")
}

fn local(unix_nanos: i64, format: &str) -> String {
    let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
    // 64 bits of nanoseconds are always in the range of a timestamp.
    let time = Timestamp::from_nanosecond(i128::from(unix_nanos)).unwrap_or_default();
    time.to_zoned_datetime(zone).strftime(format).to_string()
}

/// `filepath.Base`: the last element of a path.
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return "/";
    }
    path.rsplit('/').next().unwrap_or(path)
}

/// `filepath.Clean`: the shortest equivalent path, without reading the file system.
pub(crate) fn clean(path: &str) -> Cow<'_, str> {
    let rooted = path.starts_with('/');
    let is_plain = |element: &str| !matches!(element, "" | "." | "..");
    let relative = if rooted { &path[1..] } else { path };
    if !relative.is_empty() && relative.split('/').all(is_plain) {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    for element in path.split('/') {
        match element {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if rooted => {}
            other => kept.push(other),
        }
    }
    let joined = kept.join("/");
    Cow::Owned(match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits() {
        let cases = [
            (0.0, "0"),
            (0.5, "0.5"),
            (0.123, "0.12"),
            (0.0449, "0.045"),
            (0.00012, "0.00012"),
            (0.000012, "1.2e-05"),
            (0.00001, "1e-05"),
            (0.999, "1"),
            (0.994, "0.99"),
        ];
        for (x, text) in cases {
            assert_eq!(two_digits(x), text, "{x}");
        }
    }

    #[test]
    fn durations() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (1_000_000_000, "1s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1_500_000_000, "-1.5s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(duration(nanos), text);
        }
    }

    #[test]
    fn paths() {
        let cases = [
            ("/a/b", "/a/b"),
            ("a//b/./c/..", "a/b"),
            ("/../a", "/a"),
            ("../../a", "../../a"),
            ("./", "."),
            ("/", "/"),
            ("/usr/src/lib/../x.c", "/usr/src/x.c"),
        ];
        for (path, cleaned) in cases {
            assert_eq!(clean(path), cleaned);
        }
        for (path, last) in [("", "."), ("/", "/"), ("/a/b/", "b"), ("a", "a")] {
            assert_eq!(base(path), last);
        }
    }
}
