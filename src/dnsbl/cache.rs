//! What the lists said of whom, for as long as they say it holds.
//!
//! One entry for a list and a client, 36 bytes of content; bounded by their
//! number. What has expired stays until it is displaced: a list that is down is
//! answered for from here, for a limited time.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use quick_cache::sync::Cache as Store;

use super::answer::{Answer, Hit};
use super::rule::Met;

/// The bounds of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most entries.
    pub entries: usize,
    /// The shortest that an answer is kept.
    pub min_ttl: Duration,
    /// The longest that a listing is kept.
    pub max_ttl: Duration,
    /// The longest that "not listed" is kept.
    pub max_negative_ttl: Duration,
    /// How long after its end an answer of a list that is down is used.
    pub stale: Duration,
}

/// A list and a client: an IPv4 client as its mapped IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    client: [u8; 16],
    list: u32,
}

/// What the list said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The rules met; none: not listed.
    met: u32,
    /// The code that met one.
    code: u32,
    /// When it was got, in seconds since 1970, rounded up.
    pub got: u32,
    /// When it ends.
    pub ends: u32,
}

/// Bytes of an entry in a file.
pub const RECORD: usize = 36;

impl Key {
    /// The key of `client` at the list with this number.
    #[must_use]
    pub fn new(list: u32, client: IpAddr) -> Self {
        let client = match client {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self {
            client: client.octets(),
            list,
        }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        IpAddr::from(self.client).to_canonical()
    }

    /// The list's number.
    #[must_use]
    pub fn list(&self) -> u32 {
        self.list
    }
}

impl Entry {
    /// What `answer`, got at `now`, is kept as for `ttl`; `None` for an unknown one.
    #[must_use]
    pub fn new(answer: &Answer, ttl: Option<Duration>, now: u32, bounds: &Bounds) -> Option<Self> {
        let (met, code, longest) = match answer {
            Answer::Listed(hit) => (hit.met.0, hit.code.to_bits(), bounds.max_ttl),
            Answer::NotListed => (0, 0, bounds.max_negative_ttl),
            Answer::Unknown(_) => return None,
        };
        // An answer without a TTL (a negative one without SOA, RFC 2308 §5) is
        // kept as short as can be.
        let ttl = ttl.unwrap_or_default().max(bounds.min_ttl).min(longest);
        let got = now.saturating_add(1);
        Some(Self {
            met,
            code,
            got,
            ends: now.saturating_add(u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)),
        })
    }

    /// The answer.
    #[must_use]
    pub fn answer(&self) -> Answer {
        if self.met == 0 {
            return Answer::NotListed;
        }
        Answer::Listed(Hit {
            met: Met(self.met),
            code: Ipv4Addr::from_bits(self.code),
        })
    }

    /// Whether it holds at `now`.
    #[must_use]
    pub fn is_fresh(&self, now: u32) -> bool {
        now < self.ends
    }

    /// Whether it may still stand in for a list that is down.
    #[must_use]
    pub fn is_usable(&self, now: u32, bounds: &Bounds) -> bool {
        let stale = u32::try_from(bounds.stale.as_secs()).unwrap_or(u32::MAX);
        now < self.ends.saturating_add(stale)
    }

    fn is_sound(&self, now: u32, bounds: &Bounds) -> bool {
        let longest = bounds.max_ttl.max(bounds.max_negative_ttl).as_secs();
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        self.got <= now.saturating_add(1)
            && self.ends <= self.got.saturating_add(longest)
            && self.is_usable(now, bounds)
    }
}

/// One entry in a file.
#[must_use]
pub fn encode(key: &Key, entry: &Entry) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..16].copy_from_slice(&key.client);
    for (at, word) in [key.list, entry.met, entry.code, entry.got, entry.ends]
        .iter()
        .enumerate()
    {
        bytes[16 + 4 * at..20 + 4 * at].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The entry in these bytes of a file; `None` where it has ended, or cannot be.
#[must_use]
pub fn decode(bytes: &[u8; RECORD], now: u32, bounds: &Bounds) -> Option<(Key, Entry)> {
    let mut client = [0; 16];
    client.copy_from_slice(&bytes[..16]);
    let word = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[16 + 4 * at..20 + 4 * at]);
        u32::from_le_bytes(word)
    };
    let entry = Entry {
        met: word(1),
        code: word(2),
        got: word(3),
        ends: word(4),
    };
    let key = Key {
        client,
        list: word(0),
    };
    entry.is_sound(now, bounds).then_some((key, entry))
}

/// The entries.
#[derive(Debug)]
pub struct Cache {
    store: Store<Key, Entry>,
    /// What is kept, and how long.
    pub bounds: Bounds,
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            store: Store::new(bounds.entries),
            bounds,
        }
    }

    /// The entry, be it over.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.store.get(key)
    }

    /// Keeps an entry, in the place of the one before.
    pub fn insert(&self, key: Key, entry: Entry) {
        self.store.insert(key, entry);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.store.len()
    }

    /// Forgets what was said of whom; whether there was something.
    pub fn remove(&self, key: &Key) -> bool {
        self.store.remove(key).is_some()
    }

    /// Forgets what is of no use any longer at `now`, not even for a list that is
    /// down.
    pub fn remove_over(&self, now: u32) {
        self.store
            .retain(|_, entry| entry.is_usable(now, &self.bounds));
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Entry)> + '_ {
        self.store.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            entries: 100,
            min_ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(3600),
            max_negative_ttl: Duration::from_secs(600),
            stale: Duration::from_secs(1000),
        }
    }

    fn listed() -> Answer {
        Answer::Listed(Hit {
            met: Met(5),
            code: Ipv4Addr::new(127, 0, 0, 4),
        })
    }

    #[test]
    fn ttls_are_clamped() {
        let ends = |answer: &Answer, ttl: Option<u64>| {
            Entry::new(answer, ttl.map(Duration::from_secs), 1000, &bounds())
                .unwrap()
                .ends
        };
        for (ttl, positive, negative) in [
            (None, 1060, 1060),
            (Some(0), 1060, 1060),
            (Some(300), 1300, 1300),
            (Some(2147483648), 4600, 1600),
            (Some(u64::MAX), 4600, 1600),
        ] {
            assert_eq!(ends(&listed(), ttl), positive, "{ttl:?}");
            assert_eq!(ends(&Answer::NotListed, ttl), negative, "{ttl:?}");
        }
    }

    #[test]
    fn an_answer_comes_back_and_ends() {
        for answer in [listed(), Answer::NotListed] {
            let entry = Entry::new(&answer, None, 1000, &bounds()).unwrap();
            assert_eq!(entry.answer(), answer);
            assert!(entry.is_fresh(1059) && !entry.is_fresh(1060));
            assert!(entry.is_usable(2059, &bounds()) && !entry.is_usable(2060, &bounds()));
        }
        let unknown = Answer::Unknown(crate::dnsbl::Unknown::Timeout);
        assert_eq!(Entry::new(&unknown, None, 1, &bounds()), None);
    }

    #[test]
    fn a_record_round_trips_and_a_broken_one_is_dropped() {
        let key = Key::new(7, "127.66.1.2".parse().unwrap());
        let entry = Entry::new(&listed(), None, 1000, &bounds()).unwrap();
        let bytes = encode(&key, &entry);
        assert_eq!(decode(&bytes, 1000, &bounds()), Some((key, entry)));
        assert_eq!(decode(&bytes, 3000, &bounds()), None, "over");
        assert_eq!(decode(&bytes, 500, &bounds()), None, "from the future");
        let mut endless = bytes;
        endless[32..].fill(0xff);
        assert_eq!(decode(&endless, 1000, &bounds()), None);
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        let cache = Cache::new(bounds());
        let entry = Entry::new(&listed(), None, 1000, &bounds()).unwrap();
        for client in 0..10_000_u32 {
            cache.insert(Key::new(1, Ipv4Addr::from(client).into()), entry);
        }
        assert!((1..=100).contains(&cache.iter().count()));
    }

    proptest::proptest! {
        /// Whatever a file holds, nothing in it outlives the configured times.
        #[test]
        fn no_record_outlives_its_time(bytes in proptest::array::uniform32(0_u8..), end: [u8; 4], now in 0_u32..u32::MAX - 10_000) {
            let mut record = [0; RECORD];
            record[..32].copy_from_slice(&bytes);
            record[32..].copy_from_slice(&end);
            if let Some((key, entry)) = decode(&record, now, &bounds()) {
                proptest::prop_assert!(!entry.is_usable(now + 3600 + 1000 + 2, &bounds()));
                proptest::prop_assert_eq!(encode(&key, &entry), record);
            }
        }
    }
}
