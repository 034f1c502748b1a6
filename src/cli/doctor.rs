//! `rblfilter doctor`: what makes the filter useless or dangerous, and what mends
//! it.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap::builder::styling::{AnsiColor, Style};
use serde_json::json;

use super::ask;
use super::json::in_ascii;
use super::status::wrapped;
use crate::control::{Answer, Request};
use crate::doctor::{self, Filter, Finding, Level, Mend};

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
    let mut findings = doctor::examine(&doctor::gather(path, ask_filter));
    let named = |all: &[String], finding: &Finding| all.iter().any(|id| id == finding.check.id);
    findings.retain(|finding| {
        !named(&command.ignore, finding)
            && (command.only.is_empty() || named(&command.only, finding))
    });
    let status = doctor::status(&findings);
    let text = if command.json {
        json(&findings, status)
    } else {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let page = Page {
            text: String::new(),
            color: !plain && io::stdout().is_terminal(),
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
            let (run, by_hand) = match &finding.mend {
                Some(Mend::Run(command)) => (Some(command), None),
                Some(Mend::Do(what)) => (None, Some(what)),
                None => (None, None),
            };
            json!({
                "id": finding.check.id,
                "group": finding.check.group.title(),
                "level": finding.level,
                "about": finding.about,
                "found": finding.what,
                "why": finding.check.why,
                "run": run,
                "do": by_hand,
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
    color: bool,
}

impl Page {
    fn of(mut self, findings: &[Finding], quiet: bool) -> String {
        let mut group = None;
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
                let title = self.styled(Style::new().bold(), finding.check.group.title());
                self.text += &title;
                self.text.push('\n');
            }
            self.finding(finding);
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

    fn finding(&mut self, finding: &Finding) {
        let (word, color) = match finding.level {
            Level::Ok => ("ok", AnsiColor::Green),
            Level::Note => ("note", AnsiColor::Cyan),
            Level::Unknown => ("unknown", AnsiColor::Magenta),
            Level::Warning => ("warning", AnsiColor::Yellow),
            Level::Problem => ("PROBLEM", AnsiColor::Red),
        };
        let what = shown(&finding.what);
        if finding.level == Level::Ok {
            self.line_in(word, color, &what);
            return;
        }
        self.line_in(word, color, &format!("{what} [{}]", finding.check.id));
        self.line("", &format!("why: {}", finding.check.why));
        match &finding.mend {
            Some(Mend::Do(what)) => self.line("", &format!("do:  {}", shown(what))),
            Some(Mend::Run(command)) => {
                let mut head = "run: ";
                for line in continued(&shown(command), WIDTH - INDENT - 6) {
                    let _ = writeln!(self.text, "{:INDENT$} {head}{line}", "");
                    head = "     ";
                }
            }
            None => {}
        }
    }

    fn line_in(&mut self, word: &str, color: AnsiColor, text: &str) {
        let before = self.text.len();
        self.line(word, text);
        if self.color {
            let style = Style::new().fg_color(Some(color.into())).bold();
            let end = before + 2 + word.len();
            let styled = self.styled(style, word);
            self.text.replace_range(before + 2..end, &styled);
        }
    }

    fn line(&mut self, word: &str, text: &str) {
        let mut head = format!("  {word}");
        for line in wrapped(text, WIDTH - INDENT - 1) {
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "{}", format!("{head:INDENT$} {line}").trim_end());
            head.clear();
        }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.color {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
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
