//! ipset's two sets and their rules in iptables and ip6tables.
//!
//! A rule is ours by its comment, so that one of an earlier configuration is
//! found, too. New ones are put in before the old ones go.

use std::collections::BTreeSet;

use rblfilter_warden::policy::{DEFAULT_SET4, DEFAULT_SET6};

use super::{COMMENT, Error, Tell, Words, has_ipv6, output, run, span, words};
use crate::config::{Config, Packet, Rate};

/// The networks whose connections are counted at the same time.
const COUNTED: &str = "200000";

/// Where our rules stand.
const TABLE: &str = "filter";

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "inet",
            Self::V6 => "inet6",
        }
    }

    pub(super) fn set(self, config: &Config) -> &str {
        match self {
            Self::V4 => &config.ban.set4,
            Self::V6 => &config.ban.set6,
        }
    }

    fn creation(self, config: &Config) -> Words {
        let seconds = config.ban.seconds.to_string();
        words(&[
            "ipset",
            "create",
            self.set(config),
            "hash:net",
            "family",
            self.name(),
            "timeout",
            &seconds,
            "maxelem",
            &config.ban.max_entries.to_string(),
        ])
    }

    /// The rules, in their order, each to be inserted (`-I`) or looked for
    /// (`-C`).
    fn rules(self, action: &str, config: &Config) -> Vec<Words> {
        let ports: Vec<String> = config.ports.iter().map(u16::to_string).collect();
        let mut rules = vec![words(&[
            "-m",
            "set",
            "--match-set",
            self.set(config),
            "src",
        ])];
        if let Some(rate) = config.firewall.limit_per_network {
            let (mask, name) = match self {
                Self::V4 => ("24", "rbl-net4"),
                Self::V6 => ("64", "rbl-net6"),
            };
            let source = ["--hashlimit-mode", "srcip", "--hashlimit-srcmask", mask];
            rules.push(hashlimit(rate, name, &source));
        }
        if let Some(rate) = config.firewall.limit {
            let name = match self {
                Self::V4 => "rbl-all4",
                Self::V6 => "rbl-all6",
            };
            rules.push(hashlimit(rate, name, &[]));
        }
        let verdict: &[&str] = match config.firewall.packet {
            Packet::Drop => &["DROP"],
            Packet::Reset => &["REJECT", "--reject-with", "tcp-reset"],
        };
        rules
            .into_iter()
            .map(|matches| {
                let mut rule = words(&[self.program(), "-w", action, "INPUT", "-p", "tcp"]);
                rule.extend(words(&["--syn", "-m", "multiport", "--dports"]));
                rule.push(ports.join(","));
                rule.extend(matches);
                rule.extend(words(&["-m", "comment", "--comment", COMMENT, "-j"]));
                rule.extend(words(verdict));
                rule
            })
            .collect()
    }

    /// What is wrong with the rules.
    fn differences(self, config: &Config, ours: &[Words]) -> Result<Vec<String>, Error> {
        differences(self, TABLE, &self.rules("-C", config), ours)
    }
}

/// What is wrong in `table` where there are to be the rules `wanted` (told with
/// `-C`), and no other of ours: each that is missing, and that there are others.
pub(super) fn differences(
    family: Family,
    table: &str,
    wanted: &[Words],
    ours: &[Words],
) -> Result<Vec<String>, Error> {
    let place = format!("{}, table {table}, chain INPUT", family.program());
    let mut wrong = Vec::new();
    for rule in wanted {
        if !output(rule)?.status.success() {
            let mut words = rule.iter().skip_while(|word| *word != "INPUT").skip(1);
            let matches: Vec<&str> = words.by_ref().map(String::as_str).collect();
            wrong.push(format!(
                "a rule is missing ({place}): {}",
                matches.join(" ")
            ));
        }
    }
    if ours.len() + wrong.len() != wanted.len() {
        wrong.push(format!(
            "our rules are not those of the configuration ({place})"
        ));
    }
    Ok(wrong)
}

/// A match of what is beyond a rate. Its table, which all rules of one name
/// share, keeps the rate that it was made with, so that is part of the name.
fn hashlimit(rate: Rate, name: &str, source: &[&str]) -> Words {
    let (count, above) = (rate.count.to_string(), rate.to_string());
    let name = format!("{name}-{count}{}", &rate.per[..1]);
    let expire = (span(rate) * 1000).to_string();
    let mut all = words(&["-m", "hashlimit", "--hashlimit-above", &above]);
    all.extend(words(&["--hashlimit-burst", &count]));
    all.extend(words(source));
    all.extend(words(&["--hashlimit-name", &name]));
    all.extend(words(&["--hashlimit-htable-max", COUNTED]));
    all.extend(words(&["--hashlimit-htable-expire", &expire]));
    all
}

/// The commands that set up the sets and the rules where there are none.
pub(super) fn commands(config: &Config) -> Vec<String> {
    let sets = Family::BOTH.map(|family| family.creation(config));
    let rules = Family::BOTH
        .into_iter()
        .filter(|_| config.firewall.manage)
        // The last that is inserted is the first.
        .flat_map(|family| family.rules("-I", config).into_iter().rev());
    sets.into_iter()
        .chain(rules)
        .map(|command| command.join(" "))
        .collect()
}

pub(super) fn apply_sets(config: &Config, done: Tell) -> Result<(), Error> {
    for family in Family::BOTH {
        let set = family.set(config);
        match is_there(family, set)? {
            Some(true) => {}
            Some(false) => return Err(wrong(set)),
            None => {
                match (run(&family.creation(config)), is_there(family, set)?) {
                    (Ok(_), _) => done(format!("created the set {set} ({})", family.name())),
                    // The warden of a filter that was just started made it meanwhile.
                    (Err(_), Some(true)) => {}
                    (Err(_), Some(false)) => return Err(wrong(set)),
                    (Err(error), None) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

pub(super) fn apply_rules(config: &Config, done: Tell) -> Result<(), Error> {
    for family in Family::BOTH {
        let Some(ours) = rules(family, TABLE)? else {
            continue;
        };
        if family.differences(config, &ours)?.is_empty() {
            continue;
        }
        for rule in family.rules("-I", config).iter().rev() {
            run(rule)?;
        }
        done(format!(
            "added a rule for new connections from {} ({}, chain INPUT)",
            family.set(config),
            family.program()
        ));
        // Where an old one is the same, the first of the two goes.
        remove_rules(family, TABLE, &ours, done)?;
        for set in ours.iter().filter_map(set_of) {
            let current = Family::BOTH.iter().any(|f| f.set(config) == set);
            // In use by another's rule it stays.
            if !current
                && output(&words(&["ipset", "destroy", &set]))?
                    .status
                    .success()
            {
                done(format!("removed the set {set}"));
            }
        }
    }
    Ok(())
}

pub(super) fn check(config: &Config) -> Result<Vec<String>, Error> {
    let mut problems = Vec::new();
    for family in Family::BOTH {
        let set = family.set(config);
        match is_there(family, set)? {
            Some(true) => {}
            Some(false) => problems.push(wrong(set).to_string()),
            None => problems.push(format!("the set {set} is missing")),
        }
        if !config.firewall.manage {
            continue;
        }
        let Some(ours) = rules(family, TABLE)? else {
            continue;
        };
        problems.extend(family.differences(config, &ours)?);
    }
    Ok(problems)
}

/// Whether the set is there, and usable.
fn is_there(family: Family, set: &str) -> Result<Option<bool>, Error> {
    let listed = output(&words(&["ipset", "list", "-terse", set]))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(listed.status.success().then(|| is_usable(&text, family)))
}

fn wrong(set: &str) -> Error {
    Error::WrongSet(
        set.to_owned(),
        "of type hash:net with a timeout and its family",
        format!("ipset destroy {set}"),
    )
}

pub(super) fn remove(config: Option<&Config>, done: Tell) -> Result<(), Error> {
    let mut sets: BTreeSet<String> = match config {
        Some(config) => [config.ban.set4.clone(), config.ban.set6.clone()].into(),
        None => [DEFAULT_SET4.to_owned(), DEFAULT_SET6.to_owned()].into(),
    };
    for family in Family::BOTH {
        let Some(ours) = rules(family, TABLE)? else {
            continue;
        };
        sets.extend(ours.iter().filter_map(set_of));
        remove_rules(family, TABLE, &ours, done)?;
    }
    for set in sets {
        if output(&words(&["ipset", "list", "-name", &set]))?
            .status
            .success()
        {
            run(&words(&["ipset", "destroy", &set]))?;
            done(format!("removed the set {set}"));
        }
    }
    Ok(())
}

pub(super) fn remove_rules(
    family: Family,
    table: &str,
    ours: &[Words],
    done: Tell,
) -> Result<(), Error> {
    for rule in ours {
        let mut command = words(&[family.program(), "-w", "-t", table, "-D"]);
        command.extend_from_slice(&rule[1..]);
        run(&command)?;
        let of = set_of(rule).unwrap_or_else(|| "a limit".to_owned());
        done(format!(
            "removed the rule for {of} ({}, chain INPUT)",
            family.program()
        ));
    }
    Ok(())
}

/// Our rules in the chain INPUT of `table`, as `iptables -S` prints them; `None`
/// where the kernel has no IPv6.
pub(super) fn rules(family: Family, table: &str) -> Result<Option<Vec<Words>>, Error> {
    if family == Family::V6 && !has_ipv6() {
        return Ok(None);
    }
    let text = run(&words(&[
        family.program(),
        "-w",
        "-t",
        table,
        "-S",
        "INPUT",
    ]))?;
    Ok(Some(ours(&text)))
}

fn ours(text: &str) -> Vec<Words> {
    text.lines()
        .map(|line| words(&line.split_ascii_whitespace().collect::<Vec<_>>()))
        .filter(|rule| {
            rule.first().is_some_and(|word| word == "-A")
                && rule
                    .windows(2)
                    .any(|two| two[0] == "--comment" && two[1] == COMMENT)
        })
        .collect()
}

/// The set that a rule matches.
fn set_of(rule: &Words) -> Option<String> {
    let at = rule.iter().position(|word| word == "--match-set")?;
    rule.get(at + 1).cloned()
}

/// Whether the set that `ipset list -terse` describes is one of ours.
fn is_usable(listed: &str, family: Family) -> bool {
    is_of_family(listed, family, true)
}

/// The same of a set with `timeouts` or without.
pub(super) fn is_of_family(listed: &str, family: Family, timeouts: bool) -> bool {
    let line = |name: &str| {
        listed
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::split_ascii_whitespace)
    };
    let is_net = line("Type:").is_some_and(|mut words| words.next() == Some("hash:net"));
    let header: Words = line("Header:")
        .into_iter()
        .flatten()
        .map(String::from)
        .collect();
    let has = |name: &str, value: Option<&str>| {
        header
            .windows(2)
            .any(|two| two[0] == name && value.is_none_or(|value| two[1] == value))
    };
    is_net && has("family", Some(family.name())) && has("timeout", None) == timeouts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_commands_are_those_an_admin_would_type() {
        let text = "ports = [25, 2525]\n[ban]\ntime = \"2h\"\nset4 = \"a4\"";
        assert_eq!(
            commands(&config::parse(text).unwrap()),
            [
                "ipset create a4 hash:net family inet timeout 7200 maxelem 1000000",
                "ipset create rblfilter6 hash:net family inet6 timeout 7200 maxelem 1000000",
                "iptables -w -I INPUT -p tcp --syn -m multiport --dports 25,2525 -m set --match-set a4 src -m comment --comment rblfilter -j DROP",
                "ip6tables -w -I INPUT -p tcp --syn -m multiport --dports 25,2525 -m set --match-set rblfilter6 src -m comment --comment rblfilter -j DROP",
            ]
        );
    }

    #[test]
    fn limits_are_rules_after_the_ban() {
        let text = "[firewall]\npacket = \"reset\"\nlimit = \"200/second\"\nlimit-per-network = \"60/minute\"\n";
        let config = config::parse(text).unwrap();
        let rules = Family::V6.rules("-I", &config);
        let rules: Vec<String> = rules.iter().map(|rule| rule.join(" ")).collect();
        assert!(
            rules[0].contains("--match-set rblfilter6 src"),
            "{rules:#?}"
        );
        assert!(rules[1].contains(
            "--hashlimit-above 60/minute --hashlimit-burst 60 --hashlimit-mode srcip --hashlimit-srcmask 64 --hashlimit-name rbl-net6-60m"
        ), "{rules:#?}");
        assert!(
            rules[2].contains(
                "--hashlimit-above 200/second --hashlimit-burst 200 --hashlimit-name rbl-all6-200s"
            ),
            "{rules:#?}"
        );
        let end = "-m comment --comment rblfilter -j REJECT --reject-with tcp-reset";
        assert!(rules.iter().all(|rule| rule.ends_with(end)), "{rules:#?}");
        let unmanaged = config::parse("[firewall]\nmanage = false").unwrap();
        assert_eq!(commands(&unmanaged).len(), 2);
    }

    #[test]
    fn our_rules_are_known_by_their_comment() {
        let text = "-P INPUT ACCEPT\n\
            -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
            -A INPUT -p tcp -m set --match-set other src -m comment --comment rblfilters -j DROP\n\
            -A INPUT -p tcp -m set --match-set a4 src -m comment --comment rblfilter -j DROP\n";
        let ours = ours(text);
        assert_eq!(ours.len(), 1);
        assert_eq!(set_of(&ours[0]).as_deref(), Some("a4"));
    }

    #[test]
    fn a_set_is_usable_by_its_type_family_and_timeout() {
        let listed = |kind: &str, header: &str| {
            format!("Name: s\nType: {kind}\nRevision: 7\nHeader: {header}\n")
        };
        for (kind, header, expected) in [
            (
                "hash:net",
                "family inet hashsize 1024 maxelem 65536 timeout 60",
                true,
            ),
            ("hash:net", "family inet hashsize 1024 maxelem 65536", false),
            (
                "hash:net",
                "family inet6 hashsize 1024 maxelem 65536 timeout 60",
                false,
            ),
            (
                "hash:ip",
                "family inet hashsize 1024 maxelem 65536 timeout 60",
                false,
            ),
        ] {
            assert_eq!(
                is_usable(&listed(kind, header), Family::V4),
                expected,
                "{kind} {header}"
            );
        }
    }
}
