//! How much silence the guard bears, and whom it ends first. No clock, no I/O.

use std::time::{Duration, Instant};

/// The silence that is borne at the high-water mark.
const LONGEST: Duration = Duration::from_secs(10);
/// The silence that is borne where a twentieth of the slots is left; clients
/// that have delivered mail are never held to less.
const SHORT: Duration = Duration::from_secs(1);
/// The silence that is borne of the others when no slot is left.
const SHORTEST: Duration = Duration::from_millis(250);
/// The share of slots, in percent, from which on less than a second is borne.
pub const LAST: usize = 95;

/// Where the guard begins and where it leaves off, in percent of the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// At or above it sessions are ended.
    pub high: usize,
    /// Below it none is any more.
    pub low: usize,
}

/// How many of a listener's slots are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In use.
    pub used: usize,
    /// There are, `MAXDAEMONS`.
    pub slots: usize,
}

impl Usage {
    /// Whether at least `percent` of the slots are in use.
    #[must_use]
    pub fn reaches(self, percent: usize) -> bool {
        self.used * 100 >= self.slots * percent
    }

    /// The silence, in a session where it is the client's turn, from which on
    /// it may be ended. It falls as the pressure rises. `delivered`: the client
    /// has delivered mail lately.
    #[must_use]
    pub fn borne(self, marks: Marks, delivered: bool) -> Duration {
        let percent = self.used * 100 / self.slots.max(1);
        if percent >= LAST {
            if delivered {
                return SHORT;
            }
            return between(SHORT, SHORTEST, self.used * 100, self.slots, LAST, 100);
        }
        between(
            LONGEST,
            SHORT,
            self.used * 100,
            self.slots,
            marks.high.min(LAST - 1),
            LAST,
        )
    }
}

/// `from` where `part` of `whole` is at `low` percent or below, `to` at `high`
/// percent or above, and on the line between them elsewhere.
fn between(
    from: Duration,
    to: Duration,
    part: usize,
    whole: usize,
    low: usize,
    high: usize,
) -> Duration {
    let (start, end) = (whole * low, whole * high);
    let way = part.clamp(start, end) - start;
    let share = u32::try_from(way * 1000 / (end - start).max(1)).unwrap_or(1000);
    from - (from - to) * share / 1000
}

/// A session in which nothing keeps the guard from ending it but the client's
/// having spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// How long nothing has gone either way, less what a packet takes there and
    /// back.
    pub silence: Duration,
    /// The client has delivered mail lately.
    pub delivered: bool,
}

/// The order in which sessions are ended: who has delivered mail last of all,
/// else whoever has been silent longest.
#[must_use]
pub fn order(candidates: &[Candidate]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|at| {
        let candidate = candidates[*at];
        (candidate.delivered, std::cmp::Reverse(candidate.silence))
    });
    order
}

/// Whether the guard of a listener is at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guarding {
    /// Since when, if so.
    pub since: Option<Instant>,
    /// The sessions that it has ended in this time.
    pub shed: usize,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The guard has begun, with so many slots in use.
    Entered(Usage),
    /// It has left off, after this time and so many sessions.
    Left(Duration, usize),
}

impl Guarding {
    /// Begins or leaves off, as `usage` is now.
    pub fn step(&mut self, usage: Usage, marks: Marks, now: Instant) -> Change {
        match self.since {
            None if usage.reaches(marks.high) => {
                self.since = Some(now);
                Change::Entered(usage)
            }
            Some(_) if !usage.reaches(marks.low) => std::mem::take(self).end(now),
            _ => Change::None,
        }
    }

    /// Leaves off, if it was at work.
    #[must_use]
    pub fn end(self, now: Instant) -> Change {
        match self.since {
            Some(since) => Change::Left(now.saturating_duration_since(since), self.shed),
            None => Change::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks { high: 80, low: 60 };

    fn borne(used: usize, delivered: bool) -> u128 {
        Usage { used, slots: 300 }
            .borne(MARKS, delivered)
            .as_millis()
    }

    #[test]
    fn less_silence_is_borne_the_fewer_slots_are_left() {
        for (used, expected) in [
            (0, 10_000),
            (180, 10_000),
            (240, 10_000),
            (262, 5_608),
            (284, 1_207),
            (285, 1_000),
            (292, 650),
            (300, 250),
            (400, 250),
        ] {
            assert_eq!(borne(used, false), expected, "{used}");
        }
        let falls = (0..=300).map(|used| borne(used, false));
        assert!(falls.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn who_has_delivered_mail_always_has_a_second() {
        assert_eq!(borne(262, true), borne(262, false));
        for used in 285..=400 {
            assert_eq!(borne(used, true), 1_000);
        }
    }

    #[test]
    fn no_number_of_slots_divides_by_zero() {
        for slots in [0, 1, 2, 10] {
            for used in [0, 1, 2, 10, 11] {
                let borne = Usage { used, slots }.borne(MARKS, false);
                assert!((SHORTEST..=LONGEST).contains(&borne));
            }
        }
        for high in 1..=100 {
            let marks = Marks { high, low: 1 };
            assert!(
                Usage {
                    used: 97,
                    slots: 100
                }
                .borne(marks, false)
                    < SHORT
            );
        }
    }

    #[test]
    fn the_longest_silent_go_first_and_who_has_delivered_last() {
        let candidate = |silence, delivered| Candidate {
            silence: Duration::from_secs(silence),
            delivered,
        };
        let candidates = [
            candidate(20, true),
            candidate(2, false),
            candidate(9, false),
            candidate(5, false),
            candidate(30, true),
        ];
        assert_eq!(order(&candidates), [2, 3, 1, 4, 0]);
    }

    #[test]
    fn it_begins_at_the_high_mark_and_leaves_off_below_the_low_one() {
        let now = Instant::now();
        let usage = |used| Usage { used, slots: 300 };
        let mut guarding = Guarding::default();
        assert_eq!(guarding.step(usage(239), MARKS, now), Change::None);
        assert_eq!(
            guarding.step(usage(240), MARKS, now),
            Change::Entered(usage(240))
        );
        guarding.shed += 7;
        let later = now + Duration::from_secs(3);
        assert_eq!(guarding.step(usage(180), MARKS, later), Change::None);
        assert_eq!(
            guarding.step(usage(179), MARKS, later),
            Change::Left(Duration::from_secs(3), 7)
        );
        assert_eq!(guarding.step(usage(239), MARKS, later), Change::None);
    }
}
