//! How long a ban lasts: the first `time`, each repeat `factor` times as long
//! as the one before, never longer than `max_time`. Who stays away for `window`
//! after a ban's end begins anew. No clock, no I/O.

/// The rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Durations {
    /// The first ban, in seconds; at least 1.
    pub time: u32,
    /// What each repeat's is multiplied by; at least 1.
    pub factor: f64,
    /// The longest ban, in seconds; at least `time`.
    pub max_time: u32,
    /// How long after its end a ban counts, in seconds.
    pub window: u32,
}

/// A network's bans that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// How many there were.
    pub count: u16,
    /// When the last one ended, in seconds.
    pub ended: u32,
}

impl Durations {
    /// How many bans of this past still count at `now`.
    #[must_use]
    pub fn counted(&self, past: Option<Past>, now: u32) -> u16 {
        past.filter(|past| now.saturating_sub(past.ended) < self.window)
            .map_or(0, |past| past.count)
    }

    /// How long the next ban lasts, in seconds, after `count` that count.
    #[must_use]
    pub fn after(&self, count: u16) -> u32 {
        let (mut seconds, most) = (f64::from(self.time), f64::from(self.max_time));
        for _ in 0..count {
            // One that does not grow, or has grown enough, is where it ends.
            if seconds >= most || self.factor <= 1.0 {
                break;
            }
            seconds *= self.factor;
        }
        // Between 1 and max_time, which are whole.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let seconds = seconds.min(most) as u32;
        seconds.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Durations = Durations {
        time: 3600,
        factor: 2.0,
        max_time: 86_400,
        window: 7 * 86_400,
    };

    #[test]
    fn each_repeat_is_twice_as_long_up_to_a_day() {
        let hours: Vec<u32> = (0..7).map(|count| RULE.after(count) / 3600).collect();
        assert_eq!(hours, [1, 2, 4, 8, 16, 24, 24]);
        assert_eq!(RULE.after(u16::MAX), 86_400);
    }

    #[test]
    fn what_was_before_the_window_is_forgiven() {
        let past = Some(Past {
            count: 3,
            ended: 1000,
        });
        assert_eq!(RULE.counted(past, 1000 + 7 * 86_400 - 1), 3);
        assert_eq!(RULE.counted(past, 1000 + 7 * 86_400), 0);
        assert_eq!(RULE.counted(past, 500), 3, "the clock was set back");
        assert_eq!(RULE.counted(None, 1000), 0);
    }

    proptest::proptest! {
        #[test]
        fn never_above_the_cap_and_never_less_for_more(time in 1_u32..=2_147_483, longer in 0_u32..=100_000, factor in 1.0_f64..1e300, count: u16) {
            let rule = Durations { time, factor, max_time: time + longer, window: 60 };
            let now = rule.after(count);
            proptest::prop_assert!((time..=time + longer).contains(&now));
            proptest::prop_assert!(rule.after(count.saturating_add(1)) >= now);
        }
    }
}
