//! The gate's sets and rules: whom the kernel sends to the queue, whom it passes
//! and whom it drops without a question.
//!
//! With iptables they stand in the table mangle, chain INPUT, which comes before
//! filter: a packet that the gate lets in, or that nobody reads the queue for
//! (`--queue-bypass`), goes on to the admin's own rules, and past none of them.
//! With nftables they are the last of our chain, for the same reason.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use ipnetwork::IpNetwork;
use rblfilter_warden::policy::{DENY, NFT_TABLE, PASS, THROUGH, gate_set};
use rblfilter_warden::protected::Protected;

use super::iptables::{self, Family};
use super::{COMMENT, Error, Tell, Words, feed, output, run, words};
use crate::config::Config;
use crate::courier::paths::Paths;
use crate::gate::objections;

/// The table of iptables.
const TABLE: &str = "mangle";
/// How long an entry stays that does not say; each of ours does.
const TIMEOUT: &str = "600";
/// More networks than anybody trusts.
const MOST_THROUGH: &str = "262144";
/// The name under which the set of who goes through is made, before it takes the
/// place of the one before.
const NEW: &str = "rblfilter-through-new";

/// The gate as its rules need it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The ports that packets may be dropped to.
    ports: Vec<u16>,
    /// Whom the rule lets through, of IPv4 and IPv6: by the configuration and by
    /// smtpaccess.
    through: [BTreeSet<IpNetwork>; 2],
    /// Our own addresses, at this moment.
    own: BTreeSet<IpAddr>,
    queue: u16,
    max_entries: u32,
    /// The other ports, and why not.
    pub objections: Vec<String>,
}

/// What of `config` the gate's sets and rules are made of, where it has one: of its
/// table, whom they let through, and what tells for which ports it is off.
#[must_use]
pub fn settings(config: &Config) -> Option<impl PartialEq + use<>> {
    let gate = config.gate?;
    let through: BTreeSet<IpNetwork> = (config.allow.iter())
        .chain(&config.never_ban.relays)
        .copied()
        .collect();
    let sizes = (gate.queue, gate.max_entries);
    Some((sizes, through, config.block_variables.clone()))
}

impl Plan {
    /// The gate of `config`, where it has one.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let gate = config.gate?;
        let sysconfdir = Paths::from_env().sysconfdir;
        let (against, trusted) = objections(&sysconfdir, &config.ports, &config.block_variables);
        let mut protected = Protected::default();
        // Unknown: the gate looks itself before it drops anything.
        let _ = protected.refresh(Instant::now());
        let networks = (config.allow.iter())
            .chain(&config.never_ban.relays)
            .chain(&trusted.networks);
        let mut through = [BTreeSet::new(), BTreeSet::new()];
        for network in networks {
            // A host's bits are not part of its network.
            if let Ok(network) = IpNetwork::new(network.network(), network.prefix()) {
                through[usize::from(network.is_ipv6())].extend(halves(network));
            }
        }
        Some(Self {
            ports: (config.ports.iter())
                .filter(|port| !against.contains_key(port))
                .copied()
                .collect(),
            through,
            own: protected.own().collect(),
            queue: gate.queue,
            max_entries: gate.max_entries,
            objections: (against.iter())
                .map(|(port, objection)| format!("the gate is off for port {port}: {objection}"))
                .collect(),
        })
    }

    /// All whom the rule lets through now.
    fn wanted(&self, ipv6: bool) -> BTreeSet<IpNetwork> {
        let own = self.own.iter().filter(|own| own.is_ipv6() == ipv6);
        let own = own.map(|own| IpNetwork::from(*own));
        self.through[usize::from(ipv6)]
            .iter()
            .copied()
            .chain(own)
            .collect()
    }

    /// What is wrong with those who go through now. Our own addresses may have
    /// changed since: the gate looks at them itself.
    fn is_through(&self, ipv6: bool, there: &BTreeSet<IpNetwork>) -> bool {
        let configured = &self.through[usize::from(ipv6)];
        let full = if ipv6 { 128 } else { 32 };
        configured.is_subset(there)
            && there
                .difference(configured)
                .all(|network| network.prefix() == full)
    }

    fn dports(&self) -> String {
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        ports.join(",")
    }
}

/// A network that sets can hold: they have no prefix of 0.
fn halves(network: IpNetwork) -> Vec<IpNetwork> {
    if network.prefix() > 0 {
        return vec![network];
    }
    let all = if network.is_ipv6() {
        ["::/1", "8000::/1"]
    } else {
        ["0.0.0.0/1", "128.0.0.0/1"]
    };
    all.iter().filter_map(|half| half.parse().ok()).collect()
}

// --- ipset and iptables ---------------------------------------------------------

/// What creates the sets of one family, in the order that the rules name them.
fn creations(plan: &Plan, family: Family) -> [(String, Words); 3] {
    let ipv6 = family == Family::V6;
    let create = |name: &str, more: &[&str]| {
        let name = gate_set(name, ipv6);
        let mut all = words(&[
            "ipset",
            "create",
            &name,
            "hash:net",
            "family",
            family.name(),
        ]);
        all.extend(words(more));
        (name, all)
    };
    let most = plan.max_entries.to_string();
    [
        create(DENY, &["timeout", TIMEOUT, "maxelem", &most]),
        create(PASS, &["timeout", TIMEOUT, "maxelem", &most]),
        create(THROUGH, &["maxelem", MOST_THROUGH]),
    ]
}

/// The rules of one family, in their order.
fn rules(plan: Option<&Plan>, family: Family, action: &str, ban_set: &str) -> Vec<Words> {
    let Some(plan) = plan.filter(|plan| !plan.ports.is_empty()) else {
        return Vec::new();
    };
    let ipv6 = family == Family::V6;
    let [deny, pass, through] = [DENY, PASS, THROUGH].map(|name| gate_set(name, ipv6));
    let rule = |matches: &[(&str, bool)], target: &[&str]| {
        let mut rule = words(&[family.program(), "-w", "-t", TABLE, action, "INPUT"]);
        rule.extend(words(&[
            "-p",
            "tcp",
            "--syn",
            "-m",
            "multiport",
            "--dports",
        ]));
        rule.push(plan.dports());
        for (set, is_in) in matches {
            rule.extend(words(&["-m", "set"]));
            if !is_in {
                rule.push("!".into());
            }
            rule.extend(words(&["--match-set", set, "src"]));
        }
        rule.extend(words(&["-m", "comment", "--comment", COMMENT, "-j"]));
        rule.extend(words(target));
        rule
    };
    let queue = plan.queue.to_string();
    vec![
        rule(&[(&deny, true), (&through, false)], &["DROP"]),
        rule(
            &[(ban_set, false), (&pass, false), (&through, false)],
            &["NFQUEUE", "--queue-num", &queue, "--queue-bypass"],
        ),
    ]
}

/// The commands that set up the sets and the rules where there are none.
pub(super) fn iptables_commands(config: &Config, plan: &Plan) -> Vec<String> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        all.extend(creations(plan, family).map(|(_, creation)| creation.join(" ")));
        let set = gate_set(THROUGH, family == Family::V6);
        let wanted = plan.wanted(family == Family::V6);
        all.extend(
            wanted
                .iter()
                .map(|network| format!("ipset add {set} {network}")),
        );
    }
    if config.firewall.manage {
        for family in Family::BOTH {
            let rules = rules(Some(plan), family, "-I", family.set(config));
            // The last that is inserted is the first.
            all.extend(rules.iter().rev().map(|rule| rule.join(" ")));
        }
    }
    all
}

/// Creates the sets that are missing, and fills that of who goes through.
pub(super) fn apply_ipsets(plan: &Plan, done: Tell) -> Result<(), Error> {
    for family in Family::BOTH {
        let ipv6 = family == Family::V6;
        for (name, creation) in creations(plan, family) {
            let timeouts = name != gate_set(THROUGH, ipv6);
            match listed(&name)? {
                Some(text) if iptables::is_of_family(&text, family, timeouts) => {}
                Some(_) => {
                    return Err(Error::WrongSet(
                        name.clone(),
                        "of type hash:net and its family",
                        format!("ipset destroy {name}"),
                    ));
                }
                None => {
                    run(&creation)?;
                    done(format!("created the set {name} ({})", family.name()));
                }
            }
        }
        fill_through(plan, family, done)?;
    }
    Ok(())
}

/// Puts a new set in the place of the one before, in one moment.
fn fill_through(plan: &Plan, family: Family, done: Tell) -> Result<(), Error> {
    let ipv6 = family == Family::V6;
    let name = gate_set(THROUGH, ipv6);
    let wanted = plan.wanted(ipv6);
    if members(&name)? == wanted {
        return Ok(());
    }
    // One of an attempt that did not come to its end.
    let _ = output(&words(&["ipset", "destroy", NEW]))?;
    let family = family.name();
    let mut text = format!("create {NEW} hash:net family {family} maxelem {MOST_THROUGH}\n");
    for network in &wanted {
        text.push_str(&format!("add {NEW} {network}\n"));
    }
    text.push_str(&format!("swap {NEW} {name}\ndestroy {NEW}\n"));
    feed(&words(&["ipset", "restore"]), &text)?;
    done(format!("put {} networks into the set {name}", wanted.len()));
    Ok(())
}

fn members(set: &str) -> Result<BTreeSet<IpNetwork>, Error> {
    let text = run(&words(&["ipset", "save", set]))?;
    let member = |line: &str| line.split_ascii_whitespace().nth(2)?.parse().ok();
    let adds = text.lines().filter(|line| line.starts_with("add "));
    Ok(adds.filter_map(member).collect())
}

fn listed(set: &str) -> Result<Option<String>, Error> {
    let listed = output(&words(&["ipset", "list", "-terse", set]))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(listed.status.success().then_some(text))
}

/// Adds the rules that are missing, in place of any other of the gate's; without
/// a plan there are to be none.
pub(super) fn apply_iptables(
    config: &Config,
    plan: Option<&Plan>,
    done: Tell,
) -> Result<(), Error> {
    for family in Family::BOTH {
        let Some(ours) = iptables::rules(family, TABLE)? else {
            continue;
        };
        if differences(config, plan, family, &ours)?.is_empty() {
            continue;
        }
        for rule in rules(plan, family, "-I", family.set(config)).iter().rev() {
            done(format!("adding: {}", rule.join(" ")));
            run(rule)?;
        }
        // Where an old one is the same, the first of the two goes.
        iptables::remove_rules(family, TABLE, &ours, done)?;
    }
    if plan.is_none() {
        remove_ipsets(done)
    } else {
        Ok(())
    }
}

fn differences(
    config: &Config,
    plan: Option<&Plan>,
    family: Family,
    ours: &[Words],
) -> Result<Vec<String>, Error> {
    let wanted = rules(plan, family, "-C", family.set(config));
    iptables::differences(family, TABLE, &wanted, ours)
}

/// Removes the rules and the sets.
pub(super) fn remove_iptables(done: Tell) -> Result<(), Error> {
    for family in Family::BOTH {
        if let Some(ours) = iptables::rules(family, TABLE)? {
            iptables::remove_rules(family, TABLE, &ours, done)?;
        }
    }
    remove_ipsets(done)
}

fn remove_ipsets(done: Tell) -> Result<(), Error> {
    for name in [DENY, PASS, THROUGH] {
        for set in [false, true].map(|ipv6| gate_set(name, ipv6)) {
            if listed(&set)?.is_some() {
                run(&words(&["ipset", "destroy", &set]))?;
                done(format!("removed the set {set}"));
            }
        }
    }
    Ok(())
}

/// What is not there as it should be, a sentence each.
pub(super) fn check_iptables(config: &Config, plan: Option<&Plan>) -> Result<Vec<String>, Error> {
    let mut problems: Vec<String> = plan.map_or(Vec::new(), |plan| plan.objections.clone());
    for family in Family::BOTH {
        let ipv6 = family == Family::V6;
        for (name, _) in plan.iter().flat_map(|plan| creations(plan, family)) {
            if listed(&name)?.is_none() {
                problems.push(format!("the set {name} is missing"));
            } else if name == gate_set(THROUGH, ipv6)
                && let Some(plan) = plan
                && !plan.is_through(ipv6, &members(&name)?)
            {
                problems.push(format!(
                    "the set {name} does not hold whom the configuration and smtpaccess name"
                ));
            }
        }
        if !config.firewall.manage {
            continue;
        }
        let Some(ours) = iptables::rules(family, TABLE)? else {
            continue;
        };
        let wrong = differences(config, plan, family, &ours)?;
        problems.extend(wrong.into_iter().map(|what| format!("the gate: {what}")));
    }
    Ok(problems)
}

// --- nftables --------------------------------------------------------------------

/// A set of nftables: its name, the type of its keys, its flags, and whom it holds
/// from the start.
pub(super) struct NftSet {
    pub name: String,
    pub key: &'static str,
    pub flags: &'static str,
    pub elements: Vec<String>,
}

/// The sets; those of who goes through are made anew each time.
pub(super) fn nft_sets(plan: &Plan) -> Vec<NftSet> {
    let mut sets = Vec::new();
    for (ipv6, key) in [(false, "ipv4_addr"), (true, "ipv6_addr")] {
        for name in [DENY, PASS] {
            sets.push(NftSet {
                name: gate_set(name, ipv6),
                key,
                flags: "timeout",
                elements: Vec::new(),
            });
        }
        sets.push(NftSet {
            name: gate_set(THROUGH, ipv6),
            key,
            flags: "interval",
            elements: plan.wanted(ipv6).iter().map(IpNetwork::to_string).collect(),
        });
    }
    sets
}

/// The rules, after all others of our chain. Without `queue`, a kernel that has
/// none, the first two alone.
pub(super) fn nft_rules(plan: &Plan, queue: bool) -> Vec<String> {
    if plan.ports.is_empty() {
        return Vec::new();
    }
    let ports = plan.dports().replace(',', ", ");
    let opens = format!("tcp dport {{ {ports} }} tcp flags & (fin | syn | rst | ack) == syn");
    let mut rules = Vec::new();
    let families = [(false, "ip"), (true, "ip6")];
    for (ipv6, ip) in families {
        let [deny, through] = [DENY, THROUGH].map(|name| gate_set(name, ipv6));
        rules.push(format!(
            "{opens} {ip} saddr @{deny} {ip} saddr != @{through} drop"
        ));
    }
    for (ipv6, ip) in families.iter().filter(|_| queue) {
        let [pass, through] = [PASS, THROUGH].map(|name| gate_set(name, *ipv6));
        rules.push(format!(
            "{opens} {ip} saddr != @{pass} {ip} saddr != @{through} queue flags bypass to {}",
            plan.queue
        ));
    }
    rules
}

/// Whether this kernel's nftables has queues (CONFIG_NFT_QUEUE).
pub(super) fn has_nft_queue() -> Result<bool, Error> {
    let text = format!(
        "add table inet {NFT_TABLE}-probe\nadd chain inet {NFT_TABLE}-probe c\nadd rule inet {NFT_TABLE}-probe c queue flags bypass to 0\n"
    );
    // Checked by the kernel, and not done.
    match feed(&words(&["nft", "-c", "-f", "-"]), &text) {
        Ok(()) => Ok(true),
        Err(Error::Failed(..)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn plan() -> Plan {
        Plan {
            ports: vec![25, 2525],
            through: [
                BTreeSet::from(["10.0.0.0/8".parse().unwrap()]),
                BTreeSet::from(["fd00:9::/32".parse().unwrap()]),
            ],
            own: BTreeSet::from(["127.0.0.1".parse().unwrap()]),
            queue: 25,
            max_entries: 1000,
            objections: Vec::new(),
        }
    }

    #[test]
    fn the_commands_are_those_an_admin_would_type() {
        let config = config::parse("").unwrap();
        let commands = iptables_commands(&config, &plan());
        for expected in [
            "ipset create rblfilter-deny4 hash:net family inet timeout 600 maxelem 1000",
            "ipset create rblfilter-through6 hash:net family inet6 maxelem 262144",
            "ipset add rblfilter-through4 10.0.0.0/8",
            "ipset add rblfilter-through4 127.0.0.1/32",
            "iptables -w -t mangle -I INPUT -p tcp --syn -m multiport --dports 25,2525 -m set --match-set rblfilter-deny4 src -m set ! --match-set rblfilter-through4 src -m comment --comment rblfilter -j DROP",
            "ip6tables -w -t mangle -I INPUT -p tcp --syn -m multiport --dports 25,2525 -m set ! --match-set rblfilter6 src -m set ! --match-set rblfilter-pass6 src -m set ! --match-set rblfilter-through6 src -m comment --comment rblfilter -j NFQUEUE --queue-num 25 --queue-bypass",
        ] {
            assert!(
                commands.iter().any(|c| c == expected),
                "{expected}: {commands:#?}"
            );
        }
        let unmanaged = config::parse("[firewall]\nmanage = false").unwrap();
        let commands = iptables_commands(&unmanaged, &plan());
        assert!(commands.iter().all(|command| command.starts_with("ipset ")));
    }

    #[test]
    fn where_every_port_has_an_objection_there_is_no_rule() {
        let config = config::parse("").unwrap();
        let plan = Plan {
            ports: Vec::new(),
            ..plan()
        };
        let commands = iptables_commands(&config, &plan);
        assert!(commands.iter().all(|command| command.starts_with("ipset ")));
        assert!(nft_rules(&plan, true).is_empty());
    }

    #[test]
    fn with_nftables_the_rules_are_its_own() {
        let rules = nft_rules(&plan(), true);
        let opens = "tcp dport { 25, 2525 } tcp flags & (fin | syn | rst | ack) == syn";
        assert_eq!(rules.len(), 4);
        assert_eq!(
            rules[0],
            format!("{opens} ip saddr @rblfilter-deny4 ip saddr != @rblfilter-through4 drop")
        );
        assert_eq!(
            rules[3],
            format!(
                "{opens} ip6 saddr != @rblfilter-pass6 ip6 saddr != @rblfilter-through6 queue flags bypass to 25"
            )
        );
        assert_eq!(
            nft_rules(&plan(), false).len(),
            2,
            "a kernel without queues"
        );
    }

    #[test]
    fn own_addresses_may_have_changed_and_networks_may_not() {
        let plan = plan();
        let networks = |texts: &[&str]| -> BTreeSet<IpNetwork> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        for (there, expected) in [
            (&["10.0.0.0/8", "127.0.0.1/32"][..], true),
            (&["10.0.0.0/8"], true),
            (&["10.0.0.0/8", "10.9.9.9/32"], true),
            (&["127.0.0.1/32"], false),
            (&["10.0.0.0/8", "11.0.0.0/8"], false),
        ] {
            assert_eq!(
                plan.is_through(false, &networks(there)),
                expected,
                "{there:?}"
            );
        }
        assert_eq!(halves("0.0.0.0/0".parse().unwrap()).len(), 2);
        assert_eq!(halves("::/0".parse().unwrap())[1].to_string(), "8000::/1");
    }
}
