//! Which bans rest on which lists: where one turns out to be wrong, those that
//! it alone brought about since it was last right are to be lifted.

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

    /// Takes out the bans of one family that rest on `list` and were made after
    /// `since` (none: ever).
    pub fn lift(
        &mut self,
        list: usize,
        ipv6: bool,
        since: Option<Instant>,
        now: Instant,
    ) -> Vec<IpNetwork> {
        let mut lifted = Vec::new();
        self.bans.retain(|ban| {
            let wrong = ban.rests_on.contains(&list)
                && ban.network.is_ipv6() == ipv6
                && since.is_none_or(|since| ban.at > since);
            if wrong && ban.ends > now {
                lifted.push(ban.network);
            }
            !wrong
        });
        lifted
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
        let lifted = ledger.lift(0, false, Some(at(10)), at(30));
        assert_eq!(lifted, [net("10.0.0.2/32"), net("10.0.0.4/32")]);
        assert_eq!(ledger.lift(0, false, Some(at(10)), at(30)), []);
        assert_eq!(ledger.lift(0, true, None, at(30)), [net("fd00:1::/64")]);
        assert_eq!(ledger.lift(1, false, None, at(30)), [net("10.0.0.3/32")]);
        assert_eq!(ledger.lift(0, false, None, at(3602)), [], "it has run out");
    }

    #[test]
    fn it_is_bounded() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        for host in 0..300_000_u32 {
            let network = IpNetwork::from(std::net::IpAddr::from(host.to_be_bytes()));
            ledger.banned(network, &[0], now, HOUR);
        }
        assert_eq!(ledger.lift(0, false, None, now).len(), MOST);
    }
}
