//! How the filter is, for `rblfilter status`.

use std::time::Instant;

use rblfilter_warden::policy::Backend;

use super::Filter;
use crate::config::Mode;
use crate::sessions::{self, Sessions};
use crate::status::{Cache, Gate, Listener, Sandbox, Status, Zone};

impl Filter {
    /// How it is now. It reads of each couriertcpd how many children it has.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = Instant::now();
        let (entries, most) = self.lists.kept();
        let totals = self.totals();
        let minute = self.history().minute(now, &totals);
        let zones = self.lists.said().enumerate();
        let zones = zones.map(|(index, (zone, _))| Zone {
            name: zone.name().into(),
            allows: zone.allows(),
            counted: totals.said(index),
            minute: minute.said(index),
        });
        // Each lock is given up before the next is taken: who holds one may wait for
        // another.
        let at = self.now();
        let bans = self.book().ends(at).count();
        let allowed = self.allows().running(at).count();
        let standing = {
            let standing = self.standing();
            standing.values().filter(|ban| ban.until > at).count()
        };
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
            gate: Gate {
                state: match (self.has_gate(), self.gate.is_running()) {
                    (false, _) => "off",
                    (true, true) => "on",
                    (true, false) => "down",
                }
                .into(),
                drops: self.has_gate() && self.config.mode == Mode::Enforce,
            },
            sessions: self.table.len(),
            listeners: self.listeners(),
            bans,
            standing,
            dry_run: self.config.ban.backend == Backend::DryRun,
            allowed,
            counted: totals.told(),
            minute: minute.told(),
            cache: Cache { entries, most },
            lists: self.lists.status(now),
            zones: zones.collect(),
            degraded: self.degraded.status(now),
            sandbox: Sandbox {
                worker: self.layers.into(),
                warden: self.warden.layers().map(Into::into),
            },
        }
    }

    /// The open sessions, as far as they are told.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        self.table.told(sessions::MOST, Instant::now())
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
                    each_second: self.history().slots(listener.pid()),
                }
            })
            .collect();
        listeners.sort_by(|one, other| one.name.cmp(&other.name));
        listeners
    }
}
