//! Who is refused with a text, but never ended or banned: networks of the
//! configuration, and those that named domains send from. While the nameservers
//! have never answered for one of those domains, anybody may be its sender.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{PoisonError, RwLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::Name;
use ipnetwork::IpNetwork;
use tokio::time::{sleep, timeout};

use crate::config;
use crate::degraded::{Degraded, Part};
use crate::dnsbl::spf::{self, Records7208};

/// How long the reading of an SPF record takes.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// At the most: it is up to some dozens of queries.
    limit: Duration,
    /// Until it is tried again, where it could not be read.
    retry: Duration,
}

const TIMES: Times = Times {
    limit: Duration::from_secs(60),
    retry: Duration::from_secs(60),
};

/// The networks.
#[derive(Debug)]
pub struct NeverBan {
    relays: Vec<IpNetwork>,
    domains: Vec<Name>,
    /// Those of each domain, as last read.
    senders: RwLock<Vec<Option<Vec<IpNetwork>>>>,
    times: Times,
}

impl NeverBan {
    /// What the configuration names; the domains' networks are not known yet.
    #[must_use]
    pub fn new(settings: &config::NeverBan) -> Self {
        Self {
            relays: settings.relays.clone(),
            domains: settings.spf.clone(),
            senders: RwLock::new(vec![None; settings.spf.len()]),
            times: TIMES,
        }
    }

    /// Whether `client` is one of them, as far as they are known.
    #[must_use]
    pub fn contains(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let senders = self.senders.read().unwrap_or_else(PoisonError::into_inner);
        let senders = senders.iter().flatten().flatten();
        let mut networks = self.relays.iter().chain(senders);
        networks.any(|network| network.contains(client))
    }

    /// Whether `network` holds, or is in, one of theirs.
    #[must_use]
    pub fn touches(&self, network: IpNetwork) -> bool {
        let senders = self.senders.read().unwrap_or_else(PoisonError::into_inner);
        let senders = senders.iter().flatten().flatten();
        let mut networks = self.relays.iter().chain(senders);
        networks.any(|other| network.contains(other.ip()) || other.contains(network.ip()))
    }

    /// A domain whose record was never read: while there is one, nobody is banned.
    #[must_use]
    pub fn unread(&self) -> Option<&Name> {
        let senders = self.senders.read().unwrap_or_else(PoisonError::into_inner);
        let index = senders.iter().position(Option::is_none)?;
        self.domains.get(index)
    }

    /// Reads each domain's networks once, all at the same time; tells of those
    /// that cannot be read.
    pub async fn read_once(&self, resolver: &impl Records7208) -> Vec<(Name, String)> {
        let failed = RwLock::new(Vec::new());
        let readings = (0..self.domains.len()).map(|index| {
            let failed = &failed;
            async move {
                if let Err(error) = self.read(index, resolver).await {
                    let mut failed = failed.write().unwrap_or_else(PoisonError::into_inner);
                    failed.push((self.domains[index].clone(), error));
                }
            }
        });
        all(readings).await;
        failed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the networks of domain number `index`; when to do it again.
    async fn read(&self, index: usize, resolver: &impl Records7208) -> Result<Duration, String> {
        match timeout(
            self.times.limit,
            spf::senders(&self.domains[index], resolver),
        )
        .await
        {
            Ok(Ok(found)) => {
                self.set(index, found.networks);
                Ok(found.ttl)
            }
            Ok(Err(error)) => {
                // A wrong record was read: it names nobody.
                if self.is_unread(index) && !matches!(error, spf::Error::Unknown(_)) {
                    self.set(index, Vec::new());
                }
                Err(error.to_string())
            }
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    fn set(&self, index: usize, networks: Vec<IpNetwork>) {
        self.senders.write().unwrap_or_else(PoisonError::into_inner)[index] = Some(networks);
    }

    fn is_unread(&self, index: usize) -> bool {
        let senders = self.senders.read().unwrap_or_else(PoisonError::into_inner);
        senders.get(index).is_some_and(Option::is_none)
    }

    /// Keeps the domains' networks fresh, each for itself, until the future is
    /// dropped. Where a record cannot be read, what was read last stays in force.
    pub async fn keep(&self, resolver: &impl Records7208, degraded: &Degraded) {
        all((0..self.domains.len()).map(|index| self.keep_one(index, resolver, degraded))).await;
    }

    async fn keep_one(&self, index: usize, resolver: &impl Records7208, degraded: &Degraded) {
        let part = Part::Spf(self.domains[index].to_ascii());
        loop {
            let pause = match self.read(index, resolver).await {
                Ok(ttl) => {
                    degraded.leave(&part, Instant::now());
                    ttl
                }
                Err(mut error) => {
                    if self.is_unread(index) {
                        error.push_str("; nobody is banned until it has been read once");
                    }
                    degraded.enter(part.clone(), error, Instant::now());
                    self.times.retry
                }
            };
            sleep(pause).await;
        }
    }
}

/// Runs them all, until the last has ended.
async fn all<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut futures: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use crate::dnsbl::{Records, Unknown};

    /// It never answers for `hangs.test`, and of others it says whom they send from.
    #[derive(Default)]
    struct Nameserver {
        asked: AtomicUsize,
    }

    impl Records7208 for Nameserver {
        async fn texts(&self, name: &Name) -> Result<Records<Vec<u8>>, Unknown> {
            if name.to_ascii() == "hangs.test." {
                self.asked.fetch_add(1, Relaxed);
                std::future::pending::<()>().await;
            }
            let data = vec![b"v=spf1 ip4:203.0.113.0/24 -all".to_vec()];
            Ok(Records { data, ttl: None })
        }
        async fn addresses(&self, _: &Name) -> Result<Records<Ipv4Addr>, Unknown> {
            Err(Unknown::Down)
        }
        async fn ipv6_addresses(&self, _: &Name) -> Result<Records<Ipv6Addr>, Unknown> {
            Err(Unknown::Down)
        }
        async fn exchangers(&self, _: &Name) -> Result<Records<Name>, Unknown> {
            Err(Unknown::Down)
        }
    }

    #[tokio::test]
    async fn reading_one_has_a_limit_and_is_tried_again_each_domain_for_itself() {
        assert_eq!(
            [TIMES.limit, TIMES.retry].map(|time| time.as_secs()),
            [60, 60]
        );
        let config = config::parse("[never-ban]\nspf = [\"hangs.test\", \"good.test\"]");
        let mut never_ban = NeverBan::new(&config.unwrap().never_ban);
        never_ban.times = Times {
            limit: Duration::from_millis(50),
            retry: Duration::from_millis(50),
        };
        let (nameserver, degraded) = (Nameserver::default(), Degraded::default());
        let seen = async {
            while nameserver.asked.load(Relaxed) < 3 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let begun = Instant::now();
        let in_time = timeout(Duration::from_secs(30), async {
            tokio::select! {
                () = never_ban.keep(&nameserver, &degraded) => false,
                () = seen => true,
            }
        });
        assert_eq!(in_time.await, Ok(true), "it is asked three times");
        // Two limits and two pauses.
        assert!(begun.elapsed() >= Duration::from_millis(200));
        assert!(degraded.is_entered(&Part::Spf("hangs.test.".to_owned())));
        assert!(!degraded.is_entered(&Part::Spf("good.test.".to_owned())));
        assert!(never_ban.contains("203.0.113.9".parse().unwrap()));
        assert_eq!(
            never_ban.unread().map(ToString::to_string).as_deref(),
            Some("hangs.test.")
        );
    }
}
