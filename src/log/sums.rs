//! Which lines of a wave are written, and which are summed up. Pure; the caller
//! brings the time.
//!
//! Lines that clients or messages cause are bounded for each kind (event,
//! where it happened, what was done): a token bucket of some seconds' worth.
//! What is beyond is counted, and the count is a line of its own, so that
//! every event is in the log, by itself or in a sum. All other lines (starts
//! and stops, degraded states, bugs, commands) are written whatever comes, and
//! so is the refusal of a message: who was told 554 is found by his address.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use log::Level;

use super::Event;

/// How many seconds' worth of lines of a kind may come at once.
const BURST: u32 = 5;
/// How often a sum is written.
const EVERY: Duration = Duration::from_secs(10);
/// The most kinds that are told apart; there are some thirty.
const MOST_KINDS: usize = 64;
/// What stands for all further ones.
const OTHERS: &str = "others";

/// The events of which there can be one for each session, message or request.
const SUMMED: [&str; 14] = [
    "badrequest",
    "ended",
    "exempt",
    "freed",
    "late",
    "listed",
    "outlived",
    "passed",
    "refused",
    "shed",
    "spared",
    "unidentified",
    "unread",
    "unreadable",
];

/// What is written, and what is counted.
#[derive(Debug)]
pub(super) struct Sums {
    a_second: u32,
    kinds: HashMap<String, Kind>,
}

#[derive(Debug)]
struct Kind {
    /// When the bucket will be full again.
    full_at: Instant,
    /// Lines that were not written, and the most serious level among them.
    held: u64,
    level: Level,
    /// Since when there are some.
    since: Instant,
}

impl Sums {
    /// At most `a_second` lines of a kind in the long run.
    pub(super) fn new(a_second: u32) -> Self {
        Self {
            a_second: a_second.max(1),
            kinds: HashMap::new(),
        }
    }

    /// The same from now on with another bound.
    pub(super) fn set(&mut self, a_second: u32) {
        self.a_second = a_second.max(1);
    }

    /// Whether `line` is to be written; otherwise it has been counted.
    pub(super) fn writes(&mut self, level: Level, line: &str, now: Instant) -> bool {
        let Some(kind) = kind(line) else {
            return true;
        };
        let room = self.kinds.len() < MOST_KINDS;
        let name = if room || self.kinds.contains_key(&kind) {
            kind
        } else {
            OTHERS.to_owned()
        };
        let kind = self.kinds.entry(name).or_insert(Kind {
            full_at: now,
            held: 0,
            level,
            since: now,
        });
        let one = Duration::from_secs(1) / self.a_second;
        let full_at = kind.full_at.max(now) + one;
        if full_at.duration_since(now) <= Duration::from_secs(BURST.into()) {
            kind.full_at = full_at;
            return true;
        }
        if kind.held == 0 {
            kind.since = now;
            kind.level = level;
        }
        kind.held += 1;
        // The lesser one is the more serious.
        kind.level = kind.level.min(level);
        false
    }

    /// When the next sum is to be written.
    pub(super) fn next(&self) -> Option<Instant> {
        let held = self.kinds.values().filter(|kind| kind.held > 0);
        held.map(|kind| kind.since + EVERY).min()
    }

    /// The sums that are due at `now`, or all: what to write, and how many
    /// lines it stands for. They begin anew.
    pub(super) fn take(&mut self, now: Instant, all: bool) -> Vec<(Level, String, u64)> {
        let mut sums = Vec::new();
        for (name, kind) in &mut self.kinds {
            let age = now.saturating_duration_since(kind.since);
            if kind.held > 0 && (all || age >= EVERY) {
                let lines = std::mem::take(&mut kind.held);
                let mut event = Event::new("summed");
                for (key, value) in ["event", "at", "action"].iter().zip(name.split(',')) {
                    if !value.is_empty() {
                        event = event.field(key, value);
                    }
                }
                let event = event.field("lines", lines).field("seconds", age.as_secs());
                sums.push((kind.level, event.to_string(), lines));
            }
        }
        sums.sort_unstable_by(|a, b| a.1.cmp(&b.1));
        sums
    }
}

/// The kind of `line`, as event, place and action, where it is one of those
/// that are summed up.
fn kind(line: &str) -> Option<String> {
    // No value holds a comma or a space (see `Event`), so that none can pass
    // for another field, nor for the text.
    let fields = line.split_once(": ").map_or(line, |(fields, _)| fields);
    let mut fields = fields.split(',').peekable();
    fields.next_if(|first| first.starts_with("id="));
    let event = fields.next()?;
    let value = |name: &str| {
        let mut fields = fields.clone();
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let at = value("at").unwrap_or_default();
    let refuses = event == "listed" && at.is_empty();
    (SUMMED.contains(&event) && !refuses)
        .then(|| format!("{event},{at},{}", value("action").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_CONNECT: &str = "listed,ip=[::ffff:1.2.3.4],port=[4711],zone=bl.test,at=connect,action=ban,bantime=3600s,killed=1";

    fn written(sums: &mut Sums, line: &str, count: usize, now: Instant) -> usize {
        (0..count)
            .filter(|_| sums.writes(Level::Info, line, now))
            .count()
    }

    #[test]
    fn a_wave_is_written_up_to_its_bound_and_summed_up_beyond() {
        let (mut sums, mut now) = (Sums::new(200), Instant::now());
        let (mut lines, mut told, mut offered) = (0, 0, 0);
        for _ in 0..60 {
            offered += 600;
            lines += written(&mut sums, AT_CONNECT, 600, now);
            now += Duration::from_secs(1);
            told += sums.take(now, false).iter().map(|sum| sum.2).sum::<u64>();
        }
        // A burst of five seconds' worth, then 200 a second.
        assert!((12_700..=13_000).contains(&lines), "{lines}");
        let rest = sums.take(now, true);
        told += rest.iter().map(|sum| sum.2).sum::<u64>();
        assert_eq!(lines as u64 + told, offered, "every line is told of");
        assert_eq!(sums.next(), None);
    }

    #[test]
    fn a_sum_says_what_of_and_how_many_and_is_due_after_ten_seconds() {
        let (mut sums, now) = (Sums::new(1), Instant::now());
        assert_eq!(written(&mut sums, AT_CONNECT, 12, now), 5);
        assert_eq!(sums.next(), Some(now + EVERY));
        assert_eq!(sums.take(now + EVERY / 2, false), []);
        let expected = "summed,event=listed,at=connect,action=ban,lines=7,seconds=10";
        assert_eq!(
            sums.take(now + EVERY, false),
            [(Level::Info, expected.to_owned(), 7)]
        );
        assert_eq!(sums.take(now + EVERY, true), []);
    }

    #[test]
    fn a_kind_does_not_use_up_anothers_lines() {
        let (mut sums, now) = (Sums::new(1), Instant::now());
        let killed = AT_CONNECT.replace("action=ban", "action=kill");
        for line in [
            AT_CONNECT,
            &killed,
            "unidentified: submit has ended",
            "shed,ip=[::1],port=[1],silent=9",
        ] {
            assert_eq!(written(&mut sums, line, 9, now), 5, "{line}");
        }
        let sums = sums.take(now, true);
        let texts: Vec<&str> = sums.iter().map(|sum| sum.1.as_str()).collect();
        assert_eq!(
            texts,
            [
                "summed,event=listed,at=connect,action=ban,lines=4,seconds=0",
                "summed,event=listed,at=connect,action=kill,lines=4,seconds=0",
                "summed,event=shed,lines=4,seconds=0",
                "summed,event=unidentified,lines=4,seconds=0",
            ]
        );
    }

    #[test]
    fn what_an_admin_must_see_is_always_written() {
        let (mut sums, now) = (Sums::new(1), Instant::now());
        for line in [
            "id=1,listed,ip=[::ffff:1.2.3.4],port=[4711],zone=bl.test,action=ban,bantime=3600s,killed=1",
            "listed,ip=[::ffff:1.2.3.4],port=[4711],zone=bl.test,action=reject",
            "degraded,what=dnsbl,zone=bl.test: no answer in time",
            "recovered,what=dnsbl,zone=bl.test,after=62s",
            "bug: panicked at src/x.rs",
            "started,version=0.1.0",
            "stopped",
            "disabled: the configuration is wrong",
            "byhand,what=ban,ip=[::ffff:1.2.3.4],user=root,for=60: x,at=connect",
            "",
        ] {
            assert_eq!(written(&mut sums, line, 1000, now), 1000, "{line}");
        }
    }

    #[test]
    fn the_most_serious_level_is_the_sums() {
        let (mut sums, now) = (Sums::new(1), Instant::now());
        written(&mut sums, "spared,pid=1", 5, now);
        for level in [Level::Info, Level::Error, Level::Warn] {
            assert!(!sums.writes(level, "spared,pid=1", now));
        }
        assert_eq!(sums.take(now, true)[0].0, Level::Error);
    }

    #[test]
    fn so_many_kinds_are_told_apart() {
        let (mut sums, now) = (Sums::new(1), Instant::now());
        for action in 0..10_000 {
            sums.writes(Level::Info, &format!("exempt,action={action}"), now);
        }
        assert!(sums.kinds.len() <= MOST_KINDS + 1);
        let held = 10_000 - MOST_KINDS as u64 - 5;
        assert_eq!(
            sums.take(now, true)[0].1,
            format!("summed,event=others,lines={held},seconds=0")
        );
    }

    #[test]
    fn another_bound_holds_from_then_on() {
        let (mut sums, now) = (Sums::new(1), Instant::now());
        written(&mut sums, AT_CONNECT, 9, now);
        sums.set(100);
        let later = now + Duration::from_secs(5);
        assert_eq!(written(&mut sums, AT_CONNECT, 9000, later), 500);
    }
}
