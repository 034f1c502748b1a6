//! What the bans want of the lists: queries to spare for those that are banned
//! already, and that what was said of somebody is forgotten.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Instant;

use ipnetwork::IpNetwork;

use super::budget::WARN_AT;
use super::cache::Key;
use super::lookup::Lists;

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

    /// Forgets what the lists said of the clients in `network`, so that they
    /// are asked again; how many answers that were.
    pub fn forget(&self, network: IpNetwork) -> usize {
        let single = |client: IpAddr| {
            let keys = self.lists.iter().map(|list| Key::new(list.number, client));
            keys.filter(|key| self.cache.remove(key)).count()
        };
        let full = if network.is_ipv4() { 32 } else { 128 };
        if network.prefix() == full {
            return single(network.ip());
        }
        let inside = self.cache.iter().map(|(key, _)| key);
        let inside: Vec<Key> = inside
            .filter(|key| network.contains(key.client()))
            .collect();
        inside.iter().filter(|key| self.cache.remove(key)).count()
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
