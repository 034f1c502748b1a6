//! The book of bans: the one place that knows which bans run, since when and
//! until when, what for, how often the network was banned before, and which of
//! them turned out to be wrong and wait to be lifted.
//!
//! Pure: seconds in, seconds out. Bounded: beyond [`MOST`] the bans with the
//! shortest time left are not remembered; they run out by themselves in the
//! kernel. A ban takes some 145 bytes, one that is looked up again 160.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::ban::{around, overlap};
use super::durations::{Durations, Past};
use super::forget::Whom;
use super::grounds::{Grounds, Known};

/// The most bans that are remembered.
pub const MOST: usize = 1_000_000;
/// The most networks that are remembered for the bans that they had; those
/// whose last ended first are forgotten.
pub const MOST_PAST: usize = 500_000;
/// A ban with less left is as good as over: the kernel counts in its own way.
const OVER: u32 = 2;

/// A ban, with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What is banned.
    pub network: IpNetwork,
    /// Whom it was banned for: whom the lists are asked for again.
    pub client: IpAddr,
    /// When it began, in seconds since 1970.
    pub since: u32,
    /// When it ends.
    pub until: u32,
    /// The how many-eth it is; by hand, how many there were before by verdict.
    pub count: u16,
    /// What the lists said.
    pub grounds: Arc<Grounds>,
    /// Who asked for it, where somebody did.
    pub hand: Option<Arc<Hand>>,
}

/// Who asked for a ban, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hand {
    /// The user's name.
    pub user: String,
    /// In his words.
    pub reason: String,
    /// Whether he had it made although it holds an allowlisted address.
    pub forced: bool,
}

/// How long the next ban of a network is to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// In seconds.
    pub seconds: u32,
    /// The how many-eth it is.
    pub count: u16,
    /// Whether it runs already, and this is what is left of it.
    pub running: bool,
}

impl Next {
    /// For how many seconds the warden is asked: for one that runs one less, as
    /// the book counts whole ones, and the kernel's end is not to move by parts.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.seconds.saturating_sub(self.running.into()).max(1)
    }
}

/// Why a ban is taken out before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The lists do not name the client any longer: it was right in its time.
    Unlisted,
    /// It was wrong, or the admin wants it so: the network begins anew.
    Wrong,
}

/// A ban to be lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What was banned.
    pub network: IpNetwork,
    /// The list that turned out to be wrong.
    pub list: usize,
    until: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ban {
    since: u32,
    until: u32,
    /// When the lists are asked again; 0: never.
    due: u32,
    count: u16,
    grounds: u16,
}

/// The bans, and those before them.
#[derive(Debug)]
pub struct Book {
    rule: Durations,
    /// How often the lists are asked again, in seconds.
    look_again: u32,
    most: usize,
    bans: HashMap<IpNetwork, Ban>,
    /// By their ends.
    ends: BTreeSet<(u32, IpNetwork)>,
    /// By when the lists are asked again.
    due: BTreeSet<(u32, IpNetwork)>,
    /// Whom an IPv6 network was banned for.
    clients: HashMap<IpNetwork, Ipv6Addr>,
    hands: HashMap<IpNetwork, Arc<Hand>>,
    known: Known,
    past: HashMap<IpNetwork, Past>,
    past_order: VecDeque<(u32, IpNetwork)>,
    wrong: VecDeque<Wrong>,
}

impl Book {
    /// An empty book.
    #[must_use]
    pub fn new(rule: Durations, look_again: u32) -> Self {
        Self {
            rule,
            look_again: look_again.max(1),
            most: MOST,
            bans: HashMap::new(),
            ends: BTreeSet::new(),
            due: BTreeSet::new(),
            clients: HashMap::new(),
            hands: HashMap::new(),
            known: Known::default(),
            past: HashMap::new(),
            past_order: VecDeque::new(),
            wrong: VecDeque::new(),
        }
    }

    /// How many bans there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }

    /// How long a verdict on `network` at `now` bans it: a ban that runs is no
    /// repeat, so what is left of it.
    #[must_use]
    pub fn next(&self, network: IpNetwork, now: u32) -> Next {
        let past = match self.bans.get(&network) {
            Some(ban) if ban.until > now.saturating_add(OVER) => {
                return Next {
                    seconds: ban.until - now,
                    count: ban.count,
                    running: true,
                };
            }
            Some(ban) => Some(Past {
                count: ban.count,
                ended: ban.until,
            }),
            None => self.past.get(&network).copied(),
        };
        let before = self.rule.counted(past, now);
        Next {
            seconds: self.rule.after(before),
            count: before.saturating_add(1),
            running: false,
        }
    }

    /// Writes a ban down; whether it was news. One that runs at least as long
    /// stays as it is, unless this one is by hand, which takes its place and
    /// ends when the later of the two does.
    pub fn insert(&mut self, mut record: Record, now: u32) -> bool {
        let network = record.network;
        if let Some(old) = self.bans.get(&network) {
            if record.hand.is_none() && old.until >= record.until && old.until > now {
                return false;
            }
            record.until = record.until.max(old.until);
            self.take(network);
        } else if self.bans.len() >= self.most && !self.makes_room(record.until) {
            return false;
        }
        let due = if record.hand.is_none() && record.grounds.own {
            self.first_look(network, now)
                .filter(|due| *due < record.until)
        } else {
            None
        };
        let ban = Ban {
            since: record.since,
            until: record.until,
            due: due.unwrap_or(0),
            count: record.count,
            grounds: self.known.number(&record.grounds),
        };
        self.bans.insert(network, ban);
        self.ends.insert((ban.until, network));
        if let Some(due) = due {
            self.due.insert((due, network));
        }
        if let (IpAddr::V6(client), true) = (record.client, network.prefix() < 128) {
            self.clients.insert(network, client);
        }
        if let Some(hand) = record.hand {
            self.hands.insert(network, hand);
        }
        true
    }

    /// Forgets the ban with the least left, where that is less than `until`.
    fn makes_room(&mut self, until: u32) -> bool {
        let Some((least, network)) = self.ends.first().copied() else {
            return false;
        };
        if least < until {
            self.take(network);
        }
        least < until
    }

    /// When the lists are first asked again for a new ban: between a half and
    /// one and a half of the interval from now, each network at its own time,
    /// so that a wave's bans are spread.
    fn first_look(&self, network: IpNetwork, now: u32) -> Option<u32> {
        let mut hash = 0x811c_9dc5_u32;
        let mut mix = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
            }
        };
        match network.network() {
            IpAddr::V4(ip) => mix(&ip.octets()),
            IpAddr::V6(ip) => mix(&ip.octets()),
        }
        let spread = hash % self.look_again;
        now.checked_add(self.look_again / 2)?
            .checked_add(spread)?
            .checked_add(1)
    }

    /// Takes up to `most` bans whose lists are to be asked again at `now`, with
    /// the client to ask for; the next time for them is an interval later.
    pub fn take_due(&mut self, now: u32, most: usize) -> Vec<(IpNetwork, IpAddr)> {
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some((due, network)) = self.due.first().copied().filter(|(due, _)| *due <= now)
            else {
                break;
            };
            self.due.remove(&(due, network));
            let next = now.saturating_add(self.look_again);
            let Some(ban) = self.bans.get_mut(&network) else {
                continue;
            };
            ban.due = 0;
            if ban.until <= now {
                continue;
            }
            if next < ban.until {
                ban.due = next;
                self.due.insert((next, network));
            }
            taken.push((network, self.client(network)));
        }
        taken
    }

    /// When the next of them is due.
    #[must_use]
    pub fn next_due(&self) -> Option<u32> {
        self.due.first().map(|(due, _)| *due)
    }

    fn client(&self, network: IpNetwork) -> IpAddr {
        match self.clients.get(&network) {
            Some(client) => (*client).into(),
            None => network.network(),
        }
    }

    fn record(&self, network: IpNetwork, ban: &Ban) -> Record {
        Record {
            network,
            client: self.client(network),
            since: ban.since,
            until: ban.until,
            count: ban.count,
            grounds: self.known.grounds(ban.grounds),
            hand: self.hands.get(&network).cloned(),
        }
    }

    /// The bans that run at `now`, in no order.
    pub fn running(&self, now: u32) -> impl Iterator<Item = Record> + '_ {
        self.bans
            .iter()
            .filter(move |(_, ban)| ban.until > now)
            .map(|(network, ban)| self.record(*network, ban))
    }

    /// What runs at `now`, and until when; cheaper.
    pub fn ends(&self, now: u32) -> impl Iterator<Item = (IpNetwork, u32)> + '_ {
        let bans = self.bans.iter().filter(move |(_, ban)| ban.until > now);
        bans.map(|(network, ban)| (*network, ban.until))
    }

    /// Whether somebody had this ban made although it holds an allowlisted
    /// address.
    #[must_use]
    pub fn is_forced(&self, network: IpNetwork) -> bool {
        self.hands.get(&network).is_some_and(|hand| hand.forced)
    }

    /// The ban of exactly this network.
    #[must_use]
    pub fn get(&self, network: IpNetwork) -> Option<Record> {
        self.bans.get(&network).map(|ban| self.record(network, ban))
    }

    /// The banned networks that lie in one of `whom` that is more than an address,
    /// each with the place of that.
    #[must_use]
    pub fn inside(&self, whom: &Whom) -> Vec<(IpNetwork, usize)> {
        if !whom.has_wide() {
            return Vec::new();
        }
        let all = self.bans.keys();
        all.filter_map(|banned| Some((*banned, whom.holder(*banned)?)))
            .collect()
    }

    /// The banned networks that hold all of `network`.
    #[must_use]
    pub fn holding(&self, network: IpNetwork) -> Vec<IpNetwork> {
        (0..=network.prefix())
            .map(|prefix| around(network.ip(), prefix))
            .filter(|banned| self.bans.contains_key(banned))
            .collect()
    }

    /// The banned networks that have an address in common with `network`.
    #[must_use]
    pub fn touching(&self, network: IpNetwork) -> Vec<IpNetwork> {
        let full = if network.is_ipv4() { 32 } else { 128 };
        if network.prefix() < full {
            let all = self.bans.keys().copied();
            return all.filter(|banned| overlap(*banned, network)).collect();
        }
        // Without a look at each: there may be a million.
        self.holding(network)
    }

    /// Takes a ban out of every index.
    fn take(&mut self, network: IpNetwork) -> Option<Ban> {
        let ban = self.bans.remove(&network)?;
        self.ends.remove(&(ban.until, network));
        self.due.remove(&(ban.due, network));
        self.clients.remove(&network);
        self.hands.remove(&network);
        Some(ban)
    }

    /// Takes a ban out before its time; what then counts of the network's past.
    pub fn remove(&mut self, network: IpNetwork, why: Why, now: u32) -> Option<Past> {
        let ban = self.take(network);
        match why {
            Why::Unlisted => {
                let ban = ban?;
                self.remember(network, ban.count, now.min(ban.until))
            }
            Why::Wrong => {
                self.past.remove(&network);
                None
            }
        }
    }

    /// Takes out up to `most` bans that have ended by themselves, and tells what
    /// then counts of each network's past.
    pub fn expire(&mut self, now: u32, most: usize) -> Vec<(IpNetwork, Option<Past>)> {
        let mut ended = Vec::new();
        while ended.len() < most
            && let Some((_, network)) = self.ends.first().copied().filter(|(end, _)| *end <= now)
        {
            if let Some(ban) = self.take(network) {
                ended.push((network, self.remember(network, ban.count, ban.until)));
            }
        }
        self.forgive(now);
        ended
    }

    /// Writes down that a network was banned so often, the last time until
    /// `ended`; none by verdict says nothing.
    pub fn remember(&mut self, network: IpNetwork, count: u16, ended: u32) -> Option<Past> {
        if count == 0 {
            return None;
        }
        let past = Past { count, ended };
        self.past.insert(network, past);
        self.past_order.push_back((ended, network));
        if self.past_order.len() > MOST_PAST
            && let Some(oldest) = self.past_order.pop_front()
        {
            self.forget(oldest);
        }
        Some(past)
    }

    fn forgive(&mut self, now: u32) {
        let window = self.rule.window;
        let over = |ended: u32| now.saturating_sub(ended) >= window;
        while let Some(oldest) = self.past_order.front().copied().filter(|(at, _)| over(*at)) {
            self.past_order.pop_front();
            self.forget(oldest);
        }
    }

    fn forget(&mut self, (ended, network): (u32, IpNetwork)) {
        // There may be a newer one.
        if self
            .past
            .get(&network)
            .is_some_and(|past| past.ended <= ended)
        {
            self.past.remove(&network);
        }
    }

    /// What counts of a network's past, where it is not banned.
    #[must_use]
    pub fn past(&self, network: IpNetwork) -> Option<Past> {
        self.past.get(&network).copied()
    }

    /// Forgets what counts of `whom`, and of what holds one of them; for each network
    /// that was, the place of that. Bans stay: the kernel has to lose them first.
    pub fn forget_past(&mut self, whom: &Whom) -> Vec<usize> {
        let mut places = Vec::new();
        self.past.retain(|kept, _| {
            let place = whom.of(*kept, false);
            places.extend(place);
            place.is_none()
        });
        self.past_order
            .retain(|(_, kept)| whom.of(*kept, false).is_none());
        places
    }

    /// The networks that have one.
    pub fn with_past(&self) -> impl Iterator<Item = IpNetwork> + '_ {
        self.past.keys().copied()
    }

    /// How many networks are remembered for the bans that they had.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.past.len()
    }

    /// `list` is wrong: the bans of one family that rest on it and were made
    /// at `since` or later (none: ever) are to be lifted. Whoever was banned
    /// before `since` was banned by a list that was right then.
    pub fn lift(&mut self, list: usize, ipv6: bool, since: Option<u32>) {
        let wrong = self.bans.iter().filter(|(network, ban)| {
            network.is_ipv6() == ipv6
                && since.is_none_or(|since| ban.since >= since)
                && self.known.rests_on(ban.grounds, list)
        });
        let waiting = wrong.map(|(network, ban)| Wrong {
            network: *network,
            list,
            until: ban.until,
        });
        let waiting: Vec<Wrong> = waiting.collect();
        for wrong in &waiting {
            self.remove(wrong.network, Why::Wrong, 0);
        }
        self.wrong.extend(waiting);
    }

    /// The next ban to be lifted, unless it has run out by itself.
    pub fn next_wrong(&mut self, now: u32) -> Option<Wrong> {
        while let Some(wrong) = self.wrong.pop_front() {
            if wrong.until > now {
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
#[path = "book_tests.rs"]
mod tests;
