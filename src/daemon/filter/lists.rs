//! What the lists say of a session, what follows from it, and what follows
//! from a list that turns out to be wrong.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rblfilter_warden::request as warden_request;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Degraded, Filter};
use crate::courier::identified::Identified;
use crate::courier::session::Session;
use crate::degraded::Part;
use crate::dnsbl::{Evidence, Family, News, Notice};
use crate::enforce::kill;
use crate::judge::{self, Conviction, Sentence};
use crate::log::Event;
use crate::reply::Facts;
use crate::store::Write;

/// The file of what the lists said, in [`crate::courier::paths::Paths::state`].
pub(super) const CACHE_FILE: &str = "dnsbl-cache";

/// What the lists' tests at the stop may take.
const CONFIRM_TIME: Duration = Duration::from_millis(500);

/// How long the judgement of a session waits for lists that have never passed a test,
/// which are tried after 1 s, 2 s, 4 s, ….
const FIRST_TEST: Duration = Duration::from_secs(60);

/// The pause before bans are lifted that the warden did not answer for.
const LIFT_AGAIN: Duration = Duration::from_secs(10);

/// The lists of which nothing counts, for a family, and since when: the last time
/// that they were right; `None`: never.
pub(super) type Open = HashMap<(usize, Family), Option<Instant>>;

impl Filter {
    /// The sentence for a session that nothing exempts.
    pub(super) async fn sentence(&self, session: &Session) -> Sentence {
        let judged = self.judged(session).await;
        judged.map_or(Sentence::Pass, |(sentence, _)| sentence)
    }

    /// The same, with what it rests on; `None` for one who is known to be good,
    /// at the limit.
    pub(super) async fn judged(&self, session: &Session) -> Option<(Sentence, Evidence)> {
        let never_ban = self.never_ban.contains(session.client);
        let good = |evidence: &Evidence| {
            never_ban
                || evidence.tally.vouched
                || self.senders.has_delivered(session.client, Instant::now())
        };
        let courier = judge::courier_listings(session, &self.config);
        let evidence = self
            .lists
            .ask_with_doubt(session.client, courier, good)
            .await?;
        let sentence =
            |never_ban| judge::sentence(session, &evidence, never_ban, &self.config.thresholds);
        let sentence = match (sentence(never_ban), self.never_ban.unread()) {
            (Sentence::Ban(_), Some(domain)) => {
                let text = "its record has not been read yet; nobody is banned until it has";
                let part = Part::Spf(domain.to_ascii());
                self.degraded.enter(part, text, Instant::now());
                // It was read meanwhile.
                if self.never_ban.unread() != Some(domain) {
                    self.degraded
                        .leave(&Part::Spf(domain.to_ascii()), Instant::now());
                }
                sentence(true)
            }
            (sentence, _) => sentence,
        };
        Some((sentence, evidence))
    }

    /// What a session that has connected is to be banned for. Where a list did not
    /// say because it has never passed a test (we, or it, have just started, and the
    /// resolver may have, too), it is judged once more when it has. It was `seen`
    /// then; the first sentence is the one that is counted.
    pub(super) async fn ban_at_connect(
        &self,
        identified: &Identified,
        seen: Instant,
    ) -> Option<Conviction> {
        let session = &identified.session;
        let judged = self.judged(session).await;
        self.metrics.to_sentence.observe(seen.elapsed());
        let sentence = judged.as_ref().map_or(&Sentence::Pass, |(said, _)| said);
        self.metrics.at_connect.count(sentence);
        self.note_verdict(identified, sentence);
        let (sentence, evidence) = judged?;
        if let Sentence::Ban(conviction) = sentence {
            return Some(conviction);
        }
        let silent = evidence.unknown.iter().map(|(list, _)| *list);
        let unproven = self.lists.unproven(session.client, silent);
        if unproven.is_empty() {
            return None;
        }
        let proven = tokio::select! {
            proven = self.lists.proven(session.client, &unproven, FIRST_TEST) => proven,
            () = kill::ended(identified.esmtpd()) => false,
        };
        if !proven {
            return None;
        }
        let sentence = self.sentence(session).await;
        self.note_verdict(identified, &sentence);
        match sentence {
            Sentence::Ban(conviction) => Some(conviction),
            Sentence::Pass | Sentence::Reject(_) => None,
        }
    }

    /// The reply to a refused message. `read`: somebody may read it, so that it
    /// is worth asking the list for its text.
    pub(super) async fn reply(
        &self,
        client: IpAddr,
        conviction: &Conviction,
        read: bool,
    ) -> String {
        let listing = &conviction.listing;
        let template = listing.message.as_ref().unwrap_or(&self.config.reply);
        let txt = match listing.list {
            Some(list) if read && template.wants_txt() => self.lists.text(list, client).await,
            _ => String::new(),
        };
        template.render(Facts {
            ip: client,
            zone: &listing.zone,
            lookup_url: &listing.lookup_url,
            txt: &txt,
        })
    }

    /// Lifts the bans that rest on a list of `rests_on` that turned out to be
    /// wrong while one was made.
    pub(super) async fn lift_where_open(&self, client: IpAddr, rests_on: &[usize]) {
        for list in rests_on {
            if self.lists.is_open(*list, client) {
                let passed = self.lists.last_passed(*list, client);
                self.lift(*list, Family::of(client), passed).await;
            }
        }
    }

    /// Keeps the lists tested, the SPF records fresh, and does what follows,
    /// until the future is dropped.
    pub async fn keep_lists(self: Arc<Self>) {
        let notices = self
            .notices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(notices) = notices else { return };
        let testing = Arc::clone(&self.lists).keep_tested();
        let spf = self.never_ban.keep(self.lists.resolver(), &self.degraded);
        tokio::join!(testing, spf, self.hear(notices));
    }

    async fn hear(&self, mut notices: mpsc::UnboundedReceiver<Notice>) {
        loop {
            let notice = tokio::select! {
                notice = notices.recv() => notice,
                () = sleep(LIFT_AGAIN), if self.book().has_wrong() => {
                    self.lift_wrong().await;
                    continue;
                }
            };
            let Some(Notice { list, news }) = notice else {
                return;
            };
            let Some(zone) = self.lists.zone(list) else {
                continue;
            };
            let name = zone.name().to_owned();
            let now = Instant::now();
            match news {
                News::Opened(family, reason, passed) => {
                    // It was right when those were banned that are remembered
                    // from before the start, unless it is seen to lie. (Their
                    // times are rounded.)
                    let start = self.clock.instant(0) + Duration::from_secs(2);
                    let start = (!reason.is_lie()).then_some(start);
                    let passed = passed.or(start);
                    self.note_open(list, family, passed);
                    self.degraded.enter(Part::List(name, family), reason, now);
                    self.lift(list, family, passed).await;
                }
                News::FirstPassed => self.degraded.leave(&Part::Resolver, now),
                News::Closed(family) => {
                    self.open().remove(&(list, family));
                    self.degraded.leave(&Part::Resolver, now);
                    self.degraded.leave(&Part::List(name, family), now);
                }
                News::BudgetLow => {
                    let event = Event::new("budget").field("zone", name);
                    log::warn!(
                        "{}",
                        event.text(
                            "80 % of max-queries-per-day are used; beyond, the list is not asked until midnight UTC"
                        )
                    );
                }
                News::BudgetUsedUp => {
                    let text = "max-queries-per-day is used up: the list is not asked until midnight UTC (ask its operator for a data feed, or raise the limit)";
                    self.degraded.enter(Part::Budget(name), text, now);
                }
                News::BudgetRenewed => self.degraded.leave(&Part::Budget(name), now),
            }
        }
    }

    /// Lifts the bans that rest on this list and were made after `since`.
    async fn lift(&self, list: usize, family: Family, since: Option<Instant>) {
        // A second is the finest that the book knows: who was banned in the same
        // one is let in.
        let since = since.map(|since| self.clock.seconds(since));
        self.gate.forget_all();
        self.book().lift(list, family == Family::V6, since);
        self.lift_wrong().await;
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing of what this list said since then counts.
    pub(super) fn note_open(&self, list: usize, family: Family, since: Option<Instant>) {
        self.open().insert((list, family), since);
    }

    /// Lifts the bans that came from the file after a list that they rest on was
    /// known to be wrong.
    pub(super) async fn lift_open(&self) {
        let open: Vec<_> = self
            .open()
            .iter()
            .map(|(of, since)| (*of, *since))
            .collect();
        for ((list, family), since) in open {
            self.lift(list, family, since).await;
        }
    }

    /// Has the warden lift the bans that turned out to be wrong. Where it does
    /// not answer, they wait.
    async fn lift_wrong(&self) {
        let mut lifted: HashMap<usize, usize> = HashMap::new();
        loop {
            let Some(wrong) = self.book().next_wrong(self.now()) else {
                break;
            };
            let network = wrong.network;
            let request = warden_request::Request::Unban { network };
            match self.warden.ask(request).await {
                Ok(reply) => {
                    self.ban_state(reply.ipv6, reply.outcome);
                    let done = reply.outcome.is_new();
                    *lifted.entry(wrong.list).or_default() += usize::from(done);
                    self.put(Write::End(network, None));
                }
                Err(error) => {
                    self.book().put_back(wrong);
                    self.degraded.enter(Part::Warden, error, Instant::now());
                    break;
                }
            }
        }
        for (list, bans) in lifted {
            if let Some(zone) = self.lists.zone(list) {
                let event = Event::new("lifted").field("zone", zone.name());
                log::warn!("{}", event.field("bans", bans));
            }
        }
    }

    /// Reads what the lists said before the last stop.
    pub fn read_cache(&self) {
        let path = self.paths.state().join(CACHE_FILE);
        match self.lists.read(&path) {
            Ok(0) => {}
            Ok(entries) => log::info!("{}", Event::new("cache").field("read", entries)),
            Err(error) => self.cache_failed(&path, &error),
        }
    }

    /// Tests the lists once more, so that what they said last can be kept.
    pub async fn confirm_lists(&self) {
        self.lists.confirm(CONFIRM_TIME).await;
    }

    /// Writes what the lists said for the next start.
    pub fn write_cache(&self) {
        if self.config.zones.is_empty() {
            return;
        }
        let path = self.paths.state().join(CACHE_FILE);
        match self.lists.write(&path) {
            Ok(entries) => log::info!("{}", Event::new("cache").field("written", entries)),
            Err(error) => self.cache_failed(&path, &error),
        }
    }

    fn cache_failed(&self, path: &Path, error: &std::io::Error) {
        let text = format!("cannot use {}: {error}", path.display());
        Degraded::enter(&self.degraded, Part::Cache, text, Instant::now());
    }
}
