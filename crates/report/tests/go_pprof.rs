//! Compares reports with those of `go tool pprof` character by character.

mod common;

use std::path::{Path, PathBuf};

use common::profiles;
use pprof::Profile;
use report::{Filters, Form, Granularity, Options, Report, combine};

/// The line between entries of a tree.
const SEPARATOR: &str = "----------------------------------------------------------+";

type Change = (&'static [&'static str], fn(&mut Options));

/// Report forms: pprof's options and our equivalent.
const FORMS: [Change; 11] = [
    (&["-top"], |_| {}),
    (&["-top", "-nodecount=3"], |o| o.node_count = Some(3)),
    (&["-tree"], |o| o.form = Form::Tree),
    (&["-tree", "-nodecount=4"], |o| (o.form, o.node_count) = (Form::Tree, Some(4))),
    (&["-peek=main|alloc"], |o| o.form = Form::Peek("main|alloc".into())),
    (&["-peek=."], |o| o.form = Form::Peek(".".into())),
    (&["-list=m|[a-c].*w"], |o| o.form = Form::List("m|[a-c].*w".into())),
    (&["-traces"], |o| o.form = Form::Traces),
    (&["-raw"], |o| o.form = Form::Raw),
    (&["-tags"], |o| o.form = Form::Tags),
    (&["-comments"], |o| o.form = Form::Comments),
];

/// Options that are combined with each report form.
const MODIFIERS: [Change; 17] = [
    (&[], |_| {}),
    (&["-cum"], |o| o.cum = true),
    (&["-sample_index=0"], |o| o.sample_index = Some("0".into())),
    (&["-focus=main|größe"], |o| o.filters.focus = Some("main|größe".into())),
    (&["-ignore=^a$|libc"], |o| o.filters.ignore = Some("^a$|libc".into())),
    (&["-hide=runtime|stl_vec"], |o| o.filters.hide = Some("runtime|stl_vec".into())),
    (&["-show=main|wörker"], |o| o.filters.show = Some("main|wörker".into())),
    (&["-focus=nowhere"], |o| o.filters.focus = Some("nowhere".into())),
    (&["-hide=^a", "-show=[ae]", "-ignore=zero", "-focus=.", "-lines"], |o| {
        let text = |t: &str| Some(t.to_owned());
        let (focus, ignore) = (text("."), text("zero"));
        o.filters =
            Filters { focus, ignore, hide: text("^a"), show: text("[ae]"), ..Filters::default() };
        o.granularity = Granularity::Lines;
    }),
    (&["-nodefraction=0"], |o| o.node_fraction = 0.0),
    (&["-nodefraction=0.2", "-cum"], |o| (o.node_fraction, o.cum) = (0.2, true)),
    (&["-unit=ms"], |o| o.unit = Some("ms".into())),
    (&["-unit=auto"], |o| o.unit = Some("auto".into())),
    (&["-unit=MB"], |o| o.unit = Some("MB".into())),
    (&["-lines"], |o| o.granularity = Granularity::Lines),
    (&["-files"], |o| o.granularity = Granularity::Files),
    (&["-addresses"], |o| o.granularity = Granularity::Addresses),
];

/// Rarer options. To save time, they are tested with some of the profiles only.
const RARE_MODIFIERS: [Change; 21] = [
    (&["-filefunctions"], |o| o.granularity = Granularity::FileFunctions),
    (&["-lines", "-showcolumns"], |o| {
        (o.granularity, o.columns) = (Granularity::Lines, true);
    }),
    (&["-noinlines"], |o| o.no_inlines = true),
    (&["-noinlines", "-lines"], |o| {
        (o.no_inlines, o.granularity) = (true, Granularity::Lines);
    }),
    (&["-noinlines", "-addresses"], |o| {
        (o.no_inlines, o.granularity) = (true, Granularity::Addresses);
    }),
    (&["-noinlines", "-showcolumns"], |o| (o.no_inlines, o.columns) = (true, true)),
    (&["-drop_negative"], |o| o.drop_negative = true),
    (&["-trim=false"], |o| o.trim = false),
    (&["-edgefraction=0.1"], |o| o.edge_fraction = 0.1),
    (&["-divide_by=7"], |o| o.divide_by = 7.0),
    (&["-relative_percentages", "-focus=main"], |o| {
        (o.relative, o.filters.focus) = (true, Some("main".into()));
    }),
    (&["-show_from=main|work"], |o| o.filters.show_from = Some("main|work".into())),
    (&["-show_from=libc", "-hide=alloc"], |o| {
        let text = |t: &str| Some(t.to_owned());
        (o.filters.show_from, o.filters.hide) = (text("libc"), text("alloc"));
    }),
    (&["-prune_from=work|alloc"], |o| o.filters.prune_from = Some("work|alloc".into())),
    (&["-tagfocus=comm=a|r"], |o| o.filters.tag_focus = Some("comm=a|r".into())),
    (&["-tagfocus=[a-m]", "-tagignore=comm:.*o"], |o| {
        let text = |t: &str| Some(t.to_owned());
        (o.filters.tag_focus, o.filters.tag_ignore) = (text("[a-m]"), text("comm:.*o"));
    }),
    (&["-tagfocus=bytes=1kb:"], |o| o.filters.tag_focus = Some("bytes=1kb:".into())),
    (&["-tagignore=:100"], |o| o.filters.tag_ignore = Some(":100".into())),
    (&["-divide_by=1e-12"], |o| o.divide_by = 1e-12),
    (&["-tagshow=co", "-relative_percentages"], |o| {
        (o.filters.tag_show, o.relative) = (Some("co".into()), true);
    }),
    (&["-tagshow=co|by|ma", "-taghide=y$"], |o| {
        let text = |t: &str| Some(t.to_owned());
        (o.filters.tag_show, o.filters.tag_hide) = (text("co|by|ma"), text("y$"));
    }),
];

/// Profiles written to files.
struct Input {
    folder: tempfile::TempDir,
    sources: Vec<PathBuf>,
    bases: Vec<PathBuf>,
}

impl Input {
    fn new(sources: &[Profile], bases: &[Profile]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Source for `list`, with a carriage return, tabs and no newline at the end.
        let text = (1..45).map(|n| format!("line {n}\t{}", if n == 7 { "\r\n" } else { "\n" }));
        std::fs::write(folder.path().join("annotated.txt"), text.collect::<String>() + "x")
            .unwrap();
        let write = |kind: &str, profiles: &[Profile]| {
            let files = profiles.iter().enumerate().map(|(nth, profile)| {
                let path = folder.path().join(format!("{kind}{nth}.pb.gz"));
                let mut bytes = Vec::new();
                pprof::write_gz(profile, &mut bytes).unwrap();
                std::fs::write(&path, bytes).unwrap();
                path
            });
            files.collect::<Vec<_>>()
        };
        let (sources, bases) = (write("source", sources), write("base", bases));
        Self { folder, sources, bases }
    }

    fn of_files(sources: &[PathBuf]) -> Self {
        let (sources, bases) = (sources.to_vec(), Vec::new());
        Self { folder: tempfile::tempdir().unwrap(), sources, bases }
    }

    /// Compares all report forms with all common options.
    #[track_caller]
    fn compare(&self) {
        self.compare_with(&MODIFIERS);
    }

    #[track_caller]
    fn compare_with(&self, modifiers: &[Change]) {
        let read = |files: &[PathBuf]| files.iter().map(|f| read(f)).collect::<Vec<_>>();
        let combined = combine(read(&self.sources), read(&self.bases)).unwrap();
        let mut differences = Vec::new();
        for form in &FORMS {
            for modifier in modifiers {
                differences.extend(self.difference(&combined, form, modifier));
            }
        }
        assert!(differences.is_empty(), "{} differ: {}", differences.len(), differences[0]);
    }

    fn difference(&self, profile: &Profile, form: &Change, modifier: &Change) -> Option<String> {
        let mut options =
            Options { source_path: self.folder.path().to_owned(), ..Options::default() };
        form.1(&mut options);
        modifier.1(&mut options);
        // With columns, entries of line 0 differ by a column that is not shown.
        let has_ties =
            options.granularity == Granularity::Files || options.columns || !self.bases.is_empty();

        let own = |files: &[PathBuf], option: &str| {
            files.iter().map(|f| format!("{option}{}", f.display())).collect::<Vec<_>>()
        };
        let mut args: Vec<String> =
            form.0.iter().chain(modifier.0).map(|a| (*a).to_owned()).collect();
        args.extend(own(&self.bases, "-diff_base="));
        args.extend(own(&self.sources, ""));
        let pprof = common::pprof(self.folder.path(), &args);

        let mut ours = Vec::new();
        let written = Report::new(profile, options).and_then(|r| r.write(&mut ours));
        let errors = String::from_utf8_lossy(&pprof.stderr);
        if pprof.status.success() != written.is_ok() {
            return Some(format!("{args:?}: {written:?}, {errors}"));
        }
        let theirs = String::from_utf8_lossy(&pprof.stdout);
        let ours = String::from_utf8_lossy(&ours);
        let is_same = ours == theirs || has_ties && canonical(&ours) == canonical(&theirs);
        (!is_same).then(|| format!("{args:?}\n{}", first_difference(&theirs, &ours)))
    }
}

fn read(file: &Path) -> Profile {
    pprof::decode(&std::fs::read(file).unwrap()).unwrap()
}

/// Text in a canonical order.
///
/// pprof prints entries with equal name and weight in random order (that of Go's maps). Source
/// files, which it counts once per function, are such entries. The order of calls with the weights
/// x and -x is random, too. Hence lines are sorted within an entry, and entries within the report.
/// The running sum depends on the position and is dropped.
fn canonical(text: &str) -> Vec<Vec<String>> {
    let mut blocks: Vec<Vec<String>> = vec![Vec::new()];
    for line in text.lines() {
        if line.starts_with(SEPARATOR) {
            blocks.push(Vec::new());
        }
        let mut words: Vec<&str> = line.split(' ').filter(|w| !w.is_empty()).collect();
        if words.len() > 3 && words[1].ends_with('%') && words[2].ends_with('%') {
            words.remove(2);
        }
        blocks.last_mut().unwrap().push(words.join(" "));
    }
    blocks.iter_mut().for_each(|b| b.sort());
    blocks.sort();
    blocks
}

fn first_difference(theirs: &str, ours: &str) -> String {
    let (theirs, ours): (Vec<_>, Vec<_>) = (theirs.lines().collect(), ours.lines().collect());
    let at = theirs.iter().zip(&ours).take_while(|(a, b)| a == b).count();
    let around = |lines: &[&str]| lines[at.saturating_sub(2)..lines.len().min(at + 3)].join("\n");
    format!("line {}\npprof:\n{}\nours:\n{}", at + 1, around(&theirs), around(&ours))
}

#[test]
fn profiles_of_the_go_toolchain() {
    let folder = common::goroot().join("src/cmd/compile/internal/test/testdata/pgo");
    for name in ["devirtualize/devirt.pprof", "inline/inline_hot.pprof"] {
        Input::of_files(&[folder.join(name)]).compare();
    }
}

#[test]
fn recordings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for name in ["python.pb.gz", "go-vet.pb.gz"] {
        Input::of_files(&[folder.join(name)]).compare();
    }
}

#[test]
fn cpu_profiles() {
    for seed in 1..4 {
        Input::new(&[profiles::cpu(seed)], &[]).compare();
    }
}

#[test]
fn heap_profiles() {
    Input::new(&[profiles::heap(5)], &[]).compare();
}

#[test]
fn unknown_units() {
    Input::new(&[profiles::odd(6)], &[]).compare();
}

#[test]
fn rare_options() {
    for profile in [profiles::cpu(22), profiles::heap(23), profiles::odd(6)] {
        Input::new(&[profile], &[]).compare_with(&RARE_MODIFIERS);
    }
    Input::new(&[profiles::heap(25)], &[profiles::heap(26)]).compare_with(&RARE_MODIFIERS);
}

#[test]
fn no_mappings() {
    Input::new(&[profiles::unmapped(19)], &[]).compare();
    Input::new(&[profiles::unmapped(20), profiles::unmapped(21)], &[]).compare();
}

#[test]
fn no_samples() {
    Input::new(&[profiles::empty()], &[]).compare();
}

#[test]
fn merged() {
    Input::new(&[profiles::cpu(7), profiles::cpu(8), profiles::cpu(7)], &[]).compare();
    Input::new(&[profiles::heap(9), profiles::heap(10)], &[]).compare();
}

#[test]
fn merged_with_other_types_and_units() {
    Input::new(&[profiles::cpu(11), profiles::cpu_in_milliseconds(12)], &[]).compare();
}

#[test]
fn merged_with_profiles_of_other_writers() {
    let (mut first, mut second) = (profiles::cpu(27), profiles::cpu(28));
    first.period = -3;
    (second.period, second.time_nanos) = (0, 0);
    first.mappings[1].has_functions = false;
    second.mappings[2].has_functions = false;
    Input::new(&[first.clone(), second.clone()], &[]).compare();
    Input::new(&[second.clone(), first.clone()], &[]).compare();
    // The same stacks, but some have no value in `partly`.
    let mut partly = first.clone();
    partly.scale(1e-6);
    Input::new(&[partly, first], &[second]).compare();
}

#[test]
fn a_sample_type_without_a_name() {
    let mut unnamed = profiles::cpu(29);
    unnamed.sample_types[0].kind = "".into();
    Input::new(&[unnamed], &[]).compare();
}

#[test]
fn differences() {
    Input::new(&[profiles::cpu(13)], &[profiles::cpu(14)]).compare();
    Input::new(&[profiles::heap(15), profiles::heap(16)], &[profiles::heap(15)]).compare();
    // Everything cancels out.
    Input::new(&[profiles::cpu(17)], &[profiles::cpu(17)]).compare();
}

#[test]
fn a_sample_type_by_its_new_name() {
    let mut old_heap = profiles::heap(18);
    old_heap.sample_types[3].kind = "space".into();
    let input = Input::new(&[old_heap], &[]);
    let profile = combine(vec![read(&input.sources[0])], Vec::new()).unwrap();
    let by_name: Change = (&["-sample_index=inuse_space"], |o| {
        o.sample_index = Some("inuse_space".into());
    });
    assert_eq!(input.difference(&profile, &FORMS[0], &by_name), None);
    let unknown: Change = (&["-sample_index=9"], |o| o.sample_index = Some("9".into()));
    assert_eq!(input.difference(&profile, &FORMS[0], &unknown), None);
}
