//! Which bans rest on which lists: where one turns out to be wrong, those that
//! it alone brought about since it was last right are to be lifted. They wait
//! here until the warden has done so.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

/// The most bans that are remembered; the oldest are forgotten, and run out by
/// themselves.
const MOST: usize = 200_000;

/// The bans of this process.
#[derive(Debug, Default)]
pub struct Ledger {
    bans: VecDeque<Ban>,
    wrong: VecDeque<Wrong>,
}

/// A ban to be lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What was banned.
    pub network: IpNetwork,
    /// The list that turned out to be wrong.
    pub list: usize,
    ends: Instant,
}

#[derive(Debug)]
struct Ban {
    network: IpNetwork,
    at: Instant,
    ends: Instant,
    /// The lists without any of which it would not be.
    rests_on: Box<[usize]>,
}

impl Ledger {
    /// A new ban of `network` for `time`, which would not be without any of the
    /// lists in `rests_on`.
    pub fn banned(&mut self, network: IpNetwork, rests_on: &[usize], now: Instant, time: Duration) {
        // They end in the order in which they were made.
        while self.bans.front().is_some_and(|ban| ban.ends <= now) || self.bans.len() >= MOST {
            self.bans.pop_front();
        }
        if !rests_on.is_empty() {
            self.bans.push_back(Ban {
                network,
                at: now,
                ends: now + time,
                rests_on: rests_on.into(),
            });
        }
    }

    /// `list` is wrong: the bans of one family that rest on it and were made
    /// after `since` (none: ever) are to be lifted.
    pub fn lift(&mut self, list: usize, ipv6: bool, since: Option<Instant>) {
        let waiting = &mut self.wrong;
        self.bans.retain(|ban| {
            let wrong = ban.rests_on.contains(&list)
                && ban.network.is_ipv6() == ipv6
                && since.is_none_or(|since| ban.at > since);
            if wrong {
                waiting.push_back(Wrong {
                    network: ban.network,
                    list,
                    ends: ban.ends,
                });
            }
            !wrong
        });
    }

    /// The next ban to be lifted, unless it has run out by itself.
    pub fn next_wrong(&mut self, now: Instant) -> Option<Wrong> {
        while let Some(wrong) = self.wrong.pop_front() {
            if wrong.ends > now {
                return Some(wrong);
            }
        }
        None
    }

    /// This one could not be lifted yet.
    pub fn put_back(&mut self, wrong: Wrong) {
        self.wrong.push_front(wrong);
    }

    /// Whether any wait to be lifted.
    #[must_use]
    pub fn has_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn bans_since_the_last_passed_test_are_lifted_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        let mut ledger = Ledger::default();
        for (network, rests_on, seconds) in [
            ("10.0.0.1/32", &[0][..], 1),
            ("10.0.0.2/32", &[0], 20),
            ("10.0.0.3/32", &[1], 21),
            ("10.0.0.4/32", &[0, 1], 22),
            ("10.0.0.5/32", &[], 23),
            ("fd00:1::/64", &[0], 24),
        ] {
            ledger.banned(net(network), rests_on, at(seconds), HOUR);
        }
        let mut lift = |list, ipv6, since, now| {
            ledger.lift(list, ipv6, since);
            let wrong = std::iter::from_fn(|| ledger.next_wrong(now));
            wrong.map(|wrong| wrong.network).collect::<Vec<_>>()
        };
        let (two, four) = (net("10.0.0.2/32"), net("10.0.0.4/32"));
        assert_eq!(lift(0, false, Some(at(10)), at(30)), [two, four]);
        assert!(lift(0, false, Some(at(10)), at(30)).is_empty());
        assert_eq!(lift(0, true, None, at(30)), [net("fd00:1::/64")]);
        assert_eq!(lift(1, false, None, at(30)), [net("10.0.0.3/32")]);
        assert!(lift(0, false, None, at(3602)).is_empty(), "it has run out");
    }

    #[test]
    fn one_that_could_not_be_lifted_waits_and_is_the_next() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        for host in 1..=2 {
            let network = IpNetwork::from(std::net::IpAddr::from([10, 0, 0, host]));
            ledger.banned(network, &[0], now, HOUR);
        }
        ledger.lift(0, false, None);
        let first = ledger.next_wrong(now).unwrap();
        ledger.put_back(first);
        assert!(ledger.has_wrong());
        assert_eq!(ledger.next_wrong(now), Some(first));
        assert!(ledger.next_wrong(now).is_some() && !ledger.has_wrong());
    }

    #[test]
    fn it_is_bounded() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        for host in 0..300_000_u32 {
            let network = IpNetwork::from(std::net::IpAddr::from(host.to_be_bytes()));
            ledger.banned(network, &[0], now, HOUR);
        }
        ledger.lift(0, false, None);
        let wrong = std::iter::from_fn(|| ledger.next_wrong(now));
        assert_eq!(wrong.count(), MOST);
    }
}
