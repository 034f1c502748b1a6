//! `rblfilter firewall`: shows, sets up and removes the sets and the rules.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use nix::unistd::geteuid;
use rblfilter_warden::policy::Backend;

use super::exit;
use crate::config::{self, Config};
use crate::firewall::{self, Error};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the commands that set up the sets and rules, and run none
    ///
    /// What sets them up where there are none: commands, or what nft(8) reads.
    Show,
    /// Create the sets and the rules where they are missing
    ///
    /// The sets, and the rules that drop packets opening a connection to a judged
    /// port from an address in them: in iptables and ip6tables, in the place of
    /// older ones of its own, which it knows by their comment, rblfilter; or in the
    /// table inet rblfilter of nftables. Run at boot by rblfilter-sets.service and
    /// rblfilter-firewall.service.
    ///
    /// Where the configuration has a gate, its sets and rules too (in iptables' table
    /// mangle), each rule shown before it is added; and for which port the gate is
    /// off, and why.
    Apply {
        /// The sets alone, as a firewall that is restored at boot needs them
        #[arg(long)]
        sets: bool,
    },
    /// Remove the rules and the sets; their bans are forgotten
    Remove,
    /// Say whether the sets and the rules are as the configuration wants them
    ///
    /// Exit status 1, each rule that is missing, and what to do, where they are not. The
    /// running filter puts back sets that others emptied or removed, and their bans,
    /// within some 10 seconds; a rule it does not, and says in its log and its status
    /// that the one for a set is missing.
    Check,
}

pub fn run(command: &Command, path: &Path) -> ExitCode {
    if !matches!(command, Command::Show) && !geteuid().is_root() {
        eprintln!(
            "rblfilter: only root can see and change the firewall (sudo rblfilter firewall ...)"
        );
        return exit::PERMISSION.into();
    }
    let config = match config::read(path) {
        Ok(config) => Some(config),
        // Its rules can be found without it.
        Err(error) if matches!(command, Command::Remove) => {
            eprintln!("rblfilter: {error}; looking for the rules without it");
            None
        }
        Err(error) => {
            eprintln!("rblfilter: {error}");
            return exit::CONFIG.into();
        }
    };
    if let (Command::Apply { .. }, Some(config)) = (command, &config) {
        dry(config);
    }
    let mut changes = 0;
    let mut done = |what: String| {
        println!("{what}");
        changes += 1;
    };
    let result = match (command, &config) {
        (Command::Show, Some(config)) => {
            for command in firewall::commands(config) {
                println!("{command}");
            }
            tell_objections(config);
            return ExitCode::SUCCESS;
        }
        (Command::Check, Some(config)) => {
            dry(config);
            return check(config);
        }
        (Command::Apply { sets: true }, Some(config)) => firewall::apply_sets(config, &mut done),
        (Command::Apply { .. }, Some(config)) => firewall::apply_sets(config, &mut done)
            .and_then(|()| firewall::apply_rules(config, &mut done)),
        _ => firewall::remove(config.as_ref(), &mut done),
    };
    if let (Command::Apply { .. }, Some(config)) = (command, &config) {
        tell_objections(config);
    }
    report(result, changes)
}

/// What a backend without sets leaves of the one before.
fn dry(config: &Config) {
    if config.ban.backend == Backend::DryRun {
        eprintln!(
            "rblfilter: ban.backend is \"dry-run\": nobody is shut out by it, but the sets and rules of another backend stand until they are taken away (rblfilter firewall remove, with --config and the file of before where their names or ports were others)"
        );
    }
}

/// What the gate is off for, which is no failure.
fn tell_objections(config: &Config) {
    for objection in firewall::objections(config) {
        eprintln!("rblfilter: {objection}");
    }
}

fn check(config: &Config) -> ExitCode {
    match firewall::check(config) {
        Ok(problems) if problems.is_empty() => {
            println!("the sets and the rules are as the configuration wants them");
            ExitCode::SUCCESS
        }
        Ok(problems) => {
            for problem in problems {
                eprintln!("rblfilter: {problem}");
            }
            eprintln!("rblfilter: mend it with: sudo rblfilter firewall apply");
            exit::DIFFERENT.into()
        }
        Err(error) => {
            eprintln!("rblfilter: {error}");
            exit::SOFTWARE.into()
        }
    }
}

fn report(result: Result<(), Error>, changes: usize) -> ExitCode {
    match result {
        Ok(()) => {
            if changes == 0 {
                eprintln!("nothing to change");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rblfilter: {error}");
            exit::SOFTWARE.into()
        }
    }
}
