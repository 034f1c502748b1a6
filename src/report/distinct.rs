//! How many different things there were: exact up to a bound, then an estimate
//! in 16 KiB (HyperLogLog, Flajolet et al. 2007, with linear counting for small
//! numbers; standard error 0.8 %).

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

/// Registers: 2^14.
const BITS: u32 = 14;
const REGISTERS: usize = 1 << BITS;

/// A set that only knows its size.
#[derive(Clone, Debug)]
pub struct Distinct {
    bound: usize,
    exact: HashSet<u64, BuildHasherDefault<Identity>>,
    registers: Option<Box<[u8; REGISTERS]>>,
}

/// The values are hashes already.
#[derive(Clone, Debug, Default)]
pub struct Identity(u64);

impl std::hash::Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

impl Distinct {
    /// An empty one, exact up to `bound` things.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self {
            bound,
            exact: HashSet::default(),
            registers: None,
        }
    }

    /// Adds one. Hashes are the same in every run, so that reports are.
    pub fn add(&mut self, thing: &impl Hash) {
        self.add_hash(BuildHasherDefault::<DefaultHasher>::new().hash_one(thing));
    }

    fn add_hash(&mut self, hash: u64) {
        if let Some(registers) = &mut self.registers {
            note(registers, hash);
            return;
        }
        self.exact.insert(hash);
        if self.exact.len() > self.bound {
            let mut registers = Box::new([0; REGISTERS]);
            for hash in self.exact.drain() {
                note(&mut registers, hash);
            }
            self.exact = HashSet::default();
            self.registers = Some(registers);
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for hash in &other.exact {
            self.add_hash(*hash);
        }
        if let Some(theirs) = &other.registers {
            let mut all = self
                .registers
                .take()
                .unwrap_or_else(|| Box::new([0; REGISTERS]));
            for hash in self.exact.drain() {
                note(&mut all, hash);
            }
            for (mine, theirs) in all.iter_mut().zip(theirs.iter()) {
                *mine = (*mine).max(*theirs);
            }
            self.registers = Some(all);
        }
    }

    /// How many, and whether that is an estimate.
    #[must_use]
    pub fn count(&self) -> (u64, bool) {
        let Some(registers) = &self.registers else {
            return (self.exact.len() as u64, false);
        };
        #[allow(clippy::cast_precision_loss)] // 2^14
        let m = REGISTERS as f64;
        let sum: f64 = registers
            .iter()
            .map(|rank| 2_f64.powi(-i32::from(*rank)))
            .sum();
        let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
        let empty = registers.iter().filter(|rank| **rank == 0).count();
        let estimate = if raw <= 2.5 * m && empty > 0 {
            #[allow(clippy::cast_precision_loss)]
            let empty = empty as f64;
            m * (m / empty).ln()
        } else {
            raw
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, below 2^64
        let estimate = estimate.round() as u64;
        (estimate, true)
    }
}

fn note(registers: &mut [u8; REGISTERS], hash: u64) {
    let index = usize::try_from(hash >> (64 - BITS)).unwrap_or(0);
    let rank = (hash << BITS | 1 << (BITS - 1)).leading_zeros() + 1;
    let rank = u8::try_from(rank).unwrap_or(u8::MAX);
    registers[index] = registers[index].max(rank);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(range: std::ops::Range<u32>, bound: usize) -> Distinct {
        let mut distinct = Distinct::new(bound);
        for number in range {
            distinct.add(&number);
            distinct.add(&number);
        }
        distinct
    }

    #[test]
    fn few_are_counted_exactly() {
        assert_eq!(of(0..0, 100).count(), (0, false));
        assert_eq!(of(0..1, 100).count(), (1, false));
        assert_eq!(of(0..100, 100).count(), (100, false));
    }

    #[test]
    fn many_are_estimated_within_three_percent() {
        for number in [101_u32, 5_000, 40_000, 1_000_000] {
            let (count, estimate) = of(0..number, 100).count();
            let off = count.abs_diff(number.into()) * 100 / u64::from(number);
            assert!(estimate && off < 3, "{count} of {number}");
        }
    }

    #[test]
    fn a_merge_counts_what_both_have_once() {
        for (bound, slack) in [(1_000_000, 0), (100, 900)] {
            let mut all = of(0..20_000, bound);
            all.merge(&of(10_000..30_000, bound));
            assert!(all.count().0.abs_diff(30_000) <= slack, "{:?}", all.count());
            let mut small = of(0..10, bound);
            small.merge(&of(0..30_000, bound));
            assert!(small.count().0.abs_diff(30_000) <= slack);
        }
    }
}
