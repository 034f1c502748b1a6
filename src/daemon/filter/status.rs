//! How the filter is, for `rblfilter status`.

use std::time::Instant;

use rblfilter_warden::policy::Backend;

use super::Filter;
use crate::config::Mode;
use crate::status::{Cache, Counted, Listener, Sandbox, Status};

impl Filter {
    /// How it is now. It reads of each couriertcpd how many children it has.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = Instant::now();
        let answers = self.lists.counts();
        let (entries, most) = self.lists.kept();
        let count = |counter: &prometheus_client::metrics::counter::Counter| counter.get();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            mode: match self.config.mode {
                Mode::Enforce => "enforce",
                Mode::Observe => "observe",
            }
            .into(),
            pid: std::process::id(),
            uptime: now.duration_since(self.begun).as_secs(),
            watch: self.watching().into(),
            sessions: self.table.len(),
            listeners: self.listeners(),
            bans: self.book().running(self.now()).count(),
            standing: {
                let now = self.now();
                let standing = self.standing();
                standing.iter().filter(|ban| ban.until > now).count()
            },
            dry_run: self.config.ban.backend == Backend::DryRun,
            allowed: self.allows().running(self.now()).count(),
            counted: Counted {
                sessions: count(&self.metrics.sessions),
                messages: count(&self.metrics.messages),
                listed: count(&self.metrics.listed),
                bans: count(&self.metrics.bans),
                shed: count(&self.metrics.shed),
                hits: answers.hits,
                misses: answers.misses,
                unknown: answers.unknown,
            },
            cache: Cache { entries, most },
            lists: self.lists.status(now),
            degraded: self.degraded.status(now),
            sandbox: Sandbox {
                worker: self.layers.into(),
                warden: self.warden.layers().map(Into::into),
            },
        }
    }

    pub(super) fn listeners(&self) -> Vec<Listener> {
        let mut listeners: Vec<Listener> = self
            .table
            .listeners()
            .look()
            .iter()
            .map(|listener| {
                let (name, slots) = listener.settings();
                Listener {
                    name: name.unwrap_or_else(|| listener.pid().to_string()),
                    pid: listener.pid(),
                    used: listener.slots_used(),
                    slots,
                }
            })
            .collect();
        listeners.sort_by(|one, other| one.name.cmp(&other.name));
        listeners
    }
}
