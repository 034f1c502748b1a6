//! What happened when: counts in steps of equal length. There are never more
//! than [`MOST`] steps; a longer log gets longer ones.

use std::collections::VecDeque;

/// Steps at most.
pub const MOST: usize = 4096;
/// Lengths of a step in seconds; each is a multiple of the one before.
const WIDTHS: [i64; 13] = [
    1, 2, 10, 30, 60, 120, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400,
];

/// What is counted in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Connections that couriertcpd took.
    pub connections: u64,
    /// Messages that were taken over.
    pub accepted: u64,
    /// Sessions refused because of a list.
    pub listed: u64,
    /// Sessions refused for another reason.
    pub refused: u64,
    /// Bans.
    pub bans: u64,
    /// Sessions that the slot guard ended.
    pub shed: u64,
    /// Slots in use, summed up over the seconds.
    pub slot_seconds: u64,
    /// Most slots in use at the same time, by the estimate.
    pub slots: u32,
    /// The same by Courier's own count, where it told.
    pub counted: u32,
}

impl Counts {
    /// Most slots in use at the same time in a step of this length: at least the mean.
    #[must_use]
    pub fn most(&self, width: i64) -> u32 {
        let mean = self.slot_seconds / u64::try_from(width.max(1)).unwrap_or(1);
        self.slots.max(u32::try_from(mean).unwrap_or(u32::MAX))
    }

    fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.accepted += other.accepted;
        self.listed += other.listed;
        self.refused += other.refused;
        self.bans += other.bans;
        self.shed += other.shed;
        self.slot_seconds += other.slot_seconds;
        self.slots = self.slots.max(other.slots);
        self.counted = self.counted.max(other.counted);
    }
}

/// The steps.
#[derive(Clone, Debug)]
pub struct Series {
    width: i64,
    /// The number of the first step, counted from 1970.
    first: i64,
    steps: VecDeque<Counts>,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            width: WIDTHS[0],
            first: 0,
            steps: VecDeque::new(),
        }
    }
}

impl Series {
    /// The length of a step in seconds.
    #[must_use]
    pub fn width(&self) -> i64 {
        self.width
    }

    /// The steps with their beginnings, in order, empty ones among them.
    pub fn steps(&self) -> impl Iterator<Item = (i64, &Counts)> {
        (self.first..)
            .zip(&self.steps)
            .map(|(number, counts)| (number * self.width, counts))
    }

    /// The step of the second `at`.
    pub fn at(&mut self, at: i64) -> &mut Counts {
        if self.steps.is_empty() {
            self.first = at.div_euclid(self.width);
            self.steps.push_back(Counts::default());
        }
        let most = i64::try_from(MOST).unwrap_or(i64::MAX);
        loop {
            let number = at.div_euclid(self.width);
            let last = self.first + i64::try_from(self.steps.len()).unwrap_or(0) - 1;
            if last.max(number) - self.first.min(number) >= most {
                self.widen();
                continue;
            }
            while number < self.first {
                self.steps.push_front(Counts::default());
                self.first -= 1;
            }
            let index = usize::try_from(number - self.first).unwrap_or(0);
            if index >= self.steps.len() {
                self.steps.resize(index + 1, Counts::default());
            }
            return &mut self.steps[index];
        }
    }

    /// So many slots were in use from one second to another.
    pub fn in_use(&mut self, from: i64, to: i64, slots: u32) {
        if slots == 0 {
            return;
        }
        let mut at = from;
        loop {
            let step = self.at(at);
            step.slots = step.slots.max(slots);
            // The step may have become longer just now.
            let end = (at.div_euclid(self.width) + 1) * self.width;
            let seconds = u64::try_from(end.min(to) - at).unwrap_or(0);
            self.at(at).slot_seconds += seconds * u64::from(slots);
            if end >= to {
                return;
            }
            at = end;
        }
    }

    /// One slot more than was thought was in use from one second to another.
    /// How many that were at the same time is not known; see [`Counts::most`].
    pub fn in_use_too(&mut self, from: i64, to: i64) {
        let mut at = from;
        while at < to {
            self.at(at);
            let end = (at.div_euclid(self.width) + 1) * self.width;
            self.at(at).slot_seconds += u64::try_from(end.min(to) - at).unwrap_or(0);
            at = end;
        }
    }

    /// The same in steps so long that there are no more than `most`.
    #[must_use]
    pub fn of_at_most(&self, most: usize) -> Self {
        let mut series = self.clone();
        while series.steps.len() > most.max(2) {
            series.widen();
        }
        series
    }

    /// The same in steps of so many seconds or more.
    #[must_use]
    pub fn of_at_least(&self, seconds: i64) -> Self {
        let mut series = self.clone();
        while series.width < seconds {
            series.widen();
        }
        series
    }

    fn widen(&mut self) {
        let next = WIDTHS.into_iter().find(|width| *width > self.width);
        // Days, then twice as much each time: no stamp is too far away.
        let next = next.unwrap_or(self.width * 2);
        let factor = next / self.width;
        let first = self.first.div_euclid(factor);
        let mut steps = VecDeque::new();
        for (number, counts) in (self.first..).zip(&self.steps) {
            let index = usize::try_from(number.div_euclid(factor) - first).unwrap_or(0);
            if index >= steps.len() {
                steps.resize(index + 1, Counts::default());
            }
            // What was most in a short step is not lost in the mean of a long one.
            let most = Counts {
                slots: counts.most(self.width),
                ..*counts
            };
            steps[index].add(&most);
        }
        self.width = next;
        self.first = first;
        self.steps = steps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_get_longer_and_nothing_is_lost() {
        let mut series = Series::default();
        for at in 0..1_000_000 {
            series.at(1_700_000_000 + at).connections += 1;
        }
        assert_eq!(series.width(), 600);
        let steps: Vec<u64> = series.steps().map(|(_, step)| step.connections).collect();
        assert!(steps.len() <= MOST);
        assert_eq!(steps.iter().sum::<u64>(), 1_000_000);
        assert!(steps[1..steps.len() - 1].iter().all(|step| *step == 600));
    }

    #[test]
    fn earlier_lines_and_absurd_stamps_have_a_step_too() {
        let mut series = Series::default();
        for at in [
            1_700_000_000,
            1_699_999_990,
            -62_000_000_000,
            250_000_000_000,
        ] {
            series.at(at).accepted += 1;
        }
        assert!(series.steps().count() <= MOST);
        let all: u64 = series.steps().map(|(_, step)| step.accepted).sum();
        assert_eq!(all, 4);
    }

    #[test]
    fn slot_seconds_are_spread_over_the_steps() {
        let mut series = Series::default();
        series.in_use(100, 103, 5);
        series.in_use(103, 103, 9);
        let steps: Vec<(i64, u64, u32)> = series
            .steps()
            .map(|(at, step)| (at, step.slot_seconds, step.slots))
            .collect();
        assert_eq!(steps, [(100, 5, 5), (101, 5, 5), (102, 5, 5), (103, 0, 9)]);
        series.in_use(0, 10_000_000, 2);
        let all: u64 = series.steps().map(|(_, step)| step.slot_seconds).sum();
        assert_eq!(all, 20_000_015);
    }

    #[test]
    fn the_most_slots_of_a_short_step_are_those_of_a_long_one() {
        let mut series = Series::default();
        for _ in 0..7 {
            series.in_use_too(1000, 1060);
        }
        let wide = series.of_at_least(3600);
        let most: Vec<u32> = wide.steps().map(|(_, step)| step.most(3600)).collect();
        assert_eq!(most, [7]);
    }

    #[test]
    fn an_empty_series_has_no_steps() {
        assert_eq!(
            Series::default()
                .of_at_most(10)
                .of_at_least(60)
                .steps()
                .count(),
            0
        );
    }
}
