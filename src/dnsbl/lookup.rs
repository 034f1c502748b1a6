//! Asking the lists, all at the same time.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::{error, fmt};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Listing, Unknown, Zone, query};
use crate::config::Resolver;

/// Queries that may be open at the same time; the next ones wait for them,
/// within their limit.
const MAX_OPEN: usize = 512;

/// The lists and the resolver to ask them through.
#[derive(Debug)]
pub struct Lists {
    resolver: TokioResolver,
    zones: Vec<Zone>,
    limit: std::time::Duration,
    open: Arc<Semaphore>,
}

/// Why the lists cannot be asked.
#[derive(Debug)]
pub enum StartError {
    /// `/etc/resolv.conf` names no nameserver that could be asked.
    ResolvConf(NetError),
    /// The resolver could not be built.
    Resolver(NetError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResolvConf(error) => write!(f, "cannot use /etc/resolv.conf: {error}"),
            Self::Resolver(error) => write!(f, "cannot start the resolver: {error}"),
        }
    }
}

// The cause's word is part of the text, so there is no source.
impl error::Error for StartError {}

/// What the lists said of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first list that names the client.
    pub listing: Option<Listing>,
    /// The lists that gave an answer, by their shown names.
    pub answered: Vec<String>,
    /// The lists that did not, and why.
    pub unknown: Vec<(String, Unknown)>,
}

impl Lists {
    /// Makes ready to ask `zones` through the nameservers of `settings`, or of
    /// `/etc/resolv.conf` where it names none.
    ///
    /// # Errors
    /// Where there is no nameserver to ask.
    pub fn new(zones: Vec<Zone>, settings: &Resolver) -> Result<Self, StartError> {
        let config = if settings.nameservers.is_empty() {
            let (system, _) = read_system_conf().map_err(StartError::ResolvConf)?;
            ResolverConfig::from_name_servers(system.name_servers().to_vec())
        } else {
            let servers = settings.nameservers.iter().map(|server| {
                let mut config = NameServerConfig::udp_and_tcp(server.ip());
                for connection in &mut config.connections {
                    connection.port = server.port();
                }
                config
            });
            ResolverConfig::from_name_servers(servers.collect())
        };
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options(settings);
        Ok(Self {
            resolver: builder.build().map_err(StartError::Resolver)?,
            zones,
            limit: settings.limit,
            open: Arc::new(Semaphore::new(MAX_OPEN)),
        })
    }

    /// Asks every list that covers `client` at the same time. Returns with the
    /// first listing; else when all have answered, or at the limit.
    pub async fn ask(&self, client: IpAddr) -> Findings {
        let deadline = Instant::now() + self.limit;
        let mut questions = JoinSet::new();
        let mut waiting: Vec<&Zone> = Vec::new();
        for zone in self.zones.iter().filter(|zone| zone.covers(client)) {
            // A zone's origin was checked to leave room for any client.
            let Some(name) = query::name(client, zone.origin()) else {
                continue;
            };
            let (resolver, open) = (self.resolver.clone(), Arc::clone(&self.open));
            let index = waiting.len();
            waiting.push(zone);
            questions.spawn(async move {
                // The semaphore is never closed.
                let _turn = open.acquire_owned().await;
                (index, resolver.lookup(name, RecordType::A).await)
            });
        }
        let mut findings = Findings::default();
        let mut pending: Vec<bool> = vec![true; waiting.len()];
        while let Ok(Some(answered)) = timeout_at(deadline, questions.join_next()).await {
            // A task that panicked stays pending, and so unknown.
            let Ok((index, result)) = answered else {
                continue;
            };
            let zone = waiting[index];
            pending[index] = false;
            let answer = match result {
                Ok(lookup) => Answer::from_addresses(&addresses(lookup.answers()), zone.codes()),
                Err(error) => Answer::from_error(&error),
            };
            match answer {
                Answer::Unknown(why) => findings.unknown.push((zone.name().to_owned(), why)),
                Answer::NotListed => findings.answered.push(zone.name().to_owned()),
                Answer::Listed(code) => {
                    findings.answered.push(zone.name().to_owned());
                    findings.listing = Some(Listing {
                        zone: zone.name().to_owned(),
                        code: Some(code),
                        lookup_url: zone.lookup_url().to_owned(),
                    });
                    // The others' answers could not change the sentence.
                    return findings;
                }
            }
        }
        for (zone, _) in waiting
            .iter()
            .zip(&pending)
            .filter(|(_, pending)| **pending)
        {
            findings
                .unknown
                .push((zone.name().to_owned(), Unknown::Timeout));
        }
        findings
    }
}

fn addresses(records: &[hickory_resolver::proto::rr::Record]) -> Vec<Ipv4Addr> {
    records
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
        .collect()
}

fn options(settings: &Resolver) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    // Two tries within the limit.
    options.timeout = settings.limit / 2;
    options.attempts = 1;
    options.use_hosts_file = ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::QueryStatistics;
    options.max_active_requests = MAX_OPEN;
    options.ndots = 0;
    options
}
