//! The clients that have delivered mail lately: the last that anything is done
//! to for silence alone; and where a list names one of them, the list is tested.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

/// How long that is remembered.
const LATELY: Duration = Duration::from_secs(24 * 3600);
/// The most clients that are remembered.
const MOST: usize = 50_000;

/// Clients whose messages were accepted, and when last.
#[derive(Debug)]
pub struct Senders(Cache<IpAddr, Instant>);

impl Default for Senders {
    fn default() -> Self {
        Self(Cache::new(MOST))
    }
}

impl Senders {
    /// A message of `client` was accepted, with no list against it.
    pub fn delivered(&self, client: IpAddr, now: Instant) {
        self.0.insert(client, now);
    }

    /// Whether one was within a day before `now`.
    #[must_use]
    pub fn has_delivered(&self, client: IpAddr, now: Instant) -> bool {
        self.0
            .get(&client)
            .is_some_and(|at| now.saturating_duration_since(at) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_remembered_for_a_day() {
        let (senders, now) = (Senders::default(), Instant::now());
        let client = "127.1.2.3".parse().unwrap();
        assert!(!senders.has_delivered(client, now));
        senders.delivered(client, now);
        let day = Duration::from_secs(24 * 3600);
        assert!(senders.has_delivered(client, now + day - Duration::from_secs(1)));
        assert!(!senders.has_delivered(client, now + day));
        assert!(!senders.has_delivered("127.1.2.4".parse().unwrap(), now));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (senders, now) = (Senders::default(), Instant::now());
        for number in 0..60_000_u32 {
            senders.delivered(IpAddr::V4(number.into()), now);
        }
        let known = (0..60_000_u32)
            .filter(|number| senders.has_delivered(IpAddr::V4((*number).into()), now));
        assert!((40_000..=MOST).contains(&known.count()));
    }
}
