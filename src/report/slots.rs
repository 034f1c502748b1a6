//! The slots in use over time, as far as the log tells.
//!
//! Courier logs a session's begin, and its end only where the client was silent
//! for too long, so this is an estimate. A session is taken to hold its slot
//! - until rblfilter ended it, or Courier did (`Connection timed out`), where
//!   the log says so;
//! - for [`AFTER_DELIVERY`] seconds after its last message was taken over;
//! - else for `hold` seconds after its last line;
//! - and no longer than the slots allow, once the log told how many there
//!   are: where all are in use and another session begins, the one that would
//!   end next has ended.
//!
//! That a session timed out is known ten minutes too late; it is then counted
//! after all. Courier's own counts (`N active connections`) are kept beside it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;

use super::series::Series;

/// Seconds; a client that has delivered says QUIT.
pub const AFTER_DELIVERY: i64 = 2;
/// Seconds for which a session is remembered after its last line: until
/// courieresmtpd must have ended it, and a minute for the tarpit.
const REMEMBERED: i64 = 660;
/// Seconds; Courier waits no longer.
pub const LONGEST_HOLD: i64 = 600;
/// Sessions that are remembered at the same time.
const MOST: usize = 131_072;
/// Sessions of one address that are looked at: a line without a port is one of theirs.
const LOOKED_AT: usize = 256;

/// A client's address, as a number that is quickly compared, and port.
pub type Client = (u128, u16);

/// An address as a number: IPv4 mapped into IPv6. None is two numbers, as
/// mapped addresses are read as IPv4.
#[must_use]
pub fn packed(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address of such a number.
#[must_use]
pub fn unpacked(number: u128) -> IpAddr {
    IpAddr::V6(number.into()).to_canonical()
}

/// What a session was refused for; each counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// By rblfilter.
    Ours = 1,
    /// Because of Courier's own lists.
    Courier = 2,
    /// For another reason.
    Other = 4,
}

#[derive(Debug)]
struct Session {
    begun: i64,
    last: i64,
    /// When its slot is free again.
    until: i64,
    holds: bool,
    /// Its end is in the log.
    ended: bool,
    timed_out: bool,
    marks: u8,
}

/// What the sessions cost that Courier refused because of its lists, and that nobody ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sat {
    /// How many.
    pub sessions: u64,
    /// Those that were silent until Courier's own limit.
    pub timed_out: u64,
    /// Slot-seconds between their first and last line: certainly used.
    pub seen: u64,
    /// Slot-seconds by the estimate.
    pub assumed: u64,
}

/// The sessions that hold a slot.
#[derive(Debug)]
pub struct Slots {
    hold: i64,
    sessions: BTreeMap<Client, Session>,
    due: BinaryHeap<Reverse<(i64, Client)>>,
    used: u32,
    all: Option<u32>,
    now: i64,
    sat: Sat,
    cut_short: u64,
}

impl Slots {
    /// No session yet; one that is not seen to end holds its slot for `hold`
    /// seconds after its last line.
    #[must_use]
    pub fn new(hold: i64) -> Self {
        Self {
            hold: hold.clamp(0, LONGEST_HOLD),
            sessions: BTreeMap::new(),
            due: BinaryHeap::new(),
            used: 0,
            all: None,
            now: i64::MIN,
            sat: Sat::default(),
            cut_short: 0,
        }
    }

    /// Lets time go by. A line older than the last changes nothing here.
    pub fn advance(&mut self, at: i64, series: &mut Series) {
        if self.now == i64::MIN {
            self.now = at;
        }
        while let Some(Reverse((due, client))) = self.due.peek().copied() {
            if due > at {
                break;
            }
            self.due.pop();
            let Some(session) = self.sessions.get(&client) else {
                continue;
            };
            let next = if session.holds {
                session.until
            } else {
                session.last + REMEMBERED
            };
            if next > due {
                self.due.push(Reverse((next, client)));
                continue;
            }
            if session.holds {
                let until = session.until.max(self.now);
                series.in_use(self.now, until, self.used);
                self.now = until;
                self.free(client);
            } else {
                self.forget(client);
            }
        }
        if at > self.now {
            series.in_use(self.now, at, self.used);
            self.now = at;
        }
    }

    /// A session begins; `false` where it is known already.
    pub fn start(&mut self, client: Client) -> bool {
        let now = self.now;
        let hold = self.hold;
        if let Some(session) = self.sessions.get_mut(&client) {
            // A port comes again only after its session has ended.
            if session.holds || session.ended && now - session.last <= hold {
                session.last = now;
                session.until = now + hold;
                return false;
            }
            self.forget(client);
        }
        while self.sessions.len() >= MOST {
            self.cut_short += 1;
            if !self.next(true) {
                break;
            }
        }
        while self.all.is_some_and(|all| self.used >= all.max(1)) {
            if !self.next(false) {
                break;
            }
        }
        self.sessions.insert(
            client,
            Session {
                begun: now,
                last: now,
                until: now + hold,
                holds: true,
                ended: false,
                timed_out: false,
                marks: 0,
            },
        );
        self.due.push(Reverse((now + hold, client)));
        self.used += 1;
        true
    }

    /// A session got a refusal; whether it is its first of that kind, and no
    /// other of those in `besides`. One that is not known counts.
    pub fn refused(&mut self, client: Client, mark: Mark, besides: &[Mark]) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else {
            return true;
        };
        session.last = self.now;
        session.until = session.until.max(self.now + self.hold);
        let known = besides
            .iter()
            .fold(mark as u8, |all, mark| all | *mark as u8);
        let first = session.marks & known == 0;
        session.marks |= mark as u8;
        first
    }

    /// A message of this address was taken over: by its newest session.
    pub fn delivered(&mut self, ip: u128) {
        let newest = self
            .of_address(ip)
            .max_by_key(|(_, session)| session.begun)
            .map(|(client, _)| *client);
        if let Some(client) = newest
            && let Some(session) = self.sessions.get_mut(&client)
        {
            session.last = self.now;
            session.until = self.now + AFTER_DELIVERY;
            self.due.push(Reverse((session.until, client)));
        }
    }

    /// The session was ended by rblfilter.
    pub fn end(&mut self, client: Client) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.last = self.now;
            session.ended = true;
            self.free(client);
        }
    }

    /// So many sessions that began since that second were ended, which is all
    /// that is known of them; how many there are of whom the log told no more
    /// than their begin. Those then hold no slot.
    pub fn end_some(&mut self, since: i64, number: u64) -> u64 {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let ended: Vec<Client> = self
            .sessions
            .iter()
            .filter(|(_, session)| {
                let only_begun = session.marks == 0 && session.last == session.begun;
                session.holds && only_begun && session.begun >= since
            })
            .take(number)
            .map(|(client, _)| *client)
            .collect();
        for client in &ended {
            self.end(*client);
        }
        ended.len() as u64
    }

    /// Courier ended a session of this address, the one that was silent
    /// longest; it held its slot until now.
    pub fn lost(&mut self, ip: u128, timed_out: bool, series: &mut Series) {
        let silent = self
            .of_address(ip)
            .min_by_key(|(_, session)| session.last)
            .map(|(client, _)| *client);
        if let Some(client) = silent
            && let Some(session) = self.sessions.get_mut(&client)
        {
            if !session.holds {
                series.in_use_too(session.until, self.now);
            }
            session.last = self.now;
            session.until = self.now;
            session.ended = true;
            session.timed_out = timed_out;
            self.free(client);
        }
    }

    fn of_address(&self, ip: u128) -> impl Iterator<Item = (&Client, &Session)> {
        self.sessions
            .range((ip, 0)..=(ip, u16::MAX))
            .filter(|(_, session)| !session.ended)
            .take(LOOKED_AT)
    }

    /// There are so many slots.
    pub fn of(&mut self, all: u32) {
        self.all = Some(all);
    }

    /// How many slots there are, where the log told.
    #[must_use]
    pub fn all(&self) -> Option<u32> {
        self.all
    }

    /// How many are in use.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Sessions that were no longer followed for want of room.
    #[must_use]
    pub fn cut_short(&self) -> u64 {
        self.cut_short
    }

    /// The log is over: what is open is counted up to here.
    pub fn finish(&mut self) -> Sat {
        let now = self.now;
        for session in self.sessions.values_mut() {
            session.until = session.until.min(now);
        }
        let open: Vec<Client> = self.sessions.keys().copied().collect();
        for client in open {
            self.forget(client);
        }
        self.sat
    }

    /// The session that is due next loses its slot, or is forgotten; `false` where there is none.
    fn next(&mut self, forget: bool) -> bool {
        while let Some(Reverse((_, client))) = self.due.pop() {
            let now = self.now;
            let Some(session) = self.sessions.get_mut(&client) else {
                continue;
            };
            if forget {
                session.until = session.until.min(now);
                self.forget(client);
                return true;
            }
            self.due
                .push(Reverse((session.last.max(now) + REMEMBERED, client)));
            if session.holds {
                session.until = now;
                self.free(client);
                return true;
            }
        }
        false
    }

    /// The session's slot is free; it is still remembered.
    fn free(&mut self, client: Client) {
        if let Some(session) = self.sessions.get_mut(&client)
            && session.holds
        {
            session.holds = false;
            self.used -= 1;
            self.due.push(Reverse((session.last + REMEMBERED, client)));
        }
    }

    fn forget(&mut self, client: Client) {
        self.free(client);
        let Some(session) = self.sessions.remove(&client) else {
            return;
        };
        let nobody_ended = !session.ended || session.timed_out;
        if nobody_ended && session.marks & Mark::Courier as u8 != 0 {
            let seconds = |end: i64| u64::try_from(end - session.begun).unwrap_or(0);
            self.sat.sessions += 1;
            self.sat.timed_out += u64::from(session.timed_out);
            self.sat.seen += seconds(session.last);
            self.sat.assumed += seconds(session.until.max(session.last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16) -> Client {
        (packed("192.0.2.1".parse().unwrap()), port)
    }

    /// The slot-seconds that a log costs which does `what` from second 100 on
    /// and ends at 2000, the most slots in use, and what was refused.
    fn cost(what: impl FnOnce(&mut Slots, &mut Series)) -> (u64, u32, Sat) {
        let (mut slots, mut series) = (Slots::new(60), Series::default());
        slots.advance(100, &mut series);
        what(&mut slots, &mut series);
        slots.advance(2000, &mut series);
        let all = series.steps().map(|(_, step)| step.slot_seconds).sum();
        let peak = series.steps().map(|(_, step)| step.most(1)).max();
        assert_eq!((slots.used(), series.width()), (0, 1));
        assert!(slots.sessions.is_empty() && slots.due.is_empty());
        (all, peak.unwrap_or(0), slots.finish())
    }

    #[test]
    fn an_address_is_one_number() {
        for text in ["192.0.2.1", "0.0.0.0", "::", "::1", "2001:db8::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(unpacked(packed(ip)), ip);
        }
    }

    #[test]
    fn a_session_holds_its_slot_for_a_while_after_its_last_line() {
        let (seconds, peak, _) = cost(|slots, _| assert!(slots.start(client(1))));
        assert_eq!((seconds, peak), (60, 1));
        let (seconds, _, sat) = cost(|slots, series| {
            slots.start(client(1));
            slots.advance(110, series);
            assert!(slots.refused(client(1), Mark::Courier, &[]));
            assert!(!slots.refused(client(1), Mark::Courier, &[]));
            assert!(!slots.refused(client(1), Mark::Ours, &[Mark::Courier]));
        });
        assert_eq!(seconds, 70);
        let expected = Sat {
            sessions: 1,
            timed_out: 0,
            seen: 10,
            assumed: 70,
        };
        assert_eq!(sat, expected);
    }

    #[test]
    fn a_session_that_delivered_is_over_soon() {
        let (seconds, ..) = cost(|slots, series| {
            slots.start(client(1));
            slots.advance(105, series);
            slots.delivered(client(1).0);
        });
        assert_eq!(seconds, 7);
    }

    #[test]
    fn a_session_that_was_ended_holds_no_slot_and_is_known_all_the_same() {
        let (seconds, _, sat) = cost(|slots, series| {
            slots.start(client(1));
            slots.advance(103, series);
            slots.refused(client(1), Mark::Courier, &[]);
            slots.end(client(1));
            slots.end(client(1));
            assert!(!slots.start(client(1)), "the same session");
        });
        assert_eq!(seconds, 3);
        assert_eq!(sat, Sat::default());
    }

    #[test]
    fn sessions_that_are_told_of_in_a_sum_hold_no_slot() {
        let (seconds, ..) = cost(|slots, series| {
            slots.start(client(1));
            slots.advance(150, series);
            slots.start(client(2));
            slots.start(client(3));
            slots.start(client(4));
            slots.refused(client(4), Mark::Other, &[]);
            slots.advance(152, series);
            assert_eq!(slots.end_some(140, 10), 2);
            assert_eq!(slots.end_some(0, 0), 0);
        });
        assert_eq!(seconds, 60 + 2 + 2 + 60);
    }

    #[test]
    fn a_session_that_timed_out_held_its_slot_all_the_while() {
        let (seconds, peak, sat) = cost(|slots, series| {
            slots.start(client(1));
            slots.start(client(2));
            slots.refused(client(1), Mark::Courier, &[]);
            slots.advance(700, series);
            slots.lost(client(1).0, true, series);
            slots.lost(client(2).0, true, series);
        });
        assert_eq!((seconds, peak), (1200, 2));
        let expected = Sat {
            sessions: 1,
            timed_out: 1,
            seen: 600,
            assumed: 600,
        };
        assert_eq!(sat, expected);
    }

    #[test]
    fn a_port_that_comes_again_is_another_session() {
        let (seconds, ..) = cost(|slots, series| {
            assert!(slots.start(client(1)));
            slots.advance(200, series);
            assert!(slots.start(client(1)));
        });
        assert_eq!(seconds, 120);
    }

    #[test]
    fn never_more_than_there_are() {
        let (_, peak, _) = cost(|slots, _| {
            slots.of(5);
            for port in 0..100 {
                slots.start(client(port));
            }
        });
        assert_eq!(peak, 5);
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut slots, mut series) = (Slots::new(60), Series::default());
        slots.advance(100, &mut series);
        for number in 0..140_000_u32 {
            slots.start((number.into(), 1));
        }
        assert_eq!(slots.sessions.len(), MOST);
        assert_eq!(slots.cut_short(), 140_000 - MOST as u64);
    }
}
