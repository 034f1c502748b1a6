//! The warden, driven by a worker that lies: it bans what it may, and no more.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use rblfilter_lab::{Config, Lab, Process};
use rblfilter_warden::request::{Outcome, Reply, Request};

struct Warden {
    socket: OwnedFd,
    process: Process,
}

impl Warden {
    /// As the filter starts it: Courier's user, descriptor 0 a socket.
    fn start(lab: &Lab) -> Self {
        let (socket, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let courier = nix::unistd::User::from_name("courier").unwrap().unwrap();
        let process = lab
            .command("/usr/lib/courier/rblfilter-warden")
            .user(courier.uid.as_raw(), courier.gid.as_raw())
            .stdin(theirs)
            .spawn()
            .unwrap();
        Self { socket, process }
    }

    fn tell(&self, bytes: &[u8]) -> Reply {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
        let mut reply = [0; 64];
        let len = recv(self.socket.as_raw_fd(), &mut reply, MsgFlags::empty()).unwrap();
        Reply::decode(&reply[..len]).unwrap()
    }

    fn ask(&self, request: Request) -> Outcome {
        self.tell(&request.encode(7)).outcome
    }

    fn ban(&self, network: &str, seconds: u32) -> Outcome {
        self.ask(Request::Ban {
            network: network.parse().unwrap(),
            seconds,
        })
    }
}

fn timeout(lab: &Lab, net: &str) -> Option<u32> {
    let set = if net.contains(':') {
        "rblfilter6"
    } else {
        "rblfilter4"
    };
    lab.set_members(set)
        .unwrap()
        .into_iter()
        .find(|member| member.net == net)?
        .timeout
}

fn installed(toml: &str) -> Lab {
    let lab = Lab::start(Config {
        courier: false,
        ..Config::default()
    })
    .unwrap();
    product().install(&lab, toml, &["--no-start"]).unwrap();
    lab
}

#[test]
fn it_refuses_to_ban_the_allowlisted_the_own_and_the_wide() {
    let lab = installed("[allow]\nnetworks = [\"10.0.0.0/8\", \"fd00:5::/48\"]\n");
    let warden = Warden::start(&lab);
    for (network, expected) in [
        ("127.66.1.2/32", Outcome::Done),
        ("10.1.2.3/32", Outcome::RefusedProtected),
        ("127.0.0.1/32", Outcome::RefusedProtected),
        ("::1/128", Outcome::RefusedProtected),
        ("fd00:5:0:7::/64", Outcome::RefusedProtected),
        ("127.66.0.0/16", Outcome::RefusedRange),
        ("0.0.0.0/0", Outcome::RefusedRange),
        ("fd00:66::/32", Outcome::RefusedRange),
        ("fd00:66:1:2::5/64", Outcome::RefusedRange),
        ("fd00:66:1:2::/64", Outcome::Done),
    ] {
        assert_eq!(warden.ban(network, 60), expected, "{network}");
    }
    assert_eq!(warden.ban("127.66.1.3/32", 0), Outcome::RefusedRange);
    assert_eq!(warden.ban("127.66.1.3/32", u32::MAX), Outcome::RefusedRange);
    assert_eq!(lab.set_members("rblfilter4").unwrap().len(), 1);
    assert_eq!(lab.set_members("rblfilter6").unwrap().len(), 1);
    for garbage in [&b"x"[..], &[0; 32], &[1; 33], &[255; 64]] {
        assert_eq!(warden.tell(garbage).outcome, Outcome::Malformed);
    }
    assert_eq!(
        warden.ask(Request::Check),
        Outcome::Done,
        "and it serves on"
    );
}

#[test]
fn it_takes_out_what_it_is_told_to_and_nothing_else() {
    let lab = installed("");
    let warden = Warden::start(&lab);
    let nets = ["127.66.1.2", "127.66.1.3", "fd00:66:1:2::/64"];
    for net in nets {
        let network: ipnetwork::IpNetwork = net.parse().unwrap();
        assert_eq!(warden.ban(&network.to_string(), 60), Outcome::Done);
    }
    lab.run_ok(&["ipset", "create", "another", "hash:net"])
        .unwrap();
    lab.run_ok(&["ipset", "add", "another", nets[0]]).unwrap();
    let unban = |net: &str| {
        warden.ask(Request::Unban {
            network: net.parse().unwrap(),
        })
    };
    for net in [nets[0], nets[2], "127.66.9.9", "127.66.1.0/24"] {
        assert_eq!(unban(net), Outcome::Done, "{net}: it is not in now");
    }
    assert_eq!(lab.set_members("rblfilter4").unwrap().len(), 1);
    assert!(lab.set_members("rblfilter6").unwrap().is_empty());
    assert_eq!(lab.set_members("another").unwrap().len(), 1);
    // One that was let in can be banned anew, for a shorter time too.
    assert_eq!(warden.ban("127.66.1.2/32", 30), Outcome::Done);
    lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
    assert_eq!(unban(nets[1]), Outcome::NoSet);
}

#[test]
fn an_entry_keeps_the_larger_of_its_old_and_new_time() {
    let lab = installed("");
    lab.run_ok(&[
        "ipset",
        "add",
        "rblfilter4",
        "127.66.1.1",
        "timeout",
        "9000",
    ])
    .unwrap();
    lab.run_ok(&["ipset", "add", "rblfilter4", "127.66.1.2", "timeout", "10"])
        .unwrap();
    lab.run_ok(&["ipset", "add", "rblfilter4", "127.66.1.3", "timeout", "0"])
        .unwrap();
    let warden = Warden::start(&lab);
    for (net, seconds, expected, left) in [
        ("127.66.1.1", 600, Outcome::Kept, 8990..=9000),
        ("127.66.1.2", 600, Outcome::Extended, 590..=600),
        ("127.66.1.2", 60, Outcome::Kept, 590..=600),
        ("127.66.1.3", 600, Outcome::Kept, 0..=0),
        ("127.66.1.4", 600, Outcome::Done, 590..=600),
        ("127.66.1.4", 900, Outcome::Extended, 890..=900),
    ] {
        assert_eq!(
            warden.ban(&format!("{net}/32"), seconds),
            expected,
            "{net} for {seconds}"
        );
        let now = timeout(&lab, net).unwrap();
        assert!(left.contains(&now), "{net}: {now}");
    }
}

/// The largest set that `firewall apply` makes room for. The filter gives its
/// warden up after ten seconds.
#[test]
fn a_set_of_a_million_is_read_once_and_answered_for() {
    let lab = installed("");
    let mut restore = String::new();
    for number in 0..1_000_000_u32 {
        let [a, b, c, d] = (0x0b00_0000 + number).to_be_bytes();
        restore.push_str(&format!("add rblfilter4 {a}.{b}.{c}.{d} timeout 9000\n"));
    }
    fs::write("/run/restore", restore).unwrap();
    lab.run_ok(&["ipset", "restore", "-file", "/run/restore"])
        .unwrap();
    let warden = Warden::start(&lab);
    let begun = Instant::now();
    assert_eq!(warden.ask(Request::Check), Outcome::Done);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    for host in 0..20 {
        // Whether a million and one is too many, the kernel counts by the region.
        let outcome = warden.ban(&format!("127.66.1.{host}/32"), 60);
        assert!(
            matches!(outcome, Outcome::Done | Outcome::Full),
            "{outcome:?}"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "not read again: {:?}",
        begun.elapsed()
    );
}

#[test]
fn a_large_set_is_read_whole() {
    let lab = installed("");
    let mut restore = String::new();
    for number in 0..70_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        restore.push_str(&format!(
            "add rblfilter4 127.{}.{b}.{c} timeout 9000\n",
            67 + a
        ));
    }
    fs::write("/run/restore", restore).unwrap();
    lab.run_ok(&["ipset", "restore", "-file", "/run/restore"])
        .unwrap();
    let warden = Warden::start(&lab);
    for net in ["127.67.0.0/32", "127.67.200.7/32", "127.68.17.111/32"] {
        assert_eq!(warden.ban(net, 60), Outcome::Kept, "{net}");
    }
}

#[test]
fn a_set_that_comes_goes_or_is_another_is_noticed() {
    let lab = installed("");
    let warden = Warden::start(&lab);
    assert_eq!(warden.ask(Request::Check), Outcome::Done);
    assert_eq!(warden.ban("127.66.1.1/32", 60), Outcome::Done);
    lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
    assert_eq!(warden.ban("127.66.1.1/32", 60), Outcome::NoSet);
    assert_eq!(warden.ban("fd00:66:1:2::/64", 60), Outcome::NoSet);
    for wrong in [
        &["ipset", "create", "rblfilter4", "hash:ip", "timeout", "60"][..],
        &["ipset", "create", "rblfilter4", "hash:net"],
        &[
            "ipset",
            "create",
            "rblfilter4",
            "hash:net",
            "family",
            "inet6",
            "timeout",
            "60",
        ],
    ] {
        lab.run_ok(wrong).unwrap();
        assert_eq!(
            warden.ban("127.66.1.1/32", 60),
            Outcome::WrongSet,
            "{wrong:?}"
        );
        lab.run_ok(&["ipset", "destroy", "rblfilter4"]).unwrap();
    }
    lab.run_ok(&[
        "ipset",
        "create",
        "rblfilter4",
        "hash:net",
        "timeout",
        "60",
        "maxelem",
        "1",
    ])
    .unwrap();
    assert_eq!(warden.ban("127.66.1.1/32", 60), Outcome::Done);
    assert_eq!(warden.ban("127.66.1.2/32", 60), Outcome::Full);
}

#[test]
fn it_trusts_no_configuration_that_others_can_write() {
    let lab = installed("");
    lab.run_ok(&["chmod", "0660", "/etc/courier/filters/rblfilter.toml"])
        .unwrap();
    let mut warden = Warden::start(&lab);
    assert_eq!(warden.process.wait().unwrap().code(), Some(78));
}

#[test]
fn it_ends_when_the_filter_closes_the_socket() {
    let lab = installed("");
    let Warden {
        socket,
        mut process,
    } = Warden::start(&lab);
    drop(socket);
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

/// libipset is GPL-2.0-only and hickory needs Apache-2.0 code: one program of
/// both could not be distributed.
#[test]
fn the_warden_alone_links_libipset() {
    let programs = product().programs;
    let libraries = |program: &str| {
        let output = Command::new("ldd")
            .arg(programs.join(program))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(libraries("rblfilter-warden").contains("libipset"));
    assert!(!libraries("rblfilter").contains("libipset"));
    assert!(libraries("rblfilter").contains("libc.so"), "ldd read it");
}
