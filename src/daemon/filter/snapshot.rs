//! How it all is, for Prometheus.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::Filter;
use crate::config::Mode;
use crate::degraded;
use crate::metrics::exposition::{List, Process, Snapshot};
use crate::status::Health;

impl Filter {
    /// How it is now. It reads of /proc, and counts the bans.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (instant, now) = (Instant::now(), self.now());
        let states = self.lists.status(instant);
        let lists = self.lists.said().map(|(zone, said)| {
            let its = states.iter().filter(|state| state.name == zone.name());
            let believed = its.map(|state| {
                let family = match state.family.as_str() {
                    "ipv6" => "ipv6",
                    _ => "ipv4",
                };
                (family, matches!(state.health, Health::Believed))
            });
            let mut believed: Vec<(&'static str, bool)> = believed.collect();
            // Of two lists that are called the same.
            believed.sort_unstable();
            believed.dedup_by_key(|(family, _)| *family);
            List {
                name: zone.name().to_owned(),
                said: said.clone(),
                believed,
            }
        });
        let (bans, remembered) = {
            let book = self.book();
            (book.ends(now).count(), book.remembered())
        };
        let allowed = self.allows().running(now).count();
        Snapshot {
            enforce: self.config.mode == Mode::Enforce,
            watch: self.watching(),
            process: process(),
            sessions: self.table.len(),
            bans,
            allowed,
            remembered,
            listeners: self
                .listeners()
                .into_iter()
                .map(|listener| (listener.name, listener.used, listener.slots))
                .collect(),
            metrics: Arc::clone(&self.metrics),
            lists: lists.collect(),
            cache: self.lists.kept(),
            answers: self.lists.counts(),
            degraded: self.counted_states(instant),
        }
    }

    /// Every kind of state, and how many of it there are.
    fn counted_states(&self, now: Instant) -> Vec<(String, usize)> {
        let kinds = degraded::KINDS.iter().map(|kind| ((*kind).to_owned(), 0));
        let mut all: BTreeMap<String, usize> = kinds.collect();
        for state in self.degraded.status(now) {
            *all.entry(state.what).or_default() += 1;
        }
        all.into_iter().collect()
    }
}

/// This process, as far as /proc tells.
fn process() -> Option<Process> {
    let own = procfs::process::Process::myself().ok()?;
    let stat = own.stat().ok()?;
    let booted = procfs::boot_time_secs().ok()?;
    let ticks = procfs::ticks_per_second();
    #[allow(clippy::cast_precision_loss)] // seconds, for people
    Some(Process {
        start: booted as f64 + stat.starttime as f64 / ticks as f64,
        resident: stat.rss.saturating_mul(procfs::page_size()),
        cpu: (stat.utime + stat.stime) as f64 / ticks as f64,
        descriptors: u64::try_from(own.fd_count().ok()?).ok()?,
    })
}
