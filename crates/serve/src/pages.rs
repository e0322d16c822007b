//! Renders the pages: the endpoints of a process, as Go shows them, and the list of processes.

use std::fmt::Write as _;

use collect::kinds::Kind;

use crate::endpoints::{Endpoint, Source};
use crate::targets::{Entry, Listed};

/// Maximum length of a command line, in characters.
const MAX_COMMAND: usize = 200;

/// Text in HTML, inside elements and quoted attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable::line(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn command(listed: &process::Identity) -> String {
    let words = listed.cmdline.iter().map(|w| w.to_string_lossy());
    let line = words.collect::<Vec<_>>().join(" ");
    if line.chars().count() <= MAX_COMMAND {
        return line;
    }
    line.chars().take(MAX_COMMAND).chain(['…']).collect()
}

/// The count shown for an endpoint: the current total if its kind can count it, otherwise the
/// samples of its last profile. Counting errors are ignored here; requesting the profile reports
/// them.
fn count(entry: &Entry, endpoint: &Endpoint) -> u64 {
    match endpoint.source {
        Source::Profile(Kind {
            endpoint: collect::kinds::Endpoint { count: Some(count), .. },
            ..
        }) => count(&entry.process).unwrap_or(0),
        _ => entry.count(endpoint.name),
    }
}

/// The endpoints of a process. Links are relative: the page is at `…/debug/pprof/`.
pub fn index(entry: &Entry, endpoints: &[Endpoint]) -> String {
    let mut page = String::from(
        "<html>\n<head>\n<title>/debug/pprof/</title>\n<style>\n.profile-name{\n\t\
         display:inline-block;\n\twidth:6rem;\n}\n</style>\n</head>\n<body>\n/debug/pprof/\n<br>\n",
    );
    let _ = writeln!(
        page,
        "<p>of process {}, by exoprof</p>\n\
         <p>Set debug=1 as a query parameter to export in legacy text format</p>\n<br>\n\
         Types of profiles available:\n<table>\n<thead><td>Count</td><td>Profile</td></thead>",
        escape(&entry.shown())
    );
    for e in endpoints {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td><a href='{name}?debug=1'>{name}</a></td></tr>",
            count(entry, e),
            name = escape(e.name)
        );
    }
    page.push_str("</table>\n");
    let kinds = || {
        endpoints.iter().filter_map(|e| match e.source {
            Source::Profile(kind) => Some((e.name, kind)),
            _ => None,
        })
    };
    for (name, _) in kinds().filter(|(_, kind)| kind.endpoint.dump.is_some()) {
        let name = escape(name);
        let _ = writeln!(page, "<a href=\"{name}?debug=2\">full {name} stack dump</a>\n<br>");
    }
    let counted = kinds().filter(|(_, kind)| kind.endpoint.count.is_some());
    let counted: Vec<_> = counted.map(|(name, _)| escape(name)).collect();
    let _ = writeln!(
        page,
        "<p>Counts of {} are current; the others are from the last profile.</p>\n\
         <p>\nProfile Descriptions:\n<ul>",
        counted.join(" and ")
    );
    for e in endpoints {
        let _ = writeln!(
            page,
            "<li><div class=profile-name>{}: </div> {}</li>",
            escape(e.name),
            escape(e.about)
        );
    }
    page.push_str("</ul>\n</p>\n</body>\n</html>");
    page
}

/// The list of processes.
pub fn processes(listed: &[Listed], single: bool) -> String {
    let mut page = String::from(
        "<html>\n<head>\n<title>exoprof</title>\n<style>\ntd{padding-right:1rem;\
         vertical-align:top}\n.pid{text-align:right}\n</style>\n</head>\n<body>\n<p>Processes that \
         may be profiled, each with the endpoints of Go's net/http/pprof:</p>\n<table>\n\
         <thead><td>PID</td><td>User</td><td>Name</td><td>Command</td></thead>\n",
    );
    for Listed { pid, identity } in listed {
        let _ = writeln!(
            page,
            "<tr><td class=pid><a href='/pid/{pid}/debug/pprof/'>{pid}</a></td><td>{}</td>\
             <td>{}</td><td>{}</td></tr>",
            identity.uid,
            escape(&identity.comm),
            escape(&command(identity)),
        );
    }
    page.push_str("</table>\n");
    if single {
        page.push_str("<p>It is also at <a href='/debug/pprof/'>/debug/pprof/</a>.</p>\n");
    }
    page.push_str("</body>\n</html>");
    page
}

/// The same list as JSON.
pub fn processes_json(listed: &[Listed]) -> String {
    let rows: Vec<_> = listed
        .iter()
        .map(|l| {
            serde_json::json!({
                "pid": l.pid,
                "uid": l.identity.uid,
                "name": l.identity.comm,
                "command": command(&l.identity),
                "path": format!("/pid/{}/debug/pprof/", l.pid),
            })
        })
        .collect();
    format!("{}\n", serde_json::Value::from(rows))
}

/// The same list in the form of Prometheus' HTTP service discovery, which Parca and Alloy read.
/// `host` is our address as the client used it.
pub fn service_discovery(listed: &[Listed], host: &str) -> String {
    let groups: Vec<_> = listed
        .iter()
        .map(|l| {
            serde_json::json!({
                "targets": [host],
                "labels": {
                    "__profile_path_prefix__": format!("/pid/{}", l.pid),
                    "service_name": l.identity.comm,
                    "pid": l.pid.to_string(),
                },
            })
        })
        .collect();
    format!("{}\n", serde_json::Value::from(groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_process_is_escaped() {
        let identity = process::Identity {
            comm: "<script>'\"&\u{9b}\u{202e}".into(),
            cmdline: vec!["</td>\n<b>".into(), "x".repeat(500).into()],
            ..Default::default()
        };
        let page = processes(&[Listed { pid: 7, identity }], false);
        assert!(page.contains("&lt;script&gt;&#39;&#34;&amp;\\u{9b}\\u{202e}<"));
        assert!(page.contains("&lt;/td&gt;\\n&lt;b&gt; xx") && page.len() < 1500, "{page}");
    }
}
