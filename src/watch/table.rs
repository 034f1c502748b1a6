//! The sessions that are open, each followed to its end.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::courier::process::{Error, Identified, Listener};

/// The sessions by the number of their `courieresmtpd`, and since when they
/// are known.
#[derive(Debug)]
pub struct Table {
    piddir: PathBuf,
    block_variables: Vec<String>,
    sessions: Mutex<HashMap<i32, Session>>,
}

#[derive(Debug)]
struct Session {
    since: Instant,
    /// A message of it has reached the filter socket, which alone decides from
    /// then on.
    at_filter: bool,
}

/// A session's place in the table, for as long as it is followed.
#[derive(Debug)]
pub struct Entry {
    table: Arc<Table>,
    pid: i32,
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
            piddir,
            block_variables,
            sessions: Mutex::default(),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<i32, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `couriertcpd`s that run.
    #[must_use]
    pub fn listeners(&self) -> Vec<Listener> {
        Listener::all(&self.piddir)
    }

    /// The session of process `pid`.
    ///
    /// # Errors
    /// Where it is none, or not yet.
    pub fn identify(&self, pid: i32) -> Result<Identified, Error> {
        Identified::of_session(pid, &self.block_variables)
    }

    /// Takes process `pid` in; `None` where it is in.
    #[must_use]
    pub fn enter(self: &Arc<Self>, pid: i32) -> Option<Entry> {
        let mut sessions = self.sessions();
        if sessions.contains_key(&pid) {
            return None;
        }
        sessions.insert(
            pid,
            Session {
                since: Instant::now(),
                at_filter: false,
            },
        );
        Some(Entry {
            table: Arc::clone(self),
            pid,
        })
    }

    /// Notes that a message of this session has reached the filter socket.
    pub fn reached_filter(&self, pid: i32) {
        if let Some(session) = self.sessions().get_mut(&pid) {
            session.at_filter = true;
        }
    }

    /// Whether one has.
    #[must_use]
    pub fn is_at_filter(&self, pid: i32) -> bool {
        self.sessions()
            .get(&pid)
            .is_some_and(|session| session.at_filter)
    }

    /// How many sessions are open, and since when the oldest.
    #[must_use]
    pub fn open(&self) -> (usize, Option<Instant>) {
        let sessions = self.sessions();
        (
            sessions.len(),
            sessions.values().map(|session| session.since).min(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_taken_in_once_until_it_has_ended() {
        let table = Arc::new(Table::new("/nowhere".into(), Vec::new()));
        let entry = table.enter(7).unwrap();
        assert!(table.enter(7).is_none());
        assert!(!table.is_at_filter(7));
        table.reached_filter(7);
        assert!(table.is_at_filter(7) && !table.is_at_filter(8));
        assert_eq!(table.open().0, 1);
        drop(entry);
        assert_eq!(table.open(), (0, None));
        let _again = table.enter(7).unwrap();
        assert!(!table.is_at_filter(7), "the number is another's now");
    }
}
