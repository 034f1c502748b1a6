//! The sessions that are open, each followed to its end.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::courier::identified::{Identified, Peer, Submit};
use crate::courier::listener::Listeners;
use crate::courier::process::Error;
use crate::courier::session::Verdict as Courier;
use crate::sessions::{Session, Sessions, State, Verdict};
use crate::why::OpenSession;

/// The sessions by the number of their `courieresmtpd`.
#[derive(Debug)]
pub struct Table {
    listeners: Arc<Listeners>,
    block_variables: Vec<String>,
    sessions: Mutex<HashMap<i32, Slot>>,
    /// Those that were not in when a message of theirs came, and when it did.
    unseen: Mutex<HashMap<i32, Instant>>,
    grown: Notify,
}

/// How long that is remembered: longer than a sweep can be late.
const LONGEST: Duration = Duration::from_secs(60);

/// The most sessions of one client that are told.
const MOST_TOLD: usize = 100;

/// What is known of a session.
#[derive(Clone, Debug)]
struct Slot {
    since: Instant,
    identified: Option<Arc<Identified>>,
    /// A message of it has reached the filter socket, which alone decides from
    /// then on.
    at_filter: bool,
    /// It was there before the watch saw it. What came of its messages until then,
    /// the worker before knows alone: one may have been accepted a moment ago, and
    /// the client not have the answer yet.
    found: bool,
    /// Somebody is about to end it.
    ending: bool,
    /// What was decided, and by which list.
    verdict: (Verdict, String),
}

impl Slot {
    fn state(&self) -> State {
        if self.ending {
            State::Ending
        } else if self.at_filter {
            State::Message
        } else if self.found {
            State::Found
        } else {
            State::Open
        }
    }
}

/// The session of a message on the filter socket.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Who it is.
    pub identified: Arc<Identified>,
    /// It was about to be ended before its message came.
    pub ending: bool,
}

/// A session's place in the table, for as long as it is followed.
#[derive(Debug)]
pub struct Entry {
    table: Arc<Table>,
    pid: i32,
}

impl Entry {
    /// Notes who it is.
    pub fn identified(&self, identified: &Arc<Identified>) {
        if let Some(slot) = self.table.sessions().get_mut(&self.pid) {
            slot.identified = Some(Arc::clone(identified));
        }
        self.table.grown.notify_one();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.sessions().remove(&self.pid);
    }
}

impl Table {
    /// An empty table of the sessions of the `couriertcpd`s with a pid file in
    /// `piddir`.
    #[must_use]
    pub fn new(piddir: PathBuf, block_variables: Vec<String>) -> Self {
        Self {
            listeners: Arc::new(Listeners::new(piddir)),
            block_variables,
            sessions: Mutex::default(),
            unseen: Mutex::default(),
            grown: Notify::new(),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<i32, Slot>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unseen(&self) -> MutexGuard<'_, HashMap<i32, Instant>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `couriertcpd`s.
    #[must_use]
    pub fn listeners(&self) -> &Arc<Listeners> {
        &self.listeners
    }

    /// The session of process `pid`.
    ///
    /// # Errors
    /// Where it is none, or not yet.
    pub fn identify(&self, pid: i32) -> Result<Identified, Error> {
        Identified::of_session(pid, &self.listeners, &self.block_variables)
    }

    /// The session whose `submit` is at the other end of the filter socket; a
    /// message of it has reached that now.
    ///
    /// # Errors
    /// Where it is another process, or ended meanwhile.
    pub fn of_submit(&self, peer: Peer) -> Result<Sender, Error> {
        let submit = Submit::of_peer(peer)?;
        let (known, ending) = match self.sessions().get_mut(&submit.esmtpd()) {
            Some(slot) => {
                slot.at_filter = true;
                (slot.identified.clone(), slot.ending)
            }
            None => {
                // Should the watch come upon it yet, it must know.
                self.unseen().insert(submit.esmtpd(), Instant::now());
                (None, false)
            }
        };
        // It was here before we looked for submit's parent, and lives: it is it.
        if let Some(identified) = known.filter(|known| known.esmtpd().is_alive()) {
            return Ok(Sender { identified, ending });
        }
        let identified = self.identify(submit.esmtpd())?;
        submit.confirm()?;
        let identified = Arc::new(identified);
        Ok(Sender { identified, ending })
    }

    /// Whether session `pid` may be ended now. If so, a message of it that
    /// comes from now on waits for its end. One that has reached the filter
    /// socket may not, nor one that was found, unless it is certain that it has
    /// its answer: `answered`.
    #[must_use]
    pub fn claim(&self, pid: i32, answered: bool) -> bool {
        match self.sessions().get_mut(&pid) {
            Some(slot) if answered || !(slot.at_filter || slot.found) => {
                slot.ending = true;
                true
            }
            Some(_) => false,
            // It is not followed, so nobody else ends it.
            None => true,
        }
    }

    /// Session `pid` was not ended after all.
    pub fn release(&self, pid: i32) {
        if let Some(slot) = self.sessions().get_mut(&pid) {
            slot.ending = false;
        }
    }

    /// Whether process `pid` is in.
    #[must_use]
    pub fn holds(&self, pid: i32) -> bool {
        self.sessions().contains_key(&pid)
    }

    /// Takes process `pid` in; `None` where it is in. `found`: it was there before
    /// anybody told of it.
    #[must_use]
    pub fn enter(self: &Arc<Self>, pid: i32, found: bool) -> Option<Entry> {
        let mut sessions = self.sessions();
        if sessions.contains_key(&pid) {
            return None;
        }
        let now = Instant::now();
        let at_filter = {
            let mut unseen = self.unseen();
            unseen.retain(|_, at| now.duration_since(*at) < LONGEST);
            unseen.remove(&pid).is_some()
        };
        sessions.insert(
            pid,
            Slot {
                since: now,
                identified: None,
                at_filter,
                found,
                ending: false,
                verdict: Default::default(),
            },
        );
        Some(Entry {
            table: Arc::clone(self),
            pid,
        })
    }

    /// Whether a message of session `pid` has reached the filter socket.
    #[must_use]
    pub fn is_at_filter(&self, pid: i32) -> bool {
        self.sessions().get(&pid).is_some_and(|slot| slot.at_filter)
    }

    /// Whether what came of the messages of session `pid`, before it was found, is
    /// not known.
    #[must_use]
    pub fn is_found(&self, pid: i32) -> bool {
        self.sessions().get(&pid).is_some_and(|slot| slot.found)
    }

    /// Session `pid` has the answers to all that came of it before it was found.
    pub fn has_answers(&self, pid: i32) {
        if let Some(slot) = self.sessions().get_mut(&pid) {
            slot.found = false;
        }
    }

    /// What was decided of session `pid`, and which list names the client.
    pub fn judged(&self, pid: i32, verdict: Verdict, zone: &str) {
        if let Some(slot) = self.sessions().get_mut(&pid) {
            slot.verdict = (verdict, zone.to_owned());
        }
    }

    /// Session `pid`, where it has been identified.
    #[must_use]
    pub fn session(&self, pid: i32) -> Option<Arc<Identified>> {
        self.sessions().get(&pid)?.identified.clone()
    }

    /// The sessions that have been identified: how many, and the oldest `most` of
    /// them as they are told.
    #[must_use]
    pub fn told(&self, most: usize, now: Instant) -> Sessions {
        let mut all: Vec<(Instant, Session)> = self
            .sessions()
            .iter()
            .filter_map(|(pid, slot)| {
                let session = &slot.identified.as_ref()?.session;
                let (verdict, zone) = slot.verdict.clone();
                let told = Session {
                    pid: *pid,
                    client: session.client,
                    port: session.client_port,
                    local_port: session.local_port,
                    age: now.saturating_duration_since(slot.since).as_secs(),
                    state: slot.state(),
                    verdict,
                    zone,
                };
                Some((slot.since, told))
            })
            .collect();
        all.sort_unstable_by_key(|(since, told)| (*since, told.pid));
        let total = all.len();
        let oldest = all.into_iter().take(most);
        Sessions {
            total,
            sessions: oldest.map(|(_, told)| told).collect(),
        }
    }

    /// The sessions that have been identified.
    #[must_use]
    pub fn identified(&self) -> Vec<Arc<Identified>> {
        self.sessions()
            .values()
            .filter_map(|slot| slot.identified.clone())
            .collect()
    }

    /// The open sessions of `client`.
    #[must_use]
    pub fn of_client(&self, client: IpAddr, now: Instant) -> Vec<OpenSession> {
        let sessions = self.sessions();
        let of = |slot: &Slot| {
            let session = &slot.identified.as_ref()?.session;
            (session.client == client).then(|| OpenSession {
                port: session.client_port,
                local_port: session.local_port,
                age: now.saturating_duration_since(slot.since).as_secs(),
                at_filter: slot.at_filter,
                ending: slot.ending,
                relay_client: session.relay_client,
                proxied: session.proxied,
                courier: match &session.verdict {
                    Courier::Listed(listed) => {
                        listed.iter().map(|listed| listed.zone.clone()).collect()
                    }
                    Courier::None | Courier::Allowed(_) => Vec::new(),
                },
            })
        };
        let mut open: Vec<OpenSession> = sessions.values().filter_map(of).collect();
        open.sort_by_key(|session| (std::cmp::Reverse(session.age), session.port));
        open.truncate(MOST_TOLD);
        open
    }

    /// How many sessions are open, and since when the oldest.
    #[must_use]
    pub fn open(&self) -> (usize, Option<Instant>) {
        let sessions = self.sessions();
        let oldest = sessions.values().map(|slot| slot.since).min();
        (sessions.len(), oldest)
    }

    /// How many sessions are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions().len()
    }

    /// Whether no session is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions().is_empty()
    }

    /// Returns once a session has been identified since the last call.
    pub async fn grown(&self) {
        self.grown.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_taken_in_once_until_it_has_ended() {
        let table = Arc::new(Table::new("/nowhere".into(), Vec::new()));
        let entry = table.enter(7, false).unwrap();
        assert!(table.holds(7) && table.enter(7, false).is_none());
        assert!(!table.is_at_filter(7));
        table.sessions().get_mut(&7).unwrap().at_filter = true;
        assert!(table.is_at_filter(7) && !table.is_at_filter(8));
        assert_eq!(table.open().0, 1);
        assert!(!table.claim(7, false), "the filter socket decides");
        assert!(table.claim(7, true) && table.claim(8, false));
        assert!(table.sessions()[&7].ending);
        table.release(7);
        assert!(!table.sessions()[&7].ending);
        drop(entry);
        assert_eq!(table.open(), (0, None));
        let again = table.enter(7, false).unwrap();
        assert!(!table.is_at_filter(7), "the number is another's now");
        drop(again);
        // A message of it came before the watch saw it.
        table.unseen().insert(7, Instant::now());
        let _late = table.enter(7, false).unwrap();
        assert!(table.is_at_filter(7) && !table.claim(7, false));
    }
    #[test]
    fn a_session_that_was_found_is_ended_only_when_it_has_its_answers() {
        let table = Arc::new(Table::new("/nowhere".into(), Vec::new()));
        let _entry = table.enter(7, true).unwrap();
        assert!(table.is_found(7) && !table.is_found(8));
        assert!(!table.is_at_filter(7) && !table.claim(7, false));
        assert!(
            !table.sessions()[&7].ending,
            "its messages wait for nothing"
        );
        assert!(table.claim(7, true), "it is the client's turn");
        table.release(7);
        table.has_answers(7);
        assert!(!table.is_found(7) && table.claim(7, false));
        table.release(7);
        // A message that comes meanwhile is the filter socket's.
        table.sessions().get_mut(&7).unwrap().at_filter = true;
        table.has_answers(7);
        assert!(!table.claim(7, false));
    }
}
