//! Whose packets are held, since when, and what becomes of them. Pure: it takes
//! `now`, and tells what is to be done with which packet.
//!
//! Everything is bounded: clients that are asked for, packets that are held, of
//! all and of one client, questions in a second. What is beyond is let in.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rblfilter_warden::bucket::Bucket;
use rblfilter_warden::question::{AT_ONCE, Client, Count, Verdict};

use super::counts::Counts;

/// A packet, as the kernel's queue numbers it.
pub type Packet = u32;

/// The most clients that are asked for at the same time.
pub const MOST_CLIENTS: usize = 8192;
/// The most packets that are held; the kernel's queue is as long and a half.
pub const MOST_HELD: usize = 8192;
/// The most packets of one client: what it sends while it is judged.
const MOST_OF_ONE: usize = 16;
/// How long after the limit an answer is still of use: for the sets.
const AFTER: Duration = Duration::from_secs(5);
/// How often the worker is asked while it is silent.
const PROBES_PER_SECOND: u32 = 20;

/// What is to be done with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They go on.
    Accept,
    /// They are dropped.
    Drop,
}

/// What a verdict leaves to be done beside the packets: which set an address
/// goes into, for how many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub address: IpAddr,
    /// Into the deny set; else into the pass set.
    pub denied: bool,
    /// How long.
    pub seconds: u32,
}

/// A client that the worker was asked for.
#[derive(Debug)]
struct Asked {
    /// Its packets, with the time that each came; none after the limit.
    packets: Vec<(Packet, Instant)>,
    since: Instant,
    /// Whether its packets were let in at the limit.
    late: bool,
}

/// Who is asked for.
#[derive(Debug)]
pub struct Pending {
    limit: Duration,
    /// Whether nothing is held and nobody kept out.
    observes: bool,
    asked: HashMap<Client, Asked>,
    /// In the order of their limits, which is the order in which they came.
    limits: VecDeque<(Instant, Client)>,
    /// In the order of their ends.
    ends: VecDeque<(Instant, Client)>,
    held: usize,
    /// Not sent yet.
    questions: VecDeque<Client>,
    asks: Bucket,
    probes: Bucket,
    /// When the worker was last heard of.
    heard: Option<Instant>,
    /// Whether it let a whole limit pass without a word.
    silent: bool,
    decided: Vec<(Packet, Fate)>,
    /// What was done since this was last taken.
    pub counts: Counts,
}

impl Pending {
    /// Nobody. Packets are held for at most `limit`, and at most `per_second`
    /// clients asked for in a second. One that `observes` holds none and denies
    /// nobody.
    pub fn new(limit: Duration, per_second: u32, observes: bool) -> Self {
        Self {
            limit,
            observes,
            asked: HashMap::new(),
            limits: VecDeque::new(),
            ends: VecDeque::new(),
            held: 0,
            questions: VecDeque::new(),
            asks: Bucket::new(per_second),
            probes: Bucket::new(PROBES_PER_SECOND),
            heard: None,
            silent: false,
            decided: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// A packet that is no plain SYN.
    pub fn odd(&mut self, packet: Packet) {
        self.counts.add(Count::Odd);
        self.decided.push((packet, Fate::Accept));
    }

    /// The first packet of a connection of `client`.
    pub fn arrived(&mut self, packet: Packet, client: Client, now: Instant) {
        if let Some(asked) = self.asked.get_mut(&client) {
            let joins = !asked.late
                && !self.silent
                && asked.packets.len() < MOST_OF_ONE
                && self.held < MOST_HELD;
            if joins {
                asked.packets.push((packet, now));
                self.held += 1;
                self.counts.add(Count::Joined);
            } else {
                let why = match (self.observes, asked.late) {
                    (true, _) => Count::Passed,
                    (false, true) => Count::Late,
                    (false, false) => Count::Overflow,
                };
                self.let_in(packet, why);
            }
            return;
        }
        let bucket = if self.silent {
            &mut self.probes
        } else {
            &mut self.asks
        };
        let full = self.asked.len() >= MOST_CLIENTS || self.held >= MOST_HELD;
        if full || !bucket.take(now) {
            self.let_in(packet, Count::Overflow);
            return;
        }
        // Of a worker that is silent an answer is hoped for, not waited for.
        let at_once = self.silent || self.observes;
        let mut asked = Asked {
            packets: Vec::new(),
            since: now,
            late: at_once,
        };
        if at_once {
            let why = if self.observes {
                Count::Passed
            } else {
                Count::Overflow
            };
            self.let_in(packet, why);
            self.ends.push_back((now + self.limit + AFTER, client));
        } else {
            asked.packets.push((packet, now));
            self.held += 1;
            self.limits.push_back((now + self.limit, client));
        }
        self.asked.insert(client, asked);
        self.questions.push_back(client);
    }

    fn let_in(&mut self, packet: Packet, why: Count) {
        self.counts.add(why);
        self.decided.push((packet, Fate::Accept));
    }

    /// The worker's word. What is left to be done is an entry of a set; nobody
    /// is denied who was not asked for. `protected`: who may not be dropped.
    pub fn answered(
        &mut self,
        client: Client,
        verdict: Verdict,
        seconds: u32,
        protected: impl FnOnce(IpAddr) -> bool,
        now: Instant,
    ) -> Option<Entry> {
        self.heard = Some(now);
        self.silent = false;
        let asked = self.asked.remove(&client)?;
        let spared = verdict == Verdict::Drop && protected(client.address);
        let (fate, why) = match verdict {
            Verdict::Drop if spared => (Fate::Accept, Count::Spared),
            Verdict::Drop => (Fate::Drop, Count::Dropped),
            Verdict::Pass => (Fate::Accept, Count::Passed),
            Verdict::Unknown => (Fate::Accept, Count::Unknown),
        };
        self.release(asked.packets, fate, why, now);
        self.pass_over_answered();
        let lasts = match verdict {
            Verdict::Pass => seconds > 0,
            Verdict::Drop => seconds > 0 && !spared && !self.observes,
            Verdict::Unknown => false,
        };
        lasts.then_some(Entry {
            address: client.address,
            denied: verdict == Verdict::Drop,
            seconds,
        })
    }

    /// Those that were answered need not wake anybody at their limits.
    fn pass_over_answered(&mut self) {
        while let Some((at, client)) = self.limits.front() {
            let waits = |asked: &Asked| !asked.late && asked.since + self.limit == *at;
            if self.asked.get(client).is_some_and(waits) {
                break;
            }
            self.limits.pop_front();
        }
    }

    fn release(&mut self, packets: Vec<(Packet, Instant)>, fate: Fate, why: Count, now: Instant) {
        self.held -= packets.len();
        for (packet, since) in packets {
            self.counts.add(why);
            let micros = now.saturating_duration_since(since).as_micros();
            self.counts.add(Count::held(micros));
            self.decided.push((packet, fate));
        }
    }

    /// Lets in whose limit has come.
    pub fn expire(&mut self, now: Instant) {
        while let Some((at, client)) = self.limits.front().copied() {
            if at > now {
                break;
            }
            self.limits.pop_front();
            // One that was answered, and asked for anew, has a later limit.
            let due = |asked: &&mut Asked| !asked.late && asked.since + self.limit <= now;
            let Some(asked) = self.asked.get_mut(&client).filter(due) else {
                continue;
            };
            asked.late = true;
            let (packets, since) = (std::mem::take(&mut asked.packets), asked.since);
            self.ends.push_back((now + AFTER, client));
            // All that time nothing was heard.
            self.silent |= self.heard.is_none_or(|heard| heard < since);
            self.release(packets, Fate::Accept, Count::Late, now);
        }
        while self.ends.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, client)) = self.ends.pop_front()
                && self.asked.get(&client).is_some_and(|asked| asked.late)
            {
                self.asked.remove(&client);
            }
        }
    }

    /// Lets in all that are held: the worker is gone.
    pub fn release_all(&mut self, now: Instant) {
        let all = std::mem::take(&mut self.asked);
        (self.limits, self.ends) = (VecDeque::new(), VecDeque::new());
        self.questions.clear();
        for (_, asked) in all {
            self.release(asked.packets, Fate::Accept, Count::Overflow, now);
        }
        self.silent = true;
    }

    /// When [`Pending::expire`] is to be called next, for those who wait for it;
    /// the rest has time.
    pub fn next(&self) -> Option<Instant> {
        self.limits.front().map(|(at, _)| *at)
    }

    /// Whether nothing is held.
    pub fn observes(&self) -> bool {
        self.observes
    }

    /// What is to be told the kernel.
    pub fn take_decided(&mut self) -> Vec<(Packet, Fate)> {
        std::mem::take(&mut self.decided)
    }

    /// Whether questions are to be sent.
    pub fn has_questions(&self) -> bool {
        !self.questions.is_empty()
    }

    /// The next questions, as many as go into one datagram.
    pub fn questions(&self) -> Vec<Client> {
        self.questions.iter().take(AT_ONCE).copied().collect()
    }

    /// So many of them were sent.
    pub fn sent(&mut self, count: usize) {
        self.questions.drain(..count.min(self.questions.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(900);

    fn client(number: u32) -> Client {
        Client {
            address: std::net::Ipv4Addr::from(0x7f42_0000 + number).into(),
            port: 25,
        }
    }

    fn pending() -> (Pending, Instant) {
        (Pending::new(LIMIT, 1_000_000, false), Instant::now())
    }

    fn nobody(_: IpAddr) -> bool {
        false
    }

    #[test]
    fn a_verdict_decides_all_packets_of_its_client() {
        for (verdict, fate, denied) in [
            (Verdict::Pass, Fate::Accept, Some(false)),
            (Verdict::Drop, Fate::Drop, Some(true)),
            (Verdict::Unknown, Fate::Accept, None),
        ] {
            let (mut pending, now) = pending();
            pending.arrived(1, client(1), now);
            pending.arrived(2, client(2), now);
            // Its retransmission.
            pending.arrived(3, client(1), now);
            assert_eq!(pending.questions(), [client(1), client(2)], "asked once");
            pending.sent(2);
            assert!(pending.questions().is_empty());
            assert!(pending.take_decided().is_empty(), "both are held");
            let later = now + Duration::from_millis(3);
            let entry = pending.answered(client(1), verdict, 60, nobody, later);
            assert_eq!(entry.map(|entry| entry.denied), denied);
            assert_eq!(pending.take_decided(), [(1, fate), (3, fate)]);
            assert_eq!(pending.held, 1);
            assert_eq!(pending.next(), Some(now + LIMIT), "the other's");
            assert_eq!(pending.counts.get(Count::Joined), 1);
            assert_eq!(pending.counts.get(Count::Held(2)), 2);
            pending.answered(client(2), verdict, 60, nobody, later);
            assert_eq!(pending.next(), None, "nobody waits");
            // The next one is asked for anew.
            pending.arrived(4, client(1), later);
            assert_eq!(pending.questions(), [client(1)]);
            assert_eq!(pending.next(), Some(later + LIMIT));
        }
    }

    #[test]
    fn who_is_protected_is_let_in_and_kept_out_of_no_set() {
        let (mut pending, now) = pending();
        pending.arrived(1, client(1), now);
        assert_eq!(
            pending.answered(client(1), Verdict::Drop, 60, |_| true, now),
            None
        );
        assert_eq!(pending.take_decided(), [(1, Fate::Accept)]);
        assert_eq!(pending.counts.get(Count::Spared), 1);
    }

    #[test]
    fn nobody_is_denied_who_was_not_asked_for() {
        let (mut pending, now) = pending();
        let entry = pending.answered(client(9), Verdict::Drop, 60, nobody, now);
        assert_eq!(entry, None);
        assert!(pending.take_decided().is_empty());
    }

    #[test]
    fn at_the_limit_all_are_let_in_and_a_late_answer_serves_the_next() {
        let (mut pending, now) = pending();
        pending.arrived(1, client(1), now);
        pending.arrived(2, client(2), now + Duration::from_millis(100));
        assert_eq!(pending.next(), Some(now + LIMIT));
        pending.expire(now + LIMIT);
        assert_eq!(pending.take_decided(), [(1, Fate::Accept)]);
        // Another connection of it waits for nothing.
        pending.arrived(3, client(1), now + LIMIT);
        assert_eq!(pending.take_decided(), [(3, Fate::Accept)]);
        let entry = pending.answered(client(1), Verdict::Drop, 60, nobody, now + LIMIT);
        assert!(entry.is_some_and(|entry| entry.denied));
        assert!(pending.take_decided().is_empty(), "it is in");
        pending.expire(now + LIMIT + Duration::from_millis(100));
        assert_eq!(pending.take_decided(), [(2, Fate::Accept)]);
        assert_eq!(pending.counts.get(Count::Late), 3);
        pending.expire(now + LIMIT * 2 + AFTER);
        assert!(pending.asked.is_empty() && pending.next().is_none());
    }

    #[test]
    fn while_the_worker_is_silent_nobody_waits_and_a_few_are_asked_for() {
        let (mut pending, now) = pending();
        pending.arrived(1, client(1), now);
        pending.expire(now + LIMIT);
        pending.take_decided();
        pending.sent(1);
        for number in 2..1000 {
            pending.arrived(number, client(number), now + LIMIT);
        }
        let let_in = pending.take_decided();
        assert_eq!(let_in.len(), 998);
        assert!(let_in.iter().all(|(_, fate)| *fate == Fate::Accept));
        assert_eq!(pending.held, 0);
        let asked = pending.questions().len();
        assert_eq!(asked, PROBES_PER_SECOND as usize);
        // It speaks: the next is held again.
        pending.answered(client(2), Verdict::Unknown, 0, nobody, now + LIMIT);
        pending.arrived(2000, client(2000), now + LIMIT);
        assert!(pending.take_decided().is_empty());
        assert_eq!(pending.held, 1);
    }

    #[test]
    fn a_worker_that_answers_others_is_not_silent() {
        let (mut pending, now) = pending();
        pending.arrived(1, client(1), now);
        pending.arrived(2, client(2), now);
        let half = now + LIMIT / 2;
        pending.answered(client(2), Verdict::Pass, 1, nobody, half);
        pending.expire(now + LIMIT);
        pending.take_decided();
        pending.arrived(3, client(3), now + LIMIT);
        assert!(pending.take_decided().is_empty(), "held");
    }

    #[test]
    fn whatever_comes_what_is_held_is_bounded_and_the_rest_is_let_in() {
        let (mut pending, now) = pending();
        let all = u32::try_from(MOST_HELD).unwrap() + 5000;
        for number in 0..all {
            pending.arrived(number, client(number), now);
        }
        assert_eq!(pending.held, MOST_HELD);
        assert_eq!(pending.asked.len(), MOST_CLIENTS);
        assert_eq!(pending.take_decided().len(), 5000);
        assert_eq!(pending.counts.get(Count::Overflow), 5000);
        pending.expire(now + LIMIT);
        assert_eq!(pending.take_decided().len(), MOST_HELD);
        assert_eq!(pending.held, 0);
        // One client alone has few places.
        let (mut pending, now) = self::pending();
        for number in 0..100 {
            pending.arrived(number, client(1), now);
        }
        assert_eq!(pending.held, MOST_OF_ONE);
        assert_eq!(pending.take_decided().len(), 100 - MOST_OF_ONE);
    }

    #[test]
    fn beyond_the_rate_nobody_is_asked_for() {
        let mut pending = Pending::new(LIMIT, 100, false);
        let now = Instant::now();
        for number in 0..300 {
            pending.arrived(number, client(number), now);
        }
        assert_eq!(pending.held, 100);
        assert_eq!(pending.take_decided().len(), 200);
    }

    #[test]
    fn without_a_worker_all_are_let_in_at_once() {
        let (mut pending, now) = pending();
        for number in 0..10 {
            pending.arrived(number, client(number), now);
        }
        pending.release_all(now);
        assert_eq!(pending.take_decided().len(), 10);
        assert_eq!((pending.held, pending.asked.len()), (0, 0));
    }

    #[test]
    fn who_observes_holds_nobody_and_denies_nobody() {
        let (mut pending, now) = (Pending::new(LIMIT, 1000, true), Instant::now());
        pending.arrived(1, client(1), now);
        assert_eq!(pending.take_decided(), [(1, Fate::Accept)]);
        assert_eq!(pending.questions(), [client(1)]);
        assert_eq!(
            pending.answered(client(1), Verdict::Drop, 60, nobody, now),
            None
        );
        assert!(pending.take_decided().is_empty());
        assert_eq!(pending.counts.get(Count::Passed), 1);
    }

    /// An answer, and the same client again before the limit of the first.
    #[test]
    fn a_client_that_is_asked_for_again_has_its_own_limit() {
        let (mut pending, now) = pending();
        pending.arrived(1, client(1), now);
        pending.answered(client(1), Verdict::Unknown, 0, nobody, now);
        let again = now + LIMIT / 2;
        pending.arrived(2, client(1), again);
        pending.take_decided();
        pending.expire(now + LIMIT);
        assert!(pending.take_decided().is_empty());
        pending.expire(again + LIMIT);
        assert_eq!(pending.take_decided(), [(2, Fate::Accept)]);
    }
}
