//! Whom the admin lets in for a while, whatever the lists say. Bounded; pure.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::ban::overlap;
use super::forget::Whom;

/// The most networks that are let in at the same time: each client is compared
/// with all of them. What lasts belongs into `allow.networks`.
pub const MOST: usize = 1000;

/// The networks, and until when, in seconds.
#[derive(Debug, Default)]
pub struct Allows(HashMap<IpNetwork, u32>);

impl Allows {
    /// Lets `network` in until then; `false` where there are too many already.
    pub fn insert(&mut self, network: IpNetwork, until: u32, now: u32) -> bool {
        self.expire(now);
        let fits = self.0.len() < MOST || self.0.contains_key(&network);
        if fits {
            self.0.insert(network, until);
        }
        fits
    }

    /// Ends all that have an address in common with `network`, and tells them.
    pub fn end(&mut self, network: IpNetwork) -> Vec<IpNetwork> {
        let keys = self.0.keys().copied();
        let ended: Vec<IpNetwork> = keys.filter(|allowed| overlap(*allowed, network)).collect();
        for network in &ended {
            self.0.remove(network);
        }
        ended
    }

    /// Ends all that lie within one of `whom`, and tells the place of that for each.
    pub fn forget(&mut self, whom: &Whom) -> Vec<usize> {
        let mut places = Vec::new();
        self.0.retain(|allowed, _| {
            let place = whom.of(*allowed, true);
            places.extend(place);
            place.is_none()
        });
        places
    }

    /// Takes out those that are over, and tells them.
    pub fn expire(&mut self, now: u32) -> Vec<IpNetwork> {
        let over = self.0.iter().filter(|(_, until)| **until <= now);
        let over: Vec<IpNetwork> = over.map(|(network, _)| *network).collect();
        for network in &over {
            self.0.remove(network);
        }
        over
    }

    /// Whether `client` is let in at `now`.
    #[must_use]
    pub fn contains(&self, client: IpAddr, now: u32) -> bool {
        self.running(now)
            .any(|(network, _)| network.contains(client))
    }

    /// Whether anybody in `network` is let in at `now`.
    #[must_use]
    pub fn touches(&self, network: IpNetwork, now: u32) -> bool {
        self.touching(network, now).next().is_some()
    }

    /// Those that run at `now` and have an address in common with `network`.
    pub fn touching(&self, network: IpNetwork, now: u32) -> impl Iterator<Item = IpNetwork> + '_ {
        self.running(now)
            .map(|(allowed, _)| allowed)
            .filter(move |allowed| overlap(*allowed, network))
    }

    /// Those that run at `now`, and until when.
    pub fn running(&self, now: u32) -> impl Iterator<Item = (IpNetwork, u32)> + '_ {
        let running = self.0.iter().filter(move |(_, until)| **until > now);
        running.map(|(network, until)| (*network, *until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_let_in_is_until_then() {
        let mut allows = Allows::default();
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        assert!(allows.insert(net("10.0.0.0/24"), 100, 0));
        assert!(allows.insert(net("fd00:1::5/128"), 50, 0));
        let client = "10.0.0.9".parse().unwrap();
        assert!(allows.contains(client, 99) && !allows.contains(client, 100));
        assert!(allows.touches(net("fd00:1::/64"), 49) && !allows.touches(net("fd00:1::/64"), 50));
        assert_eq!(allows.expire(60), [net("fd00:1::5/128")]);
        assert_eq!(allows.end(net("10.0.0.9/32")), [net("10.0.0.0/24")]);
        assert_eq!(allows.running(0).count(), 0);
    }

    #[test]
    fn they_are_bounded() {
        let mut allows = Allows::default();
        let inserted = (0..2000_u32)
            .filter(|number| allows.insert(IpAddr::from(number.to_be_bytes()).into(), 9, 0));
        assert_eq!(inserted.count(), MOST);
        assert!(
            allows.insert(IpAddr::from([0, 0, 0, 0]).into(), 99, 10),
            "once they are over"
        );
    }
}
