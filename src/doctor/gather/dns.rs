//! Nameservers, lists and MX hosts, all asked at the same time.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;
use rblfilter_warden::protected::Protected;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::facts::{Dns, Exchanger, Seen};
use super::super::texts;
use crate::config::{Config, Resolver as Settings};
use crate::courier::domains;
use crate::dnsbl::{Family, Lists, News, Notice, Resolver, Unknown, query};
use crate::status::{Health, List};

/// How long one part may take.
const TIME: Duration = Duration::from_secs(7);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The most nameservers, domains and MX hosts that are asked for.
const MOST_SERVERS: usize = 8;
const MOST_DOMAINS: usize = 50;
const MOST_EXCHANGERS: usize = 8;
/// systemd-resolved's stub, and where it says whom it asks.
const STUBS: [[u8; 4]; 2] = [[127, 0, 0, 53], [127, 0, 0, 54]];
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
const RESOLV_CONF: &str = "/etc/resolv.conf";

impl Dns {
    /// Nothing was seen.
    pub(super) fn unseen(error: &str) -> Self {
        Self {
            nameservers: Err(error.into()),
            named_in: RESOLV_CONF.into(),
            answered: Vec::new(),
            tested: Vec::new(),
            exchangers: Vec::new(),
            domains_left: 0,
            own: Vec::new(),
        }
    }
}

/// Asks as `config` says; the lists are tested where `test` says so.
pub(super) fn look(config: Option<&Config>, sysconfdir: &Path, test: bool) -> Dns {
    let Some(config) = config else {
        return Dns::unseen("there is no configuration");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(all(config, sysconfdir, test)),
        Err(error) => Dns::unseen(&error.to_string()),
    }
}

async fn all(config: &Config, sysconfdir: &Path, test: bool) -> Dns {
    let settings = &config.resolver;
    let (direct, named_in) = if settings.nameservers.is_empty() {
        let servers = fs::read_to_string(RESOLV_CONF)
            .map(|text| texts::nameservers(&text))
            .map_err(|error| format!("cannot read {RESOLV_CONF}: {error}"));
        let servers = servers.map(|all| all.into_iter().map(|ip| (ip, 53).into()).collect());
        (servers, RESOLV_CONF.to_owned())
    } else {
        (
            Ok(settings.nameservers.clone()),
            "lookup.nameservers".into(),
        )
    };
    let direct: Seen<Vec<SocketAddr>> = direct;
    let servers: Vec<SocketAddr> = direct
        .iter()
        .flatten()
        .copied()
        .take(MOST_SERVERS)
        .collect();
    let probe = config.zones.first().and_then(|zone| {
        let [listed, _] = Family::V4.test_entries();
        query::name(listed, zone.origin())
    });
    let zones = async {
        if test {
            lists(config).await
        } else {
            Vec::new()
        }
    };
    let (answered, tested, (exchangers, domains_left)) = tokio::join!(
        answers(settings, &servers, probe),
        zones,
        exchangers(settings, sysconfdir)
    );
    let mut protected = Protected::default();
    // Where they cannot be listed, an MX of our own looks like another's.
    let _ = protected.refresh(Instant::now());
    Dns {
        nameservers: direct.map(|direct| {
            let mut all: Vec<IpAddr> = direct.iter().map(SocketAddr::ip).collect();
            let is_stub = |ip: &IpAddr| match ip {
                IpAddr::V4(ip) => STUBS.contains(&ip.octets()),
                IpAddr::V6(_) => false,
            };
            if all.iter().any(is_stub) {
                let behind = fs::read_to_string(BEHIND_STUB).unwrap_or_default();
                all.extend(texts::nameservers(&behind));
            }
            all
        }),
        named_in,
        answered,
        tested,
        exchangers,
        domains_left,
        own: protected.own().collect(),
    }
}

/// Whether each nameserver answers, whatever it says; one that refuses all is none
/// for this host.
async fn answers(
    settings: &Settings,
    servers: &[SocketAddr],
    probe: Option<Name>,
) -> Vec<(IpAddr, Seen<()>)> {
    let names: Vec<Name> = std::iter::once(Name::root()).chain(probe).collect();
    let mut asked = JoinSet::new();
    for (place, server) in servers.iter().copied().enumerate() {
        let resolver = Arc::new(Resolver::new(Settings {
            nameservers: vec![server],
            ..settings.clone()
        }));
        let mut any = JoinSet::new();
        for name in names.clone() {
            let resolver = Arc::clone(&resolver);
            any.spawn(async move { resolver.addresses(&name).await.map(drop) });
        }
        asked.spawn(async move {
            let mut last = Err(Unknown::Timeout);
            let all = async {
                while let Some(answer) = any.join_next().await {
                    last = answer.unwrap_or(Err(Unknown::Timeout));
                    let refused = Err(Unknown::Response(ResponseCode::Refused));
                    let silent = matches!(last, Err(Unknown::Timeout | Unknown::Unreachable(_)));
                    if !silent && last != refused {
                        last = Ok(());
                        break;
                    }
                }
            };
            let _ = timeout(TIME, all).await;
            let answer = last.map_err(|unknown| unknown.to_string());
            (place, (server.ip(), answer))
        });
    }
    let mut all = asked.join_all().await;
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, answer)| answer).collect()
}

/// The lists' self-tests, as the filter does them, and why each failed.
async fn lists(config: &Config) -> Vec<(List, String)> {
    let (lists, mut notices) = Lists::new(
        config.zones.clone(),
        config.resolver.clone(),
        config.cache,
        config.thresholds,
    );
    let testing = tokio::spawn(Arc::clone(&lists).keep_tested());
    let end = Instant::now() + TIME;
    let is_tested = || {
        let all = lists.status(Instant::now());
        all.iter().all(|list| list.health != Health::Testing)
    };
    while !is_tested() && Instant::now() < end {
        sleep(LOOK_AGAIN).await;
    }
    testing.abort();
    let mut reasons = HashMap::new();
    while let Ok(Notice { list, news }) = notices.try_recv() {
        if let (Some(zone), News::Opened(family, reason, _)) = (lists.zone(list), news) {
            let family = match family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            reasons.insert(
                (zone.name().to_owned(), family.to_owned()),
                reason.to_string(),
            );
        }
    }
    lists
        .status(Instant::now())
        .into_iter()
        .map(|list| {
            let reason = reasons.remove(&(list.name.clone(), list.family.clone()));
            (list, reason.unwrap_or_default())
        })
        .collect()
}

type Exchangers = Vec<(String, Seen<Vec<Exchanger>>)>;

/// The MX hosts of the domains that Courier takes mail for, and how many domains
/// were left out.
async fn exchangers(settings: &Settings, sysconfdir: &Path) -> (Exchangers, usize) {
    let all = match domains::read(sysconfdir) {
        Ok(all) => all,
        Err(error) => {
            let text = format!("cannot read Courier's domains: {error}");
            return (vec![(String::new(), Err(text))], 0);
        }
    };
    let left = all.len().saturating_sub(MOST_DOMAINS);
    let resolver = Arc::new(Resolver::new(settings.clone()));
    let mut asked = JoinSet::new();
    for domain in all.into_iter().take(MOST_DOMAINS) {
        let resolver = Arc::clone(&resolver);
        asked.spawn(async move {
            let hosts = timeout(TIME, hosts(&resolver, &domain)).await;
            let hosts = hosts.unwrap_or_else(|_| Err(Unknown::Timeout.to_string()));
            (domain, hosts)
        });
    }
    let mut all = asked.join_all().await;
    all.sort_by(|one, other| one.0.cmp(&other.0));
    (all, left)
}

async fn hosts(resolver: &Resolver, domain: &str) -> Seen<Vec<Exchanger>> {
    let name = Name::from_utf8(format!("{domain}.")).map_err(|error| error.to_string())?;
    let unknown = |unknown: Unknown| unknown.to_string();
    let exchangers = resolver.exchangers(&name).await.map_err(unknown)?;
    let mut hosts = Vec::new();
    // "." is no host (RFC 7505).
    let named = exchangers.data.into_iter().filter(|host| !host.is_root());
    for host in named.take(MOST_EXCHANGERS) {
        let (four, six) = tokio::join!(resolver.addresses(&host), resolver.ipv6_addresses(&host));
        let four = four.map_err(unknown)?.data.into_iter().map(IpAddr::V4);
        let six = six.map_err(unknown)?.data.into_iter().map(IpAddr::V6);
        hosts.push((
            host.to_utf8().trim_end_matches('.').to_owned(),
            four.chain(six).collect(),
        ));
    }
    Ok(hosts)
}
