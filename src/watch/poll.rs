//! Looking at couriertcpd's children, again and again: for little more than
//! one read each time, with no privilege, in any namespace.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Judge, Table, look, new_in};

/// How often the pid files are read: a couriertcpd that was started again has
/// another number.
const LISTENERS_EVERY: Duration = Duration::from_secs(1);

/// Polls every `every` until the future is dropped.
pub async fn run<J: Judge>(every: Duration, table: &Arc<Table>, judge: &Arc<J>) {
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut listeners = table.listeners();
    let mut read = Instant::now();
    let mut before: HashSet<i32> = HashSet::new();
    loop {
        clock.tick().await;
        if read.elapsed() > LISTENERS_EVERY {
            listeners = table.listeners();
            read = Instant::now();
        }
        let now: Vec<i32> = listeners
            .iter()
            .flat_map(|listener| listener.children())
            .collect();
        // A child stays new until it has become a session, or something else.
        let mut seen = HashSet::with_capacity(now.len());
        for pid in new_in(&now, &before) {
            if is_session(pid) {
                look(table, judge, pid);
                seen.insert(pid);
            }
        }
        seen.extend(now.into_iter().filter(|pid| before.contains(pid)));
        before = seen;
    }
}

/// Whether process `pid` runs `courieresmtpd`, at a glance.
pub fn is_session(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"courieresmtpd\n")
}
