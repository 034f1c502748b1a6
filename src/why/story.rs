//! The facts as a story: what is the case, what happened, what would happen, what
//! to do.

use std::net::IpAddr;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use super::advice;
use super::facts::Facts;
use super::known::{Held, OpenSession, Recalled};
use super::moment::{Moment, redacted, shown, spelled};
use super::subject::Subject;
use super::trace::Traced;
use crate::control::{Entry, how_it_ends, shown as network_shown};

/// Moments that are told unless all are asked for; the last.
const TOLD: usize = 40;

/// All that is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// What is the case, a sentence or two each.
    pub summary: Vec<String>,
    /// The rest, under headings.
    pub parts: Vec<Part>,
}

/// What stands under a heading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The heading.
    pub heading: String,
    /// What stands there.
    pub lines: Vec<Line>,
}

/// A line, or a few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A paragraph.
    Text(String),
    /// A name, and what is said of it.
    Pair(String, String),
    /// A day.
    Day(String),
    /// A time of day, and what happened then.
    Moment(String, String),
    /// A command, or a line of a file, and what it does.
    Command(String, String),
}

/// Tells it. Times are of `zone`; `all`: every moment that is kept.
#[must_use]
pub fn story(facts: &Facts, zone: &TimeZone, all: bool) -> Story {
    let teller = Teller { facts, zone, all };
    let mut story = Story {
        summary: teller.summary(),
        parts: Vec::new(),
    };
    let mut part = |heading: String, lines: Vec<Line>| {
        if !lines.is_empty() {
            story.parts.push(Part { heading, lines });
        }
    };
    if let Some(traced) = facts.message() {
        part(
            format!("What became of the message ({})", teller.zone_name()),
            teller.moments(traced),
        );
    }
    if let Some(client) = facts.client {
        part(format!("What is known of {client} now"), teller.now(client));
        if let Some(traced) = facts.traced() {
            part(
                format!(
                    "What {client} did, and what was done ({})",
                    teller.zone_name()
                ),
                teller.moments(traced),
            );
        }
        part("If it connected now".into(), teller.forecast(client));
        part("If that is wrong".into(), advice::if_wrong(facts, client));
        part(
            "What to tell the sender".into(),
            advice::for_sender(facts, client),
        );
    }
    let missing = facts.not_looked_at();
    part(
        "What could not be looked at".into(),
        missing.into_iter().map(Line::Text).collect(),
    );
    story
}

struct Teller<'a> {
    facts: &'a Facts,
    zone: &'a TimeZone,
    all: bool,
}

impl Teller<'_> {
    fn time(&self, at: i64, format: &str) -> String {
        Timestamp::from_second(at).map_or_else(
            |_| at.to_string(),
            |time| {
                ZonedDateTime::new(time, self.zone.clone())
                    .strftime(format)
                    .to_string()
            },
        )
    }

    fn zone_name(&self) -> String {
        let name = self.time(self.facts.now, "%Z");
        format!("times in {name}")
    }

    /// A time with its day, where that is not today.
    fn when(&self, at: i64) -> String {
        let day = self.time(at, "%Y-%m-%d");
        if day == self.time(self.facts.now, "%Y-%m-%d") {
            self.time(at, "%H:%M:%S")
        } else {
            self.time(at, "%Y-%m-%d %H:%M:%S")
        }
    }

    fn until(&self, left: u32) -> String {
        format!(
            "until {} ({} more)",
            self.when(self.facts.now.saturating_add(left.into())),
            spelled(left.into())
        )
    }

    fn summary(&self) -> Vec<String> {
        let facts = self.facts;
        let mut told = Vec::new();
        if !matches!(facts.subject, Subject::Client(_)) {
            told.push(self.of_message());
        }
        let Some(client) = facts.client else {
            return told;
        };
        let none = Held::default();
        let held = facts.held().unwrap_or(&none);
        let in_kernel = match &facts.kernel {
            Some(Ok(held)) => Some(*held),
            _ => None,
        };
        if let Some(ban) = held.bans.first() {
            told.push(self.banned(client, ban, in_kernel));
        } else if in_kernel == Some(true) {
            told.push(format!(
                "{client} is shut out: the kernel's set holds it, though no ban of it is known."
            ));
        } else if let Some(allow) = held.allowed.first() {
            told.push(format!(
                "{client} is let in by hand {}, whatever the lists say ({}).",
                self.until(allow.left),
                how_it_ends(client, held.allowed.iter().map(|entry| entry.network))
            ));
        } else if let Some(reason) = self.never_judged() {
            told.push(format!("{client} is never judged: {reason}."));
        } else if !facts.is_anything_known() {
            told.push(if facts.not_looked_at().is_empty() {
                format!("Nothing is known of {client}.")
            } else {
                format!("Nothing is known of {client}, as far as could be looked at.")
            });
        } else if facts.held().is_some() || in_kernel.is_some() {
            told.push(format!("{client} is not banned now."));
        }
        if held.bans.is_empty()
            && let Some(last) = self.last_sentence()
        {
            told.push(last);
        }
        told
    }

    fn banned(&self, client: IpAddr, ban: &Entry, in_kernel: Option<bool>) -> String {
        let network = network_shown(ban.network);
        let with = if network == client.to_string() {
            String::new()
        } else {
            format!(", with its network {network},")
        };
        let since = ban
            .since
            .map(|since| format!(" since {}", self.when(since.into())))
            .unwrap_or_default();
        let why = match (&ban.zones[..], ban.by.as_str()) {
            ([], "lists") => String::new(),
            (zones, "lists") => format!(", as {} it", names(zones)),
            (_, user) if ban.reason.is_empty() => {
                format!(", by hand of {}", shown(user.as_bytes()))
            }
            (_, user) => format!(
                ", by hand of {}: {}",
                shown(user.as_bytes()),
                shown(ban.reason.as_bytes()).trim_end_matches('.')
            ),
        };
        let number = match ban.offence {
            Some(offence) if offence > 1 => format!(" It is ban number {offence} of it."),
            _ => String::new(),
        };
        let kernel = match in_kernel {
            Some(false) => {
                " But the kernel's set does not hold it, so its packets come in (rblfilter status)."
            }
            _ => "",
        };
        format!(
            "{client} is banned{with}{since}, {}{why}.{number}{kernel}",
            self.until(ban.left)
        )
    }

    fn told_ban(&self, ban: &Entry) -> String {
        let mut text = network_shown(ban.network);
        if let Some(since) = ban.since {
            text.push_str(&format!(" since {}", self.when(since.into())));
        }
        text.push_str(&format!(", {}", self.until(ban.left)));
        if let Some(offence) = ban.offence.filter(|offence| *offence > 1) {
            text.push_str(&format!(", ban number {offence}"));
        }
        if !ban.zones.is_empty() {
            let zones = redacted(ban.zones.join(" and ").as_bytes());
            text.push_str(&format!(", on {zones}"));
        }
        if ban.by != "lists" {
            text.push_str(&format!(", by {}", shown(ban.by.as_bytes())));
        }
        text
    }

    /// Why it is never judged.
    fn never_judged(&self) -> Option<String> {
        let facts = self.facts;
        let settings = facts.settings();
        if settings.is_some_and(|settings| settings.own)
            || facts.known()?.protection.as_deref() == Some("own-address")
        {
            return Some("it is one of this host's own addresses".into());
        }
        if let Some(network) = settings.and_then(|settings| settings.allow) {
            return Some(format!("{} is in allow.networks", network_shown(network)));
        }
        if let Some(network) = settings.and_then(|settings| settings.trusted) {
            return Some(format!(
                "Courier's smtpaccess trusts {}",
                network_shown(network)
            ));
        }
        // To the filter, who is let in by hand is allowlisted, too.
        let by_hand = facts.held().is_some_and(|held| !held.allowed.is_empty());
        facts
            .known()
            .and_then(|known| known.protection.as_deref())
            .filter(|_| !by_hand)
            .map(|_| "it is in allow.networks".into())
    }

    /// What was last said of it, where that is over.
    fn last_sentence(&self) -> Option<String> {
        let sentence = self.facts.traced()?.sentence.as_ref()?;
        let what = match sentence.action.as_str() {
            "ban" => format!(
                "banned for {}",
                spelled(sentence.seconds.unwrap_or(0).into())
            ),
            "kill" => "its session was ended".into(),
            "reject" => "its message was refused".into(),
            "drop" => "its packet was dropped".into(),
            _ => return None,
        };
        Some(format!(
            "The last time that lists named it was {}: {}; {what}.",
            self.when(sentence.at),
            sentence.lists()
        ))
    }

    fn of_message(&self) -> String {
        let facts = self.facts;
        let subject = &facts.subject;
        let Some(traced) = facts.message().filter(|traced| !traced.is_empty()) else {
            return match (&facts.log, subject) {
                (Err(_), _) => format!("Nothing is known of {subject}: the log cannot be read."),
                (_, Subject::MessageId(_)) => format!(
                    "Nothing is known of {subject}: no line of the log names it. Courier itself logs its own id alone, which stands in the Received field that it adds (\"id 0000....\")."
                ),
                _ => format!("Nothing is known of {subject}: no line of the log names it."),
            };
        };
        let client = facts
            .client
            .map_or_else(String::new, |client| format!(", from {client},"));
        let of = match (&traced.id, subject) {
            (Some(id), Subject::MessageId(_)) => format!("{subject} (Courier's {id})"),
            _ => subject.to_string(),
        };
        let (delivered, failed) = (traced.count("delivered"), traced.count("failed"));
        let end = if let Some(sentence) = &traced.sentence {
            match sentence.action.as_str() {
                "none" => format!(
                    "was let through, as the filter only observes; {} names its client, score {}",
                    sentence.lists(),
                    sentence.score
                ),
                _ => format!(
                    "was refused {}, as {} {} its client, score {}",
                    self.when(sentence.at),
                    sentence.lists(),
                    if sentence.also.is_empty() {
                        "names"
                    } else {
                        "name"
                    },
                    sentence.score
                ),
            }
        } else if traced.count("accepted") == 0 && delivered + failed == 0 {
            "is named in the log, but nothing there tells what became of it".into()
        } else if failed > 0 {
            format!(
                "was accepted, and could not be delivered to {}",
                recipients(failed)
            )
        } else if delivered > 0 && traced.count("completed") > 0 {
            "was accepted and delivered".into()
        } else if traced.count("put-off") > 0 {
            "was accepted, and its delivery put off: Courier tries again (mailq)".into()
        } else if delivered > 0 {
            format!("was accepted, and delivered to {}", recipients(delivered))
        } else {
            "was accepted; that it was delivered is not in the log (mailq)".into()
        };
        let of = of.replacen("message", "Message", 1);
        format!("{of}{client} {end}.")
    }

    /// What is known now, by who knows it.
    fn now(&self, client: IpAddr) -> Vec<Line> {
        let facts = self.facts;
        let mut lines = Vec::new();
        let mut pair = |name: &str, text: String| lines.push(Line::Pair(name.into(), text));
        if let Some(held) = facts.held() {
            for ban in &held.bans {
                pair("Ban", self.told_ban(ban));
            }
            if held.bans.is_empty() {
                pair("Ban", "none runs".into());
            }
            for allow in &held.allowed {
                pair(
                    "Let in",
                    format!(
                        "{} by hand, {}",
                        network_shown(allow.network),
                        self.until(allow.left)
                    ),
                );
            }
            if let Some(former) = held.former {
                pair(
                    "Before",
                    format!(
                        "{}, the last ended {}",
                        match former.count {
                            1 => "one ban that counts".to_owned(),
                            count => format!("{count} bans that count"),
                        },
                        self.when(former.ended.into())
                    ),
                );
            }
            if let Some(ago) = held.delivered {
                pair(
                    "Delivered",
                    format!("its last message was accepted {} ago", spelled(ago.into())),
                );
            }
        }
        match &facts.kernel {
            Some(Ok(true)) => pair(
                "Kernel",
                "the set holds it: its connections are dropped".into(),
            ),
            Some(Ok(false)) => pair(
                "Kernel",
                "the set does not hold it: its packets come in".into(),
            ),
            _ => {}
        }
        if let Some(known) = facts.known() {
            for session in &known.sessions {
                pair("Session", told_session(session));
            }
            if known.sessions.is_empty() {
                pair("Sessions", "none is open".into());
            }
            for said in &known.said {
                pair("List", told_list(said));
            }
            if let (Some(score), Some(sentence)) = (known.score, &known.sentence) {
                let follows = match sentence.as_str() {
                    _ if !known.held.allowed.is_empty() => {
                        "that does not count while it is let in by hand"
                    }
                    "pass" => "it passes",
                    "reject" => "its messages are refused",
                    _ => "it is banned",
                };
                pair(
                    "Verdict",
                    format!("score {score} of what is kept: {follows}"),
                );
            }
            if known.never_ban {
                pair(
                    "Never-ban",
                    "it is refused with a text, but never ended or banned".into(),
                );
            }
            if known.mode == "observe" {
                pair(
                    "Mode",
                    "observe: it is decided and logged, and nothing done".into(),
                );
            }
        }
        if let Some(settings) = facts.settings() {
            let path = facts.path.display();
            match self.never_judged() {
                Some(reason) => pair("Trusted", format!("never judged: {reason}")),
                None => pair(
                    "Trusted",
                    "no: not in allow.networks, no own address, not in smtpaccess".into(),
                ),
            }
            if let Some(relay) = settings.relay {
                pair(
                    "Relay",
                    format!("{} is in never-ban.relays of {path}", network_shown(relay)),
                );
            }
            if settings.observe && facts.known().is_none() {
                pair(
                    "Mode",
                    "observe: it would be decided and logged, and nothing done".into(),
                );
            }
        }
        let _ = client;
        lines
    }

    /// The moments by their days.
    fn moments(&self, traced: &Traced) -> Vec<Line> {
        let mut lines = Vec::new();
        let Some((first, last)) = traced.period else {
            lines.push(Line::Text(
                "The log holds no line of a mail program.".into(),
            ));
            return lines;
        };
        let skipped = if self.all {
            0
        } else {
            traced.moments.len().saturating_sub(TOLD)
        };
        if traced.moments.is_empty() {
            lines.push(Line::Text(format!(
                "Nothing: no line of the log, which goes from {} to {}, is about it.",
                self.time(first, "%Y-%m-%d %H:%M:%S"),
                self.time(last, "%Y-%m-%d %H:%M:%S")
            )));
        }
        let before: u64 = traced.moments[..skipped]
            .iter()
            .map(|moment| moment.times)
            .sum::<u64>()
            + traced.earlier;
        if before > 0 {
            let counts: Vec<String> = traced
                .counts
                .iter()
                .map(|(kind, count)| format!("{} {kind}", crate::report::number(*count)))
                .collect();
            lines.push(Line::Text(format!(
                "{} earlier {} not shown{}. In all: {}.",
                crate::report::number(before),
                if before == 1 { "line is" } else { "lines are" },
                if traced.earlier == 0 {
                    " (--all shows them)"
                } else {
                    ""
                },
                counts.join(", ")
            )));
        }
        let mut day = String::new();
        for moment in &traced.moments[skipped..] {
            let this = self.time(moment.at, "%Y-%m-%d");
            if this != day {
                lines.push(Line::Day(this.clone()));
                day = this;
            }
            lines.push(Line::Moment(
                self.time(moment.at, "%H:%M:%S"),
                self.told(moment),
            ));
        }
        if traced.summed > 0 {
            lines.push(Line::Text(format!(
                "{} of waves were summed up while the log was read (docs/logging.md, Waves): some may have been about it.",
                match traced.summed {
                    1 => "One line".to_owned(),
                    lines => format!("{} lines", crate::report::number(lines)),
                }
            )));
        }
        lines
    }

    fn told(&self, moment: &Moment) -> String {
        let other = moment
            .other
            .map_or_else(String::new, |other| format!("[{other}, of its network] "));
        let times = if moment.times > 1 {
            format!(
                ", {} times until {}",
                crate::report::number(moment.times),
                self.when_after(moment)
            )
        } else {
            String::new()
        };
        format!("{other}{}{times}", moment.text)
    }

    fn when_after(&self, moment: &Moment) -> String {
        let day = |at| self.time(at, "%Y-%m-%d");
        if day(moment.at) == day(moment.until) {
            self.time(moment.until, "%H:%M:%S")
        } else {
            self.time(moment.until, "%Y-%m-%d %H:%M:%S")
        }
    }

    /// What would follow.
    fn forecast(&self, client: IpAddr) -> Vec<Line> {
        let facts = self.facts;
        let mut lines = Vec::new();
        let Some(forecast) = facts.expected() else {
            return lines;
        };
        let none = Held::default();
        let held = facts.held().unwrap_or(&none);
        let observe = facts.settings().is_some_and(|settings| settings.observe);
        // Where the kernel's set cannot be looked at, it holds what it should.
        let shut_out = match &facts.kernel {
            Some(Ok(held)) => *held,
            Some(Err(_)) | None => !held.bans.is_empty(),
        };
        let text = if shut_out && !facts.known().is_some_and(|known| known.dry_run) {
            "The kernel would drop its packets: nothing answers it until the ban ends.".to_owned()
        } else if !held.allowed.is_empty() {
            "It would be let in, as somebody lets it in by hand.".to_owned()
        } else if let Some(reason) = self.never_judged() {
            format!("It would be let in without a look at the lists: {reason}.")
        } else {
            let follows = match (forecast.sentence.as_str(), observe) {
                ("pass", _) => "It would be let in".to_owned(),
                ("reject", false) => {
                    "Its message would be refused with a text, and nothing else done".to_owned()
                }
                ("reject", true) => {
                    "It would be let in and logged (observe), else its message refused".to_owned()
                }
                (_, true) => "It would be let in and logged (observe), else banned".to_owned(),
                (_, false) => match facts.known() {
                    Some(known) => format!(
                        "It would be refused, ended, and banned for {}",
                        spelled(known.next.into())
                    ),
                    None => "It would be refused, ended, and banned".to_owned(),
                },
            };
            format!("{follows}: score {}.", forecast.score)
        };
        lines.push(Line::Text(text));
        if let Some(note) = &forecast.note {
            lines.push(Line::Text(format!("{note}.")));
        }
        for list in &forecast.lists {
            let said = if list.text.is_empty() {
                list.answer.clone()
            } else {
                format!("{}: {}", list.answer, redacted(list.text.as_bytes()))
            };
            lines.push(Line::Pair(list.name.clone(), said));
        }
        let _ = client;
        lines
    }
}

/// `zen.spamhaus.org and bl.test list`, `bl.test lists`.
fn names(zones: &[String]) -> String {
    let zones: Vec<String> = zones.iter().map(|zone| redacted(zone.as_bytes())).collect();
    match &zones[..] {
        [one] => format!("{one} lists"),
        [most @ .., last] => format!("{} and {last} list", most.join(", ")),
        [] => String::new(),
    }
}

fn recipients(count: u64) -> String {
    match count {
        1 => "one recipient".into(),
        count => format!("{} recipients", crate::report::number(count)),
    }
}

fn told_session(session: &OpenSession) -> String {
    let mut text = format!(
        "open for {}, from port {} to port {}",
        spelled(session.age),
        session.port,
        session.local_port
    );
    for (is, word) in [
        (session.relay_client, "trusted (RELAYCLIENT)"),
        (session.proxied, "through a proxy"),
        (session.at_filter, "a message of it has reached the filter"),
        (session.ending, "being ended"),
    ] {
        if is {
            text.push_str(", ");
            text.push_str(word);
        }
    }
    if !session.courier.is_empty() {
        text.push_str(&format!(
            ", Courier's own lists name it: {}",
            redacted(session.courier.join(", ").as_bytes())
        ));
    }
    text
}

fn told_list(said: &Recalled) -> String {
    let answer = match (said.listed, said.code) {
        (true, Some(code)) => format!("listed {code}, score {}", said.score),
        (true, None) => format!("listed, score {}", said.score),
        (false, _) => "not listed".into(),
    };
    let holds = match (said.believed, said.left) {
        (false, _) => "not believed now: the list has failed its test".into(),
        (true, 0) => "which no longer holds".into(),
        (true, left) => format!("holds {} more", spelled(left.into())),
    };
    format!(
        "{}: {answer}, asked {} ago, {holds}",
        said.name,
        spelled(said.age.into())
    )
}
