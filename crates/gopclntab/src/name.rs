//! Shortens function names as Go prints them.

use std::borrow::Cow;

/// Replaces the type arguments of generic functions by `...`, as Go's profiles and tracebacks do:
/// `main.(*box[go.shape.string]).wait` becomes `main.(*box[...]).wait`.
///
/// Follows `funcNamePiecesForPrint` in runtime/traceback.go of Go 1.27. It differs from earlier
/// versions only for generic methods of generic types, which those versions do not have.
#[must_use]
pub fn printed_name(name: &str) -> Cow<'_, str> {
    let (Some(open), Some(close)) = (name.find('['), name.rfind(']')) else { return name.into() };
    if close <= open {
        return name.into();
    }
    let (before, interior, after) = (&name[..open], &name[open + 1..close], &name[close + 1..]);
    if !interior.contains('[') {
        return format!("{before}[...]{after}").into();
    }
    match gap(interior) {
        Gap::None => format!("{before}[...]{after}").into(),
        Gap::Between(middle) => format!("{before}[...]{middle}[...]{after}").into(),
        Gap::Malformed => name.into(),
    }
}

enum Gap<'a> {
    None,
    Between(&'a str),
    Malformed,
}

/// Searches for `…]between[…` within the outermost brackets.
fn gap(interior: &str) -> Gap<'_> {
    let (mut depth, mut closed) = (1i32, None);
    for (k, c) in interior.bytes().enumerate() {
        match c {
            b'[' => {
                depth += 1;
                if depth == 1 {
                    return closed
                        .map_or(Gap::Malformed, |at: usize| Gap::Between(&interior[at + 1..k]));
                }
            }
            b']' => {
                depth -= 1;
                if depth < 0 {
                    return Gap::Malformed;
                }
                if depth == 0 {
                    closed = Some(k);
                }
            }
            _ => {}
        }
    }
    if depth == 1 && closed.is_none() { Gap::None } else { Gap::Malformed }
}

#[cfg(test)]
mod tests {
    use super::printed_name;

    #[test]
    fn type_arguments_are_elided_as_go_does() {
        for (name, printed) in [
            ("main.main", "main.main"),
            ("main.F[go.shape.int]", "main.F[...]"),
            ("main.F[go.shape.[]uint8].func1", "main.F[...].func1"),
            ("main.(*T[go.shape.int]).M[go.shape.[]string]", "main.(*T[...]).M[...]"),
            ("main.odd]x[", "main.odd]x["),
            ("main.F[a]]b[[c]", "main.F[a]]b[[c]"),
        ] {
            assert_eq!(printed_name(name), printed);
        }
    }
}
