//! `rblfilter firewall`, with either backend, beside other people's rules.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::ErrorKind;

use common::*;
use rblfilter_lab::smtp::Outcome;
use rblfilter_lab::{Config, Lab};

const FILE: &str = "/etc/courier/filters/rblfilter.toml";

fn of(backend: &str, more: &str) -> String {
    format!("watch = \"off\"\n[ban]\nbackend = \"{backend}\"\n{more}")
}

fn with_limits(backend: &str, keys: &str) -> String {
    of(backend, &format!("[firewall]\n{keys}\n"))
}

fn installed(toml: &str) -> Lab {
    let lab = Lab::start(Config::default()).unwrap();
    product().install(&lab, toml, &["--no-start"]).unwrap();
    lab
}

fn apply(lab: &Lab) -> String {
    lab.run_ok(&["rblfilter", "firewall", "apply"]).unwrap()
}

/// The exit status of `firewall check`, and what it said.
fn check(lab: &Lab) -> (Option<i32>, String) {
    let output = lab.run(&["rblfilter", "firewall", "check"]).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

/// Bans an address for a minute, as the admin could.
fn ban(lab: &Lab, backend: &str, address: &str) {
    let v6 = address.contains(':');
    let set = if v6 { "rblfilter6" } else { "rblfilter4" };
    if backend == "ipset" {
        lab.run_ok(&["ipset", "add", set, address, "timeout", "60"])
            .unwrap();
    } else {
        let element = format!("add element inet rblfilter {set} {{ {address} timeout 60s }}");
        lab.run_ok(&["nft", &element]).unwrap();
    }
}

fn rules(lab: &Lab) -> String {
    let mut text = String::new();
    for command in [
        &["iptables", "-S"][..],
        &["ip6tables", "-S"],
        &["nft", "list", "ruleset"],
    ] {
        // nft cannot show what only iptables-nft makes; it says so in a comment.
        text.push_str(&lab.run_ok(command).unwrap());
    }
    text
}

fn connects(lab: &Lab, source: &str) -> Outcome {
    lab.send(&impatient(), ip(source))
}

fn was_reset(outcome: &Outcome) -> bool {
    let refused = |kind| kind == ErrorKind::ConnectionRefused || kind == ErrorKind::ConnectionReset;
    outcome.error.as_ref().is_some_and(|e| refused(e.kind()))
}

#[test]
fn applied_twice_is_the_same_as_once_whatever_is_configured() {
    for backend in BACKENDS {
        for keys in [
            "",
            "packet = \"reset\"",
            "limit = \"100/second\"\nlimit-per-network = \"30/minute\"",
            "packet = \"reset\"\nlimit = \"9000/hour\"\nlimit-per-network = \"2/second\"",
        ] {
            let lab = installed(&with_limits(backend, keys));
            assert_eq!(check(&lab), (Some(0), String::new()), "{backend}: {keys}");
            let before = rules(&lab);
            assert_eq!(apply(&lab), "", "{backend}: {keys}");
            assert_eq!(rules(&lab), before, "{backend}: {keys}");
        }
    }
}

#[test]
fn who_is_banned_is_dropped_or_reset_and_nobody_else() {
    for backend in BACKENDS {
        let lab = installed(&of(backend, ""));
        for (banned, other) in [("127.9.1.1", "127.9.1.2"), ("fd00:9::1", "fd00:9::2")] {
            ban(&lab, backend, banned);
            let outcome = connects(&lab, banned);
            assert!(outcome.not_answered(), "{backend}: {banned}: {outcome:?}");
            let outcome = connects(&lab, other);
            assert!(outcome.accepted(), "{backend}: {other}: {outcome:?}");
        }
        fs::write(FILE, with_limits(backend, "packet = \"reset\"")).unwrap();
        let (code, said) = check(&lab);
        assert_eq!(code, Some(1));
        assert!(said.contains("not those of the configuration"), "{said}");
        apply(&lab);
        assert_eq!(check(&lab).0, Some(0));
        for banned in ["127.9.1.1", "fd00:9::1"] {
            let outcome = connects(&lab, banned);
            assert!(was_reset(&outcome), "{backend}: {banned}: {outcome:?}");
        }
    }
}

/// A client that nobody knows comes as often as the limit lets it.
#[test]
fn beyond_a_limit_connections_are_not_answered() {
    for backend in BACKENDS {
        let lab = installed(&with_limits(backend, "limit-per-network = \"4/hour\""));
        for (clients, elsewhere) in [
            (["127.9.1.1", "127.9.1.2"], "127.9.2.1"),
            (["fd00:9::1", "fd00:9::2"], "fd00:9:0:1::1"),
        ] {
            for number in 0..4 {
                let outcome = connects(&lab, clients[number % 2]);
                assert!(outcome.accepted(), "{backend}: {number}: {outcome:?}");
            }
            let outcome = connects(&lab, clients[0]);
            assert!(outcome.not_answered(), "{backend}: {outcome:?}");
            let outcome = connects(&lab, elsewhere);
            assert!(outcome.accepted(), "{backend}: {elsewhere}: {outcome:?}");
        }
        fs::write(FILE, with_limits(backend, "limit = \"3/hour\"")).unwrap();
        apply(&lab);
        for net in 1..=3 {
            let outcome = connects(&lab, &format!("127.9.{net}.9"));
            assert!(outcome.accepted(), "{backend}: {outcome:?}");
        }
        let outcome = connects(&lab, "127.9.4.9");
        assert!(outcome.not_answered(), "{backend}: {outcome:?}");
        // Without a limit all come again.
        fs::write(FILE, of(backend, "")).unwrap();
        apply(&lab);
        assert_eq!(check(&lab), (Some(0), String::new()));
        assert!(connects(&lab, "127.9.4.9").accepted(), "{backend}");
    }
}

#[test]
fn a_firewall_that_another_tool_loads_is_noticed_and_mended() {
    for backend in BACKENDS {
        let lab = installed(&of(backend, ""));
        let others = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp --dport 9 -j DROP\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n";
        fs::write("/run/others4", others).unwrap();
        fs::write(
            "/run/others.nft",
            "flush ruleset\nadd table inet others\nadd chain inet others in { type filter hook input priority 0; }\nadd rule inet others in tcp dport 9 drop\n",
        )
        .unwrap();
        if backend == "ipset" {
            lab.run_ok(&["iptables-restore", "/run/others4"]).unwrap();
        } else {
            lab.run_ok(&["nft", "-f", "/run/others.nft"]).unwrap();
        }
        let (code, said) = check(&lab);
        assert_eq!(code, Some(1), "{backend}");
        assert!(
            said.contains("missing") && said.contains("rblfilter firewall apply"),
            "{backend}: {said}"
        );
        apply(&lab);
        assert_eq!(check(&lab), (Some(0), String::new()), "{backend}");
        ban(&lab, backend, "127.9.1.1");
        assert!(connects(&lab, "127.9.1.1").not_answered(), "{backend}");
        let now = rules(&lab);
        if backend == "ipset" {
            let (udp, ssh) = (
                now.find("--dport 9 ").unwrap(),
                now.find("--dport 22").unwrap(),
            );
            assert!(udp < ssh, "in their order: {now}");
        } else {
            assert!(now.contains("tcp dport 9 drop"), "{now}");
        }
        lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
        let now = rules(&lab);
        assert!(!now.contains("rblfilter"), "{backend}: {now}");
        assert!(now.contains("dport 9"), "{backend}: {now}");
    }
}

#[test]
fn where_the_rules_are_the_admins_the_sets_alone_are_made() {
    for backend in BACKENDS {
        let lab = installed(&with_limits(backend, "manage = false"));
        assert_eq!(check(&lab), (Some(0), String::new()), "{backend}");
        ban(&lab, backend, "127.9.1.1");
        assert!(connects(&lab, "127.9.1.1").accepted(), "no rule of ours");
        if backend == "ipset" {
            lab.run_ok(&["ipset", "destroy", "rblfilter6"]).unwrap();
        } else {
            lab.run_ok(&["nft", "delete", "set", "inet", "rblfilter", "rblfilter6"])
                .unwrap();
        }
        let (code, said) = check(&lab);
        assert!(code == Some(1) && said.contains("rblfilter6"), "{said}");
        assert!(apply(&lab).contains("rblfilter6"));
        assert_eq!(check(&lab).0, Some(0));
    }
}

#[test]
fn after_a_change_of_names_or_backend_nothing_of_the_old_is_left() {
    let lab = installed(&of("ipset", "set4 = \"old4\"\n"));
    ban(&lab, "ipset", "fd00:9::1");
    fs::write(FILE, of("ipset", "")).unwrap();
    assert_eq!(check(&lab).0, Some(1));
    apply(&lab);
    assert!(!lab.has_set("old4").unwrap());
    assert_eq!(lab.set_members("rblfilter6").unwrap().len(), 1, "kept");
    fs::write(FILE, of("nftables", "")).unwrap();
    apply(&lab);
    assert_eq!(check(&lab), (Some(0), String::new()));
    assert!(!lab.has_set("rblfilter4").unwrap());
    assert!(
        !lab.run_ok(&["iptables", "-S"])
            .unwrap()
            .contains("rblfilter")
    );
    fs::write(FILE, of("ipset", "")).unwrap();
    apply(&lab);
    assert_eq!(check(&lab), (Some(0), String::new()));
    let tables = lab.run_ok(&["nft", "list", "tables"]).unwrap();
    assert!(!tables.contains("inet rblfilter"), "{tables}");
    // A set that somebody else's rule uses stays.
    let rule = "iptables -A INPUT -p udp -m set --match-set rblfilter4 src -j DROP";
    lab.run_ok(&rule.split(' ').collect::<Vec<_>>()).unwrap();
    fs::write(FILE, of("ipset", "set4 = \"new4\"\n")).unwrap();
    apply(&lab);
    assert_eq!(check(&lab).0, Some(0));
    assert!(lab.has_set("rblfilter4").unwrap());
}

/// The main job: the listed client is refused and shut out, and the others'
/// mail arrives.
#[test]
fn a_listed_client_is_shut_out_by_either_backend_and_mail_flows() {
    for backend in BACKENDS {
        for packet in ["drop", "reset"] {
            let toml = format!(
                "[ban]\nbackend = \"{backend}\"\n[firewall]\npacket = \"{packet}\"\n{ZONE}"
            );
            let lab = lab(Config::default(), &toml);
            for (source, net) in [(LISTED, "127.66.1.2"), (LISTED6, "fd00:66:1:2::/64")] {
                let outcome = connects(&lab, source);
                assert!(!outcome.accepted(), "{outcome:?}");
                assert_ended(&lab, source);
                lab.wait_for_log("action=ban", LIMIT).unwrap();
                lab.clear_log();
                let members = banned(&lab, backend, source.contains(':'));
                assert_eq!(members.len(), 1, "{backend}: {members:?}");
                assert_eq!(members[0].net, net, "{backend}");
                let outcome = connects(&lab, source);
                let shut_out = match packet {
                    "drop" => outcome.not_answered(),
                    _ => was_reset(&outcome),
                };
                assert!(shut_out, "{backend}, {packet}: {source}: {outcome:?}");
            }
            assert_delivered(&lab, &message(), CLEAN, 1);
        }
    }
}

/// What others' tools wrote, shaped as they do, and how it is loaded.
const OTHERS: [(&str, &[&str]); 3] = [
    (
        "ufw",
        &["iptables-restore ufw.rules", "ip6tables-restore ufw.rules6"],
    ),
    (
        "docker",
        &[
            "iptables-restore docker.rules",
            "ip6tables-restore docker.rules6",
        ],
    ),
    ("firewalld", &["nft -f firewalld.nft"]),
];

/// All that is not ours, without counters, each rule and chain of nftables with
/// the number that the kernel gave it.
fn theirs(lab: &Lab) -> String {
    let mut text = String::new();
    for command in ["iptables", "ip6tables"] {
        for table in ["filter", "nat"] {
            let listed = lab.run_ok(&[command, "-t", table, "-S"]).unwrap();
            let ours = |line: &&str| line.contains("--comment rblfilter");
            for line in listed.lines().filter(|line| !ours(line)) {
                text.push_str(&format!("{command} {table} {line}\n"));
            }
        }
    }
    for table in ["inet firewalld", "ip firewalld"] {
        let words = format!("nft -s -a list table {table}");
        // Where there is none, nft says so.
        let output = lab.run(&words.split(' ').collect::<Vec<_>>()).unwrap();
        text.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    text
}

#[test]
fn beside_ufw_docker_and_firewalld_nothing_of_theirs_is_touched() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/firewall/");
    for (name, commands) in OTHERS {
        for backend in BACKENDS {
            let lab = Lab::start(Config::default()).unwrap();
            for command in commands {
                let (command, file) = command.rsplit_once(' ').unwrap();
                let file = format!("{data}{file}");
                let mut words: Vec<&str> = command.split(' ').collect();
                words.push(&file);
                lab.run_ok(&words).unwrap();
            }
            let before = theirs(&lab);
            assert!(before.lines().count() > 20, "{name}: {before}");
            assert!(connects(&lab, "127.9.1.2").accepted(), "{name}");
            product()
                .install(&lab, &of(backend, ""), &["--no-start"])
                .unwrap();
            assert_eq!(check(&lab), (Some(0), String::new()), "{name}, {backend}");
            assert_eq!(theirs(&lab), before, "{name}, {backend}");
            for (banned, other) in [("127.9.1.1", "127.9.1.2"), ("fd00:9::1", "fd00:9::2")] {
                ban(&lab, backend, banned);
                let outcome = connects(&lab, banned);
                assert!(outcome.not_answered(), "{name}, {backend}: {outcome:?}");
                let outcome = connects(&lab, other);
                assert!(outcome.accepted(), "{name}, {backend}: {outcome:?}");
            }
            assert_eq!(apply(&lab), "", "{name}, {backend}");
            assert_eq!(theirs(&lab), before, "{name}, {backend}");
            lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
            assert_eq!(theirs(&lab), before, "{name}, {backend}");
            assert!(!rules(&lab).contains("rblfilter"), "{name}, {backend}");
            assert!(connects(&lab, "127.9.1.1").accepted(), "{name}, {backend}");
        }
    }
}

/// What is in our table under the name of a set, and is none of ours.
#[test]
fn with_an_nftables_set_of_another_kind_mail_flows() {
    let lab = Lab::start(Config::default()).unwrap();
    lab.run_ok(&[
        "nft",
        "add table inet rblfilter; add set inet rblfilter rblfilter4 { type inet_service; }",
    ])
    .unwrap();
    let toml = format!("[ban]\nbackend = \"nftables\"\n{ZONE}");
    product().start(&lab, &toml).unwrap();
    lab.wait_for_log("degraded,what=set,name=rblfilter4", LIMIT)
        .unwrap();
    assert!(!connects(&lab, LISTED).accepted());
    assert_delivered(&lab, &message(), CLEAN, 1);
}
