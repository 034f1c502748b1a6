//! Sessions, seen when they connect: most listed clients never reach the end
//! of data, and sit in a slot meanwhile.
//!
//! Where the kernel tells of execs (`events`), a session is seen as its
//! `courieresmtpd` starts; elsewhere (a container, a network namespace of its
//! own) couriertcpd's children are polled (`poll`). Either only says which
//! processes to look at: [`Table`] looks, follows each session to its end, and
//! has it judged once.

pub mod connector;
mod events;
mod poll;
mod table;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::config::Watch;
use crate::courier::process::Identified;
use crate::log::Event;

pub use table::Table;

/// Processes that may wait to be looked at; beyond, the tree is swept.
const QUEUE: usize = 16_384;
/// How often and how long a process is looked at that is no session yet: its
/// environment is filled in within microseconds of the exec.
const AGAIN_EVERY: Duration = Duration::from_millis(2);
const AGAIN_TIMES: u32 = 50;

/// What a source of sightings says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sighting {
    /// This process called exec.
    Exec(i32),
    /// Some were missed: look at all that there are.
    Gap,
}

/// Who judges a session that has been seen.
pub trait Judge: Send + Sync + 'static {
    /// Called once for each session, soon after it connected. Returns when
    /// there is nothing left to do about it.
    fn connected(
        self: Arc<Self>,
        identified: Arc<Identified>,
    ) -> impl Future<Output = ()> + Send + 'static;
}

/// Watches until the future is dropped. `events` gives the socket on which the
/// kernel tells of execs, if it does.
pub async fn run<J: Judge>(
    settings: Watch,
    table: Arc<Table>,
    judge: Arc<J>,
    events: Option<std::os::fd::OwnedFd>,
) {
    if let Some(socket) = events {
        let (sender, sightings) = mpsc::channel(QUEUE);
        match events::start(socket, sender) {
            Ok(()) => follow(sightings, &table, &judge).await,
            Err(error) => log::error!("{}", Event::new("noevents").text(error)),
        }
    }
    log::info!("{}", Event::new("watching").field("by", "poll"));
    sweep(&table, &judge);
    poll::run(settings.interval, &table, &judge).await;
}

/// Looks at what the kernel tells of, until it tells no more.
async fn follow<J: Judge>(
    mut sightings: mpsc::Receiver<Sighting>,
    table: &Arc<Table>,
    judge: &Arc<J>,
) {
    log::info!("{}", Event::new("watching").field("by", "events"));
    // Those that are there already.
    sweep(table, judge);
    while let Some(sighting) = sightings.recv().await {
        match sighting {
            Sighting::Exec(pid) if poll::is_session(pid) => look(table, judge, pid),
            Sighting::Exec(_) => {}
            Sighting::Gap => sweep(table, judge),
        }
    }
    log::error!(
        "{}",
        Event::new("noevents").text("the kernel's socket failed")
    );
}

/// Looks at every child of every couriertcpd.
fn sweep<J: Judge>(table: &Arc<Table>, judge: &Arc<J>) {
    for listener in table.listeners() {
        for pid in listener.children() {
            look(table, judge, pid);
        }
    }
}

/// Looks at process `pid`, once.
fn look<J: Judge>(table: &Arc<Table>, judge: &Arc<J>, pid: i32) {
    let Some(entry) = table.enter(pid) else {
        return;
    };
    let (table, judge) = (Arc::clone(table), Arc::clone(judge));
    tokio::spawn(async move {
        for _ in 0..AGAIN_TIMES {
            match table.identify(pid) {
                Ok(identified) => {
                    let identified = Arc::new(identified);
                    // Its verdict stands, also where the client has left meanwhile.
                    tokio::spawn(judge.connected(Arc::clone(&identified)));
                    crate::enforce::kill::ended(identified.esmtpd()).await;
                    break;
                }
                Err(error) if error.is_early() => sleep(AGAIN_EVERY).await,
                // No session, or one that has ended.
                Err(_) => break,
            }
        }
        drop(entry);
    });
}

/// The numbers in `now` that are not in `before`.
fn new_in(now: &[i32], before: &HashSet<i32>) -> Vec<i32> {
    now.iter()
        .copied()
        .filter(|pid| !before.contains(pid))
        .collect()
}
