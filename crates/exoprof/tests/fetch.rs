//! Tests profiles from URLs: fetching, saving under pprof's file names, and one-line errors.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn recording() -> Vec<u8> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../report/tests/data");
    std::fs::read(data.join("python.pb.gz")).unwrap()
}

/// Starts a server on a free port that answers each request until the test ends.
fn serve(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|l| !l.unwrap().is_empty()) {}
            answer(request.split(' ').nth(1).unwrap(), &mut stream);
        }
    });
    address
}

fn ok(body: &[u8], stream: &mut TcpStream) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
}

fn report(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_exoprof"))
        .arg("report")
        .args(args)
        .env("HOME", home)
        .env_remove("PPROF_TMPDIR")
        .env_remove("SUDO_UID")
        .output()
        .expect("exoprof starts")
}

#[track_caller]
fn error(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

#[test]
fn fetched_profiles_are_saved_under_pprofs_names() {
    let home = tempfile::tempdir().unwrap();
    let address = serve(|path, stream| match path {
        "/debug/pprof/profile?seconds=2" => ok(&recording(), stream),
        other => panic!("{other}"),
    });
    for nth in 1..3 {
        let output = report(home.path(), &["--seconds=2", &address]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.starts_with(&format!(
            "Fetching profile over HTTP from http://{address}/debug/pprof/profile?seconds=2\n\
             Please wait... (2s)\n"
        )));
        let saved: PathBuf = stderr.lines().last().unwrap().split_once("in ").unwrap().1.into();
        let name = format!("pprof/pprof.python3.11.samples.cpu.00{nth}.pb.gz");
        assert_eq!(saved, home.path().join(name));
        let read = |bytes: &[u8]| pprof::decode(bytes).unwrap();
        assert_eq!(read(&std::fs::read(saved).unwrap()), read(&recording()));
    }
}

#[test]
fn a_url_and_a_file() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a:1");
    std::fs::write(&file, recording()).unwrap();
    let address = serve(|_, stream| ok(&recording(), stream));
    let url = format!("http://{address}/x");
    let base = format!("--diff-base={url}");
    let output = report(home.path(), &["-q", &base, file.to_str().unwrap()]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("accounting for 0, 0% of"));
}

#[test]
fn errors_of_go_servers_are_shown() {
    let home = tempfile::tempdir().unwrap();
    let answer = |headers: &'static str| {
        serve(move |_, stream| {
            let text = "Could not enable CPU profiling:\n\x1b[31mcpu profiling already in use\n";
            write!(stream, "HTTP/1.1 500 Internal Server Error\r\n{headers}\r\n{text}").unwrap();
        })
    };
    let go = answer("X-Go-Pprof: 1\r\nContent-Type: text/plain; charset=utf-8\r\n");
    let stderr = error(&report(home.path(), &["-q", &go]));
    let expected = "server response: 500 Internal Server Error - Could not enable CPU profiling: \
                    \\x1b[31mcpu profiling already in use";
    assert!(stderr.ends_with(expected), "{stderr}");
    let other = answer("Content-Type: text/html\r\n");
    let stderr = error(&report(home.path(), &["-q", &other]));
    assert!(stderr.ends_with("server response: 500 Internal Server Error"), "{stderr}");
}

#[test]
fn failures_are_one_line() {
    let home = tempfile::tempdir().unwrap();
    let cut = serve(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n\x1f\x8b");
    });
    let stderr = error(&report(home.path(), &["-q", &cut]));
    assert!(stderr.contains("the response was cut short"), "{stderr}");
    let page = serve(|_, stream| ok(b"<html>\nhello</html>", stream));
    let stderr = error(&report(home.path(), &["-q", &page]));
    assert!(stderr.contains("an HTML or XML document"), "{stderr}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stderr = error(&report(home.path(), &["-q", &format!("http://me:secret@{closed}/p")]));
    assert!(
        stderr.contains(&format!("http://{closed}/p")) && !stderr.contains("secret"),
        "{stderr}"
    );
    let silent = serve(|_, _| std::thread::park());
    let output = Command::new(env!("CARGO_BIN_EXE_exoprof"))
        .args(["report", "-q", "--timeout=1", &silent])
        .output()
        .unwrap();
    assert!(error(&output).contains("timeout"), "{output:?}");
    assert!(!home.path().join("pprof").exists(), "nothing was fetched, so nothing is saved");
}
