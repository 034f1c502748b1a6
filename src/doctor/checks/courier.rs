//! Courier's own configuration, and what runs of it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rblfilter_warden::policy::without_keys;

use super::super::catalogue::*;
use super::super::facts::Facts;
use super::{Out, RELOAD, count, ports, restart};
use crate::config::Config;
use crate::courier::esmtpd::LOGINS;
use crate::courier::tcpd::{List, Options};
use crate::dnsbl::Zone;

/// Slots that should be free when the guard begins.
const FEW: usize = 4;
/// Names in one line.
const MOST_NAMES: usize = 4;

/// A daemon that serves a judged port: as it runs, else as it is configured.
#[derive(Debug)]
struct Daemon {
    name: String,
    options: Options,
    logins: Option<&'static str>,
    proxied: bool,
}

pub(super) fn examine(facts: &Facts, out: Out) {
    enablefiltering(facts, out);
    if let Err(error) = &facts.courier.daemons {
        out.push(ESMTPD_NOT_RESTARTED.unknown(error));
    }
    served(facts, out);
    restarted(facts, out);
    for daemon in daemons(facts) {
        logins(facts, &daemon, out);
        looks_up(facts, &daemon, out);
        slots(facts, &daemon, out);
    }
    exchangers(facts, out);
    let others = &facts.courier.others;
    if !others.is_empty() {
        out.push(
            OTHER_FILTERS
                .note(format!("active beside rblfilter: {}", names(others)))
                .by_hand(
                    "where one of them asks DNS lists, let one alone do it (filterctl stop NAME)",
                ),
        );
    }
}

/// A few names, and how many more there are.
fn names<T: AsRef<str>>(all: &[T]) -> String {
    let mut text = all
        .iter()
        .take(MOST_NAMES)
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ");
    if all.len() > MOST_NAMES {
        text += &format!(" and {} more", all.len() - MOST_NAMES);
    }
    text
}

fn enablefiltering(facts: &Facts, out: Out) {
    let path = facts.paths.sysconfdir.join("enablefiltering");
    let path = path.display();
    out.push(match &facts.courier.enablefiltering {
        Ok(Some(text)) if text.split_whitespace().any(|word| word == "esmtp") => {
            ESMTP_NOT_FILTERED.ok("Courier asks its filters about mail that comes by SMTP")
        }
        Ok(text) => {
            // A last line without its end would become another word.
            let end = text.as_deref().unwrap_or_default();
            let command = if end.is_empty() || end.ends_with('\n') {
                format!("echo esmtp >>{path}")
            } else {
                format!("printf '\\nesmtp\\n' >>{path}")
            };
            ESMTP_NOT_FILTERED
                .problem(format!(
                    "{path} does not name esmtp: Courier asks no filter"
                ))
                .run(command)
        }
        Err(error) => ESMTP_NOT_FILTERED.unknown(error),
    });
}

/// Those that serve a judged port.
fn daemons(facts: &Facts) -> Vec<Daemon> {
    let ports = ports(facts);
    let judged = |options: &Options| ports.iter().any(|port| options.serves(*port));
    let running = facts
        .courier
        .listeners
        .iter()
        .filter(|one| judged(&one.options));
    let mut all: Vec<Daemon> = running
        .map(|one| Daemon {
            name: one.name.clone(),
            options: one.options.clone(),
            logins: match one.logins {
                Ok(logins) => logins,
                Err(_) => configured_logins(facts, &one.name),
            },
            proxied: one.options.proxy || one.proxied,
        })
        .collect();
    if all.is_empty() {
        let configured = facts
            .courier
            .daemons
            .iter()
            .flat_map(|daemons| &daemons.all);
        all = configured
            .filter(|daemon| ports.iter().any(|port| daemon.serves(*port)))
            .map(|daemon| Daemon {
                name: daemon.name.into(),
                proxied: daemon.options().proxy,
                options: daemon.options(),
                logins: configured_logins(facts, daemon.name),
            })
            .collect();
    }
    all
}

/// The variable that is set in the files of daemon `name`.
fn configured_logins(facts: &Facts, name: &str) -> Option<&'static str> {
    let daemons = facts.courier.daemons.as_ref().ok()?;
    let daemon = daemons.all.iter().find(|daemon| daemon.name == name)?;
    LOGINS
        .into_iter()
        .find(|name| !daemon.settings.text(name).trim().is_empty())
}

fn served(facts: &Facts, out: Out) {
    for port in ports(facts) {
        let runs = |one: &&super::super::facts::Listener| one.options.serves(port);
        let told = port.to_string();
        out.push(
            match facts.courier.listeners.iter().find(runs) {
                Some(one) => PORT_NOT_SERVED.ok(format!("{} serves port {port}", one.name)),
                None => PORT_NOT_SERVED
                    .warning(format!(
                        "no couriertcpd serves port {port}, which is judged"
                    ))
                    .run(restart(facts, "esmtpd")),
            }
            .about(told),
        );
    }
}

/// Whether each couriertcpd that matters does what its file says.
fn restarted(facts: &Facts, out: Out) {
    let Ok(configured) = &facts.courier.daemons else {
        return;
    };
    let ports = ports(facts);
    for running in &facts.courier.listeners {
        let Some(daemon) = configured.all.iter().find(|one| one.name == running.name) else {
            continue;
        };
        let wanted = daemon.options();
        let serves = |options: &Options| ports.iter().any(|port| options.serves(*port));
        if !serves(&wanted) && !serves(&running.options) {
            continue;
        }
        let mut differ = differences(&running.options, &wanted);
        if running
            .logins
            .as_ref()
            .is_ok_and(|logins| *logins != configured_logins(facts, daemon.name))
        {
            differ.push("ESMTPAUTH");
        }
        let name = &running.name;
        out.push(
            if differ.is_empty() {
                ESMTPD_NOT_RESTARTED.ok(format!("{name} runs as its file says"))
            } else {
                ESMTPD_NOT_RESTARTED
                    .warning(format!(
                        "{name} runs with other settings than its file has: {}",
                        differ.join(", ")
                    ))
                    .run(restart(facts, name))
            }
            .about(name),
        );
    }
}

/// The variables in which two differ.
fn differences(one: &Options, other: &Options) -> Vec<&'static str> {
    [
        (one.lists != other.lists, "BLACKLISTS"),
        (one.drops != other.drops, "DROP"),
        (
            one.no_names != other.no_names || one.proxy != other.proxy,
            "TCPDOPTS",
        ),
        (one.slots != other.slots, "MAXDAEMONS"),
        (one.per_network != other.per_network, "MAXPERC"),
        (one.per_address != other.per_address, "MAXPERIP"),
        (one.ports != other.ports, "PORT"),
    ]
    .into_iter()
    .filter_map(|(differ, name)| differ.then_some(name))
    .collect()
}

/// The edit of a daemon's file.
fn edit(facts: &Facts, daemon: &Daemon, what: &str) -> String {
    let file = facts.paths.sysconfdir.join(&daemon.name);
    format!("in {}: {what}", file.display())
}

fn logins(facts: &Facts, daemon: &Daemon, out: Out) {
    let name = &daemon.name;
    out.push(
        match daemon.logins {
            Some(variable) => LOGINS_ON_JUDGED_PORT
                .problem(format!(
                    "clients may log in at {name} ({variable} is set), whose port is judged"
                ))
                .by_hand(edit(
                    facts,
                    daemon,
                    "ESMTPAUTH=\"\" and ESMTPAUTH_TLS=\"\", with users on ports 587 (esmtpd-msa) and 465 (esmtpd-ssl)",
                )).then(restart(facts, name)),
            None => LOGINS_ON_JUDGED_PORT.ok(format!("nobody logs in at {name}")),
        }
        .about(name),
    );
    if daemon.proxied {
        out.push(
            BEHIND_PROXY
                .warning(format!("{name} is behind a proxy (PROXY protocol)"))
                .by_hand("let the proxy's host keep banned clients out: feed it `rblfilter list --json`; here, [ban] backend = \"dry-run\" says what is")
                .about(name),
        );
    }
}

/// What couriertcpd looks up by itself.
fn looks_up(facts: &Facts, daemon: &Daemon, out: Out) {
    let name = &daemon.name;
    let options = &daemon.options;
    let zones: Vec<String> = options
        .lists
        .iter()
        .map(|list| without_keys(&list.zone))
        .collect();
    if zones.is_empty() {
        out.push(
            COURIER_LOOKS_UP
                .ok(format!("{name} asks no lists itself"))
                .about(name),
        );
    } else {
        let table = |list: &List| {
            let kind = if list.allows { "dnswl" } else { "dnsbl" };
            format!("[[{kind}]] zone = \"{}\"", without_keys(&list.zone))
        };
        let tables: Vec<String> = options.lists.iter().map(table).collect();
        out.push(
            COURIER_LOOKS_UP
                .warning(format!(
                    "{name} asks {} before each session begins (BLACKLISTS): {}",
                    count(zones.len(), "list", "lists"),
                    names(&zones)
                ))
                .by_hand(format!(
                    "in {}: {}; {}",
                    facts.config.path.display(),
                    names(&tables),
                    edit(facts, daemon, "BLACKLISTS=\"\"")
                ))
                .then(format!("{RELOAD}; {}", restart(facts, name)))
                .about(name),
        );
    }
    if let Some(variable) = &options.drops {
        out.push(
            COURIER_DROPS
                .warning(format!(
                    "{name} drops clients whose {variable} is set (-drop)"
                ))
                .by_hand(edit(
                    facts,
                    daemon,
                    "DROP=\"\", and no -drop in BLACKLISTS or TCPDOPTS",
                ))
                .then(restart(facts, name))
                .about(name),
        );
    }
    if let Ok(config) = &facts.config.read {
        verdicts(facts, daemon, config, out);
    }
    if options.no_names {
        out.push(
            REVERSE_LOOKUPS
                .ok(format!("{name} looks up no names of clients"))
                .about(name),
        );
    } else {
        out.push(
            REVERSE_LOOKUPS
                .note(format!(
                    "{name} looks up each client's name before its session begins"
                ))
                .by_hand(edit(facts, daemon, "add -nodnslookup to TCPDOPTS"))
                .then(restart(facts, name))
                .about(name),
        );
    }
}

/// What becomes of couriertcpd's verdicts.
fn verdicts(facts: &Facts, daemon: &Daemon, config: &Config, out: Out) {
    let name = &daemon.name;
    let shown = |lists: &[&List]| {
        let zones: Vec<String> = lists.iter().map(|list| without_keys(&list.zone)).collect();
        names(&zones)
    };
    let lists = &daemon.options.lists;
    let is_ours = |list: &&List| {
        let zone = without_keys(&list.zone);
        config.zones.iter().any(|ours: &Zone| ours.is_called(&zone))
    };
    let twice: Vec<&List> = lists.iter().filter(is_ours).collect();
    if !twice.is_empty() {
        out.push(
            ZONE_ASKED_TWICE
                .warning(format!("{name} and rblfilter both ask {}", shown(&twice)))
                .by_hand(edit(facts, daemon, "take them out of BLACKLISTS"))
                .then(restart(facts, name))
                .about(name),
        );
    }
    let unread: Vec<&List> = lists
        .iter()
        .filter(|list| !list.allows && !config.block_variables.contains(&list.variable))
        .collect();
    if let Some(first) = unread.first() {
        out.push(
            VERDICT_UNREAD
                .warning(format!(
                    "the verdict of {} is in {}, which rblfilter does not read",
                    shown(&unread),
                    first.variable
                ))
                .by_hand(format!("add {} to block-variables", first.variable))
                .then(RELOAD)
                .about(name),
        );
    }
    let refusing: Vec<&List> = lists
        .iter()
        .filter(|list| !list.allows && list.variable == "BLOCK")
        .collect();
    if !refusing.is_empty() {
        out.push(
            BLOCK_REFUSES_POSTMASTER
                .warning(format!(
                    "{name} puts the verdict of {} into BLOCK",
                    shown(&refusing)
                ))
                .by_hand(edit(
                    facts,
                    daemon,
                    "write -block=ZONE,BLOCK2, which rblfilter reads and Courier leaves alone",
                ))
                .then(restart(facts, name))
                .about(name),
        );
    }
}

fn slots(facts: &Facts, daemon: &Daemon, out: Out) {
    let name = &daemon.name;
    let options = &daemon.options;
    let Some(slots) = options.slots.filter(|slots| *slots > 0) else {
        return;
    };
    let wide = [
        ("MAXPERIP", options.per_address, "address"),
        ("MAXPERC", options.per_network, "network (/24)"),
    ]
    .into_iter()
    .find(|(_, most, _)| most.is_none_or(|most| most == 0 || most >= slots));
    out.push(
        match wide {
            Some((variable, most, who)) => ONE_CLIENT_FILLS_SLOTS
                .warning(format!(
                    "{name}: one {who} may have all {slots} slots ({variable}={}, MAXDAEMONS={slots})",
                    most.map_or_else(String::new, |most| most.to_string())
                ))
                .by_hand(edit(
                    facts,
                    daemon,
                    &format!("{variable} well below MAXDAEMONS, for example {}", (slots / 8).max(4)),
                )).then(restart(facts, name)),
            None => ONE_CLIENT_FILLS_SLOTS.ok(format!("no client of {name} can have all its slots")),
        }
        .about(name),
    );
    let Some(marks) = facts
        .config
        .read
        .as_ref()
        .ok()
        .and_then(|config| config.guard)
    else {
        return;
    };
    // Where the guard begins, so many are free.
    let free = slots - (slots * marks.high).div_ceil(100).min(slots);
    out.push(
        if free < FEW {
            FEW_SLOTS
                .warning(format!(
                    "{name} has {}, of which {free} are free when the guard begins (at {} %)",
                    count(slots, "slot", "slots"),
                    marks.high
                ))
                .by_hand(edit(facts, daemon, "MAXDAEMONS=40 or more"))
                .then(restart(facts, name))
        } else {
            FEW_SLOTS.ok(format!(
                "{name} has {slots} slots; the guard begins with {free} free"
            ))
        }
        .about(name),
    );
}

/// The MX hosts of our own domains that are neither this host nor exempt.
fn exchangers(facts: &Facts, out: Out) {
    let Ok(config) = &facts.config.read else {
        return;
    };
    let exempt = |ip: &IpAddr| {
        let within = |network: &IpNetwork| network.contains(*ip);
        facts.dns.own.contains(ip)
            || ip.is_loopback()
            || config.allow.iter().any(within)
            || config.never_ban.relays.iter().any(within)
    };
    let mut missing: Vec<(String, Vec<IpAddr>)> = Vec::new();
    let mut unknown: Vec<(&str, &str)> = Vec::new();
    let mut looked = 0;
    for (domain, hosts) in &facts.dns.exchangers {
        match hosts {
            Ok(hosts) => {
                looked += 1;
                for (host, addresses) in hosts {
                    let others: Vec<IpAddr> = addresses
                        .iter()
                        .map(IpAddr::to_canonical)
                        .filter(|ip| !exempt(ip))
                        .collect();
                    if !others.is_empty() && !missing.iter().any(|(known, _)| known == host) {
                        missing.push((host.clone(), others));
                    }
                }
            }
            Err(error) => unknown.push((domain, error)),
        }
    }
    for (host, addresses) in missing.iter().take(MOST_NAMES * 2) {
        let quoted: Vec<String> = addresses.iter().map(|ip| format!("\"{ip}\"")).collect();
        out.push(
            MX_NOT_EXEMPT
                .warning(format!("{host}, an MX of a domain of ours, is not exempt"))
                .by_hand(format!(
                    "add {} to allow.networks (also where it is this host, behind NAT)",
                    quoted.join(", ")
                ))
                .then(RELOAD)
                .about(host),
        );
    }
    if let Some((domain, error)) = unknown.first() {
        let what = match (domain.is_empty(), unknown.len()) {
            (true, _) => (*error).to_owned(),
            (_, 1) => format!("the MX hosts of {domain} are not known: {error}"),
            (_, all) => format!("the MX hosts of {all} domains are not known ({domain}: {error})"),
        };
        out.push(MX_NOT_EXEMPT.note(what));
    }
    if facts.dns.domains_left > 0 {
        out.push(MX_NOT_EXEMPT.note(format!(
            "{} more were not looked at",
            count(facts.dns.domains_left, "domain", "domains")
        )));
    }
    if missing.is_empty() && looked > 0 {
        let domains = count(looked, "domain", "domains");
        out.push(MX_NOT_EXEMPT.ok(format!("no MX of {domains} of ours could be banned")));
    }
}
