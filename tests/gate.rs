//! The gate, on the real kernel: a client is judged at its first packet.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/gate.rs"]
mod gate;

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use common::*;
use gate::*;
use nix::sys::signal::Signal;
use rblfilter_lab::raw::{self, Raw};
use rblfilter_lab::smtp::Message;
use rblfilter_lab::stub::{Answer, Stub};
use rblfilter_lab::{Config, Dns, Lab, wait_for};

const FILE: &str = "/etc/courier/filters/rblfilter.toml";
const CLEAN6: &str = "fd00:1::7";

fn of(families: [&'static str; 2]) -> [(&'static str, &'static str); 2] {
    [(families[0], "4"), (families[1], "6")]
}

#[test]
fn a_listed_client_never_gets_a_slot_and_a_clean_one_is_asked_for_once() {
    let lab = gated(Config::default(), &gate(""));
    for (address, family) in of([LISTED, LISTED6]) {
        let outcome = lab.send(&impatient(), ip(address));
        assert!(outcome.not_answered(), "{address}: {outcome:?}");
        wait_in_set(&lab, &format!("rblfilter-deny{family}"), address);
        never_had_a_slot(&lab, address);
    }
    let line = lab.wait_for_log("at=gate,action=drop", LIMIT).unwrap();
    assert!(
        line.contains("listed,ip=[::ffff:127.66.1.2],zone=bl.test"),
        "{line}"
    );
    // A packet's sender is not proven: nobody is banned for it.
    assert_no_bans(&lab);
    for (count, (address, family)) in of([CLEAN, CLEAN6]).into_iter().enumerate() {
        assert_delivered(&lab, &message(), address, count + 1);
        wait_in_set(&lab, &format!("rblfilter-pass{family}"), address);
    }
    // The gate tells what it did a little later.
    let told = || {
        let told = lab.run_ok(&["rblfilter", "status"]).unwrap();
        let on = "gate        on: listed clients' first packets are dropped\n";
        (told.contains(on) && told.contains(", packets dropped ")).then_some(())
    };
    wait_for(LIMIT, told).expect("the status says so");
    // Its next connection never leaves the kernel.
    lab.clear_log();
    let before = queue(&lab);
    assert!(lab.send(&message(), ip(CLEAN)).accepted());
    assert_eq!(queue(&lab), before, "no packet was queued");
}

/// Its resident memory, in KiB.
fn memory(lab: &Lab, pid: i32) -> u64 {
    let status = lab
        .run_ok(&["cat", &format!("/proc/{pid}/status")])
        .unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.unwrap().split_whitespace().next().unwrap();
    words.parse().unwrap()
}

#[test]
fn both_its_threads_are_within_the_walls() {
    let lab = gated(Config::default(), &gate(""));
    let pid = gate_pid(&lab).unwrap();
    let threads = lab.run_ok(&["ls", &format!("/proc/{pid}/task")]).unwrap();
    assert_eq!(threads.split_whitespace().count(), 2, "{threads}");
    for thread in threads.split_whitespace() {
        let status = lab
            .run_ok(&["cat", &format!("/proc/{pid}/task/{thread}/status")])
            .unwrap();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000001000"] {
            assert!(status.contains(line), "{line}: {status}");
        }
    }
}

#[test]
fn under_a_flood_of_unlisted_clients_memory_is_bounded_and_mail_flows() {
    let lab = gated(Config::default(), &gate(""));
    let pid = gate_pid(&lab).unwrap();
    let flood = Flood::start(unlisted, 200_000);
    flood.wait_for(1000);
    for number in 1..=5 {
        assert_delivered(&lab, &message(), &format!("127.1.9.{number}"), number);
    }
    flood.wait_for(10_000);
    drop(flood);
    assert_eq!(gate_pid(&lab), Some(pid), "it was neither lost nor stopped");
    let used = memory(&lab, pid);
    assert!(used < 100_000, "{used} KiB");
    // A listed one is kept out all the same, once the flood is over.
    let kept_out = || {
        lab.send(&impatient(), ip(LISTED))
            .not_answered()
            .then_some(())
    };
    wait_for(LIMIT, kept_out).unwrap();
}

#[test]
fn malformed_and_fragmented_packets_are_let_in_or_judged_and_nothing_breaks() {
    let lab = gated(Config::default(), &gate(""));
    let pid = gate_pid(&lab).unwrap();
    let raw = Raw::open().unwrap();
    let source = |last| Ipv4Addr::new(127, 66, 8, last);
    // In two fragments, of which the first has eight bytes of TCP: the kernel puts
    // them together before it asks.
    let whole = raw::syn(source(1), 4000, 25);
    for (part, offset) in [(&whole[20..28], 0x2000_u16), (&whole[28..], 0x0001)] {
        let mut packet = whole[..20].to_vec();
        packet[4..6].copy_from_slice(&77_u16.to_be_bytes());
        packet[6..8].copy_from_slice(&offset.to_be_bytes());
        packet.extend(part);
        raw.send(&packet).unwrap();
    }
    wait_in_set(&lab, "rblfilter-deny4", "127.66.8.1");
    send_damaged(
        &raw,
        &raw::syn(source(9), 4000, 25),
        // Not where it goes to.
        &[0, 1, 4, 5, 6, 7, 8, 9, 13, 14, 15, 20, 21, 32, 33, 34, 38],
    );
    assert_eq!(gate_pid(&lab), Some(pid));
    assert_delivered(&lab, &message(), CLEAN, 1);
    assert_no_bans(&lab);
    wait_until_none_is_held(&lab);
}

#[test]
fn packets_of_one_client_that_come_meanwhile_are_joined() {
    let slow = Stub {
        list: Answer::After(Duration::from_millis(300)),
        ..Stub::default()
    };
    let config = Config {
        dns: Dns::Stub(slow),
        ..Config::default()
    };
    let lab = gated(config, &gate(""));
    let raw = Raw::open().unwrap();
    let source = Ipv4Addr::new(127, 66, 8, 1);
    // Its test is over.
    wait_for(LIMIT, || {
        let _ = lab.send(&impatient(), ip(LISTED));
        in_set(&lab, "rblfilter-deny4", LISTED).then_some(())
    })
    .unwrap();
    for _ in 0..3 {
        raw.send(&raw::syn(source, 4000, 25)).unwrap();
    }
    wait_in_set(&lab, "rblfilter-deny4", "127.66.8.1");
    let lines = lab.log_matching("ip=[::ffff:127.66.8.1]");
    assert_eq!(lines.len(), 1, "judged once: {lines:?}");
    // What it has done it tells each second.
    std::thread::sleep(Duration::from_millis(1100));
    product().filterctl_stop(&lab).unwrap();
    let line = lab.wait_for_log("]: gate,", LIMIT).unwrap();
    assert!(line.contains("joined=2"), "{line}");
}

#[test]
fn who_is_trusted_is_passed_by_the_rule_itself() {
    let config = Config {
        smtp_access: vec!["127.66.7\tallow,RELAYCLIENT".into()],
        ..Config::default()
    };
    let toml = format!(
        "[allow]\nnetworks = [\"127.66.5.0/24\"]\n[never-ban]\nrelays = [\"127.66.6.0/24\"]\n{}",
        gate("")
    );
    let lab = gated(config, &toml);
    let before = queue(&lab);
    for (number, address) in ["127.66.7.1", "127.66.5.1"].into_iter().enumerate() {
        assert_delivered(&lab, &message(), address, number + 1);
    }
    // It is refused with a text.
    let outcome = lab.send(&message(), ip("127.66.6.1"));
    assert_eq!(outcome.refused_code(), Some(554), "{outcome:?}");
    assert_eq!(queue(&lab), before, "no packet was queued");
    // Without the rule's set, by the worker and the gate itself.
    for address in ["127.66.7.0/24", "127.66.5.0/24", "127.66.6.0/24"] {
        lab.run_ok(&["ipset", "del", "rblfilter-through4", address])
            .unwrap();
    }
    for (number, address) in ["127.66.7.2", "127.66.5.2"].into_iter().enumerate() {
        assert_delivered(&lab, &message(), address, number + 3);
    }
    assert_ne!(queue(&lab), before);
    assert!(lab.set_members("rblfilter-deny4").unwrap().is_empty());
}

#[test]
fn a_gate_that_is_killed_or_stopped_is_replaced_and_mail_flows() {
    let lab = gated(Config::default(), &gate(""));
    for (number, signal) in [Signal::SIGKILL, Signal::SIGSTOP].into_iter().enumerate() {
        let pid = gate_pid(&lab).unwrap();
        lab.kill(pid, signal).unwrap();
        // Stopped, it holds the first packet, and the client's next one gets in.
        assert_delivered(&lab, &message(), &format!("127.1.9.{number}"), number + 1);
        let replaced = || gate_pid(&lab).filter(|next| *next != pid);
        wait_for(LIMIT, replaced).unwrap_or_else(|| panic!("{signal}"));
        wait_for_gate(&lab);
        let listed = format!("127.66.8.{number}");
        let kept_out = || {
            lab.send(&impatient(), ip(&listed))
                .not_answered()
                .then_some(())
        };
        wait_for(LIMIT, kept_out).unwrap_or_else(|| panic!("{signal}"));
    }
    lab.wait_for_log("not been heard of for too long", LIMIT)
        .unwrap();
}

#[test]
fn without_a_worker_all_are_let_in_and_the_next_worker_has_a_gate() {
    let lab = gated(Config::default(), &gate(""));
    let gate_of = |lab: &Lab| gate_pid(lab);
    let pid = gate_of(&lab).unwrap();
    let worker = || {
        let mut processes = lab.processes().into_iter();
        let is_worker = |pid| {
            let words = lab.arguments(pid);
            words.get(1).is_some_and(|word| word == "supervised-worker")
        };
        processes.find(|p| p.comm == "rblfilter" && is_worker(p.pid))
    };
    lab.kill(worker().unwrap().pid, Signal::SIGKILL).unwrap();
    assert_delivered(&lab, &message(), CLEAN, 1);
    let replaced = || gate_of(&lab).filter(|next| *next != pid);
    wait_for(LIMIT, replaced).unwrap();
    wait_for_gate(&lab);
    let kept_out = || {
        lab.send(&impatient(), ip(LISTED))
            .not_answered()
            .then_some(())
    };
    wait_for(LIMIT, kept_out).unwrap();
    // The same after a reload.
    let pid = gate_of(&lab).unwrap();
    lab.run_ok(&["rblfilter", "reload"]).unwrap();
    wait_for(LIMIT, || gate_of(&lab).filter(|next| *next != pid)).unwrap();
    wait_for_gate(&lab);
    assert_delivered(&lab, &message(), "127.1.2.4", 2);
    let kept_out = || {
        lab.send(&impatient(), ip("127.66.8.8"))
            .not_answered()
            .then_some(())
    };
    wait_for(LIMIT, kept_out).unwrap();
}

#[test]
fn in_observe_mode_all_are_let_in_and_it_is_told_what_would_be_done() {
    let lab = gated(Config::default(), &gate("mode = \"observe\""));
    let told = lab.run_ok(&["rblfilter", "status"]).unwrap();
    assert!(
        told.contains("gate        on: what it would drop is told"),
        "{told}"
    );
    assert_delivered(&lab, &message(), LISTED, 1);
    let line = lab.wait_for_log("at=gate", LIMIT).unwrap();
    assert!(
        line.contains("ip=[::ffff:127.66.1.2],zone=bl.test")
            && line.contains("action=none,would=drop"),
        "{line}"
    );
    assert!(lab.set_members("rblfilter-deny4").unwrap().is_empty());
    assert_delivered(&lab, &message(), CLEAN, 2);
}

#[test]
fn while_the_list_is_dead_nobody_waits_for_long() {
    let dead = Stub {
        list: Answer::Never,
        ..Stub::default()
    };
    let config = Config {
        dns: Dns::Stub(dead),
        ..Config::default()
    };
    let lab = gated(config, &gate(""));
    for number in 1..=3 {
        assert_delivered(&lab, &message(), &format!("127.1.9.{number}"), number);
    }
    lab.wait_for_log("degraded,what=dnsbl,zone=bl.test", LIMIT)
        .unwrap();
    // Nothing is held any longer: what was let in at once had no time to wait.
    std::thread::sleep(Duration::from_millis(1100));
    for number in 4..=6 {
        assert_delivered(&lab, &message(), &format!("127.1.9.{number}"), number);
    }
    assert!(lab.set_members("rblfilter-pass4").unwrap().is_empty());
    assert!(lab.set_members("rblfilter-deny4").unwrap().is_empty());
}

#[test]
fn who_is_let_in_by_hand_is_denied_no_longer() {
    let lab = gated(Config::default(), &gate(""));
    for (number, (command, address)) in [("unban", LISTED), ("allow", "127.66.1.3")]
        .into_iter()
        .enumerate()
    {
        assert!(lab.send(&impatient(), ip(address)).not_answered());
        wait_in_set(&lab, "rblfilter-deny4", address);
        lab.run_ok(&["rblfilter", command, address]).unwrap();
        let gone = || (!in_set(&lab, "rblfilter-deny4", address)).then_some(());
        wait_for(LIMIT, gone).unwrap_or_else(|| panic!("{command}"));
        assert_delivered(&lab, &message(), address, number + 1);
    }
}

#[test]
fn the_rules_can_be_removed_and_put_back_under_load() {
    let lab = gated(Config::default(), &gate(""));
    let flood = Flood::start(unlisted, 200_000);
    for number in 1..=5 {
        lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
        assert_delivered(
            &lab,
            &message(),
            &format!("127.1.8.{number}"),
            2 * number - 1,
        );
        let said = lab.run_ok(&["rblfilter", "firewall", "apply"]).unwrap();
        assert!(
            said.contains("adding: iptables -w -t mangle -I INPUT"),
            "{said}"
        );
        assert_delivered(&lab, &message(), &format!("127.1.9.{number}"), 2 * number);
    }
    drop(flood);
    assert!(gate_pid(&lab).is_some());
    let kept_out = || {
        lab.send(&impatient(), ip(LISTED))
            .not_answered()
            .then_some(())
    };
    wait_for(LIMIT, kept_out).unwrap();
    // Without a gate there is no rule of it.
    let text = fs::read_to_string(FILE).unwrap();
    fs::write(FILE, text.replace("enabled = true", "enabled = false")).unwrap();
    let (code, said) = check(&lab);
    assert!(
        code == Some(1) && said.contains("the gate: our rules are not"),
        "{said}"
    );
    lab.run_ok(&["rblfilter", "firewall", "apply"]).unwrap();
    let rules = lab.run_ok(&["iptables", "-t", "mangle", "-S"]).unwrap();
    assert!(!rules.contains("rblfilter"), "{rules}");
    assert!(!lab.has_set("rblfilter-pass4").unwrap());
    assert_eq!(check(&lab), (Some(0), String::new()));
}

/// Also behind rules of the admin's that look at the state of connections, which
/// a packet that was let in must not pass by.
#[test]
fn both_kinds_of_iptables_have_the_rules_and_the_admins_own_hold() {
    for kind in ["nft", "legacy"] {
        let lab = Lab::start(Config::default()).unwrap();
        if kind == "legacy" {
            // What is called by the name of iptables is the older one.
            let (old, new) = (
                "/usr/sbin/xtables-legacy-multi",
                "/usr/sbin/xtables-nft-multi",
            );
            lab.run_ok(&["mount", "--bind", old, new]).unwrap();
        }
        let version = lab.run_ok(&["iptables", "--version"]).unwrap();
        assert_eq!(version.contains("legacy"), kind == "legacy", "{version}");
        for rule in [
            "-A INPUT -s 127.3.0.0/16 -p tcp --dport 25 -j DROP",
            "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            "-A INPUT -p tcp --dport 25 -m conntrack --ctstate NEW -j ACCEPT",
        ] {
            let command = format!("iptables {rule}");
            lab.run_ok(&command.split(' ').collect::<Vec<_>>()).unwrap();
        }
        product().start(&lab, &gate("")).unwrap();
        wait_for_gate(&lab);
        assert_eq!(check(&lab), (Some(0), String::new()), "{kind}");
        assert_delivered(&lab, &message(), CLEAN, 1);
        wait_in_set(&lab, "rblfilter-pass4", CLEAN);
        let outcome = lab.send(&impatient(), ip(LISTED));
        assert!(outcome.not_answered(), "{kind}: {outcome:?}");
        never_had_a_slot(&lab, LISTED);
        let outcome = lab.send(&impatient(), ip("127.3.0.1"));
        assert!(
            outcome.not_answered(),
            "{kind}: the admin's rule: {outcome:?}"
        );
        wait_in_set(&lab, "rblfilter-pass4", "127.3.0.1");
    }
}

#[test]
fn where_clients_may_log_in_the_gate_is_off() {
    let config = Config {
        esmtp_auth: "PLAIN LOGIN".into(),
        ..Config::default()
    };
    let lab = lab(config, &gate(""));
    lab.wait_for_log("degraded,what=gate,port=25", LIMIT)
        .unwrap();
    let (code, said) = check(&lab);
    assert!(
        code == Some(1)
            && said.contains(
                "the gate is off for port 25: clients may log in there (ESMTPAUTH is set)"
            ),
        "{said}"
    );
    let rules = lab.run_ok(&["iptables", "-t", "mangle", "-S"]).unwrap();
    assert!(!rules.contains("rblfilter"), "{rules}");
    // Even by a rule that somebody else has made.
    let rule = "iptables -t mangle -A INPUT -p tcp --syn --dport 25 -j NFQUEUE --queue-num 25 --queue-bypass";
    lab.run_ok(&rule.split(' ').collect::<Vec<_>>()).unwrap();
    wait_for_gate(&lab);
    let auth = Message {
        auth: Some((rblfilter_lab::USER.into(), rblfilter_lab::PASSWORD.into())),
        ..message()
    };
    assert_delivered(&lab, &auth, LISTED, 1);
}

/// This kernel's nftables may have no queues; then the sets are kept all the same,
/// and a rule of iptables brings the packets.
#[test]
fn with_nftables_the_sets_are_its_own_and_a_missing_queue_is_told() {
    let toml = format!("[ban]\nbackend = \"nftables\"\n{}", gate(""));
    let lab = lab(Config::default(), &toml);
    let shown = lab.run_ok(&["rblfilter", "firewall", "show"]).unwrap();
    assert!(
        shown.contains(
            "ip saddr != @rblfilter-pass4 ip saddr != @rblfilter-through4 queue flags bypass to 25"
        ),
        "{shown}"
    );
    let (code, said) = check(&lab);
    if code == Some(1) {
        assert!(said.contains("CONFIG_NFT_QUEUE"), "{said}");
        for program in ["iptables", "ip6tables"] {
            let rule = format!(
                "{program} -t mangle -A INPUT -p tcp --syn --dport 25 -j NFQUEUE --queue-num 25 --queue-bypass"
            );
            lab.run_ok(&rule.split(' ').collect::<Vec<_>>()).unwrap();
        }
    }
    wait_for_gate(&lab);
    for (address, family) in of([LISTED, LISTED6]) {
        assert!(lab.send(&impatient(), ip(address)).not_answered());
        let set = format!("rblfilter-deny{family}");
        let listed = || {
            let command = ["nft", "list", "set", "inet", "rblfilter", &set];
            lab.run_ok(&command)
                .unwrap()
                .contains(address)
                .then_some(())
        };
        wait_for(LIMIT, listed).unwrap_or_else(|| panic!("{address}"));
        never_had_a_slot(&lab, address);
    }
    assert_delivered(&lab, &message(), CLEAN, 1);
    lab.run_ok(&["rblfilter", "unban", LISTED]).unwrap();
    assert_delivered(&lab, &message(), LISTED, 2);
    // A network is freed by emptying the set.
    lab.run_ok(&["rblfilter", "unban", "fd00:66::/32"]).unwrap();
    let empty = || {
        let command = ["nft", "list", "set", "inet", "rblfilter", "rblfilter-deny6"];
        (!lab.run_ok(&command).unwrap().contains("fd00:66")).then_some(())
    };
    wait_for(LIMIT, empty).unwrap();
}
