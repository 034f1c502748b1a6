//! `rblfilter config`: is the configuration file right, and what is in force?

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use rblfilter_warden::policy::Policy;

use super::exit;
use rblfilter_warden::policy::Backend;

use crate::config::{self, Config, Mode, WatchBy};
use crate::courier::paths::Paths;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the file; say what is wrong, with its line, or what it does
    Check,
}

pub fn run(command: &Command, path: &Path) -> ExitCode {
    match command {
        Command::Check => match check(path) {
            Ok(config) => {
                print!("{}", summary(path, &config));
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("rblfilter: {error}");
                exit::CONFIG.into()
            }
        },
    }
}

/// Everything that the filter and its warden will want of the file.
fn check(path: &Path) -> Result<Config, String> {
    let config = config::read(path).map_err(|error| {
        let denied = matches!(&error, config::Error::Read(_, io) if io.kind() == std::io::ErrorKind::PermissionDenied);
        format!("{error}{}", if denied { " (try with sudo)" } else { "" })
    })?;
    // Elsewhere it is a draft, whoever's it is.
    if path == Paths::from_env().config() {
        Policy::read(path).map_err(|error| error.to_string())?;
        readable_by_courier(path)?;
        if let Some(included) = config::included(path) {
            readable_by_courier(&included)?;
        }
    }
    Ok(config)
}

/// The filter runs as Courier's user; Courier's state folder is that user's.
fn readable_by_courier(path: &Path) -> Result<(), String> {
    let courier = fs::metadata(Paths::from_env().localstatedir).ok();
    let file =
        fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let by_owner = courier
        .as_ref()
        .is_some_and(|courier| courier.uid() == file.uid())
        && file.mode() & 0o400 != 0;
    let by_group =
        courier.is_some_and(|courier| courier.gid() == file.gid()) && file.mode() & 0o040 != 0;
    if by_owner || by_group || file.mode() & 0o004 != 0 {
        return Ok(());
    }
    Err(format!(
        "{}: the filter, which runs as Courier's user, cannot read it (chgrp courier, chmod 0640)",
        path.display()
    ))
}

fn summary(path: &Path, config: &Config) -> String {
    let list = |words: Vec<&str>| {
        if words.is_empty() {
            "none".to_owned()
        } else {
            words.join(", ")
        }
    };
    let ports: Vec<String> = config.ports.iter().map(u16::to_string).collect();
    let mut text = format!(
        "{}: ok\n  mode             {}\n  watch            {}\n  guard            {}\n  ports            {}\n  lists            {}\n  score            reject from {}, ban from {}\n  block-variables  {}\n  allow.networks   {}\n",
        path.display(),
        match config.mode {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe (nothing is done)",
        },
        match config.watch.by {
            WatchBy::Auto => "by the kernel's events, else by polling",
            WatchBy::Events => "by the kernel's events",
            WatchBy::Poll => "by polling",
            WatchBy::Off => "off: messages are judged at the end of data alone",
        },
        match config.guard {
            Some(marks) if config.watch.by != WatchBy::Off => {
                format!(
                    "from {} % of the slots, down to {} %",
                    marks.high, marks.low
                )
            }
            _ => "off".to_owned(),
        },
        ports.join(", "),
        list(config.zones.iter().map(|zone| zone.name()).collect()),
        config.thresholds.reject,
        config.thresholds.ban,
        list(config.block_variables.iter().map(String::as_str).collect()),
        config.allow.len(),
    );
    if config.zones.is_empty() && config.block_variables.is_empty() {
        text.push_str("note: with neither lists nor block-variables, every message is accepted\n");
    }
    let lists = config.zones.iter().filter(|zone| !zone.allows()).count();
    if config.thresholds.ban_needs > lists.max(1) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "note: score.ban-needs = {}, but {lists} [[dnsbl]] are here: nobody is banned whom couriertcpd does not name too, by a list that is none of these",
            config.thresholds.ban_needs
        );
    }
    if config.ban.backend == Backend::DryRun {
        text.push_str(
            "note: ban.backend is \"dry-run\": bans are told and kept, and nobody is shut out\n",
        );
    }
    if config.allow.iter().any(|network| network.prefix() == 0) {
        text.push_str("note: allow.networks holds a whole family: none of its clients is judged\n");
    }
    if config.ports.iter().any(|port| [465, 587].contains(port)) {
        text.push_str(
            "note: your own users log in on ports 465 and 587, from addresses that lists name\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_cannot_agree_among_themselves_are_noted() {
        let list = |name: &str| format!("[[dnsbl]]\nzone = \"{name}.test\"\n");
        for (lists, noted) in [(list("a"), true), (list("a") + &list("b"), false)] {
            let config = config::parse(&format!("score.ban-needs = 2\n{lists}")).unwrap();
            let text = summary(Path::new("x.toml"), &config);
            assert_eq!(text.contains("score.ban-needs = 2"), noted, "{text}");
        }
    }
}
