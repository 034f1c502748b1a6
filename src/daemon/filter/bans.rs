//! The bans from their beginning to their end: written down, read after a
//! restart, looked up again, freed.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use rblfilter_warden::policy::Backend;
use rblfilter_warden::request::{Outcome, Request};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Filter;
use crate::config::Mode;
use crate::degraded::Part;
use crate::enforce::allows::Allows;
use crate::enforce::ban::{self, overlap};
use crate::enforce::book::{Book, Next, Record, Why};
use crate::enforce::forget::Whom;
use crate::enforce::grounds::Grounds;
use crate::judge::{self, Conviction};
use crate::log::Event;
use crate::senders::LATELY;
use crate::status::STANDING;
use crate::store::{self, Loaded, Write};

/// How long the start waits for what is in it.
const LOAD_TIME: Duration = Duration::from_secs(3);
/// How long the stop waits for what is to be written.
const CLOSE_TIME: Duration = Duration::from_secs(3);
/// Banned clients that are looked up at the same time.
const LOOKS: usize = 32;
/// Bans whose ends are written down in a second, where a wave's all come at once.
const ENDS: usize = 5000;
/// How often the file is given all, where it lost something and works again.
const REPAIR_EVERY: Duration = Duration::from_secs(10);
/// How often it forgets who delivered mail, or was banned, long ago.
const PRUNE_EVERY: u64 = 3600;
/// Bans that are gathered at once, before others have their turn.
const ROWS: usize = 4096;

/// What is in a file that takes longer to read than the start waits for.
#[derive(Debug, Default)]
pub(super) struct Late {
    loaded: Option<oneshot::Receiver<Loaded>>,
    /// Whether it is still to come; then what was done about its rows meanwhile.
    awaited: bool,
    /// Bans that were ended.
    ended: HashSet<IpNetwork>,
    all_ended: bool,
    /// Whom the admin freed, and whom he lets in no longer, whatever the rows are
    /// called that touch them.
    freed: Vec<IpNetwork>,
    shut_out: Vec<IpNetwork>,
    /// Whom the admin has forgotten.
    forgotten: Whom,
}

/// The most networks that an admin frees, or lets in no longer, while the file is
/// read.
const MOST_LATE: usize = 10_000;

impl Late {
    /// The kernel has this ban no longer.
    fn end(&mut self, network: IpNetwork) {
        if self.awaited {
            self.ended.insert(network);
        }
    }

    /// The admin freed it, and all that it touches.
    pub(super) fn free(&mut self, network: IpNetwork) {
        if self.awaited && self.freed.len() < MOST_LATE {
            self.freed.push(network);
        }
    }

    /// The admin lets in no longer what it touches.
    pub(super) fn shut_out(&mut self, network: IpNetwork) {
        if self.awaited && self.shut_out.len() < MOST_LATE {
            self.shut_out.push(network);
        }
    }

    /// All that is of it is to be forgotten.
    pub(super) fn forget(&mut self, network: IpNetwork) {
        if self.awaited && self.forgotten.len() < MOST_LATE {
            self.forgotten.push(network);
        }
    }

    fn has_forgotten(&self, kept: IpNetwork, by_hand: bool) -> bool {
        self.forgotten.of(kept, by_hand).is_some()
    }

    /// All bans are to be ended, those in a file that is not read yet too.
    pub(super) fn end_all(&mut self) {
        self.all_ended = self.awaited;
    }

    fn has_freed(&self, network: IpNetwork) -> bool {
        self.all_ended || self.freed.iter().any(|freed| overlap(*freed, network))
    }

    fn has_shut_out(&self, network: IpNetwork) -> bool {
        self.shut_out.iter().any(|shut| overlap(*shut, network))
    }
}

/// Whatever becomes of it, the file is waited for no longer.
struct Awaited<'a>(&'a Filter);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        *self.0.late() = Late::default();
    }
}

impl Filter {
    pub(super) fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what took longer to read than the start waited for.
    async fn take_late(&self) {
        let Some(loaded) = self.late().loaded.take() else {
            return;
        };
        let awaited = Awaited(self);
        // Else there is no store, which was said.
        if let Ok(loaded) = loaded.await {
            self.restore_from(loaded).await;
            self.lift_open().await;
            drop(awaited);
            // It is read; that it can be written too, the store says.
            if let Some(store) = self.store.get() {
                let _ = store.commit(Vec::new()).await;
            }
        }
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
        stored(record, |list| {
            Some(self.lists.zone(list)?.name().to_owned())
        })
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
        let path = self.paths.state().join(store::FILE);
        let window = self.config.ban.durations.window;
        let (store, mut loaded) = store::Store::start(path, window, self.clock, &self.degraded);
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

    /// Writes into the book what was in the file, a few at a time: there may be a
    /// million, and others want their turn.
    async fn take_in(&self, loaded: Loaded) {
        let (now, instant) = (self.now(), Instant::now());
        for (client, at) in loaded.senders {
            let age = Duration::from_secs(now.saturating_sub(at).into());
            if age < LATELY
                && !self.late().has_forgotten(client.into(), false)
                && let Some(at) = instant.checked_sub(age)
            {
                self.senders.delivered(client, at);
            }
        }
        for (network, until) in loaded.allows {
            let mut allows = self.allows();
            let is_newer = allows.running(now).any(|(allowed, _)| allowed == network);
            let late = self.late();
            if !is_newer && !late.has_shut_out(network) && !late.has_forgotten(network, true) {
                allows.insert(network, until, now);
            }
        }
        // Where nobody is banned, those of the file wait; the kernel does not.
        if self.config.mode == Mode::Observe {
            for network in self.note_standing(loaded.bans, now) {
                self.end_ban(network, Why::Wrong).await;
            }
            return;
        }
        let mut past = loaded.past.into_iter();
        while past.len() > 0 {
            {
                let mut book = self.book();
                for (network, past) in past.by_ref().take(ROWS) {
                    // Who is banned again meanwhile has it counted there.
                    let forgotten = self.late().has_forgotten(network, false);
                    if book.past(network).is_none() && !forgotten {
                        book.remember(network, past.count, past.ended);
                    }
                }
            }
            yield_now().await;
        }
        let mut freed = Vec::new();
        let mut bans = loaded.bans.into_iter();
        while bans.len() > 0 {
            self.take_bans(bans.by_ref().take(ROWS), &mut freed);
            yield_now().await;
        }
        for network in freed {
            // A new one may be there by now.
            let is_banned = self.book().get(network).is_some();
            if !is_banned {
                self.end_ban(network, Why::Wrong).await;
            }
        }
    }

    /// Those of the file that still hold come into the book, the others to `freed`.
    fn take_bans(&self, bans: impl Iterator<Item = store::Ban>, freed: &mut Vec<IpNetwork>) {
        let (now, instant) = (self.now(), Instant::now());
        let mut protected = self
            .protected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = protected.refresh(instant) {
            self.degraded.enter(Part::OwnAddresses, error, instant);
        }
        let (late, allows) = (self.late(), self.allows());
        let mut book = self.book();
        for ban in bans {
            if late.has_forgotten(ban.network, ban.hand.is_some()) {
                freed.push(ban.network);
                continue;
            }
            // Whom the admin allowed meanwhile; what he forced stays.
            let forced = ban.hand.as_ref().is_some_and(|hand| hand.forced);
            let network = ban.network;
            if late.ended.contains(&network) {
                continue;
            }
            // Who is let in by hand was freed then, or in a file that is older.
            let allowed = late.awaited && allows.touches(network, now);
            if late.has_freed(network) || !forced && (allowed || protected.overlaps(network)) {
                freed.push(network);
            } else {
                book.insert(self.of_store(ban), now);
            }
        }
    }

    /// Notes, and says, that bans from before `observe` go on in the kernel; those
    /// that the admin ended while the file was read, and are to be ended.
    fn note_standing(&self, bans: Vec<store::Ban>, now: u32) -> Vec<IpNetwork> {
        if self.config.ban.backend == Backend::DryRun {
            return Vec::new();
        }
        let mut standing = HashMap::new();
        let mut freed = Vec::new();
        {
            let late = self.late();
            for ban in bans.into_iter().filter(|ban| ban.until > now) {
                let network = ban.network;
                let forgotten = late.has_forgotten(network, ban.hand.is_some());
                if forgotten || late.has_freed(network) {
                    freed.push(network);
                } else if !late.ended.contains(&network) {
                    standing.insert(network, self.of_store(ban));
                }
            }
        }
        if !standing.is_empty() {
            let event = Event::new("standing").field("bans", standing.len());
            log::warn!("{}", event.text(STANDING));
        }
        *self.standing() = standing;
        freed
    }

    /// In `observe`, the bans from before it.
    pub(super) fn standing(&self) -> MutexGuard<'_, HashMap<IpNetwork, Record>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The banned networks that have an address in common with `network`; in
    /// `observe` those from before it.
    pub(super) fn touching(&self, network: IpNetwork) -> Vec<IpNetwork> {
        let mut touching = self.book().touching(network);
        let now = self.now();
        let standing = self.standing();
        let running = standing.values().filter(|ban| ban.until > now);
        let networks = running.map(|ban| ban.network);
        touching.extend(networks.filter(|banned| overlap(*banned, network)));
        touching
    }

    /// Ends a ban before its time, in the kernel, the book and the file.
    ///
    /// # Errors
    /// Why the kernel still has it, in words.
    pub(super) async fn try_end(&self, network: IpNetwork, why: Why) -> Result<(), String> {
        match self.warden.ask_patiently(Request::Unban { network }).await {
            Ok(reply) => {
                self.ban_state(reply.ipv6, reply.outcome);
                // In a set that is not there nobody is banned.
                if !reply.outcome.is_new() && reply.outcome != Outcome::NoSet {
                    return Err(reply.outcome.to_string());
                }
                self.note_end(network, why);
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                self.degraded.enter(Part::Warden, error, Instant::now());
                Err(text)
            }
        }
    }

    /// The kernel does not have this one any longer.
    pub(super) fn note_end(&self, network: IpNetwork, why: Why) {
        let past = self.book().remove(network, why, self.now());
        self.standing().remove(&network);
        self.late().end(network);
        self.put(Write::End(network, past));
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
            self.keep_stored(),
            async {
                // Those that were read in time, and then the others.
                self.lift_open().await;
                self.take_late().await;
            }
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
            // The first time at once: this process may not live for an hour.
            if tick % PRUNE_EVERY == 1 {
                let day = u32::try_from(LATELY.as_secs()).unwrap_or(u32::MAX);
                self.put(Write::ForgetSenders(now.saturating_sub(day)));
                let window = self.config.ban.durations.window;
                self.put(Write::ForgetOffences(now.saturating_sub(window)));
                self.forget_over(now);
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

    /// Gives the file all that it should hold, where it lost something, until the
    /// future is dropped.
    async fn keep_stored(&self) {
        let mut clock = interval(REPAIR_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            // Why it did not, and that it is to be done again, the store knows.
            let _ = self.repair_store().await;
        }
    }

    /// Gives the file all bans again where it lost something.
    async fn repair_store(&self) -> Result<(), String> {
        // What the file holds that is not in the book yet must not be lost.
        if self.config.mode == Mode::Observe
            || self.late().awaited
            || self.degraded.is_entered(&Part::Store)
        {
            return Ok(());
        }
        let Some(repair) = self.store.get().and_then(store::Store::repair) else {
            return Ok(());
        };
        let now = self.now();
        let mut others: Vec<Write> = {
            let allows = self.allows();
            let running = allows.running(now);
            running
                .map(|(network, until)| Write::Allow(network, until))
                .collect()
        };
        // A file that was made anew lacks those, too.
        let instant = Instant::now();
        others.extend(self.senders.lately(instant).map(|(client, at)| {
            let age = instant.saturating_duration_since(at).as_secs();
            let age = u32::try_from(age).unwrap_or(u32::MAX);
            Write::Sender(client, now.saturating_sub(age))
        }));
        let networks: Vec<IpNetwork> = {
            let book = self.book();
            let running = book.running(now).map(|ban| ban.network);
            running.chain(book.with_past()).collect()
        };
        // What changes from here on is written after them.
        let (mut bans, mut past) = (Vec::new(), Vec::new());
        for networks in networks.chunks(ROWS) {
            {
                let book = self.book();
                for network in networks {
                    match book.get(*network) {
                        Some(record) => bans.push(record),
                        None => past.extend(book.past(*network).map(|past| (*network, past))),
                    }
                }
            }
            yield_now().await;
        }
        let names: Vec<String> = (0..self.config.zones.len())
            .map_while(|list| Some(self.lists.zone(list)?.name().to_owned()))
            .collect();
        let bans = bans
            .into_iter()
            .map(move |ban| Write::Ban(Box::new(stored(&ban, |list| names.get(list).cloned()))));
        let past = past
            .into_iter()
            .map(|(network, past)| Write::End(network, Some(past)));
        repair.write(Box::new(bans.chain(past).chain(others))).await
    }

    /// Waits, for a limited time, until all is on disk and the file closed; whether it
    /// is.
    pub async fn close_store(&self) -> bool {
        match self.store.get() {
            Some(store) => store.close(CLOSE_TIME).await,
            None => true,
        }
    }
}

/// A ban as it stands in the file, with the lists' names instead of their places.
fn stored(record: &Record, name: impl Fn(usize) -> Option<String>) -> store::Ban {
    let lists = record.grounds.rests_on.iter();
    store::Ban {
        network: record.network,
        client: record.client,
        since: record.since,
        until: record.until,
        count: record.count,
        zones: record.grounds.zones.clone(),
        rests_on: lists.filter_map(|list| name(*list)).collect(),
        own: record.grounds.own,
        hand: record.hand.clone(),
    }
}

#[cfg(test)]
#[path = "bans_tests.rs"]
mod tests;
