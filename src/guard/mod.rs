//! The slot guard: the server's connection slots do not run out, whatever the
//! lists say.
//!
//! When most of a `couriertcpd`'s slots are in use, the sessions are ended
//! whose clients have been silent longest while it is their turn, until enough
//! are free. Nobody is banned for it, and nobody is ended while Courier, a
//! filter or a DNS server is at work for them. Children of couriertcpd that
//! still wait for DNS hold slots and count, but cannot be told from each other,
//! and are left alone.

pub mod answers;
pub mod plan;
pub(crate) mod sockets;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::courier::identified::Identified;
use crate::courier::listener::Listener;
use crate::courier::session::Session;
use crate::courier::turn::{self, Turn};
use crate::log::Event;
use crate::watch::Table;
use plan::{Candidate, Change, Guarding, Marks, Usage};
use sockets::{Connection, Key, Sockets};

/// How often slots are counted while sessions come, or while the guard is at
/// work: 740 sessions a second, the most that couriertcpd can start, take 80 ms
/// from the high-water mark to the last slot.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How often, where the guard is at work, found nobody to end, and is not short
/// of the last slots.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How often slots are counted while no session comes.
const LOOK_ANYWAY: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_secs(3600);
/// So few sessions may all have closed their connections at the same moment.
const FEW: usize = 5;
/// So many looks in a row tell that the kernel does not tell.
const UNTOLD: u32 = 40;
/// Packets there and back that a client may need for its next command.
const ROUND_TRIPS: u32 = 2;

/// Who knows the clients, and ends sessions.
pub trait Keeper: Send + Sync + 'static {
    /// Whether the guard may not end this session, whatever its client does.
    fn spares(&self, session: &Session) -> bool;
    /// Whether the client has delivered mail lately.
    fn has_delivered(&self, client: IpAddr) -> bool;
    /// Ends the session of a client that has been silent for so long; whether
    /// it did (or would, where nothing is done).
    fn shed(&self, identified: &Identified, silence: Duration) -> bool;
    /// Whether the guard can tell whose turn it is and who is silent.
    fn guard_works(&self, result: Result<(), &dyn std::fmt::Display>);
}

/// Guards the slots until the future is dropped.
pub async fn run<K: Keeper>(table: Arc<Table>, keeper: Arc<K>, marks: Marks) {
    let mut guard = Guard {
        table: Arc::clone(&table),
        keeper,
        marks,
        sockets: None,
        listeners: HashMap::new(),
        untold: 0,
        is_urgent: false,
    };
    loop {
        if !guard.is_at_work() {
            // Sessions that wait for DNS take slots without being seen; where there are
            // none to end, that need not be known.
            let quiet = if table.is_empty() { QUIET } else { LOOK_ANYWAY };
            let _ = timeout(quiet, table.grown()).await;
        }
        let shed = guard.round(Instant::now());
        sleep(if shed > 0 || !guard.is_at_work() || guard.is_urgent {
            LOOK_EVERY
        } else {
            LOOK_AGAIN
        })
        .await;
    }
}

struct Guard<K> {
    table: Arc<Table>,
    keeper: Arc<K>,
    marks: Marks,
    sockets: Option<Sockets>,
    /// By the number of each `couriertcpd`.
    listeners: HashMap<i32, Guarded>,
    /// The last looks at which the kernel told nothing of anybody.
    untold: u32,
    /// Somewhere less than a twentieth of the slots is left.
    is_urgent: bool,
}

/// A `couriertcpd` whose slots are known.
#[derive(Clone, Copy)]
struct Guarded {
    slots: usize,
    guarding: Guarding,
}

impl<K: Keeper> Guard<K> {
    fn is_at_work(&self) -> bool {
        self.listeners
            .values()
            .any(|it| it.guarding.since.is_some())
    }

    /// Looks at each listener's slots, and ends sessions where that must be;
    /// returns how many.
    fn round(&mut self, now: Instant) -> usize {
        self.is_urgent = false;
        let mut shed = 0;
        let mut sessions: HashMap<i32, Vec<Arc<Identified>>> = HashMap::new();
        for session in self.table.identified() {
            let listener = session.listener().pid();
            sessions.entry(listener).or_default().push(session);
        }
        let listeners = self.table.listeners().all();
        for (pid, gone) in self
            .listeners
            .extract_if(|pid, _| !listeners.iter().any(|it| it.pid() == *pid))
        {
            tell(pid, gone.guarding.end(now));
        }
        for listener in listeners {
            let sessions = sessions.remove(&listener.pid()).unwrap_or_default();
            shed += self.guard(&listener, &sessions, now);
        }
        shed
    }

    fn guard(&mut self, listener: &Listener, sessions: &[Arc<Identified>], now: Instant) -> usize {
        let pid = listener.pid();
        let before = self.listeners.get(&pid).copied();
        let slots = sessions.iter().find_map(|it| it.session.slots);
        let Some(slots) = slots.or(before.map(|it| it.slots)) else {
            return 0;
        };
        let mut guarding = before.map(|it| it.guarding).unwrap_or_default();
        let used = listener.slots_used();
        let mut usage = Usage { used, slots };
        tell(pid, guarding.step(usage, self.marks, now));
        let mut shed = 0;
        if guarding.since.is_some() {
            self.is_urgent |= usage.reaches(plan::LAST);
            match self.silent(sessions) {
                Ok(silent) => {
                    shed = self.shed(&silent, &mut usage);
                    guarding.shed += shed;
                    if self.untold == 0 {
                        self.keeper.guard_works(Ok(()));
                    }
                }
                Err(error) => self.keeper.guard_works(Err(&error)),
            }
        }
        self.listeners.insert(pid, Guarded { slots, guarding });
        shed
    }

    /// The sessions that may be ended for their clients' silence, in the order
    /// in which they are.
    fn silent<'a>(&mut self, sessions: &'a [Arc<Identified>]) -> io::Result<Vec<Silent<'a>>> {
        let sockets = match self.sockets.take() {
            Some(sockets) => sockets,
            None => Sockets::open()?,
        };
        let mut connections: HashMap<Key, Connection> = HashMap::new();
        let mut ports: Vec<u16> = sessions.iter().map(|it| it.session.local_port).collect();
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            connections.extend(sockets.to_port(port)?);
        }
        let mut found = 0;
        let silent: Vec<Silent<'a>> = sessions
            .iter()
            .filter_map(|identified| {
                let session = &identified.session;
                let key = Key {
                    client: SocketAddr::new(session.client, session.client_port),
                    local: SocketAddr::new(session.local?, session.local_port),
                };
                let connection = connections.remove(&key)?;
                found += 1;
                let silence = silence(&connection)?;
                if self.keeper.spares(session) {
                    return None;
                }
                let candidate = Candidate {
                    silence,
                    delivered: self.keeper.has_delivered(session.client),
                };
                Some(Silent {
                    identified,
                    connection,
                    candidate,
                })
            })
            .collect();
        // One that failed is not kept: an answer may be left in it.
        self.sockets = Some(sockets);
        if found == 0 && sessions.len() > FEW {
            return Err(io::Error::other(
                "no session's connection is one of this host's: do they come through a proxy?",
            ));
        }
        let candidates: Vec<Candidate> = silent.iter().map(|it| it.candidate).collect();
        let mut silent: Vec<Option<Silent<'a>>> = silent.into_iter().map(Some).collect();
        Ok(plan::order(&candidates)
            .into_iter()
            .filter_map(|at| silent[at].take())
            .collect())
    }

    /// Ends as many as must be, and may be; returns how many.
    fn shed(&mut self, silent: &[Silent<'_>], usage: &mut Usage) -> usize {
        let (mut shed, mut unknown, mut looked) = (0, 0, 0);
        for one in silent {
            if !usage.reaches(self.marks.low) {
                break;
            }
            let borne = usage.borne(self.marks, one.candidate.delivered);
            if one.candidate.silence < borne {
                // Those after it have been silent for less, up to those that
                // have delivered mail.
                continue;
            }
            looked += 1;
            match turn::of(one.identified.esmtpd()) {
                Turn::Client => {}
                Turn::Courier => continue,
                Turn::Unknown => {
                    unknown += 1;
                    continue;
                }
            }
            // It may have spoken since, and have its answer already.
            let Some(sockets) = &self.sockets else { break };
            let now = match sockets.again(&one.connection) {
                Ok(Some(now)) => now,
                Ok(None) => continue,
                Err(_) => {
                    // An answer may be left in it.
                    self.sockets = None;
                    break;
                }
            };
            let Some(silence) = silence(&now).filter(|silence| *silence >= borne) else {
                continue;
            };
            if one.identified.has_logged_in() {
                continue;
            }
            if self.keeper.shed(one.identified, silence) {
                usage.used = usage.used.saturating_sub(1);
                shed += 1;
            }
        }
        // One that runs waits for nothing; they cannot all run all the time.
        self.untold = if looked > 0 && unknown == looked {
            self.untold + 1
        } else {
            0
        };
        if self.untold >= UNTOLD {
            let error = "the kernel does not tell what processes wait for (/proc/PID/wchan)";
            self.keeper.guard_works(Err(&error));
        }
        shed
    }
}

/// A session whose client may have been silent for too long.
struct Silent<'a> {
    identified: &'a Arc<Identified>,
    connection: Connection,
    candidate: Candidate,
}

/// How long the client could have spoken and did not. `None` where bytes of it
/// wait to be read: then it is not its turn.
fn silence(connection: &Connection) -> Option<Duration> {
    let travelling = connection.round_trip * ROUND_TRIPS;
    (!connection.unread).then(|| connection.silence.saturating_sub(travelling))
}

fn tell(listener: i32, change: Change) {
    let event = Event::new("guard").field("couriertcpd", listener);
    let event = match change {
        Change::None => return,
        Change::Entered(usage) => event
            .field("state", "on")
            .field("used", usage.used)
            .field("slots", usage.slots),
        Change::Left(after, shed) => event
            .field("state", "off")
            .field("after", format!("{}s", after.as_secs()))
            .field("shed", shed),
    };
    log::warn!("{event}");
}
