//! Asking the lists: from the cache, else all at the same time, each question
//! once for all who want its answer.
//!
//! A question that has been asked is waited for to its own end, also where
//! nobody wants to know any longer: its answer is in the cache for the next.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::answer::{Answer, Unknown};
use super::budget::{Budget, Grant};
use super::cache::{Bounds, Cache, Entry, Key};
use super::clock::Clock;
use super::evidence::{Evidence, Listing};
use super::global::is_global;
use super::health::{Change, Got, Health, Reason, Trust};
use super::resolver::Resolver;
use super::rule;
use super::said::Said;
use super::score::{Reach, Thresholds};
use super::selftest::Family;
use super::{Zone, query};
use crate::config::Resolver as Settings;

/// Questions that may wait for their turn, beside those that are open; what
/// comes beyond is unknown.
const QUEUE: usize = 8192;

/// The lists, what they said, and how they are.
#[derive(Debug)]
pub struct Lists {
    pub(super) lists: Vec<List>,
    pub(super) resolver: Resolver,
    pub(super) cache: Cache,
    pub(super) clock: Clock,
    pub(super) settings: Settings,
    thresholds: Thresholds,
    in_flight: Mutex<HashMap<Key, Question>>,
    pub(super) turns: Semaphore,
    pub(super) moved: watch::Sender<()>,
    pub(super) wake: Notify,
    notices: mpsc::UnboundedSender<Notice>,
    hits: AtomicU64,
    misses: AtomicU64,
    unknown: AtomicU64,
}

/// How many answers there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// From the cache.
    pub hits: u64,
    /// That had to be asked for.
    pub misses: u64,
    /// Of those, how many no list gave.
    pub unknown: u64,
}

/// One list.
#[derive(Debug)]
pub(super) struct List {
    pub(super) zone: Zone,
    pub(super) number: u32,
    reach: Reach,
    said: Said,
    pub(super) budget: Mutex<Budget>,
    health: [Mutex<Health>; 2],
}

/// Where an answer is sent to, with the list's place in the configuration.
type Waiter = mpsc::UnboundedSender<(usize, Answer)>;

/// A question that is open.
#[derive(Debug, Default)]
struct Question {
    /// Who wants its answer.
    waiters: Vec<Waiter>,
    /// When it was its turn to be asked.
    sent: Option<Instant>,
}

/// What the admin, and the bans that rest on a list, must hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The list, by its place in the configuration.
    pub list: usize,
    /// What of it.
    pub news: News,
}

/// What there is to hear of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It is not believed from now on; when it passed its last test.
    Opened(Family, Reason, Option<Instant>),
    /// It is believed again.
    Closed(Family),
    /// It has passed the first of all tests, so there is a resolver.
    FirstPassed,
    /// 80 % of its queries of the day are used.
    BudgetLow,
    /// It has no queries left today.
    BudgetUsedUp,
    /// A new day, and new queries.
    BudgetRenewed,
}

/// What is known of a list's answer without asking.
enum Known {
    Answer(Answer, Got),
    /// Its test must end first.
    Wait,
    Ask,
    /// It was silent: it is asked, and not waited for.
    Try,
}

impl List {
    pub(super) fn health(&self, family: Family) -> MutexGuard<'_, Health> {
        let index = usize::from(family == Family::V6);
        // A health is whole at every moment, so a panic elsewhere leaves it usable.
        self.health[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The families that it is asked for.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> + '_ {
        [Family::V4, Family::V6].into_iter().filter(|family| {
            let [entry, _] = family.test_entries();
            self.zone.covers(entry)
        })
    }
}

impl Lists {
    /// Lists of these zones, and where what there is to hear of them comes.
    #[must_use]
    pub fn new(
        zones: Vec<Zone>,
        settings: Settings,
        bounds: Bounds,
        thresholds: Thresholds,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Notice>) {
        let now = Instant::now();
        let lists = zones
            .into_iter()
            .map(|zone| List {
                number: zone.number(),
                reach: rule::reach(zone.rules()),
                said: Said::default(),
                budget: Mutex::default(),
                health: [(); 2].map(|()| Mutex::new(Health::new(zone.self_test(), now))),
                zone,
            })
            .collect();
        let (notices, receiver) = mpsc::unbounded_channel();
        let lists = Self {
            lists,
            resolver: Resolver::new(settings.clone()),
            cache: Cache::new(bounds),
            clock: Clock::new(now, SystemTime::now()),
            turns: Semaphore::new(settings.in_flight),
            settings,
            thresholds,
            in_flight: Mutex::default(),
            moved: watch::Sender::new(()),
            wake: Notify::new(),
            notices,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        };
        (Arc::new(lists), receiver)
    }

    /// The resolver that they are asked through.
    #[must_use]
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The list at this place of the configuration.
    #[must_use]
    pub fn zone(&self, list: usize) -> Option<&Zone> {
        self.lists.get(list).map(|list| &list.zone)
    }

    /// How many answers there were, since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
        }
    }

    /// The lists, and what each says, since the start.
    pub fn said(&self) -> impl Iterator<Item = (&Zone, &Said)> {
        self.lists.iter().map(|list| (&list.zone, &list.said))
    }

    /// What the lists say of `client`, beside couriertcpd's `courier`, of which
    /// those that ask a list of ours rest on it. Returns
    /// once no outstanding answer could change the sentence, or at the limit.
    pub async fn ask(self: &Arc<Self>, client: IpAddr, courier: Vec<Listing>) -> Evidence {
        let client = client.to_canonical();
        let begun = Instant::now();
        let is_asked = self.settings.query_non_global || is_global(client);
        let mut courier = courier;
        for listing in &mut courier {
            let ours = |list: &usize| is_asked && self.lists[*list].zone.covers(client);
            listing.list = listing.list.filter(ours);
        }
        let mut evidence = Evidence::of_courier(courier, begun);
        if !is_asked {
            return evidence;
        }
        let mut waiting: Vec<usize> = (0..self.lists.len())
            .filter(|index| self.lists[*index].zone.covers(client))
            .collect();
        self.answer_known(client, begun, &mut waiting, &mut evidence);
        if (waiting.is_empty() || self.is_decided(&evidence, &waiting, &[]))
            && self.all_stand(client, &mut waiting, &mut evidence)
        {
            return evidence;
        }
        let (sender, mut answers) = mpsc::unbounded_channel();
        let mut moved = self.moved.subscribe();
        let mut asked: Vec<usize> = Vec::new();
        let deadline = sleep_until((begun + self.settings.limit).into());
        tokio::pin!(deadline);
        loop {
            let now = Instant::now();
            self.answer_known(client, now, &mut waiting, &mut evidence);
            if !self.is_decided(&evidence, &waiting, &asked) {
                waiting.retain(|index| {
                    let ready = self.trust(*index, client) == Trust::Yes;
                    if ready {
                        self.question(*index, client, Some(&sender), now);
                        asked.push(*index);
                    }
                    !ready
                });
            }
            if asked.is_empty() && waiting.is_empty()
                || self.is_decided(&evidence, &waiting, &asked)
            {
                // What was true when it was said need not be believed now.
                if self.all_stand(client, &mut waiting, &mut evidence) {
                    return evidence;
                }
                continue;
            }
            tokio::select! {
                Some((index, answer)) = answers.recv() => {
                    asked.retain(|asked| *asked != index);
                    let answer = match (&answer, self.trust(index, client)) {
                        (Answer::Unknown(_), _) | (_, Trust::Yes | Trust::Try) => answer,
                        // It is in the cache once the test is passed.
                        (_, Trust::Wait) => { waiting.push(index); continue; }
                        (_, Trust::No) => Answer::Unknown(Unknown::Down),
                    };
                    let got = Got::at(Instant::now());
                    evidence.add(index, &self.lists[index].zone, answer, got);
                }
                _ = moved.changed(), if !waiting.is_empty() => {}
                () = &mut deadline => break,
            }
        }
        let now = Instant::now();
        self.all_stand(client, &mut waiting, &mut evidence);
        for index in waiting {
            self.health_of(index, client).overdue(false, now);
            self.unknown_to(&mut evidence, index, Unknown::Timeout, now);
        }
        for index in asked {
            let late = self.is_late(index, client, now);
            if late {
                self.health_of(index, client).overdue(true, now);
            }
            // One that was not asked is not to blame.
            let why = if late {
                Unknown::Timeout
            } else {
                Unknown::Busy
            };
            self.unknown_to(&mut evidence, index, why, now);
        }
        self.wake.notify_one();
        evidence
    }

    /// As [`Self::ask`]; but lists that name a client who is known to be `good`
    /// are tested before they are believed. All within the limit: `None` where
    /// it ends before the tests do.
    pub async fn ask_with_doubt(
        self: &Arc<Self>,
        client: IpAddr,
        courier: Vec<Listing>,
        good: impl Fn(&Evidence) -> bool,
    ) -> Option<Evidence> {
        let begun = Instant::now();
        let mut evidence = self.ask(client, courier.clone()).await;
        while !evidence.got.is_empty() && good(&evidence) && self.doubt(client, &evidence) {
            let left = self.settings.limit.checked_sub(begun.elapsed())?;
            let again = timeout(left, self.ask(client, courier.clone()));
            evidence = again.await.ok()?;
        }
        Some(evidence)
    }

    fn unknown_to(&self, evidence: &mut Evidence, index: usize, why: Unknown, now: Instant) {
        let zone = &self.lists[index].zone;
        evidence.add(index, zone, Answer::Unknown(why), Got::at(now));
    }

    /// Whether a question, which is open, has been so for a query's time.
    fn is_late(&self, index: usize, client: IpAddr, now: Instant) -> bool {
        let key = Key::new(self.lists[index].number, client);
        let sent = self.in_flight().get(&key).map(|question| question.sent);
        match sent {
            Some(sent) => {
                sent.is_some_and(|at| now.duration_since(at) >= self.settings.query_limit)
            }
            // It has ended this moment.
            None => false,
        }
    }

    /// Takes back what was said by lists that are not believed any longer, and
    /// puts those into `waiting` that may be again. Whether nothing was taken
    /// back that may be said again.
    fn all_stand(&self, client: IpAddr, waiting: &mut Vec<usize>, evidence: &mut Evidence) -> bool {
        let mut stand = true;
        for (index, got) in evidence.got.clone() {
            let health = self.health_of(index, client);
            if health.believes(got) {
                continue;
            }
            let down = health.trust() == Trust::No;
            drop(health);
            evidence.remove(index);
            if down {
                self.unknown_to(evidence, index, Unknown::Down, Instant::now());
            } else if !waiting.contains(&index) {
                waiting.push(index);
            }
            stand = false;
        }
        stand
    }

    fn is_decided(&self, evidence: &Evidence, waiting: &[usize], asked: &[usize]) -> bool {
        let outstanding = waiting.iter().chain(asked);
        let reaches = outstanding.map(|index| self.lists[*index].reach);
        self.thresholds.decided(evidence.tally, reaches).is_some()
    }

    fn health_of(&self, index: usize, client: IpAddr) -> MutexGuard<'_, Health> {
        self.lists[index].health(Family::of(client))
    }

    fn trust(&self, index: usize, client: IpAddr) -> Trust {
        self.health_of(index, client).trust()
    }

    /// Whether list number `index` has its breaker open for `client`'s family.
    #[must_use]
    pub fn is_open(&self, index: usize, client: IpAddr) -> bool {
        self.health_of(index, client).is_open()
    }

    /// When it last passed its self-test.
    #[must_use]
    pub fn last_passed(&self, index: usize, client: IpAddr) -> Option<Instant> {
        self.health_of(index, client).last_passed()
    }

    /// Takes those out of `waiting` whose answer is known, or that are not to be
    /// waited for.
    fn answer_known(
        self: &Arc<Self>,
        client: IpAddr,
        now: Instant,
        waiting: &mut Vec<usize>,
        evidence: &mut Evidence,
    ) {
        waiting.retain(|index| match self.known(*index, client, now) {
            Known::Answer(answer, got) => {
                evidence.add(*index, &self.lists[*index].zone, answer, got);
                false
            }
            Known::Try => {
                if self.health_of(*index, client).begin_try(now) {
                    self.question(*index, client, None, now);
                }
                self.unknown_to(evidence, *index, Unknown::Down, now);
                false
            }
            Known::Wait | Known::Ask => true,
        });
    }

    /// How long, in seconds, what is known of `client` holds: until the first of
    /// the lists' answers ends. `None` where no list has one.
    #[must_use]
    pub fn holds(&self, client: IpAddr, now: Instant) -> Option<u32> {
        let client = client.to_canonical();
        let seconds = self.clock.seconds(now);
        let entries = self.lists.iter().filter(|list| list.zone.covers(client));
        entries
            .filter_map(|list| self.cache.get(&Key::new(list.number, client)))
            .filter(|entry| entry.is_fresh(seconds))
            .map(|entry| entry.ends - seconds)
            .min()
    }

    /// When a cached answer was got: its time is a whole second, rounded up.
    pub(super) fn got(&self, entry: &Entry) -> Got {
        Got {
            from: self.clock.instant(entry.got.saturating_sub(1)),
            to: self.clock.instant(entry.got),
        }
    }

    fn known(&self, index: usize, client: IpAddr, now: Instant) -> Known {
        let list = &self.lists[index];
        let entry = self.cache.get(&Key::new(list.number, client));
        let seconds = self.clock.seconds(now);
        let health = self.health_of(index, client);
        let trust = health.trust();
        if let Some(entry) = entry.filter(|entry| {
            let usable = match trust {
                Trust::No | Trust::Try => entry.is_usable(seconds, &self.cache.bounds),
                Trust::Yes | Trust::Wait => entry.is_fresh(seconds),
            };
            usable && health.believes(self.got(entry))
        }) {
            self.hits.fetch_add(1, Relaxed);
            let answer = entry.answer();
            list.said.kept(&answer);
            return Known::Answer(answer, self.got(&entry));
        }
        match trust {
            Trust::Yes => Known::Ask,
            Trust::Try => Known::Try,
            Trust::Wait => Known::Wait,
            Trust::No => Known::Answer(Answer::Unknown(Unknown::Down), Got::at(now)),
        }
    }

    /// Asks list number `index`, unless that is being asked; the answer comes
    /// to `waiter`.
    fn question(
        self: &Arc<Self>,
        index: usize,
        client: IpAddr,
        waiter: Option<&Waiter>,
        now: Instant,
    ) {
        let key = Key::new(self.lists[index].number, client);
        let refused = {
            let mut open = self.in_flight();
            let full = open.len() >= self.settings.in_flight + QUEUE;
            match open.get_mut(&key) {
                Some(question) => {
                    question.waiters.extend(waiter.cloned());
                    return;
                }
                None if full => Some(Unknown::Busy),
                None if !self.grant(index, now) => Some(Unknown::Budget),
                None => {
                    let question = open.entry(key).or_default();
                    question.waiters.extend(waiter.cloned());
                    None
                }
            }
        };
        if let Some(unknown) = refused {
            if let Some(waiter) = waiter {
                // Its receiver is the caller's own.
                let _ = waiter.send((index, Answer::Unknown(unknown)));
            }
            return;
        }
        self.misses.fetch_add(1, Relaxed);
        tokio::spawn(Arc::clone(self).fetch(index, client, key));
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<Key, Question>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one query more may be sent to list number `index` today.
    pub(super) fn grant(&self, index: usize, now: Instant) -> bool {
        let list = &self.lists[index];
        let (day, grant) = {
            let mut budget = list.budget.lock().unwrap_or_else(PoisonError::into_inner);
            let before = *budget;
            let grant = budget.take(list.zone.max_queries(), self.clock.seconds(now));
            let most = list.zone.max_queries().unwrap_or(u64::MAX);
            (before.used > most && budget.day != before.day, grant)
        };
        if day {
            self.notice(index, News::BudgetRenewed);
        }
        match grant {
            Grant::Warning => self.notice(index, News::BudgetLow),
            Grant::UsedUp => self.notice(index, News::BudgetUsedUp),
            Grant::Yes | Grant::No => {}
        }
        matches!(grant, Grant::Yes | Grant::Warning)
    }

    pub(super) fn notice(&self, list: usize, news: News) {
        // Nobody listens once the filter stops.
        let _ = self.notices.send(Notice { list, news });
    }

    async fn fetch(self: Arc<Self>, index: usize, client: IpAddr, key: Key) {
        // Whatever happens, those who wait get an answer.
        let mut asked = Asked {
            lists: &self,
            index,
            key,
            answer: Answer::Unknown(Unknown::Timeout),
        };
        asked.answer = match timeout(self.settings.limit, self.turns.acquire()).await {
            Ok(_turn) => {
                if let Some(question) = self.in_flight().get_mut(&key) {
                    question.sent = Some(Instant::now());
                }
                self.query(index, client, key).await
            }
            Err(_) => Answer::Unknown(Unknown::Busy),
        };
    }

    async fn query(&self, index: usize, client: IpAddr, key: Key) -> Answer {
        let list = &self.lists[index];
        // A zone's origin was checked to leave room for any client.
        let Some(name) = query::name(client, list.zone.origin()) else {
            return Answer::NotListed;
        };
        let begun = Instant::now();
        list.said.asked.inc();
        let tries = self.settings.query_limit * 2 + Duration::from_millis(100);
        let result = timeout(tries, self.resolver.addresses(&name)).await;
        let (answer, ttl) = match result {
            Ok(Ok(records)) => (
                Answer::from_addresses(&records.data, list.zone.rules()),
                records.ttl,
            ),
            Ok(Err(unknown)) => (Answer::Unknown(unknown), None),
            Err(_) => (Answer::Unknown(Unknown::Timeout), None),
        };
        let now = Instant::now();
        list.said.answered(&answer, now.duration_since(begun));
        let seconds = self.clock.seconds(now);
        if let Some(entry) = Entry::new(&answer, ttl, seconds, &self.cache.bounds) {
            self.cache.insert(key, entry);
        }
        self.note(index, client, &answer, now);
        answer
    }

    /// Notes what an answer tells of the list's health.
    fn note(&self, index: usize, client: IpAddr, answer: &Answer, now: Instant) {
        let family = Family::of(client);
        let mut health = self.lists[index].health(family);
        let passed = health.last_passed();
        let change = if let Answer::Unknown(unknown) = answer {
            self.unknown.fetch_add(1, Relaxed);
            health.failed(unknown, now)
        } else {
            let change = health.answered();
            if change.is_none() {
                return;
            }
            change
        };
        drop(health);
        self.changed(index, family, change, passed);
    }

    /// Tells of a breaker that has opened or closed.
    pub(super) fn changed(
        &self,
        index: usize,
        family: Family,
        change: Option<Change>,
        passed: Option<Instant>,
    ) {
        match change {
            Some(Change::Opened(reason)) => {
                self.notice(index, News::Opened(family, reason, passed));
            }
            Some(Change::Closed) => self.notice(index, News::Closed(family)),
            None => {}
        }
        self.moved.send_replace(());
        self.wake.notify_one();
    }

    /// Keeps what list number `index` answered for `client`, as if it had been
    /// asked.
    pub fn learn(&self, index: usize, client: IpAddr, codes: &[std::net::Ipv4Addr]) {
        let list = &self.lists[index];
        let answer = Answer::from_addresses(codes, list.zone.rules());
        let seconds = self.clock.seconds(Instant::now());
        if let Some(entry) = Entry::new(&answer, None, seconds, &self.cache.bounds) {
            let client = client.to_canonical();
            self.cache.insert(Key::new(list.number, client), entry);
        }
    }

    /// Lists in `evidence` name `client`, which is known to be good: those whose
    /// answer is newer than the last test that they passed are tested at once.
    /// True where one is, and the client is to be asked for again.
    fn doubt(&self, client: IpAddr, evidence: &Evidence) -> bool {
        let client = client.to_canonical();
        let now = Instant::now();
        let mut doubt = false;
        for (index, got) in &evidence.got {
            if !self.lists[*index].zone.allows() {
                let mut health = self.health_of(*index, client);
                doubt |= health.lists_a_good_client(*got, now);
            }
        }
        if doubt {
            self.wake.notify_one();
        }
        doubt
    }
}

/// A question that is open. When it ends, be it by a panic, those who wait have
/// its answer.
struct Asked<'a> {
    lists: &'a Lists,
    index: usize,
    key: Key,
    answer: Answer,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let question = self.lists.in_flight().remove(&self.key);
        for waiter in question.unwrap_or_default().waiters {
            // It may have given up.
            let _ = waiter.send((self.index, self.answer.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dnsbl::lists_of;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn beyond_the_queue_a_question_is_unknown_at_once() {
        let text = "lookup.in-flight = 1\nlookup.nameservers = [\"127.0.0.1:9\"]\n[[dnsbl]]\nzone = \"bl.test\"";
        let lists = lists_of(text);
        let (waiter, mut answers) = mpsc::unbounded_channel();
        let now = Instant::now();
        for number in 0..u32::try_from(1 + QUEUE).unwrap() + 5 {
            let client = Ipv4Addr::from(0xc612_0000 + number).into();
            lists.question(0, client, Some(&waiter), now);
        }
        // Nobody has had a turn, as nothing was waited for.
        assert_eq!(lists.in_flight().len(), 1 + QUEUE);
        for _ in 0..5 {
            let refused = (0, Answer::Unknown(Unknown::Busy));
            assert_eq!(answers.try_recv(), Ok(refused));
        }
        assert!(answers.try_recv().is_err());
    }
}
