//! Sessions, judged when they connect: how they are seen, and what becomes of
//! those that lists name.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::{Filter, LONGEST_SESSION, listed};
use crate::config::{KillPolicy, Mode, WatchBy};
use crate::courier::control_file::Envelope;
use crate::courier::identified::Identified;
use crate::courier::session::Session;
use crate::enforce::kill;
use crate::guard::answers;
use crate::judge::{self, Sentence};
use crate::log::Event;
use crate::sessions::Verdict;
use crate::watch::{By, Judge, Watcher};

impl Filter {
    /// Judges a session that has just connected, and carries the sentence out.
    async fn judge_connect(&self, identified: &Identified, seen: Instant) {
        let session = &identified.session;
        self.teach_gate(session);
        if self.is_exempt(session) {
            self.metrics.at_connect.exempt.inc();
            self.table
                .judged(identified.esmtpd().pid(), Verdict::Exempt, "");
            return;
        }
        // Asked also for those who are judged later: the answer is there then.
        let Some(mut conviction) = self.ban_at_connect(identified, seen).await else {
            return;
        };
        // A client that may yet log in is judged when the control file shows
        // that it did not; and from the end of data on the filter socket alone
        // decides.
        if session.may_log_in || self.table.is_at_filter(identified.esmtpd().pid()) {
            return;
        }
        // Whom the admin wants to read a 554 is let be while slots are free.
        if let KillPolicy::Pressure { .. } = self.config.kill {
            let (_stop, never) = watch::channel(false);
            kill::grace(identified, LONGEST_SESSION, never).await;
            let pid = identified.esmtpd().pid();
            if !identified.esmtpd().is_alive() || self.table.is_at_filter(pid) {
                return;
            }
            // What was held against it long ago may not hold now.
            let Sentence::Ban(now) = self.sentence(session).await else {
                return;
            };
            conviction = now;
        }
        let event = listed(identified, &conviction, None).field("at", "connect");
        if self.config.mode == Mode::Observe {
            self.metrics.listed.inc();
            let would = conviction.action();
            log::info!("{}", event.field("action", "none").field("would", would));
            return;
        }
        let pid = identified.esmtpd().pid();
        let _deciding = loop {
            // A worker before may have accepted a message of it.
            if self.table.is_found(pid) {
                answers::given(identified).await;
            }
            if !identified.esmtpd().is_alive() || self.table.is_at_filter(pid) {
                return;
            }
            let deciding = self.deciding().await;
            if !self.table.is_found(pid) {
                break deciding;
            }
            if answers::are_given(identified) {
                self.table.has_answers(pid);
                break deciding;
            }
        };
        // Somebody may have let it in meanwhile: the test of a list takes up to a
        // minute, and a grace is longer.
        if self.is_exempt(session) {
            return;
        }
        // From the end of data on the filter socket decides.
        if let Some(killed) = self.end_unanswered(identified, false) {
            self.metrics.watch.inc();
            if killed > 0 {
                self.metrics.ended.connect.inc();
            }
            let event = self.ban_event(event, &conviction, identified).await;
            log::info!("{}", event.field("killed", killed));
        }
    }

    /// Whether the session is not to be judged when it connects, whatever the lists
    /// say.
    fn is_exempt(&self, session: &Session) -> bool {
        let nobody = Envelope::default();
        let protection = self.protection(session.client);
        let exemption = judge::exemption(session, &nobody, protection, &self.config);
        if let Some(exemption) = &exemption {
            let event = Event::new("exempt")
                .ip(session.client)
                .field("at", "connect");
            log::debug!("{}", event.field("reason", exemption));
        }
        exemption.is_some()
    }

    /// Notes what was decided, for who looks at the sessions.
    pub(super) fn note_verdict(&self, identified: &Identified, sentence: &Sentence) {
        let (verdict, conviction) = match sentence {
            Sentence::Pass => (Verdict::Pass, None),
            Sentence::Reject(conviction) => (Verdict::Reject, Some(conviction)),
            Sentence::Ban(conviction) => (Verdict::Ban, Some(conviction)),
        };
        let zone = conviction.map_or("", |conviction| &conviction.listing.zone);
        self.table.judged(identified.esmtpd().pid(), verdict, zone);
    }

    /// Ends a session whose client has no answer to a message yet, if it may be
    /// ended; how many processes were signalled. `answered`: it is certain that
    /// none of its messages waits for an answer.
    pub(super) fn end_unanswered(&self, identified: &Identified, answered: bool) -> Option<usize> {
        let pid = identified.esmtpd().pid();
        if self.is_retiring() || !self.table.claim(pid, answered) {
            return None;
        }
        let killed = self.killer.end(identified, self.table.listeners());
        if killed == 0 {
            self.table.release(pid);
        }
        Some(killed)
    }

    /// By what sessions are seen, in a word.
    pub(super) fn watching(&self) -> &'static str {
        let watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        match *watching {
            Some(By::Events) => "events",
            Some(By::Poll) => "poll",
            None if self.config.watch.by == WatchBy::Off => "off",
            None => "starting",
        }
    }

    pub(super) async fn watch(self: Arc<Self>) {
        let settings = self.config.watch;
        let wanted = match settings.by {
            WatchBy::Off => return,
            WatchBy::Poll => false,
            // Where nothing is done, nothing with a capability runs.
            WatchBy::Auto => self.config.mode == Mode::Enforce,
            WatchBy::Events => true,
        };
        let events = if wanted {
            self.exec_events().await
        } else {
            None
        };
        let watcher = Watcher {
            table: Arc::clone(&self.table),
            metrics: Arc::clone(&self.metrics),
            program: self.paths.esmtpd(),
            judge: self,
        };
        watcher.run(settings, events).await;
    }

    /// The socket on which the kernel tells of execs.
    async fn exec_events(&self) -> Option<OwnedFd> {
        let why = match self.warden.watch().await {
            Ok((_, Some(socket))) => return Some(socket),
            Ok((reply, None)) => reply.outcome.to_string(),
            Err(error) => error.to_string(),
        };
        let event = Event::new("noevents").text(why);
        if self.config.watch.by == WatchBy::Events {
            log::error!("{event}");
        } else {
            log::debug!("{event}");
        }
        None
    }
}

impl Judge for Filter {
    async fn connected(self: Arc<Self>, identified: Arc<Identified>, seen: Instant) {
        self.judge_connect(&identified, seen).await;
    }

    fn watching(&self, by: By) {
        *self.watching.lock().unwrap_or_else(PoisonError::into_inner) = Some(by);
    }
}
