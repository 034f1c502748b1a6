//! The status for people, in lines of at most 80 columns.

use std::fmt::Write as _;

use super::units::{duration, micros, share, short, shown, sparks};
use crate::cli::colour::Ink;
use crate::report::number;
use crate::status::{
    Counted, Gate, Health, List, Listener, STANDING, Sentences, Status, Took, Walls, Zone,
};

/// The widest line.
const WIDTH: usize = 80;
/// Where the second column begins.
const INDENT: usize = 11;
/// Listeners, lists and troubles that are shown; `--json` has all.
const MOST: usize = 40;
/// Columns of the rows of slots over time.
const SPARKS: usize = 60;

/// How it looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Colours.
    pub colour: bool,
    /// Block characters, else ASCII.
    pub unicode: bool,
}

/// The status in a few dozen lines.
pub fn render(status: &Status, look: Look) -> String {
    let mut page = Page {
        text: String::new(),
        look,
    };
    page.line(
        "rblfilter",
        &format!(
            "{}, {}, running for {} (worker {})",
            shown(&status.version),
            shown(&status.mode),
            duration(status.uptime),
            status.pid
        ),
    );
    let seen = match status.watch.as_str() {
        "off" => "at the end of data alone".into(),
        by => format!("by {}", shown(by)),
    };
    let open = plural(status.sessions, "session is", "sessions are");
    page.line("watching", &format!("{seen}; {open} followed"));
    page.gate(&status.gate);
    page.listeners(status);
    page.bans(status);
    page.counted(status);
    page.lists(status);
    page.sandbox(status);
    page.troubles(status);
    page.text
}

struct Page {
    text: String,
    look: Look,
}

impl Page {
    /// A line, or more where it is too long for one.
    fn line(&mut self, head: &str, text: &str) {
        self.inked(head, None, text);
    }

    fn inked(&mut self, head: &str, ink: Option<Ink>, text: &str) {
        let mut head = head;
        let colour = self.look.colour;
        for line in wrapped(text, WIDTH - INDENT - 1) {
            let line = line.trim_end();
            let painted = ink.map_or(line.to_owned(), |ink| ink.paint(line, colour));
            let padded = format!("{head:INDENT$}");
            let padded = if head.is_empty() || line.is_empty() {
                padded
            } else {
                Ink::Head.paint(&padded, colour)
            };
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "{}", format!("{padded} {painted}").trim_end());
            head = "";
        }
    }

    /// A line that is made to fit.
    fn row(&mut self, head: &str, text: &str) {
        let padded = Ink::Head.paint(&format!("{head:INDENT$}"), self.look.colour);
        let padded = if head.is_empty() {
            " ".repeat(INDENT)
        } else {
            padded
        };
        let _ = writeln!(self.text, "{padded} {}", text.trim_end());
    }

    /// The heads of a table's columns.
    fn heads(&mut self, head: &str, text: &str) {
        let painted = Ink::Faint.paint(text, self.look.colour);
        self.row(head, &painted);
    }

    fn gate(&mut self, gate: &Gate) {
        let drops = if gate.drops {
            "listed clients' first packets are dropped"
        } else {
            "what it would drop is told, and let in"
        };
        match gate.state.as_str() {
            "on" => self.line("gate", &format!("on: {drops}")),
            "down" => self.inked(
                "gate",
                Some(Ink::Bad),
                "DOWN: all first packets are let in, and the watch sees them (see the log)",
            ),
            _ => self.line("gate", "off"),
        }
    }

    fn listeners(&mut self, status: &Status) {
        let mut head = "slots";
        for listener in status.listeners.iter().take(MOST) {
            self.listener(head, listener);
            head = "";
        }
        match status.listeners.len() {
            0 => self.line(head, "no couriertcpd runs"),
            all => self.rest(all),
        }
    }

    fn listener(&mut self, head: &str, listener: &Listener) {
        let name = shown(&listener.name);
        let used = number(listener.used as u64);
        let text = match listener.slots {
            Some(slots) => format!(
                "{name}: {used} of {} in use ({})",
                number(slots as u64),
                share(listener.used as u64, slots as u64)
            ),
            None => format!("{name}: {used} in use"),
        };
        let looks = &listener.each_second;
        let peak = looks.iter().copied().max().unwrap_or(0);
        let text = if looks.len() < 2 {
            text
        } else {
            let ago = duration(looks.len() as u64);
            format!("{text}; {} at most in {ago}", number(peak.into()))
        };
        let full = listener.slots.is_some_and(|slots| listener.used >= slots);
        self.inked(head, full.then_some(Ink::Bad), &text);
        if peak > 0 {
            // Without a bound, as high as the highest.
            let most = listener.slots.map_or(u64::from(peak), |slots| slots as u64);
            let row = sparks(looks, most, SPARKS, self.look.unicode);
            self.row("", &format!("|{row}|"));
        }
    }

    fn bans(&mut self, status: &Status) {
        let banned = plural(
            status.bans,
            "address or network is",
            "addresses and networks are",
        );
        let allowed = plural(status.allowed, "is", "are");
        let text = format!("{banned} banned, {allowed} let in by hand");
        self.line("bans", &text);
        if status.standing > 0 {
            let bans = plural(status.standing, "ban", "bans");
            self.line("", &format!("{bans} {STANDING}"));
        }
        if status.dry_run {
            self.line("", "nobody is shut out by them: ban.backend is \"dry-run\"");
        }
    }

    /// What was counted: since the start and in the last minute.
    fn counted(&mut self, status: &Status) {
        for (head, counted) in [
            ("since start", &status.counted),
            ("last minute", &status.minute),
        ] {
            self.line(head, &events(counted));
            self.line("", &ended(counted));
        }
        let row = |name: &str, period: &str, columns: [String; 4]| {
            let columns = columns.map(|column| format!("{column:>10}"));
            format!("{name:<9}{period:<12}{}", columns.concat())
        };
        let heads = ["exempt", "pass", "reject", "ban"].map(String::from);
        self.heads("sentences", &row("", "", heads));
        let gate = status.gate.state != "off";
        for (name, of, is_shown) in [
            ("gate", at_gate as fn(&Counted) -> Sentences, gate),
            ("connect", |counted| counted.at_connect, true),
            ("message", |counted| counted.at_message, true),
        ] {
            if !is_shown {
                continue;
            }
            for (name, period, counted) in [
                (name, "since start", &status.counted),
                ("", "last minute", &status.minute),
            ] {
                let it = of(counted);
                let columns = [it.exempt, it.pass, it.reject, it.ban].map(short);
                self.row("", &row(name, period, columns));
            }
        }
        let both = |took: fn(&Counted) -> Took| {
            format!(
                "{}; last minute: {}",
                latency(took(&status.counted)),
                latency(took(&status.minute))
            )
        };
        self.line("verdict", &both(|counted| counted.to_sentence));
        self.line("mail waits", &both(|counted| counted.waited));
        let counted = &status.counted;
        self.line(
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
    }

    fn lists(&mut self, status: &Status) {
        let lists = &status.lists;
        let mut head = "lists";
        let mut shown_lists = 0;
        let mut rest = &lists[..];
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
                let _ = write!(text, " ({} clients)", shown(&list.family));
            }
            let ink = match list.health {
                Health::Believed => None,
                Health::Silent | Health::Testing => Some(Ink::Warning),
                Health::Down => Some(Ink::Bad),
            };
            self.inked(head, ink, &text);
            head = "";
            let is_last = rest.first().is_none_or(|next| next.name != list.name);
            let zone = status.zones.iter().find(|zone| zone.name == list.name);
            if let Some(zone) = zone.filter(|_| is_last) {
                self.zone(zone);
            }
        }
        match shown_lists {
            0 => self.line(head, "none; couriertcpd's verdicts alone"),
            all => self.rest(all),
        }
    }

    fn zone(&mut self, zone: &Zone) {
        let row = |period: &str, columns: [String; 6]| {
            let [asked, hits, failed, lists, median, p99] = columns;
            format!("  {period:<11}{asked:>10}{hits:>10}{failed:>10}{lists:>7}{median:>9}{p99:>9}")
        };
        let heads = ["asked", "cached", "failed", "lists", "median", "p99"];
        self.heads("", &row("", heads.map(String::from)));
        for (period, said) in [
            ("since start", &zone.counted),
            ("last minute", &zone.minute),
        ] {
            let columns = [
                short(said.asked),
                short(said.hits),
                short(said.timeouts.saturating_add(said.errors)),
                share(said.listed, said.answers),
                micros(said.took.median_us),
                micros(said.took.p99_us),
            ];
            self.row("", &row(period, columns));
        }
    }

    fn sandbox(&mut self, status: &Status) {
        let worker = walls(&status.sandbox.worker, "no capability");
        self.line("sandbox", &format!("worker: {worker}"));
        let warden = match &status.sandbox.warden {
            Some(warden) => walls(warden, "cap_net_admin alone") + ", " + &landlock(warden),
            None if status.mode == "observe" => "none in observe".into(),
            None => "none has answered".into(),
        };
        self.line("", &format!("warden: {warden}"));
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
            self.inked(head, Some(Ink::Bad), &text);
            self.line("", &format!("  {}", shown(&trouble.advice)));
            head = "";
        }
        match status.degraded.len() {
            0 => self.inked(head, Some(Ink::Good), "nothing"),
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

fn at_gate(counted: &Counted) -> Sentences {
    counted.at_gate
}

fn events(counted: &Counted) -> String {
    let packets = &counted.packets;
    let gate = if [packets.passed, packets.dropped, packets.undecided] != [0; 3] {
        format!(", packets dropped {}", number(packets.dropped))
    } else {
        String::new()
    };
    format!(
        "sessions {}, messages {}, listed {}, bans {}{gate}",
        number(counted.sessions),
        number(counted.messages),
        number(counted.listed),
        number(counted.bans)
    )
}

fn ended(counted: &Counted) -> String {
    let ended = &counted.ended;
    format!(
        "ended: {} listed, {} refused, {} silent, {} by hand",
        number(ended.connect),
        number(ended.message),
        number(ended.silence),
        number(ended.hand)
    )
}

fn latency(took: Took) -> String {
    if took.count == 0 {
        return "none".into();
    }
    format!(
        "median {}, p99 {}",
        micros(took.median_us),
        micros(took.p99_us)
    )
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

fn plural(count: usize, one: &str, many: &str) -> String {
    let what = if count == 1 { one } else { many };
    format!("{} {what}", number(count as u64))
}

/// The text in lines of at most `width`, broken between words where it can be.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
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
#[path = "page_tests.rs"]
mod tests;
