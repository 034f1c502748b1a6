//! The head of a line: when, which program, and where its message begins.
//!
//! Known are the stamps of rsyslog and syslog-ng, old (`Nov 24 09:54:03`, local
//! time without a year) and new (RFC 3339), RFC 5424 as it goes over the wire,
//! and journalctl's short, short-precise, short-iso, short-unix and json.
//!
//! A stamp without a year is the newest that is not after the log's last change,
//! give or take a day.

use std::borrow::Cow;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use memchr::{memchr, memmem};
use serde::Deserialize;

const DAY: i64 = 86_400;
/// 29 February stands in one year of four, or eight around 1900 and 2100.
const YEARS_BACK: i16 = 8;

/// A line, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Seconds since 1970.
    pub at: i64,
    /// The program, without its process number.
    pub ident: Cow<'a, [u8]>,
    /// What it said.
    pub message: Cow<'a, [u8]>,
}

/// Turns stamps into seconds; the last one is remembered, as many lines share it.
#[derive(Debug)]
pub struct Clock {
    zone: TimeZone,
    newest: i64,
    memory: Option<([u8; 19], usize, i64)>,
}

impl Clock {
    /// For a log that was last written to at `newest`, in seconds since 1970,
    /// by a host in the time zone `zone`.
    #[must_use]
    pub fn new(zone: TimeZone, newest: i64) -> Self {
        Self {
            zone,
            newest,
            memory: None,
        }
    }

    /// Takes a line apart; `None` for one that has no stamp or no program.
    pub fn head<'a>(&mut self, line: &'a [u8]) -> Option<Head<'a>> {
        match line.first()? {
            b'A'..=b'Z' => {
                let at = self.bsd(line.get(..15)?)?;
                after_stamp(at, skip_fraction(&line[15..]))
            }
            b'0'..=b'9' => {
                if line.get(4) == Some(&b'-') {
                    let (at, rest) = self.iso(line)?;
                    after_stamp(at, rest)
                } else {
                    let end = line.iter().position(|byte| !byte.is_ascii_digit())?;
                    let at = std::str::from_utf8(&line[..end]).ok()?.parse().ok()?;
                    after_stamp(at, skip_fraction(&line[end..]))
                }
            }
            b'<' => self.wire(line),
            b'{' => json(line),
            _ => None,
        }
    }

    /// `Nov 24 09:54:03`, or `Nov  3 …`.
    fn bsd(&mut self, stamp: &[u8]) -> Option<i64> {
        if let Some(at) = self.remembered(stamp) {
            return Some(at);
        }
        let month = match &stamp[..4] {
            b"Jan " => 1,
            b"Feb " => 2,
            b"Mar " => 3,
            b"Apr " => 4,
            b"May " => 5,
            b"Jun " => 6,
            b"Jul " => 7,
            b"Aug " => 8,
            b"Sep " => 9,
            b"Oct " => 10,
            b"Nov " => 11,
            b"Dec " => 12,
            _ => return None,
        };
        let tens = if stamp[4] == b' ' { b'0' } else { stamp[4] };
        let day = digits(&[tens, stamp[5]])?;
        let (hour, minute, second) = time(stamp.get(6..)?.strip_prefix(b" ")?)?;
        let newest = jiff::Timestamp::from_second(self.newest).ok()?;
        let year = self.zone.to_datetime(newest).year();
        let at = (year - YEARS_BACK..=year + 1).rev().find_map(|year| {
            let civil = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
            let at = self.local(civil)?;
            (at <= self.newest.saturating_add(DAY)).then_some(at)
        })?;
        self.remember(stamp, at);
        Some(at)
    }

    /// `2026-11-24T09:54:03.123456+00:00`, or with a space and without an offset.
    fn iso<'a>(&mut self, line: &'a [u8]) -> Option<(i64, &'a [u8])> {
        let stamp = line.get(..19)?;
        // An offset is the same for a whole hour, and read each time.
        let rest = skip_fraction(&line[19..]);
        let (offset, rest) = match rest {
            [b'Z', rest @ ..] => (Some(0), rest),
            [sign @ (b'+' | b'-'), a, b, b':', c, d, rest @ ..]
            | [sign @ (b'+' | b'-'), a, b, c, d, rest @ ..] => {
                let hours = i64::from(digits(&[*a, *b])?);
                let minutes = i64::from(digits(&[*c, *d])?);
                let seconds = hours * 3600 + minutes * 60;
                (Some(if *sign == b'-' { -seconds } else { seconds }), rest)
            }
            rest => (None, rest),
        };
        // What is remembered is the time without the offset.
        let civil = match self.remembered(stamp) {
            Some(at) => at,
            None => {
                let four = [&stamp[..2], &stamp[2..4]].map(digits);
                let year = i16::from(four[0]?) * 100 + i16::from(four[1]?);
                let [b'-', m, n, b'-', d, e, b'T' | b't' | b' '] = stamp[4..11] else {
                    return None;
                };
                let (hour, minute, second) = time(&stamp[11..])?;
                let (month, day) = (digits(&[m, n])?, digits(&[d, e])?);
                let civil = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
                let at = TimeZone::UTC.to_timestamp(civil).ok()?.as_second();
                self.remember(stamp, at);
                at
            }
        };
        let at = match offset {
            Some(offset) => civil - offset,
            None => {
                let utc = jiff::Timestamp::from_second(civil).ok()?;
                self.local(TimeZone::UTC.to_datetime(utc))?
            }
        };
        Some((at, rest))
    }

    fn local(&self, civil: DateTime) -> Option<i64> {
        Some(self.zone.to_timestamp(civil).ok()?.as_second())
    }

    /// `<22>1 STAMP HOST PROGRAM PID ID DATA MESSAGE` of RFC 5424, or `<22>` before an older stamp.
    fn wire<'a>(&mut self, line: &'a [u8]) -> Option<Head<'a>> {
        let rest = &line[memchr(b'>', line.get(..5).unwrap_or(line))? + 1..];
        let Some(rest) = rest.strip_prefix(b"1 ") else {
            return match rest.first()? {
                // Once, not as deep as somebody writes `<`.
                b'A'..=b'Z' | b'0'..=b'9' => self.head(rest),
                _ => None,
            };
        };
        let (at, rest) = self.iso(rest)?;
        let mut rest = rest.strip_prefix(b" ")?;
        let mut ident: &[u8] = b"";
        for number in 0..4 {
            let (field, after) = rest.split_at(memchr(b' ', rest)?);
            if number == 1 {
                ident = field;
            }
            rest = &after[1..];
        }
        let rest = if let Some(rest) = rest.strip_prefix(b"-") {
            rest
        } else {
            &rest[memmem::find(rest, b"] ")? + 1..]
        };
        let rest = rest.strip_prefix(b" ").unwrap_or(rest);
        Some(Head {
            at,
            ident: ident.into(),
            message: rest.strip_prefix(b"\xef\xbb\xbf").unwrap_or(rest).into(),
        })
    }

    fn remembered(&self, stamp: &[u8]) -> Option<i64> {
        let (bytes, length, at) = self.memory.as_ref()?;
        (bytes[..*length] == *stamp).then_some(*at)
    }

    fn remember(&mut self, stamp: &[u8], at: i64) {
        let mut bytes = [0; 19];
        bytes[..stamp.len()].copy_from_slice(stamp);
        self.memory = Some((bytes, stamp.len(), at));
    }
}

/// ` HOST PROGRAM[PID]: MESSAGE`.
fn after_stamp(at: i64, rest: &[u8]) -> Option<Head<'_>> {
    let rest = rest.strip_prefix(b" ")?;
    let rest = &rest[memchr(b' ', rest)? + 1..];
    // A host's name cannot hold a colon, and a program's no space.
    let end = rest
        .iter()
        .take(64)
        .position(|byte| matches!(byte, b':' | b'[' | b' '))?;
    let (ident, mut rest) = rest.split_at(end);
    if rest.first() == Some(&b'[') {
        rest = &rest[memchr(b']', rest)? + 1..];
    }
    Some(Head {
        at,
        ident: ident.into(),
        message: rest.strip_prefix(b": ")?.into(),
    })
}

/// A record of `journalctl -o json`.
fn json(line: &[u8]) -> Option<Head<'_>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Message {
        Text(String),
        Bytes(Vec<u8>),
    }
    #[derive(Deserialize)]
    struct Record {
        #[serde(rename = "__REALTIME_TIMESTAMP")]
        at: String,
        #[serde(rename = "SYSLOG_IDENTIFIER")]
        ident: String,
        #[serde(rename = "MESSAGE")]
        message: Message,
    }
    let record: Record = serde_json::from_slice(line).ok()?;
    Some(Head {
        at: record.at.parse::<i64>().ok()? / 1_000_000,
        ident: record.ident.into_bytes().into(),
        message: match record.message {
            Message::Text(text) => text.into_bytes(),
            Message::Bytes(bytes) => bytes,
        }
        .into(),
    })
}

/// What follows `.123456`, or all of it.
fn skip_fraction(rest: &[u8]) -> &[u8] {
    match rest {
        [b'.' | b',', fraction @ ..] => {
            let end = fraction.iter().position(|byte| !byte.is_ascii_digit());
            &fraction[end.unwrap_or(fraction.len())..]
        }
        _ => rest,
    }
}

/// `09:54:03`.
fn time(text: &[u8]) -> Option<(i8, i8, i8)> {
    let [a, b, b':', c, d, b':', e, f] = *text else {
        return None;
    };
    // A leap second is the one before it.
    Some((digits(&[a, b])?, digits(&[c, d])?, digits(&[e, f])?.min(59)))
}

/// Two digits.
fn digits(text: &[u8]) -> Option<i8> {
    match text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => i8::try_from((a - b'0') * 10 + (b - b'0')).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-24T09:54:03Z.
    const AT: i64 = 1_795_514_043;

    fn clock(zone: &str) -> Clock {
        Clock::new(TimeZone::get(zone).unwrap(), AT + 60)
    }

    #[test]
    fn every_kind_of_line_has_its_time_program_and_message() {
        for line in [
            "Nov 24 09:54:03 mail courieresmtpd: 19 active connections.",
            "Nov 24 09:54:03 mail courieresmtpd[77]: 19 active connections.",
            "Nov 24 09:54:03.250000 mail courieresmtpd[77]: 19 active connections.",
            "2026-11-24T09:54:03.123456+00:00 mail courieresmtpd: 19 active connections.",
            "2026-11-24T10:54:03+0100 mail courieresmtpd[77]: 19 active connections.",
            "2026-11-24T04:24:03-05:30 mail courieresmtpd[77]: 19 active connections.",
            "2026-11-24T09:54:03Z mail courieresmtpd: 19 active connections.",
            "2026-11-24 09:54:03 mail courieresmtpd: 19 active connections.",
            "1795514043.123456 mail courieresmtpd[77]: 19 active connections.",
            "<22>Nov 24 09:54:03 mail courieresmtpd: 19 active connections.",
            "<22>1 2026-11-24T09:54:03.5Z mail courieresmtpd 77 - - 19 active connections.",
            "<22>1 2026-11-24T09:54:03Z mail courieresmtpd - - [x@1 y=\"z\"] \u{feff}19 active connections.",
            r#"{"__REALTIME_TIMESTAMP":"1795514043123456","_X":[1],"SYSLOG_IDENTIFIER":"courieresmtpd","MESSAGE":"19 active connections."}"#,
            r#"{"SYSLOG_IDENTIFIER":"courieresmtpd","__REALTIME_TIMESTAMP":"1795514043123456","MESSAGE":[49,57,32,97,99,116,105,118,101,32,99,111,110,110,101,99,116,105,111,110,115,46]}"#,
        ] {
            let mut clock = clock("UTC");
            for _ in 0..2 {
                let head = clock.head(line.as_bytes());
                let head = head.unwrap_or_else(|| panic!("{line}"));
                assert_eq!(head.at, AT, "{line}");
                assert_eq!(head.ident, b"courieresmtpd".as_slice(), "{line}");
                assert_eq!(head.message, b"19 active connections.".as_slice(), "{line}");
            }
        }
    }

    #[test]
    fn other_lines_are_nobodys() {
        for line in [
            "",
            "Nov 24",
            "Nov 24 09:54:03",
            "Nov 24 09:54:03 mail last message repeated 3 times",
            "Nov 31 09:54:03 mail courierd: x",
            "Foo 24 09:54:03 mail courierd: x",
            "2026-13-24T09:54:03Z mail courierd: x",
            "2026-11-24T09:54:03Z",
            "99999999999999999999999 mail courierd: x",
            "<22",
            "<22><22><22>Nov 24 09:54:03 mail courierd: x",
            "{\"MESSAGE\":1}",
            "-- Journal begins at Tue 2026-11-24 --",
        ] {
            assert_eq!(clock("UTC").head(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_stamp_without_a_year_is_the_newest_before_the_logs_end() {
        let at = |stamp: &str| {
            let line = format!("{stamp} mail courierd: x");
            let at = clock("UTC").head(line.as_bytes()).unwrap().at;
            jiff::Timestamp::from_second(at).unwrap().to_string()
        };
        assert_eq!(at("Nov 24 09:54:03"), "2026-11-24T09:54:03Z");
        // Written after the file was looked at.
        assert_eq!(at("Nov 24 09:56:00"), "2026-11-24T09:56:00Z");
        assert_eq!(at("Nov 26 00:00:00"), "2025-11-26T00:00:00Z");
        assert_eq!(at("Dec 31 23:59:59"), "2025-12-31T23:59:59Z");
        assert_eq!(at("Jan  1 00:00:00"), "2026-01-01T00:00:00Z");
        assert_eq!(at("Feb 29 00:00:00"), "2024-02-29T00:00:00Z");
        // A clock that is a minute fast on New Year's Eve.
        let mut clock = Clock::new(TimeZone::UTC, 1_798_761_590);
        let head = clock.head(b"Jan  1 00:00:10 mail courierd: x").unwrap();
        assert_eq!(head.at, 1_798_761_610);
    }

    #[test]
    fn a_stamp_without_a_zone_is_local_time() {
        let mut clock = clock("America/New_York");
        for line in [
            "Nov 24 04:54:03 mail courierd: x",
            "2026-11-24 04:54:03 mail courierd: x",
            "2026-11-24T09:54:03Z mail courierd: x",
        ] {
            assert_eq!(clock.head(line.as_bytes()).unwrap().at, AT, "{line}");
        }
    }
}
