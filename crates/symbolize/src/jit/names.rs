//! What runtimes put into the one name that a perf map has room for.

/// A name taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitName<'a> {
    /// The function.
    pub function: &'a str,
    /// The file that it is in.
    pub file: Option<&'a str>,
    /// The line where it begins; 0 where unknown.
    pub line: u32,
}

/// Takes V8's and CPython's names apart; leaves all others as they are.
///
/// * V8 (`Logger::…`, src/logging/log.cc): `JS:*hot /srv/app.js:3:14`. The sign is the compiler's
///   tier, which is no part of the function: `~` interpreted, `^` baseline, `+` Maglev, `*`
///   Turbofan. Functions without a name leave it out.
/// * CPython's trampolines (`python -X perf`): `py::handler:/srv/app.py`.
#[must_use]
pub fn split_name(raw: &str) -> SplitName<'_> {
    v8(raw).or_else(|| python(raw)).unwrap_or(SplitName { function: raw, file: None, line: 0 })
}

const TIERS: [char; 5] = ['~', '^', '+', '*', '\''];

fn v8(raw: &str) -> Option<SplitName<'_>> {
    let (tag, rest) = raw.split_once(':')?;
    if !matches!(tag, "JS" | "LazyCompile" | "Function" | "Script" | "Eval") {
        return None;
    }
    let rest = rest.strip_prefix(TIERS).unwrap_or(rest);
    // Names have no blanks unless computed ones do; paths may have: the line and column tell
    // the end, and the first blank the begin.
    let (function, place) = rest.split_once(' ').unwrap_or((rest, ""));
    let function = if function.is_empty() { "(anonymous)" } else { function };
    let mut file = None;
    let mut line = 0;
    if let Some((head, column)) = place.rsplit_once(':')
        && let Some((path, row)) = head.rsplit_once(':')
        && column.parse::<u32>().is_ok()
        && let Ok(row) = row.parse()
    {
        let path = path.strip_prefix("file://").unwrap_or(path);
        file = Some(path).filter(|p| !p.is_empty());
        line = row;
    }
    Some(SplitName { function, file, line })
}

fn python(raw: &str) -> Option<SplitName<'_>> {
    let (function, file) = raw.strip_prefix("py::")?.split_once(':')?;
    Some(SplitName { function, file: Some(file), line: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_v8_lose_their_tier() {
        for (raw, function, file, line) in [
            ("JS:*hot /srv/app.js:3:14", "hot", Some("/srv/app.js"), 3),
            ("JS:~ file:///a b/x.mjs:1:1", "(anonymous)", Some("/a b/x.mjs"), 1),
            ("LazyCompile:^next node:internal/x:9:2", "next", Some("node:internal/x"), 9),
            ("JS:*Foo.bar [eval]:1:5", "Foo.bar", Some("[eval]"), 1),
            ("Builtin:ArrayPush", "Builtin:ArrayPush", None, 0),
            ("py::run:/x/y.py", "run", Some("/x/y.py"), 0),
            ("int java.lang.String.hashCode()", "int java.lang.String.hashCode()", None, 0),
            ("JS:", "(anonymous)", None, 0),
            ("", "", None, 0),
        ] {
            assert_eq!(split_name(raw), SplitName { function, file, line }, "{raw}");
        }
    }
}
