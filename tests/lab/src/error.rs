//! What can keep a lab from starting or answering, in words that say what to do.

use std::fmt;
use std::io;
use std::process::Output;
use std::time::Duration;

/// A lab that does not start or answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The effective user is not root.
    NotRoot,
    /// A program that the lab needs is not installed.
    Missing {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The kernel, or a container around the lab, refuses namespaces.
    Namespaces(nix::Error),
    /// A file, a mount or a program could not be used.
    Io {
        /// What was tried, a verb.
        operation: &'static str,
        /// On what.
        object: String,
        /// Why not.
        source: io::Error,
    },
    /// A program failed.
    Command {
        /// The program and its arguments.
        program: String,
        /// Its exit status and what it wrote.
        text: String,
    },
    /// Something did not happen in time.
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The load could not be made or measured.
    Load(String),
}

impl Error {
    pub(crate) fn io(
        operation: &'static str,
        object: impl Into<String>,
        source: io::Error,
    ) -> Self {
        Self::Io {
            operation,
            object: object.into(),
            source,
        }
    }

    pub(crate) fn command(program: &str, output: &Output) -> Self {
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        Self::Command {
            program: program.to_owned(),
            text: format!("{}: {}{}", output.status, out.trim(), err.trim()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot => {
                f.write_str("the lab needs root (it makes namespaces); run it with sudo")
            }
            Self::Missing { program, package } => {
                write!(f, "{program} not found: apt-get install {package}")
            }
            Self::Namespaces(error) => write!(
                f,
                "cannot make the lab's namespaces: {error} (in a container the lab needs CAP_SYS_ADMIN, \
                 CAP_NET_ADMIN and a seccomp profile that lets it unshare and mount)"
            ),
            Self::Io {
                operation,
                object,
                source,
            } => write!(f, "cannot {operation} {object}: {source}"),
            Self::Load(text) => f.write_str(text),
            Self::Command { program, text } => write!(f, "{program} failed: {text}"),
            Self::Timeout { what, limit } => write!(f, "waited {limit:?} in vain for {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Namespaces(error) => Some(error),
            _ => None,
        }
    }
}
