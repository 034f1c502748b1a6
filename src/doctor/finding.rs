//! What a check has found.

use std::fmt;

use serde::{Serialize, Serializer};

use super::catalogue::Check;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Nothing is wrong; it may be of use to know.
    Note,
    /// It could not be looked at.
    Unknown,
    /// It works, and not as well as it could, or not for long.
    Warning,
    /// The filter is of little use so, or does harm.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mend {
    /// A command, for root's shell.
    Run(String),
    /// An edit, or something else to do, in words.
    Do(String),
}

/// What one check has found; a check that looks at several things finds as many.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The check.
    pub check: &'static Check,
    /// How bad it is.
    pub level: Level,
    /// Which of several things it is about: a zone, a port, a daemon.
    pub about: Option<String>,
    /// What was found.
    pub what: String,
    /// What mends it.
    pub mend: Option<Mend>,
}

impl Finding {
    /// The same, about one of several.
    #[must_use]
    pub fn about(mut self, about: impl Into<String>) -> Self {
        self.about = Some(about.into());
        self
    }

    /// The same, mended by a command.
    #[must_use]
    pub fn run(mut self, command: impl Into<String>) -> Self {
        self.mend = Some(Mend::Run(command.into()));
        self
    }

    /// The same, mended by hand.
    #[must_use]
    pub fn by_hand(mut self, what: impl Into<String>) -> Self {
        self.mend = Some(Mend::Do(what.into()));
        self
    }
}

impl Check {
    fn found(&'static self, level: Level, what: impl Into<String>) -> Finding {
        Finding {
            check: self,
            level,
            about: None,
            what: what.into(),
            mend: None,
        }
    }

    /// All is well.
    pub fn ok(&'static self, what: impl Into<String>) -> Finding {
        self.found(Level::Ok, what)
    }

    /// Good to know.
    pub fn note(&'static self, what: impl Into<String>) -> Finding {
        self.found(Level::Note, what)
    }

    /// It could not be looked at, because of `error`.
    pub fn unknown(&'static self, error: impl fmt::Display) -> Finding {
        self.found(Level::Unknown, format!("could not look: {error}"))
    }

    /// A warning.
    pub fn warning(&'static self, what: impl Into<String>) -> Finding {
        self.found(Level::Warning, what)
    }

    /// A problem.
    pub fn problem(&'static self, what: impl Into<String>) -> Finding {
        self.found(Level::Problem, what)
    }
}

/// How the whole is: the worst but one thing counts more, that something could
/// not be looked at counts less than a warning (as plugins of Nagios exit: 0, 1,
/// 2, 3).
#[must_use]
pub fn status(findings: &[Finding]) -> u8 {
    let worst = findings.iter().map(|finding| finding.level).max();
    match worst {
        None | Some(Level::Ok | Level::Note) => 0,
        Some(Level::Warning) => 1,
        Some(Level::Problem) => 2,
        Some(Level::Unknown) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::{CONFIG_WRONG, ZONE_DOWN};
    use super::*;

    #[test]
    fn the_status_is_that_of_a_nagios_plugin() {
        let (ok, note) = (ZONE_DOWN.ok(""), ZONE_DOWN.note(""));
        let (unknown, warning) = (ZONE_DOWN.unknown("x"), ZONE_DOWN.warning(""));
        let problem = CONFIG_WRONG.problem("");
        for (findings, expected) in [
            (vec![], 0),
            (vec![ok.clone(), note.clone()], 0),
            (vec![ok.clone(), unknown.clone(), note], 3),
            (vec![unknown.clone(), warning.clone(), ok], 1),
            (vec![warning, problem, unknown], 2),
        ] {
            assert_eq!(status(&findings), expected);
        }
    }
}
