//! What the tests of the gate share.
#![allow(dead_code)] // each test program uses its own part

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rblfilter_lab::raw::{self, Raw};
use rblfilter_lab::{Config, Lab, wait_for};

use super::common::*;

/// With the gate, and `more` before the tables.
pub fn gate(more: &str) -> String {
    format!("{more}\n[gate]\nenabled = true\n{ZONE}")
}

/// A lab in which the gate holds the queue.
pub fn gated(config: Config, toml: &str) -> Lab {
    let lab = lab(config, toml);
    wait_for_gate(&lab);
    lab
}

/// Waits until somebody reads queue 25, whom the kernel names by the port of a
/// netlink socket (`/proc/net/netfilter/nfnetlink_queue`).
pub fn wait_for_gate(lab: &Lab) {
    let bound = || is_bound(lab).then_some(());
    wait_for(LIMIT, bound).expect("nobody reads the queue");
}

pub fn queue(lab: &Lab) -> String {
    lab.run_ok(&["cat", "/proc/net/netfilter/nfnetlink_queue"])
        .unwrap()
}

fn is_bound(lab: &Lab) -> bool {
    queue(lab)
        .lines()
        .any(|line| line.split_whitespace().next() == Some("25"))
}

/// The gate's process.
pub fn gate_pid(lab: &Lab) -> Option<i32> {
    let is_gate = |pid: &i32| {
        lab.arguments(*pid)
            .get(1)
            .is_some_and(|word| word == "gate")
    };
    let processes = lab.processes().into_iter();
    let mut wardens = processes.filter(|p| p.comm.starts_with("rblfilter-w"));
    wardens.find_map(|p| Some(p.pid).filter(is_gate))
}

pub fn in_set(lab: &Lab, set: &str, address: &str) -> bool {
    let members = lab.set_members(set).unwrap();
    members.iter().any(|member| member.net == address)
}

pub fn wait_in_set(lab: &Lab, set: &str, address: &str) {
    let there = || in_set(lab, set, address).then_some(());
    wait_for(LIMIT, there).unwrap_or_else(|| panic!("{address} is not in {set}"));
}

/// Courier has seen no connection of it.
pub fn never_had_a_slot(lab: &Lab, address: &str) {
    let ip = match ip(address) {
        IpAddr::V4(v4) => format!("::ffff:{v4}"),
        IpAddr::V6(v6) => v6.to_string(),
    };
    let lines = lab.log_matching(&format!("started,ip=[{ip}]"));
    assert!(lines.is_empty(), "{lines:?}");
}

/// The addresses of a flood of clients that no list knows.
pub fn unlisted(number: u32) -> IpAddr {
    let [.., third, fourth] = number.to_be_bytes();
    Ipv4Addr::new(127, 7, third, fourth).into()
}

/// Sends raw first packets of connections, from a thread within the lab, until it
/// is told to end.
pub struct Flood {
    end: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    /// From the address of each number, at most so many.
    pub fn start(source: fn(u32) -> IpAddr, most: u32) -> Self {
        let end = Arc::<AtomicBool>::default();
        let sent = Arc::<AtomicU32>::default();
        let (ended, count) = (Arc::clone(&end), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let raw = Raw::open().unwrap();
            for number in 0..most {
                if ended.load(Relaxed) {
                    return;
                }
                // A full buffer of the loopback's is no failure of the test.
                let _ = raw.send(&raw::syn(source(number), 4000, 25));
                count.store(number + 1, Relaxed);
                if number % 20 == 0 {
                    // Some 5,000 a second.
                    thread::sleep(Duration::from_millis(4));
                }
            }
        });
        let thread = Some(thread);
        Self { end, sent, thread }
    }

    /// Waits until so many were sent.
    pub fn wait_for(&self, many: u32) {
        let enough = || (self.sent.load(Relaxed) >= many).then_some(());
        wait_for(LIMIT, enough).unwrap_or_else(|| panic!("{:?} were sent", self.sent));
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The exit status of `firewall check`, and what it said.
pub fn check(lab: &Lab) -> (Option<i32>, String) {
    let output = lab.run(&["rblfilter", "firewall", "check"]).unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// Sends the packet 3000 times, bytes of it at these places changed at random, cut
/// and extended.
pub fn send_damaged(raw: &Raw, whole: &[u8], places: &[usize]) {
    // xorshift.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let header = whole.len() - 20;
    for _ in 0..3000 {
        let mut packet = whole.to_vec();
        for _ in 0..=random(4) {
            packet[places[random(places.len())]] = u8::try_from(random(256)).unwrap();
        }
        packet.truncate(header + random(21));
        packet.resize(packet.len() + random(3) * 20, 0);
        // What the kernel does not send cannot be received.
        let _ = raw.send(&packet);
    }
}

/// What is held is decided.
pub fn wait_until_none_is_held(lab: &Lab) {
    let none_held = || {
        let queue = queue(lab);
        let mut words = queue.split_whitespace();
        (words.nth(2) == Some("0")).then_some(())
    };
    wait_for(LIMIT, none_held).unwrap_or_else(|| panic!("{}", queue(lab)));
}
