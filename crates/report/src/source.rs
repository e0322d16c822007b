//! Finds and reads source files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::graph::trimmed;

/// The most that is read of a file: its path comes from the profile and may name any file.
const MAX_BYTES: u64 = 64 << 20;

/// As in pprof, a file ends at the first line of this many bytes or more.
const LONGEST_LINE: usize = 64 * 1024;

/// Reads source files once.
pub(crate) struct Sources {
    /// Relative paths are searched for here and in the parent directories.
    root: PathBuf,
    /// Directories to strip from paths. If empty, the prefix is guessed from the root's name.
    trim_path: String,
    files: HashMap<String, Result<Vec<Vec<u8>>, String>>,
}

impl Sources {
    pub(crate) fn new(root: &Path, trim_path: &str) -> Self {
        let (root, trim_path) = (root.to_owned(), trim_path.to_owned());
        Self { root, trim_path, files: HashMap::new() }
    }

    /// The lines of a file. An `unneeded` file is not read, so that its absence is not an error.
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

    /// The part of a path below a directory with the root's name: sources are often built elsewhere.
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
    // Opening another kind of file may hang (a pipe) or have side effects (a device). Reading stops
    // at the file's size, because kernel files, which have size 0, may be endless.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(metadata.len().min(MAX_BYTES)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The system's message without the error number.
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
