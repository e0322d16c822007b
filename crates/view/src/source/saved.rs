//! Saves fetched profiles in the same directory as `go tool pprof`.

use std::io;
use std::path::{Path, PathBuf};

use console::output::{FileName, Output, OutputError};
use host::files::Folder;
use host::user::User;
use pprof::Profile;

/// Why a profile cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// No directory can be created.
    #[error("{}", .folder.display())]
    Folder {
        /// The last one that was tried.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Saves a profile as `pprof.FILE.TYPE.TYPE.NNN.pb.gz`, and returns its path.
pub fn save(profile: &Profile) -> Result<PathBuf, SaveError> {
    let folder = folder()?;
    let place = FileName::Numbered { folder: folder.clone(), stem: stem(profile) };
    let path = Output::prepare(place)?.write(|out| pprof::write_gz(profile, out))?;
    // A file in a directory has a name.
    Ok(path.unwrap_or(folder))
}

/// The first directory that can be created: `PPROF_TMPDIR`, `~/pprof`, the temporary directory.
fn folder() -> Result<PathBuf, SaveError> {
    let user = User::invoking();
    let given = std::env::var_os("PPROF_TMPDIR").filter(|p| !p.is_empty()).map(PathBuf::from);
    let at_home = user.home.as_ref().map(|home| home.join("pprof"));
    for folder in given.into_iter().chain(at_home) {
        if Folder::make(&folder, &user, 0o777).is_ok() {
            return Ok(folder);
        }
    }
    let folder = std::env::temp_dir();
    match Folder::make(&folder, &user, 0o777) {
        Ok(_) => Ok(folder),
        Err(source) => Err(SaveError::Folder { folder, source }),
    }
}

fn stem(profile: &Profile) -> String {
    let file = profile.mappings.first().map_or("", |m| &*m.file);
    let file = Path::new(file).file_name().and_then(|n| n.to_str()).map(str::to_owned);
    let types = profile.sample_types.iter().map(|t| t.kind.to_string());
    let parts = std::iter::once("pprof".to_owned()).chain(file).chain(types);
    parts.map(|part| harmless(&part)).collect::<Vec<_>>().join(".")
}

/// Makes a part of a file name safe: a profile must not choose another directory.
fn harmless(part: &str) -> String {
    let safe = |c: char| if c.is_control() || c == '/' { '_' } else { c };
    part.chars().take(80).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_pprof() {
        let types = ["samples", "cpu"].map(|t| pprof::ValueType::new(t, "count"));
        let mut profile = Profile { sample_types: types.to_vec(), ..Profile::default() };
        assert_eq!(stem(&profile), "pprof.samples.cpu");
        profile.mappings.push(pprof::Mapping { file: "/bin/redis".into(), ..Default::default() });
        assert_eq!(stem(&profile), "pprof.redis.samples.cpu");
        profile.sample_types[0].kind = "../../x\n".into();
        assert_eq!(stem(&profile), "pprof.redis..._.._x_.cpu");
    }
}
