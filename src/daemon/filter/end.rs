//! A session that the admin has ended by hand.

use std::net::IpAddr;

use super::Filter;
use crate::config::Mode;
use crate::guard::answers;
use crate::log::Event;

impl Filter {
    /// Ends the session of `client`, from its `port`, whose `courieresmtpd` is
    /// `pid`; what was done, in words. Whoever the client is: the admin may end
    /// whom the lists may not. But it must be the session of that client at that
    /// moment, as for all others, and no message of it may have been accepted
    /// whose answer the client does not have yet: it would send it again.
    pub(super) async fn end_by_hand(
        &self,
        pid: i32,
        client: IpAddr,
        port: u16,
        user: &str,
    ) -> Result<String, String> {
        if self.config.mode == Mode::Observe {
            return Err("the filter runs in observe mode: it ends nobody".into());
        }
        let shown = format!("the session of {client}, port {port}");
        let Some(identified) = self.table.session(pid).filter(|it| {
            (it.session.client, it.session.client_port) == (client.to_canonical(), port)
        }) else {
            return Err(format!("{shown} has ended"));
        };
        let _deciding = self.deciding().await;
        let known = !self.table.is_found(pid) && !self.table.is_at_filter(pid);
        let answered = answers::are_given(&identified);
        if !known && !answered {
            return Err(format!(
                "{shown} may wait for the answer to a message that is accepted: try again when it has been silent for a second"
            ));
        }
        match self.end_unanswered(&identified, answered) {
            None => Err(format!(
                "{shown} has just sent a message, or another worker takes this one's place: try again"
            )),
            Some(0) => Err(format!("{shown} has ended")),
            Some(killed) => {
                self.metrics.ended.hand.inc();
                let event = Event::new("byhand").field("what", "end").ip(client);
                let event = event.port(port).field("user", user);
                log::warn!("{}", event.field("killed", killed));
                Ok(format!("{shown} is ended"))
            }
        }
    }
}
