//! Points in time that outlive the process: whole seconds since 1970, counted
//! by the monotonic clock, so that a wall clock that is set does no harm while
//! it runs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// When the process started, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    seconds: u32,
}

impl Clock {
    /// A clock from here on.
    #[must_use]
    pub fn new(now: Instant, wall: SystemTime) -> Self {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        // From the whole second on, or all that is counted would lag behind the wall
        // clock by a part of one, each process by another.
        let part = Duration::from_nanos(since.subsec_nanos().into());
        Self {
            origin: now.checked_sub(part).unwrap_or(now),
            // Until 2106.
            seconds: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
        }
    }

    /// The seconds at `now`, rounded down.
    #[must_use]
    pub fn seconds(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.origin).as_secs();
        self.seconds
            .saturating_add(u32::try_from(since).unwrap_or(u32::MAX))
    }

    /// The moment of `seconds`; the start of the process, where it was before.
    #[must_use]
    pub fn instant(&self, seconds: u32) -> Instant {
        self.origin + Duration::from_secs(seconds.saturating_sub(self.seconds).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_moments_agree() {
        let now = Instant::now();
        let clock = Clock::new(now, UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let later = now + Duration::from_millis(10_900);
        assert_eq!(clock.seconds(later), 1_700_000_010);
        assert_eq!(clock.instant(1_700_000_010), now + Duration::from_secs(10));
        assert_eq!(clock.instant(1), now);
    }

    #[test]
    fn seconds_begin_with_those_of_the_wall_clock() {
        let now = Instant::now();
        let clock = Clock::new(now, UNIX_EPOCH + Duration::from_millis(1_700_000_000_900));
        assert_eq!(clock.seconds(now), 1_700_000_000);
        let later = now + Duration::from_millis(100);
        assert_eq!(clock.seconds(later), 1_700_000_001);
    }
}
