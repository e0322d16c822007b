//! Source files, as far as they can be found.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::graph::trimmed;

/// More of a source file is not read: its path comes from the profile, and may be any.
const MAX_BYTES: u64 = 64 << 20;

/// A file ends for us where a line has this many bytes or more, as it does for pprof.
const LONGEST_LINE: usize = 64 * 1024;

/// Reads source files once.
pub(crate) struct Sources {
    /// Relative paths are sought here and in the folders above.
    root: PathBuf,
    /// Folders that paths lose when they begin with one; then nothing is guessed.
    trim_path: String,
    files: HashMap<String, Result<Vec<Vec<u8>>, String>>,
}

impl Sources {
    pub(crate) fn new(root: &Path, trim_path: &str) -> Self {
        let (root, trim_path) = (root.to_owned(), trim_path.to_owned());
        Self { root, trim_path, files: HashMap::new() }
    }

    /// The lines of a file. One that was not read before is left alone if it is `unneeded`, so
    /// that nothing is said of its absence.
    pub(crate) fn lines(&mut self, path: &str, unneeded: bool) -> Result<&[Vec<u8>], &str> {
        if !self.files.contains_key(path) {
            if unneeded {
                return Ok(&[]);
            }
            let lines = self.open(path).map(|bytes| split(&bytes));
            self.files.insert(path.to_owned(), lines);
        }
        match &self.files[path] {
            Ok(lines) => Ok(lines),
            Err(reason) => Err(reason),
        }
    }

    fn open(&self, path: &str) -> Result<Vec<u8>, String> {
        let short = self.shorten(path);
        if short.starts_with('/') {
            return read(Path::new(short)).map_err(|e| format!("open {short}: {}", reason(&e)));
        }
        let found = self.root.ancestors().find_map(|folder| read(&folder.join(short)).ok());
        found.ok_or_else(|| format!("could not find file {short} on path {}", self.root.display()))
    }

    /// The part of a path below a folder with our root's name: sources are often built elsewhere.
    fn shorten<'p>(&self, path: &'p str) -> &'p str {
        let guess = self.root.file_name().and_then(|n| n.to_str());
        if let Some(name) = guess.filter(|_| self.trim_path.is_empty()) {
            let folder = format!("/{name}/");
            if let Some(at) = path.find(&folder) {
                return &path[at + folder.len()..];
            }
        }
        trimmed(path, &self.trim_path)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Others are not even opened, because that may hang (a pipe) or act (a device). Nor is more
    // read than the size says: it is 0 for kernel files, some of which never end.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(metadata.len().min(MAX_BYTES)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The reason in the system's words, without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes
        .split(|b| *b == b'\n')
        .take_while(|line| line.len() < LONGEST_LINE)
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec())
        .collect()
}
