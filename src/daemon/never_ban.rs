//! Who is refused with a text, but never ended or banned: networks of the
//! configuration, and those that named domains send from.

use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::Name;
use ipnetwork::IpNetwork;
use tokio::time::{sleep_until, timeout};

use crate::config;
use crate::degraded::{Degraded, Part};
use crate::dnsbl::{Resolver, spf};

/// The next look at a domain whose SPF record could not be read.
const RETRY: Duration = Duration::from_secs(60);
/// The longest that reading one may take: it is up to some dozens of queries.
const LIMIT: Duration = Duration::from_secs(60);

/// The networks.
#[derive(Debug)]
pub struct NeverBan {
    relays: Vec<IpNetwork>,
    domains: Vec<Name>,
    /// Those of each domain, as last read.
    senders: RwLock<Vec<Vec<IpNetwork>>>,
}

impl NeverBan {
    /// What the configuration names; the domains' networks are not known yet.
    #[must_use]
    pub fn new(settings: &config::NeverBan) -> Self {
        Self {
            relays: settings.relays.clone(),
            domains: settings.spf.clone(),
            senders: RwLock::new(vec![Vec::new(); settings.spf.len()]),
        }
    }

    /// Whether `client` is one of them.
    #[must_use]
    pub fn contains(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let senders = self.senders.read().unwrap_or_else(PoisonError::into_inner);
        let networks = self.relays.iter().chain(senders.iter().flatten());
        networks.clone().any(|network| network.contains(client))
    }

    /// Reads each domain's networks once; those that cannot be read stay unknown.
    pub async fn read_once(&self, resolver: &Resolver) {
        for (index, domain) in self.domains.iter().enumerate() {
            if let Ok(Ok(found)) = timeout(LIMIT, spf::senders(domain, resolver)).await {
                self.set(index, found.networks);
            }
        }
    }

    fn set(&self, index: usize, networks: Vec<IpNetwork>) {
        self.senders.write().unwrap_or_else(PoisonError::into_inner)[index] = networks;
    }

    /// Keeps the domains' networks fresh until the future is dropped. Where a
    /// record cannot be read, what was read last stays in force.
    pub async fn keep(&self, resolver: &Resolver, degraded: &Degraded) {
        let mut due = vec![Instant::now(); self.domains.len()];
        loop {
            let next = due.iter().enumerate().min_by_key(|(_, at)| **at);
            let Some((index, at)) = next else { return };
            sleep_until((*at).into()).await;
            let domain = &self.domains[index];
            let part = || Part::Spf(domain.to_ascii());
            let pause = match timeout(LIMIT, spf::senders(domain, resolver)).await {
                Ok(Ok(found)) => {
                    self.set(index, found.networks);
                    degraded.leave(&part(), Instant::now());
                    found.ttl
                }
                Ok(Err(error)) => {
                    degraded.enter(part(), error, Instant::now());
                    RETRY
                }
                Err(_) => {
                    degraded.enter(part(), "no answer in time", Instant::now());
                    RETRY
                }
            };
            due[index] = Instant::now() + pause;
        }
    }
}
