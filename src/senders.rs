//! The clients that have delivered mail lately: the last that anything is done
//! to for silence alone; and where a list names one of them, the list is tested.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use quick_cache::sync::Cache;

use crate::enforce::ban::around;
use crate::enforce::forget::Whom;

/// How long that is remembered.
pub const LATELY: Duration = Duration::from_secs(24 * 3600);
/// The most clients that are remembered.
const MOST: usize = 50_000;
/// How old what is on disk of a client may be.
const WRITE_AFTER: Duration = Duration::from_secs(3600);

/// Clients whose messages were accepted, and when last.
#[derive(Debug)]
pub struct Senders {
    clients: Cache<IpAddr, Instant>,
    /// The IPv6 ones by the network that they would be banned with.
    networks: Cache<IpNetwork, Network>,
    prefix6: u8,
}

/// The last client of a network, and whether there were others.
#[derive(Clone, Copy, Debug)]
struct Network {
    client: Ipv6Addr,
    at: Instant,
    others: bool,
}

impl Senders {
    /// Nobody; IPv6 clients are banned by this prefix.
    #[must_use]
    pub fn new(prefix6: u8) -> Self {
        Self {
            clients: Cache::new(MOST),
            networks: Cache::new(MOST),
            prefix6,
        }
    }

    /// A message of `client` was accepted at `now`, with no list against it;
    /// whether that is worth writing down.
    pub fn delivered(&self, client: IpAddr, now: Instant) -> bool {
        let before = self.clients.get(&client);
        let news = before.is_none_or(|at| now.saturating_duration_since(at) >= WRITE_AFTER);
        self.clients.insert(client, now);
        self.note_network(client, now);
        news
    }

    /// An IPv6 client's network has one that delivered at `now`.
    fn note_network(&self, client: IpAddr, now: Instant) {
        if let IpAddr::V6(v6) = client {
            let network = around(client, self.prefix6);
            let before = self
                .networks
                .get(&network)
                .filter(|last| lately(last.at, now));
            let last = Network {
                client: v6,
                at: now,
                others: before.is_some_and(|last| last.others || last.client != v6),
            };
            self.networks.insert(network, last);
        }
    }

    /// Those whose messages were accepted within a day before `now`, and when last.
    pub fn lately(&self, now: Instant) -> impl Iterator<Item = (IpAddr, Instant)> + '_ {
        self.clients.iter().filter(move |(_, at)| lately(*at, now))
    }

    /// When the last message of `client` was accepted, within a day before `now`.
    #[must_use]
    pub fn last(&self, client: IpAddr, now: Instant) -> Option<Instant> {
        self.clients.get(&client).filter(|at| lately(*at, now))
    }

    /// Forgets the clients in `whom`; for each there was, the place of that network.
    pub fn forget(&self, whom: &Whom) -> Vec<usize> {
        let found = self.clients.iter().filter_map(|(client, _)| {
            let place = whom.holder(client.into())?;
            Some((client, place))
        });
        let (inside, places): (Vec<IpAddr>, Vec<usize>) = found.unzip();
        for client in &inside {
            self.clients.remove(client);
        }
        // The networks of those, without them.
        let around = |client: IpAddr| around(client, self.prefix6);
        let networks: BTreeSet<IpNetwork> = inside
            .iter()
            .filter(|client| client.is_ipv6())
            .map(|client| around(*client))
            .collect();
        for network in &networks {
            self.networks.remove(network);
        }
        for (client, at) in self.clients.iter() {
            if client.is_ipv6() && networks.contains(&around(client)) {
                self.note_network(client, at);
            }
        }
        places
    }

    /// Forgets those whose last message is older than a day at `now`.
    pub fn forget_over(&self, now: Instant) {
        self.clients.retain(|_, at| lately(*at, now));
        self.networks.retain(|_, last| lately(last.at, now));
    }

    /// Whether one was within a day before `now`.
    #[must_use]
    pub fn has_delivered(&self, client: IpAddr, now: Instant) -> bool {
        self.last(client, now).is_some()
    }

    /// Whether another client than `client` of the IPv6 network that it would
    /// be banned with has delivered.
    #[must_use]
    pub fn has_good_neighbour(&self, client: IpAddr, now: Instant) -> bool {
        let IpAddr::V6(v6) = client else {
            return false;
        };
        self.networks
            .get(&around(client, self.prefix6))
            .is_some_and(|last| lately(last.at, now) && (last.others || last.client != v6))
    }
}

fn lately(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < LATELY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_remembered_for_a_day() {
        let (senders, now) = (Senders::new(64), Instant::now());
        let client = "127.1.2.3".parse().unwrap();
        assert!(!senders.has_delivered(client, now));
        senders.delivered(client, now);
        let day = Duration::from_secs(24 * 3600);
        assert!(senders.has_delivered(client, now + day - Duration::from_secs(1)));
        assert!(!senders.has_delivered(client, now + day));
        assert!(!senders.has_delivered("127.1.2.4".parse().unwrap(), now));
        let all: Vec<_> = senders.lately(now + day - Duration::from_secs(1)).collect();
        assert_eq!(all, [(client, now)]);
        assert_eq!(senders.lately(now + day).count(), 0);
    }

    #[test]
    fn a_good_neighbour_is_another_client_of_the_same_network() {
        let (senders, now) = (Senders::new(64), Instant::now());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        senders.delivered(ip("fd00:1::5"), now);
        for (client, expected) in [
            ("fd00:1::5", false),
            ("fd00:1::6", true),
            ("fd00:1:0:1::6", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(
                senders.has_good_neighbour(ip(client), now),
                expected,
                "{client}"
            );
        }
        assert!(!senders.has_good_neighbour(ip("fd00:1::6"), now + LATELY));
        senders.delivered(ip("fd00:1::7"), now);
        assert!(senders.has_good_neighbour(ip("fd00:1::5"), now));
        assert!(senders.has_good_neighbour(ip("fd00:1::7"), now));
    }

    #[test]
    fn who_is_forgotten_has_not_delivered_and_his_neighbours_have() {
        let (senders, now) = (Senders::new(64), Instant::now());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for client in ["fd00:1::5", "fd00:1::6", "10.0.0.1", "10.0.0.2"] {
            senders.delivered(ip(client), now);
        }
        let forget = |network: &str| {
            let whom = Whom::new(&["10.9.9.9/32", network].map(|text| text.parse().unwrap()));
            senders.forget(&whom)
        };
        assert_eq!(forget("fd00:1::5/128"), [1]);
        assert!(!senders.has_delivered(ip("fd00:1::5"), now));
        assert!(senders.has_good_neighbour(ip("fd00:1::5"), now));
        assert!(!senders.has_good_neighbour(ip("fd00:1::6"), now));
        assert_eq!(forget("fd00:1::/64"), [1]);
        assert!(!senders.has_good_neighbour(ip("fd00:1::7"), now));
        assert_eq!(forget("10.0.0.0/31"), [1]);
        assert!(senders.has_delivered(ip("10.0.0.2"), now));
        senders.forget_over(now + LATELY);
        assert_eq!(senders.clients.len() + senders.networks.len(), 0);
    }

    #[test]
    fn it_is_written_down_once_an_hour() {
        let (senders, now) = (Senders::new(64), Instant::now());
        let client = "127.1.2.3".parse().unwrap();
        assert!(senders.delivered(client, now));
        assert!(!senders.delivered(client, now + WRITE_AFTER - Duration::from_secs(1)));
        let later = now + WRITE_AFTER * 2;
        assert!(senders.delivered(client, later) && !senders.delivered(client, later));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (senders, now) = (Senders::new(64), Instant::now());
        for number in 0..60_000_u32 {
            senders.delivered(IpAddr::V4(number.into()), now);
        }
        let known = (0..60_000_u32)
            .filter(|number| senders.has_delivered(IpAddr::V4((*number).into()), now));
        assert!((40_000..=MOST).contains(&known.count()));
    }
}
