//! What the slot guard asks of the filter, and has it do.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Filter;
use crate::config::Mode;
use crate::courier::identified::Identified;
use crate::courier::session::{Session, Verdict};
use crate::degraded::Part;
use crate::guard::Keeper;
use crate::log::Event;

impl Keeper for Filter {
    fn spares(&self, session: &Session) -> bool {
        session.relay_client
            || !self.config.ports.contains(&session.local_port)
            || self.protection(session.client).is_some()
            || matches!(session.verdict, Verdict::Allowed(_))
            || self.never_ban.contains(session.client)
    }

    fn has_delivered(&self, client: IpAddr) -> bool {
        self.senders.has_delivered(client, Instant::now())
    }

    fn shed(&self, identified: &Identified, silence: Duration) -> bool {
        if self.config.mode == Mode::Observe {
            return false;
        }
        // It is the client's turn, so each message of it has its answer.
        let killed = self.end_unanswered(identified, true);
        if killed.is_none_or(|killed| killed == 0) {
            return false;
        }
        self.metrics.shed.inc();
        self.metrics.ended.silence.inc();
        let session = &identified.session;
        let event = Event::new("shed")
            .ip(session.client)
            .port(session.client_port);
        let silence = format!("{:.1}s", silence.as_secs_f32());
        log::info!("{}", event.field("silent", silence));
        true
    }

    fn guard_works(&self, result: Result<(), &dyn fmt::Display>) {
        match result {
            Ok(()) => self.degraded.leave(&Part::Guard, Instant::now()),
            Err(error) => self.degraded.enter(Part::Guard, error, Instant::now()),
        }
    }
}
