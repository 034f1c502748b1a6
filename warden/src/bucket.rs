//! How many of one kind in a second: a token bucket that holds a second's
//! worth. Pure; the caller brings the time.

use std::time::{Duration, Instant};

/// What the bucket holds when it is full, as time.
const HOLDS: Duration = Duration::from_secs(1);

/// A bound on a rate. It begins full.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// The time that one token takes to come.
    one: Duration,
    /// When the bucket will be full again.
    full_at: Option<Instant>,
}

impl Bucket {
    /// At most `a_second`, and as many at once; at least one.
    #[must_use]
    pub fn new(a_second: u32) -> Self {
        Self {
            one: HOLDS / a_second.max(1),
            full_at: None,
        }
    }

    /// Takes a token, where there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.one;
        if full_at.duration_since(now) > HOLDS {
            return false;
        }
        self.full_at = Some(full_at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now: Instant) -> usize {
        (0..10_000).take_while(|_| bucket.take(now)).count()
    }

    #[test]
    fn it_gives_a_seconds_worth_at_once_and_then_as_much_as_comes() {
        let (mut bucket, start) = (Bucket::new(500), Instant::now());
        assert_eq!(taken(&mut bucket, start), 500);
        assert_eq!(taken(&mut bucket, start), 0);
        let later = start + Duration::from_millis(100);
        assert_eq!(taken(&mut bucket, later), 50);
        assert_eq!(taken(&mut bucket, later + Duration::from_secs(90)), 500);
    }

    #[test]
    fn over_a_long_time_it_gives_the_rate() {
        let (mut bucket, start) = (Bucket::new(1000), Instant::now());
        let given = (0..100_000_u64)
            .filter(|number| bucket.take(start + Duration::from_micros(number * 100)))
            .count();
        // 10 s at 1,000, and what it held.
        assert!((10_990..=11_001).contains(&given), "{given}");
    }

    #[test]
    fn a_clock_that_steps_back_gives_no_more() {
        let (mut bucket, start) = (Bucket::new(2), Instant::now() + Duration::from_secs(9));
        assert!(bucket.take(start) && bucket.take(start));
        assert!(!bucket.take(start - Duration::from_secs(5)));
        assert!(Bucket::new(0).take(start), "one a second is the least");
    }
}
