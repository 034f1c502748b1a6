//! What the gate has done since it last said so.

use rblfilter_warden::question::{Count, Record};

/// So many of each.
#[derive(Clone, Debug)]
pub struct Counts([u64; Count::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Count::ALL.len()])
    }
}

impl Counts {
    /// One more of this.
    pub fn add(&mut self, count: Count) {
        if let Some(value) = self.0.get_mut(count.place()) {
            *value += 1;
        }
    }

    /// How many of this.
    #[cfg(test)]
    pub fn get(&self, count: Count) -> u64 {
        self.0[count.place()]
    }

    /// What there is to tell; nothing where nothing was done.
    pub fn take(&mut self) -> Vec<Record> {
        let counts = std::mem::take(&mut self.0);
        let all = Count::ALL.into_iter().zip(counts);
        all.filter(|(_, more)| *more > 0)
            .map(|(count, more)| Record::Count(count, more))
            .collect()
    }
}
