//! Sets, a chain and rules in a table of our own, through nft(8).
//!
//! The chain holds nothing but our rules, and is written anew as a whole, in
//! one transaction. A rule's comment holds a digest of its text, by which it is
//! known whether it is the one that the configuration wants.

use std::collections::BTreeMap;

use rblfilter_warden::policy::{NFT_CHAIN as CHAIN, NFT_NETWORKS, NFT_TABLE};

use super::gate::{self, Plan};
use super::{COMMENT, Error, Tell, feed, output, run, span, words};
use crate::config::{Config, Packet, Rate};

/// Before the chains of others, which are mostly at 0.
const PRIORITY: i32 = -10;
/// The networks whose connections are counted at the same time.
const COUNTED: u32 = 200_000;

/// One set: its name, and what stands in its braces.
#[derive(Debug, PartialEq, Eq)]
struct Set {
    name: String,
    key: &'static str,
    flags: &'static str,
    more: String,
}

impl Set {
    fn creation(&self) -> String {
        let (name, key, flags, more) = (&self.name, self.key, self.flags, &self.more);
        format!("add set inet {NFT_TABLE} {name} {{ type {key}; flags {flags}; {more}}}")
    }
}

/// The sets of banned addresses and networks.
fn sets(config: &Config) -> Vec<Set> {
    let mut sets = Vec::new();
    for (name, key) in [
        (&config.ban.set4, "ipv4_addr"),
        (&config.ban.set6, "ipv6_addr"),
    ] {
        for (name, flags) in [
            (name.clone(), "timeout"),
            (format!("{name}{NFT_NETWORKS}"), "interval,timeout"),
        ] {
            sets.push(Set {
                name,
                key,
                flags,
                more: String::new(),
            });
        }
    }
    sets
}

/// The sets in which the connections of networks are counted.
fn counters(rate: Rate) -> [Set; 2] {
    [("limit4", "ipv4_addr"), ("limit6", "ipv6_addr")].map(|(name, key)| Set {
        name: name.to_owned(),
        key,
        flags: "dynamic,timeout",
        more: format!("timeout {}s; size {COUNTED}; ", span(rate)),
    })
}

/// The rules, each with its comment.
fn rules(config: &Config, plan: Option<&Plan>, queue: bool) -> Vec<(String, String)> {
    let ports: Vec<String> = config.ports.iter().map(u16::to_string).collect();
    // It works without connection tracking.
    let opens = format!(
        "tcp dport {{ {} }} tcp flags & (fin | syn | rst | ack) == syn",
        ports.join(", ")
    );
    let verdict = match config.firewall.packet {
        Packet::Drop => "drop",
        Packet::Reset => "reject with tcp reset",
    };
    let mut rules: Vec<String> = sets(config)
        .iter()
        .map(|set| {
            let family = if set.key == "ipv4_addr" { "ip" } else { "ip6" };
            format!("{opens} {family} saddr @{} {verdict}", set.name)
        })
        .collect();
    let over = |rate: Rate| format!("limit rate over {rate} burst {} packets", rate.count);
    if let Some(rate) = config.firewall.limit_per_network {
        let over = over(rate);
        for (set, source) in [
            ("limit4", "ip saddr & 255.255.255.0"),
            ("limit6", "ip6 saddr & ffff:ffff:ffff:ffff::"),
        ] {
            rules.push(format!(
                "{opens} update @{set} {{ {source} {over} }} {verdict}"
            ));
        }
    }
    if let Some(rate) = config.firewall.limit {
        rules.push(format!("{opens} {} {verdict}", over(rate)));
    }
    rules.extend(
        plan.into_iter()
            .flat_map(|plan| gate::nft_rules(plan, queue)),
    );
    let rules = rules.into_iter();
    rules
        .map(|rule| {
            let comment = format!("{COMMENT}:{:016x}", digest(&rule));
            (rule, comment)
        })
        .collect()
}

/// FNV-1a.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The chain, written anew, with what its rules need.
fn chain(
    config: &Config,
    plan: Option<&Plan>,
    queue: bool,
    old_counters: &[String],
) -> Vec<String> {
    let mut lines = vec![
        format!(
            "add chain inet {NFT_TABLE} {CHAIN} {{ type filter hook input priority {PRIORITY}; policy accept; }}"
        ),
        format!("flush chain inet {NFT_TABLE} {CHAIN}"),
    ];
    let gone = old_counters.iter();
    lines.extend(gone.map(|name| format!("delete set inet {NFT_TABLE} {name}")));
    if let Some(rate) = config.firewall.limit_per_network {
        lines.extend(counters(rate).iter().map(Set::creation));
    }
    let rules = rules(config, plan, queue).into_iter();
    lines.extend(rules.map(|(rule, comment)| {
        format!("add rule inet {NFT_TABLE} {CHAIN} {rule} comment \"{comment}\"")
    }));
    lines
}

/// All of it, as `nft -f` reads it.
pub(super) fn commands(config: &Config, plan: Option<&Plan>) -> Vec<String> {
    let mut lines = vec![format!("add table inet {NFT_TABLE}")];
    lines.extend(sets(config).iter().map(Set::creation));
    lines.extend(gates(plan).iter().map(Set::creation));
    lines.extend(through(plan));
    if config.firewall.manage {
        lines.extend(chain(config, plan, true, &[]));
    }
    lines
}

/// The gate's sets.
fn gates(plan: Option<&Plan>) -> Vec<Set> {
    let sets = plan.map_or(Vec::new(), gate::nft_sets).into_iter();
    sets.map(|set| Set {
        name: set.name,
        key: set.key,
        flags: set.flags,
        // Own addresses lie within allowlisted networks.
        more: if set.flags == "interval" {
            "auto-merge; ".into()
        } else {
            String::new()
        },
    })
    .collect()
}

/// What puts those into the sets whom the gate's rules let through.
fn through(plan: Option<&Plan>) -> Vec<String> {
    let sets = plan.map_or(Vec::new(), gate::nft_sets);
    let mut lines = Vec::new();
    for set in sets.iter().filter(|set| set.flags == "interval") {
        lines.push(format!("flush set inet {NFT_TABLE} {}", set.name));
        if !set.elements.is_empty() {
            let elements = set.elements.join(", ");
            lines.push(format!(
                "add element inet {NFT_TABLE} {} {{ {elements} }}",
                set.name
            ));
        }
    }
    lines
}

pub(super) fn apply_sets(config: &Config, plan: Option<&Plan>, done: Tell) -> Result<(), Error> {
    let mut missing = Vec::new();
    for set in sets(config).into_iter().chain(gates(plan)) {
        match listed(&set.name)? {
            Some(text) if is_usable(&text, &set) => {}
            Some(_) => return Err(wrong(&set.name)),
            None => missing.push(set),
        }
    }
    let through = through(plan);
    if missing.is_empty() && through.is_empty() {
        return Ok(());
    }
    let mut lines = vec![format!("add table inet {NFT_TABLE}")];
    lines.extend(missing.iter().map(Set::creation));
    lines.extend(through);
    load(&lines)?;
    for set in missing {
        done(format!(
            "created the set {} ({}, table inet {NFT_TABLE})",
            set.name, set.key
        ));
    }
    Ok(())
}

pub(super) fn apply_rules(
    config: &Config,
    plan: Option<&Plan>,
    queue: bool,
    done: Tell,
) -> Result<(), Error> {
    if differences(config, plan, queue)?.is_empty() {
        return Ok(());
    }
    let mut old = Vec::new();
    for name in ["limit4", "limit6"] {
        if listed(name)?.is_some() {
            old.push(name.to_owned());
        }
    }
    // In one transaction with what it replaces: at no time is there no rule.
    let gates = plan.map_or(Vec::new(), |plan| gate::nft_rules(plan, queue));
    for rule in gates {
        done(format!(
            "adding: nft add rule inet {NFT_TABLE} {CHAIN} {rule}"
        ));
    }
    load(&chain(config, plan, queue, &old))?;
    done(format!(
        "wrote {} rules for new connections (table inet {NFT_TABLE}, chain {CHAIN})",
        rules(config, plan, queue).len()
    ));
    Ok(())
}

pub(super) fn remove(done: Tell) -> Result<(), Error> {
    if !has_table()? {
        return Ok(());
    }
    run(&words(&["nft", "delete", "table", "inet", NFT_TABLE]))?;
    done(format!("removed the table inet {NFT_TABLE}"));
    Ok(())
}

pub(super) fn check(config: &Config, plan: Option<&Plan>) -> Result<Vec<String>, Error> {
    let mut wrong = plan.map_or(Vec::new(), |plan| plan.objections.clone());
    for set in sets(config).into_iter().chain(gates(plan)) {
        match listed(&set.name)? {
            Some(text) if is_usable(&text, &set) => {}
            Some(_) => wrong.push(self::wrong(&set.name).to_string()),
            None => wrong.push(format!(
                "the set {} is missing in the table inet {NFT_TABLE}",
                set.name
            )),
        }
    }
    if config.firewall.manage {
        let queue = plan.is_none() || gate::has_nft_queue()?;
        if !queue {
            wrong.push(Error::NoQueue.to_string());
        }
        wrong.extend(differences(config, plan, queue)?);
    }
    Ok(wrong)
}

fn wrong(set: &str) -> Error {
    Error::WrongSet(
        set.to_owned(),
        "with timeouts and of its family",
        format!("nft delete set inet {NFT_TABLE} {set}"),
    )
}

/// What is wrong with the chain: each rule that is missing, and that there are others,
/// or in another order.
fn differences(config: &Config, plan: Option<&Plan>, queue: bool) -> Result<Vec<String>, Error> {
    let command = words(&["nft", "-j", "list", "chain", "inet", NFT_TABLE, CHAIN]);
    let output = output(&command)?;
    if !output.status.success() {
        return Ok(vec![format!(
            "the chain {CHAIN} is missing in the table inet {NFT_TABLE}"
        )]);
    }
    let there = comments(&String::from_utf8_lossy(&output.stdout));
    Ok(compared(&rules(config, plan, queue), there.as_deref()))
}

/// The same, by the comments of the rules; `None`: the chain is not ours.
fn compared(wanted: &[(String, String)], there: Option<&[String]>) -> Vec<String> {
    let place = format!("table inet {NFT_TABLE}, chain {CHAIN}");
    let (found, missing): (Vec<_>, Vec<_>) =
        (wanted.iter()).partition(|(_, comment)| there.is_none_or(|there| there.contains(comment)));
    let mut wrong: Vec<String> = (missing.iter())
        .map(|(rule, _)| format!("a rule is missing ({place}): {rule}"))
        .collect();
    let found: Vec<&String> = found.into_iter().map(|(_, comment)| comment).collect();
    if there.is_none_or(|there| !there.iter().eq(found)) {
        wrong.push(format!(
            "the rules are not those of the configuration ({place})"
        ));
    }
    wrong
}

/// The comments of the rules of a chain that hooks in where ours does.
fn comments(json: &str) -> Option<Vec<String>> {
    let json: serde_json::Value = serde_json::from_str(json).ok()?;
    let objects = json.get("nftables")?.as_array()?;
    let chain = objects.iter().find_map(|object| object.get("chain"))?;
    if chain.get("hook")?.as_str()? != "input" || chain.get("policy")?.as_str()? != "accept" {
        return None;
    }
    let rules = objects.iter().filter_map(|object| object.get("rule"));
    let comment = |rule: &serde_json::Value| {
        let comment = rule.get("comment").and_then(|comment| comment.as_str());
        comment.unwrap_or_default().to_owned()
    };
    Some(rules.map(comment).collect())
}

/// What nft says of a set, without what it holds.
fn listed(set: &str) -> Result<Option<String>, Error> {
    let output = output(&words(&[
        "nft", "-t", "list", "set", "inet", NFT_TABLE, set,
    ]))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(output.status.success().then_some(text))
}

/// A kernel without nftables has none.
fn has_table() -> Result<bool, Error> {
    let output = output(&words(&["nft", "list", "tables", "inet"]))?;
    let tables = String::from_utf8_lossy(&output.stdout);
    let ours = format!("table inet {NFT_TABLE}");
    Ok(output.status.success() && tables.lines().any(|line| line.trim() == ours))
}

/// Whether the set that nft lists is one of ours.
fn is_usable(listed: &str, set: &Set) -> bool {
    let says: BTreeMap<&str, &str> = listed
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .collect();
    says.get("type") == Some(&set.key) && says.get("flags") == Some(&set.flags)
}

fn load(lines: &[String]) -> Result<(), Error> {
    feed(&words(&["nft", "-f", "-"]), &(lines.join("\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_text_is_what_nft_reads() {
        let text = "ports = [25, 2525]\n[ban]\nbackend = \"nftables\"\nset4 = \"a4\"\n[firewall]\npacket = \"reset\"\nlimit = \"200/second\"\nlimit-per-network = \"60/minute\"\n";
        let lines = commands(&config::parse(text).unwrap(), None);
        let opens = "tcp dport { 25, 2525 } tcp flags & (fin | syn | rst | ack) == syn";
        for part in [
            "add table inet rblfilter",
            "add set inet rblfilter a4 { type ipv4_addr; flags timeout; }",
            "add set inet rblfilter rblfilter6-nets { type ipv6_addr; flags interval,timeout; }",
            &format!("{opens} ip saddr @a4 reject with tcp reset comment \"rblfilter:"),
            &format!("{opens} ip6 saddr @rblfilter6-nets reject with tcp reset"),
            &format!(
                "{opens} update @limit4 {{ ip saddr & 255.255.255.0 limit rate over 60/minute burst 60 packets }} reject"
            ),
            &format!("{opens} limit rate over 200/second burst 200 packets reject"),
        ] {
            assert!(
                lines.iter().any(|line| line.contains(part)),
                "{part}: {lines:#?}"
            );
        }
        let text = format!("{text}\n").replace("[firewall]", "[firewall]\nmanage = false");
        assert_eq!(commands(&config::parse(&text).unwrap(), None).len(), 5);
    }

    #[test]
    fn a_rule_is_known_by_what_it_says() {
        let comments = |text: &str| -> Vec<String> {
            let rules = rules(&config::parse(text).unwrap(), None, true).into_iter();
            rules.map(|(_, comment)| comment).collect()
        };
        let usual = comments("");
        assert_eq!(usual, comments("mode = \"observe\""));
        assert_ne!(usual, comments("ports = [26]"));
        assert_ne!(usual, comments("[firewall]\npacket = \"reset\""));
        assert_eq!(
            usual.len() + 1,
            comments("[firewall]\nlimit = \"9/hour\"").len()
        );
    }

    #[test]
    fn each_rule_that_is_missing_is_named_and_that_there_are_others() {
        let rules = rules(&config::parse("").unwrap(), None, true);
        let comments: Vec<String> = rules.iter().map(|(_, comment)| comment.clone()).collect();
        let check = |there: &[String]| compared(&rules, Some(there));
        assert!(check(&comments).is_empty());
        let one_gone = check(&comments[1..]);
        assert_eq!(one_gone.len(), 1, "{one_gone:?}");
        assert!(one_gone[0].contains("missing") && one_gone[0].ends_with(&rules[0].0));
        let mut turned = comments.clone();
        turned.reverse();
        assert!(check(&turned)[0].contains("not those of the configuration"));
        let mut more = comments.clone();
        more.push(String::new());
        assert_eq!(check(&more).len(), 1);
        assert_eq!(check(&[]).len(), comments.len());
        assert_eq!(compared(&rules, None).len(), 1);
    }

    #[test]
    fn a_chain_is_read() {
        let json = r#"{"nftables": [{"metainfo": {}},
            {"chain": {"name": "input", "hook": "input", "prio": -10, "policy": "accept"}},
            {"rule": {"comment": "rblfilter:1", "expr": []}}, {"rule": {"expr": []}}]}"#;
        assert_eq!(comments(json).unwrap(), ["rblfilter:1", ""]);
        assert_eq!(comments(&json.replace("accept", "drop")), None);
        assert_eq!(comments("nonsense"), None);
    }
}
