//! The folder of fetched profiles, as `go tool pprof` keeps it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use console::output::{Output, Place};
use console::user::User;
use pprof::Profile;

/// Saves a profile as `pprof.FILE.TYPE.TYPE.NNN.pb.gz`, and returns its path.
pub fn save(profile: &Profile) -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    let place = Place::Numbered { folder, stem: stem(profile) };
    let path = Output::prepare(place)?.write(profile)?;
    path.context("a file has a path")
}

/// The first folder that can be made: `PPROF_TMPDIR`, `~/pprof`, the temporary one.
fn folder() -> anyhow::Result<PathBuf> {
    let user = User::invoking();
    let given = std::env::var_os("PPROF_TMPDIR").filter(|p| !p.is_empty()).map(PathBuf::from);
    let at_home = user.home.as_ref().map(|home| home.join("pprof"));
    let mut last = None;
    for folder in given.into_iter().chain(at_home).chain([std::env::temp_dir()]) {
        match user.make_folder(&folder) {
            Ok(()) => return Ok(folder),
            Err(e) => last = Some((folder, e)),
        }
    }
    let (folder, e) = last.context("no folder")?;
    Err(e).with_context(|| folder.display().to_string())
}

fn stem(profile: &Profile) -> String {
    let file = profile.mappings.first().map_or("", |m| &*m.file);
    let file = Path::new(file).file_name().and_then(|n| n.to_str()).map(str::to_owned);
    let types = profile.sample_types.iter().map(|t| t.kind.to_string());
    let parts = std::iter::once("pprof".to_owned()).chain(file).chain(types);
    parts.map(|part| harmless(&part)).collect::<Vec<_>>().join(".")
}

/// What a profile says may not lead out of the folder.
fn harmless(part: &str) -> String {
    let safe = |c: char| if c.is_control() || c == '/' { '_' } else { c };
    part.chars().take(80).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_pprof() {
        let types = ["samples", "cpu"].map(|t| pprof::ValueType::new(t, "count"));
        let mut profile = Profile { sample_types: types.to_vec(), ..Profile::default() };
        assert_eq!(stem(&profile), "pprof.samples.cpu");
        profile.mappings.push(pprof::Mapping { file: "/bin/redis".into(), ..Default::default() });
        assert_eq!(stem(&profile), "pprof.redis.samples.cpu");
        profile.sample_types[0].kind = "../../x\n".into();
        assert_eq!(stem(&profile), "pprof.redis..._.._x_.cpu");
    }
}
