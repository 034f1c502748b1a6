//! What the bans want of the lists: queries to spare for those that are banned
//! already, and that what was said of somebody is forgotten.

use std::sync::PoisonError;
use std::time::Instant;

use ipnetwork::IpNetwork;

use super::budget::WARN_AT;
use super::cache::Key;
use super::lookup::Lists;
use crate::enforce::forget::Whom;

impl Lists {
    /// Whether no list has used so much of its queries of the day that the rest
    /// is for new clients.
    #[must_use]
    pub fn has_spare(&self, now: Instant) -> bool {
        let day = self.clock.seconds(now) / 86_400;
        self.lists.iter().all(|list| {
            let budget = *list.budget.lock().unwrap_or_else(PoisonError::into_inner);
            list.zone.max_queries().is_none_or(|most| {
                budget.day < day || budget.used < most.saturating_mul(WARN_AT) / 100
            })
        })
    }

    /// Forgets what the lists said of the clients in `networks`, so that they
    /// are asked again; how many answers that were of each.
    pub fn forget(&self, networks: &[IpNetwork]) -> Vec<usize> {
        let mut forgotten = vec![0; networks.len()];
        for (network, count) in networks.iter().zip(&mut forgotten) {
            let keys = self
                .lists
                .iter()
                .map(|list| Key::new(list.number, network.ip()));
            *count = keys.filter(|key| self.cache.remove(key)).count();
        }
        let whom = Whom::new(networks);
        if whom.has_wide() {
            // Once for all of them: there may be a million.
            let keys = self.cache.iter().map(|(key, _)| key);
            let inside: Vec<(Key, usize)> = keys
                .filter_map(|key| Some((key, whom.holder(key.client().into())?)))
                .collect();
            for (key, place) in inside {
                forgotten[place] += usize::from(self.cache.remove(&key));
            }
        }
        forgotten
    }

    /// Forgets the answers that are of no use any longer at `now`.
    pub fn forget_over(&self, now: Instant) {
        self.cache.remove_over(self.clock.seconds(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dnsbl::lists_of;

    #[tokio::test]
    async fn the_last_fifth_of_a_lists_queries_of_the_day_is_to_spare_for_nobody() {
        let text = "[[dnsbl]]\nzone = \"bl.test\"\nmax-queries-per-day = 10";
        let lists = lists_of(text);
        let now = Instant::now();
        for used in 0..8 {
            assert!(lists.has_spare(now), "{used}");
            assert!(lists.grant(0, now));
        }
        assert!(!lists.has_spare(now));
        // New clients have them.
        assert!(lists.grant(0, now) && lists.grant(0, now) && !lists.grant(0, now));
    }
}
