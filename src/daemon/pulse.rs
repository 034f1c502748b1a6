//! Whether a child lives: it says so again and again.

use std::time::{Duration, Instant};

/// How much too late the supervisor may wake, and still believe what it has not
/// heard: it, or the whole machine, was stopped.
const LATE: Duration = Duration::from_secs(1);

/// When a child was heard of last, and how long it may be silent.
#[derive(Debug)]
pub struct Pulse {
    patience: Duration,
    until: Instant,
    /// It has been silent for too long, and is given a moment more: who waited
    /// for the processor with us may speak first.
    looked: bool,
}

impl Pulse {
    /// Of a child that is started now, and may be silent for `patience`.
    #[must_use]
    pub fn new(patience: Duration, now: Instant) -> Self {
        Self {
            patience,
            until: now + patience,
            looked: false,
        }
    }

    /// It has been heard of, or may have been silent with good reason.
    pub fn beat(&mut self, now: Instant) {
        self.until = now + self.patience;
        self.looked = false;
    }

    /// It may be silent until `then` in any case.
    pub fn grant(&mut self, then: Instant) {
        self.until = self.until.max(then);
    }

    /// When to look next.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Whether it was silent for longer than it may be, and at a second look too.
    #[must_use]
    pub fn is_over(&mut self, now: Instant) -> bool {
        if now < self.until {
            return false;
        }
        if self.looked {
            return true;
        }
        self.looked = true;
        self.until = now + self.patience / 5;
        false
    }
}

/// Whether the supervisor has woken so late that nobody's silence counts; it
/// wanted to wake at `planned`. (The clock stands still while the machine
/// sleeps, but not while a virtual one, or the supervisor alone, is stopped.)
#[must_use]
pub fn woke_late(planned: Option<Instant>, now: Instant) -> bool {
    planned.is_some_and(|planned| now.saturating_duration_since(planned) > LATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn who_is_silent_is_looked_at_twice() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(PATIENCE, start);
        assert!(!pulse.is_over(at(9)) && !pulse.is_over(at(10)));
        assert_eq!(pulse.until(), at(12));
        assert!(!pulse.is_over(at(11)) && pulse.is_over(at(12)));
        pulse.beat(at(12));
        assert!(!pulse.is_over(at(21)) && !pulse.is_over(at(22)));
        // It speaks between the two looks.
        pulse.beat(at(23));
        assert!(!pulse.is_over(at(33)) && pulse.is_over(at(35)));
    }

    #[test]
    fn a_supervisor_that_was_stopped_itself_blames_nobody() {
        let now = Instant::now();
        assert!(!woke_late(None, now));
        assert!(!woke_late(Some(now), now + Duration::from_millis(900)));
        assert!(woke_late(Some(now), now + Duration::from_secs(60)));
        assert!(!woke_late(Some(now + PATIENCE), now), "woken by a word");
    }
}
