//! What time it is in the file. The seconds in it were counted by a process
//! that is gone; how many have gone by since then is told by the kernel's time
//! since boot, which nobody sets, and only after a reboot by the wall clock. So
//! a wall clock that is set makes no ban longer than it was meant to be.

use std::fs;

use nix::time::{ClockId, clock_gettime};

/// By how much two clocks may differ that agree, in seconds: each moment is of
/// whole ones, and a process's seconds and the kernel's are not read at once.
const ROUNDED: u32 = 2;

/// A moment in the file: which boot, how long after it, and the seconds that
/// were counted then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The kernel's name for this boot.
    pub boot: String,
    /// Seconds since then.
    pub uptime: u32,
    /// Seconds since 1970, as the process counted them.
    pub seconds: u32,
}

impl Stamp {
    /// This moment, which is `seconds`.
    #[must_use]
    pub fn now(seconds: u32) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.tv_sec());
        Self {
            boot: boot.trim().to_owned(),
            uptime: u32::try_from(uptime).unwrap_or(0),
            seconds,
        }
    }

    /// What time it is `now` by the clock that made this stamp; by that of `now`,
    /// where nobody has set the wall clock, or a ban would move by what is rounded
    /// with each restart. Never earlier than the stamp, but for that.
    #[must_use]
    pub fn is_now(&self, now: &Self) -> u32 {
        if !self.boot.is_empty() && self.boot == now.boot {
            let gone = now.uptime.saturating_sub(self.uptime);
            let then = self.seconds.saturating_add(gone);
            if then.abs_diff(now.seconds) <= ROUNDED {
                return now.seconds;
            }
            // Both were rounded: one more, so that nobody is banned for longer.
            then.saturating_add(1)
        } else {
            self.seconds.max(now.seconds)
        }
    }
}

/// A ban of the file in the seconds of this process: when it began and ends;
/// `None` where it is over. `then`: what time it is now by the file's clock.
#[must_use]
pub fn carried(since: u32, until: u32, then: u32, now: u32) -> Option<(u32, u32)> {
    let length = until.saturating_sub(since);
    // From before the file's own time: a clock ran backwards.
    let left = until.saturating_sub(then).min(length);
    let gone = length - left;
    (left > 0).then(|| (now.saturating_sub(gone), now.saturating_add(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(boot: &str, uptime: u32, seconds: u32) -> Stamp {
        Stamp {
            boot: boot.into(),
            uptime,
            seconds,
        }
    }

    #[test]
    fn within_one_boot_the_wall_clock_says_nothing() {
        let then = stamp("a", 100, 5000);
        for wall in [0, 5000, 5007, 5013, 1_000_000] {
            assert_eq!(then.is_now(&stamp("a", 110, wall)), 5011, "{wall}");
        }
    }

    #[test]
    fn clocks_that_agree_but_for_what_is_rounded_move_nothing() {
        let then = stamp("a", 100, 5000);
        for wall in 5008..=5012 {
            assert_eq!(then.is_now(&stamp("a", 110, wall)), wall);
        }
    }

    #[test]
    fn after_a_reboot_the_wall_clock_counts_unless_it_went_back() {
        let then = stamp("a", 100, 5000);
        assert_eq!(then.is_now(&stamp("b", 5, 6000)), 6000);
        assert_eq!(then.is_now(&stamp("b", 5, 10)), 5000);
        assert_eq!(stamp("", 0, 0).is_now(&stamp("", 9, 60)), 60);
    }

    #[test]
    fn this_boot_has_a_name_and_time_goes_by() {
        let now = Stamp::now(7);
        assert!(
            now.boot.len() > 30 && now.uptime > 0 && now.seconds == 7,
            "{now:?}"
        );
    }

    proptest::proptest! {
        /// Whenever the processes start, and whatever part of a second it is then.
        #[test]
        fn where_nobody_sets_a_clock_no_ban_moves(booted in 0_u64..1 << 40, first in 0_u64..1 << 30, ran in 0_u64..1 << 30, second in 0_u64..1 << 30) {
            let seconds = |milliseconds: u64| u32::try_from(milliseconds / 1000).unwrap();
            // A process counts whole seconds from the part of one at which it started.
            let at = |up: u64, ran: u64| {
                let wall = seconds(booted + up) + seconds(ran);
                stamp("a", seconds(up + ran), wall)
            };
            let (then, now) = (at(first, ran), at(first + ran + second, 0));
            let is_now = then.is_now(&now);
            proptest::prop_assert_eq!(is_now, now.seconds);
            let (since, until) = (now.seconds.saturating_sub(60), now.seconds + 60);
            proptest::prop_assert_eq!(carried(since, until, is_now, now.seconds), Some((since, until)));
        }

        /// Whatever the clocks say, nobody is banned for longer than was meant.
        #[test]
        fn no_ban_is_longer_than_it_was(since in 0_u32..1 << 31, length in 0_u32..1 << 30, then: u32, now in 0_u32..1 << 31) {
            let until = since + length;
            if let Some((begun, ends)) = carried(since, until, then, now) {
                proptest::prop_assert!(ends > now && begun <= now);
                proptest::prop_assert!(ends - now <= until - since);
                if now >= until - since {
                    proptest::prop_assert_eq!(ends - begun, until - since);
                }
                // And where the clocks went forward, none runs longer than it would have.
                if then >= since {
                    proptest::prop_assert_eq!(ends - now, until - then);
                }
            }
        }
    }
}
