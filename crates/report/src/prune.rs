//! Drops the frames that the profile's `drop_frames` names.

use crate::regexp::Pattern;
use crate::work::FilteredProfile;

/// How pruning changes a location.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pruned {
    No,
    /// An inlined line matches: that line, those inlined into it and all callees are dropped.
    Inlined,
    /// The location and its callees are dropped.
    Whole,
}

/// Applies `drop_frames` and `keep_frames`. As in pprof, an invalid expression drops nothing.
pub(crate) fn apply(work: &mut FilteredProfile<'_>) {
    let profile = work.profile;
    if profile.drop_frames.is_empty() {
        return;
    }
    let whole = |text: &str| Pattern::new("frames", &format!("^({text})$"));
    let Ok(drop) = whole(&profile.drop_frames) else { return };
    let keep = match &*profile.keep_frames {
        "" => None,
        text => match whole(text) {
            Ok(keep) => Some(keep),
            Err(_) => return,
        },
    };
    let pruned: Vec<bool> = (profile.functions.iter())
        .map(|f| {
            let name = simple(&f.name);
            !f.name.is_empty()
                && drop.is_match(name)
                && !keep.as_ref().is_some_and(|k| k.is_match(name))
        })
        .collect();
    let mut pruned_locations = vec![Pruned::No; profile.locations.len()];
    work.rewrite_lines(|location, lines, out| {
        let is_pruned = |line: &pprof::Line| {
            line.function.and_then(|f| pruned.get(f.index())).is_some_and(|p| *p)
        };
        match lines.iter().rposition(is_pruned) {
            None => out.extend_from_slice(lines),
            Some(at) if at + 1 == lines.len() => {
                pruned_locations[location] = Pruned::Whole;
                out.extend_from_slice(lines);
            }
            Some(at) => {
                pruned_locations[location] = Pruned::Inlined;
                out.extend_from_slice(&lines[at + 1..]);
            }
        }
    });
    work.cut(profile.samples.iter().map(|s| cut(s.locations, &pruned_locations)).collect());
}

/// The number of leaf frames to drop. Matches at the root, before any other function, are ignored.
fn cut(stack: &[pprof::LocationIndex], pruned_locations: &[Pruned]) -> u32 {
    let mut is_past_root = false;
    for (at, location) in stack.iter().enumerate().rev() {
        let frames = match pruned_locations.get(location.index()) {
            Some(Pruned::Whole) if is_past_root => at + 1,
            Some(Pruned::Inlined) if is_past_root => at,
            None | Some(Pruned::No) => {
                is_past_root = true;
                continue;
            }
            _ => continue,
        };
        return u32::try_from(frames).unwrap_or(u32::MAX);
    }
    0
}

/// A function's name without its arguments.
pub(crate) fn simple(name: &str) -> &str {
    let name = name.strip_prefix('.').unwrap_or(name);
    let mut at = 0;
    while let Some(found) = name.get(at..).and_then(|rest| rest.find('(')) {
        let bracket = at + found;
        let reserved = ["(anonymous namespace)", "operator()"].into_iter().find_map(|r| {
            let begin = bracket.checked_sub(r.find('(')?)?;
            name.get(begin..)?.starts_with(r).then_some(begin + r.len())
        });
        match reserved {
            Some(end) => at = end,
            None => return &name[..bracket],
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let cases = [
            ("f(int)", "f"),
            (".f", "f"),
            ("(anonymous namespace)::f(int)", "(anonymous namespace)::f"),
            ("T::operator()(int)", "T::operator()"),
            ("f", "f"),
        ];
        for (name, simplified) in cases {
            assert_eq!(simple(name), simplified);
        }
    }
}
