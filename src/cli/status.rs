//! `rblfilter status`: how the running filter is.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{ask, exit};
use crate::control::{Answer, Request};
use crate::report::number;
use crate::status::{Health, List, STANDING, Status, Walls};

/// How the running filter is
///
/// Its mode and how long its worker has been running, by what it sees sessions,
/// how many connection slots each couriertcpd has in use, the bans, what was
/// counted since the start, each list's health, which layers of the sandbox bind
/// worker and warden, and what does not work, why and what to do. Exit status: 69
/// where the filter does not run, 77 where the user may not ask.
#[derive(Debug, Args)]
pub struct Command {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The widest line.
const WIDTH: usize = 80;
/// Where the second column begins.
const INDENT: usize = 11;
/// Listeners, lists and troubles that are shown; `--json` has all.
const MOST: usize = 40;

pub fn run(command: &Command) -> ExitCode {
    let mut status = None;
    let asked = ask::ask(&Request::Status, |answer| {
        if let Answer::Status(told) = answer {
            status = Some(told);
        }
        Ok(())
    });
    let status = match (asked, status) {
        (Err(error), _) => return error.report(),
        (Ok(_), Some(status)) => status,
        (Ok(_), None) => {
            eprintln!("rblfilter: the filter told nothing");
            return exit::SOFTWARE.into();
        }
    };
    let text = if command.json {
        match serde_json::to_string(&status) {
            Ok(json) => json + "\n",
            Err(error) => {
                eprintln!("rblfilter: {error}");
                return exit::SOFTWARE.into();
            }
        }
    } else {
        render(&status)
    };
    // A closed standard output leaves nobody to tell.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// The status for people, in lines of at most 80 columns.
fn render(status: &Status) -> String {
    let mut page = Page(String::new());
    page.line(
        "rblfilter",
        &format!(
            "{}, {}, running for {} (worker {})",
            status.version,
            status.mode,
            duration(status.uptime),
            status.pid
        ),
    );
    let seen = match status.watch.as_str() {
        "off" => "at the end of data alone".into(),
        by => format!("by {by}"),
    };
    let open = plural(status.sessions, "session is", "sessions are");
    page.line("watching", &format!("{seen}; {open} followed"));
    page.listeners(status);
    let banned = plural(
        status.bans,
        "address or network is",
        "addresses and networks are",
    );
    let allowed = plural(status.allowed, "is", "are");
    page.line(
        "bans",
        &format!("{banned} banned, {allowed} let in by hand"),
    );
    if status.standing > 0 {
        let bans = plural(status.standing, "ban", "bans");
        page.line("", &format!("{bans} {STANDING}"));
    }
    if status.dry_run {
        page.line("", "nobody is shut out by them: ban.backend is \"dry-run\"");
    }
    let counted = &status.counted;
    page.line(
        "since start",
        &format!(
            "sessions {}, messages {}, listed {}, bans {}, ended by the guard {}",
            number(counted.sessions),
            number(counted.messages),
            number(counted.listed),
            number(counted.bans),
            number(counted.shed)
        ),
    );
    page.line(
        "answers",
        &format!(
            "from the cache {}, asked for {}, unknown {}; {} of {} kept",
            number(counted.hits),
            number(counted.misses),
            number(counted.unknown),
            number(status.cache.entries as u64),
            number(status.cache.most as u64)
        ),
    );
    page.lists(&status.lists);
    let worker = walls(&status.sandbox.worker, "no capability");
    page.line("sandbox", &format!("worker: {worker}"));
    let warden = match &status.sandbox.warden {
        Some(warden) => walls(warden, "cap_net_admin alone") + ", " + &landlock(warden),
        None if status.mode == "observe" => "none in observe".into(),
        None => "none has answered".into(),
    };
    page.line("", &format!("warden: {warden}"));
    page.troubles(status);
    page.0
}

struct Page(String);

impl Page {
    /// A line, or more where it is too long for one.
    fn line(&mut self, head: &str, text: &str) {
        let mut head = head;
        for line in wrapped(text, WIDTH - INDENT - 1) {
            // Writing to a String cannot fail.
            let _ = writeln!(self.0, "{}", format!("{head:INDENT$} {line}").trim_end());
            head = "";
        }
    }

    fn listeners(&mut self, status: &Status) {
        let mut head = "slots";
        for listener in status.listeners.iter().take(MOST) {
            let name = shown(&listener.name);
            let used = number(listener.used as u64);
            let text = match listener.slots {
                Some(slots) => {
                    let share = (listener.used * 100).checked_div(slots).unwrap_or(100);
                    format!(
                        "{name}: {used} of {} in use ({share} %)",
                        number(slots as u64)
                    )
                }
                None => format!("{name}: {used} in use"),
            };
            self.line(head, &text);
            head = "";
        }
        match status.listeners.len() {
            0 => self.line(head, "no couriertcpd runs"),
            all => self.rest(all),
        }
    }

    fn lists(&mut self, lists: &[List]) {
        let mut head = "lists";
        let mut shown_lists = 0;
        let mut rest = lists;
        while let Some((list, after)) = rest.split_first() {
            // The families of a list, in one line where they are alike.
            let alike = after
                .iter()
                .take_while(|other| other.name == list.name && other.health == list.health)
                .count();
            rest = &after[alike..];
            shown_lists += 1;
            if shown_lists > MOST {
                continue;
            }
            let mut text = format!("{}: {}", shown(&list.name), health(list));
            let has_other = lists
                .iter()
                .any(|other| other.name == list.name && other.health != list.health);
            if has_other {
                let _ = write!(text, " ({} clients)", list.family);
            }
            self.line(head, &text);
            head = "";
        }
        match shown_lists {
            0 => self.line(head, "none; couriertcpd's verdicts alone"),
            all => self.rest(all),
        }
    }

    fn troubles(&mut self, status: &Status) {
        let mut head = "degraded";
        for trouble in status.degraded.iter().take(MOST) {
            let name = [&*trouble.what, &*trouble.name].join(" ");
            let text = format!(
                "{}, for {}: {}",
                shown(name.trim()),
                duration(trouble.age),
                shown(&trouble.reason)
            );
            self.line(head, &text);
            self.line("", &format!("  {}", trouble.advice));
            head = "";
        }
        match status.degraded.len() {
            0 => self.line(head, "nothing"),
            all => self.rest(all),
        }
    }

    fn rest(&mut self, all: usize) {
        if all > MOST {
            let more = number((all - MOST) as u64);
            self.line("", &format!("and {more} more (--json tells all)"));
        }
    }
}

fn health(list: &List) -> String {
    let tested = list
        .passed
        .map_or_else(String::new, |ago| format!(", tested {} ago", duration(ago)));
    match list.health {
        Health::Believed => format!("believed{tested}"),
        Health::Silent => format!("believed, but was silent: not waited for{tested}"),
        Health::Testing => "being tested".into(),
        Health::Down => "DOWN, convicts nobody".into(),
    }
}

fn walls(walls: &Walls, capabilities: &str) -> String {
    let layer = |on: bool, name: &str| {
        if on {
            name.to_owned()
        } else {
            format!("NO {name}")
        }
    };
    let held = if walls.capabilities {
        capabilities
    } else {
        "CAPABILITIES AS IT WAS GIVEN"
    };
    [
        held.to_owned(),
        layer(walls.no_new_privs, "no_new_privs"),
        layer(walls.seccomp, "seccomp"),
    ]
    .join(", ")
}

fn landlock(walls: &Walls) -> String {
    match walls.landlock {
        0 => "NO landlock".into(),
        version => format!("landlock {version}"),
    }
}

/// The largest two units of a duration.
fn duration(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let parts: Vec<&str> = text.split(' ').take(2).collect();
    parts.join(" ")
}

fn plural(count: usize, one: &str, many: &str) -> String {
    let what = if count == 1 { one } else { many };
    format!("{} {what}", number(count as u64))
}

/// A text from elsewhere, without what a terminal would act on.
fn shown(text: &str) -> String {
    text.escape_debug().to_string()
}

/// The text in lines of at most `width`, broken between words where it can be.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let indent: String = text.chars().take_while(|c| *c == ' ').collect();
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let chars: Vec<char> = word.chars().collect();
        for part in chars.chunks(width - indent.len()) {
            if length > 0 && indent.len() + length + 1 + part.len() > width {
                lines.push(format!("{indent}{line}"));
                line.clear();
                length = 0;
            }
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            line.extend(part);
            length += part.len();
        }
    }
    lines.push(format!("{indent}{line}"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Cache, Counted, Degraded, Listener, Sandbox};

    fn list(name: &str, family: &str, health: Health) -> List {
        List {
            name: name.into(),
            allows: false,
            family: family.into(),
            health,
            passed: Some(61),
        }
    }

    fn walls_on() -> Walls {
        Walls {
            capabilities: true,
            no_new_privs: true,
            seccomp: true,
            landlock: 7,
        }
    }

    fn status() -> Status {
        Status {
            version: "0.1.0".into(),
            mode: "enforce".into(),
            pid: 4711,
            uptime: 3 * 3600 + 125,
            watch: "events".into(),
            sessions: 1,
            listeners: vec![Listener {
                name: "esmtpd".into(),
                pid: 1,
                used: 12,
                slots: Some(300),
            }],
            bans: 1234,
            lists: vec![
                list("bl.test", "ipv4", Health::Believed),
                list("bl.test", "ipv6", Health::Believed),
            ],
            sandbox: Sandbox {
                worker: walls_on(),
                warden: Some(walls_on()),
            },
            cache: Cache {
                entries: 1,
                most: 1_000_000,
            },
            ..Status::default()
        }
    }

    #[test]
    fn what_it_looks_like() {
        let expected = "\
rblfilter   0.1.0, enforce, running for 3h 2m (worker 4711)
watching    by events; 1 session is followed
slots       esmtpd: 12 of 300 in use (4 %)
bans        1,234 addresses and networks are banned, 0 are let in by hand
since start sessions 0, messages 0, listed 0, bans 0, ended by the guard 0
answers     from the cache 0, asked for 0, unknown 0; 1 of 1,000,000 kept
lists       bl.test: believed, tested 1m 1s ago
sandbox     worker: no capability, no_new_privs, seccomp
            warden: cap_net_admin alone, no_new_privs, seccomp, landlock 7
degraded    nothing
";
        assert_eq!(render(&status()), expected);
    }

    #[test]
    fn nothing_at_all_is_told_as_well() {
        let text = render(&Status {
            version: "0.1.0".into(),
            mode: "observe".into(),
            watch: "off".into(),
            standing: 2,
            dry_run: true,
            ..Status::default()
        });
        for part in [
            "running for 0s",
            "at the end of data alone; 0 sessions are followed",
            "no couriertcpd runs",
            "none; couriertcpd's verdicts alone",
            "worker: CAPABILITIES AS IT WAS GIVEN, NO no_new_privs, NO seccomp",
            "warden: none in observe",
            "2 bans made before observe",
            "nobody is shut out by them",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn whatever_there_is_stays_within_80_columns_and_is_printable() {
        let long = "x".repeat(300) + " \u{1b}[31m\n" + &"ä b ".repeat(100);
        let mut status = status();
        status.uptime = u64::MAX / 4;
        status.sessions = usize::MAX;
        status.bans = usize::MAX;
        status.counted = Counted {
            sessions: u64::MAX,
            messages: u64::MAX,
            listed: u64::MAX,
            bans: u64::MAX,
            shed: u64::MAX,
            hits: u64::MAX,
            misses: u64::MAX,
            unknown: u64::MAX,
        };
        status.listeners = vec![
            Listener {
                name: long.clone(),
                pid: 1,
                used: 1_000_000,
                slots: Some(0),
            };
            1000
        ];
        status.lists = (0..1000)
            .map(|count| list(&format!("{count}{long}"), "ipv4", Health::Down))
            .collect();
        status.degraded = vec![
            Degraded {
                what: "dnsbl".into(),
                name: long.clone(),
                age: 1,
                reason: long,
                advice: "do something".into(),
            };
            1000
        ];
        status.sandbox.worker = Walls::default();
        let text = render(&status);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        assert_eq!(text.matches("and 960 more").count(), 3);
    }

    #[test]
    fn the_families_of_a_list_are_told_apart_where_they_differ() {
        let mut status = status();
        status.lists[1].health = Health::Down;
        let text = render(&status);
        assert!(
            text.contains("bl.test: believed, tested 1m 1s ago (ipv4 clients)"),
            "{text}"
        );
        assert!(
            text.contains("bl.test: DOWN, convicts nobody (ipv6 clients)"),
            "{text}"
        );
    }
}
