//! The kernel's sets and the rules that drop what is in them, for either
//! backend.
//!
//! Only packets that open a connection to a judged port are dropped, so that a
//! session that was ended can close. Nothing but our own sets, rules and table
//! is touched, nothing of others is flushed or reordered.

mod gate;
mod iptables;
mod member;
mod nftables;

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::{error, fmt, io};

use rblfilter_warden::netfilter;
use rblfilter_warden::policy::Backend;

use self::gate::Plan;
use crate::config::{Config, Rate};
use crate::sys;

pub use member::{deletion, emptying, holds};

/// What marks a rule as ours.
const COMMENT: &str = "rblfilter";

/// What could not be done.
#[derive(Debug)]
pub enum Error {
    /// A program cannot be run.
    Run(String, io::Error),
    /// It failed, and said this.
    Failed(String, String),
    /// The kernel's nftables has no queues.
    NoQueue,
    /// A set of that name is there, and not one that we can use; what it must
    /// be, and how it goes.
    WrongSet(String, &'static str, String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(program, error) if error.kind() == io::ErrorKind::NotFound => write!(
                f,
                "cannot run {program}: it is not installed (Debian: apt-get install {}), \
                 unless [ban] names the other backend",
                if program == "nft" {
                    "nftables"
                } else {
                    "ipset iptables"
                }
            ),
            Self::Run(program, error) => write!(f, "cannot run {program}: {error}"),
            Self::Failed(command, said) => write!(f, "{command}: {said}"),
            Self::NoQueue => f.write_str(
                "the gate's rule is not added: this kernel's nftables has no queues (CONFIG_NFT_QUEUE); \
                 with [ban] backend = \"ipset\" it is a rule of iptables, which has them",
            ),
            Self::WrongSet(set, kind, removal) => write!(
                f,
                "the set {set} is there, but not {kind}; remove it ({removal}) or choose \
                 another name in [ban]"
            ),
        }
    }
}

// The operating system's word is part of the text, so there is no source.
impl error::Error for Error {}

type Words = Vec<String>;
/// Is told each thing that was done.
type Tell<'a> = &'a mut dyn FnMut(String);

/// Whether the sets of `config` are those of ipset: the same choice as the
/// warden's. Who may not ask the kernel is told of ipset.
fn is_ipset(config: &Config) -> bool {
    match config.ban.backend {
        Backend::Ipset | Backend::DryRun => true,
        Backend::Nftables => false,
        Backend::Auto => netfilter::has_ipset().unwrap_or(true),
    }
}

/// Whether the kernel does IPv6; where not, there are no rules for it.
#[must_use]
pub fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// Whether there are to be neither sets nor rules.
fn is_dry(config: &Config) -> bool {
    config.ban.backend == Backend::DryRun
}

/// Whether the sets or rules of `after` are others than those of `before`, as far as
/// the configuration says. (What Courier's own files say, [`check`] looks at.)
#[must_use]
pub fn differs(before: &Config, after: &Config) -> bool {
    let bans = |config: &Config| {
        let sets = (config.ban.set4.clone(), config.ban.set6.clone());
        let ports = config.ports.clone();
        (config.ban.backend, sets, ports, config.firewall.clone())
    };
    bans(before) != bans(after) || gate::settings(before) != gate::settings(after)
}

/// What sets up the sets and the rules of `config` where there are none, as
/// one would type it.
#[must_use]
pub fn commands(config: &Config) -> Vec<String> {
    let plan = Plan::of(config);
    if is_dry(config) {
        Vec::new()
    } else if is_ipset(config) {
        let mut commands = iptables::commands(config);
        let gate = plan.map(|plan| gate::iptables_commands(config, &plan));
        commands.extend(gate.into_iter().flatten());
        commands
    } else {
        nftables::commands(config, plan.as_ref())
    }
}

/// Why the gate is off for which judged port, a sentence each.
#[must_use]
pub fn objections(config: &Config) -> Vec<String> {
    Plan::of(config).map_or(Vec::new(), |plan| plan.objections)
}

/// Creates the sets of `config` that are missing; tells each through `done`.
///
/// # Errors
/// The first thing that could not be done.
pub fn apply_sets(config: &Config, done: Tell) -> Result<(), Error> {
    if is_dry(config) {
        Ok(())
    } else if is_ipset(config) {
        iptables::apply_sets(config, done)?;
        Plan::of(config).map_or(Ok(()), |plan| gate::apply_ipsets(&plan, done))
    } else {
        nftables::apply_sets(config, Plan::of(config).as_ref(), done)
    }
}

/// Adds the rules of `config` that are missing, in place of any other of ours,
/// those of the other backend too; tells each through `done`.
///
/// # Errors
/// The first thing that could not be done.
pub fn apply_rules(config: &Config, done: Tell) -> Result<(), Error> {
    if !config.firewall.manage || is_dry(config) {
        return Ok(());
    }
    let plan = Plan::of(config);
    if is_ipset(config) {
        iptables::apply_rules(config, done)?;
        gate::apply_iptables(config, plan.as_ref(), done)?;
        if_installed(nftables::remove(done))
    } else {
        let queue = plan.is_none() || gate::has_nft_queue()?;
        nftables::apply_rules(config, plan.as_ref(), queue, done)?;
        if_installed(iptables::remove(Some(config), done))?;
        if_installed(gate::remove_iptables(done))?;
        if queue { Ok(()) } else { Err(Error::NoQueue) }
    }
}

/// Removes every rule of ours, the sets that they use, and those of `config`,
/// or of those names that are the default; tells each through `done`.
///
/// # Errors
/// The first thing that could not be done.
pub fn remove(config: Option<&Config>, done: Tell) -> Result<(), Error> {
    let uses_ipset = config.is_none_or(is_ipset);
    // The gate's rules name the sets of bans, too.
    let gates = gate::remove_iptables(done);
    let removed = gates.and(iptables::remove(config, done));
    let others = nftables::remove(done);
    if uses_ipset {
        removed.and(if_installed(others))
    } else {
        others.and(if_installed(removed))
    }
}

/// What is not there as `config` wants it, a sentence each; none: all is.
///
/// # Errors
/// What keeps it from being seen.
pub fn check(config: &Config) -> Result<Vec<String>, Error> {
    if is_dry(config) {
        Ok(Vec::new())
    } else if is_ipset(config) {
        let mut problems = iptables::check(config)?;
        problems.extend(gate::check_iptables(config, Plan::of(config).as_ref())?);
        Ok(problems)
    } else {
        nftables::check(config, Plan::of(config).as_ref())
    }
}

/// Of a backend that is not in use nothing need be installed.
fn if_installed(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Run(_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Within what time a rate has made up for what it let through at once.
fn span(rate: Rate) -> u32 {
    match rate.per {
        "second" => 10,
        "minute" => 60,
        _ => 3600,
    }
}

fn words(words: &[&str]) -> Words {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Runs a command that must succeed; what it printed.
fn run(command: &[String]) -> Result<String, Error> {
    let output = output(command)?;
    succeeded(&command.join(" "), &output)
}

fn succeeded(command: &str, output: &Output) -> Result<String, Error> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', "; ");
    Err(Error::Failed(command.to_owned(), said))
}

fn output(command: &[String]) -> Result<Output, Error> {
    let (program, args) = split(command);
    sys::program(program)
        .args(args)
        .output()
        .map_err(|error| Error::Run(program.to_owned(), error))
}

/// Runs a command that must succeed, and reads `text`.
fn feed(command: &[String], text: &str) -> Result<(), Error> {
    let (program, args) = split(command);
    let failed = |error| Error::Run(program.to_owned(), error);
    let mut child = sys::program(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Where it does not read to the end, it says why.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    succeeded(&command.join(" "), &output).map(drop)
}

fn split(command: &[String]) -> (&str, &[String]) {
    command
        .split_first()
        .map_or(("", &[]), |(program, args)| (program.as_str(), args))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn a_change_of_what_sets_and_rules_are_made_of_is_seen() {
        let bans = "[[dnsbl]]\nzone = \"bl.test\"\n";
        let gate = format!("gate.enabled = true\n{bans}");
        for (before, more, differ) in [
            (bans, "ports = [25, 2525]", true),
            (bans, "ban.set4 = \"others\"", true),
            (bans, "firewall.limit = \"100/second\"", true),
            (bans, "gate.enabled = true", true),
            // Of a gate that is off.
            (bans, "gate.queue = 7", false),
            (bans, "allow.networks = [\"127.0.0.0/8\"]", false),
            (bans, "mode = \"observe\"", false),
            (&gate, "gate.queue = 7", true),
            (&gate, "gate.max-entries = 7", true),
            (&gate, "allow.networks = [\"127.0.0.0/8\"]", true),
            (&gate, "never-ban.relays = [\"127.0.0.1\"]", true),
            (&gate, "block-variables = [\"BLOCK9\"]", true),
            (&gate, "gate.limit = \"100ms\"", false),
            (&gate, "gate.asks-per-second = 7", false),
        ] {
            let after = format!("{more}\n{before}");
            let (one, other) = (parse(before).unwrap(), parse(&after).unwrap());
            assert_eq!(differs(&one, &other), differ, "{more}");
            assert_eq!(differs(&other, &one), differ, "{more}");
            assert!(!differs(&one, &one) && !differs(&other, &other));
        }
    }
}
