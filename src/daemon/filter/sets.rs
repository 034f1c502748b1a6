//! The kernel's sets, as they should be: what the warden says of them, and how
//! they get back what somebody else took.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use rblfilter_warden::policy::Backend;
use rblfilter_warden::request::{Outcome, Reply, Request};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Filter;
use crate::config::Mode;
use crate::degraded::Part;
use crate::enforce::book::Record;
use crate::enforce::warden::Error;
use crate::firewall;
use crate::log::Event;

/// Requests to the warden that are open at the same time while the sets are
/// filled again.
const AT_ONCE: usize = 512;
/// How often one that the warden did not answer is asked again, and the pause.
const TRIES: u32 = 5;
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// The least time between two fillings of the sets.
const REFILL_AFTER: Duration = Duration::from_secs(10);
/// How often the sets are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often it is said that a set is full.
const SAY_FULL_EVERY: Duration = Duration::from_secs(60);

/// Which of the two sets lack bans that run.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    families: [AtomicBool; 2],
    noted: Notify,
}

impl Lacking {
    /// The set of this family does.
    pub(super) fn note(&self, ipv6: bool) {
        self.families[usize::from(ipv6)].store(true, Relaxed);
        self.noted.notify_one();
    }

    /// Waits until one does; whether those of IPv4 and IPv6 did.
    async fn taken(&self) -> [bool; 2] {
        self.noted.notified().await;
        [0, 1].map(|family: usize| self.families[family].swap(false, Relaxed))
    }
}

/// When it was last said of each set that it is full, and how many bans found
/// it so since then.
#[derive(Debug, Default)]
pub(super) struct Full(Mutex<[(Option<Instant>, u64); 2]>);

impl Full {
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
        self.degraded.leave(&Part::Warden, now);
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
    /// dropped.
    pub(super) async fn keep_filled(self: &Arc<Self>) {
        loop {
            let families = self.lacking.taken().await;
            if self.refill(families).await {
                sleep(REFILL_AFTER).await;
            }
        }
    }

    /// Puts the bans of these families that run into the kernel's sets again,
    /// with what is left of them: after a start, and whenever a set was emptied
    /// or had to be made anew. Whether there were any.
    async fn refill(self: &Arc<Self>, families: [bool; 2]) -> bool {
        let begun = Instant::now();
        let now = self.now();
        let bans: Vec<(IpNetwork, u32)> = {
            let book = self.book();
            let running = book.running(now);
            let lacking = running.filter(|ban| families[usize::from(ban.network.is_ipv6())]);
            lacking.map(|ban| (ban.network, ban.until)).collect()
        };
        if bans.is_empty() {
            return false;
        }
        let all = bans.len();
        let left = Arc::new(Mutex::new(bans));
        let mut tasks = JoinSet::new();
        for _ in 0..AT_ONCE.min(all) {
            let (filter, left) = (Arc::clone(self), Arc::clone(&left));
            tasks.spawn(async move {
                let mut done = 0;
                loop {
                    let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some((network, until)) = next else {
                        return done;
                    };
                    done += usize::from(filter.restore(network, until).await);
                }
            });
        }
        let done: usize = tasks.join_all().await.into_iter().sum();
        let event = Event::new("restored")
            .field("bans", done)
            .field("of", all)
            .field("took", format!("{}ms", begun.elapsed().as_millis()));
        log::info!("{event}");
        true
    }

    /// Has one ban put into its set again; whether it is there.
    async fn restore(&self, network: IpNetwork, until: u32) -> bool {
        for _ in 0..TRIES {
            let seconds = until.saturating_sub(self.now());
            // It may have been ended since the bans were gathered.
            let Some(ban) = self.book().get(network).filter(|_| seconds > 0) else {
                return false;
            };
            // A set that is not there will have them all once it is.
            if self.sets_rest.is_resting(network.is_ipv6(), Instant::now()) {
                return false;
            }
            match self.warden.ask(restoring(&ban, seconds)).await {
                // So many in a second, and those of wide networks fewer.
                Ok(reply) if reply.outcome == Outcome::TooMany => sleep(TRY_AGAIN).await,
                Ok(reply) => {
                    self.ban_state(reply.ipv6, reply.outcome);
                    let banned = reply.outcome.is_banned();
                    if banned && self.book().get(network).is_none() {
                        self.take_back(network).await;
                        return false;
                    }
                    return banned;
                }
                Err(error) => {
                    self.degraded.enter(Part::Warden, error, Instant::now());
                    sleep(TRY_AGAIN).await;
                }
            }
        }
        false
    }

    /// A ban was ended while it was put in again: the kernel may have been told
    /// so before, and must be told after it.
    async fn take_back(&self, network: IpNetwork) {
        for _ in 0..TRIES {
            if self.warden.ask(Request::Unban { network }).await.is_ok() {
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
                (ipv6, outcome) = self.warden.overheard() => {
                    self.ban_state(ipv6, outcome);
                    continue;
                }
            }
            for ipv6 in [false, true] {
                match self.warden.ask(Request::Look { ipv6 }).await {
                    Ok(reply) => self.looked(reply),
                    // It is busy; what it will not say again is overheard.
                    Err(Error::Silent) => {}
                    Err(error) => self.degraded.enter(Part::Warden, error, Instant::now()),
                }
            }
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
        let expected = self.config.firewall.manage && (!reply.ipv6 || firewall::has_ipv6());
        let rule = Part::Rule(self.set_name(reply.ipv6).to_owned());
        match reply.outcome {
            Outcome::Unused if expected => {
                self.degraded.enter(rule, reply.outcome, Instant::now());
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
mod tests;
