//! The kernel's sets and the one rule a family that drops what is in them.
//!
//! Only packets that open a connection (`--syn`) to a judged port are
//! dropped, so that a session that was ended can close. Nothing but our own
//! sets and rules is touched, nothing is flushed or reordered. A rule is ours
//! by its comment, so that one of an earlier configuration is found, too.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::{error, fmt, io};

use rblfilter_warden::policy::{DEFAULT_SET4, DEFAULT_SET6};

use crate::config::Config;

/// The most entries a set can have; the kernel's default, 65,536, is too few
/// for the waves we are made for.
const MAX_ENTRIES: &str = "1000000";
/// What marks a rule as ours.
const COMMENT: &str = "rblfilter";
/// There where the kernel does IPv6.
const IPV6: &str = "/proc/net/if_inet6";

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// What could not be done.
#[derive(Debug)]
pub enum Error {
    /// A program cannot be run.
    Run(String, io::Error),
    /// It failed, and said this.
    Failed(String, String),
    /// A set of that name is there, and not one that we can use.
    WrongSet(String),
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
            Self::WrongSet(set) => write!(
                f,
                "the set {set} is there, but not of type hash:net with a timeout and its family; \
                 remove it (ipset destroy {set}) or choose another name in [ban]"
            ),
        }
    }
}

// The operating system's word is part of the text, so there is no source.
impl error::Error for Error {}

type Words = Vec<String>;

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "inet",
            Self::V6 => "inet6",
        }
    }

    fn set(self, config: &Config) -> &str {
        match self {
            Self::V4 => &config.ban.set4,
            Self::V6 => &config.ban.set6,
        }
    }

    fn creation(self, config: &Config) -> Words {
        let seconds = config.ban.seconds.to_string();
        words(&[
            "ipset",
            "create",
            self.set(config),
            "hash:net",
            "family",
            self.name(),
            "timeout",
            &seconds,
            "maxelem",
            MAX_ENTRIES,
        ])
    }

    /// The rule, to be inserted (`-I`) or looked for (`-C`).
    fn rule(self, action: &str, config: &Config) -> Words {
        let ports: Vec<String> = config.ports.iter().map(u16::to_string).collect();
        words(&[
            self.program(),
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
            self.set(config),
            "src",
            "-m",
            "comment",
            "--comment",
            COMMENT,
            "-j",
            "DROP",
        ])
    }
}

/// The commands that set up the sets and the rules of `config` where there are
/// none, as one would type them.
#[must_use]
pub fn commands(config: &Config) -> Vec<String> {
    let sets = Family::BOTH.map(|family| family.creation(config));
    let rules = Family::BOTH.map(|family| family.rule("-I", config));
    sets.iter()
        .chain(&rules)
        .map(|command| command.join(" "))
        .collect()
}

/// Creates the sets of `config` that are missing; tells each through `done`.
///
/// # Errors
/// The first thing that could not be done.
pub fn apply_sets(config: &Config, done: &mut dyn FnMut(String)) -> Result<(), Error> {
    for family in Family::BOTH {
        let set = family.set(config);
        let listed = output(&words(&["ipset", "list", "-terse", set]))?;
        if !listed.status.success() {
            run(&family.creation(config))?;
            done(format!("created the set {set} ({})", family.name()));
        } else if !is_usable(&String::from_utf8_lossy(&listed.stdout), family) {
            return Err(Error::WrongSet(set.to_owned()));
        }
    }
    Ok(())
}

/// Adds the rules of `config` that are missing, in place of any other of ours;
/// tells each through `done`.
///
/// # Errors
/// The first thing that could not be done.
pub fn apply_rules(config: &Config, done: &mut dyn FnMut(String)) -> Result<(), Error> {
    for family in Family::BOTH {
        let Some(ours) = rules(family)? else { continue };
        let there = output(&family.rule("-C", config))?.status.success();
        if there && ours.len() == 1 {
            continue;
        }
        remove_rules(family, &ours, done)?;
        run(&family.rule("-I", config))?;
        done(format!(
            "added a rule for new connections from {} ({}, chain INPUT)",
            family.set(config),
            family.program()
        ));
    }
    Ok(())
}

/// Removes every rule of ours, the sets that they use, and those of `config`,
/// or of those names that are the default; tells each through `done`.
///
/// # Errors
/// The first thing that could not be done.
pub fn remove(config: Option<&Config>, done: &mut dyn FnMut(String)) -> Result<(), Error> {
    let mut sets: BTreeSet<String> = match config {
        Some(config) => [config.ban.set4.clone(), config.ban.set6.clone()].into(),
        None => [DEFAULT_SET4.to_owned(), DEFAULT_SET6.to_owned()].into(),
    };
    for family in Family::BOTH {
        let Some(ours) = rules(family)? else { continue };
        sets.extend(ours.iter().filter_map(set_of));
        remove_rules(family, &ours, done)?;
    }
    for set in sets {
        if output(&words(&["ipset", "list", "-name", &set]))?
            .status
            .success()
        {
            run(&words(&["ipset", "destroy", &set]))?;
            done(format!("removed the set {set}"));
        }
    }
    Ok(())
}

fn remove_rules(family: Family, ours: &[Words], done: &mut dyn FnMut(String)) -> Result<(), Error> {
    for rule in ours {
        let mut command = words(&[family.program(), "-w", "-D"]);
        command.extend_from_slice(&rule[1..]);
        run(&command)?;
        let set = set_of(rule).unwrap_or_default();
        done(format!(
            "removed the rule for {set} ({}, chain INPUT)",
            family.program()
        ));
    }
    Ok(())
}

/// Our rules as `iptables -S` prints them; `None` where the kernel has no IPv6.
fn rules(family: Family) -> Result<Option<Vec<Words>>, Error> {
    if family == Family::V6 && !Path::new(IPV6).exists() {
        return Ok(None);
    }
    let text = run(&words(&[family.program(), "-w", "-S", "INPUT"]))?;
    Ok(Some(ours(&text)))
}

fn ours(text: &str) -> Vec<Words> {
    text.lines()
        .map(|line| words(&line.split_ascii_whitespace().collect::<Vec<_>>()))
        .filter(|rule| {
            rule.first().is_some_and(|word| word == "-A")
                && rule
                    .windows(2)
                    .any(|two| two[0] == "--comment" && two[1] == COMMENT)
        })
        .collect()
}

/// The set that a rule matches.
fn set_of(rule: &Words) -> Option<String> {
    let at = rule.iter().position(|word| word == "--match-set")?;
    rule.get(at + 1).cloned()
}

/// Whether the set that `ipset list -terse` describes is one of ours.
fn is_usable(listed: &str, family: Family) -> bool {
    let line = |name: &str| {
        listed
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::split_ascii_whitespace)
    };
    let is_net = line("Type:").is_some_and(|mut words| words.next() == Some("hash:net"));
    let header: Words = line("Header:")
        .into_iter()
        .flatten()
        .map(String::from)
        .collect();
    let has = |name: &str, value: Option<&str>| {
        header
            .windows(2)
            .any(|two| two[0] == name && value.is_none_or(|value| two[1] == value))
    };
    is_net && has("family", Some(family.name())) && has("timeout", None)
}

fn words(words: &[&str]) -> Words {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Runs a command that must succeed; what it printed.
fn run(command: &[String]) -> Result<String, Error> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', "; ");
    Err(Error::Failed(command.join(" "), said))
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
        let text = "ports = [25, 2525]\n[ban]\ntime = \"2h\"\nset4 = \"a4\"";
        assert_eq!(
            commands(&config::parse(text).unwrap()),
            [
                "ipset create a4 hash:net family inet timeout 7200 maxelem 1000000",
                "ipset create rblfilter6 hash:net family inet6 timeout 7200 maxelem 1000000",
                "iptables -w -I INPUT -p tcp --syn -m multiport --dports 25,2525 -m set --match-set a4 src -m comment --comment rblfilter -j DROP",
                "ip6tables -w -I INPUT -p tcp --syn -m multiport --dports 25,2525 -m set --match-set rblfilter6 src -m comment --comment rblfilter -j DROP",
            ]
        );
    }

    #[test]
    fn our_rules_are_known_by_their_comment() {
        let text = "-P INPUT ACCEPT\n\
            -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
            -A INPUT -p tcp -m set --match-set other src -m comment --comment rblfilters -j DROP\n\
            -A INPUT -p tcp -m set --match-set a4 src -m comment --comment rblfilter -j DROP\n";
        let ours = ours(text);
        assert_eq!(ours.len(), 1);
        assert_eq!(set_of(&ours[0]).as_deref(), Some("a4"));
    }

    #[test]
    fn a_set_is_usable_by_its_type_family_and_timeout() {
        let listed = |kind: &str, header: &str| {
            format!("Name: s\nType: {kind}\nRevision: 7\nHeader: {header}\n")
        };
        for (kind, header, expected) in [
            (
                "hash:net",
                "family inet hashsize 1024 maxelem 65536 timeout 60",
                true,
            ),
            ("hash:net", "family inet hashsize 1024 maxelem 65536", false),
            (
                "hash:net",
                "family inet6 hashsize 1024 maxelem 65536 timeout 60",
                false,
            ),
            (
                "hash:ip",
                "family inet hashsize 1024 maxelem 65536 timeout 60",
                false,
            ),
        ] {
            assert_eq!(
                is_usable(&listed(kind, header), Family::V4),
                expected,
                "{kind} {header}"
            );
        }
    }
}
