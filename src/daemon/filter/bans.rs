//! The bans from their beginning to their end: written down, read after a
//! restart, looked up again, freed.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use rblfilter_warden::policy::Backend;
use rblfilter_warden::request::{Outcome, Request};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Filter;
use crate::config::Mode;
use crate::degraded::Part;
use crate::enforce::allows::Allows;
use crate::enforce::ban;
use crate::enforce::book::{Book, Next, Record, Why};
use crate::enforce::grounds::Grounds;
use crate::judge::{self, Conviction};
use crate::log::Event;
use crate::senders::LATELY;
use crate::status::STANDING;
use crate::store::{self, Loaded, Write};

/// The file of bans, in [`crate::courier::paths::Paths::state`].
const FILE: &str = "state.db";
/// How long the start waits for what is in it.
const LOAD_TIME: Duration = Duration::from_secs(3);
/// How long the stop waits for what is to be written.
const CLOSE_TIME: Duration = Duration::from_secs(3);
/// Banned clients that are looked up at the same time.
const LOOKS: usize = 32;
/// Bans whose ends are written down in a second, where a wave's all come at once.
const ENDS: usize = 5000;
/// How often the file is given all, where it lost something and works again.
const REPAIR_EVERY: u64 = 10;
/// How often it forgets who delivered mail long ago.
const PRUNE_EVERY: u64 = 3600;
/// Rows that are handed to the store at once.
const ROWS: usize = 1000;

/// What is in a file that takes longer to read than the start waits for.
#[derive(Debug, Default)]
pub(super) struct Late {
    loaded: Option<oneshot::Receiver<Loaded>>,
    /// Whether it is still to come; then which of its bans were ended meanwhile.
    awaited: bool,
    ended: HashSet<IpNetwork>,
    all_ended: bool,
}

impl Filter {
    fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All bans are to be ended, those in a file that is not read yet too.
    pub(super) fn end_late(&self) {
        let mut late = self.late();
        late.all_ended = late.awaited;
    }

    /// Takes in what took longer to read than the start waited for.
    async fn take_late(&self) {
        let Some(loaded) = self.late().loaded.take() else {
            return;
        };
        // Else there is no store, which was said.
        if let Ok(loaded) = loaded.await {
            self.restore_from(loaded).await;
            self.degraded.leave(&Part::Store, Instant::now());
        }
        *self.late() = Late::default();
    }

    /// Seconds since 1970, as they are counted in the book of bans.
    pub(super) fn now(&self) -> u32 {
        self.clock.seconds(Instant::now())
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn allows(&self) -> MutexGuard<'_, Allows> {
        self.allows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this written, where there is a store.
    pub(super) fn put(&self, write: Write) {
        if let Some(store) = self.store.get() {
            store.put(write);
        }
    }

    /// What is banned with `client`.
    pub(super) fn network_of(&self, client: IpAddr) -> IpNetwork {
        let protected = self
            .protected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ban::network_of(client, self.config.ban.prefix6, |network| {
            protected.overlaps(network)
                || self.never_ban.touches(network)
                || self.allows().touches(network, self.now())
                || self.senders.has_good_neighbour(client, Instant::now())
        })
    }

    /// Writes a new ban down, so that it can end with its reason, outlive a
    /// restart, and be lifted where a list that it rests on turns out to be
    /// wrong; and lifts it where one did meanwhile.
    pub(super) async fn note_ban(
        &self,
        network: IpNetwork,
        client: IpAddr,
        next: Next,
        conviction: &Conviction,
    ) {
        let now = self.now();
        let mut zones = vec![conviction.listing.zone.clone()];
        zones.extend(conviction.also.iter().cloned());
        let record = Record {
            network,
            client,
            since: now,
            until: now.saturating_add(next.seconds),
            count: next.count,
            grounds: Arc::new(Grounds {
                zones,
                rests_on: conviction.rests_on.clone(),
                own: conviction.own,
            }),
            hand: None,
        };
        if next.running {
            // The kernel did not have it: somebody emptied the set.
            self.lacking.note(network.is_ipv6());
            return;
        }
        let write = Write::Ban(Box::new(self.stored(&record)));
        if self.book().insert(record, now) {
            self.put(write);
        }
        self.lift_where_open(client, &conviction.rests_on).await;
        // The admin let it in while it was judged.
        let allowed = self.allows().contains(client, now);
        if allowed {
            self.end_ban(network, Why::Wrong).await;
        }
    }

    /// A ban as it stands in the file.
    pub(super) fn stored(&self, record: &Record) -> store::Ban {
        let names = record.grounds.rests_on.iter();
        store::Ban {
            network: record.network,
            client: record.client,
            since: record.since,
            until: record.until,
            count: record.count,
            zones: record.grounds.zones.clone(),
            rests_on: names
                .filter_map(|list| Some(self.lists.zone(*list)?.name().to_owned()))
                .collect(),
            own: record.grounds.own,
            hand: record.hand.clone(),
        }
    }

    fn of_store(&self, ban: store::Ban) -> Record {
        let place = |name: &String| {
            (0..self.config.zones.len()).find(|list| {
                let zone = self.lists.zone(*list);
                zone.is_some_and(|zone| zone.name() == name)
            })
        };
        Record {
            network: ban.network,
            client: ban.client,
            since: ban.since,
            until: ban.until,
            count: ban.count,
            grounds: Arc::new(Grounds {
                rests_on: ban.rests_on.iter().filter_map(place).collect(),
                zones: ban.zones,
                own: ban.own,
            }),
            hand: ban.hand,
        }
    }

    /// Opens the file of bans and writes what it holds into the book. Never
    /// takes longer than three seconds; what is read later comes in later.
    pub async fn open_store(&self) {
        let path = self.paths.state().join(FILE);
        let (store, mut loaded) = store::Store::start(path, self.clock, &self.degraded);
        // It is opened once, so the place is free.
        let _ = self.store.set(store);
        match timeout(LOAD_TIME, &mut loaded).await {
            Ok(Ok(loaded)) => self.restore_from(loaded).await,
            // There is no store, which was said.
            Ok(Err(_)) => {}
            Err(_) => {
                let text = format!(
                    "it is not read within {} s: its bans come back when it is",
                    LOAD_TIME.as_secs()
                );
                self.degraded.enter(Part::Store, text, Instant::now());
                let mut late = self.late();
                (late.loaded, late.awaited) = (Some(loaded), true);
            }
        }
    }

    async fn restore_from(&self, loaded: Loaded) {
        log::info!("{}", store::restored(&loaded));
        self.take_in(loaded).await;
        self.lacking.note(false);
        self.lacking.note(true);
    }

    async fn take_in(&self, loaded: Loaded) {
        let (now, instant) = (self.now(), Instant::now());
        for (client, at) in loaded.senders {
            let age = Duration::from_secs(now.saturating_sub(at).into());
            if age < LATELY
                && let Some(at) = instant.checked_sub(age)
            {
                self.senders.delivered(client, at);
            }
        }
        for (network, until) in loaded.allows {
            self.allows().insert(network, until, now);
        }
        // Where nobody is banned, those of the file wait; the kernel does not.
        if self.config.mode == Mode::Observe {
            self.note_standing(loaded.bans, now);
            return;
        }
        let mut freed = Vec::new();
        {
            let late = std::mem::take(&mut *self.late());
            let mut protected = self
                .protected
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = protected.refresh(instant) {
                self.degraded.enter(Part::OwnAddresses, error, instant);
            }
            let mut book = self.book();
            for (network, past) in loaded.past {
                book.remember(network, past.count, past.ended);
            }
            for ban in loaded.bans {
                // Whom the admin allowed meanwhile; what he forced stays.
                let forced = ban.hand.as_ref().is_some_and(|hand| hand.forced);
                if late.ended.contains(&ban.network) {
                    continue;
                }
                if late.all_ended || !forced && protected.overlaps(ban.network) {
                    freed.push(ban.network);
                } else {
                    book.insert(self.of_store(ban), now);
                }
            }
        }
        for network in freed {
            self.end_ban(network, Why::Wrong).await;
        }
    }

    /// Notes, and says, that bans from before `observe` go on in the kernel.
    fn note_standing(&self, bans: Vec<store::Ban>, now: u32) {
        if self.config.ban.backend == Backend::DryRun {
            return;
        }
        let running = bans.into_iter().filter(|ban| ban.until > now);
        let standing: Vec<Record> = running.map(|ban| self.of_store(ban)).collect();
        if !standing.is_empty() {
            let event = Event::new("standing").field("bans", standing.len());
            log::warn!("{}", event.text(STANDING));
        }
        *self.standing() = standing;
    }

    /// In `observe`, the bans from before it.
    pub(super) fn standing(&self) -> MutexGuard<'_, Vec<Record>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a ban before its time, in the kernel, the book and the file.
    ///
    /// # Errors
    /// Why the kernel still has it, in words.
    pub(super) async fn try_end(&self, network: IpNetwork, why: Why) -> Result<(), String> {
        match self.warden.ask(Request::Unban { network }).await {
            Ok(reply) => {
                self.ban_state(reply.ipv6, reply.outcome);
                // In a set that is not there nobody is banned.
                if !reply.outcome.is_new() && reply.outcome != Outcome::NoSet {
                    return Err(reply.outcome.to_string());
                }
                let past = self.book().remove(network, why, self.now());
                let mut late = self.late();
                if late.awaited {
                    late.ended.insert(network);
                }
                drop(late);
                self.put(Write::End(network, past));
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                self.degraded.enter(Part::Warden, error, Instant::now());
                Err(text)
            }
        }
    }

    async fn end_ban(&self, network: IpNetwork, why: Why) {
        if self.try_end(network, why).await.is_ok() {
            let event = Event::new("freed").network(network);
            let reason = match why {
                Why::Unlisted => "unlisted",
                Why::Wrong => "allowlisted",
            };
            log::info!("{}", event.field("reason", reason));
        }
    }

    /// Fills the sets when they were emptied, ends what is over, and looks up
    /// again who is banned, until the future is dropped.
    pub(super) async fn keep_bans(self: Arc<Self>) {
        tokio::join!(
            self.keep_filled(),
            self.keep_looking(),
            self.keep_time(),
            self.take_late()
        );
    }

    async fn keep_time(self: &Arc<Self>) {
        let mut clock = interval(Duration::from_secs(1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let turns = Arc::new(Semaphore::new(LOOKS));
        let mut looks = JoinSet::new();
        for tick in 1_u64.. {
            clock.tick().await;
            while looks.try_join_next().is_some() {}
            let now = self.now();
            let ended = self.book().expire(now, ENDS);
            for (network, past) in ended {
                self.put(Write::End(network, past));
            }
            let ended = self.allows().expire(now);
            for network in ended {
                self.put(Write::EndAllow(network));
            }
            self.look_again(now, &turns, &mut looks);
            if tick % PRUNE_EVERY == 0 {
                let day = u32::try_from(LATELY.as_secs()).unwrap_or(u32::MAX);
                self.put(Write::ForgetSenders(now.saturating_sub(day)));
            }
            if tick % REPAIR_EVERY == 0 {
                self.repair_store().await;
            }
        }
    }

    /// Starts the look-ups that are due and have a place. Those that find their
    /// lists' queries of the day used wait for their next turn.
    fn look_again(self: &Arc<Self>, now: u32, turns: &Arc<Semaphore>, looks: &mut JoinSet<()>) {
        let due = self.book().take_due(now, turns.available_permits());
        if due.is_empty() || !self.lists.has_spare(Instant::now()) {
            return;
        }
        for (network, client) in due {
            let Ok(turn) = Arc::clone(turns).try_acquire_owned() else {
                return;
            };
            let filter = Arc::clone(self);
            looks.spawn(async move {
                let evidence = filter.lists.ask(client, Vec::new()).await;
                drop(turn);
                if judge::has_lapsed(&evidence, &filter.config.thresholds) {
                    filter.end_ban(network, Why::Unlisted).await;
                }
            });
        }
    }

    /// Gives the file all bans again where it lost something.
    async fn repair_store(&self) {
        let Some(store) = self.store.get() else {
            return;
        };
        // What the file holds that is not in the book yet must not be lost.
        if self.config.mode == Mode::Observe
            || self.late().awaited
            || self.degraded.is_entered(&Part::Store)
            || !store.take_lost()
        {
            return;
        }
        let now = self.now();
        let allows: Vec<Write> = {
            let allows = self.allows();
            let running = allows.running(now);
            running
                .map(|(network, until)| Write::Allow(network, until))
                .collect()
        };
        store.everything(allows);
        let networks: Vec<IpNetwork> = {
            let book = self.book();
            let running = book.running(now).map(|ban| ban.network);
            running.chain(book.with_past()).collect()
        };
        for networks in networks.chunks(ROWS) {
            // As they are at this moment: a ban may have been ended meanwhile.
            let writes: Vec<Write> = {
                let book = self.book();
                let write = |network: &IpNetwork| match book.get(*network) {
                    Some(record) => Some(Write::Ban(Box::new(self.stored(&record)))),
                    None => Some(Write::End(*network, Some(book.past(*network)?))),
                };
                networks.iter().filter_map(write).collect()
            };
            if store.commit(writes).await.is_err() {
                return;
            }
        }
    }

    /// Waits, for a limited time, until all is on disk and the file closed.
    pub async fn close_store(&self) {
        if let Some(store) = self.store.get() {
            store.close(CLOSE_TIME).await;
        }
    }
}
