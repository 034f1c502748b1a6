//! Clients that come, name a recipient, and hold their slot: listed ones, whose sessions are to be ended at once, and
//! beside them bystanders, whom no list names and who must be left alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::smtp::Client;
use crate::wave::clock;

/// For the connection: a banned client gets no answer.
const CONNECT: Duration = Duration::from_secs(3);
/// For a reply.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two words of a bystander, who is slow but not silent.
const PACE: Duration = Duration::from_secs(1);
const LINES: [&str; 3] = [
    "EHLO client.test",
    "MAIL FROM:<a@client.test>",
    "RCPT TO:<alice@lab.test>",
];

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server closed the connection after its greeting.
    Cut,
    /// The server closed it before its greeting.
    CutEarly,
    /// The client left.
    Left,
    /// Nobody answered its connect, or it was refused.
    Unconnected,
}

/// One client.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Its address, which nobody else has.
    pub source: Ipv4Addr,
    /// Whether the list names it.
    pub listed: bool,
    /// When it came.
    pub begun: Instant,
    /// How and when it was over.
    pub end: Option<(End, Instant)>,
    /// It was seen in the kernel's set.
    pub banned: bool,
}

impl Visit {
    /// Whether the server ended it, within `limit` where one is given.
    #[must_use]
    pub fn was_ended(&self, limit: Duration) -> bool {
        matches!(self.end, Some((End::Cut | End::CutEarly, at)) if at.duration_since(self.begun) <= limit)
    }
}

/// All clients so far.
#[derive(Debug, Default)]
pub struct Visits {
    all: Mutex<Vec<Visit>>,
}

/// Who comes.
#[derive(Debug, Clone, Copy)]
pub struct Visitors {
    /// Listed ones each second.
    pub listed: u32,
    /// Bystanders each second.
    pub bystanders: u32,
    /// How long one stays.
    pub hold: Duration,
    /// Courier.
    pub server: SocketAddr,
}

impl Visits {
    fn lock(&self) -> MutexGuard<'_, Vec<Visit>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Visit> {
        self.lock().clone()
    }

    /// Notes who is in the kernel's set now.
    pub(super) fn seen_banned(&self, banned: impl Fn(Ipv4Addr) -> bool) {
        for visit in self.lock().iter_mut().filter(|visit| !visit.banned) {
            visit.banned = banned(visit.source);
        }
    }

    /// Lets clients come until told to stop; then all leave.
    pub(super) async fn come(self: Arc<Self>, visitors: Visitors, mut stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        let mut listed = clock(visitors.listed);
        let mut bystanders = clock(visitors.bystanders);
        let (mut numbers, mut others) = (0_u16, 0_u16);
        loop {
            let (source, is_listed) = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                _ = listed.tick(), if visitors.listed > 0 => (source(66, &mut numbers), true),
                _ = bystanders.tick(), if visitors.bystanders > 0 => (source(76, &mut others), false),
            };
            let visits = Arc::clone(&self);
            tasks.spawn(async move { visits.one(source, is_listed, visitors).await });
            while tasks.try_join_next().is_some() {}
        }
        tasks.shutdown().await;
    }

    async fn one(&self, source: Ipv4Addr, listed: bool, visitors: Visitors) {
        let place = {
            let mut all = self.lock();
            all.push(Visit {
                source,
                listed,
                begun: Instant::now(),
                end: None,
                banned: false,
            });
            all.len() - 1
        };
        let pace = if listed { visitors.hold } else { PACE };
        let end = session(source.into(), visitors.server, visitors.hold, pace).await;
        self.lock()[place].end = Some((end, Instant::now()));
    }
}

fn source(net: u8, number: &mut u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    *number = number.wrapping_add(1);
    Ipv4Addr::new(127, net, high, low)
}

/// `pace` is how long the client is silent at a time once it has named its recipient.
async fn session(source: IpAddr, server: SocketAddr, hold: Duration, pace: Duration) -> End {
    let Ok(mut client) = Client::connect_within(source, server, CONNECT).await else {
        return End::Unconnected;
    };
    client.set_patience(PATIENCE);
    let mut greeted = false;
    let stay = async {
        // Closed without a word, or a reply that is no welcome.
        if !client.read_reply().await?.is_positive() {
            return Ok(());
        }
        greeted = true;
        for line in LINES {
            client.command(line).await?;
        }
        loop {
            tokio::select! {
                end = client.read_reply() => drop(end?),
                () = sleep(pace) => drop(client.command("NOOP").await?),
            }
        }
    };
    let ended: Result<std::io::Result<()>, _> = timeout(hold, stay).await;
    match ended {
        // Its time is over, or it was told to go, or nobody spoke to it for too long.
        Err(_) | Ok(Ok(())) => {
            let _ = timeout(PACE, client.command("QUIT")).await;
            End::Left
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => End::Left,
        Ok(Err(_)) if greeted => End::Cut,
        Ok(Err(_)) => End::CutEarly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_an_address_of_its_own() {
        let mut number = 255;
        assert_eq!(source(66, &mut number), Ipv4Addr::new(127, 66, 0, 255));
        assert_eq!(source(66, &mut number), Ipv4Addr::new(127, 66, 1, 0));
    }

    #[test]
    fn only_the_server_ends_a_visit() {
        let begun = Instant::now();
        let second = Duration::from_secs(1);
        for (end, ended) in [
            (Some(End::Cut), true),
            (Some(End::CutEarly), true),
            (Some(End::Left), false),
            (Some(End::Unconnected), false),
            (None, false),
        ] {
            let visit = Visit {
                source: Ipv4Addr::LOCALHOST,
                listed: true,
                begun,
                end: end.map(|end| (end, begun + second)),
                banned: false,
            };
            assert_eq!(visit.was_ended(second), ended, "{end:?}");
            assert!(!visit.was_ended(second / 2));
        }
    }
}
