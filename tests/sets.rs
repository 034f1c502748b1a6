//! What becomes of the kernel's sets under a running filter, with either
//! backend: somebody empties them, makes them again, takes the rule away.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use nix::sys::signal::Signal;
use rblfilter_lab::{Config, Lab, SetMember, wait_for};

/// Longer than it takes the filter to look at its sets and to fill them.
const SOON: Duration = Duration::from_secs(60);

/// Judgement at the end of data, with this backend and further keys of `[ban]`.
fn of(backend: &str, more: &str) -> String {
    format!("watch = \"off\"\n[ban]\nbackend = \"{backend}\"\n{more}\n{ZONE}")
}

fn run(lab: &Lab, command: &str) {
    lab.run_ok(&command.split(' ').collect::<Vec<_>>()).unwrap();
}

fn find(lab: &Lab, backend: &str, net: &str) -> Option<SetMember> {
    let members = banned(lab, backend, net.contains(':'));
    members.into_iter().find(|member| member.net == net)
}

/// Waits until it is in the kernel; the seconds that it has left.
fn wait_for_ban(lab: &Lab, backend: &str, net: &str) -> u32 {
    wait_for(SOON, || find(lab, backend, net))
        .unwrap_or_else(|| panic!("{backend}: {net} is not banned"))
        .timeout
        .unwrap()
}

fn ban(lab: &Lab, nets: &[&str]) {
    for net in nets {
        by_hand(lab, &["ban", net, "--for", "1h"]);
    }
}

const NETS: [&str; 6] = [
    "127.9.0.1",
    "127.9.0.2",
    "127.10.0.0/16",
    "127.11.0.0/16",
    "fd00:9:1:1::/64",
    "fd00:9:1:2::/64",
];

/// What others do to a firewall; each takes entries of the IPv4 set, at least.
const ACTS: [(&str, &str, &[&str]); 8] = [
    ("ipset", "a flush", &["ipset flush rblfilter4"]),
    (
        "ipset",
        "a set destroyed",
        &["iptables -F INPUT", "ipset destroy rblfilter4"],
    ),
    (
        "ipset",
        "another in its place",
        &[
            "ipset create other hash:net timeout 60",
            "ipset swap other rblfilter4",
            "ipset destroy other",
        ],
    ),
    (
        "nftables",
        "a flush",
        &[
            "nft flush set inet rblfilter rblfilter4",
            "nft flush set inet rblfilter rblfilter4-nets",
        ],
    ),
    (
        "nftables",
        "a flush of the addresses alone",
        &["nft flush set inet rblfilter rblfilter4"],
    ),
    (
        "nftables",
        "a flush of the networks alone",
        &["nft flush set inet rblfilter rblfilter4-nets"],
    ),
    ("nftables", "a ruleset flushed", &["nft flush ruleset"]),
    (
        "nftables",
        "a ruleset loaded anew",
        &["nft flush ruleset", "rblfilter firewall apply"],
    ),
];

/// With no client that comes by, and nobody asking.
#[test]
fn what_others_take_from_a_set_comes_back_by_itself() {
    for backend in BACKENDS {
        let lab = lab(Config::default(), &of(backend, ""));
        ban(&lab, &NETS);
        ban(&lab, &["127.9.0.9"]);
        by_hand(&lab, &["unban", "127.9.0.9"]);
        for (_, what, commands) in ACTS.iter().filter(|(of, ..)| *of == backend) {
            // The filter has looked since the last act.
            lab.clear_log();
            for command in *commands {
                run(&lab, command);
            }
            for net in NETS {
                let left = wait_for_ban(&lab, backend, net);
                assert!((3000..=3600).contains(&left), "{what}: {net}: {left}");
            }
            lab.wait_for_log("restored,bans=", SOON).unwrap();
            assert_eq!(find(&lab, backend, "127.9.0.9"), None, "{what}");
            let lines = lab.log_matching("emptied,name=rblfilter4");
            assert_eq!(lines.len(), 1, "{what}: {lines:?}");
        }
        // It is put in again, the rule is not: that is the admin's to do.
        run(&lab, "rblfilter firewall apply");
        assert!(lab.send(&impatient(), ip("127.10.3.4")).not_answered());
        assert_delivered(&lab, &message(), CLEAN, 1);
        lab.clear_log();
        product().filterctl_stop(&lab).unwrap();
        let counted = lab.wait_for_log("counted,", LIMIT).unwrap();
        assert!(!counted.contains("emptied=0,"), "{counted}");
    }
}

#[test]
fn one_entry_that_the_admin_takes_out_stays_out() {
    for backend in BACKENDS {
        let lab = lab(Config::default(), &of(backend, ""));
        ban(&lab, &NETS);
        ban(&lab, &["127.9.0.3"]);
        lab.clear_log();
        let (delete, flush) = match backend {
            "ipset" => ("ipset del rblfilter4 127.9.0.3", "ipset flush rblfilter6"),
            _ => (
                "nft delete element inet rblfilter rblfilter4 { 127.9.0.3 }",
                "nft flush set inet rblfilter rblfilter6-nets",
            ),
        };
        run(&lab, delete);
        // The sets are looked at one after the other, that of IPv6 last.
        run(&lab, flush);
        wait_for_ban(&lab, backend, NETS[4]);
        wait_for_ban(&lab, backend, NETS[5]);
        assert_eq!(find(&lab, backend, "127.9.0.3"), None, "{backend}");
        assert!(find(&lab, backend, "127.9.0.1").is_some());
        let lines = lab.log_matching("emptied,");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("name=rblfilter6"), "{lines:?}");
    }
}

/// A new warden does not know what should be there; the filter does.
#[test]
fn a_set_that_is_emptied_while_the_warden_is_gone_is_filled_by_the_next_one() {
    for backend in BACKENDS {
        let lab = lab(Config::default(), &of(backend, ""));
        ban(&lab, &NETS);
        // The next one must not come before both are empty.
        let Filter {
            supervisor, warden, ..
        } = filter(&lab);
        lab.kill(supervisor, Signal::SIGSTOP).unwrap();
        lab.kill(warden, Signal::SIGKILL).unwrap();
        for set in ["rblfilter4", "rblfilter4-nets"] {
            match backend {
                "ipset" => run(&lab, "ipset flush rblfilter4"),
                _ => run(&lab, &format!("nft flush set inet rblfilter {set}")),
            }
        }
        lab.kill(supervisor, Signal::SIGCONT).unwrap();
        // A verdict's ban is the first that the next one hears of.
        assert!(!lab.send(&impatient(), ip(LISTED)).accepted());
        for net in NETS {
            assert!(wait_for_ban(&lab, backend, net) <= 3600, "{backend}: {net}");
        }
    }
}

#[test]
fn a_rule_that_others_take_away_is_told_and_that_it_is_back() {
    for backend in BACKENDS {
        let lab = lab(Config::default(), &of(backend, ""));
        ban(&lab, &NETS);
        lab.clear_log();
        run(
            &lab,
            match backend {
                "ipset" => "iptables -F INPUT",
                _ => "nft flush chain inet rblfilter input",
            },
        );
        let line = lab
            .wait_for_log("degraded,what=rule,name=rblfilter4", SOON)
            .unwrap();
        assert!(line.contains("rblfilter firewall apply"), "{line}");
        assert!(lab.send(&impatient(), ip(NETS[0])).accepted());
        run(&lab, "rblfilter firewall apply");
        lab.wait_for_log("recovered,what=rule,name=rblfilter4", SOON)
            .unwrap();
        let lines = lab.log_matching("degraded,what=rule,name=rblfilter4");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lab.send(&impatient(), ip(NETS[0])).not_answered());
    }
}

/// It is told, counted, and the ban is made.
#[test]
fn a_full_set_is_never_a_silent_failure() {
    for backend in BACKENDS {
        for (when_full, counter) in [("replace", "replaced"), ("grow", "grown")] {
            let keys = format!("max-entries = 64\nwhen-full = \"{when_full}\"\n");
            let lab = lab(Config::default(), &of(backend, &keys));
            // The kernel of an ipset counts by regions, so a few more fit in.
            for host in 1..=100 {
                ban(&lab, &[&format!("127.9.1.{host}")]);
            }
            let line = lab.wait_for_log("full,name=rblfilter4,", LIMIT).unwrap();
            assert!(
                line.contains(&format!("room={counter},bans=1")),
                "{backend}: {line}"
            );
            assert!(find(&lab, backend, "127.9.1.100").is_some(), "{backend}");
            product().filterctl_stop(&lab).unwrap();
            let counted = lab.wait_for_log("counted,", LIMIT).unwrap();
            assert!(
                !counted.contains(&format!("{counter}=0,")),
                "{backend}: {counted}"
            );
        }
    }
}

/// What the admin forced comes back, and what was by a verdict, or by hand
/// without it, does not come back against the allowlist.
#[test]
fn a_forced_ban_of_an_allowlisted_network_comes_back() {
    for backend in BACKENDS {
        let toml = of(backend, "[allow]\nnetworks = [\"127.8.0.0/16\"]");
        let lab = lab(Config::default(), &toml);
        by_hand(&lab, &["ban", "127.8.0.0/16", "--force", "--for", "1h"]);
        by_hand(&lab, &["ban", "127.8.1.1", "--force", "--for", "1h"]);
        ban(&lab, &["127.9.0.1"]);
        product().filterctl_stop(&lab).unwrap();
        run(&lab, "rblfilter firewall remove");
        run(&lab, "rblfilter firewall apply");
        product().filterctl_start(&lab).unwrap();
        for net in ["127.8.0.0/16", "127.8.1.1", "127.9.0.1"] {
            let left = wait_for_ban(&lab, backend, net);
            assert!((3000..=3600).contains(&left), "{backend}: {net}: {left}");
        }
        assert!(lab.send(&impatient(), ip("127.8.7.7")).not_answered());
        // And where somebody else takes it.
        lab.clear_log();
        run(&lab, "rblfilter firewall remove");
        for net in ["127.8.0.0/16", "127.8.1.1", "127.9.0.1"] {
            wait_for_ban(&lab, backend, net);
        }
        assert!(lab.log_matching("spared").is_empty());
    }
}
