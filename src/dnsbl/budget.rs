//! How often a list may be asked in a day: many are free for so many queries.

/// The queries of the current day (UTC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The day, counted from 1970-01-01.
    pub day: u32,
    /// How many queries it has had.
    pub used: u64,
    /// Whether this process has told that there are none left.
    pub told: bool,
}

/// Whether a query may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// It may.
    Yes,
    /// It may, and it is the one with which 80 % are used.
    Warning,
    /// It may not until the next day; this is the first of the process that may
    /// not.
    UsedUp,
    /// It may not.
    No,
}

/// The share of the budget that is warned of, in percent.
pub const WARN_AT: u64 = 80;

impl Budget {
    /// Takes one query of at most `most` a day, at `seconds` since 1970.
    pub fn take(&mut self, most: Option<u64>, seconds: u32) -> Grant {
        let day = seconds / 86_400;
        // A clock that is set back gives no second budget for a day.
        if day > self.day {
            *self = Self {
                day,
                ..Self::default()
            };
        }
        self.used = self.used.saturating_add(1);
        match most {
            Some(most) if self.used > most => {
                // Also where a process before this one has used it up.
                if std::mem::replace(&mut self.told, true) {
                    Grant::No
                } else {
                    Grant::UsedUp
                }
            }
            Some(most) if self.used == most.saturating_mul(WARN_AT).div_ceil(100) => Grant::Warning,
            _ => Grant::Yes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_at_80_percent_an_end_at_100_and_a_new_day() {
        let mut budget = Budget::default();
        let noon = 20_000 * 86_400 + 43_200;
        let grants: Vec<Grant> = (0..12).map(|_| budget.take(Some(10), noon)).collect();
        assert_eq!(grants[..7], [Grant::Yes; 7]);
        assert_eq!(
            grants[7..],
            [
                Grant::Warning,
                Grant::Yes,
                Grant::Yes,
                Grant::UsedUp,
                Grant::No
            ]
        );
        assert_eq!(
            budget.take(Some(10), noon - 86_400),
            Grant::No,
            "the clock was set back"
        );
        assert_eq!(budget.take(Some(10), noon + 86_400), Grant::Yes);
        assert!((0..100).all(|_| budget.take(None, noon + 86_400) == Grant::Yes));
    }

    #[test]
    fn a_budget_that_was_used_up_before_a_restart_is_told_of_again() {
        let mut budget = Budget {
            day: 20_000,
            used: 500,
            told: false,
        };
        let noon = 20_000 * 86_400 + 43_200;
        assert_eq!(budget.take(Some(10), noon), Grant::UsedUp);
        assert_eq!(budget.take(Some(10), noon), Grant::No, "once a process");
        assert_eq!(budget.take(Some(10), noon + 86_400), Grant::Yes);
    }

    #[test]
    fn the_largest_budget_does_no_harm() {
        assert_eq!(Budget::default().take(Some(u64::MAX), 0), Grant::Yes);
    }
}
