//! Sessions, seen when they connect: most listed clients never reach the end
//! of data, and sit in a slot meanwhile.
//!
//! Where the kernel tells of execs (`events`), a session is seen as its
//! `courieresmtpd` starts; elsewhere (a container, a network namespace of its
//! own) couriertcpd's children are looked at (`poll`). Either is a thread that
//! only says which processes to look at: [`Table`] looks, follows each session
//! to its end, and has it judged once.

pub mod connector;
mod events;
mod poll;
mod table;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::config::Watch;
use crate::courier::identified::Identified;
use crate::courier::process::Error;
use crate::log::Event;
use crate::metrics::Metrics;

pub use table::{Sender, Table};

/// Processes that may wait to be looked at; beyond, the tree is swept.
const QUEUE: usize = 16_384;
/// How often and how long a process is looked at that is no session yet: its
/// environment is filled in within microseconds of the exec.
const AGAIN_EVERY: Duration = Duration::from_millis(1);
const AGAIN_TIMES: u32 = 100;
/// What a session's process is called.
const SESSION: &str = "courieresmtpd";

/// What a source of sightings says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sighting {
    /// This process called exec, or is a session already.
    Exec(i32),
    /// Some were missed: look at all that there are.
    Gap,
}

/// Who judges a session that has been seen.
pub trait Judge: Send + Sync + 'static {
    /// Called once for each session, soon after it connected; it was `seen`
    /// then. Returns when there is nothing left to do about it.
    fn connected(
        self: Arc<Self>,
        identified: Arc<Identified>,
        seen: Instant,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// Called when sessions begin to be seen, by what.
    fn watching(&self, by: By);
}

/// By what sessions are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The kernel's word.
    Events,
    /// Polling.
    Poll,
}

/// A watch, and what it takes.
#[derive(Debug)]
pub struct Watcher<J> {
    /// The sessions that have been seen.
    pub table: Arc<Table>,
    /// Who judges them.
    pub judge: Arc<J>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The file of `courieresmtpd`.
    pub program: PathBuf,
}

impl<J: Judge> Watcher<J> {
    /// Watches until the future is dropped. `events` gives the socket on which
    /// the kernel tells of execs, if it does.
    pub async fn run(self, settings: Watch, events: Option<OwnedFd>) {
        if let Some(socket) = events {
            let (sender, sightings) = mpsc::channel(QUEUE);
            let why = match events::start(socket, sender) {
                Ok(()) => {
                    log::info!("{}", Event::new("watching").field("by", "events"));
                    self.judge.watching(By::Events);
                    self.follow(sightings).await;
                    "the kernel's socket failed".to_owned()
                }
                Err(error) => error.to_string(),
            };
            log::error!("{}", Event::new("noevents").text(why));
        }
        let (sender, sightings) = mpsc::channel(QUEUE);
        let listeners = Arc::clone(self.table.listeners());
        match poll::start(settings.interval, &self.program, listeners, sender) {
            Ok(()) => {
                let interval = format!("{}ms", settings.interval.as_millis());
                let event = Event::new("watching").field("by", "poll");
                log::info!("{}", event.field("interval", interval));
                self.judge.watching(By::Poll);
                self.follow(sightings).await;
            }
            Err(error) => log::error!("{}", Event::new("failed").text(error)),
        }
    }

    /// Looks at what is seen, until nothing is seen any more.
    async fn follow(&self, mut sightings: mpsc::Receiver<Sighting>) {
        // Those that are there already.
        self.sweep();
        while let Some(sighting) = sightings.recv().await {
            match sighting {
                Sighting::Exec(pid) => self.look(pid, false),
                Sighting::Gap => {
                    self.metrics.gaps.inc();
                    self.sweep();
                }
            }
        }
    }

    /// Looks at every child of every couriertcpd.
    fn sweep(&self) {
        for listener in self.table.listeners().look() {
            for pid in listener.children() {
                self.look(pid, true);
            }
        }
    }

    /// Looks at process `pid`; most are no sessions, or have ended. One that may
    /// yet become a session is looked at again. `found`: a sweep came upon it, so
    /// that it may be older than the watch.
    fn look(&self, pid: i32, found: bool) {
        if self.table.holds(pid) {
            return;
        }
        let seen = Instant::now();
        let first = self.table.identify(pid);
        if !first.as_ref().map_or_else(Error::is_early, |_| true) {
            return;
        }
        let Some(entry) = self.table.enter(pid, found) else {
            return;
        };
        let (table, judge) = (Arc::clone(&self.table), Arc::clone(&self.judge));
        let metrics = Arc::clone(&self.metrics);
        tokio::spawn(async move {
            let Some(identified) = awaited(&table, pid, first).await else {
                return;
            };
            metrics.sessions.inc();
            let identified = Arc::new(identified);
            entry.identified(&identified);
            // Its verdict stands, also where the client has left meanwhile.
            tokio::spawn(judge.connected(Arc::clone(&identified), seen));
            crate::enforce::kill::ended(identified.esmtpd()).await;
            drop(entry);
        });
    }
}

/// The session of process `pid`, of which `first` was seen, once it is one.
async fn awaited(table: &Table, pid: i32, first: Result<Identified, Error>) -> Option<Identified> {
    let mut seen = first;
    for _ in 0..AGAIN_TIMES {
        match seen {
            Ok(identified) => return Some(identified),
            Err(error) if error.is_early() => sleep(AGAIN_EVERY).await,
            Err(_) => return None,
        }
        seen = table.identify(pid);
    }
    seen.ok()
}
