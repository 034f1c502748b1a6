//! The gate while senders are forged, the warden of the bans dies, and others take
//! its rules away, on the real kernel.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/gate.rs"]
mod gate;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::*;
use gate::*;
use nix::sys::signal::Signal;
use rblfilter_lab::raw::{self, DESTINATION, FRAGMENT, HOP_BY_HOP, Raw};
use rblfilter_lab::smtp::{Message, Outcome};
use rblfilter_lab::{Config, Lab, wait_for};
use tokio::task::JoinSet;

/// Longer than it takes the filter to look at its sets and rules, and the
/// supervisor to end a warden that is silent.
const SOON: Duration = Duration::from_secs(90);
/// The gate's table, chain INPUT.
const GATES_RULES: [&str; 2] = [
    "iptables -t mangle -F INPUT",
    "ip6tables -t mangle -F INPUT",
];

fn run(lab: &Lab, command: &str) -> String {
    lab.run_ok(&command.split(' ').collect::<Vec<_>>()).unwrap()
}

fn unlisted_of_ipv6(number: u32) -> IpAddr {
    let [high, low] = [number >> 16, number & 0xffff].map(|part| u16::try_from(part).unwrap());
    [0xfd00, 7, 0, 0, 0, 0, high, low].into()
}

/// A client that the gate does not see is judged as one that has never been here,
/// in its first session: its ban is the first, for an hour.
fn assert_banned_for_the_first_time(lab: &Lab, source: &str, net: &str) {
    let outcome = lab.send(&message(), ip(source));
    assert_banned(lab, &outcome, source, net);
}

/// A flood of other forged senders comes at the same time.
#[test]
fn forged_senders_are_denied_for_a_while_at_most_and_nobody_is_banned() {
    let lab = gated(Config::default(), &gate(""));
    let pid = gate_pid(&lab).unwrap();
    let raw = Raw::open().unwrap();
    let flood = Flood::start(unlisted_of_ipv6, 100_000);
    // Of a flood some are let in unasked: each is sent until it is met.
    let denied = |source: &str, packet: &[u8]| {
        let set = format!("rblfilter-deny{}", if source.contains(':') { 6 } else { 4 });
        let there = || {
            raw.send(packet).unwrap();
            in_set(&lab, &set, source).then_some(())
        };
        wait_for(LIMIT * 4, there).unwrap_or_else(|| panic!("{source} is not in {set}"));
    };
    for source in [LISTED, LISTED6] {
        for port in 4000..4040 {
            raw.send(&raw::syn(ip(source), port, 25)).unwrap();
        }
        denied(source, &raw::syn(ip(source), 4040, 25));
    }
    for (number, headers) in [
        &[HOP_BY_HOP][..],
        &[DESTINATION],
        &[HOP_BY_HOP, DESTINATION, DESTINATION],
    ]
    .into_iter()
    .enumerate()
    {
        let source = format!("fd00:66:7::{}", number + 1);
        let packet = raw::syn(ip(&source), 4000, 25);
        denied(&source, &raw::extended(&packet, headers));
    }
    // The kernel asks about fragments or puts them together first: who comes in
    // them may be let in, and is seen by the watch.
    for number in 1..=100 {
        for net in ["fd00:66:8", "fd00:8"] {
            let packet = raw::syn(ip(&format!("{net}::{number}")), 4000, 25);
            raw.send(&raw::extended(&packet, &[FRAGMENT])).unwrap();
            raw.send(&raw::extended(&packet, &[HOP_BY_HOP, FRAGMENT]))
                .unwrap();
            for part in raw::in_two(&packet) {
                raw.send(&part).unwrap();
            }
        }
    }
    // Not where it goes to, nor that it is of IPv6.
    let places: Vec<usize> = (1..8)
        .chain(10..24)
        .chain([40, 41, 52, 53, 54, 58])
        .collect();
    let extended = raw::extended(&raw::syn(ip("fd00:66:9::1"), 4000, 25), &[DESTINATION]);
    send_damaged(&raw, &raw::syn(ip("fd00:66:9::1"), 4000, 25), &places);
    send_damaged(&raw, &extended, &places);
    for number in 1..=3 {
        assert_delivered(
            &lab,
            &message(),
            &format!("127.1.9.{number}"),
            2 * number - 1,
        );
        assert_delivered(&lab, &message(), &format!("fd00:1::{number}"), 2 * number);
    }
    flood.wait_for(1000);
    drop(flood);
    wait_until_none_is_held(&lab);
    assert_eq!(gate_pid(&lab), Some(pid), "it was neither lost nor stopped");
    assert_no_bans(&lab);
    for set in ["rblfilter-deny4", "rblfilter-deny6"] {
        let members = lab.set_members(set).unwrap();
        let bounded = |left: Option<u32>| left.is_some_and(|left| left <= 600);
        assert!(
            members.iter().all(|member| bounded(member.timeout)),
            "{set}: {members:?}"
        );
    }
    // Nor was it counted against them.
    for command in GATES_RULES {
        run(&lab, command);
    }
    assert_banned_for_the_first_time(&lab, LISTED, LISTED);
    assert_banned_for_the_first_time(&lab, LISTED6, "fd00:66:1:2::/64");
}

/// Listed clients, each another one, 200 a second, until it is told to end.
struct Wave {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Outcome>>,
}

impl Wave {
    fn start() -> Self {
        let end = Arc::<AtomicBool>::default();
        let ended = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let runtime = own_runtime();
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for number in 0..30_000_u32 {
                    if ended.load(Relaxed) {
                        break;
                    }
                    let [.., third, fourth] = number.to_be_bytes();
                    let message = Message {
                        patience: Duration::from_millis(500),
                        ..Message::default()
                    };
                    clients.spawn(async move {
                        message.send([127, 66, 100 + third, fourth].into()).await
                    });
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                clients.join_all().await
            })
        });
        Self { end, thread }
    }

    /// What became of each.
    fn stop(self) -> Vec<Outcome> {
        self.end.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn in_a_wave_the_gate_goes_on_while_the_bans_have_no_warden() {
    let lab = gated(Config::default(), &gate(""));
    let wave = Wave::start();
    for (number, signal) in [Signal::SIGKILL, Signal::SIGSTOP].into_iter().enumerate() {
        let gate = gate_pid(&lab).unwrap();
        let Filter {
            supervisor, warden, ..
        } = filter(&lab);
        if signal == Signal::SIGKILL {
            // The next one is not to come before all has been looked at.
            lab.kill(supervisor, Signal::SIGSTOP).unwrap();
        }
        lab.kill(warden, signal).unwrap();
        assert_delivered(
            &lab,
            &message(),
            &format!("127.1.9.{number}"),
            2 * number + 1,
        );
        let listed = format!("127.66.9.{number}");
        let kept_out = || {
            let outcome = lab.send(&impatient(), ip(&listed));
            outcome.not_answered().then_some(())
        };
        wait_for(LIMIT, kept_out).unwrap_or_else(|| panic!("{signal}"));
        wait_in_set(&lab, "rblfilter-deny4", &listed);
        assert_eq!(gate_pid(&lab), Some(gate), "{signal}: the gate is another");
        lab.kill(supervisor, Signal::SIGCONT).unwrap();
        let replaced = || (filter(&lab).warden != warden).then_some(());
        wait_for(SOON, replaced).unwrap_or_else(|| panic!("{signal}: no other warden"));
        let banned = format!("127.9.3.{number}");
        by_hand(&lab, &["ban", &banned, "--for", "1h"]);
        wait_in_set(&lab, "rblfilter4", &banned);
        assert_eq!(gate_pid(&lab), Some(gate), "{signal}: the gate went too");
        assert_delivered(
            &lab,
            &message(),
            &format!("127.1.8.{number}"),
            2 * number + 2,
        );
    }
    let outcomes = wave.stop();
    let answered = outcomes.iter().filter(|outcome| !outcome.not_answered());
    let (answered, all) = (answered.count(), outcomes.len());
    assert!(
        all > 100 && answered < all / 2,
        "{answered} of {all} had a slot"
    );
    // Nor does one have it for long.
    let none = || {
        let sessions = lab.sessions().unwrap();
        let listed = |peer: IpAddr| matches!(peer, IpAddr::V4(v4) if v4.octets()[1] == 66);
        let mut listed = sessions
            .iter()
            .filter(|session| session.remote.is_some_and(|(peer, _)| listed(peer)));
        listed.next().is_none().then_some(())
    };
    wait_for(LIMIT, none).unwrap_or_else(|| panic!("{:?}", lab.sessions()));
    // A verdict's bans are made again, too.
    for command in GATES_RULES {
        run(&lab, command);
    }
    assert_banned_for_the_first_time(&lab, LISTED, LISTED);
}

/// The rules, named by their sets, that are told missing, once each, and that are
/// back, once each.
fn told(lab: &Lab, event: &str) -> Vec<String> {
    let lines = lab.log_matching(&format!("{event},what=rule,name="));
    let name = |line: &String| {
        let (_, rest) = line.split_once("name=").unwrap();
        let end = rest.find([',', ':', ' ']).unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    let mut names: Vec<String> = lines.iter().map(name).collect();
    names.sort();
    names
}

/// Some rules are taken away, while others that use the same sets stand.
fn assert_told(lab: &Lab, commands: &[String], sets: &[&str], said_of_them: &[&str]) {
    lab.clear_log();
    for command in commands {
        run(lab, command);
    }
    let all_told = |event: &str| {
        let told = || (told(lab, event).len() >= sets.len()).then_some(());
        wait_for(SOON, told).unwrap_or_else(|| panic!("{commands:?}: {event}"));
    };
    all_told("degraded");
    let (code, said) = check(lab);
    assert_eq!(code, Some(1), "{said}");
    for part in said_of_them.iter().chain(&["rblfilter firewall apply"]) {
        assert!(said.contains(part), "{part}: {said}");
    }
    let doctor = lab.run(&["rblfilter", "doctor", "--json"]).unwrap();
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    for set in sets {
        assert!(
            doctor.contains(&format!("rule {set} does not work")),
            "{set}: {doctor}"
        );
    }
    // Where the kernel's nftables has no queues it says so.
    let _ = lab.run(&["rblfilter", "firewall", "apply"]).unwrap();
    all_told("recovered");
    assert_eq!(told(lab, "degraded"), sets);
    assert_eq!(told(lab, "recovered"), sets);
}

#[test]
fn a_rule_of_iptables_that_is_missing_is_told_while_others_use_its_sets() {
    let lab = gated(Config::default(), &gate(""));
    let own = |commands: [&str; 2]| commands.map(String::from);
    let queue4 = "(iptables, table mangle, chain INPUT): -p tcp --syn -m multiport --dports 25 -m set ! --match-set rblfilter4 src";
    // The first rule of the gate's drops whom it denied, the second has the queue.
    assert_told(
        &lab,
        &own(["iptables -D INPUT 1", "ip6tables -t mangle -D INPUT 1"]),
        &["rblfilter-deny6", "rblfilter4"],
        &[
            "a rule is missing (iptables, table filter, chain INPUT): -p tcp --syn -m multiport --dports 25 -m set --match-set rblfilter4 src",
            "the gate: a rule is missing (ip6tables, table mangle, chain INPUT): -p tcp --syn -m multiport --dports 25 -m set --match-set rblfilter-deny6 src",
        ],
    );
    assert_told(
        &lab,
        &own(["iptables -t mangle -D INPUT 2", "ip6tables -D INPUT 1"]),
        &["rblfilter-pass4", "rblfilter6"],
        &[queue4, "-m set --match-set rblfilter6 src"],
    );
    assert_eq!(check(&lab), (Some(0), String::new()));
    assert!(lab.send(&impatient(), ip(LISTED)).not_answered());
    assert_delivered(&lab, &message(), CLEAN, 1);
}

#[test]
fn a_rule_of_nftables_that_is_missing_is_told_while_others_stand() {
    let toml = format!("[ban]\nbackend = \"nftables\"\n{}", gate(""));
    let lab = lab(Config::default(), &toml);
    let (_, said) = check(&lab);
    if said.contains("CONFIG_NFT_QUEUE") {
        // It cannot be there, which is told once.
        let both = || (told(&lab, "degraded").len() == 2).then_some(());
        wait_for(SOON, both).expect("the gate has no rule");
        assert_eq!(
            told(&lab, "degraded"),
            ["rblfilter-pass4", "rblfilter-pass6"]
        );
    }
    let chain = run(&lab, "nft -a list chain inet rblfilter input");
    let deletion = |set: &str| {
        let mut lines = chain.lines();
        let rule = lines
            .find(|line| line.contains(&format!(" @{set} ")))
            .unwrap();
        let (_, handle) = rule.rsplit_once("# handle ").unwrap();
        format!("nft delete rule inet rblfilter input handle {handle}")
    };
    assert_told(
        &lab,
        &["rblfilter4-nets", "rblfilter-deny6"].map(deletion),
        &["rblfilter-deny6", "rblfilter4"],
        &[
            "a rule is missing (table inet rblfilter, chain input): tcp dport { 25 } tcp flags & (fin | syn | rst | ack) == syn ip saddr @rblfilter4-nets drop",
            "ip6 saddr @rblfilter-deny6",
        ],
    );
}
