//! Splits the names in perf maps and jitdumps, into which runtimes also put tiers, files and lines.

/// The parts of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitName<'a> {
    /// The function.
    pub function: &'a str,
    /// The source file.
    pub file: Option<&'a str>,
    /// The line where the function starts; 0 if unknown.
    pub line: u32,
}

/// Splits names of V8, CPython and .NET; other names are returned as `function`.
///
/// * V8 (`Logger::…`, src/logging/log.cc): `JS:*hot /srv/app.js:3:14`. The sign is the compiler's
///   tier, which is not part of the name: `~` interpreted, `^` baseline, `+` Maglev, `*` Turbofan;
///   `o` before it means on-stack replacement, `'` after it code that is specific to a context
///   (`CodeKindToMarker`, src/objects/code-kind.cc). The name of anonymous functions is empty.
/// * CPython's trampolines (`python -X perf`): `py::handler:/srv/app.py`.
/// * .NET (`PerfMap::LogJITCompiledMethod`, src/coreclr/vm/perfmap.cpp):
///   `int32 [App] App.Cart::Total(int32)[OptimizedTier1]`, with the tier in the last brackets.
#[must_use]
pub fn split_name(raw: &str) -> SplitName<'_> {
    let whole = || SplitName { function: dotnet(raw).unwrap_or(raw), file: None, line: 0 };
    v8(raw).or_else(|| python(raw)).unwrap_or_else(whole)
}

const TIERS: [char; 4] = ['~', '^', '+', '*'];

fn without_tier(name: &str) -> &str {
    let entered = name.strip_prefix('o').filter(|rest| rest.starts_with(TIERS));
    let name = entered.unwrap_or(name);
    let name = name.strip_prefix(TIERS).unwrap_or(name);
    name.strip_prefix('\'').unwrap_or(name)
}

fn v8(raw: &str) -> Option<SplitName<'_>> {
    let (tag, rest) = raw.split_once(':')?;
    if !matches!(tag, "JS" | "LazyCompile" | "Function" | "Script" | "Eval") {
        return None;
    }
    let rest = without_tier(rest);
    // Names have no spaces, apart from computed ones; paths may have. So the path starts after the
    // first space, and ends before the line and column.
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

fn dotnet(raw: &str) -> Option<&str> {
    let (name, tier) = raw.strip_suffix(']')?.rsplit_once('[')?;
    let known = ["Optimized", "QuickJitted", "MinOptJitted", "Instrumented", "PreJIT"];
    let tiered = name.ends_with(')') && known.iter().any(|k| tier.starts_with(k));
    tiered.then_some(name)
}

fn python(raw: &str) -> Option<SplitName<'_>> {
    let (function, file) = raw.strip_prefix("py::")?.split_once(':')?;
    Some(SplitName { function, file: Some(file), line: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_names_of_each_runtime() {
        for (raw, function, file, line) in [
            ("JS:*hot /srv/app.js:3:14", "hot", Some("/srv/app.js"), 3),
            ("JS:~ file:///a b/x.mjs:1:1", "(anonymous)", Some("/a b/x.mjs"), 1),
            ("LazyCompile:^next node:internal/x:9:2", "next", Some("node:internal/x"), 9),
            ("JS:*Foo.bar [eval]:1:5", "Foo.bar", Some("[eval]"), 1),
            ("JS:*'fib file:///x.html:2:13", "fib", Some("/x.html"), 2),
            ("JS:o*spin /x.js:3:14", "spin", Some("/x.js"), 3),
            ("JS:o+'spin /x.js:3:14", "spin", Some("/x.js"), 3),
            ("JS:~open /x.js:3:14", "open", Some("/x.js"), 3),
            ("JS:o /x.js:3:14", "o", Some("/x.js"), 3),
            (
                "int32 [App] Cart::Total(int32)[OptimizedTier1]",
                "int32 [App] Cart::Total(int32)",
                None,
                0,
            ),
            ("void [App] Cart::Add(int32[])[PreJIT]", "void [App] Cart::Add(int32[])", None, 0),
            ("int[]", "int[]", None, 0),
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
