//! A line of the log that is about the client or the message, in plain words.
//! What others wrote is escaped and cut off; replies are without keys of lists.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use memchr::memmem;
use rblfilter_warden::policy::without_keys;

use crate::courier::log_line::{LogLine, address};
use crate::report::{bracketed, fields};

/// The longest that is told of what somebody else wrote, in characters.
const LONGEST: usize = 300;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When, in seconds since 1970.
    pub at: i64,
    /// What it was, in a word.
    pub kind: &'static str,
    /// What it was, in plain words.
    pub text: String,
    /// Whose it was: another than the one that is asked for, of the network that
    /// is banned with it.
    pub other: Option<IpAddr>,
    /// The message, by Courier's id.
    pub id: Option<String>,
    /// How often, one after the other, and until when.
    pub times: u64,
    /// See there.
    pub until: i64,
}

impl Moment {
    /// Once.
    #[must_use]
    pub fn new(at: i64, kind: &'static str, text: String) -> Self {
        Self {
            at,
            kind,
            text,
            other: None,
            id: None,
            times: 1,
            until: at,
        }
    }
}

/// A sentence of ours, as the log tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sentence {
    /// When, in seconds since 1970.
    pub at: i64,
    /// The weightiest list.
    pub zone: String,
    /// The further lists that named the client.
    pub also: Vec<String>,
    /// What the weightiest answered.
    pub code: Option<Ipv4Addr>,
    /// All points.
    pub score: String,
    /// What was done: `ban`, `kill`, `reject`, `drop` or `none`.
    pub action: String,
    /// What would have been done, in `observe`.
    pub would: String,
    /// Where: `connect`, `gate`, or empty: at the end of data.
    pub place: String,
    /// The message.
    pub id: Option<String>,
    /// How long the ban was to last, in seconds.
    pub seconds: Option<u32>,
    /// The how many-eth ban it is.
    pub offence: Option<u16>,
}

impl Sentence {
    /// The lists that named the client: `zen.spamhaus.org (127.0.0.2) and bl.test`.
    #[must_use]
    pub fn lists(&self) -> String {
        let mut text = self.zone.clone();
        if let Some(code) = self.code {
            // Writing to a String cannot fail.
            let _ = write!(text, " ({code})");
        }
        if !self.also.is_empty() {
            let _ = write!(text, " and {}", self.also.join(", "));
        }
        text
    }
}

/// A line of ours, taken apart.
#[derive(Debug, Default)]
pub struct Ours<'a> {
    pub event: &'a [u8],
    pub ip: Option<IpAddr>,
    pub net: Option<ipnetwork::IpNetwork>,
    pub id: Option<&'a str>,
    pub text: &'a [u8],
    fields: Vec<(&'a [u8], &'a [u8])>,
}

/// More than any line of ours has.
const MOST_FIELDS: usize = 32;

impl<'a> Ours<'a> {
    pub fn parse(message: &'a [u8]) -> Self {
        let (pairs, text) = fields(message);
        let mut ours = Self {
            text,
            ..Self::default()
        };
        for (key, value) in pairs.take(MOST_FIELDS) {
            let Some(value) = value else {
                if ours.event.is_empty() {
                    ours.event = key;
                }
                continue;
            };
            let text = std::str::from_utf8(value).ok();
            match key {
                b"ip" => ours.ip = bracketed(value).and_then(address),
                b"net" => ours.net = text.and_then(|text| text.parse().ok()),
                b"id" => ours.id = text,
                _ => ours.fields.push((key, value)),
            }
        }
        ours
    }

    fn get(&self, key: &str) -> &'a [u8] {
        let found = self.fields.iter().find(|(name, _)| *name == key.as_bytes());
        found.map_or(b"", |(_, value)| value)
    }

    /// A field for people.
    pub fn field(&self, key: &str) -> String {
        shown(self.get(key))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        let text = std::str::from_utf8(self.get(key)).ok()?;
        text.strip_suffix('s').unwrap_or(text).parse().ok()
    }

    /// The sentence of a `listed` line.
    pub fn sentence(&self, at: i64) -> Sentence {
        let also = redacted(self.get("also"));
        Sentence {
            at,
            zone: redacted(self.get("zone")),
            also: also
                .split('+')
                .filter(|zone| !zone.is_empty())
                .map(str::to_owned)
                .collect(),
            code: std::str::from_utf8(self.get("code"))
                .ok()
                .and_then(|code| code.parse().ok()),
            score: self.field("score"),
            action: self.field("action"),
            would: self.field("would"),
            place: self.field("at"),
            id: self.id.map(|id| shown(id.as_bytes())),
            seconds: self.number("bantime"),
            offence: self.number("offence"),
        }
    }

    /// It in plain words; `None`: it is of no use to anybody here.
    pub fn told(&self, at: i64) -> Option<(&'static str, String)> {
        let text = || shown(self.text);
        let told = match self.event {
            b"listed" => return Some(self.listed(at)),
            b"shed" => (
                "shed",
                format!(
                    "session ended by the slot guard, as the slots ran short: the client had been silent for {} while it was its turn; not banned",
                    spelled(self.number("silent").unwrap_or(0))
                ),
            ),
            b"ended" => ("ended", "session ended after its grace".into()),
            b"freed" => (
                "freed",
                match self.get("reason") {
                    b"unlisted" => "the ban ended early: the lists name it no longer".into(),
                    b"allowlisted" => {
                        "the ban ended early: the configuration lets it pass now".into()
                    }
                    _ => format!("the ban ended early: {}", self.field("reason")),
                },
            ),
            b"byhand" => ("by-hand", self.by_hand()),
            b"exempt" => (
                "exempt",
                match (self.get("reason"), self.get("zone")) {
                    (b"recipients", zone) => format!(
                        "message let through although {} lists the client: it is for postmaster or abuse alone",
                        shown(zone)
                    ),
                    (reason, _) => format!("not judged: {}", shown(reason)),
                },
            ),
            b"passed" => ("passed", "message passed: no list names the client".into()),
            b"spared" => ("spared", format!("spared: {}", text())),
            b"unidentified" => (
                "unidentified",
                format!(
                    "message let through, as its sender was not certain: {}",
                    text()
                ),
            ),
            _ => return None,
        };
        Some(told)
    }

    fn listed(&self, at: i64) -> (&'static str, String) {
        let sentence = self.sentence(at);
        let by = format!("listed by {}, score {}", sentence.lists(), sentence.score);
        let place = match sentence.place.as_str() {
            "connect" => "as it connected: ",
            "gate" => "at its first packet: ",
            _ => "at the end of its data: ",
        };
        let after = match self.number("killed") {
            Some(0) => ", session over already",
            Some(1_u32..) => ", session ended",
            None if !self.get("grace").is_empty() => ", with a grace to read its 554",
            None => "",
        };
        let refused = match sentence.place.as_str() {
            "" => "message refused, ",
            _ => "",
        };
        let (kind, what) = match sentence.action.as_str() {
            "ban" => {
                let offence = match sentence.offence {
                    Some(offence) => format!(", ban number {offence}"),
                    None => String::new(),
                };
                let time = spelled(sentence.seconds.unwrap_or(0).into());
                ("ban", format!("{refused}banned for {time}{offence}{after}"))
            }
            "kill" => ("kill", format!("{refused}not banned{after}")),
            "reject" => (
                "reject",
                "message refused with a text, nothing else done".into(),
            ),
            "drop" => (
                "drop",
                format!(
                    "packet dropped, and those of the next {}",
                    spelled(self.number("time").unwrap_or(0))
                ),
            ),
            _ => (
                "observed",
                format!(
                    "nothing done (observe); in enforce: {}",
                    match sentence.would.as_str() {
                        "ban" => "ban",
                        "kill" => "session ended",
                        "reject" => "message refused",
                        "drop" => "packet dropped",
                        other => other,
                    }
                ),
            ),
        };
        (kind, format!("{place}{by}: {what}"))
    }

    fn by_hand(&self) -> String {
        let user = self.field("user");
        let time = self.number("for").map(spelled);
        let mut text = match (self.get("what"), time) {
            (b"ban", Some(time)) => format!("{user} banned it by hand for {time}"),
            (b"unban", Some(time)) => format!("{user} ended its ban and let it in for {time}"),
            (b"unban", None) => format!("{user} ended its ban"),
            (b"unban-all", _) => format!("{user} ended all bans"),
            (b"allow", Some(time)) => format!("{user} let it in for {time}"),
            (b"allow", None) => format!("{user} ended that it was let in"),
            (what, _) => format!("{user} did by hand: {}", shown(what)),
        };
        if !self.text.is_empty() {
            let _ = write!(text, ": {}", shown(self.text));
        }
        text
    }

    /// How long the ban of this line was to last.
    pub fn ban_seconds(&self) -> Option<u32> {
        match (self.event, self.get("what"), self.get("action")) {
            (b"byhand", b"ban", _) => self.number("for"),
            (b"listed", _, b"ban") => self.number("bantime"),
            _ => None,
        }
    }

    /// Whether this line ends a ban.
    pub fn ends_ban(&self) -> bool {
        match self.event {
            b"freed" => true,
            b"byhand" => {
                let what = self.get("what");
                what.starts_with(b"unban") || what == b"allow" && !self.get("for").is_empty()
            }
            _ => false,
        }
    }

    /// How many lines it stands for, where it is a sum.
    pub fn lines(&self) -> u64 {
        self.number("lines").unwrap_or(0)
    }
}

/// A line of Courier's sessions and messages in plain words, `message` whole.
pub fn of_courier(line: &LogLine<'_>, message: &[u8]) -> (&'static str, String) {
    match line {
        LogLine::Started { .. } => ("connected", "connected".into()),
        LogLine::Refused { from, reply, .. } => {
            let kind = if reply.starts_with(b"4") {
                "deferred"
            } else {
                "refused"
            };
            let mut text = match kind {
                "deferred" => format!("told to try again: {}", redacted(reply)),
                _ => format!("refused: {}", redacted(reply)),
            };
            if let Some(from) = from {
                let _ = write!(text, " (from <{}>", shown(from));
                if let Some(to) = between(message, b",to=<", b">: ") {
                    let _ = write!(text, " to <{}>", shown(to));
                }
                text.push(')');
            }
            (kind, text)
        }
        LogLine::Dropped { .. } => (
            "dropped",
            "dropped by couriertcpd before its greeting: Courier's own lists (-drop)".into(),
        ),
        LogLine::TooMany { .. } => (
            "turned-away",
            "turned away: more connections at once than MAXPERIP or MAXPERC allow".into(),
        ),
        LogLine::Lost {
            timed_out: true, ..
        } => (
            "timed-out",
            "silent until Courier's own timeout ended the session".into(),
        ),
        LogLine::Lost { .. } => ("lost", "the connection was lost".into()),
        LogLine::Accepted {
            id, authenticated, ..
        } => (
            "accepted",
            format!(
                "message {} accepted{}",
                shown(id),
                if *authenticated {
                    ", of a client that had logged in"
                } else {
                    ""
                }
            ),
        ),
        LogLine::Sender { from, .. } => (
            "delivery",
            match between(message, b",addr=<", b">") {
                Some(to) => format!("delivery from <{}> to <{}> begins", shown(from), shown(to)),
                None => format!("delivery from <{}> begins", shown(from)),
            },
        ),
        LogLine::Active { .. } => ("slots", String::new()),
    }
}

/// `id=ID,from=<…>,addr=<…>…` of what delivers; the id, and it in plain words.
pub fn delivery(message: &[u8]) -> Option<(&str, &'static str, String)> {
    let (id, rest) = id_of(message.strip_prefix(b"id=")?)?;
    let to = between(rest, b",addr=<", b">").unwrap_or(b"");
    let to = shown(to);
    let said = memmem::find(rest, b">: ")
        .map(|at| at + 3)
        .or_else(|| memmem::find(rest, b": ").map(|at| at + 2))
        .map_or(&b""[..], |at| &rest[at..]);
    let said = shown(said);
    let has = |part: &[u8]| memmem::find(rest, part).is_some();
    let told = if has(b",success: ") || has(b",status: success") {
        ("delivered", format!("delivered to <{to}>: {said}"))
    } else if has(b",status: deferred") {
        ("put-off", format!("delivery to <{to}> put off"))
    } else if has(b",status: fail") {
        ("failed", format!("delivery to <{to}> failed"))
    } else {
        ("delivery", format!("delivery to <{to}>: {said}"))
    };
    Some((id, told.0, told.1))
}

/// The id of a line of courierd's that tells a message's end.
pub fn completed(message: &[u8]) -> Option<&str> {
    Some(id_of(message.strip_prefix(b"completed,id=")?)?.0)
}

fn id_of(rest: &[u8]) -> Option<(&str, &[u8])> {
    let end = rest.iter().position(|byte| matches!(byte, b',' | b':'));
    let (id, rest) = rest.split_at(end.unwrap_or(rest.len()));
    Some((std::str::from_utf8(id).ok()?, rest))
}

fn between<'a>(text: &'a [u8], begin: &[u8], end: &[u8]) -> Option<&'a [u8]> {
    let rest = &text[memmem::find(text, begin)? + begin.len()..];
    Some(&rest[..memmem::find(rest, end)?])
}

/// The same, without keys of lists, which a reply or a list's name may hold.
pub fn redacted(bytes: &[u8]) -> String {
    without_keys(&shown(bytes))
}

/// Bytes of somebody else's for people: printable ASCII, what is beyond as
/// `\xHH`; cut off.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if text.len() >= LONGEST {
            text.push_str("...");
            break;
        }
        match byte {
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a String cannot fail.
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// A duration for people.
pub fn spelled(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
