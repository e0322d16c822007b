//! Parses sizes such as `512KiB`.

/// Parses `524288`, `512KiB`, `512k`, `1MiB`, `1MB`: units are powers of 1024, as in Go.
pub fn parse(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("unknown unit {unit:?}: use KiB, MiB or GiB")),
    };
    let number: u64 = number.parse().map_err(|_| "not a number of bytes".to_string())?;
    let bytes = number.checked_mul(1 << shift).filter(|b| *b <= 1 << 40);
    let bytes = bytes.ok_or("more than 1 TiB")?;
    if bytes == 0 {
        return Err("must be at least 1".into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn forms() {
        assert_eq!(parse("524288"), Ok(512 << 10));
        assert_eq!(parse("512KiB"), Ok(512 << 10));
        assert_eq!(parse("1m"), Ok(1 << 20));
        for wrong in ["", "0", "-1", "1x", "99999999999999", "1.5k"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
