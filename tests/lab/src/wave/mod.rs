//! A spam wave, and the legitimate mail beside it.
//!
//! The spammers have one thread and the legitimate senders another, so that the latency of the mail is the server's
//! and not the load generator's. The load is bounded in rate and time and stops by itself.

pub mod bench;
pub mod figures;
pub mod kernel;
pub mod meter;
mod sender;
mod spammer;
pub mod suite;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::raw::{self, Raw};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

/// What a spammer does once it is connected. Each holds its slot as long as it is let.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It reads what comes and says nothing.
    Banner,
    /// EHLO, MAIL, RCPT, then silence, whatever the replies: the wave of the blog post.
    Hang,
    /// A whole message, then silence.
    Data,
    /// As `Hang`, but each address comes back at once when it was ended, refused, or not answered for a second.
    Return,
    /// The first packet of a connection, and nothing more: its sender need not exist.
    Syn,
}

/// What is sent, and how long.
#[derive(Debug, Clone)]
pub struct Wave {
    /// What the spammers do.
    pub kind: Kind,
    /// The server, and the one for IPv6 clients.
    pub server: SocketAddr,
    /// Where IPv6 clients connect to.
    pub server6: SocketAddr,
    /// Spammers that connect each second, all together.
    pub rate: u32,
    /// How many addresses they have: each comes back when all others have been.
    pub addresses: u32,
    /// Over how many IPv4 /24 the addresses are spread, one after the other; 0: each is filled before the next.
    pub networks: u32,
    /// How many of a hundred addresses are listed ones.
    pub listed_percent: u32,
    /// Whether the spammers come over IPv6.
    pub ipv6: bool,
    /// How long a spammer stays connected.
    pub hold: Duration,
    /// Legitimate messages a second, from addresses in 127.1.0.0/16, each from another /24 than the one before.
    pub mail_rate: u32,
    /// How many addresses the legitimate messages come from, each in its turn; 0: each message from another.
    pub mail_addresses: u16,
    /// How long a legitimate sender waits at each step.
    pub patience: Duration,
    /// How long new sessions are started.
    pub length: Duration,
}

impl Default for Wave {
    /// The wave of the blog post, as `docs/performance.md` measures it.
    fn default() -> Self {
        Self {
            kind: Kind::Hang,
            server: (Ipv4Addr::LOCALHOST, 25).into(),
            server6: (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), 25).into(),
            rate: 100,
            addresses: 60_000,
            networks: 0,
            listed_percent: 100,
            ipv6: false,
            hold: Duration::from_secs(30),
            mail_rate: 4,
            mail_addresses: 0,
            patience: Duration::from_secs(30),
            length: Duration::from_secs(20),
        }
    }
}

/// What became of it so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Spammers that tried to connect.
    pub spam_sent: AtomicU64,
    /// Those that saw a 220.
    pub spam_greeted: AtomicU64,
    /// Their messages that the server took over.
    pub spam_accepted: AtomicU64,
    /// Their connects that nobody answered.
    pub spam_unanswered: AtomicU64,
    /// Legitimate messages that were begun.
    pub mail_sent: AtomicU64,
    /// Legitimate messages that the server took over.
    pub mail_accepted: AtomicU64,
    ended: Mutex<Vec<Duration>>,
    mail: Mutex<Vec<Mail>>,
}

/// A legitimate message that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mail {
    /// When it was begun, from the start of the wave.
    pub begun: Duration,
    /// Whether it was the first from its address.
    pub is_first: bool,
    /// From the connect to the 250 after its data.
    pub latency: Duration,
}

impl Tally {
    /// How long each session of a spammer was open that the server ended, as the client saw it.
    #[must_use]
    pub fn ended(&self) -> Vec<Duration> {
        locked(&self.ended).clone()
    }

    /// The accepted messages.
    #[must_use]
    pub fn mail(&self) -> Vec<Mail> {
        locked(&self.mail).clone()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One more.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A running wave.
#[derive(Debug)]
pub struct Load {
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Load {
    /// Whether it is over: the last legitimate message is accepted or given up.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If a thread could not do its work.
    pub fn join(self) -> io::Result<()> {
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| io::Error::other("the load generator panicked"))??;
        }
        Ok(())
    }
}

impl Wave {
    /// Starts it in threads of its own, which are in the calling thread's namespaces.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(&self, tally: &Arc<Tally>) -> io::Result<Load> {
        raise_open_files();
        let begun = Instant::now();
        let (wave, ours) = (self.clone(), Arc::clone(tally));
        let spammers = if self.kind == Kind::Syn {
            std::thread::Builder::new()
                .name("spammers".into())
                .spawn(move || packets(&wave, &ours, begun.into_std()))?
        } else {
            thread("spammers", async move {
                spammer::all(Arc::new(wave), ours, begun).await;
            })?
        };
        let (wave, ours) = (self.clone(), Arc::clone(tally));
        let senders = thread("senders", async move {
            sender::all(&wave, ours, begun).await;
        })?;
        Ok(Load {
            threads: vec![spammers, senders],
        })
    }

    /// The address of the spammer of this number.
    fn source(&self, number: u64) -> IpAddr {
        let index = number % u64::from(self.addresses.max(1));
        let percent = u64::from(self.listed_percent);
        // Evenly spread.
        let listed = (index + 1) * percent / 100 > index * percent / 100;
        let [.., page, high, low] = match u64::from(self.networks) {
            0 => index,
            networks => ((index % networks) << 8) | (index / networks % 256),
        }
        .to_be_bytes();
        if self.ipv6 {
            let net = if listed { 0x66 } else { 0x77 };
            let (page, low) = (u16::from(page), u16::from_be_bytes([high, low]));
            Ipv6Addr::new(0xfd00, net, page, low, 0, 0, 0, 1).into()
        } else {
            let net = if listed { 66 } else { 76 };
            Ipv4Addr::new(127, net | page & 1, high, low).into()
        }
    }
}

/// Sends first packets of connections, as many as are due each two milliseconds.
fn packets(wave: &Wave, tally: &Tally, begun: std::time::Instant) -> io::Result<()> {
    let raw = Raw::open()?;
    let mut sent = 0_u32;
    while begun.elapsed() < wave.length {
        let due = begun.elapsed().as_secs_f64() * f64::from(wave.rate);
        while f64::from(sent) < due {
            if let IpAddr::V4(source) = wave.source(sent.into()) {
                let [.., high, low] = sent.to_be_bytes();
                let port = u16::from_be_bytes([high, low]).max(1024);
                // What finds a full buffer is lost, as on any network.
                if raw
                    .send(&raw::syn(source, port, wave.server.port()))
                    .is_ok()
                {
                    count(&tally.spam_sent);
                }
            }
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

pub(crate) fn thread(
    name: &str,
    work: impl Future<Output = ()> + Send + 'static,
) -> io::Result<JoinHandle<io::Result<()>>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(work);
            Ok(())
        })
}

/// So many a second, made up for when the thread was late.
pub(crate) fn clock(rate: u32) -> Interval {
    let mut clock = interval(Duration::from_secs(1) / rate.max(1));
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    clock
}

/// A wave holds one file for each open session.
fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_distinct_and_their_listed_share_is_as_told() {
        let wave = Wave {
            addresses: 100_000,
            listed_percent: 30,
            ..Wave::default()
        };
        let sources: std::collections::HashSet<IpAddr> =
            (0..100_000).map(|number| wave.source(number)).collect();
        assert_eq!(sources.len(), 100_000);
        let listed = |source: &&IpAddr| match source {
            IpAddr::V4(four) => [66, 67].contains(&four.octets()[1]),
            IpAddr::V6(_) => false,
        };
        assert_eq!(sources.iter().filter(listed).count(), 30_000);
        assert_eq!(wave.source(7), wave.source(100_007));
    }

    #[test]
    fn addresses_are_spread_over_as_many_networks_as_told() {
        let wave = Wave {
            addresses: 5000,
            networks: 50,
            ..Wave::default()
        };
        let network = |number| match wave.source(number) {
            IpAddr::V4(four) => [four.octets()[1], four.octets()[2]],
            IpAddr::V6(six) => panic!("{six}"),
        };
        let first: std::collections::HashSet<[u8; 2]> = (0..50).map(network).collect();
        let all: std::collections::HashSet<[u8; 2]> = (0..5000).map(network).collect();
        assert_eq!(first.len(), 50);
        assert_eq!(first, all);
        let sources: std::collections::HashSet<IpAddr> =
            (0..5000).map(|number| wave.source(number)).collect();
        assert_eq!(sources.len(), 5000);
    }
}
