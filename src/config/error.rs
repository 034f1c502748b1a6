//! What can be wrong with a configuration file, in words for its author.

use std::ops::Range;
use std::path::PathBuf;
use std::{error, fmt, io};

use rblfilter_warden::policy::without_controls;

/// Why there is no configuration.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// The file may hold keys, and everybody can read it.
    Open(PathBuf),
    /// Something in the file is wrong.
    Wrong(PathBuf, Problem),
}

impl Error {
    /// Whether the file is there, and not for this user.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Read(_, error) if error.kind() == io::ErrorKind::PermissionDenied)
    }
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
            Self::Read(path, error) => {
                write!(f, "cannot read {}: ", path.display())?;
                match error.kind() {
                    io::ErrorKind::NotFound => f.write_str("there is no such file"),
                    io::ErrorKind::IsADirectory => {
                        f.write_str("it is a folder, expected a file in TOML")
                    }
                    io::ErrorKind::InvalidData => {
                        f.write_str("it is no text in UTF-8, expected a file in TOML")
                    }
                    io::ErrorKind::PermissionDenied => f.write_str("permission denied"),
                    _ => write!(f, "{error}"),
                }
            }
            Self::Open(path) => write!(
                f,
                "cannot trust {}: everybody may read it, and zones in it may hold keys (chown courier, chmod 0600)",
                path.display()
            ),
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
            message: without_controls(&message.into()),
        }
    }
}
