//! A line of the log as an event, or nothing: Courier's own
//! ([`crate::courier::log_line`]) and ours (docs/logging.md). Pure, of any bytes.

use std::net::IpAddr;

use memchr::{memchr, memmem};

use crate::courier::log_line::{LogLine, address};

/// A day of a thousand lines a second: no line stands for more.
const MOST_TIMES: u64 = 100_000_000;

/// What a line tells, and how many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Courier said it.
    Courier(LogLine<'a>),
    /// rblfilter said it.
    Ours(Ours<'a>),
}

/// The fields of a line of ours that are counted; each as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ours<'a> {
    /// Which event.
    pub event: &'a [u8],
    /// The client.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: Option<u16>,
    /// The weightiest list.
    pub zone: &'a [u8],
    /// The others, joined by `+`.
    pub also: &'a [u8],
    /// What was done.
    pub action: &'a [u8],
    /// What would have been done, in `observe`.
    pub would: &'a [u8],
    /// What failed, or what was asked for.
    pub what: &'a [u8],
    /// `on` or `off`.
    pub state: &'a [u8],
    /// Processes that were ended; `None` where it does not say.
    pub killed: Option<u32>,
    /// Slots in use, and all of them.
    pub used: Option<u32>,
    /// All slots.
    pub slots: Option<u32>,
    /// How many lines it stands for, in a sum.
    pub lines: Option<u64>,
    /// In how many seconds, in a sum.
    pub seconds: Option<u32>,
    /// It was seen at the connect, not at the end of data.
    pub at_connect: bool,
}

/// What `ident` said, and how often: syslog daemons sum up equal lines.
#[must_use]
pub fn event<'a>(ident: &[u8], message: &'a [u8]) -> Option<(Event<'a>, u64)> {
    let ours = ident.starts_with(b"rblfilter");
    if !ours && !ident.starts_with(b"courier") && !ident.starts_with(b"esmtpd") {
        return None;
    }
    let (message, times) = repeated(message);
    if ours {
        let ours = Ours::parse(message)?;
        let times = times
            .saturating_mul(ours.lines.unwrap_or(1))
            .min(MOST_TIMES);
        return Some((Event::Ours(ours), times));
    }
    Some((Event::Courier(LogLine::parse(ident, message)?), times))
}

/// `message repeated 3 times: [ …]`, as rsyslog has it.
fn repeated(message: &[u8]) -> (&[u8], u64) {
    let inner = || {
        let rest = message.strip_prefix(b"message repeated ")?;
        let (number, rest) = rest.split_at(memchr(b' ', rest)?);
        let rest = rest.strip_prefix(b" times: [ ")?.strip_suffix(b"]")?;
        let times = decimal(number).filter(|times| (1..=MOST_TIMES).contains(times))?;
        Some((rest, times))
    };
    inner().unwrap_or((message, 1))
}

/// A field of a line of ours: its key, and its value, where it has one.
pub type Field<'a> = (&'a [u8], Option<&'a [u8]>);

/// The fields of a line of ours, `[id=…,]EVENT[,KEY=VALUE]…[: TEXT]`: each key and
/// value, the event's name without one; and the text.
pub fn fields(message: &[u8]) -> (impl Iterator<Item = Field<'_>>, &[u8]) {
    // A value holds no space, so the first `: ` begins the text.
    let (fields, text) = match memmem::find(message, b": ") {
        Some(end) => (&message[..end], &message[end + 2..]),
        None => (message, &message[message.len()..]),
    };
    let fields = fields.split(|byte| *byte == b',');
    let pairs = fields.map(|field| match memchr(b'=', field) {
        Some(equal) => (&field[..equal], Some(&field[equal + 1..])),
        None => (field, None),
    });
    (pairs, text)
}

impl<'a> Ours<'a> {
    /// Reads `[id=…,]EVENT[,KEY=VALUE]…[: TEXT]`.
    #[must_use]
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let mut ours = Self::default();
        let mut summed: &[u8] = b"";
        for (key, value) in fields(message).0 {
            let Some(value) = value else {
                if ours.event.is_empty() {
                    ours.event = key;
                }
                continue;
            };
            match key {
                b"ip" => ours.ip = bracketed(value).and_then(address),
                b"port" => {
                    ours.port = bracketed(value)
                        .and_then(decimal)
                        .and_then(|port| port.try_into().ok());
                }
                b"zone" => ours.zone = value,
                b"also" => ours.also = value,
                b"action" => ours.action = value,
                b"would" => ours.would = value,
                b"what" => ours.what = value,
                b"state" => ours.state = value,
                b"killed" => ours.killed = small(value),
                b"used" => ours.used = small(value),
                b"slots" => ours.slots = small(value),
                b"event" => summed = value,
                b"lines" => ours.lines = decimal(value),
                b"seconds" => ours.seconds = small(value),
                b"at" => ours.at_connect = value == b"connect",
                _ => {}
            }
        }
        // `summed,event=listed,…,lines=N` stands for so many lines of that event.
        if ours.event == b"summed" {
            ours.event = summed;
        } else {
            ours.lines = None;
        }
        let name = ours.event;
        let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_lowercase);
        is_name.then_some(ours)
    }
}

/// The inside of `[…]`.
#[must_use]
pub fn bracketed(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"[")?.strip_suffix(b"]")
}

fn small(value: &[u8]) -> Option<u32> {
    decimal(value)?.try_into().ok()
}

fn decimal(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits
        .then(|| std::str::from_utf8(value).ok()?.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_lines() {
        let message = b"id=0B.6B.0F,listed,ip=[::ffff:1.2.3.4],port=[4711],zone=zen.spamhaus.org,code=127.0.0.2,score=10,also=a.test+b.test,action=ban,bantime=3600s,killed=2";
        assert_eq!(
            Ours::parse(message),
            Some(Ours {
                event: b"listed",
                ip: Some("1.2.3.4".parse().unwrap()),
                port: Some(4711),
                zone: b"zen.spamhaus.org",
                also: b"a.test+b.test",
                action: b"ban",
                killed: Some(2),
                ..Ours::default()
            })
        );
        let ours = Ours::parse(b"degraded,what=dnsbl,zone=x: at=connect,zone=y").unwrap();
        assert_eq!((ours.zone, ours.at_connect), (b"x".as_slice(), false));
        let ours = Ours::parse(b"guard,couriertcpd=7,state=on,used=250,slots=300").unwrap();
        assert_eq!((ours.used, ours.slots), (Some(250), Some(300)));
        for message in [
            b"".as_slice(),
            b"summed,lines=3",
            b"id=x",
            b"Some Text",
            b": x",
            b"=,=,=",
        ] {
            assert_eq!(Ours::parse(message), None, "{message:?}");
        }
    }

    #[test]
    fn what_we_write_is_what_is_read() {
        let written = crate::log::Event::new("listed")
            .ip("2001:db8::7".parse().unwrap())
            .port(7)
            .field("zone", "a, b=c: d")
            .field("action", "kill")
            .field("killed", 0)
            .of_message(Some("1.2.3"))
            .text("x,action=ban")
            .to_string();
        let read = Ours::parse(written.as_bytes()).unwrap();
        assert_eq!(read.ip, Some("2001:db8::7".parse().unwrap()));
        assert_eq!(read.port, Some(7));
        assert_eq!(read.zone, b"a\\x2c\\x20b=c:\\x20d".as_slice());
        assert_eq!(read.action, b"kill".as_slice());
        assert_eq!(read.killed, Some(0));
    }

    #[test]
    fn equal_lines_that_syslog_sums_up_are_counted() {
        let (event, times) = event(
            b"courieresmtpd",
            b"message repeated 12 times: [ Maximum connection limit reached for ::ffff:1.2.3.4]",
        )
        .unwrap();
        assert!(matches!(event, Event::Courier(LogLine::TooMany { .. })));
        assert_eq!(times, 12);
    }

    #[test]
    fn a_sum_of_ours_stands_for_its_lines() {
        let line = b"summed,event=listed,at=connect,action=ban,lines=1234,seconds=10";
        let (Event::Ours(ours), times) = event(b"rblfilter", line).unwrap() else {
            panic!("a line of ours");
        };
        assert_eq!(
            (ours.event, ours.action),
            (b"listed".as_slice(), b"ban".as_slice())
        );
        assert_eq!((ours.at_connect, ours.ip, times), (true, None, 1234));
        // No other line has so much weight.
        let (_, times) = event(b"rblfilter", b"listed,lines=1234,event=x").unwrap();
        assert_eq!(times, 1);
    }

    #[test]
    fn other_programs_are_not_read() {
        assert_eq!(event(b"postfix/smtpd", b"listed,ip=[::1]"), None);
    }
}
