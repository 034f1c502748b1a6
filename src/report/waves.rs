//! Waves: far more connections than usual. Pure.
//!
//! The rule. Time goes in steps of [`STEP`] seconds. What is *usual* begins as
//! the lower quartile of the steps of the first hour (of all, in a shorter log)
//! and then follows the steps outside waves, as a mean that forgets half in
//! about twenty minutes. A wave begins with a step of at least [`FLOOR`]
//! connections that is at least [`FACTOR`] times the usual; it ends after
//! [`CALM`] steps in a row with less than half of that. What has lasted
//! [`NEW_USUAL`] steps is the new usual, and the wave is over.

use std::collections::VecDeque;

use super::distinct::Distinct;

/// Seconds.
pub const STEP: i64 = 10;
/// Connections in a step: one a second.
pub const FLOOR: u64 = 10;
/// Times the usual.
pub const FACTOR: f64 = 4.0;
/// Steps: a minute.
const CALM: u32 = 6;
/// Steps: six hours.
const NEW_USUAL: i64 = 6 * 360;
/// Steps of the first hour.
const FIRST: usize = 360;
/// How much of the usual a step is.
const SHARE: f64 = 1.0 / 180.0;
/// Waves that are kept, the largest.
const KEPT: usize = 1000;
/// Addresses of a step that are counted exactly.
pub const EXACT: usize = 1024;

/// What a step saw.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its beginning, in seconds.
    pub at: i64,
    /// Connections.
    pub connections: u64,
    /// Sessions that were refused, for whatever reason.
    pub refused: u64,
    /// Most slots in use, by the estimate.
    pub slots: u32,
    /// The clients' addresses.
    pub addresses: Distinct,
}

impl Step {
    /// An empty one.
    #[must_use]
    pub fn new(at: i64) -> Self {
        Self {
            at,
            connections: 0,
            refused: 0,
            slots: 0,
            addresses: Distinct::new(EXACT),
        }
    }
}

/// A wave.
#[derive(Clone, Debug)]
pub struct Wave {
    /// When it began, in seconds.
    pub begin: i64,
    /// When its last step ended.
    pub end: i64,
    /// Connections.
    pub connections: u64,
    /// Sessions that were refused.
    pub refused: u64,
    /// The most connections of a step.
    pub peak: u64,
    /// When that was.
    pub peak_at: i64,
    /// Most slots in use, by the estimate.
    pub slots: u32,
    /// The clients' addresses.
    pub addresses: Distinct,
}

/// Finds them, step after step.
#[derive(Debug, Default)]
pub struct Detector {
    first: VecDeque<Step>,
    usual: Option<f64>,
    open: Option<(Wave, u32)>,
    found: Vec<Wave>,
    number: u64,
    next: Option<i64>,
}

impl Detector {
    /// Takes the next step in; those between it and the last were empty.
    pub fn step(&mut self, step: Step) {
        let mut missing = 0;
        while let Some(at) = self.next.filter(|at| *at < step.at) {
            // After a day of nothing, nothing is usual.
            missing += 1;
            if missing > 8640 {
                break;
            }
            self.next = Some(at + STEP);
            self.warm(Step::new(at));
        }
        self.next = Some(step.at + STEP);
        self.warm(step);
    }

    fn warm(&mut self, step: Step) {
        if self.usual.is_some() {
            self.judge(step);
            return;
        }
        self.first.push_back(step);
        if self.first.len() >= FIRST {
            self.begin();
        }
    }

    /// Says what is usual, and goes over the first steps again.
    fn begin(&mut self) {
        let mut counts: Vec<u64> = self.first.iter().map(|step| step.connections).collect();
        counts.sort_unstable();
        #[allow(clippy::cast_precision_loss)] // a count of ten seconds
        let usual = counts
            .get(counts.len().saturating_sub(1) / 4)
            .map_or(0.0, |count| *count as f64);
        self.usual = Some(usual);
        while let Some(step) = self.first.pop_front() {
            self.judge(step);
        }
    }

    fn judge(&mut self, step: Step) {
        #[allow(clippy::cast_precision_loss)] // a count of ten seconds
        let now = step.connections as f64;
        let usual = self.usual.unwrap_or(0.0);
        #[allow(clippy::cast_precision_loss)]
        let bar = (usual * FACTOR).max(FLOOR as f64);
        let Some((mut wave, mut calm)) = self.open.take() else {
            if now >= bar {
                let wave = Wave {
                    begin: step.at,
                    end: step.at + STEP,
                    connections: 0,
                    refused: 0,
                    peak: 0,
                    peak_at: step.at,
                    slots: 0,
                    addresses: Distinct::new(EXACT),
                };
                self.open = Some((grown(wave, &step), 0));
            } else {
                self.usual = Some(usual + (now - usual) * SHARE);
            }
            return;
        };
        if now < bar / 2.0 {
            calm += 1;
            if calm >= CALM {
                self.keep(wave);
            } else {
                self.open = Some((wave, calm));
            }
            return;
        }
        wave.end = step.at + STEP;
        wave = grown(wave, &step);
        let length = (wave.end - wave.begin) / STEP;
        if length >= NEW_USUAL {
            #[allow(clippy::cast_precision_loss)]
            let mean = wave.connections as f64 / length as f64;
            self.usual = Some(mean);
            self.keep(wave);
        } else {
            self.open = Some((wave, 0));
        }
    }

    fn keep(&mut self, wave: Wave) {
        self.number += 1;
        self.found.push(wave);
        if self.found.len() > 2 * KEPT {
            self.found
                .sort_by_key(|wave| std::cmp::Reverse(wave.connections));
            self.found.truncate(KEPT);
        }
    }

    /// The log is over: the waves in order, how many there were (of more than
    /// a thousand only the largest are kept), and what is usual in a step at the end.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Wave>, u64, f64) {
        if self.usual.is_none() {
            self.begin();
        }
        if let Some((wave, _)) = self.open.take() {
            self.keep(wave);
        }
        self.found
            .sort_by_key(|wave| std::cmp::Reverse(wave.connections));
        self.found.truncate(KEPT);
        self.found.sort_by_key(|wave| wave.begin);
        (self.found, self.number, self.usual.unwrap_or(0.0))
    }
}

fn grown(mut wave: Wave, step: &Step) -> Wave {
    wave.connections += step.connections;
    wave.refused += step.refused;
    wave.slots = wave.slots.max(step.slots);
    if step.connections > wave.peak {
        wave.peak = step.connections;
        wave.peak_at = step.at;
    }
    wave.addresses.merge(&step.addresses);
    wave
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waves of these counts, ten seconds each, as (begin, end, connections, peak).
    fn waves(counts: impl IntoIterator<Item = u64>) -> Vec<(i64, i64, u64, u64)> {
        let mut detector = Detector::default();
        for (number, connections) in (0..).zip(counts) {
            let mut step = Step::new(number * STEP);
            step.connections = connections;
            for address in 0..connections {
                step.addresses.add(&address);
            }
            // Empty steps are not told.
            if connections > 0 {
                detector.step(step);
            }
        }
        let (waves, number, _) = detector.finish();
        assert_eq!(number, waves.len() as u64);
        for wave in &waves {
            assert_eq!(wave.addresses.count().0, wave.peak);
        }
        let of = |wave: &Wave| (wave.begin, wave.end, wave.connections, wave.peak);
        waves.iter().map(of).collect()
    }

    #[test]
    fn nothing_and_the_usual_are_no_wave() {
        assert_eq!(waves([]), []);
        assert_eq!(waves([1]), []);
        assert_eq!(waves([3; 5000]), []);
        assert_eq!(waves([500; 5000]), []);
        // A day that begins slowly.
        assert_eq!(waves((0..8640).map(|step| 20 + step / 90)), []);
    }

    #[test]
    fn a_wave_has_its_begin_its_end_and_its_peak() {
        let mut counts = vec![2; 100];
        counts.extend([40, 90, 40]);
        counts.extend([2; 100]);
        assert_eq!(waves(counts.clone()), [(1000, 1030, 170, 90)]);
        // A pause of less than a minute is of the same wave.
        counts[103..108].fill(0);
        counts[108] = 50;
        assert_eq!(waves(counts), [(1000, 1090, 220, 90)]);
    }

    #[test]
    fn a_short_log_shows_its_wave() {
        assert_eq!(waves([1, 1, 400, 400, 100, 1]), [(20, 50, 900, 400)]);
        // And one that ends within it.
        assert_eq!(waves([1, 1, 1, 400, 400]), [(30, 50, 800, 400)]);
    }

    #[test]
    fn a_busy_server_has_waves_beyond_its_usual_load_alone() {
        let mut counts = vec![200; 1000];
        counts[500] = 600;
        assert_eq!(waves(counts.clone()), []);
        counts[500] = 900;
        assert_eq!(waves(counts), [(5000, 5010, 900, 900)]);
    }

    #[test]
    fn what_lasts_is_the_new_usual() {
        let mut counts = vec![2; 400];
        counts.extend([100; 10_000]);
        let found = waves(counts);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].1 - found[0].0, NEW_USUAL * STEP);
    }
}
