//! What becomes of a client's first packet: the same look-up and the same
//! judgement as the watch's, before there is a session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rblfilter_warden::question::{Client, Count, Verdict};
use tokio::time::{MissedTickBehavior, interval};

use super::Filter;
use crate::config::Mode;
use crate::courier::esmtpd::Objection;
use crate::courier::session::{self, Session};
use crate::courier::smtpaccess::Trusted;
use crate::degraded::Part;
use crate::gate::{Answer, Gate, Keeper, objections};
use crate::judge::{Conviction, Sentence};
use crate::log::Event;

/// How long a client is denied without a question, at most: a SYN's sender is
/// not proven.
const LONGEST_DENIAL: u32 = 600;
/// How long one is passed that is exempt, or that is to read a text.
const SHORT_PASS: u32 = 60;
/// How often Courier's configuration is read again.
const READ_EVERY: Duration = Duration::from_secs(10);

impl Filter {
    /// The gate, running or not.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether one is wanted.
    pub(crate) fn has_gate(&self) -> bool {
        self.config.gate.is_some()
    }

    /// Reads what Courier's configuration says of the judged ports, again and
    /// again, until the future is dropped.
    pub(super) async fn keep_gate(self: Arc<Self>) {
        if !self.has_gate() {
            return;
        }
        let mut clock = interval(READ_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let filter = Arc::clone(&self);
            // Files on a slow disk must not hold up others.
            let read = tokio::task::spawn_blocking(move || filter.read_courier()).await;
            let Ok((objections, trusted)) = read else {
                continue;
            };
            let (new, gone) = self.gate.configure(objections, trusted);
            let now = Instant::now();
            for (port, objection) in new {
                self.degraded.enter(Part::Gate(port), objection, now);
            }
            for port in gone {
                self.degraded.leave(&Part::Gate(port), now);
            }
        }
    }

    fn read_courier(&self) -> (BTreeMap<u16, Objection>, Trusted) {
        objections(
            &self.paths.sysconfdir,
            &self.config.ports,
            &self.config.block_variables,
        )
    }

    /// A session shows what the gate must know of its port.
    pub(super) fn teach_gate(&self, session: &Session) {
        let objection = if session.may_log_in {
            Objection::LogIn("ESMTPAUTH")
        } else if session.proxied {
            Objection::Proxy
        } else {
            return;
        };
        let port = session.local_port;
        if self.has_gate() && self.gate.learn(port, objection.clone()) {
            self.degraded
                .enter(Part::Gate(port), objection, Instant::now());
        }
    }

    /// Who is let in, whatever the lists say.
    fn passes(&self, client: Client) -> Option<Answer> {
        if !self.config.ports.contains(&client.port) || self.gate.leaves_alone(client) {
            return Some((Verdict::Pass, 0));
        }
        self.protection(client.address)?;
        self.metrics.at_gate.exempt.inc();
        Some((Verdict::Pass, SHORT_PASS))
    }

    async fn judge_packet(&self, client: Client) -> Answer {
        if let Some(passes) = self.passes(client) {
            return passes;
        }
        let session = Session {
            client: client.address,
            client_port: 0,
            local: None,
            local_port: client.port,
            relay_client: false,
            may_log_in: false,
            proxied: false,
            slots: None,
            verdict: session::Verdict::None,
        };
        // The last of a list's queries of the day are for who has proven where
        // it is.
        let now = Instant::now();
        if !self.lists.has_spare(now) && self.lists.holds(client.address, now).is_none() {
            return (Verdict::Unknown, 0);
        }
        let Some((sentence, evidence)) = self.judged(&session).await else {
            return (Verdict::Unknown, 0);
        };
        // What was taken back meanwhile, the gate has forgotten already.
        if let Some(passes) = self.passes(client) {
            return passes;
        }
        self.metrics.at_gate.count(&sentence);
        // Without a list that says for how long, as long as an unlisted one is kept.
        let holds = self.lists.holds(client.address, Instant::now());
        let holds = holds.unwrap_or(SHORT_PASS);
        match sentence {
            Sentence::Ban(conviction) if conviction.end => {
                self.deny(client, &conviction, holds.clamp(1, LONGEST_DENIAL))
            }
            _ if !evidence.unknown.is_empty() => (Verdict::Unknown, 0),
            // It is to read why it is refused, and may be banned soon.
            Sentence::Reject(_) | Sentence::Ban(_) => (Verdict::Pass, holds.min(SHORT_PASS)),
            Sentence::Pass => (Verdict::Pass, holds),
        }
    }

    fn deny(&self, client: Client, conviction: &Conviction, seconds: u32) -> Answer {
        let observes = self.config.mode == Mode::Observe;
        if self.gate_lines().take(Instant::now()) {
            let event = conviction
                .told(Event::new("listed").ip(client.address))
                .field("at", "gate");
            let event = if observes {
                event.field("action", "none").field("would", "drop")
            } else {
                event.field("action", "drop")
            };
            log::info!("{}", event.field("time", format!("{seconds}s")));
        }
        self.metrics.gate.inc();
        if observes {
            // Each connection of it is told.
            (Verdict::Pass, 0)
        } else {
            (Verdict::Drop, seconds)
        }
    }
}

impl Keeper for Filter {
    async fn first_packet(self: Arc<Self>, client: Client) -> Answer {
        self.judge_packet(client).await
    }

    fn counted(&self, count: Count, more: u64) {
        self.metrics.packets.add(count, more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::filter::sets::tests::filter;
    use crate::daemon::filter::{Bucket, GATE_LINES};

    const GATE: &str = "gate.enabled = true\nlookup.query-non-global = true\ncache.max-ttl = \"1d\"\n\
                        cache.max-negative-ttl = \"1d\"\ncache.min-ttl = \"1d\"\n\
                        [[dnsbl]]\nzone = \"bl.test\"\nself-test = false\n";

    fn client(last: u8) -> Client {
        Client {
            address: [198, 51, 100, last].into(),
            port: 25,
        }
    }

    #[tokio::test]
    async fn who_is_denied_is_asked_for_again_soon_and_who_is_passed_when_the_answer_ends() {
        let filter = filter(GATE);
        let (listed, clean) = (client(1), client(2));
        let code = std::net::Ipv4Addr::new(127, 0, 0, 2);
        filter.lists.learn(0, listed.address, &[code]);
        filter.lists.learn(0, clean.address, &[]);
        assert_eq!(filter.judge_packet(listed).await, (Verdict::Drop, 600));
        let (verdict, seconds) = filter.judge_packet(clean).await;
        assert_eq!(verdict, Verdict::Pass);
        assert!((86_000..=86_400).contains(&seconds), "{seconds}");
    }

    /// Takes a question, and says that what it is about is listed.
    async fn answer_one(nameserver: &tokio::net::UdpSocket, meanwhile: impl FnOnce()) {
        let mut query = [0; 512];
        let (_, from) = nameserver.recv_from(&mut query).await.unwrap();
        meanwhile();
        let name = query[12..].iter().position(|byte| *byte == 0).unwrap();
        let mut answer = query[..2].to_vec();
        // A response with one question and one answer (RFC 1035, section 4).
        answer.extend_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend_from_slice(&query[12..12 + name + 5]);
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 2]);
        nameserver.send_to(&answer, from).await.unwrap();
    }

    #[tokio::test]
    async fn what_speaks_for_a_client_while_it_is_looked_up_counts() {
        let nameserver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = nameserver.local_addr().unwrap();
        let filter = filter(&format!(
            "lookup.nameservers = [\"{address}\"]\nlookup.limit = \"30s\"\n\
             lookup.query-limit = \"15s\"\n{GATE}"
        ));
        let judged = filter.judge_packet(client(1));
        let (denied, ()) = tokio::join!(judged, answer_one(&nameserver, || {}));
        assert_eq!(denied.0, Verdict::Drop);
        // The gate is told to forget it before the answer to this is there.
        let learns = || {
            filter.gate.learn(25, Objection::LogIn("ESMTPAUTH"));
        };
        let judged = filter.judge_packet(client(2));
        let (spared, ()) = tokio::join!(judged, answer_one(&nameserver, learns));
        assert_eq!(spared, (Verdict::Pass, 0));
    }

    #[tokio::test]
    async fn of_those_who_are_denied_so_many_are_told_and_all_are_counted() {
        let filter = filter(GATE);
        let code = std::net::Ipv4Addr::new(127, 0, 0, 2);
        for last in 0..=255 {
            filter.lists.learn(0, client(last).address, &[code]);
        }
        for last in 0..=255 {
            let (verdict, _) = filter.judge_packet(client(last)).await;
            assert_eq!(verdict, Verdict::Drop);
        }
        assert_eq!(filter.metrics.gate.get(), 256);
        assert!(
            !filter.gate_lines().take(Instant::now()),
            "those of this second are used up"
        );
        let mut fresh = Bucket::new(GATE_LINES);
        let now = Instant::now();
        assert_eq!((0..256).filter(|_| fresh.take(now)).count(), 20);
    }
}
