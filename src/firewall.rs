//! The kernel's sets and the one rule a family that drops what is in them.
//!
//! Only packets that open a connection (`--syn`) to a judged port are
//! dropped, so that a session that was ended can close. Nothing but our own
//! sets and rules is touched, nothing is flushed or reordered.

use std::process::{Command, Output};
use std::{error, fmt, io};

use crate::config::Config;

/// The most entries a set can have; the kernel's default, 65,536, is too few
/// for the waves we are made for.
const MAX_ENTRIES: &str = "1000000";

/// One command, and the one that tells whether it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    done: String,
    /// Succeeds where `command` has nothing to do, or, for `unless == false`,
    /// where it has.
    probe: Vec<String>,
    unless: bool,
    command: Vec<String>,
}

/// A command that could not be run, or failed.
#[derive(Debug)]
pub enum Error {
    /// It cannot be run.
    Run(String, io::Error),
    /// It failed, and said this.
    Failed(String, String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(program, error) if error.kind() == io::ErrorKind::NotFound => write!(
                f,
                "cannot run {program}: it is not installed (Debian: apt-get install ipset iptables)"
            ),
            Self::Run(program, error) => write!(f, "cannot run {program}: {error}"),
            Self::Failed(command, said) => write!(f, "{command}: {said}"),
        }
    }
}

// The operating system's word is part of the text, so there is no source.
impl error::Error for Error {}

/// What sets up the sets and the rules of `config`.
#[must_use]
pub fn apply(config: &Config) -> Vec<Step> {
    let mut steps = Vec::new();
    for (set, family, _) in families(config) {
        let seconds = config.ban.seconds.to_string();
        steps.push(Step {
            done: format!("created the set {set} ({family})"),
            probe: words(&["ipset", "list", "-name", set]),
            unless: true,
            command: words(&[
                "ipset",
                "create",
                set,
                "hash:net",
                "family",
                family,
                "timeout",
                &seconds,
                "maxelem",
                MAX_ENTRIES,
            ]),
        });
    }
    for (set, _, program) in families(config) {
        steps.push(Step {
            done: format!("added a rule for new connections from {set} ({program}, chain INPUT)"),
            probe: rule(program, "-C", set, config),
            unless: true,
            command: rule(program, "-I", set, config),
        });
    }
    steps
}

/// What removes them again.
#[must_use]
pub fn remove(config: &Config) -> Vec<Step> {
    let mut steps = Vec::new();
    for (set, _, program) in families(config) {
        steps.push(Step {
            done: format!("removed the rule for {set} ({program}, chain INPUT)"),
            probe: rule(program, "-C", set, config),
            unless: false,
            command: rule(program, "-D", set, config),
        });
    }
    for (set, ..) in families(config) {
        steps.push(Step {
            done: format!("removed the set {set}"),
            probe: words(&["ipset", "list", "-name", set]),
            unless: false,
            command: words(&["ipset", "destroy", set]),
        });
    }
    steps
}

fn families(config: &Config) -> [(&str, &'static str, &'static str); 2] {
    [
        (&config.ban.set4, "inet", "iptables"),
        (&config.ban.set6, "inet6", "ip6tables"),
    ]
}

fn rule(program: &str, action: &str, set: &str, config: &Config) -> Vec<String> {
    let ports: Vec<String> = config.ports.iter().map(u16::to_string).collect();
    words(&[
        program,
        "-w",
        action,
        "INPUT",
        "-p",
        "tcp",
        "--syn",
        "-m",
        "multiport",
        "--dports",
        &ports.join(","),
        "-m",
        "set",
        "--match-set",
        set,
        "src",
        "-m",
        "comment",
        "--comment",
        "rblfilter",
        "-j",
        "DROP",
    ])
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Step {
    /// Runs the command where it is needed; whether it was.
    ///
    /// # Errors
    /// Where it cannot be run or fails.
    pub fn run(&self) -> Result<bool, Error> {
        if output(&self.probe)?.status.success() == self.unless {
            return Ok(false);
        }
        let output = output(&self.command)?;
        if output.status.success() {
            return Ok(true);
        }
        let said = String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', "; ");
        Err(Error::Failed(self.command.join(" "), said))
    }

    /// The command as one would type it.
    #[must_use]
    pub fn shell(&self) -> String {
        self.command.join(" ")
    }

    /// What it did, for the admin.
    #[must_use]
    pub fn done(&self) -> &str {
        &self.done
    }
}

fn output(command: &[String]) -> Result<Output, Error> {
    let (program, args) = command
        .split_first()
        .map_or(("", command), |(p, a)| (p.as_str(), a));
    Command::new(program)
        .args(args)
        .output()
        .map_err(|error| Error::Run(program.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_commands_are_those_an_admin_would_type() {
        let config =
            config::parse("ports = [25, 2525]\n[ban]\ntime = \"2h\"\nset4 = \"a4\"").unwrap();
        let shown: Vec<String> = apply(&config).iter().map(Step::shell).collect();
        assert_eq!(
            shown,
            [
                "ipset create a4 hash:net family inet timeout 7200 maxelem 1000000",
                "ipset create rblfilter6 hash:net family inet6 timeout 7200 maxelem 1000000",
                "iptables -w -I INPUT -p tcp --syn -m multiport --dports 25,2525 -m set --match-set a4 src -m comment --comment rblfilter -j DROP",
                "ip6tables -w -I INPUT -p tcp --syn -m multiport --dports 25,2525 -m set --match-set rblfilter6 src -m comment --comment rblfilter -j DROP",
            ]
        );
        let removed: Vec<String> = remove(&config).iter().map(Step::shell).collect();
        assert!(removed[0].contains(" -D INPUT ") && removed[3] == "ipset destroy rblfilter6");
    }
}
