//! Legitimate mail whose fate is known to the letter: each message has a number, its sender tries again as a real one
//! does, and the mailbox tells afterwards which numbers arrived, and how often.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::smtp::{Client, Reply};
use crate::wave::clock;

/// For each step. A real sender waits for minutes (RFC 5321, §4.5.3.2); a filter that needs as long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// For the connection. A real sender has other things to do meanwhile.
const CONNECT: Duration = Duration::from_secs(10);
/// Between two tries; a real sender takes minutes.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// After so long a sender gives up; a real one takes days.
const GIVE_UP: Duration = Duration::from_secs(120);
/// What stands before the number.
const SUBJECT: &str = "Subject: number ";

/// One message, as its sender knows it.
#[derive(Debug, Clone)]
pub struct Letter {
    /// From where.
    pub source: Ipv4Addr,
    /// When it was tried first.
    pub begun: Instant,
    /// When the server took it over.
    pub accepted: Option<Instant>,
    /// Replies of 4xx so far.
    pub tempfailed: u32,
    /// Tries that reached nobody: refused, or closed before the greeting.
    pub unconnected: u32,
    /// Tries whose connection the server closed after its greeting, without a reply.
    pub cut: u32,
    /// A reply of 5xx, which ended it.
    pub refused: Option<String>,
    /// Nothing more will come of it.
    pub done: bool,
}

impl Letter {
    /// Whether it was accepted at its first try, within `limit`.
    #[must_use]
    pub fn went_well(&self, limit: Duration) -> bool {
        let troubled = self.tempfailed + self.unconnected + self.cut > 0;
        !troubled
            && self
                .accepted
                .is_some_and(|at| at.duration_since(self.begun) <= limit)
    }
}

/// All messages, by their numbers.
#[derive(Debug, Default)]
pub struct Post {
    letters: Mutex<Vec<Letter>>,
}

/// Who sends, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Senders {
    /// Messages each second.
    pub rate: u32,
    /// How many addresses they come from, in turns.
    pub addresses: u8,
    /// Courier.
    pub server: SocketAddr,
}

enum Try {
    Accepted,
    Tempfailed,
    Refused(String),
    Unconnected,
    Cut,
}

impl Post {
    fn letters(&self) -> MutexGuard<'_, Vec<Letter>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All messages so far; their places are their numbers.
    #[must_use]
    pub fn all(&self) -> Vec<Letter> {
        self.letters().clone()
    }

    /// How often each number is in the mailbox.
    #[must_use]
    pub fn arrived(mailbox: &[String]) -> BTreeMap<usize, usize> {
        let mut arrived = BTreeMap::new();
        for message in mailbox {
            let number = message
                .lines()
                .find_map(|line| line.strip_prefix(SUBJECT)?.trim().parse().ok());
            if let Some(number) = number {
                *arrived.entry(number).or_insert(0) += 1;
            }
        }
        arrived
    }

    /// Begins messages until told to stop, and ends when the last one is accepted or given up.
    pub(crate) async fn send(self: Arc<Self>, senders: Senders, mut stop: watch::Receiver<bool>) {
        let mut clock = clock(senders.rate);
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                _ = clock.tick() => {
                    let number = self.begin(senders.addresses);
                    let post = Arc::clone(&self);
                    tasks.spawn(async move { post.deliver(number, senders.server).await });
                }
            }
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
    }

    fn begin(&self, addresses: u8) -> usize {
        let mut letters = self.letters();
        let number = letters.len();
        let host = u8::try_from(number % usize::from(addresses.max(1))).unwrap_or(0);
        letters.push(Letter {
            source: Ipv4Addr::new(127, 1, 9, host),
            begun: Instant::now(),
            accepted: None,
            tempfailed: 0,
            unconnected: 0,
            cut: 0,
            refused: None,
            done: false,
        });
        number
    }

    async fn deliver(&self, number: usize, server: SocketAddr) {
        let begun = Instant::now();
        while begun.elapsed() < GIVE_UP {
            let source = self.letters()[number].source;
            let tried = attempt(source.into(), server, number).await;
            if self.note(number, tried) {
                return;
            }
            sleep(TRY_AGAIN).await;
        }
        self.letters()[number].done = true;
    }

    /// Writes down what became of a try; whether it was the last one.
    fn note(&self, number: usize, tried: Try) -> bool {
        let mut letters = self.letters();
        let letter = &mut letters[number];
        match tried {
            Try::Accepted => {
                letter.accepted = Some(Instant::now());
                letter.done = true;
            }
            Try::Refused(text) => {
                letter.refused = Some(text);
                letter.done = true;
            }
            Try::Tempfailed => letter.tempfailed += 1,
            Try::Unconnected => letter.unconnected += 1,
            Try::Cut => letter.cut += 1,
        }
        letter.done
    }
}

async fn attempt(source: IpAddr, server: SocketAddr, number: usize) -> Try {
    let Ok(mut client) = Client::connect_within(source, server, CONNECT).await else {
        return Try::Unconnected;
    };
    client.set_patience(PATIENCE);
    match client.read_reply().await {
        Err(_) => return Try::Unconnected,
        Ok(reply) if !reply.is_positive() => return refusal(&reply),
        Ok(_) => {}
    }
    let said = async {
        for line in [
            "EHLO client.test",
            "MAIL FROM:<bob@client.test>",
            "RCPT TO:<alice@lab.test>",
            "DATA",
        ] {
            let reply = client.command(line).await?;
            if !reply.is_positive() {
                return Ok(reply);
            }
        }
        let text = format!(
            "From: <bob@client.test>\nTo: alice@lab.test\n{SUBJECT}{number}\n\nHello Alice.\n"
        );
        client.data(&text).await
    };
    let said: io::Result<Reply> = said.await;
    match said {
        Ok(reply) if reply.is_positive() => {
            // Accepted is accepted, whatever becomes of the goodbye.
            let _ = client.command("QUIT").await;
            Try::Accepted
        }
        Ok(reply) => {
            let _ = client.command("QUIT").await;
            refusal(&reply)
        }
        Err(_) => Try::Cut,
    }
}

fn refusal(reply: &Reply) -> Try {
    if (400..500).contains(&reply.code) {
        Try::Tempfailed
    } else {
        Try::Refused(reply.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_counted() {
        let mail = |subject: &str| format!("Received: x\n{subject}\n\nHello.\n");
        let mailbox = [
            mail("Subject: number 3"),
            mail("Subject: number 0"),
            mail("Subject: number 3"),
            mail("Subject: hello"),
        ];
        let arrived = Post::arrived(&mailbox);
        assert_eq!(arrived.into_iter().collect::<Vec<_>>(), [(0, 1), (3, 2)]);
    }

    #[test]
    fn a_message_went_well_when_it_was_accepted_at_once() {
        let begun = Instant::now();
        let second = Duration::from_secs(1);
        let letter = Letter {
            source: Ipv4Addr::LOCALHOST,
            begun,
            accepted: Some(begun + second),
            tempfailed: 0,
            unconnected: 0,
            cut: 0,
            refused: None,
            done: true,
        };
        assert!(letter.went_well(second) && !letter.went_well(second / 2));
        for change in [
            |letter: &mut Letter| letter.tempfailed = 1,
            |letter: &mut Letter| letter.unconnected = 1,
            |letter: &mut Letter| letter.cut = 1,
            |letter: &mut Letter| letter.accepted = None,
        ] {
            let mut other = letter.clone();
            change(&mut other);
            assert!(!other.went_well(second));
        }
    }
}
