//! Reads the shell's lines: edited lines from a terminal, plain lines otherwise.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use console::user::User;
use rustyline::error::ReadlineError;
use rustyline::history::{FileHistory, History as _};
use rustyline::{Behavior, CompletionType, Config, Editor};

use super::completion::Completion;

/// Maximum length of a line, in bytes; longer ones are cut.
const MAX_LINE: u64 = 1 << 20;
const HISTORY_LENGTH: usize = 1000;

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
    editor: Editor<Completion, FileHistory>,
    history: Option<PathBuf>,
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
        let history = FileHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history)?;
        editor.set_helper(Some(completion));
        let history = history_file();
        if let Some(path) = &history {
            // An unreadable history is treated as empty.
            let _ = editor.load_history(path);
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
        let Some(path) = &self.history else { return };
        if self.editor.history().is_empty() {
            return;
        }
        // Failing to save the history is not worth an error.
        let _ = self.editor.save_history(path);
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

/// The history file, created now so that it belongs to the invoking user.
fn history_file() -> Option<PathBuf> {
    let user = User::invoking();
    let folder = user.home.as_ref()?.join(".local/state/exoprof");
    user.make_folder(&folder).ok()?;
    let path = folder.join("view_history");
    if let Ok(made) = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        user.give(&made).ok()?;
    }
    Some(path)
}
