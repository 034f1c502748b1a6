//! All that is known of a client, for `rblfilter why`.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Instant;

use ipnetwork::IpNetwork;
use rblfilter_warden::policy::Backend;
use rblfilter_warden::protected::Protection;

use super::Filter;
use crate::config::Mode;
use crate::control::Entry;
use crate::enforce::ban::overlap;
use crate::enforce::book::Record;
use crate::why::{Former, Held, Known};

impl Filter {
    /// What is known of `client`. Nobody is asked, nothing is changed.
    #[must_use]
    pub fn known(&self, client: IpAddr) -> Known {
        let (instant, now) = (Instant::now(), self.now());
        let client = client.to_canonical();
        let alone = IpNetwork::from(client);
        let network = self.network_of(client);
        let (said, evidence) = self.lists.recall(client, instant);
        let records: Vec<Record> = {
            let book = self.book();
            let touching = book.touching(alone).into_iter();
            touching.filter_map(|banned| book.get(banned)).collect()
        };
        let standing: Vec<Record> = {
            let standing = self.standing();
            let of = |ban: &&Record| overlap(ban.network, alone);
            standing.values().filter(of).cloned().collect()
        };
        let bans = records
            .iter()
            .chain(&standing)
            .filter(|ban| ban.until > now);
        let bans: Vec<Entry> = bans.map(|ban| self.entry(ban)).collect();
        let allowed = self.allowed().into_iter();
        let allowed = allowed
            .filter(|entry| entry.network.contains(client))
            .collect();
        let (former, next) = {
            let book = self.book();
            let past = book.past(network);
            (past, book.next(network, now).seconds)
        };
        let protection = {
            let mut protected = self
                .protected
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // Where they cannot be listed, nobody is taken for one of them.
            let _ = protected.refresh(instant);
            protected.protects(client)
        };
        let judged = !said.is_empty();
        Known {
            client,
            network,
            mode: match self.config.mode {
                Mode::Enforce => "enforce",
                Mode::Observe => "observe",
            }
            .into(),
            dry_run: self.config.ban.backend == Backend::DryRun,
            held: Held {
                bans,
                allowed,
                former: former.map(|past| Former {
                    count: past.count,
                    ended: past.ended,
                }),
                delivered: self.senders.last(client, instant).map(|at| {
                    let ago = instant.saturating_duration_since(at).as_secs();
                    u32::try_from(ago).unwrap_or(u32::MAX)
                }),
            },
            next,
            protection: protection.map(|protection| {
                match protection {
                    Protection::Own => "own-address",
                    Protection::Allowlisted => "allowlisted",
                }
                .into()
            }),
            never_ban: self.never_ban.contains(client),
            said,
            score: judged.then(|| evidence.tally.score.points()),
            sentence: judged.then(|| evidence.level(&self.config.thresholds).to_string()),
            sessions: self.table.of_client(client, instant),
        }
    }
}
