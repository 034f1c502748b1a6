//! `rblfilter config`: is the configuration file right, and what is in force?

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use rblfilter_warden::policy::Backend;

use super::exit;
use crate::config::{self, Config, Mode, WatchBy};
use crate::courier::paths::Paths;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the file; say what is wrong, with its line, or what it does
    ///
    /// Says whether the configuration is right and what it puts into force; if not,
    /// what is wrong in which line.
    Check,
}

pub fn run(command: &Command, path: &Path) -> ExitCode {
    match command {
        Command::Check => match check(path) {
            Ok(config) => {
                print!("{}", summary(path, &config));
                ExitCode::SUCCESS
            }
            Err((error, code)) => {
                eprintln!("rblfilter: {error}");
                code.into()
            }
        },
    }
}

/// Everything that the filter and its warden will want of the file, and how to exit
/// where they do not have it.
fn check(path: &Path) -> Result<Config, (String, u8)> {
    let wrong = |error: String| (error, exit::CONFIG);
    // Elsewhere it is a draft, whoever's it is.
    let config = config::read(path).map_err(|error| {
        if error.is_denied() {
            (format!("{error} (try with sudo)"), exit::PERMISSION)
        } else {
            wrong(error.to_string())
        }
    })?;
    if path == Paths::from_env().config() {
        config::check_installed(path).map_err(wrong)?;
    }
    Ok(config)
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
    } else if config.mode == Mode::Observe {
        text.push_str(
            "note: bans made before observe go on in the kernel until they end (rblfilter status counts them; rblfilter unban --all before the change, or rblfilter firewall remove)\n",
        );
    }
    let window = config.ban.durations.window;
    if window == config.retention {
        let _ = writeln!(
            text,
            "note: the bans of before count for {}, as nothing is kept for longer (retention)",
            humantime::format_duration(std::time::Duration::from_secs(window.into()))
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
