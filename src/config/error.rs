//! What can be wrong with a configuration file, in words for its author.

use std::ops::Range;
use std::path::PathBuf;
use std::{error, fmt, io};

/// Why there is no configuration.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// Something in the file is wrong.
    Wrong(PathBuf, Problem),
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: Option<usize>,
    /// The key and what was expected.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::Wrong(
                path,
                Problem {
                    line: Some(line),
                    message,
                },
            ) => {
                write!(f, "cannot read {}: line {line}: {message}", path.display())
            }
            Self::Wrong(
                path,
                Problem {
                    line: None,
                    message,
                },
            ) => {
                write!(f, "cannot read {}: {message}", path.display())
            }
        }
    }
}

// The operating system's word is part of the text, so there is no source.
impl error::Error for Error {}

impl Problem {
    /// A problem at `span` of `text`.
    pub(super) fn at(text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        Self {
            line: Some(before.matches('\n').count() + 1),
            message: message.into(),
        }
    }

    /// The problem behind a TOML error; its message alone, as its `Display`
    /// quotes the line, which may hold a key.
    pub(super) fn from_toml(text: &str, error: &toml::de::Error) -> Self {
        let message = reworded(error.message());
        match error.span() {
            Some(span) => Self::at(text, span, message),
            None => Self {
                line: None,
                message,
            },
        }
    }
}

/// serde's "unknown field `a`, expected one of `b`, `c`" in our words, with
/// the nearest key there is.
fn reworded(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return message.lines().next().unwrap_or(message).to_owned();
    };
    let mut names = rest.split('`').step_by(2);
    let unknown = names.next().unwrap_or_default();
    let nearest = names
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, known)) => format!("unknown key \"{unknown}\", did you mean \"{known}\"?"),
        None => format!(
            "unknown key \"{unknown}\"{}",
            rest.find(", ").map_or("", |at| &rest[at..])
        ),
    }
}
