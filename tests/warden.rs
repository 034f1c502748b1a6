//! The warden, driven by a worker that lies: it bans what it may, and no more.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use rblfilter_lab::{Config, Lab, Process, wait_for};
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

    fn unban(&self, network: &str) -> Outcome {
        self.ask(Request::Unban {
            network: network.parse().unwrap(),
        })
    }

    fn by_hand(&self, network: &str, seconds: u32, force: bool) -> Outcome {
        self.ask(Request::BanByHand {
            network: network.parse().unwrap(),
            seconds,
            force,
        })
    }

    /// Sends all before it reads the first answer.
    fn ask_all(&self, requests: &[Request]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for some in requests.chunks(64) {
            for request in some {
                let bytes = request.encode(1);
                send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
            }
            for _ in some {
                let mut reply = [0; 64];
                let len = recv(self.socket.as_raw_fd(), &mut reply, MsgFlags::empty()).unwrap();
                outcomes.push(Reply::decode(&reply[..len]).unwrap().outcome);
            }
        }
        outcomes
    }
}

/// A configuration with this backend, `more` being further keys of `[ban]`.
fn of(backend: &str, more: &str) -> String {
    format!("[ban]\nbackend = \"{backend}\"\n{more}")
}

/// What the kernel's sets of one family hold, sorted.
fn members(lab: &Lab, backend: &str, ipv6: bool) -> Vec<String> {
    let members = banned(lab, backend, ipv6).into_iter();
    let mut nets: Vec<String> = members.map(|member| member.net).collect();
    nets.sort();
    nets
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
    for backend in BACKENDS {
        let lab = installed(&of(backend, ""));
        let warden = Warden::start(&lab);
        let nets = ["127.66.1.2", "127.66.1.3", "fd00:66:1:2::/64"];
        for net in nets {
            let network: ipnetwork::IpNetwork = net.parse().unwrap();
            assert_eq!(warden.ban(&network.to_string(), 60), Outcome::Done);
        }
        lab.run_ok(&["ipset", "create", "another", "hash:net"])
            .unwrap();
        lab.run_ok(&["ipset", "add", "another", nets[0]]).unwrap();
        for net in [nets[0], nets[2], "127.66.9.9", "127.66.1.0/24"] {
            assert_eq!(warden.unban(net), Outcome::Done, "{net}: it is not in now");
        }
        assert_eq!(members(&lab, backend, false), [nets[1]]);
        assert!(members(&lab, backend, true).is_empty());
        assert_eq!(lab.set_members("another").unwrap().len(), 1);
        // One that was let in can be banned anew, for a shorter time too.
        assert_eq!(warden.ban("127.66.1.2/32", 30), Outcome::Done);
        lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
        assert_eq!(warden.unban(nets[1]), Outcome::NoSet);
    }
}

#[test]
fn by_hand_networks_can_be_banned_but_never_the_vital() {
    for backend in BACKENDS {
        let toml = format!(
            "{}[allow]\nnetworks = [\"10.0.0.0/8\"]\n[lookup]\nnameservers = [\"10.9.9.53:53\"]\n",
            of(backend, "")
        );
        let lab = installed(&toml);
        for words in [
            "ip address add 10.77.0.2/32 dev lo",
            "ip route add default via 10.77.0.1 dev lo onlink",
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            lab.run_ok(&words).unwrap();
        }
        let warden = Warden::start(&lab);
        for (network, force, expected) in [
            ("127.64.0.0/10", false, Outcome::Done),
            ("fd00:7700::/32", false, Outcome::Done),
            ("127.66.1.2/32", false, Outcome::Done),
            ("10.1.0.0/16", false, Outcome::RefusedAllowlisted),
            ("10.1.0.0/16", true, Outcome::Done),
            ("10.0.0.0/8", true, Outcome::RefusedProtected),
            ("10.9.9.53/32", true, Outcome::RefusedProtected),
            ("10.77.0.1/32", true, Outcome::RefusedProtected),
            ("10.77.0.2/32", true, Outcome::RefusedProtected),
            ("127.0.0.0/8", true, Outcome::RefusedProtected),
            ("0.0.0.0/1", true, Outcome::RefusedRange),
            ("fd00::/24", true, Outcome::RefusedRange),
            ("127.64.0.1/10", true, Outcome::RefusedRange),
        ] {
            let outcome = warden.by_hand(network, 60, force);
            assert_eq!(outcome, expected, "{backend}: {network}, force {force}");
        }
        assert_eq!(
            members(&lab, backend, false),
            ["10.1.0.0/16", "127.64.0.0/10", "127.66.1.2"]
        );
        // A verdict on the gateway does not come to a ban either.
        assert_eq!(warden.ban("10.77.0.1/32", 60), Outcome::RefusedProtected);
        let restore = |network: &str| {
            warden.ask(Request::Restore {
                network: network.parse().unwrap(),
                seconds: 90,
            })
        };
        assert_eq!(restore("127.66.1.2/32"), Outcome::Extended);
        assert_eq!(restore("127.128.0.0/12"), Outcome::Done);
        assert_eq!(restore("10.1.2.3/32"), Outcome::RefusedProtected);
    }
}

#[test]
fn each_kind_has_a_bound_of_its_own() {
    let lab = installed("[ban]\nnew-per-second = 100\n");
    let warden = Warden::start(&lab);
    let network = |number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        ipnetwork::IpNetwork::from(std::net::IpAddr::from([127, 67 + a, b, c]))
    };
    let bans: Vec<Request> = (0..1000)
        .map(|number| Request::Ban {
            network: network(number),
            seconds: 60,
        })
        .collect();
    let begun = Instant::now();
    let outcomes = warden.ask_all(&bans);
    let took = begun.elapsed();
    let done = outcomes.iter().filter(|o| **o == Outcome::Done).count();
    let refused = outcomes.iter().filter(|o| **o == Outcome::TooMany).count();
    assert_eq!(done + refused, 1000);
    let most = 101 + usize::try_from(took.as_millis()).unwrap() / 10;
    assert!((100..=most).contains(&done), "{done} in {took:?}");
    let restores: Vec<Request> = (1000..3000)
        .map(|number| Request::Restore {
            network: network(number),
            seconds: 60,
        })
        .collect();
    let outcomes = warden.ask_all(&restores);
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done));
}

#[test]
fn many_at_once_are_answered_each_by_itself() {
    for backend in BACKENDS {
        let lab = installed(&of(backend, ""));
        let warden = Warden::start(&lab);
        assert_eq!(warden.ban("127.66.1.1/32", 600), Outcome::Done);
        assert_eq!(warden.ban("127.66.1.2/32", 60), Outcome::Done);
        // Ended, or taken out by somebody else, since the warden last looked.
        let gone = if backend == "ipset" {
            "ipset del rblfilter4 127.66.1.2"
        } else {
            "nft delete element inet rblfilter rblfilter4 { 127.66.1.2 }"
        };
        lab.run_ok(&gone.split(' ').collect::<Vec<_>>()).unwrap();
        let ban = |network: &str, seconds| Request::Ban {
            network: network.parse().unwrap(),
            seconds,
        };
        let unban = |network: &str| Request::Unban {
            network: network.parse().unwrap(),
        };
        let requests = [
            ban("127.66.1.1/32", 60),
            ban("127.66.1.2/32", 600),
            ban("127.66.1.3/32", 60),
            ban("fd00:66:1:2::/64", 60),
            unban("127.66.1.9/32"),
            ban("0.0.0.0/0", 60),
            ban("127.66.1.3/32", 600),
            unban("127.66.1.1/32"),
            Request::Check,
            ban("127.66.1.1/32", 30),
        ];
        let expected = {
            use Outcome::{Done, Extended, Kept, RefusedRange};
            let first = [Kept, Extended, Done, Done, Done, RefusedRange];
            [&first[..], &[Extended, Done, Done, Done]].concat()
        };
        assert_eq!(warden.ask_all(&requests), expected, "{backend}");
        assert_eq!(
            members(&lab, backend, false),
            ["127.66.1.1", "127.66.1.2", "127.66.1.3"]
        );
        assert_eq!(members(&lab, backend, true), ["fd00:66:1:2::/64"]);
        lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
        let again = [ban("127.66.1.1/32", 60), ban("127.66.1.5/32", 60)];
        assert_eq!(
            warden.ask_all(&again),
            [Outcome::Remade, Outcome::Done],
            "{backend}"
        );
        assert_eq!(members(&lab, backend, false), ["127.66.1.1", "127.66.1.5"]);
    }
}

/// What a set held is gone by itself when its time has come.
#[test]
fn a_ban_ends_in_the_kernel() {
    for backend in BACKENDS {
        let lab = installed(&of(backend, ""));
        let warden = Warden::start(&lab);
        for net in ["127.66.1.1/32", "fd00:66:1:2::/64"] {
            assert_eq!(warden.ban(net, 2), Outcome::Done);
        }
        assert_eq!(members(&lab, backend, false).len(), 1);
        let begun = Instant::now();
        let ended = || {
            let left = members(&lab, backend, false).len() + members(&lab, backend, true).len();
            (left == 0).then_some(())
        };
        wait_for(LIMIT, ended).unwrap_or_else(|| panic!("{backend}: it ends"));
        assert!(begun.elapsed() > Duration::from_millis(1500), "{backend}");
        assert_eq!(warden.ban("127.66.1.1/32", 60), Outcome::Done, "{backend}");
    }
}

#[test]
fn in_a_full_set_the_bans_that_end_soonest_make_room() {
    for backend in BACKENDS {
        let lab = installed(&of(backend, "max-entries = 64\n"));
        let warden = Warden::start(&lab);
        let ban = |host: u32| warden.ban(&format!("127.66.1.{host}/32"), 6000 - host);
        let mut outcomes: Vec<Outcome> = (1..=64).map(ban).collect();
        outcomes.extend((101..=108).map(|host| warden.ban(&format!("127.66.1.{host}/32"), 9000)));
        assert!(
            outcomes.iter().all(|outcome| outcome.is_new()),
            "{outcomes:?}"
        );
        assert!(outcomes[64..].contains(&Outcome::Replaced), "{backend}");
        let left = members(&lab, backend, false);
        assert!(left.len() <= 72, "{backend}: {}", left.len());
        assert!(
            !left.contains(&"127.66.1.64".to_owned()),
            "{backend}: it ended soonest"
        );
        for host in [1, 2, 101, 108] {
            assert!(
                left.contains(&format!("127.66.1.{host}")),
                "{backend}: {host}"
            );
        }
    }
}

#[test]
fn or_the_set_is_enlarged_and_keeps_what_it_holds() {
    for backend in BACKENDS {
        let lab = installed(&of(backend, "max-entries = 64\nwhen-full = \"grow\"\n"));
        let warden = Warden::start(&lab);
        assert_eq!(warden.by_hand("127.70.0.0/16", 9000, false), Outcome::Done);
        let ban = |host: u32| warden.ban(&format!("127.66.1.{host}/32"), 6000);
        let outcomes: Vec<Outcome> = (1..=200).map(ban).collect();
        assert!(
            outcomes.iter().all(|outcome| outcome.is_new()),
            "{outcomes:?}"
        );
        assert!(outcomes.contains(&Outcome::Grown), "{backend}");
        assert!(!outcomes.contains(&Outcome::Replaced), "{backend}");
        assert_eq!(members(&lab, backend, false).len(), 201, "{backend}");
        assert_eq!(warden.ban("127.66.1.1/32", 5000), Outcome::Kept);
        if backend == "ipset" {
            let now = timeout(&lab, "127.66.1.1").unwrap();
            assert!((5900..=6000).contains(&now), "{now}");
            // The rule is that of the larger set now, and no other is left.
            let next = lab.send(&impatient(), ip("127.66.1.7"));
            assert!(next.not_answered(), "{next:?}");
            let names = lab.run_ok(&["ipset", "list", "-name"]).unwrap();
            assert_eq!(names.lines().count(), 2, "{names}");
        }
    }
}

#[test]
fn a_set_that_is_gone_is_made_anew_and_said_so() {
    for backend in BACKENDS {
        let lab = installed(&of(backend, ""));
        let warden = Warden::start(&lab);
        assert_eq!(warden.ask(Request::Check), Outcome::Done);
        assert_eq!(warden.ban("127.66.1.1/32", 60), Outcome::Done);
        lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
        assert_eq!(
            warden.ban("127.66.1.2/32", 60),
            Outcome::Remade,
            "{backend}"
        );
        assert_eq!(warden.ban("127.66.1.1/32", 60), Outcome::Done);
        // The other family's is another set.
        assert_eq!(warden.ban("fd00:66:1:2::/64", 60), Outcome::Remade);
        assert_eq!(members(&lab, backend, false), ["127.66.1.1", "127.66.1.2"]);
        lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
        assert_eq!(warden.ask(Request::Check), Outcome::Remade);
        assert_eq!(warden.ask(Request::Check), Outcome::Done);
        // And what it made can be used by the rules.
        lab.run_ok(&["rblfilter", "firewall", "apply"]).unwrap();
        lab.run_ok(&["rblfilter", "firewall", "check"]).unwrap();
    }
}

#[test]
fn nftables_sets_of_another_kind_are_not_ours() {
    let lab = installed(&of("nftables", ""));
    lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
    let warden = Warden::start(&lab);
    for wrong in [
        "add set inet rblfilter rblfilter4 { type ipv4_addr; }",
        "add set inet rblfilter rblfilter4 { type ipv6_addr; flags timeout; }",
        "add set inet rblfilter rblfilter4 { type ipv4_addr; flags interval, timeout; }",
    ] {
        lab.run_ok(&["nft", &format!("add table inet rblfilter; {wrong}")])
            .unwrap();
        assert_eq!(warden.ask(Request::Check), Outcome::WrongSet, "{wrong}");
        assert_eq!(
            warden.ban("127.66.1.1/32", 60),
            Outcome::WrongSet,
            "{wrong}"
        );
        let output = lab.run(&["rblfilter", "firewall", "apply"]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("rblfilter4"), "{said}");
        assert!(!output.status.success());
        lab.run_ok(&["nft", "delete table inet rblfilter"]).unwrap();
    }
}

#[test]
fn in_nftables_a_wider_network_takes_the_place_of_those_within() {
    let lab = installed(&of("nftables", ""));
    let warden = Warden::start(&lab);
    for (network, expected) in [
        ("fd00:66:1:1::/64", Outcome::Done),
        ("fd00:66:1:2::/64", Outcome::Done),
        ("fd00:66:1:2::5/128", Outcome::Done),
        ("fd00:66:1::/48", Outcome::Done),
        ("fd00:66:1:3::/64", Outcome::Kept),
        ("fd00:66:2::/48", Outcome::Done),
    ] {
        assert_eq!(warden.ban(network, 60), expected, "{network}");
    }
    assert_eq!(
        members(&lab, "nftables", true),
        ["fd00:66:1:2::5", "fd00:66:1::/48", "fd00:66:2::/48"]
    );
    // The last network of all has no address after it.
    assert_eq!(warden.by_hand("240.0.0.0/8", 60, false), Outcome::Done);
    assert_eq!(warden.by_hand("255.0.0.0/8", 60, false), Outcome::Done);
    assert_eq!(
        members(&lab, "nftables", false),
        ["240.0.0.0/8", "255.0.0.0/8"]
    );
    assert_eq!(warden.unban("255.0.0.0/8"), Outcome::Done);
    assert_eq!(warden.unban("0.0.0.0/0"), Outcome::RefusedRange);
    assert_eq!(members(&lab, "nftables", false), ["240.0.0.0/8"]);
}

#[test]
fn in_nftables_the_larger_time_stands() {
    let lab = installed(&of("nftables", ""));
    let warden = Warden::start(&lab);
    for (network, seconds, expected) in [
        ("127.66.1.1/32", 60, Outcome::Done),
        ("127.66.1.1/32", 600, Outcome::Extended),
        ("127.66.1.1/32", 60, Outcome::Kept),
        ("fd00:66:1:1::/64", 60, Outcome::Done),
        ("fd00:66:1:1::/64", 600, Outcome::Extended),
        ("fd00:66:1:1::/64", 60, Outcome::Kept),
    ] {
        assert_eq!(
            warden.ban(network, seconds),
            expected,
            "{network} {seconds}"
        );
    }
    // One that starts later reads it from the kernel.
    let another = Warden::start(&lab);
    assert_eq!(another.ban("127.66.1.1/32", 500), Outcome::Kept);
    assert_eq!(another.ban("127.66.1.1/32", 900), Outcome::Extended);
    assert_eq!(another.ban("fd00:66:1:1::/64", 500), Outcome::Kept);
    assert_eq!(another.ban("fd00:66:1:1::/64", 900), Outcome::Extended);
    let listed = lab
        .run_ok(&["nft", "list", "table", "inet", "rblfilter"])
        .unwrap();
    assert_eq!(listed.matches("timeout 15m").count(), 2, "{listed}");
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
/// warden up after thirty seconds.
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
    let read = begun.elapsed();
    assert!(read < Duration::from_secs(30), "{read:?}");
    let begun = Instant::now();
    for host in 0..20 {
        // Whether a million and one is too many, the kernel counts by the region.
        let outcome = warden.ban(&format!("127.66.1.{host}/32"), 60);
        assert!(
            matches!(outcome, Outcome::Done | Outcome::Replaced),
            "{outcome:?}"
        );
    }
    assert!(
        begun.elapsed() < read.max(Duration::from_secs(5)),
        "not read again: {:?}, at first {read:?}",
        begun.elapsed()
    );
    for _ in 0..3 {
        let look = warden.ask(Request::Look { ipv6: false });
        assert_eq!(look, Outcome::Done, "nor looked at in vain");
    }
    lab.run_ok(&["ipset", "flush", "rblfilter4"]).unwrap();
    let look = warden.ask(Request::Look { ipv6: false });
    assert_eq!(look, Outcome::Emptied);
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
    for set in ["rblfilter4", "rblfilter6"] {
        lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
        assert!(lab.run_ok(&["ipset", "list", set]).is_err());
    }
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
    // One that somebody else made smaller is full sooner.
    assert_eq!(warden.ban("127.66.1.1/32", 60), Outcome::Done);
    assert_eq!(warden.ban("127.66.1.2/32", 60), Outcome::Replaced);
}

#[test]
fn a_look_tells_who_emptied_a_set_and_costs_nothing() {
    for backend in BACKENDS {
        let lab = installed(&of(backend, ""));
        let warden = Warden::start(&lab);
        let look = |ipv6| warden.ask(Request::Look { ipv6 });
        assert_eq!(look(false), Outcome::Done, "{backend}");
        for host in 1..=20 {
            let network = format!("127.66.1.{host}/32");
            assert_eq!(warden.ban(&network, 600), Outcome::Done);
            let network = format!("fd00:66:1:{host}::/64");
            assert_eq!(warden.ban(&network, 600), Outcome::Done);
        }
        assert_eq!(look(false), Outcome::Done, "{backend}");
        assert_eq!(look(true), Outcome::Done, "{backend}");
        for set in ["rblfilter4", "rblfilter6", "rblfilter6-nets"] {
            match backend {
                "ipset" if set.ends_with("nets") => continue,
                "ipset" => lab.run_ok(&["ipset", "flush", set]).unwrap(),
                _ => lab
                    .run_ok(&["nft", "flush", "set", "inet", "rblfilter", set])
                    .unwrap(),
            };
        }
        assert_eq!(look(false), Outcome::Emptied, "{backend}");
        assert_eq!(look(true), Outcome::Emptied, "{backend}");
        assert_eq!(warden.ban("127.66.1.1/32", 60), Outcome::Done);
        assert_eq!(look(false), Outcome::Done, "{backend}");
        lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
        assert_eq!(look(false), Outcome::Remade, "{backend}");
        assert_eq!(look(false), Outcome::Unused, "{backend}");
        lab.run_ok(&["rblfilter", "firewall", "apply"]).unwrap();
        assert_eq!(look(false), Outcome::Done, "{backend}");
    }
}

/// Of one family, with what somebody else put in, and of nothing else.
#[test]
fn a_set_is_emptied_for_an_admin() {
    for backend in BACKENDS {
        let lab = installed(&of(backend, ""));
        let warden = Warden::start(&lab);
        let flush = |ipv6| warden.ask(Request::Flush { ipv6 });
        assert_eq!(warden.ban("127.66.1.1/32", 600), Outcome::Done);
        assert_eq!(warden.ban("fd00:66:1:2::/64", 600), Outcome::Done);
        assert_eq!(warden.by_hand("127.67.0.0/16", 600, false), Outcome::Done);
        let words: &[&str] = match backend {
            "ipset" => &["ipset", "add", "rblfilter4", "127.9.9.9"],
            _ => &[
                "nft",
                "add element inet rblfilter rblfilter4 { 127.9.9.9 timeout 1h }",
            ],
        };
        lab.run_ok(words).unwrap();
        lab.run_ok(&["ipset", "create", "other", "hash:net"])
            .unwrap();
        lab.run_ok(&["ipset", "add", "other", "127.9.9.9"]).unwrap();
        assert_eq!(banned(&lab, backend, false).len(), 3);
        assert_eq!(flush(false), Outcome::Done, "{backend}");
        assert!(banned(&lab, backend, false).is_empty());
        assert_eq!(banned(&lab, backend, true).len(), 1);
        assert_eq!(lab.set_members("other").unwrap().len(), 1);
        let look = warden.ask(Request::Look { ipv6: false });
        assert_eq!(look, Outcome::Done, "{backend}: it was not somebody else");
        assert_eq!(warden.ban("127.66.1.1/32", 600), Outcome::Done);
        lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
        assert_eq!(flush(true), Outcome::NoSet, "{backend}");
    }
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

#[test]
fn in_a_dry_run_all_is_answered_and_the_kernel_holds_nobody() {
    let lab = Lab::start(Config::default()).unwrap();
    product().start(&lab, &of("dry-run", "")).unwrap();
    let warden = Warden::start(&lab);
    assert_eq!(warden.ban("127.66.1.2/32", 60), Outcome::Done);
    assert_eq!(warden.ban("127.66.1.2/32", 600), Outcome::Extended);
    assert_eq!(warden.unban("127.66.1.2/32"), Outcome::Done);
    assert!(!lab.has_set("rblfilter4").unwrap());
    let rules = lab.run_ok(&["iptables", "-S"]).unwrap();
    assert!(!rules.contains("rblfilter"), "{rules}");
}
