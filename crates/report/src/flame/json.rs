//! Writes JSON strings that are safe inside HTML and SVG scripts.

use std::fmt::Write as _;

/// Writes a string without the characters that end a script element, and those that XML forbids.
pub(crate) fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '<' | '>' | '&' | '\'' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c if printable::is_unsafe(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_the_script() {
        let mut out = String::new();
        string("</script><!--\u{0}\n\"\\]]>&é\u{2028}\u{85}", &mut out);
        assert_eq!(
            out,
            r#""\u003c/script\u003e\u003c!--\u0000\u000a\"\\]]\u003e\u0026é\u2028\u0085""#
        );
    }
}
