//! Demangles symbol names of C++ and Rust.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Limit of the length of a mangled name: demangling is superlinear in the worst case.
const MAX_MANGLED: usize = 4096;
/// Limit of the length of a demangled name: substitutions let a short one grow without bound.
const MAX_DEMANGLED: usize = 16 << 10;
/// Limit of recursion in the demangler of C++; a level takes up to some kilobytes of stack.
const MAX_CPP_DEPTH: u32 = 96;

/// The readable form of a symbol's name: Rust without the hash, C++ with template arguments but
/// without parameters and return type (as `go tool pprof` prints it). Other names only lose their
/// symbol version (`memcpy@@GLIBC_2.14`).
///
/// Returns the name unchanged if it is not a valid mangling, is longer than 4 KiB, or would expand to
/// more than 16 KiB.
#[must_use]
pub fn demangle(mangled: &str) -> Cow<'_, str> {
    if mangled.len() > MAX_MANGLED {
        return Cow::Borrowed(mangled);
    }
    if let Ok(rust) = rustc_demangle::try_demangle(mangled) {
        let mut out = Bounded::default();
        return match write!(out, "{rust:#}") {
            Ok(()) => Cow::Owned(out.text),
            Err(_) => Cow::Borrowed(mangled),
        };
    }
    if mangled.starts_with("_Z") || mangled.starts_with("__Z") || mangled.starts_with("_GLOBAL_") {
        return cpp(mangled).map_or(Cow::Borrowed(mangled), Cow::Owned);
    }
    match mangled.find('@') {
        Some(at) if at > 0 => Cow::Borrowed(&mangled[..at]),
        _ => Cow::Borrowed(mangled),
    }
}

fn cpp(mangled: &str) -> Option<String> {
    let parse = cpp_demangle::ParseOptions::default().recursion_limit(MAX_CPP_DEPTH);
    let show = cpp_demangle::DemangleOptions::new()
        .no_params()
        .no_return_type()
        .recursion_limit(MAX_CPP_DEPTH);
    let plain = mangled.split('@').next()?;
    let symbol = cpp_demangle::BorrowedSymbol::new_with_options(plain.as_bytes(), &parse).ok()?;
    let mut out = Bounded::default();
    symbol.structured_demangle(&mut out, &show).ok()?;
    // For local entities (lambdas) cpp_demangle prints the qualifiers of the enclosing function,
    // although it omits the parameters before them.
    if plain.starts_with("_ZZ") {
        while let Some(shorter) =
            [" const", " volatile"].iter().find_map(|q| out.text.strip_suffix(q))
        {
            out.text.truncate(shorter.len());
        }
    }
    (!out.text.is_empty()).then_some(out.text)
}

/// Text of at most [`MAX_DEMANGLED`] bytes.
#[derive(Default)]
struct Bounded {
    text: String,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.text.len() + s.len() > MAX_DEMANGLED {
            return Err(fmt::Error);
        }
        self.text.push_str(s);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demangles_names_of_each_language() {
        let cases = [
            ("memcpy", "memcpy"),
            ("memcpy@@GLIBC_2.14", "memcpy"),
            ("main.(*T).run[...]", "main.(*T).run[...]"),
            ("_ZNK3foo3barIiEEvT_S1_", "foo::bar<int>"),
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi",
                "std::vector<int, std::allocator<int> >::push_back",
            ),
            ("_ZNKSt6vectorIiSaIiEE4sizeEv", "std::vector<int, std::allocator<int> >::size"),
            ("_ZZ4mainENKUliE_clEi.constprop.0", "main::{lambda(int)#1}::operator()"),
            ("_ZN3fooC4Ev", "foo::foo"),
            ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("_ZTV3foo", "{vtable(foo)}"),
            ("_Znot a name", "_Znot a name"),
            ("", ""),
            ("@x", "@x"),
        ];
        for (mangled, want) in cases {
            assert_eq!(demangle(mangled), want, "{mangled}");
        }
    }

    #[test]
    fn names_beyond_the_limits_stay_mangled() {
        // Each level doubles the text.
        let mut bomb = String::from("_Z1fI1aE");
        for i in 0..40 {
            let _ =
                write!(bomb, "1pIS{}_S{}_E", (b'0' + (i % 10)) as char, (b'0' + (i % 10)) as char);
        }
        assert!(demangle(&bomb).len() <= MAX_DEMANGLED);
        let long = format!("_Z5000{}v", "a".repeat(5000));
        assert_eq!(demangle(&long), long);
        let deep = format!("_Z1f{}iv", "P".repeat(4000));
        assert!(demangle(&deep).len() <= MAX_DEMANGLED);
    }

    #[test]
    fn damaged_manglings_never_panic() {
        let names = [
            "_ZNSt6vectorIN8geometry5ShapeIlEESaIS2_EE17_M_realloc_insertIJRKS2_EEEvN9__gnu_cxx17__normal_iteratorIPS2_S4_EEDpOT_",
            "_ZZN3foo3barIiEEDTcl1fspLT_EEEvENKUlT_E_clIiEEDaS2_",
            "_RNvXs1_NtCs4fqI2P2rA04_4core3fmtINtNtB7_5slice4IterpENtB5_5Debug3fmtCs1a2b3c_1x",
            "_ZN4core3ops8function6FnOnce40call_once$u7b$$u7b$vtable.shim$u7d$$u7d$17h0123456789abcdefE",
        ];
        let letters = b"_ZNSTILEJDKRPXdpclsr0123456789abE.$";
        let mut seed = 0x2545_f491_4f6c_dd1du64;
        for round in 0..40_000 {
            let mut name = names[round % names.len()].as_bytes().to_vec();
            for _ in 0..=round % 7 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = 2 + (seed >> 8) as usize % (name.len() - 2);
                let letter = letters[(seed >> 40) as usize % letters.len()];
                match seed % 3 {
                    0 => name[at] = letter,
                    1 => name.insert(at, letter),
                    _ => name.extend_from_within(at..),
                }
            }
            let name = String::from_utf8(name).unwrap();
            assert!(demangle(&name).len() <= MAX_DEMANGLED.max(name.len()));
        }
    }
}
