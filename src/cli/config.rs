//! `rblfilter config`: is the configuration file right, and what is in force?

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

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
    for note in config::notes(config) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "note: {note}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The filter counts them, where there are any.
    #[test]
    fn bans_from_before_observe_are_not_for_the_file_to_tell() {
        let config = config::parse("mode = \"observe\"\n[[dnsbl]]\nzone = \"a.test\"\n").unwrap();
        let text = summary(Path::new("x.toml"), &config);
        assert!(!text.contains("before observe"), "{text}");
    }

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
