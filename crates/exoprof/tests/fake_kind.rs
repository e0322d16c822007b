//! Registers a made-up profile kind and checks that help, record, doctor and serve pick it up.
//!
//! Adding a kind must need no edit outside its table row.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser};
use collect::kinds::options::{KindOption, OptionValue};
use collect::kinds::{self, Endpoint, Kind, Seconds};
use collect::{Collector, Ended, Outcome, RecordError, Request, Stats};
use exoprof::cli::Cli;
use pprof::validate::{Expect, check, check_expecting};
use pprof::{
    FunctionSpec, KindFacts, Line, MappingSpec, Profile, ProfileBuilder, TextForm, ValueType,
};
use serve::{Notice, ServeArgs};

const SIZE: KindOption = KindOption {
    name: "fake-size",
    help: "How large the fake is",
    default: OptionValue::Bytes(3 << 10),
};

const HISTORY: KindOption = KindOption {
    name: "fake-history",
    help: "Take an old fake",
    default: OptionValue::Flag(false),
};

static FAKE: Kind = Kind {
    facts: KindFacts {
        name: "fake",
        sample_types: &[("fakes", "count")],
        period_type: ("fakes", "count"),
        default_sample_type: None,
        text: TextForm::Count,
    },
    about: "where fakes are made",
    endpoint: Endpoint {
        name: "fakes",
        about: "A sampling of all fakes",
        seconds: Seconds::Difference,
        lane: "fake",
        metric: "fakery",
        count: Some(|_| Ok(4711)),
        dump: None,
        history: Some(HISTORY),
    },
    options: &[SIZE, HISTORY],
    prepare: |request: &Request<'_>| {
        let own = &request.options.own;
        let size = own.number(&SIZE) + u64::from(own.flag(&HISTORY));
        Ok(Box::new(Fake(i64::try_from(size).unwrap())))
    },
    check: |_| Ok("by imagination".into()),
};

/// A kind that is sampled for some time.
static SAMPLED: Kind = Kind {
    facts: KindFacts { name: "faked-time", period_type: ("time", "nanoseconds"), ..FAKE.facts },
    about: "when fakes are made",
    endpoint: Endpoint {
        name: "fakedtime",
        about: "Fakes over time",
        seconds: Seconds::Record,
        lane: "fake",
        metric: "fakery",
        count: None,
        dump: None,
        history: None,
    },
    options: &[],
    prepare: |request: &Request<'_>| {
        Ok(Box::new(Fake(i64::try_from(request.options.duration.as_secs()).unwrap())))
    },
    check: |_| Ok("by patience".into()),
};

struct Fake(i64);

impl Collector for Fake {
    fn begin(&mut self) -> Result<(), RecordError> {
        Ok(())
    }

    fn is_complete(&self) -> bool {
        true
    }

    fn finish(self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        Ok(Outcome { profile: profile(self.0), stats: Stats::default(), ended })
    }
}

fn profile(value: i64) -> Profile {
    let value_type = |(name, unit): &(&str, &str)| ValueType::new(*name, *unit);
    let types = FAKE.facts.sample_types.iter().map(value_type).collect();
    let mut builder = ProfileBuilder::new(types);
    builder.set_period(value_type(&FAKE.facts.period_type), 1);
    builder.set_time_nanos(1_700_000_000_000_000_000);
    let file = "/bin/fake";
    let mapping = MappingSpec { start: 0x1000, limit: 0x2000, file, ..Default::default() };
    let mapping = builder.mapping(mapping).unwrap();
    let name = "make_fake";
    let make = FunctionSpec { name, system_name: name, ..Default::default() };
    let make = builder.function(make).unwrap();
    let location = builder.location(mapping, 0x1234, &[Line::new(make, 7)]).unwrap();
    builder.add_sample(&[location], &[value], &[]).unwrap();
    builder.finish()
}

/// A process to profile.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One test for everything, because the table of kinds belongs to the process.
#[test]
fn a_kind_is_one_row() {
    assert!(kinds::find("fake").is_none());
    kinds::register(&FAKE);
    kinds::register(&SAMPLED);
    let target = Sleeper::new();
    help();
    recorded(&target);
    checked();
    served(&target);
}

fn help() {
    let mut command = Cli::command();
    let record = command.find_subcommand_mut("record").unwrap();
    let help = record.render_long_help().to_string();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for shown in [
        "fake: where fakes are made",
        "--fake-size <BYTES> How large the fake is [default: 3KiB]",
        "--fake-history Take an old fake",
        "faked-time: when fakes are made",
        "per running thread (cpu, wall and faked-time)",
    ] {
        assert!(words.contains(shown), "{shown}: {help}");
    }
    let parse = |args: &[&str]| Cli::try_parse_from([&["exoprof", "record"], args].concat());
    assert!(parse(&["fake", "-p", "1", "--fake-size", "1MiB"]).is_ok());
    assert!(parse(&["fake", "-p", "1", "--fake-size", "much"]).is_err());
}

fn recorded(target: &Sleeper) {
    let folder = tempfile::tempdir().unwrap();
    for (given, value) in
        [(&[][..], 3 << 10), (&["--fake-size", "7"], 7), (&["--fake-size=7", "--fake-history"], 8)]
    {
        let path = folder.path().join(format!("{}.pb.gz", given.join("")));
        let (pid, output) = (target.pid(), path.to_str().unwrap());
        let args = ["exoprof", "record", "fake", "-q", "-p", &pid, "-o", output];
        Cli::try_parse_from([&args, given].concat()).unwrap().run().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(pprof::decode(&bytes).unwrap().samples.iter().next().unwrap().values, [value]);
        let facts = kinds::all_facts();
        let report = check_expecting(&bytes, &Expect { kinds: &facts, ..Expect::default() });
        assert_eq!(report.unwrap().kind, "fake");
        assert!(check(&bytes).is_err(), "Go has no such kind");
    }
}

fn checked() {
    let subject = collect::doctor::Subject::examine(None).unwrap();
    let findings = subject.findings();
    let fake = findings.iter().find(|f| f.what == "fake").unwrap();
    assert_eq!(fake.verdict.as_ref().unwrap(), "by imagination");
}

#[derive(Parser)]
struct Wrapped {
    #[command(flatten)]
    args: ServeArgs,
}

fn served(target: &Sleeper) {
    let args = ["serve", "--listen", "127.0.0.1:0", "-p", &target.pid()];
    let args = Wrapped::try_parse_from(args).unwrap().args;
    let (sender, listening) = mpsc::channel();
    let notify = move |notice| {
        if let Notice::Listening { address, .. } = notice {
            let _ = sender.send(address);
        }
    };
    // The server runs until the test process exits.
    std::thread::spawn(move || serve::run(&args, &(std::sync::Arc::new(notify) as serve::Notify)));
    let address = listening.recv_timeout(Duration::from_secs(60)).unwrap();
    let address = address.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let get = |path: &str| get(address, &format!("/debug/pprof/{path}"));
    let index = String::from_utf8(get("")).unwrap();
    for shown in [
        "<tr><td>4711</td><td><a href='fakes?debug=1'>fakes</a></td></tr>",
        "fakes: </div> A sampling of all fakes",
    ] {
        assert!(index.contains(shown), "{shown}: {index}");
    }
    assert!(index.contains("Counts of fakes and goroutine and threadcreate"), "{index}");
    let body = get("fakes");
    let values = pprof::decode(&body).unwrap().samples.iter().next().unwrap().values.to_vec();
    assert_eq!(values, [(3 << 10) + 1], "the history flag at the default size");
    let text = String::from_utf8(get("fakes?debug=1")).unwrap();
    assert!(text.starts_with("fake profile: total 3073\n3073 @ 0x1235\n"), "{text}");
    assert!(text.contains("make_fake"), "{text}");
    let value = |path: &str| {
        pprof::decode(&get(path)).unwrap().samples.iter().next().unwrap().values.to_vec()
    };
    // The default of a kind that is sampled for some time is Go's.
    assert_eq!((value("fakedtime"), value("fakedtime?seconds=2")), (vec![30], vec![2]));
}

/// Sends a GET request and returns the response body.
fn get(address: &str, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    let end = response.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&response[..end]).into_owned();
    assert!(head.contains(" 200 "), "{head}");
    response[end + 4..].to_vec()
}
