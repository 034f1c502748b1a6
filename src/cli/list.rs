//! `rblfilter list`: who is banned, and who is let in by hand.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;

use super::ask::{self, Error};
use super::json::in_ascii;
use crate::control::{Answer, Entry, Request, What, shown};

/// Who is banned, and who is let in by hand
///
/// The bans, the newest first: since when, for how much longer, the how many-eth
/// ban it is, which lists named it, or who asked for it and why; then who is let
/// in by hand.
#[derive(Debug, Args)]
pub struct Command {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub fn run(command: &Command) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let (mut gone, mut empty) = (false, true);
    let result = ask::ask(&Request::List, |answer| {
        let Answer::Entry(entry) = answer else {
            return Ok(());
        };
        empty = false;
        let written = if command.json {
            let json = serde_json::to_string(&entry)?;
            writeln!(out, "{}", in_ascii(&json))
        } else {
            writeln!(out, "{}", line(&entry))
        };
        // The reader has seen enough.
        gone = gone || written.is_err();
        written
    });
    if result.is_ok() && empty && !command.json {
        gone = writeln!(out, "nobody is banned, nobody is let in by hand").is_err();
    }
    gone = out.flush().is_err() || gone;
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) if gone => ExitCode::SUCCESS,
        Err(Error::NotRunning(text)) => Error::NotRunning(format!(
            "{text}; rblfilter why ADDRESS tells what its file holds of one"
        ))
        .report(),
        Err(error) => error.report(),
    }
}

/// A line for people.
pub(crate) fn line(entry: &Entry) -> String {
    let left = humantime::format_duration(Duration::from_secs(entry.left.into()));
    let since = entry.since.map_or_else(String::new, |since| {
        let at = UNIX_EPOCH + Duration::from_secs(since.into());
        format!(" since {}", humantime::format_rfc3339_seconds(at))
    });
    let what = match entry.what {
        What::Ban => "banned",
        What::Allow => "let in",
    };
    let mut line = format!("{} {what}{since}, {left} left", shown(entry.network));
    if let Some(offence) = entry.offence.filter(|offence| *offence > 1) {
        line.push_str(&format!(", ban number {offence}"));
    }
    if !entry.zones.is_empty() {
        line.push_str(&format!(", on {}", entry.zones.join(" ").escape_debug()));
    }
    if entry.by != "lists" {
        line.push_str(&format!(", by {}", entry.by.escape_debug()));
    }
    if !entry.reason.is_empty() {
        line.push_str(&format!(": {}", entry.reason.escape_debug()));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_all_and_no_byte_does_harm() {
        let mut entry = Entry {
            what: What::Ban,
            network: "203.0.113.9/32".parse().unwrap(),
            since: Some(1_800_000_000),
            left: 5400,
            offence: Some(2),
            zones: vec!["bl.test".into()],
            reason: String::new(),
            by: "lists".into(),
        };
        assert_eq!(
            line(&entry),
            "203.0.113.9 banned since 2027-01-15T08:00:00Z, 1h 30m left, ban number 2, on bl.test"
        );
        entry.offence = None;
        entry.zones.clear();
        entry.by = "alice".into();
        entry.reason = "too\n\u{1b}[31mmuch".into();
        assert_eq!(
            line(&entry),
            "203.0.113.9 banned since 2027-01-15T08:00:00Z, 1h 30m left, by alice: too\\n\\u{1b}[31mmuch"
        );
    }
}
