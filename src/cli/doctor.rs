//! `rblfilter doctor`: what makes the filter useless or dangerous, and what mends
//! it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::ask;
use super::colour::{self, Ink};
use super::json::in_ascii;
use super::status::wrapped;
use crate::control::{Answer, Request};
use crate::doctor::{self, Filter, Finding, Level};

/// Check everything that makes the filter useless or dangerous
///
/// Says of each what was found, why it matters, and what mends it. It looks at Courier's settings and what runs of it, the programs and their
/// rights, the sets and rules, the lists and nameservers, the running filter and
/// the host; it changes nothing, and takes at most a quarter of a minute. Root
/// sees all; a member of Courier's group most, and is told what not.
///
/// Exit status: 0 all is well, 1 a warning, 2 a problem, 3 neither, but something
/// could not be looked at (as plugins of Nagios); 64 wrong usage.
#[derive(Debug, Args)]
pub struct Command {
    /// Print one JSON object; the checks' ids stay the same from version to
    /// version
    #[arg(long)]
    json: bool,
    /// Tell only what is wrong, and nothing where nothing is
    #[arg(long, short)]
    quiet: bool,
    /// Make these checks alone
    #[arg(long, value_name = "ID", value_delimiter = ',', hide_possible_values = true,
        value_parser = PossibleValuesParser::new(ids()), conflicts_with = "ignore")]
    only: Vec<String>,
    /// Leave these checks out, as known and accepted
    #[arg(long, value_name = "ID", value_delimiter = ',', hide_possible_values = true,
        value_parser = PossibleValuesParser::new(ids()))]
    ignore: Vec<String>,
}

/// The widest line, and where texts begin.
const WIDTH: usize = 80;
const INDENT: usize = 9;
/// Lists and the like, of which there can be many: so many of a check that are
/// alike are told, the worst first; `--json` has all.
const MOST: usize = 10;

fn ids() -> Vec<&'static str> {
    doctor::ALL.iter().map(|check| check.id).collect()
}

pub fn run(command: &Command, path: &Path) -> ExitCode {
    let facts = doctor::gather(path, ask_filter);
    let mut findings = doctor::examine(&facts);
    let named = |all: &[String], finding: &Finding| all.iter().any(|id| id == finding.check.id);
    findings.retain(|finding| {
        !named(&command.ignore, finding)
            && (command.only.is_empty() || named(&command.only, finding))
    });
    let status = doctor::status(&findings);
    let text = if command.json {
        json(&findings, status)
    } else {
        let page = Page {
            text: String::new(),
            colour: colour::wanted(),
            root: facts.root,
        };
        page.of(&findings, command.quiet)
    };
    // A closed standard output leaves nobody to tell.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::from(status)
}

/// How the running filter is.
fn ask_filter() -> Filter {
    let mut status = None;
    let asked = ask::ask(&Request::Status, |answer| {
        if let Answer::Status(told) = answer {
            status = Some(told);
        }
        Ok(())
    });
    match (asked, status) {
        (Ok(_), Some(status)) => Filter::Runs(status),
        (Ok(_), None) => Filter::Silent("the filter told nothing".into()),
        (Err(ask::Error::NotRunning(_)), _) => Filter::Stopped,
        (Err(ask::Error::NotPermitted(text)), _) => Filter::Unasked(text),
        (Err(ask::Error::Refused(text) | ask::Error::Failed(text)), _) => Filter::Silent(text),
    }
}

fn json(findings: &[Finding], status: u8) -> String {
    let all: Vec<serde_json::Value> = findings
        .iter()
        .map(|finding| {
            json!({
                "id": finding.check.id,
                "group": finding.check.group.title(),
                "level": finding.level,
                "about": finding.about,
                "found": finding.what,
                "why": finding.check.why,
                "do": finding.by_hand,
                "run": finding.run,
            })
        })
        .collect();
    let object = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "status": status,
        "findings": all,
    });
    format!("{}\n", in_ascii(&object.to_string()))
}

/// What is printed for people.
struct Page {
    text: String,
    colour: bool,
    /// Whether root looked.
    root: bool,
}

impl Page {
    fn of(mut self, findings: &[Finding], quiet: bool) -> String {
        let mut group = None;
        let mut last = None;
        let shown = |finding: &&Finding| !quiet || finding.level > Level::Note;
        for finding in bounded(findings.iter().filter(shown).collect()) {
            let finding = match finding {
                Shown::One(finding) => finding,
                Shown::More(more) => {
                    self.line("", &format!("and {more} more (--json tells all)"));
                    continue;
                }
            };
            if group != Some(finding.check.group) {
                if group.is_some() {
                    self.text.push('\n');
                }
                group = Some(finding.check.group);
                let title = Ink::Head.paint(finding.check.group.title(), self.colour);
                self.text += &title;
                self.text.push('\n');
            }
            // Why one of several matters is said once.
            let again = last == Some(finding.check);
            self.finding(finding, again);
            last = (finding.level > Level::Ok).then_some(finding.check);
        }
        let unseen = findings.iter().any(|one| one.level == Level::Unknown);
        if unseen && !self.root {
            self.text
                .push_str("\nroot sees more (sudo rblfilter doctor)\n");
        }
        if !quiet {
            self.text.push('\n');
            let summary = summary(findings);
            for line in wrapped(&summary, WIDTH) {
                self.text += &line;
                self.text.push('\n');
            }
        }
        self.text
    }

    fn finding(&mut self, finding: &Finding, again: bool) {
        let (word, ink) = match finding.level {
            Level::Ok => ("ok", Ink::Good),
            Level::Note => ("note", Ink::Faint),
            Level::Unknown => ("unknown", Ink::Warning),
            Level::Warning => ("warning", Ink::Warning),
            Level::Problem => ("PROBLEM", Ink::Bad),
        };
        let what = shown(&finding.what);
        if finding.level == Level::Ok {
            self.line_in(word, ink, &what);
            return;
        }
        self.line_in(word, ink, &format!("{what} [{}]", finding.check.id));
        if !again {
            self.line("", &format!("why: {}", finding.check.why));
        }
        if let Some(what) = &finding.by_hand {
            self.line("", &format!("do: {}", shown(what)));
        }
        let mut head = if finding.by_hand.is_some() {
            "then: "
        } else {
            "run: "
        };
        let width = WIDTH - INDENT - 1 - head.len();
        for line in finding
            .run
            .iter()
            .flat_map(|run| continued(&shown(run), width))
        {
            let _ = writeln!(self.text, "{:INDENT$} {head}{line}", "");
            head = "  ";
        }
    }

    /// A line whose word is in its colour.
    fn line_in(&mut self, word: &str, ink: Ink, text: &str) {
        let begin = self.text.len() + 2;
        self.line(word, text);
        let painted = ink.paint(word, self.colour);
        self.text.replace_range(begin..begin + word.len(), &painted);
    }

    fn line(&mut self, word: &str, text: &str) {
        let mut head = format!("  {word}");
        for line in wrapped(text, WIDTH - INDENT - 1) {
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "{}", format!("{head:INDENT$} {line}").trim_end());
            head.clear();
        }
    }
}

enum Shown<'a> {
    One(&'a Finding),
    More(usize),
}

/// Of each check the worst few.
fn bounded(findings: Vec<&Finding>) -> Vec<Shown<'_>> {
    let mut all = Vec::new();
    for alike in findings.chunk_by(|one, other| one.check == other.check) {
        let mut alike = alike.to_vec();
        if alike.len() > MOST {
            alike.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        }
        all.extend(alike.iter().take(MOST).map(|finding| Shown::One(finding)));
        if alike.len() > MOST {
            all.push(Shown::More(alike.len() - MOST));
        }
    }
    all
}

/// One line of what there is.
fn summary(findings: &[Finding]) -> String {
    let of = |level: Level| findings.iter().filter(|one| one.level == level).count();
    let words = [
        (of(Level::Problem), "problem", "problems"),
        (of(Level::Warning), "warning", "warnings"),
        (
            of(Level::Unknown),
            "could not be looked at",
            "could not be looked at",
        ),
        (of(Level::Note), "note", "notes"),
    ];
    let told: Vec<String> = words
        .iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many }))
        .collect();
    let fine = of(Level::Ok);
    match (fine, told.is_empty()) {
        (0, true) => "nothing was checked".into(),
        (1, true) => "all is well: 1 check".into(),
        (_, true) => format!("all is well: {fine} checks"),
        _ => format!("{}; {fine} ok", told.join(", ")),
    }
}

/// A text from elsewhere, without what a terminal would act on.
fn shown(text: &str) -> String {
    rblfilter_warden::policy::without_controls(text)
}

/// A command in lines of at most `width`, each but the last with a backslash at
/// its end, so that it can be pasted.
fn continued(command: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in command.split(' ') {
        let line = lines.last_mut().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() + 2 > width {
            if let Some(last) = lines.last_mut() {
                last.push_str(" \\");
            }
            lines.push(String::new());
        }
        if let Some(last) = lines.last_mut() {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use crate::doctor::catalogue::{ESMTP_NOT_FILTERED, OBSERVING, PROC_HIDDEN, ZONE_DOWN};

    use super::*;

    fn page(findings: &[Finding], quiet: bool) -> String {
        let page = Page {
            text: String::new(),
            colour: false,
            root: true,
        };
        page.of(findings, quiet)
    }

    #[test]
    fn what_it_looks_like() {
        let findings = [
            ESMTP_NOT_FILTERED
                .problem("/etc/courier/enablefiltering does not name esmtp: Courier asks no filter")
                .run("echo esmtp >>/etc/courier/enablefiltering"),
            OBSERVING.ok("mode is \"enforce\""),
            ZONE_DOWN
                .warning("a.test is down")
                .by_hand("take it out")
                .then("rblfilter reload"),
            ZONE_DOWN.unknown("late"),
            ZONE_DOWN.ok("b.test passes its self-test"),
        ];
        let expected = "\
Courier
  PROBLEM /etc/courier/enablefiltering does not name esmtp: Courier asks no
          filter [esmtp-not-filtered]
          why: Courier asks filters about the sources in enablefiltering alone
          run: echo esmtp >>/etc/courier/enablefiltering

Configuration
  ok      mode is \"enforce\"

DNS lists
  warning a.test is down [zone-down]
          why: a list that fails its self-test (RFC 5782) convicts nobody
          do: take it out
          then: rblfilter reload
  unknown could not look: late [zone-down]
  ok      b.test passes its self-test

1 problem, 1 warning, 1 could not be looked at; 2 ok
";
        assert_eq!(page(&findings, false), expected);
        let quiet = page(&findings, true);
        assert!(
            !quiet.contains("  ok ") && quiet.ends_with("[zone-down]\n"),
            "{quiet}"
        );
        assert_eq!(page(&findings[1..2], true), "");
        assert!(page(&findings[1..2], false).ends_with("all is well: 1 check\n"));
        assert!(page(&[], false).ends_with("nothing was checked\n"));
    }

    #[test]
    fn whatever_there_is_stays_within_80_columns_and_steers_nothing() {
        let long = "x y\u{1b}[31m ".repeat(60) + &"z".repeat(300);
        let findings: Vec<Finding> = (0..30)
            .map(|_| ZONE_DOWN.warning(long.clone()).by_hand(long.clone()))
            .chain([PROC_HIDDEN.problem(long.clone()).run("word ".repeat(60))])
            .collect();
        let text = page(&findings, false);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        assert!(text.contains("and 20 more (--json tells all)"));
        assert!(json(&findings, 2).is_ascii());
    }

    /// A long command is one that can be pasted all the same.
    #[test]
    fn a_command_goes_on_where_a_shell_reads_on() {
        let command = "mount -o remount,hidepid=2,gid=112 /proc; echo done";
        let lines = continued(command, 30);
        assert!(
            lines.iter().all(|line| line.chars().count() <= 30),
            "{lines:?}"
        );
        assert_eq!(lines.join("\n").replace(" \\\n", " "), command);
        assert_eq!(continued("one", 30), ["one"]);
    }
}
