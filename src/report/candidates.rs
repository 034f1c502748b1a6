//! Who was refused because of a list, and may have been legitimate: candidates
//! for the admin to look at. Each names its rule:
//!
//! 1. the same address delivered mail, before or after;
//! 2. another address of its network (/24, /64) did;
//! 3. its sender's domain did, from somewhere else. Senders are forged, so
//!    this is the weakest.
//!
//! The same table of refused addresses plays what rblfilter would have done
//! with those that Courier refused: a ban of an hour from the first refusal,
//! twice as long with each further one, a day at most.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};

use super::slots::unpacked;
use super::summary::{Because, Candidate, Moment};

/// Refused addresses that are kept.
const REFUSED: usize = 262_144;
/// Addresses that delivered.
const DELIVERED: usize = 131_072;
/// Senders' domains.
const DOMAINS: usize = 65_536;
/// Messages whose sender is not told yet.
const OPEN: usize = 4096;
/// Seconds: the default of `ban.time` and of `ban.max-time`.
const BAN: i64 = 3600;
const LONGEST_BAN: i64 = 86_400;

#[derive(Debug)]
struct Refused {
    first: i64,
    last: i64,
    times: u32,
    domain: Option<u32>,
    banned_until: i64,
    bans: u32,
}

#[derive(Debug)]
struct Delivered {
    first: i64,
    last: i64,
    times: u32,
}

/// The tables.
#[derive(Debug, Default)]
pub struct Candidates {
    refused: HashMap<u128, Refused>,
    delivered: HashMap<u128, Delivered>,
    domains: HashMap<Box<str>, u32>,
    deliveries: Vec<u32>,
    open: HashSet<Box<[u8]>>,
    order: VecDeque<Box<[u8]>>,
    lost: bool,
}

impl Candidates {
    /// A client was refused because of a list, with a sender where it came so far.
    pub fn refused(&mut self, at: i64, ip: u128, from: Option<&[u8]>) {
        let domain = from.and_then(domain).and_then(|name| self.domain(&name));
        if self.refused.len() >= REFUSED && !self.refused.contains_key(&ip) {
            self.lost = true;
            return;
        }
        let refused = self.refused.entry(ip).or_insert(Refused {
            first: at,
            last: at,
            times: 0,
            domain: None,
            banned_until: i64::MIN,
            bans: 0,
        });
        refused.first = refused.first.min(at);
        refused.last = refused.last.max(at);
        refused.times = refused.times.saturating_add(1);
        refused.domain = domain.or(refused.domain);
    }

    /// Would have banned it, had rblfilter been there; whether that is a new ban.
    pub fn play_ban(&mut self, at: i64, ip: u128) -> bool {
        let Some(refused) = self.refused.get_mut(&ip) else {
            return false;
        };
        if at < refused.banned_until {
            return false;
        }
        let time = BAN << refused.bans.min(5);
        refused.banned_until = at + time.min(LONGEST_BAN);
        refused.bans += 1;
        true
    }

    /// Whether such a ban would have kept this connection out.
    #[must_use]
    pub fn would_be_banned(&self, at: i64, ip: u128) -> bool {
        self.refused
            .get(&ip)
            .is_some_and(|refused| at < refused.banned_until)
    }

    /// A client's message was taken over; its sender is told later.
    pub fn delivered(&mut self, at: i64, ip: u128, id: &[u8]) {
        if self.delivered.len() >= DELIVERED && !self.delivered.contains_key(&ip) {
            self.lost = true;
        } else {
            let delivered = self.delivered.entry(ip).or_insert(Delivered {
                first: at,
                last: at,
                times: 0,
            });
            delivered.first = delivered.first.min(at);
            delivered.last = delivered.last.max(at);
            delivered.times = delivered.times.saturating_add(1);
        }
        if self.order.len() >= OPEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.open.remove(&oldest);
        }
        self.open.insert(id.into());
        self.order.push_back(id.into());
    }

    /// A message's sender, told when its delivery begins.
    pub fn sender(&mut self, id: &[u8], from: &[u8]) {
        if !self.open.remove(id) {
            return;
        }
        // Most often it is the newest.
        if let Some(place) = self.order.iter().rposition(|open| **open == *id) {
            self.order.remove(place);
        }
        if let Some(number) = domain(from).and_then(|name| self.domain(&name)) {
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            if let Some(deliveries) = self.deliveries.get_mut(index) {
                *deliveries = deliveries.saturating_add(1);
            }
        }
    }

    fn domain(&mut self, name: &str) -> Option<u32> {
        if let Some(number) = self.domains.get(name) {
            return Some(*number);
        }
        if self.domains.len() >= DOMAINS {
            self.lost = true;
            return None;
        }
        let number = u32::try_from(self.deliveries.len()).ok()?;
        self.domains.insert(name.into(), number);
        self.deliveries.push(0);
        Some(number)
    }

    /// The candidates, the likeliest first, and whether a table was full, so
    /// that some may be missing.
    #[must_use]
    pub fn finish(self) -> (Vec<Candidate>, bool) {
        let networks: HashSet<u128> = self.delivered.keys().map(|ip| network(*ip)).collect();
        let mut names = vec![""; self.deliveries.len()];
        for (name, number) in &self.domains {
            names[usize::try_from(*number).unwrap_or(0)] = name;
        }
        let mut all = Vec::new();
        for (ip, refused) in &self.refused {
            let number = refused
                .domain
                .and_then(|number| usize::try_from(number).ok());
            let deliveries = number.map_or(0, |number| self.deliveries[number]);
            let delivered = self.delivered.get(ip);
            let because = if let Some(delivered) = delivered {
                let before = delivered.first < refused.first;
                let after = delivered.last >= refused.last;
                match (before, after) {
                    (true, true) => Because::BeforeAndAfter,
                    (true, false) => Because::Before,
                    _ => Because::After,
                }
            } else if networks.contains(&network(*ip)) {
                Because::Network
            } else if deliveries > 0 {
                Because::Domain
            } else {
                continue;
            };
            let delivered = match because {
                Because::Network => 0,
                Because::Domain => deliveries,
                _ => delivered.map_or(0, |delivered| delivered.times),
            };
            all.push(Candidate {
                client: unpacked(*ip).to_string(),
                domain: number.map(|number| names[number].to_owned()),
                because,
                refused: refused.times.into(),
                delivered: delivered.into(),
                first: Moment(refused.first),
                last: Moment(refused.last),
            });
        }
        all.sort_by(|a, b| {
            (a.because, b.delivered, b.refused, &a.client).cmp(&(
                b.because,
                a.delivered,
                a.refused,
                &b.client,
            ))
        });
        (all, self.lost)
    }
}

/// The network's first address: /24 of IPv4, /64 of IPv6.
fn network(ip: u128) -> u128 {
    masked(ip, 24, 64)
}

/// An address cut down to so many bits.
#[must_use]
pub fn masked(ip: u128, four: u32, six: u32) -> u128 {
    let is_ipv4 = ip >> 32 == 0xffff;
    let host = if is_ipv4 { 32 - four } else { 128 - six };
    ip & u128::MAX.checked_shl(host).unwrap_or(0)
}

/// The domain of an address, in lower case; `None` for one that is no host's name.
fn domain(address: &[u8]) -> Option<Cow<'_, str>> {
    let name = &address[memchr::memrchr(b'@', address)? + 1..];
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if name.is_empty() || name.len() > 253 || !name.iter().all(fits) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> u128 {
        super::super::slots::packed(text.parse().unwrap())
    }

    #[test]
    fn each_candidate_names_its_rule_and_others_are_none() {
        let mut all = Candidates::default();
        let deliver = |all: &mut Candidates, at, client: &str, id: &[u8], from: &[u8]| {
            all.delivered(at, ip(client), id);
            all.sender(id, from);
            // Tried again: it is no other message.
            all.sender(id, from);
        };
        deliver(&mut all, 10, "192.0.2.1", b"1", b"a@one.test");
        all.refused(20, ip("192.0.2.1"), Some(b"a@one.test"));
        all.refused(20, ip("192.0.2.99"), None);
        all.refused(20, ip("198.51.100.1"), Some(b"x@One.Test"));
        all.refused(20, ip("203.0.113.1"), Some(b"x@spam.test"));
        all.refused(20, ip("203.0.113.2"), Some(b"no domain"));
        all.refused(20, ip("2001:db8::1"), None);
        deliver(&mut all, 30, "2001:db8::1", b"2", b"");
        deliver(&mut all, 10, "192.0.2.7", b"3", b"b@two.test");
        all.refused(20, ip("192.0.2.7"), None);
        deliver(&mut all, 30, "192.0.2.7", b"4", b"b@two.test");
        let (found, lost) = all.finish();
        let found: Vec<(&str, Because, u64)> = found
            .iter()
            .map(|one| (one.client.as_str(), one.because, one.delivered))
            .collect();
        assert_eq!(
            found,
            [
                ("192.0.2.7", Because::BeforeAndAfter, 2),
                ("192.0.2.1", Because::Before, 1),
                ("2001:db8::1", Because::After, 1),
                ("192.0.2.99", Because::Network, 0),
                ("198.51.100.1", Because::Domain, 1),
            ]
        );
        assert!(!lost);
    }

    #[test]
    fn the_bans_that_would_have_been_get_longer() {
        let mut all = Candidates::default();
        let client = ip("192.0.2.1");
        assert!(!all.play_ban(0, client), "it was not refused");
        let mut at = 0;
        for hours in [1, 2, 4, 8, 16, 24, 24, 24] {
            all.refused(at, client, None);
            assert!(all.play_ban(at, client));
            assert!(!all.play_ban(at + 1, client), "it is banned");
            at += hours * 3600;
            assert!(all.would_be_banned(at - 1, client) && !all.would_be_banned(at, client));
        }
    }

    #[test]
    fn the_tables_are_bounded() {
        let mut all = Candidates::default();
        for number in 0..300_000_u32 {
            let address = u128::from(number);
            let sender = format!("x@d{number}.test");
            all.refused(0, address, Some(sender.as_bytes()));
            all.delivered(1, address, &number.to_be_bytes());
        }
        assert_eq!(all.refused.len(), REFUSED);
        assert_eq!(all.delivered.len(), DELIVERED);
        assert_eq!(all.domains.len(), DOMAINS);
        assert_eq!((all.open.len(), all.order.len()), (OPEN, OPEN));
        assert!(all.finish().1);
    }
}
