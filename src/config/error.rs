//! What can be wrong with a configuration file, in words for its author.

use std::ops::Range;
use std::path::PathBuf;
use std::{error, fmt, io};

use rblfilter_warden::policy::{without_controls, without_keys};

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
            Self::Read(path, error) => write!(f, "cannot read {}: {error}", path.display()),
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

    /// The problem behind a TOML error; its message alone, as its `Display`
    /// quotes the line, which may hold a key.
    pub(super) fn from_toml(text: &str, error: &toml::de::Error) -> Self {
        let message = without_controls(&without_keys(&reworded(error.message())));
        let Some(span) = error.span() else {
            return Self {
                line: None,
                message,
            };
        };
        // A value of the wrong type is told of without its key.
        let line = text
            .get(..span.end)
            .unwrap_or(text)
            .lines()
            .last()
            .unwrap_or_default();
        let message = match line.split_once('=') {
            Some((key, _)) if message.starts_with("expected ") => {
                format!("{}: {message}", key.trim())
            }
            _ => message,
        };
        Self::at(text, span, message)
    }
}

/// serde's messages in our words: "unknown field `a`, expected one of `b`, `c`"
/// with the nearest key there is, and what was expected in the words of TOML.
fn reworded(message: &str) -> String {
    let message = message.lines().next().unwrap_or(message);
    if let Some(rest) = message.strip_prefix("unknown field `") {
        return unknown_key(rest);
    }
    let expected = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.rsplit_once(", expected "));
    match expected {
        Some((_, "a sequence")) => "expected a list in [ ]".to_owned(),
        Some((_, "a string")) => "expected a text in \" \"".to_owned(),
        Some((_, "a boolean")) => "expected true or false".to_owned(),
        Some((_, "u8")) => "expected a number, 0 to 255".to_owned(),
        Some((_, "u16")) => "expected a number, 0 to 65535".to_owned(),
        Some((_, "f64" | "f32")) => "expected a number".to_owned(),
        Some((_, "u64" | "usize")) => "expected a number, 0 or more".to_owned(),
        Some((_, "struct Dnswl")) => "expected a table, [[dnswl]]".to_owned(),
        Some((_, "struct NeverBan")) => "expected a table, [never-ban]".to_owned(),
        Some((_, "struct Dnsbl")) => "expected a table, [[dnsbl]]".to_owned(),
        Some((_, other)) => match other.strip_prefix("struct ") {
            Some(table) => format!("expected a table, [{}]", table.to_lowercase()),
            None => format!("expected {other}"),
        },
        None => message.to_owned(),
    }
}

/// `rest` is "`unknown`, expected one of `known`, …" without its first quote.
fn unknown_key(rest: &str) -> String {
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
