//! Decides which processes clients may profile: the rules of `--allow`.

use process::{Identity, Process};

/// One rule: all its parts must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// The effective user.
    Uid(u32),
    /// The thread group leader's name, or the file name of the executable.
    Name(String),
    /// The path of the control group or of one of its parents.
    Cgroup(String),
    /// The systemd unit.
    Unit(String),
}

impl Rule {
    /// Parses `uid=1000`, `name=redis*`, `cgroup=/system.slice/*`, `unit=redis.service`, or
    /// several of them joined by commas. `*` matches any text.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(Part::parse).collect::<Result<_, _>>().map(Self)
    }

    fn fits(&self, identity: &Identity, cgroup: &str) -> bool {
        self.0.iter().all(|part| part.fits(identity, cgroup))
    }
}

impl Part {
    fn parse(text: &str) -> Result<Self, String> {
        let forms = "use uid=, name=, cgroup= or unit=";
        let (key, value) = text.split_once('=').ok_or(forms)?;
        if value.is_empty() {
            return Err(format!("{key}= requires a value"));
        }
        Ok(match key {
            "uid" => Self::Uid(uid_of(value)?),
            "name" => Self::Name(value.to_string()),
            "cgroup" => Self::Cgroup(value.trim_end_matches('/').to_string()),
            "unit" if value.contains('.') => Self::Unit(value.to_string()),
            "unit" => Self::Unit(format!("{value}.service")),
            _ => return Err(format!("unknown key {key:?}: {forms}")),
        })
    }

    fn fits(&self, identity: &Identity, cgroup: &str) -> bool {
        match self {
            Self::Uid(uid) => identity.uid == *uid,
            Self::Name(pattern) => {
                let exe = identity.exe.as_ref().map(|e| e.to_string_lossy());
                let file = exe.as_deref().map(|e| e.rsplit('/').next().unwrap_or(e));
                matches(pattern, &identity.comm) || file.is_some_and(|f| matches(pattern, f))
            }
            Self::Cgroup(pattern) => {
                let ends = cgroup.match_indices('/').map(|(at, _)| at).chain([cgroup.len()]);
                ends.into_iter().any(|end| matches(pattern, &cgroup[..end]))
            }
            Self::Unit(pattern) => cgroup.split('/').any(|part| matches(pattern, part)),
        }
    }
}

fn uid_of(value: &str) -> Result<u32, String> {
    if let Ok(uid) = value.parse() {
        return Ok(uid);
    }
    match nix::unistd::User::from_name(value) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("unknown user {value:?}")),
        Err(e) => Err(format!("cannot look up the user {value:?}: {e}")),
    }
}

/// Whether `text` matches a pattern in which `*` matches any text. Takes linear space and at most
/// quadratic time, because a process chooses its own name.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Rules of which at least one must match. Without rules every process is allowed.
#[derive(Debug, Clone, Default)]
pub struct Allow(pub Vec<Rule>);

impl Allow {
    /// Whether a process may be profiled now: it may have changed its user or name since it was
    /// opened.
    pub fn admits(&self, process: &Process) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Ok(identity) = process.read_identity() else { return false };
        let cgroup = process.cgroup().unwrap_or_default();
        self.0.iter().any(|rule| rule.fits(&identity, &cgroup))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis() -> Identity {
        Identity {
            comm: "redis-server".into(),
            exe: Some("/usr/bin/redis-check-rdb".into()),
            uid: 105,
            ..Identity::default()
        }
    }

    fn fits(rule: &str) -> bool {
        Rule::parse(rule).unwrap().fits(&redis(), "/system.slice/redis-server.service")
    }

    #[test]
    fn rules() {
        for rule in [
            "uid=105",
            "name=redis-server",
            "name=redis*",
            "name=*check*",
            "cgroup=/system.slice",
            "cgroup=/system.slice/",
            "cgroup=/system.slice/*",
            "cgroup=*.service",
            "unit=redis-server",
            "unit=redis-server.service",
            "unit=redis*",
            "uid=105,name=redis*,unit=redis*",
        ] {
            assert!(fits(rule), "{rule}");
        }
        for rule in [
            "uid=0",
            "uid=root",
            "name=redis",
            "name=server",
            "cgroup=/system",
            "cgroup=/user.slice",
            "unit=redis",
            "uid=105,name=nginx",
        ] {
            assert!(!fits(rule), "{rule}");
        }
        for wrong in ["", "redis", "uid=", "uid=no-such-user", "pid=1", "name=a,b"] {
            assert!(Rule::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text) in [("*", ""), ("a*", "a"), ("a*b*c", "aXbYbc"), ("**", "x")] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a*b", "ba"), ("ab*b", "ab"), ("a*b*c", "abd")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
