//! The most frequent things of an endless stream in bounded memory: counters
//! that are pruned by their median whenever there are too many (Misra and Gries
//! 1982, in the form of Anderson et al., "A High-Performance Algorithm for
//! Identifying Frequent Items in Data Streams", 2017).
//!
//! A count is never too high, and too low by [`Frequent::error`] at most, which
//! is 0 as long as there are no more different things than counters.

use std::collections::HashMap;
use std::hash::Hash;

/// What is counted of one thing; `weight` decides who stays.
pub trait Count: Default {
    /// Its weight.
    fn weight(&self) -> u64;
}

/// The table.
#[derive(Debug)]
pub struct Frequent<K, C> {
    bound: usize,
    counts: HashMap<K, Entry<C>>,
    error: u64,
}

#[derive(Debug)]
struct Entry<C> {
    count: C,
    /// What earlier prunes took off its weight.
    taken: u64,
}

impl<K: Eq + Hash + Ord, C: Count> Frequent<K, C> {
    /// An empty table of at most `bound` things.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self {
            bound: bound.max(2),
            counts: HashMap::new(),
            error: 0,
        }
    }

    /// The counts of `key`, to be added to.
    pub fn of(&mut self, key: K) -> &mut C {
        if self.counts.len() >= self.bound && !self.counts.contains_key(&key) {
            self.prune();
        }
        let entry = self.counts.entry(key).or_insert_with(|| Entry {
            count: C::default(),
            taken: 0,
        });
        &mut entry.count
    }

    /// Drops the lighter half, and takes its heaviest weight off all others.
    fn prune(&mut self) {
        let left = |entry: &Entry<C>| entry.count.weight().saturating_sub(entry.taken);
        let mut weights: Vec<u64> = self.counts.values().map(left).collect();
        let middle = weights.len() / 2;
        let (_, median, _) = weights.select_nth_unstable(middle);
        let median = *median;
        self.error += median;
        self.counts.retain(|_, entry| {
            let stays = left(entry) > median;
            entry.taken += median;
            stays
        });
    }

    /// By how much each weight may be too low: what one thing may have had
    /// before it was last dropped.
    #[must_use]
    pub fn error(&self) -> u64 {
        self.error
    }

    /// All that are left, the heaviest first.
    #[must_use]
    pub fn into_sorted(self) -> Vec<(K, C)> {
        let mut all: Vec<(K, C)> = self
            .counts
            .into_iter()
            .map(|(key, entry)| (key, entry.count))
            .collect();
        all.sort_by(|(a, x), (b, y)| y.weight().cmp(&x.weight()).then_with(|| a.cmp(b)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Simple(u64);

    impl Count for Simple {
        fn weight(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn few_things_are_counted_exactly() {
        let mut table = Frequent::<u32, Simple>::new(10);
        for number in 0..10 {
            table.of(number).0 += u64::from(number);
        }
        assert_eq!(table.error(), 0);
        let all = table.into_sorted();
        assert_eq!((all.len(), all[0].0, all[0].1.0), (10, 9, 9));
    }

    #[test]
    fn the_heavy_ones_are_kept_and_the_error_holds() {
        let mut table = Frequent::<u32, Simple>::new(64);
        let mut seen = HashMap::<u32, u64>::new();
        for step in 0..200_000_u32 {
            // Every other one is one of three, the rest never come again.
            let key = if step % 2 == 0 {
                step / 2 % 3
            } else {
                1000 + step
            };
            table.of(key).0 += 1;
            *seen.entry(key).or_default() += 1;
        }
        let error = table.error();
        assert!(error < 200_000 / 16, "{error}");
        let all = table.into_sorted();
        assert!(all.len() <= 64);
        let mut top: Vec<u32> = all[..3].iter().map(|(key, _)| *key).collect();
        top.sort_unstable();
        assert_eq!(top, [0, 1, 2]);
        for (key, count) in &all {
            assert!(count.0 <= seen[key] && seen[key] <= count.0 + error);
        }
    }
}
