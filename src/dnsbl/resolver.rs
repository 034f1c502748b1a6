//! Asking the nameservers: those of the configuration, or the host's as they
//! are now (at boot resolv.conf may be there only after us, and it may change).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{error, fmt, fs};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;

use tokio::time::sleep;

use super::answer::{Answer, Unknown};
use crate::config::Resolver as Settings;

/// How often resolv.conf is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What fits a datagram on every path (dnsflagday.net/2020).
const EDNS_PAYLOAD: u16 = 1232;
/// The most links of a chain of CNAMEs, and the most addresses of an answer,
/// that are looked at.
const LONGEST_CHAIN: usize = 8;
const MOST_ADDRESSES: usize = 256;

/// Why no nameserver can be asked.
#[derive(Clone, Debug)]
pub enum StartError {
    /// `/etc/resolv.conf` names no nameserver that could be asked.
    ResolvConf(String),
    /// The resolver could not be built.
    Resolver(String),
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

/// A resolver that follows resolv.conf.
#[derive(Debug)]
pub struct Resolver {
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    resolvers: Option<Resolvers>,
    looked: Option<Instant>,
    changed: Option<SystemTime>,
}

/// One for the first tries and one for the second: hickory joins a question to
/// the same one that is open, and so would not ask again.
#[derive(Clone, Debug)]
struct Resolvers {
    first: TokioResolver,
    second: TokioResolver,
}

/// The records of an answer, and how long they hold.
#[derive(Clone, Debug)]
pub struct Records<T> {
    /// Those of the name that was asked for, or of what it is an alias of.
    pub data: Vec<T>,
    /// The least of their TTLs; for none, the SOA's (RFC 2308 §5), if it came.
    pub ttl: Option<Duration>,
}

impl Resolver {
    /// A resolver; nothing is read or sent yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: Mutex::default(),
        }
    }

    /// Whether there are nameservers to ask. Must be called within a runtime.
    ///
    /// # Errors
    /// Why not; the next call looks again.
    pub fn check(&self) -> Result<(), StartError> {
        self.current(Instant::now()).map(drop)
    }

    fn current(&self, now: Instant) -> Result<Resolvers, StartError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = |at| now.saturating_duration_since(at) > LOOK_EVERY;
        if state.looked.is_none_or(due) || state.resolvers.is_none() {
            let changed = self.changed();
            if state.resolvers.is_none() || changed != state.changed {
                // One that became unusable leaves the one before in force.
                match Resolvers::new(&self.settings) {
                    Ok(resolvers) => state.resolvers = Some(resolvers),
                    Err(error) if state.resolvers.is_none() => return Err(error),
                    Err(_) => {}
                }
                state.changed = changed;
            }
            state.looked = Some(now);
        }
        state
            .resolvers
            .clone()
            .ok_or_else(|| StartError::Resolver("none".into()))
    }

    /// When resolv.conf was last changed, where it is in force.
    fn changed(&self) -> Option<SystemTime> {
        if !self.settings.nameservers.is_empty() {
            return None;
        }
        fs::metadata(RESOLV_CONF)
            .and_then(|meta| meta.modified())
            .ok()
    }

    /// The addresses of `name`; none where there is no such name.
    ///
    /// # Errors
    /// Why the nameservers did not say.
    pub async fn addresses(&self, name: &Name) -> Result<Records<Ipv4Addr>, Unknown> {
        self.records(name, RecordType::A, |data| match data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
        .await
    }

    /// The IPv6 addresses of `name`; none where there is no such name.
    ///
    /// # Errors
    /// Why the nameservers did not say.
    pub async fn ipv6_addresses(&self, name: &Name) -> Result<Records<Ipv6Addr>, Unknown> {
        self.records(name, RecordType::AAAA, |data| match data {
            RData::AAAA(address) => Some(address.0),
            _ => None,
        })
        .await
    }

    /// The texts of `name`, each with its strings joined (RFC 7208 §3.3).
    ///
    /// # Errors
    /// Why the nameservers did not say.
    pub async fn texts(&self, name: &Name) -> Result<Records<Vec<u8>>, Unknown> {
        self.records(name, RecordType::TXT, |data| match data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        })
        .await
    }

    /// The mail exchangers of `name`.
    ///
    /// # Errors
    /// Why the nameservers did not say.
    pub async fn exchangers(&self, name: &Name) -> Result<Records<Name>, Unknown> {
        self.records(name, RecordType::MX, |data| match data {
            RData::MX(mx) => Some(mx.exchange.clone()),
            _ => None,
        })
        .await
    }

    async fn records<T>(
        &self,
        name: &Name,
        kind: RecordType,
        take: impl Fn(&RData) -> Option<T>,
    ) -> Result<Records<T>, Unknown> {
        let resolvers = self
            .current(Instant::now())
            .map_err(|_| Unknown::Unreachable("no nameserver"))?;
        let query_limit = self.settings.query_limit;
        match resolvers.lookup(name, kind, query_limit).await {
            Ok(lookup) => Ok(of_name(name, lookup.answers(), take)),
            Err(error) => match Answer::from_error(&error) {
                Answer::Unknown(unknown) => Err(unknown),
                _ => Ok(Records {
                    data: Vec::new(),
                    ttl: negative_ttl(&error),
                }),
            },
        }
    }
}

impl Resolvers {
    fn new(settings: &Settings) -> Result<Self, StartError> {
        Ok(Self {
            first: build(settings)?,
            second: build(settings)?,
        })
    }

    /// Asks, and asks again where there is no answer after `query_limit`, or
    /// where the question was lost. Whichever answer comes first counts: one
    /// that is merely late is not thrown away.
    async fn lookup(
        &self,
        name: &Name,
        kind: RecordType,
        query_limit: Duration,
    ) -> Result<Lookup, NetError> {
        let first = self.first.lookup(name.clone(), kind);
        let second = async {
            sleep(query_limit).await;
            self.second.lookup(name.clone(), kind).await
        };
        tokio::pin!(first, second);
        tokio::select! {
            result = &mut first => if is_lost(&result) {
                self.second.lookup(name.clone(), kind).await
            } else {
                result
            },
            result = &mut second => if is_lost(&result) {
                first.await
            } else {
                result
            },
        }
    }
}

/// Whether no nameserver has answered.
fn is_lost(result: &Result<Lookup, NetError>) -> bool {
    matches!(
        result,
        Err(NetError::Timeout | NetError::NoConnections | NetError::Io(_))
    )
}

/// The records of `name` in an answer, or of what it is an alias of: what else
/// stands there was not asked for.
pub(crate) fn of_name<T>(
    name: &Name,
    records: &[Record],
    take: impl Fn(&RData) -> Option<T>,
) -> Records<T> {
    let (mut owner, mut ttl) = (name, None::<u32>);
    let mut seen = |record: &Record| ttl = Some(ttl.map_or(record.ttl, |ttl| ttl.min(record.ttl)));
    for _ in 0..LONGEST_CHAIN {
        let alias = records.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *owner => Some((record, &target.0)),
            _ => None,
        });
        let Some((record, target)) = alias else { break };
        seen(record);
        owner = target;
    }
    let mut data = Vec::new();
    for record in records.iter().filter(|record| record.name == *owner) {
        if let Some(value) = take(&record.data) {
            seen(record);
            data.push(value);
            if data.len() == MOST_ADDRESSES {
                break;
            }
        }
    }
    Records {
        data,
        ttl: ttl.map(|seconds| Duration::from_secs(seconds.into())),
    }
}

fn negative_ttl(error: &NetError) -> Option<Duration> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => none
            .negative_ttl
            .map(|seconds| Duration::from_secs(seconds.into())),
        _ => None,
    }
}

fn build(settings: &Settings) -> Result<TokioResolver, StartError> {
    let config = if settings.nameservers.is_empty() {
        let (system, _) =
            read_system_conf().map_err(|error| StartError::ResolvConf(error.to_string()))?;
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
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options(settings);
    builder
        .build()
        .map_err(|error| StartError::Resolver(error.to_string()))
}

fn options(settings: &Settings) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    // Also for the second try, whose beginning is a query's limit later.
    options.timeout = settings.query_limit * 2;
    // The second try is ours.
    options.attempts = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::QueryStatistics;
    options.max_active_requests = settings.in_flight;
    options.ndots = 0;
    options.edns0 = true;
    options.edns_payload_len = EDNS_PAYLOAD;
    options.try_tcp_on_error = true;
    options.preserve_intermediates = true;
    // Our own cache keeps the verdicts.
    options.cache_size = 0;
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::{A, CNAME};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(owner: &str, ttl: u32, address: [u8; 4]) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A(address.into())))
    }

    fn found(records: &[Record]) -> (Vec<Ipv4Addr>, Option<u64>) {
        let records = of_name(&name("x.bl.test."), records, |data| match data {
            RData::A(address) => Some(address.0),
            _ => None,
        });
        (records.data, records.ttl.map(|ttl| ttl.as_secs()))
    }

    #[test]
    fn what_was_not_asked_for_is_not_taken() {
        let code = Ipv4Addr::new(127, 0, 0, 2);
        assert_eq!(found(&[a("y.bl.test.", 9, [127, 0, 0, 2])]), (vec![], None));
        let alias = |from: &str, to: &str, ttl| {
            Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
        };
        assert_eq!(
            found(&[
                a("z.bl.test.", 9, [127, 0, 0, 2]),
                alias("x.bl.test.", "y.bl.test.", 5),
                alias("y.bl.test.", "z.bl.test.", 7),
            ]),
            (vec![code], Some(5))
        );
        let round = [
            alias("x.bl.test.", "y.bl.test.", 5),
            alias("y.bl.test.", "x.bl.test.", 5),
        ];
        assert!(found(&round).0.is_empty(), "a loop ends");
        let chain = |links: usize| {
            let owner = |link| format!("{}x.bl.test.", "a.".repeat(link));
            let mut records: Vec<Record> = (0..links)
                .map(|link| alias(&owner(link), &owner(link + 1), 5))
                .collect();
            records.push(a(&owner(links), 9, [127, 0, 0, 2]));
            found(&records).0
        };
        assert_eq!(chain(LONGEST_CHAIN), [code]);
        assert_eq!(chain(LONGEST_CHAIN + 1), [Ipv4Addr::UNSPECIFIED; 0]);
        let many: Vec<Record> = (0..1000)
            .map(|_| a("x.bl.test.", 9, [127, 0, 0, 2]))
            .collect();
        assert_eq!(found(&many).0.len(), MOST_ADDRESSES);
    }
}
