//! What is kept of what was, for `rblfilter status`.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::time::{MissedTickBehavior, interval};

use super::Filter;
use crate::history::{History, LOOK_EVERY, Totals};
use crate::status::Counted;

/// How often `couriertcpd`s are looked for that were started since, in looks.
const SEARCH_EVERY: u64 = 10;

impl Filter {
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the slots in use and what is counted, again and again, until the
    /// future is dropped.
    pub(super) async fn keep_history(self: Arc<Self>) {
        let mut clock = interval(LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for look in 0_u64.. {
            clock.tick().await;
            let listeners = self.table.listeners();
            let listeners = if look.is_multiple_of(SEARCH_EVERY) {
                listeners.look()
            } else {
                listeners.all()
            };
            let used: Vec<(i32, usize)> = listeners
                .iter()
                .map(|listener| (listener.pid(), listener.slots_used()))
                .collect();
            let mut history = self.history();
            history.look(&used);
            history.note(Instant::now(), || self.totals());
        }
    }

    /// All that has been counted so far.
    pub(super) fn totals(&self) -> Totals {
        let answers = self.lists.counts();
        let metrics = &self.metrics;
        Totals {
            counted: Counted {
                sessions: metrics.sessions.get(),
                messages: metrics.messages.get(),
                listed: metrics.listed.get(),
                bans: metrics.bans.get(),
                shed: metrics.shed.get(),
                hits: answers.hits,
                misses: answers.misses,
                unknown: answers.unknown,
                at_gate: (&metrics.at_gate).into(),
                at_connect: (&metrics.at_connect).into(),
                at_message: (&metrics.at_message).into(),
                ended: (&metrics.ended).into(),
                packets: (&metrics.packets).into(),
                ..Counted::default()
            },
            to_sentence: metrics.to_sentence.spread(),
            waited: metrics.waited.spread(),
            lists: self.lists.said().map(|(_, said)| said.so_far()).collect(),
        }
    }
}
