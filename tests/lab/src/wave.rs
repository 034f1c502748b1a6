//! A spam wave, and the legitimate mail beside it.
//!
//! Each spammer sends a whole message and then stays silent in its slot, as in the blog post that this project comes
//! from; it comes back for ever. The load is bounded in rate and time and stops by itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};

use crate::smtp::{Client, Message};

/// What is sent, and how long.
#[derive(Debug, Clone)]
pub struct Wave {
    /// Spammers that connect each second.
    pub spam_rate: u32,
    /// How many addresses they have, in 127.66.0.0/16: each comes back when all others have been.
    pub spam_addresses: u16,
    /// How long a spammer stays silent after its message.
    pub hold: Duration,
    /// Legitimate messages a second, from addresses in 127.1.0.0/16.
    pub mail_rate: u32,
    /// How long a legitimate sender waits at each step.
    pub patience: Duration,
    /// How long new sessions are started.
    pub length: Duration,
}

/// What became of it so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Spammers that tried to connect.
    pub spam_sent: AtomicU64,
    /// Their messages that the server took over.
    pub spam_accepted: AtomicU64,
    /// Their connects that nobody answered.
    pub spam_unanswered: AtomicU64,
    /// Legitimate messages that were begun.
    pub mail_sent: AtomicU64,
    /// Legitimate messages that the server took over.
    pub mail_accepted: AtomicU64,
}

/// One more.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Wave {
    /// Runs the wave to its end: until the last legitimate message is accepted or given up.
    pub async fn run(&self, tally: &Arc<Tally>) {
        let end = Instant::now() + self.length;
        let (mut spammers, mut senders) = (JoinSet::new(), JoinSet::new());
        let mut spam_clock = interval(Duration::from_secs(1) / self.spam_rate.max(1));
        let mut mail_clock = interval(Duration::from_secs(1) / self.mail_rate.max(1));
        for clock in [&mut spam_clock, &mut mail_clock] {
            clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
        }
        let (mut spam_number, mut mail_number) = (0_u16, 0_u16);
        loop {
            tokio::select! {
                () = sleep_until(end) => break,
                _ = spam_clock.tick(), if self.spam_rate > 0 => {
                    let source = address(66, spam_number % self.spam_addresses.max(1));
                    spam_number = spam_number.wrapping_add(1);
                    spammers.spawn(spammer(source, self.hold, Arc::clone(tally)));
                }
                _ = mail_clock.tick(), if self.mail_rate > 0 => {
                    let source = address(1, mail_number);
                    mail_number = mail_number.wrapping_add(1);
                    senders.spawn(sender(source, self.patience, Arc::clone(tally)));
                }
            }
            while spammers.try_join_next().is_some() {}
            while senders.try_join_next().is_some() {}
        }
        while senders.join_next().await.is_some() {}
        spammers.shutdown().await;
    }
}

fn address(net: u8, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, net, high, low).into()
}

/// A whole message, then silence: until the server ends the session, or for `hold`.
async fn spammer(source: IpAddr, hold: Duration, tally: Arc<Tally>) {
    /// For each reply, and for the connection itself.
    const PATIENCE: Duration = Duration::from_secs(20);
    const CONNECT: Duration = Duration::from_secs(2);
    count(&tally.spam_sent);
    let server = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 25);
    let connect = Client::connect_within(source, server, PATIENCE);
    let Ok(Ok(mut client)) = timeout(CONNECT, connect).await else {
        count(&tally.spam_unanswered);
        return;
    };
    let silent_until = Instant::now() + hold;
    let talk = async {
        client.read_reply().await?;
        for line in [
            "EHLO spam.test",
            "MAIL FROM:<a@spam.test>",
            "RCPT TO:<alice@lab.test>",
            "DATA",
        ] {
            client.command(line).await?;
        }
        client.data("Subject: spam\n\nBuy.\n").await
    };
    if talk.await.is_ok_and(|reply| reply.is_positive()) {
        count(&tally.spam_accepted);
    }
    // A session that was ended reads as closed.
    let _ = timeout_at(silent_until, client.read_reply()).await;
}

async fn sender(source: IpAddr, patience: Duration, tally: Arc<Tally>) {
    count(&tally.mail_sent);
    let message = Message {
        patience,
        ..Message::default()
    };
    if message.send(source).await.accepted() {
        count(&tally.mail_accepted);
    }
}
