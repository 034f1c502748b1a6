//! The report for a terminal, 80 columns wide.

use std::fmt::Write as _;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use super::slots::AFTER_DELIVERY;
use super::summary::{Because, Moment, Report};

/// Columns.
const WIDTH: usize = 80;
/// Rows of the table over time.
const ROWS: usize = 20;
/// Rows of the other tables.
const TOP: usize = 10;

/// How it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Bars of block characters, else of ASCII.
    pub unicode: bool,
    /// Colours.
    pub colour: bool,
}

/// Colours, by what they are for.
#[derive(Clone, Copy)]
enum Ink {
    Heading,
    Bad,
    Other,
    Faint,
}

impl Look {
    fn ink(self, ink: Ink, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Heading => "1",
            Ink::Bad => "31",
            Ink::Other => "36",
            Ink::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A bar of `width` characters at most for `value` of `most`, the part
    /// `bad` of it darker; padded.
    fn bar(self, value: u64, bad: u64, most: u64, width: usize) -> String {
        let length = |part: u64| scaled(part, most, width);
        let all = length(value).max(usize::from(value > 0)).min(width);
        let dark = length(bad).max(usize::from(bad > 0)).min(all);
        let (full, light) = if self.unicode {
            ("█", "▒")
        } else {
            ("#", "-")
        };
        let pad = " ".repeat(width - all);
        format!(
            "{}{}{pad}",
            self.ink(Ink::Bad, &full.repeat(dark)),
            self.ink(Ink::Other, &light.repeat(all - dark))
        )
    }
}

/// `part` of `most` in steps of `width`, rounded.
fn scaled(part: u64, most: u64, width: usize) -> usize {
    if most == 0 {
        return 0;
    }
    let scaled = (u128::from(part) * width as u128 + u128::from(most) / 2) / u128::from(most);
    usize::try_from(scaled).unwrap_or(usize::MAX)
}

/// `1,234,567`.
#[must_use]
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12`, `9,999`, `123k`, `12M`: five characters at most below 10^13.
fn short(value: u64) -> String {
    match value {
        0..=9_999 => number(value),
        10_000..=9_999_999 => format!("{}k", number(value / 1000)),
        10_000_000..=9_999_999_999 => format!("{}M", number(value / 1_000_000)),
        _ => format!("{}G", number(value / 1_000_000_000)),
    }
}

/// `1 session`, `2 sessions`.
#[must_use]
pub fn many(value: u64, one: &str, more: &str) -> String {
    format!("{} {}", number(value), if value == 1 { one } else { more })
}

/// `1h 30m`, the two largest parts.
#[must_use]
pub fn length(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let from = parts.iter().position(|(value, _)| *value > 0);
    let from = from.unwrap_or(parts.len() - 1);
    let shown: Vec<String> = parts[from..]
        .iter()
        .take(2)
        .filter(|(value, unit)| *value > 0 || *unit == "s" && seconds == 0)
        .map(|(value, unit)| format!("{value}{unit}"))
        .collect();
    shown.join(" ")
}

/// A count of so many seconds as a rate a minute.
#[must_use]
pub fn a_minute(count: u64, seconds: i64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // for people
    let rate = count as f64 * 60.0 / seconds.max(1) as f64;
    rate
}

/// A rate with one digit where it is small.
#[must_use]
pub fn rate(value: f64) -> String {
    if value >= 99.95 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts
        let whole = value.round() as u64;
        number(whole)
    } else {
        format!("{value:.1}")
    }
}

/// A time as `format` of strftime says.
#[must_use]
pub fn time(at: Moment, zone: &TimeZone, format: &str) -> String {
    Timestamp::from_second(at.0).map_or_else(
        |_| at.to_string(),
        |time| {
            ZonedDateTime::new(time, zone.clone())
                .strftime(format)
                .to_string()
        },
    )
}

/// How times within a period are written: as short as they can be.
#[must_use]
pub fn stamp(period: Option<(Moment, Moment)>, step: i64) -> &'static str {
    let span = period.map_or(0, |(first, last)| last.0 - first.0);
    match (span > 86_400, step) {
        (_, 86_400..) => "%Y-%m-%d",
        (true, _) => "%m-%d %H:%M",
        (false, 60..) => "%H:%M",
        (false, _) => "%H:%M:%S",
    }
}

/// Why a candidate is one, in words.
#[must_use]
pub fn because(reason: Because) -> &'static str {
    match reason {
        Because::BeforeAndAfter => "before+after",
        Because::Before => "before",
        Because::After => "after",
        Because::Network => "its network",
        Because::Domain => "the domain",
    }
}

/// Bytes for people.
#[must_use]
pub fn bytes(value: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // for people
    let float = value as f64;
    match value {
        0..1_024 => many(value, "byte", "bytes"),
        1_024..1_048_576 => format!("{:.1} KiB", float / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", float / 1_048_576.0),
        _ => format!("{:.1} GiB", float / 1_073_741_824.0),
    }
}

/// The sums, with their names.
#[must_use]
pub fn totals(report: &Report) -> Vec<(&'static str, u64, bool)> {
    let totals = &report.totals;
    let all = [
        ("Connections", totals.connections, true),
        ("Addresses", totals.addresses, true),
        ("Messages accepted", totals.accepted, true),
        ("  of clients that logged in", totals.authenticated, false),
        ("Refused by rblfilter", totals.listed_by_us, false),
        (
            "Refused by Courier's lists",
            totals.listed_by_courier,
            false,
        ),
        ("Refused for other reasons (5xx)", totals.refused, false),
        ("Told to try again (4xx)", totals.deferred, false),
        ("Above MAXPERIP or MAXPERC", totals.too_many, false),
        ("Silent until Courier's timeout", totals.timed_out, false),
        ("Would be refused (observe)", totals.observed, false),
        ("Bans", totals.bans, false),
        ("Bans by hand", totals.bans_by_hand, false),
        ("Ended by rblfilter", totals.ended, false),
        ("Shed, as slots ran short", totals.shed, false),
    ];
    // Connections, addresses and messages always, the rest where it is.
    all.into_iter()
        .filter(|(_, value, always)| *always || *value > 0)
        .collect()
}

/// What rblfilter would have done, in sentences.
#[must_use]
pub fn without(report: &Report) -> Vec<String> {
    let without = &report.without;
    let mut lines = Vec::new();
    if without.sessions > 0 {
        lines.push(format!(
            "{} that Courier refused because of its lists held {} slot-seconds between \
             first and last line, {} by the estimate; {} of them until Courier's own \
             timeout. rblfilter ends such sessions when they connect.",
            many(without.sessions, "session", "sessions"),
            number(without.slot_seconds_seen),
            number(without.slot_seconds_assumed),
            number(without.timed_out),
        ));
    }
    if without.bans > 0 {
        lines.push(format!(
            "Its bans (an hour, each repeat twice as long, a day at most) would have been \
             {}, and would have kept {} out of Courier altogether.",
            number(without.bans),
            many(without.kept_out, "later connection", "later connections"),
        ));
    }
    lines
}

/// How the slots are estimated, in sentences.
#[must_use]
pub fn estimate(report: &Report) -> String {
    format!(
        "Estimated, as Courier logs no session's end: a session counts until rblfilter or \
         Courier's timeout ends it; for {AFTER_DELIVERY} s after its message; else for {} \
         after its last line (--hold). The last ten minutes may be too low.",
        length(report.slots.hold)
    )
}

/// Why there is nothing to report, in a sentence.
#[must_use]
pub fn nothing(report: &Report) -> &'static str {
    if report.outside > 0 {
        "None in that period: no line of Courier's sessions or of rblfilter."
    } else {
        "No line of Courier's sessions or of rblfilter."
    }
}

/// What the log has before and after the period that was asked for.
#[must_use]
pub fn outside(report: &Report) -> Option<String> {
    let (first, last) = report.outside_period?;
    Some(format!(
        "{} not of it, but of {} to {} (--since, --until).",
        if report.outside == 1 {
            "1 line is".to_owned()
        } else {
            format!("{} lines are", number(report.outside))
        },
        time(first, &report.zone, "%Y-%m-%d %H:%M:%S"),
        time(last, &report.zone, "%Y-%m-%d %H:%M:%S %Z"),
    ))
}

/// Writes the report.
#[must_use]
pub fn text(report: &Report, look: Look) -> String {
    let mut out = Out {
        text: String::new(),
        look,
    };
    let Some((first, last)) = report.period else {
        out.line(nothing(report));
        out.paragraph(&format!(
            "{} read ({}). {}",
            many(report.lines, "line", "lines"),
            bytes(report.bytes),
            outside(report).unwrap_or_default()
        ));
        if report.no_stamp > 0 {
            out.paragraph(&format!(
                "{} begin with no time that is known: rsyslog's, RFC 5424's or journalctl's.",
                number(report.no_stamp)
            ));
        }
        return out.text;
    };
    let seconds = last.0 - first.0 + 1;
    let zone = &report.zone;
    out.line(&format!(
        "{} to {}, {}",
        time(first, zone, "%Y-%m-%d %H:%M:%S"),
        time(last, zone, "%Y-%m-%d %H:%M:%S %Z"),
        length(seconds)
    ));
    out.faint(&format!(
        "{}, {}; {} of them counted",
        many(report.lines, "line", "lines"),
        bytes(report.bytes),
        number(report.counted_lines)
    ));
    out.text.push('\n');
    sums(&mut out, report, seconds);
    over_time(&mut out, report);
    refusals(&mut out, report);
    networks(&mut out, report);
    waves(&mut out, report);
    candidates(&mut out, report);
    let lines = without(report);
    if !lines.is_empty() {
        out.heading("What rblfilter would have done");
        for line in lines {
            out.paragraph(&line);
        }
    }
    if !report.troubles.is_empty() {
        out.heading("What did not work");
        for trouble in report.troubles.iter().take(TOP) {
            out.line(&cut(
                &format!("  {:>7}  {}", number(trouble.times), trouble.what),
                WIDTH,
            ));
        }
    }
    if !report.limits.is_empty() || report.no_stamp > 0 {
        out.heading("Not complete");
        for limit in &report.limits {
            out.paragraph(limit);
        }
        if report.no_stamp > 0 {
            out.paragraph(&format!(
                "{} with no time that is known",
                many(report.no_stamp, "line", "lines")
            ));
        }
    }
    out.text
}

struct Out {
    text: String,
    look: Look,
}

impl Out {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn faint(&mut self, line: &str) {
        let line = self.look.ink(Ink::Faint, line.trim_end());
        self.line(&line);
    }

    fn heading(&mut self, title: &str) {
        let title = self.look.ink(Ink::Heading, title);
        // Writing to a String cannot fail.
        let _ = write!(self.text, "\n{title}\n");
    }

    /// Words in lines of [`WIDTH`] columns, indented.
    fn paragraph(&mut self, words: &str) {
        let mut line = String::from(" ");
        for word in words.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(&line);
                line = String::from(" ");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&line);
    }
}

/// The beginning of a text that fits.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let begin: String = text.chars().take(width.saturating_sub(2)).collect();
    format!("{begin}..")
}

fn sums(out: &mut Out, report: &Report, seconds: i64) {
    out.faint(&format!("  {:<32}{:>16}{:>12}", "", "all", "a minute"));
    for (name, value, _) in totals(report) {
        let addresses = name == "Addresses";
        let about = if addresses && report.totals.addresses_estimated {
            "~"
        } else {
            ""
        };
        let shown = format!("{about}{}", number(value));
        let rate = if addresses {
            String::new()
        } else {
            rate(a_minute(value, seconds.max(60)))
        };
        out.line(&format!("  {name:<32}{shown:>16}{rate:>12}"));
    }
    let slots = &report.slots;
    let of = slots
        .all
        .map(|all| format!(" of {}", short(all.into())))
        .unwrap_or_default();
    let at = slots.most_at.map_or_else(String::new, |at| {
        let format = stamp(report.period, report.series.width());
        format!("  at {}", time(at, &report.zone, format))
    });
    let most = format!("{}{of}", short(slots.most.into()));
    out.line(&format!(
        "  {:<32}{most:>16}{at}",
        "Slots in use at most, estimated"
    ));
    if slots.counted > 0 {
        let counted = format!("{}{of}", short(slots.counted.into()));
        let full = if slots.full > 0 {
            format!("  all in use: told {}x", short(slots.full))
        } else {
            String::new()
        };
        out.line(&format!(
            "  {:<32}{counted:>16}{full}",
            "  by Courier's own count"
        ));
    }
}

fn over_time(out: &mut Out, report: &Report) {
    let span = report.period.map_or(0, |(first, last)| last.0 - first.0);
    // Shorter ones would make large rates of single connections.
    let least = if span > 600 { 60 } else { 10 };
    let series = report.series.of_at_most(ROWS).of_at_least(least);
    let width = series.width();
    out.heading(&format!("Over time, in steps of {}", length(width)));
    out.faint(&format!(
        "  {:11}{:>9}  {:<21}{:>8}{:>8}{:>7}",
        "", "connects", "of them refused", "refused", "mail", "slots"
    ));
    out.faint(&format!(
        "  {:11}{:>9}  {:<21}{:>8}{:>8}{:>7}",
        "", "a minute", "", "a minute", "", "most"
    ));
    let of = |count: u64| a_minute(count, width);
    let most = series.steps().map(|(_, step)| step.connections).max();
    let format = stamp(report.period, width);
    for (at, step) in series.steps() {
        let refused = step.listed + step.refused;
        let slots = step.most(width);
        let slots = report.slots.all.map_or(slots, |all| slots.min(all));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts
        let shown = |count: u64| {
            let rate = of(count);
            if rate >= 9999.5 {
                short(rate.round() as u64)
            } else {
                self::rate(rate)
            }
        };
        let bar = out
            .look
            .bar(step.connections, refused, most.unwrap_or(0), 20);
        let bans = if step.shed > 0 {
            format!("  shed {}", short(step.shed))
        } else {
            String::new()
        };
        out.line(&format!(
            "  {:11}{:>9}  {bar} {:>8}{:>8}{:>7}{bans}",
            time(Moment(at), &report.zone, format),
            shown(step.connections),
            shown(refused),
            short(step.accepted),
            short(slots.into()),
        ));
    }
    out.paragraph(&estimate(report));
}

fn refusals(out: &mut Out, report: &Report) {
    if report.refusals.is_empty() {
        return;
    }
    let most = report.refusals.iter().map(|refusal| refusal.times).max();
    for (by, title, column) in [
        ("rblfilter", "Refused by rblfilter, by list", "verdicts"),
        ("courier", "Courier's replies of refusal", "replies"),
    ] {
        let mut rows = report.refusals.iter().filter(|one| one.by == by).peekable();
        if rows.peek().is_none() {
            continue;
        }
        out.heading(title);
        let bans = if by == "rblfilter" { "bans" } else { "" };
        out.faint(&format!("  {:44}{column:>10}{bans:>10}", ""));
        for one in rows.take(TOP) {
            let bans = if by == "rblfilter" {
                number(one.bans)
            } else {
                String::new()
            };
            let bar = out.look.bar(one.times, one.times, most.unwrap_or(0), 12);
            out.line(&format!(
                "  {:44}{:>10}{bans:>10}  {bar}",
                cut(&one.what, 43),
                short_from(one.times, 10)
            ));
        }
    }
}

/// A number in full where it fits.
fn short_from(value: u64, width: usize) -> String {
    let full = number(value);
    if full.len() < width {
        full
    } else {
        short(value)
    }
}

fn networks(out: &mut Out, report: &Report) {
    if report.networks.is_empty() {
        return;
    }
    out.heading("Networks with the most connections");
    out.faint(&format!(
        "  {:24}{:>9}  {:<14}{:>9}{:>9}{:>9}",
        "", "connects", "of them refused", "refused", "bans", "mail"
    ));
    let most = report.networks.iter().map(|one| one.connections).max();
    for one in report.networks.iter().take(TOP) {
        let bar = out
            .look
            .bar(one.connections, one.refused, most.unwrap_or(0), 14);
        out.line(&format!(
            "  {:24}{:>9}  {bar} {:>9}{:>9}{:>9}",
            cut(&one.network, 24),
            short_from(one.connections, 9),
            short_from(one.refused, 9),
            short_from(one.bans, 9),
            short_from(one.accepted, 9),
        ));
    }
}

fn waves(out: &mut Out, report: &Report) {
    out.heading(&format!(
        "Waves: {}",
        if report.waves_found == 0 {
            "none".to_owned()
        } else {
            number(report.waves_found)
        }
    ));
    if !report.waves.is_empty() {
        out.faint(&format!(
            "  {:17}{:>9}{:>10}{:>10}{:>11}{:>10}{:>7}",
            "begin", "length", "a minute", "connects", "addresses", "refused", "slots"
        ));
        let mut largest: Vec<_> = report.waves.iter().collect();
        largest.sort_by_key(|wave| std::cmp::Reverse(wave.connections));
        largest.truncate(TOP);
        largest.sort_by_key(|wave| wave.begin);
        for wave in largest {
            out.line(&format!(
                "  {:17}{:>9}{:>10}{:>10}{:>11}{:>10}{:>7}",
                time(wave.begin, &report.zone, "%m-%d %H:%M:%S"),
                length(wave.seconds),
                short_from(wave.peak_a_minute, 10),
                short_from(wave.connections, 10),
                short_from(wave.addresses, 11),
                short_from(wave.refused, 10),
                short(wave.slots.into()),
            ));
        }
        if report.waves_found > TOP as u64 {
            out.paragraph("The largest ten.");
        }
    }
    out.paragraph(&format!(
        "A wave: 10 s with at least 10 connections and four times the usual (now {} a \
         minute), until a minute with less than half of that.",
        rate(report.usual)
    ));
}

fn candidates(out: &mut Out, report: &Report) {
    out.heading(&format!(
        "Refused, and perhaps legitimate: {}",
        if report.candidates_found == 0 {
            "nobody".to_owned()
        } else {
            many(report.candidates_found, "client", "clients")
        }
    ));
    if report.candidates.is_empty() {
        return;
    }
    let shown = &report.candidates[..report.candidates.len().min(TOP)];
    let width = shown.iter().map(|one| one.client.chars().count()).max();
    let width = width.unwrap_or(0).clamp(15, 39);
    let rest = WIDTH - 2 - width - 9 - 10 - 15;
    out.faint(&format!(
        "  {:width$}{:>9}{:>10}  {:<13}{}",
        "",
        "refused",
        "delivered",
        "who",
        cut("sender's domain", rest)
    ));
    for one in shown {
        out.line(&format!(
            "  {:width$}{:>9}{:>10}  {:<13}{}",
            cut(&one.client, width),
            short_from(one.refused, 9),
            short_from(one.delivered, 10),
            because(one.because),
            cut(one.domain.as_deref().unwrap_or(""), rest),
        ));
    }
    out.paragraph(
        "Refused because of a list; mail was delivered by the same address before or after \
         that, by its network (/24, /64), or for its sender's domain from elsewhere (weak: \
         senders are forged). See `rblfilter lookup ADDRESS`.",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lengths_are_for_people() {
        for (value, expected) in [
            (0, "0"),
            (1, "1"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(number(value), expected);
        }
        for (value, expected) in [
            (9_999, "9,999"),
            (10_000, "10k"),
            (9_999_999, "9,999k"),
            (10_000_000, "10M"),
            (u64::MAX, "18,446,744,073G"),
        ] {
            assert_eq!(short(value), expected);
        }
        for (seconds, expected) in [
            (0, "0s"),
            (1, "1s"),
            (60, "1m"),
            (5400, "1h 30m"),
            (86_401, "1d"),
            (-5, "0s"),
        ] {
            assert_eq!(length(seconds), expected);
        }
        assert_eq!(many(1, "session", "sessions"), "1 session");
        assert_eq!(many(0, "session", "sessions"), "0 sessions");
        assert_eq!(rate(0.0), "0.0");
        assert_eq!(rate(1234.4), "1,234");
        assert_eq!(bytes(1_610_612_736), "1.5 GiB");
    }

    #[test]
    fn a_bar_shows_a_little_of_everything_that_is() {
        let look = Look {
            unicode: true,
            colour: false,
        };
        for (value, bad, most, expected) in [
            (0, 0, 0, "          "),
            (0, 0, 100, "          "),
            (1, 0, 1_000_000, "▒         "),
            (1, 1, 1_000_000, "█         "),
            (100, 50, 100, "█████▒▒▒▒▒"),
            (50, 50, 100, "█████     "),
            (10, 99, 10, "██████████"),
            (u64::MAX, 0, u64::MAX, "▒▒▒▒▒▒▒▒▒▒"),
        ] {
            assert_eq!(look.bar(value, bad, most, 10), expected);
        }
        let ascii = Look {
            unicode: false,
            colour: false,
        };
        assert_eq!(ascii.bar(100, 50, 100, 10), "#####-----");
        let colour = Look {
            unicode: false,
            colour: true,
        };
        assert!(
            colour
                .bar(100, 50, 100, 10)
                .contains("\x1b[31m#####\x1b[0m")
        );
    }
}
