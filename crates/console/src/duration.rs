//! Parses durations such as `1.5s`.

use std::time::Duration;

/// Parses `30`, `30s`, `1.5s`, `500ms`, `2m`, `1h`: a bare number is seconds.
pub fn parse(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "ns" => 1e-9,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit {unit:?}: use ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| "not a number".to_string())?;
    let duration = Duration::try_from_secs_f64(number * factor).map_err(|e| e.to_string())?;
    if duration.is_zero() {
        return Err("must be longer than 0".into());
    }
    Ok(duration)
}

/// As [`parse`], but a bare number is nanoseconds, as Go's `SetBlockProfileRate` takes it.
pub fn parse_nanoseconds(text: &str) -> Result<Duration, String> {
    if text.bytes().all(|b| b.is_ascii_digit()) { parse(&format!("{text}ns")) } else { parse(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(parse("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_nanoseconds("1"), Ok(Duration::from_nanos(1)));
        assert_eq!(parse_nanoseconds("10us"), Ok(Duration::from_micros(10)));
        for wrong in ["", "s", "-1", "0", "1x", "1e9h", "99999999999999999999h", "1.2.3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
