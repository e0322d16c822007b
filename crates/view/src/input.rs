//! Reads the shell's lines: edited lines from a terminal, plain lines otherwise.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use host::files::Folder;
use host::user::User;
use rustyline::error::ReadlineError;
use rustyline::history::{History as _, MemHistory};
use rustyline::{Behavior, CompletionType, Config, Editor};

use super::completion::Completion;

/// Maximum length of a line, in bytes; longer ones are cut.
const MAX_LINE: u64 = 1 << 20;
const HISTORY_LENGTH: usize = 1000;
/// The file's name.
const HISTORY: &str = "view_history";
/// The first line of rustyline's format.
const HISTORY_HEADER: &str = "#V2";
/// The most that is read of it, in bytes.
const MAX_HISTORY: u64 = 4 << 20;

/// Why a line cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The terminal failed.
    #[error(transparent)]
    Terminal(#[from] ReadlineError),
    /// Standard input failed.
    #[error(transparent)]
    Plain(#[from] io::Error),
}

/// The source of lines.
pub enum Input {
    /// A terminal.
    Edited(Box<Edited>),
    /// Anything else.
    Plain,
}

/// A terminal, with history.
pub struct Edited {
    editor: Editor<Completion, MemHistory>,
    history: Option<Folder>,
}

impl Input {
    /// Lines of standard input.
    pub fn new(completion: Completion) -> Result<Self, InputError> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Plain);
        }
        let config = Config::builder()
            .completion_type(CompletionType::List)
            // Reports may be redirected, but the prompt belongs on the terminal.
            .behavior(Behavior::PreferTerm)
            .max_history_size(HISTORY_LENGTH)?
            .history_ignore_space(true)
            .auto_add_history(true)
            .build();
        let history = MemHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history)?;
        editor.set_helper(Some(completion));
        let history = history_folder(&User::invoking());
        for line in history.iter().flat_map(read_history) {
            editor.add_history_entry(line)?;
        }
        Ok(Self::Edited(Box::new(Edited { editor, history })))
    }

    /// The next line; `None` at the end.
    pub fn line(&mut self, prompt: &str) -> Result<Option<String>, InputError> {
        match self {
            Self::Plain => plain_line(prompt),
            Self::Edited(edited) => loop {
                match edited.editor.readline(prompt) {
                    Ok(line) => return Ok(Some(line)),
                    // Ctrl-C discards the line, but does not end the shell.
                    Err(ReadlineError::Interrupted) => {}
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(e) => return Err(e.into()),
                }
            },
        }
    }
}

impl Drop for Edited {
    fn drop(&mut self) {
        let Some(folder) = &self.history else { return };
        if self.editor.history().is_empty() {
            return;
        }
        // Failing to save the history is not worth an error.
        let _ = write_history(folder, self.editor.history().into_iter());
    }
}

fn plain_line(prompt: &str) -> Result<Option<String>, InputError> {
    // As in pprof, the prompt is printed without a terminal too: scripts see where answers end.
    let mut out = io::stdout().lock();
    if out.write_all(prompt.as_bytes()).and_then(|()| out.flush()).is_err() {
        // The reader has closed the pipe.
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let mut input = io::stdin().lock().take(MAX_LINE);
    if input.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The directory of the history, with the rights of the invoking user: it is in a directory where
/// that user can put links to files of root.
fn history_folder(user: &User) -> Option<Folder> {
    let folder = user.home.as_ref()?.join(".local/state/exoprof");
    Folder::make(&folder, user, 0o755).ok()
}

/// The lines of earlier sessions. An unreadable history is treated as empty.
fn read_history(folder: &Folder) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = folder
        .open_file(Path::new(HISTORY))
        .and_then(|file| file.take(MAX_HISTORY).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter(|line| *line != HISTORY_HEADER);
    lines.map(|line| line.replace("\\\\", "\\")).collect()
}

/// Replaces the history, in rustyline's format: our lines contain no line breaks.
fn write_history<'l>(folder: &Folder, lines: impl Iterator<Item = &'l String>) -> io::Result<()> {
    let mut file = folder.new_file()?;
    let mut out = io::BufWriter::new(file.file());
    writeln!(out, "{HISTORY_HEADER}")?;
    for line in lines {
        writeln!(out, "{}", line.replace('\\', "\\\\").replace('\n', " "))?;
    }
    out.flush()?;
    drop(out);
    file.give_name(Path::new(HISTORY), true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What the user of sudo can put in the way of the history.
    #[test]
    fn links_in_the_users_home_lead_root_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::create_dir(&secret).unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
        symlink(&secret, home.join(".local")).unwrap();
        let mut user = User::of_ids(65534, 65534);
        user.home = Some(home.clone());
        assert!(history_folder(&user).is_none());
        assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 0);
        std::fs::remove_file(home.join(".local")).unwrap();
        let folder = history_folder(&user).unwrap();
        let victim = secret.join("victim");
        std::fs::write(&victim, "root's").unwrap();
        symlink(&victim, home.join(".local/state/exoprof/view_history")).unwrap();
        assert!(read_history(&folder).is_empty());
        let line = r"list main\.f".to_owned();
        write_history(&folder, [&line].into_iter()).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"root's");
        assert_eq!(read_history(&folder), [line]);
    }
}
