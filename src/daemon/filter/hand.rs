//! What the admin asks for by hand.

use std::sync::Arc;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use rblfilter_warden::policy::{Backend, MAX_BAN_SECONDS};
use rblfilter_warden::request::{Outcome, Request as Ask};

use super::Filter;
use crate::config::Mode;
use crate::control::{Answer, Entry, Request, What, shown};
use crate::degraded::Part;
use crate::enforce::allows;
use crate::enforce::ban::around;
use crate::enforce::book::{Hand, Record, Why};
use crate::enforce::grounds::Grounds;
use crate::log::Event;
use crate::store::Write;

/// Bans that are ended at once, before others have their turn.
const AT_ONCE: usize = 4096;

/// Networks that an answer names.
const NAMED: usize = 10;

/// What a hand did, or why it could not, in words.
pub(super) type Told = Result<String, String>;

impl Filter {
    /// Does what `user` asks for. (A list is given by [`Filter::bans`] and
    /// [`Filter::allowed`], the rest that is only told by [`Filter::status`] and
    /// [`Filter::sessions`]; a reload is not the filter's to do.)
    pub async fn by_hand(self: &Arc<Self>, request: Request, user: &str) -> Answer {
        let told = match request {
            Request::Ban {
                network,
                seconds,
                reason,
                force,
            } => {
                let seconds = seconds.unwrap_or(self.config.ban.durations.max_time);
                self.ban_by_hand(network, seconds, reason, force, user)
                    .await
            }
            Request::Unban { networks, seconds } => self.unban(&networks, seconds, user).await,
            Request::UnbanAll => self.unban_all(user).await,
            Request::Allow { network, seconds } => self.allow(network, seconds, user).await,
            Request::Forget { networks } => self.forget(&networks, user).await,
            Request::End { pid, client, port } => self.end_by_hand(pid, client, port, user).await,
            Request::List
            | Request::Allowed
            | Request::Reload
            | Request::Status
            | Request::Sessions
            | Request::Why { .. } => {
                return Answer::End;
            }
        };
        match told {
            Ok(done) => Answer::Done(done),
            Err(error) => Answer::Error(error),
        }
    }

    async fn ban_by_hand(
        &self,
        network: IpNetwork,
        seconds: u32,
        reason: String,
        force: bool,
        user: &str,
    ) -> Told {
        if self.config.mode == Mode::Observe {
            return Err("the filter runs in observe mode: it bans nobody".into());
        }
        if !(1..=MAX_BAN_SECONDS).contains(&seconds) {
            return Err(format!(
                "{seconds} s is out of range, expected 1 to {MAX_BAN_SECONDS}"
            ));
        }
        if !force {
            self.may_be_banned(network)?;
        }
        let request = Ask::BanByHand {
            network,
            seconds,
            force,
        };
        let reply = self.warden.ask_patiently(request).await.map_err(|error| {
            let text = format!("the warden: {error}");
            self.degraded.enter(Part::Warden, error, Instant::now());
            text
        })?;
        self.ban_state(reply.ipv6, reply.outcome);
        if !reply.outcome.is_banned() {
            return Err(format!(
                "the warden did not ban {network}: {}",
                reply.outcome
            ));
        }
        let now = self.now();
        let ended = self.shut_out(network);
        // What counted of its bans by verdict goes on to count.
        let next = self.book().next(network, now);
        let count = next.count - u16::from(!next.running && next.count > 0);
        let record = Record {
            network,
            client: network.ip(),
            since: now,
            until: now.saturating_add(seconds),
            count,
            grounds: Arc::new(Grounds::default()),
            hand: Some(Arc::new(Hand {
                user: user.to_owned(),
                reason: reason.clone(),
                forced: force,
            })),
        };
        let written = {
            let mut book = self.book();
            book.insert(record, now);
            book.get(network)
        };
        let let_in = match ended.is_empty() {
            true => String::new(),
            false => format!("; {}", no_longer(&ended, "let in")),
        };
        let mut writes: Vec<Write> = ended.into_iter().map(Write::EndAllow).collect();
        writes.extend(
            written
                .as_ref()
                .map(|record| Write::Ban(Box::new(self.stored(record)))),
        );
        self.tell("ban", Some(network), seconds, user, &reason);
        let left = written.map_or(seconds, |record| record.until.saturating_sub(now));
        let longer = if left > seconds {
            ", as it was before"
        } else {
            ""
        };
        let dry = if self.config.ban.backend == Backend::DryRun {
            "; nobody is shut out by it (ban.backend = \"dry-run\")"
        } else {
            ""
        };
        let told = format!(
            "{} is banned for {}{longer}{let_in}{dry}",
            shown(network),
            spelled(left)
        );
        self.committed(writes, told).await
    }

    /// Why this network should not be banned.
    fn may_be_banned(&self, network: IpNetwork) -> Result<(), String> {
        let mut protected = self
            .protected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // The warden looks again.
        let _ = protected.refresh(Instant::now());
        if protected.overlaps(network) {
            return Err(format!(
                "{network} is in allow.networks, or holds an own address (--force asks the warden all the same)"
            ));
        }
        if self.allows().touches(network, self.now()) {
            return Err(format!("{network} is let in by hand (--force ends that)"));
        }
        Ok(())
    }

    async fn unban(self: &Arc<Self>, networks: &[IpNetwork], seconds: u32, user: &str) -> Told {
        let now = self.now();
        let until = now.saturating_add(seconds);
        let mut writes = Vec::new();
        let mut told = Vec::new();
        let mut failed = Vec::new();
        self.lists.forget(networks);
        for network in networks {
            // First, or its next message would ban it again.
            if seconds > 0 {
                if self.allows().insert(*network, until, now) {
                    writes.push(Write::Allow(*network, until));
                } else {
                    failed.push(too_many());
                }
            }
            self.late().free(*network);
            self.gate.forget(*network);
            let ended = self.end_of(*network, &mut failed).await;
            self.tell("unban", Some(*network), seconds, user, "");
            told.push(if ended.is_empty() {
                format!("{} was not banned", shown(*network))
            } else {
                no_longer(&ended, "banned")
            });
        }
        if seconds > 0 {
            told.push(format!(
                "let in for {}, whatever the lists say",
                spelled(seconds)
            ));
        }
        let told = self.committed(writes, told.join("; ")).await?;
        match failed.is_empty() {
            true => Ok(told),
            false => Err(format!("{}; {told}", failed.join("; "))),
        }
    }

    /// Ends the bans that have an address in common with `network`; those that
    /// were known of. What the warden does not end is added to `failed`.
    async fn end_of(&self, network: IpNetwork, failed: &mut Vec<String>) -> Vec<IpNetwork> {
        let known = self.touching(network);
        let mut banned = known.clone();
        // The kernel may hold it without our knowing.
        banned.push(network);
        if network.is_ipv6() && network.prefix() == 128 {
            banned.push(around(network.ip(), self.config.ban.prefix6));
        }
        banned.sort_unstable();
        banned.dedup();
        let mut ended = Vec::new();
        for banned in banned {
            match self.try_end(banned, Why::Wrong).await {
                Ok(()) => ended.push(banned),
                Err(error) => failed.push(format!(
                    "the warden did not free {}: {error}",
                    shown(banned)
                )),
            }
        }
        ended.retain(|banned| known.contains(banned));
        ended
    }

    /// Empties the sets, of what the book does not know, too.
    async fn flush(&self) -> Result<(), String> {
        for ipv6 in [false, true] {
            let reply = self.warden.ask_patiently(Ask::Flush { ipv6 }).await;
            let reply = reply.map_err(|error| {
                let text = error.to_string();
                self.degraded.enter(Part::Warden, error, Instant::now());
                text
            })?;
            // In a set that is not there nobody is banned.
            if reply.outcome != Outcome::Done && reply.outcome != Outcome::NoSet {
                self.ban_state(reply.ipv6, reply.outcome);
                return Err(reply.outcome.to_string());
            }
        }
        Ok(())
    }

    async fn unban_all(&self, user: &str) -> Told {
        let now = self.now();
        self.late().end_all();
        let failed = |error| format!("the warden did not free all: {error}");
        self.flush().await.map_err(failed)?;
        let mut networks: Vec<IpNetwork> = {
            let book = self.book();
            book.ends(now).map(|(network, _)| network).collect()
        };
        {
            let standing = self.standing();
            let running = standing.values().filter(|ban| ban.until > now);
            networks.extend(running.map(|ban| ban.network));
        }
        for networks in networks.chunks(AT_ONCE) {
            for network in networks {
                self.note_end(*network, Why::Wrong);
            }
            // No faster than the disk; that it is slow is told at the end.
            if let Some(store) = self.store.get() {
                let _ = store.commit(Vec::new()).await;
            }
        }
        // Some may have been on their way into the sets; and who was banned since
        // the beginning is in the book, and comes in again.
        self.flush().await.map_err(failed)?;
        if self.config.mode != Mode::Observe {
            for ipv6 in [false, true] {
                self.lacking.note(ipv6);
            }
        }
        self.tell("unban-all", None, 0, user, "");
        let told = match networks.len() {
            1 => "1 ban is ended".into(),
            all => format!("{all} bans are ended"),
        };
        self.committed(Vec::new(), told).await
    }

    /// Ends that anybody in `network` is let in by hand, and tells what was ended.
    fn shut_out(&self, network: IpNetwork) -> Vec<IpNetwork> {
        self.late().shut_out(network);
        self.allows().end(network)
    }

    /// Lets `network` in, and ends the bans that keep it out; 0 seconds end that.
    async fn allow(&self, network: IpNetwork, seconds: u32, user: &str) -> Told {
        let now = self.now();
        let mut failed = Vec::new();
        let (writes, told) = if seconds == 0 {
            let ended = self.shut_out(network);
            let told = if ended.is_empty() {
                format!("{} was not let in", shown(network))
            } else {
                no_longer(&ended, "let in")
            };
            (ended.into_iter().map(Write::EndAllow).collect(), told)
        } else {
            let until = now.saturating_add(seconds);
            if !self.allows().insert(network, until, now) {
                return Err(too_many());
            }
            self.gate.forget(network);
            let mut told = format!(
                "{} is let in for {}, whatever the lists say",
                shown(network),
                spelled(seconds)
            );
            // Who is banned is not let in.
            if !self.touching(network).is_empty() {
                let ended = self.end_of(network, &mut failed).await;
                if !ended.is_empty() {
                    told = format!("{told}; {}", no_longer(&ended, "banned"));
                }
            }
            (vec![Write::Allow(network, until)], told)
        };
        self.tell("allow", Some(network), seconds, user, "");
        let told = self.committed(writes, told).await?;
        match failed.is_empty() {
            true => Ok(told),
            false => Err(format!("{}; {told}", failed.join("; "))),
        }
    }

    /// Waits until it is on disk. Where it does not get there, it is done all
    /// the same, and said.
    async fn committed(&self, writes: Vec<Write>, told: String) -> Told {
        let result = match self.store.get() {
            Some(store) => store.commit(writes).await,
            None => Err("there is no store".into()),
        };
        Ok(match result {
            Ok(()) => told,
            Err(error) => format!("{told}; a restart may forget it: {error}"),
        })
    }

    pub(super) fn tell(
        &self,
        what: &str,
        network: Option<IpNetwork>,
        seconds: u32,
        user: &str,
        reason: &str,
    ) {
        let event = Event::new("byhand").field("what", what);
        let event = match network {
            Some(network) => event.network(network),
            None => event,
        };
        let event = event.field("user", user);
        let event = if seconds > 0 {
            event.field("for", format!("{seconds}s"))
        } else {
            event
        };
        if reason.is_empty() {
            log::warn!("{event}");
        } else {
            log::warn!("{}", event.text(reason));
        }
    }

    /// The bans, in no order; in `observe` those from before it.
    pub fn bans(&self) -> Vec<Record> {
        let now = self.now();
        let mut bans: Vec<Record> = self.book().running(now).collect();
        let standing = self.standing();
        bans.extend(standing.values().filter(|ban| ban.until > now).cloned());
        bans
    }

    /// A ban as it is told.
    pub fn entry(&self, record: &Record) -> Entry {
        let hand = record.hand.as_deref();
        Entry {
            what: What::Ban,
            network: record.network,
            since: Some(record.since),
            left: record.until.saturating_sub(self.now()),
            offence: Some(record.count).filter(|_| hand.is_none()),
            zones: record.grounds.zones.clone(),
            reason: hand.map_or_else(String::new, |hand| hand.reason.clone()),
            by: hand.map_or_else(|| "lists".into(), |hand| hand.user.clone()),
        }
    }

    /// Who is let in.
    pub fn allowed(&self) -> Vec<Entry> {
        let now = self.now();
        let allows = self.allows();
        let mut allowed: Vec<Entry> = allows
            .running(now)
            .map(|(network, until)| Entry::allowed(network, until - now))
            .collect();
        allowed.sort_unstable_by_key(|entry| entry.network);
        allowed
    }
}

/// These are no longer `what`, the first of them by name.
fn no_longer(networks: &[IpNetwork], what: &str) -> String {
    let names: Vec<String> = networks.iter().take(NAMED).copied().map(shown).collect();
    let names = names.join(", ");
    match networks.len() {
        1 => format!("{names} is no longer {what}"),
        all if all > NAMED => {
            format!("{names} and {} more are no longer {what}", all - NAMED)
        }
        _ => format!("{names} are no longer {what}"),
    }
}

fn spelled(seconds: u32) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(seconds.into()))
}

fn too_many() -> String {
    format!(
        "{} networks are let in already (what lasts belongs into allow.networks)",
        allows::MOST
    )
}
