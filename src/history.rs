//! What was, a little while ago: the slots second by second, and what had been
//! counted a minute ago. Bounded; pure.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::dnsbl::Saying;
use crate::latency::Spread;
use crate::status::{Counted, Said};

/// How often the slots are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks that are kept: of ten minutes.
pub const LOOKS: usize = 600;
/// How often what is counted is noted.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// How far back a note must reach.
const MINUTE: Duration = Duration::from_secs(60);

/// All that is counted, at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The counters.
    pub counted: Counted,
    /// From the sight of a session to its sentence.
    pub to_sentence: Spread,
    /// How long messages waited.
    pub waited: Spread,
    /// What each list says, in the configuration's order.
    pub lists: Vec<Saying>,
}

impl Totals {
    /// What came after `earlier`, a look at the same counters.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let lists = self.lists.iter().zip(&earlier.lists);
        Self {
            counted: self.counted.since(&earlier.counted),
            to_sentence: self.to_sentence.since(&earlier.to_sentence),
            waited: self.waited.since(&earlier.waited),
            lists: lists.map(|(now, before)| now.since(before)).collect(),
        }
    }

    /// The counters, with how long things took.
    #[must_use]
    pub fn told(&self) -> Counted {
        Counted {
            to_sentence: (&self.to_sentence).into(),
            waited: (&self.waited).into(),
            ..self.counted.clone()
        }
    }

    /// What list number `index` said.
    #[must_use]
    pub fn said(&self, index: usize) -> Said {
        self.lists.get(index).map(Into::into).unwrap_or_default()
    }
}

/// What was.
#[derive(Debug, Default)]
pub struct History {
    /// The slots in use of each `couriertcpd`, by its number; the oldest first.
    slots: HashMap<i32, VecDeque<u32>>,
    notes: VecDeque<(Instant, Totals)>,
}

impl History {
    /// Notes how many slots each `couriertcpd` has in use; those that are not
    /// there are forgotten.
    pub fn look(&mut self, used: &[(i32, usize)]) {
        self.slots
            .retain(|pid, _| used.iter().any(|(other, _)| other == pid));
        for (pid, used) in used {
            let looks = self.slots.entry(*pid).or_default();
            if looks.len() == LOOKS {
                looks.pop_front();
            }
            looks.push_back(u32::try_from(*used).unwrap_or(u32::MAX));
        }
    }

    /// The slots that this `couriertcpd` had in use, the oldest look first.
    #[must_use]
    pub fn slots(&self, pid: i32) -> Vec<u32> {
        let looks = self.slots.get(&pid);
        looks.map_or_else(Vec::new, |looks| looks.iter().copied().collect())
    }

    /// Notes what is counted, where that is due.
    pub fn note(&mut self, now: Instant, totals: impl FnOnce() -> Totals) {
        let last = self.notes.back().map(|(at, _)| *at);
        if last.is_some_and(|at| now.saturating_duration_since(at) < NOTE_EVERY) {
            return;
        }
        self.notes.push_back((now, totals()));
        // One that is a minute old or more is enough.
        while self.notes.get(1).is_some_and(|(at, _)| is_old(*at, now)) {
            self.notes.pop_front();
        }
    }

    /// What came in the last minute (and up to 5 s more), or since the start.
    #[must_use]
    pub fn minute(&self, now: Instant, totals: &Totals) -> Totals {
        let old = self.notes.iter().rev().find(|(at, _)| is_old(*at, now));
        match old.or(self.notes.front()) {
            Some((_, before)) => totals.since(before),
            None => totals.clone(),
        }
    }
}

fn is_old(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= MINUTE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(sessions: u64) -> Totals {
        let counted = Counted {
            sessions,
            ..Counted::default()
        };
        Totals {
            counted,
            lists: vec![Saying {
                asked: sessions,
                ..Saying::default()
            }],
            ..Totals::default()
        }
    }

    #[test]
    fn the_last_minute_is_what_came_since_a_minute_ago() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut history = History::default();
        assert_eq!(history.minute(start, &totals(7)), totals(7), "no note yet");
        // A session a second.
        for second in 0..=300 {
            history.note(at(second), || totals(second));
        }
        assert!(history.notes.len() <= 14, "{}", history.notes.len());
        let minute = history.minute(at(300), &totals(300));
        assert_eq!(minute, totals(60));
        let minute = history.minute(at(303), &totals(303));
        assert_eq!(minute.counted.sessions, 63, "up to five seconds more");
        assert_eq!(minute.said(0).asked, 63);
        assert_eq!(minute.said(1), Said::default());
        // Nobody looked for an hour.
        let late = history.minute(at(4000), &totals(310));
        assert_eq!(late.counted.sessions, 10);
        let mut young = History::default();
        young.note(start, || totals(0));
        let minute = young.minute(at(9), &totals(9));
        assert_eq!(minute.counted.sessions, 9, "since the start");
    }

    #[test]
    fn each_couriertcpd_has_its_ten_minutes() {
        let mut history = History::default();
        for used in 0..LOOKS + 10 {
            history.look(&[(1, used), (2, 7)]);
        }
        let slots = history.slots(1);
        assert_eq!((slots.len(), slots[0], slots[LOOKS - 1]), (600, 10, 609));
        history.look(&[(2, usize::MAX)]);
        assert!(history.slots(1).is_empty(), "it has ended");
        assert_eq!(history.slots(2).last(), Some(&u32::MAX));
    }
}
