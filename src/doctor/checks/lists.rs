//! DNS lists and nameservers.

use std::net::IpAddr;

use super::super::catalogue::*;
use super::super::facts::Facts;
use super::super::finding::Finding;
use super::{Out, ports};
use crate::config::Config;
use crate::status::{Health, List};

/// The big public resolvers, by their operators' documents: Google, Cloudflare,
/// Quad9, OpenDNS, Level 3, Verisign, AdGuard, DNS.WATCH, Yandex, Comodo,
/// CleanBrowsing, Control D, dns0.eu, Alibaba, 114DNS.
const PUBLIC: &[&str] = &[
    "8.8.8.8",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
    "1.1.1.1",
    "1.0.0.1",
    "1.1.1.2",
    "1.0.0.2",
    "1.1.1.3",
    "1.0.0.3",
    "2606:4700:4700::1111",
    "2606:4700:4700::1001",
    "9.9.9.9",
    "9.9.9.10",
    "9.9.9.11",
    "149.112.112.112",
    "149.112.112.10",
    "149.112.112.11",
    "2620:fe::fe",
    "2620:fe::9",
    "208.67.222.222",
    "208.67.220.220",
    "2620:119:35::35",
    "2620:119:53::53",
    "4.2.2.1",
    "4.2.2.2",
    "4.2.2.3",
    "4.2.2.4",
    "4.2.2.5",
    "4.2.2.6",
    "64.6.64.6",
    "64.6.65.6",
    "94.140.14.14",
    "94.140.15.15",
    "84.200.69.80",
    "84.200.70.40",
    "77.88.8.8",
    "77.88.8.1",
    "8.26.56.26",
    "8.20.247.20",
    "185.228.168.9",
    "185.228.169.9",
    "76.76.2.0",
    "76.76.10.0",
    "193.110.81.0",
    "185.253.5.0",
    "223.5.5.5",
    "223.6.6.6",
    "114.114.114.114",
];

pub(super) fn examine(facts: &Facts, out: Out) {
    let Ok(config) = &facts.config.read else {
        return;
    };
    verdicts(facts, config, out);
    if config.zones.is_empty() {
        return;
    }
    nameservers(facts, out);
    zones(facts, out);
    let v6 = |zone: &&crate::dnsbl::Zone| {
        !zone.allows() && zone.covers(std::net::Ipv6Addr::UNSPECIFIED.into())
    };
    if facts.host.ipv6 && !config.zones.iter().any(|zone| v6(&zone)) {
        out.push(
            IPV6_UNJUDGED
                .note("this host has IPv6, and no [[dnsbl]] is asked for its clients")
                .by_hand(
                    "ipv6 = true for a list that knows IPv6 addresses, then: rblfilter reload",
                ),
        );
    }
}

/// Whether anybody can be convicted at all.
fn verdicts(facts: &Facts, config: &Config, out: Out) {
    let ours = config.zones.iter().filter(|zone| !zone.allows()).count();
    if ours > 0 {
        out.push(NO_VERDICT.ok(format!("{ours} [[dnsbl]] can convict")));
        return;
    }
    let ports = ports(facts);
    let judged = facts
        .courier
        .listeners
        .iter()
        .filter(|one| ports.iter().any(|port| one.options.serves(*port)));
    let mut read = judged
        .flat_map(|one| &one.options.lists)
        .filter(|list| !list.allows && config.block_variables.contains(&list.variable));
    out.push(if read.next().is_some() {
        NO_VERDICT.ok("couriertcpd's verdicts can convict")
    } else {
        NO_VERDICT
            .problem("there is no [[dnsbl]], and couriertcpd has no verdict: everybody passes")
            .by_hand(format!(
                "add a [[dnsbl]] to {}, then: rblfilter reload",
                facts.config.path.display()
            ))
    });
}

fn nameservers(facts: &Facts, out: Out) {
    let dns = &facts.dns;
    let named = &dns.named_in;
    let own = format!(
        "apt-get install unbound, and nameserver 127.0.0.1 {}",
        if named == "lookup.nameservers" {
            "there"
        } else {
            "in /etc/resolv.conf (or lookup.nameservers)"
        }
    );
    let servers = match &dns.nameservers {
        Ok(servers) => servers,
        Err(error) => {
            out.push(NO_RESOLVER.unknown(error));
            return;
        }
    };
    let silent: Vec<&(IpAddr, Result<(), String>)> = dns
        .answered
        .iter()
        .filter(|(_, answer)| answer.is_err())
        .collect();
    let why = |one: &(IpAddr, Result<(), String>)| {
        let error = one.1.as_ref().err().map_or("", String::as_str);
        format!("{}: {error}", one.0)
    };
    if dns.answered.is_empty() || silent.len() == dns.answered.len() {
        let what = match silent.first() {
            Some(one) => format!("no nameserver of {named} answers ({})", why(one)),
            None => format!("{named} names no nameserver"),
        };
        out.push(NO_RESOLVER.problem(what).by_hand(own.clone()));
    } else {
        out.push(NO_RESOLVER.ok("a nameserver answers"));
        for one in &silent {
            out.push(
                NAMESERVER_SILENT
                    .warning(format!(
                        "a nameserver of {named} does not answer ({})",
                        why(one)
                    ))
                    .by_hand(format!("take {} out of {named}, or mend it", one.0))
                    .about(one.0.to_string()),
            );
        }
    }
    let is_public = |ip: &&IpAddr| {
        let ip = ip.to_canonical();
        PUBLIC.iter().any(|public| public.parse() == Ok(ip))
    };
    let public: Vec<String> = servers
        .iter()
        .filter(is_public)
        .map(ToString::to_string)
        .collect();
    out.push(if public.is_empty() {
        PUBLIC_RESOLVER.ok("no nameserver is one of the big public ones")
    } else {
        PUBLIC_RESOLVER
            .warning(format!("the lists are asked through {}", public.join(", ")))
            .by_hand(own)
    });
}

/// Each list's self-test: the running filter's, else ours.
fn zones(facts: &Facts, out: Out) {
    let dead = matches!(out.iter().find(|one| one.check == &NO_RESOLVER), Some(one) if one.level > super::super::Level::Note);
    let all: Vec<(&List, String)> = match facts.filter.status() {
        Some(status) => status
            .lists
            .iter()
            .map(|list| {
                let name = match list.family.as_str() {
                    "ipv6" => format!("{} ipv6", list.name),
                    _ => list.name.clone(),
                };
                let mut parts = status.degraded.iter();
                let part = parts.find(|part| part.what == "dnsbl" && part.name == name);
                (
                    list,
                    part.map_or_else(String::new, |part| part.reason.clone()),
                )
            })
            .collect(),
        None => facts
            .dns
            .tested
            .iter()
            .map(|(list, reason)| (list, reason.clone()))
            .collect(),
    };
    // Where no other list convicts, it is the filter that does nothing.
    let convicts =
        |list: &List| !list.allows && matches!(list.health, Health::Believed | Health::Silent);
    let any = all.iter().any(|(list, _)| convicts(list));
    for (list, reason) in all {
        out.push(zone(list, &reason, any, dead).about(&list.name));
    }
}

fn zone(list: &List, reason: &str, any: bool, dead: bool) -> Finding {
    let name = format!("{} ({} clients)", list.name, list.family);
    let mend = if dead {
        "it comes back with a nameserver, by itself".to_owned()
    } else if list.family == "ipv6" && reason.contains("IPv6") {
        format!("ipv6 = false for {}, then: rblfilter reload", list.name)
    } else {
        format!(
            "see what its operator says; else take {} out of rblfilter.toml, then: rblfilter reload",
            list.name
        )
    };
    match list.health {
        Health::Believed => ZONE_DOWN.ok(format!("{name} passes its self-test")),
        Health::Silent => ZONE_DOWN
            .warning(format!(
                "{name} passed its self-test, and left a question unanswered since"
            ))
            .by_hand(mend),
        Health::Testing => {
            ZONE_DOWN.unknown(format!("the self-test of {name} did not end in time"))
        }
        Health::Down => {
            let what = if reason.is_empty() {
                format!("{name} is down")
            } else {
                format!("{name} is down: {reason}")
            };
            if any {
                ZONE_DOWN.warning(what).by_hand(mend)
            } else {
                ZONE_DOWN.problem(what).by_hand(mend)
            }
        }
    }
}
