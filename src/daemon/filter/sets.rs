//! The kernel's sets, as they should be: what the warden says of them, and how
//! they get back what somebody else took.

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use rblfilter_warden::policy::{BY_HAND_PER_SECOND, Backend, VERDICT_PREFIX, is_narrow};
use rblfilter_warden::request::{GateSet, Outcome, Reply, Request};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Filter;
use crate::config::Mode;
use crate::degraded::Part;
use crate::enforce::book::Record;
use crate::enforce::warden::{Error, Late};
use crate::firewall;
use crate::log::Event;

/// Requests to the warden that are open at the same time while the sets are
/// filled again.
const AT_ONCE: usize = 512;
/// How often one that the warden did not answer is asked again, and the pause.
const TRIES: u32 = 5;
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// The least time between two fillings of the sets; the longest, where one after
/// the other does not come to its end.
const REFILL_AFTER: Duration = Duration::from_secs(10);
const REFILL_AFTER_MOST: Duration = Duration::from_secs(320);
/// How often a network is put in again that counts as one by hand: half as often
/// as the warden allows, which leaves the admin the other half.
const WIDE_EVERY: Duration = Duration::from_millis(2000 / BY_HAND_PER_SECOND as u64);
/// How often the sets are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often it is said that a set is full.
const SAY_FULL_EVERY: Duration = Duration::from_secs(60);

/// Which of the two sets lack bans that run.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    families: [AtomicBool; 2],
    noted: Notify,
    /// Notified where it may go better now.
    hurry: Notify,
}

impl Lacking {
    /// The set of this family does.
    pub(super) fn note(&self, ipv6: bool) {
        self.still(ipv6);
        self.hurry.notify_one();
    }

    /// It does still, after it was filled.
    fn still(&self, ipv6: bool) {
        self.families[usize::from(ipv6)].store(true, Relaxed);
        self.noted.notify_one();
    }

    /// Whether one was noted since.
    fn is_noted(&self) -> bool {
        self.families.iter().any(|family| family.load(Relaxed))
    }

    /// Waits until one does; whether those of IPv4 and IPv6 did.
    async fn taken(&self) -> [bool; 2] {
        self.noted.notified().await;
        [0, 1].map(|family: usize| self.families[family].swap(false, Relaxed))
    }
}

/// Bans on their way into the sets again.
struct Filling {
    /// Those that end last come last, and go first.
    left: Mutex<Vec<(IpNetwork, u32)>>,
    done: AtomicUsize,
    /// The sets that are full, or could not be filled for another reason: no
    /// further ban is tried.
    full: [AtomicBool; 2],
    failed: [AtomicBool; 2],
}

impl Filling {
    fn next(&self) -> Option<(IpNetwork, u32)> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (network, until) = left.pop()?;
            if !self.is_over(network.is_ipv6()) {
                return Some((network, until));
            }
        }
    }

    fn is_over(&self, ipv6: bool) -> bool {
        let at = usize::from(ipv6);
        self.full[at].load(Relaxed) || self.failed[at].load(Relaxed)
    }

    fn note(&self, ipv6: bool, restored: Restored) {
        let at = usize::from(ipv6);
        match restored {
            Restored::Done => {
                self.done.fetch_add(1, Relaxed);
            }
            Restored::MadeRoom => {
                self.done.fetch_add(1, Relaxed);
                self.full[at].store(true, Relaxed);
            }
            Restored::Full => self.full[at].store(true, Relaxed),
            Restored::Failed => self.failed[at].store(true, Relaxed),
            Restored::Nothing => {}
        }
    }
}

/// What became of a ban that was to be put in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restored {
    /// It is there.
    Done,
    /// It is, and others made room.
    MadeRoom,
    /// All that are there end later.
    Full,
    /// It is over, or may not be there.
    Nothing,
    /// It is not there, and should be.
    Failed,
}

/// When it was last said of each set that it is full, how many bans found it so
/// since then, and whether it is, as far as we know.
#[derive(Debug, Default)]
pub(super) struct Full(Mutex<[(Option<Instant>, u64); 2]>, [AtomicBool; 2]);

impl Full {
    /// Whether bans that run may be missing because they made room for others.
    fn is_met(&self, ipv6: bool) -> bool {
        self.1[usize::from(ipv6)].load(Relaxed)
    }

    fn set(&self, ipv6: bool, full: bool) {
        self.1[usize::from(ipv6)].store(full, Relaxed);
    }

    /// Another ban found it full; how many did, where it is to be said.
    fn met(&self, ipv6: bool, now: Instant) -> Option<u64> {
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, bans) = &mut sets[usize::from(ipv6)];
        *bans += 1;
        if said.is_some_and(|at| now < at + SAY_FULL_EVERY) {
            return None;
        }
        *said = Some(now);
        Some(std::mem::take(bans))
    }
}

impl Filter {
    fn set_name(&self, ipv6: bool) -> &str {
        if ipv6 {
            &self.config.ban.set6
        } else {
            &self.config.ban.set4
        }
    }

    /// Notes what the warden's answer tells of it and of the set.
    pub(super) fn ban_state(&self, ipv6: bool, outcome: Outcome) {
        let now = Instant::now();
        let set = Part::Set(self.set_name(ipv6).to_owned());
        match outcome {
            Outcome::NotPermitted | Outcome::Malformed | Outcome::NoEvents => {
                self.degraded.enter(Part::Warden, outcome, now);
                return;
            }
            Outcome::NoSet | Outcome::WrongSet | Outcome::Full | Outcome::Failed => {
                self.degraded.enter(set, outcome, now);
                self.sets_rest.rest(ipv6, now);
            }
            // The filter does not ask for such bans, unless an address came up
            // between its look and the warden's.
            Outcome::RefusedProtected
            | Outcome::RefusedAllowlisted
            | Outcome::RefusedRange
            | Outcome::TooMany => {
                log::warn!("{}", Event::new("spared").text(outcome));
            }
            Outcome::Done
            | Outcome::Extended
            | Outcome::Kept
            | Outcome::Remade
            | Outcome::Replaced
            | Outcome::Grown
            | Outcome::Emptied
            | Outcome::Unused => {
                self.note_state(ipv6, outcome, now);
                // It lacks what was banned meanwhile.
                if self.degraded.is_entered(&set) {
                    self.lacking.note(ipv6);
                }
                self.degraded.leave(&set, now);
            }
        }
        if self.degraded.is_entered(&Part::Warden) {
            self.lacking.hurry.notify_one();
            self.degraded.leave(&Part::Warden, now);
        }
    }

    /// What the warden answered for a ban that runs: where the kernel did not have
    /// it, somebody emptied the set, unless it made room for another.
    pub(super) fn note_missing(&self, ipv6: bool, outcome: Outcome) {
        if outcome == Outcome::Done && !self.full.is_met(ipv6) {
            self.lacking.note(ipv6);
        }
    }

    /// Tells and counts what is out of the ordinary with a set that works.
    fn note_state(&self, ipv6: bool, outcome: Outcome, now: Instant) {
        let event = |name| Event::new(name).field("name", self.set_name(ipv6));
        let room = match outcome {
            Outcome::Remade | Outcome::Emptied => {
                let what = if outcome == Outcome::Remade {
                    "it was missing, and has been made anew"
                } else {
                    "somebody else emptied it, or put another in its place"
                };
                self.metrics.emptied.inc();
                let text = format!("{what}; the bans that run are put in again");
                log::warn!("{}", event("emptied").text(text));
                self.lacking.note(ipv6);
                return;
            }
            Outcome::Replaced => {
                self.full.set(ipv6, true);
                self.metrics.replaced.inc();
                "replaced"
            }
            Outcome::Grown => {
                self.metrics.grown.inc();
                "grown"
            }
            _ => return,
        };
        if let Some(bans) = self.full.met(ipv6, now) {
            log::warn!("{}", event("full").field("room", room).field("bans", bans));
        }
    }

    /// Fills the sets again where they lack something, until the future is
    /// dropped. One that does not get all is filled again after a pause, which
    /// gets longer until it does, or there is news.
    pub(super) async fn keep_filled(self: &Arc<Self>) {
        let mut pause = REFILL_AFTER;
        loop {
            let families = self.lacking.taken().await;
            let Some(failed) = self.refill(families).await else {
                continue;
            };
            sleep(REFILL_AFTER).await;
            if failed == [false; 2] {
                pause = REFILL_AFTER;
                continue;
            }
            for ipv6 in [false, true] {
                if failed[usize::from(ipv6)] {
                    self.lacking.still(ipv6);
                }
            }
            // It is up, or there is news: either way it is tried again.
            let _ = timeout(pause - REFILL_AFTER, self.lacking.hurry.notified()).await;
            pause = (pause * 2).min(REFILL_AFTER_MOST);
        }
    }

    /// Puts the bans of these families that run into the kernel's sets again,
    /// with what is left of them: after a start, and whenever a set was emptied
    /// or had to be made anew. `None`: there were none; else which sets still
    /// lack something that they have room for.
    async fn refill(self: &Arc<Self>, families: [bool; 2]) -> Option<[bool; 2]> {
        let begun = Instant::now();
        let now = self.now();
        let (narrow, mut wide): (Vec<_>, Vec<_>) = {
            let book = self.book();
            let lacking = |network: &IpNetwork| families[usize::from(network.is_ipv6())];
            let bans = book.ends(now).filter(|(network, _)| lacking(network));
            bans.partition(|(network, _)| {
                is_narrow(*network, VERDICT_PREFIX) && !book.is_forced(*network)
            })
        };
        let all = narrow.len() + wide.len();
        if all == 0 {
            return None;
        }
        wide.sort_unstable_by_key(|(_, until)| *until);
        // There may be a million.
        let sorting = tokio::task::spawn_blocking(move || {
            let mut narrow = narrow;
            narrow.sort_unstable_by_key(|(_, until)| *until);
            narrow
        });
        let filling = Arc::new(Filling {
            left: Mutex::new(sorting.await.unwrap_or_default()),
            done: AtomicUsize::new(0),
            full: Default::default(),
            failed: Default::default(),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..AT_ONCE.min(all) {
            let (filter, filling) = (Arc::clone(self), Arc::clone(&filling));
            tasks.spawn(async move {
                while let Some((network, until)) = filling.next() {
                    let restored = filter.restore(network, until).await;
                    filling.note(network.is_ipv6(), restored);
                }
            });
        }
        tasks.join_all().await;
        while let Some((network, until)) = wide.pop() {
            let ipv6 = network.is_ipv6();
            if filling.is_over(ipv6) {
                continue;
            }
            // A set that was emptied meanwhile is more urgent.
            if self.lacking.is_noted() {
                filling.note(ipv6, Restored::Failed);
                continue;
            }
            let restored = self.restore(network, until).await;
            filling.note(ipv6, restored);
            sleep(WIDE_EVERY).await;
        }
        let [full, failed] = [&filling.full, &filling.failed]
            .map(|flags| [0, 1].map(|family: usize| flags[family].load(Relaxed)));
        for ipv6 in [false, true] {
            let at = usize::from(ipv6);
            if families[at] && !failed[at] {
                self.full.set(ipv6, full[at]);
            }
        }
        let event = Event::new("restored")
            .field("bans", filling.done.load(Relaxed))
            .field("of", all)
            .field("took", format!("{}ms", begun.elapsed().as_millis()));
        log::info!("{event}");
        Some(failed)
    }

    /// Has one ban put into its set again.
    async fn restore(&self, network: IpNetwork, until: u32) -> Restored {
        for _ in 0..TRIES {
            let seconds = until.saturating_sub(self.now());
            // It may have been ended since the bans were gathered.
            let Some(ban) = self.book().get(network).filter(|_| seconds > 0) else {
                return Restored::Nothing;
            };
            // A set that is not there will have them all once it is.
            if self.sets_rest.is_resting(network.is_ipv6(), Instant::now()) {
                return Restored::Failed;
            }
            match self.warden.ask(restoring(&ban, seconds)).await {
                // So many in a second, and those of wide networks fewer.
                Ok(reply) if reply.outcome == Outcome::TooMany => sleep(TRY_AGAIN).await,
                Ok(reply) if reply.outcome == Outcome::Full => return Restored::Full,
                Ok(reply) => {
                    self.ban_state(reply.ipv6, reply.outcome);
                    let banned = reply.outcome.is_banned();
                    if banned && self.book().get(network).is_none() {
                        self.take_back(network).await;
                        return Restored::Nothing;
                    }
                    return match reply.outcome {
                        Outcome::Replaced => Restored::MadeRoom,
                        _ if banned => Restored::Done,
                        Outcome::RefusedProtected
                        | Outcome::RefusedAllowlisted
                        | Outcome::RefusedRange => Restored::Nothing,
                        _ => Restored::Failed,
                    };
                }
                Err(error) => {
                    self.degraded.enter(Part::Warden, error, Instant::now());
                    sleep(TRY_AGAIN).await;
                }
            }
        }
        Restored::Failed
    }

    /// A ban was ended while it was put in again: the kernel may have been told
    /// so before, and must be told after it.
    async fn take_back(&self, network: IpNetwork) {
        for _ in 0..TRIES {
            if self.book().get(network).is_some() {
                return;
            }
            if self.warden.ask(Request::Unban { network }).await.is_ok() {
                // Of what was banned meanwhile, or lies within it, the set may lack some now.
                if !self.book().touching(network).is_empty() {
                    self.lacking.note(network.is_ipv6());
                }
                return;
            }
            sleep(TRY_AGAIN).await;
        }
    }

    /// Looks at the sets again and again, until the future is dropped.
    pub(super) async fn keep_looking(&self) {
        if self.config.mode == Mode::Observe || self.config.ban.backend == Backend::DryRun {
            return;
        }
        let mut clock = interval(LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The start has looked.
        clock.tick().await;
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                late = self.warden.overheard() => {
                    match late {
                        Late::Set(ipv6, outcome) => self.ban_state(ipv6, outcome),
                        // Nobody could end it, and nobody would look it up again.
                        Late::Banned(network) if self.book().get(network).is_none() => {
                            self.take_back(network).await;
                        }
                        Late::Banned(_) => {}
                    }
                    continue;
                }
            }
            for ipv6 in [false, true] {
                match self.warden.ask(Request::Look { ipv6 }).await {
                    Ok(reply) => self.looked(reply),
                    // It is busy; what it will not say again is overheard.
                    Err(Error::Silent(_)) => {}
                    Err(error) => self.degraded.enter(Part::Warden, error, Instant::now()),
                }
                self.look_at_gates_rules(ipv6).await;
            }
        }
    }

    /// Those of one family. Of a warden that does not answer the look at the sets
    /// tells.
    async fn look_at_gates_rules(&self, ipv6: bool) {
        if !self.has_gate() {
            return;
        }
        for of in GateSet::BOTH {
            let Ok(reply) = self.warden.ask(Request::LookAtRule { of, ipv6 }).await else {
                return;
            };
            let reason = match of {
                GateSet::Pass => {
                    "no firewall rule sends new clients to the gate, which sees none of them (mend it with: rblfilter firewall apply; where the kernel has no CONFIG_NFT_QUEUE, with ban.backend = \"ipset\")"
                }
                GateSet::Deny => {
                    "no firewall rule drops whom the gate denied, so each of their packets is asked for (mend it with: rblfilter firewall apply)"
                }
            };
            let expected = self.gate.has_port(&self.config.ports);
            self.note_rule(of.name(ipv6), reply, expected, reason);
        }
    }

    /// A warden has been started, with `socket` as the way to it. What became of
    /// the sets while there was none it cannot know.
    pub fn warden_arrived(&self, socket: OwnedFd) {
        self.warden.arrived(socket);
        self.lacking.note(false);
        self.lacking.note(true);
    }

    fn looked(&self, reply: Reply) {
        self.ban_state(reply.ipv6, reply.outcome);
        let set = self.set_name(reply.ipv6).to_owned();
        self.note_rule(set, reply, true, reply.outcome);
    }

    /// Notes what a look tells of the rule for `set`, which is there for this, and
    /// may not be `expected`.
    fn note_rule(&self, set: String, reply: Reply, expected: bool, reason: impl Display) {
        let is_ours = self.config.firewall.manage && (!reply.ipv6 || firewall::has_ipv6());
        let rule = Part::Rule(set);
        match reply.outcome {
            Outcome::Unused if expected && is_ours => {
                self.degraded.enter(rule, reason, Instant::now());
            }
            Outcome::Done | Outcome::Unused => self.degraded.leave(&rule, Instant::now()),
            _ => {}
        }
    }
}

/// How the warden is asked for a ban again: for one of an allowlisted network
/// in the admin's name, as it was made.
fn restoring(ban: &Record, seconds: u32) -> Request {
    let network = ban.network;
    if ban.hand.as_ref().is_some_and(|hand| hand.forced) {
        Request::BanByHand {
            network,
            seconds,
            force: true,
        }
    } else {
        Request::Restore { network, seconds }
    }
}

#[cfg(test)]
#[path = "sets_tests.rs"]
pub(super) mod tests;
