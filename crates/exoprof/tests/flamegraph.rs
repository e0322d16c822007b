//! Tests flame graphs and `view --http` in a real browser.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use pprof::{FunctionSpec, Label, Line, MappingSpec, Profile, ProfileBuilder, ValueType};

/// A stack (root first), its thread and its milliseconds.
type Stack = (&'static str, &'static str, i64);

const HOSTILE: &str = "</script><img src=x onerror=alert(1)>]]>\u{1}&amp;'\"";

fn profile(stacks: &[Stack]) -> Profile {
    let mut b = ProfileBuilder::new(vec![ValueType::new("cpu", "nanoseconds")]);
    let mapping = b.mapping(MappingSpec { limit: 1 << 20, ..Default::default() }).unwrap();
    for (stack, thread, ms) in stacks {
        let mut frames: Vec<_> = (stack.split(';').zip(1..))
            .map(|(name, at)| {
                let name = if name == "HOSTILE" { HOSTILE } else { name };
                let spec = FunctionSpec { name, ..Default::default() };
                let function = b.function(spec).unwrap();
                b.location(mapping, at, &[Line::new(function, 0)]).unwrap()
            })
            .collect();
        frames.reverse();
        b.add_sample(&frames, &[ms * 1_000_000], &[Label::text("thread", *thread)]).unwrap();
    }
    b.finish()
}

fn write(folder: &Path, name: &str, profile: &Profile) -> PathBuf {
    let path = folder.join(name);
    let mut bytes = Vec::new();
    pprof::write_gz(profile, &mut bytes).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn flamegraph(out: &Path, args: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_exoprof"))
        .args(["report", "-q", "--flamegraph"])
        .arg(out)
        .args(args)
        .output()
        .expect("exoprof starts")
}

#[track_caller]
fn draw(out: &Path, args: &[&Path]) {
    let output = flamegraph(out, args);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(output.stdout.is_empty());
}

const NEW: [Stack; 5] = [
    ("root;hot;spin", "main", 600),
    ("root;cold;HOSTILE", "worker <b>1</b>", 250),
    ("root;cold;recursive;recursive;recursive", "worker <b>1</b>", 100),
    ("root;cold;std::sort", "main", 30),
    ("root;cold;spin", "main", 20),
];

#[test]
fn in_a_browser() {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/browser");
    assert!(
        modules.join("node_modules/playwright-core").is_dir(),
        "no playwright-core in .cache/browser; fix: scripts/setup-tests"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    // flame.mjs relies on `hot` having 60 % of the time.
    let new = write(folder.path(), "new.pb.gz", &profile(&NEW));
    let old = [("root;hot;spin", "main", 300), ("root;cold", "main", 700)];
    let old = write(folder.path(), "old.pb.gz", &profile(&old));
    draw(&file("a.html"), &[&new]);
    draw(&file("a.svg"), &[&new]);
    let base = PathBuf::from(format!("--diff-base={}", old.display()));
    draw(&file("diff.html"), &[&base, &new]);
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/flame.mjs"))
        .args([&modules, &file("a.html"), &file("a.svg"), &file("diff.html")])
        .output()
        .expect("node starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"ok\n", "{stderr}");
}

/// A running `exoprof view --http`, killed on drop.
struct Page {
    child: Child,
    address: String,
}

impl Page {
    fn of(args: &[&Path]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_exoprof"))
            .args(["view", "--http", ":"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .expect("exoprof starts");
        let mut stderr = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut stderr).unwrap();
        let address = stderr.split(' ').find(|w| w.starts_with("http://127.0.0.1:"));
        let address = address.unwrap_or_else(|| panic!("{stderr}")).to_owned();
        Self { child, address }
    }

    /// Sends a request with these headers and returns the whole response.
    fn get(&self, path: &str, headers: &str) -> String {
        let authority = self.address.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(authority).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn in_a_browser_from_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let new = write(folder.path(), "new.pb.gz", &profile(&NEW));
    let page = Page::of(&[&new]);
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/browser");
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/web.mjs"))
        .args([modules.as_os_str(), page.address.as_ref()])
        .output()
        .expect("node starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"ok\n", "{stderr}");
}

#[test]
fn the_server_answers_only_its_own_page() {
    let folder = tempfile::tempdir().unwrap();
    let new = write(folder.path(), "new.pb.gz", &profile(&NEW));
    let page = Page::of(&[&new]);
    let ours = "Host: localhost\r\n";
    let home = page.get("/", ours);
    assert!(home.starts_with("HTTP/1.1 200 OK"), "{home}");
    assert!(home.to_lowercase().contains("content-security-policy: default-src 'none'"), "{home}");
    // DNS rebinding, and a script from another site.
    assert!(page.get("/", "Host: evil.example\r\n").starts_with("HTTP/1.1 403"));
    let cross = format!("{ours}Sec-Fetch-Site: cross-site\r\n");
    assert!(page.get("/api/top", &cross).starts_with("HTTP/1.1 403"));
    // Pages must not set options that name files.
    let out = folder.path().join("out");
    let answer = page.get(&format!("/api/text?form=top&output={}", out.display()), ours);
    assert!(answer.starts_with("HTTP/1.1 200 OK") && !out.exists(), "{answer}");
    assert!(page.get("/api/text?form=proto", ours).starts_with("HTTP/1.1 400"));
    assert!(page.get("/api/top?focus=(", ours).contains("invalid regular expression"));
    let exposed = Command::new(env!("CARGO_BIN_EXE_exoprof"))
        .args(["view", "--http", "0.0.0.0:0"])
        .arg(&new)
        .output()
        .unwrap();
    assert_eq!(exposed.status.code(), Some(2), "{exposed:?}");
}

#[test]
fn other_file_extensions_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let new = write(folder.path(), "new.pb.gz", &profile(&NEW));
    for name in ["a.png", "a"] {
        let output = flamegraph(&folder.path().join(name), &[&new]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!folder.path().join(name).exists());
    }
}

#[test]
fn a_profile_without_samples() {
    let folder = tempfile::tempdir().unwrap();
    let empty = write(folder.path(), "empty.pb.gz", &profile(&[]));
    for name in ["a.html", "a.svg"] {
        draw(&folder.path().join(name), &[&empty]);
    }
}

#[test]
fn ten_thousand_stacks_make_a_small_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut b = ProfileBuilder::new(vec![ValueType::new("cpu", "nanoseconds")]);
    let mapping = b.mapping(MappingSpec { limit: 1 << 20, ..Default::default() }).unwrap();
    let locations: Vec<_> = (0..1000)
        .map(|n| {
            let name = format!("function {n}");
            let function = b.function(FunctionSpec { name: &name, ..Default::default() }).unwrap();
            b.location(mapping, n, &[Line::new(function, 0)]).unwrap()
        })
        .collect();
    let mut seed = 7_usize;
    for _ in 0..10_000 {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            locations[(seed >> 33) % 1000]
        };
        let stack: Vec<_> = (0..40).map(|_| next()).collect();
        b.add_sample(&stack, &[1_000_000], &[]).unwrap();
    }
    let wide = write(folder.path(), "wide.pb.gz", &b.finish());
    let out = folder.path().join("a.html");
    draw(&out, &[&wide]);
    let size = out.metadata().unwrap().len();
    assert!(size < 2 << 20, "{size} bytes");
}
