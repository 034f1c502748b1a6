//! Whatever of ours fails, mail flows, and the log says what is wrong, once.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::*;
use rblfilter_lab::{Config, Dns, Lab, wait_for};

/// The lines of the log that contain `part`: exactly one.
fn said_once(lab: &Lab, part: &str) -> String {
    let line = lab.wait_for_log(part, LIMIT).unwrap();
    let lines = lab.log_matching(part);
    assert_eq!(lines.len(), 1, "{lines:?}");
    line
}

#[test]
fn a_dead_dns_server_delays_but_refuses_nothing() {
    for (dns, reason) in [(Dns::None, ": no "), (Dns::Silent, ": no answer in time")] {
        // Else couriertcpd itself would wait for the client's name.
        let tcpd_options = "-nodnslookup".into();
        let mut lab = lab(
            Config {
                dns,
                tcpd_options,
                ..Config::default()
            },
            &format!("watch = \"off\"\n[lookup]\nlimit = \"1s\"\n{OF_LOOKUP}"),
        );
        for (count, source) in [LISTED, CLEAN, "127.66.1.3"].iter().enumerate() {
            let begun = Instant::now();
            assert_delivered(&lab, &message(), source, count + 1);
            // The first may wait for the list, no other does.
            let most = if count == 0 { 4000 } else { 900 };
            assert!(
                begun.elapsed() < Duration::from_millis(most),
                "{count}: {:?}",
                begun.elapsed()
            );
        }
        let line = said_once(&lab, "degraded,what=dnsbl,zone=bl.test: ");
        assert!(line.contains(reason), "{line}");
        assert_no_bans(&lab);
        lab.dns_start(Dns::Rbldnsd).unwrap();
        // It comes back by itself.
        said_once(&lab, "recovered,what=dnsbl,zone=bl.test,after");
        let outcome = lab.send(&message(), ip("127.66.1.4"));
        assert_banned(&lab, &outcome, "127.66.1.4", "127.66.1.4");
    }
}

#[test]
fn a_list_that_answers_errors_convicts_nobody() {
    let listed = vec![("127.66.0.0/16".into(), "127.255.255.254".parse().unwrap())];
    let lab = lab(
        Config {
            listed,
            ..Config::default()
        },
        OWN_ZONE,
    );
    assert_delivered(&lab, &message(), LISTED, 1);
    let line = said_once(&lab, "degraded,what=dnsbl,zone=bl.test: ");
    assert!(
        line.contains("127.255.255.254") && line.contains("public resolver"),
        "{line}"
    );
    assert_no_bans(&lab);
}

#[test]
fn a_missing_set_is_made_anew_and_the_missing_rule_is_told_by_the_check() {
    let lab = lab(Config::default(), OWN_ZONE);
    lab.run_ok(&["rblfilter", "firewall", "remove"]).unwrap();
    let outcome = lab.send(&message(), ip(LISTED));
    assert!(!outcome.accepted(), "{outcome:?}");
    assert_ended(&lab, LISTED);
    lab.wait_for_log(",action=ban,", LIMIT).unwrap();
    lab.wait_for_log("the set rblfilter4 was missing", LIMIT)
        .unwrap();
    assert_eq!(lab.set_members("rblfilter4").unwrap().len(), 1);
    assert_delivered(&lab, &message(), CLEAN, 1);
    // The rule is not the warden's to make.
    let output = lab.run(&["rblfilter", "firewall", "check"]).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("rblfilter firewall apply"), "{said}");
    lab.run_ok(&["rblfilter", "firewall", "apply"]).unwrap();
    let outcome = lab.send(&message(), ip("127.66.1.4"));
    assert_banned(&lab, &outcome, "127.66.1.4", "127.66.1.4");
}

#[test]
fn a_set_of_another_type_bans_nobody_and_is_said_at_the_start() {
    let lab = Lab::start(Config::default()).unwrap();
    lab.run_ok(&["ipset", "create", "rblfilter4", "hash:ip"])
        .unwrap();
    product().start(&lab, OWN_ZONE).unwrap();
    let line = said_once(&lab, "degraded,what=set,name=rblfilter4");
    assert!(line.contains("hash:net"), "{line}");
    assert!(!lab.send(&message(), ip(LISTED)).accepted());
    assert!(lab.set_members("rblfilter4").unwrap().is_empty());
    assert_delivered(&lab, &message(), CLEAN, 1);
}

#[test]
fn without_the_capability_nobody_is_banned() {
    let lab = Lab::start(Config::default()).unwrap();
    product().install(&lab, OWN_ZONE, &["--no-start"]).unwrap();
    lab.run_ok(&["setcap", "-r", "/usr/lib/courier/rblfilter-warden"])
        .unwrap();
    product().filterctl_start(&lab).unwrap();
    let line = said_once(&lab, "degraded,what=warden");
    assert!(
        line.contains("not permitted") && line.contains("cap_net_admin"),
        "{line}"
    );
    for host in [2, 3] {
        assert!(
            !lab.send(&message(), ip(&format!("127.66.1.{host}")))
                .accepted()
        );
    }
    said_once(&lab, "degraded,what=warden");
    assert_no_bans(&lab);
    assert_delivered(&lab, &message(), CLEAN, 1);
}

#[test]
fn without_a_warden_nobody_is_banned() {
    let lab = Lab::start(Config::default()).unwrap();
    product().install(&lab, OWN_ZONE, &["--no-start"]).unwrap();
    fs::remove_file("/usr/lib/courier/rblfilter-warden").unwrap();
    product().filterctl_start(&lab).unwrap();
    said_once(&lab, "degraded,what=warden");
    lab.wait_for_log(
        "warden,pause=0s: cannot start /usr/lib/courier/rblfilter-warden",
        LIMIT,
    )
    .unwrap();
    assert!(!lab.send(&message(), ip(LISTED)).accepted());
    assert_ended(&lab, LISTED);
    assert_delivered(&lab, &message(), CLEAN, 1);
}

#[test]
fn a_warden_that_dies_is_started_again() {
    let lab = lab(Config::default(), OWN_ZONE);
    let warden = || {
        lab.processes()
            .into_iter()
            .find(|p| p.comm.starts_with("rblfilter-ward") && p.state != 'Z')
    };
    let first = warden().expect("the warden runs").pid;
    lab.kill(first, nix::sys::signal::Signal::SIGKILL).unwrap();
    let again = || warden().filter(|warden| warden.pid != first);
    wait_for(LIMIT, again).expect("another one, at once");
    assert!(!lab.send(&message(), ip("127.66.1.9")).accepted());
    wait_for(LIMIT, || {
        lab.send(&impatient(), ip("127.66.2.1"));
        (!lab.set_members("rblfilter4").unwrap().is_empty()).then_some(())
    })
    .expect("banned by a new one");
}

#[test]
fn a_wrong_configuration_accepts_everything_until_it_is_right() {
    let lab = Lab::start(Config::default()).unwrap();
    product().install(&lab, OWN_ZONE, &["--no-start"]).unwrap();
    let file = "/etc/courier/filters/rblfilter.toml";
    fs::write(file, format!("mode = \"enforce\"\n{OWN_ZONE}wieght = 3\n")).unwrap();
    product().filterctl_start(&lab).unwrap();
    let line = said_once(&lab, "disabled: ");
    assert!(
        line.contains(&format!(
            "cannot read {file}: line 7: unknown key \"wieght\""
        )),
        "{line}"
    );
    assert_delivered(&lab, &message(), LISTED, 1);
    assert_delivered(&lab, &message(), CLEAN, 2);
    assert_no_bans(&lab);
    fs::write(file, OWN_ZONE).unwrap();
    product().filterctl_stop(&lab).unwrap();
    product().filterctl_start(&lab).unwrap();
    let outcome = lab.send(&message(), ip(LISTED));
    assert_banned(&lab, &outcome, LISTED, LISTED);
}

/// What the filter answers to these bytes, to the end of its answer.
fn answer_to(bytes: &[u8], close: bool) -> String {
    let mut stream = UnixStream::connect(filter_socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // A filter that has seen enough may close before all is written.
    let _ = stream.write_all(bytes);
    if close {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn garbage_on_the_filter_socket_is_accepted_and_costs_nothing() {
    let lab = lab(Config::default(), OWN_ZONE);
    let fifo = "/run/lab-fifo";
    lab.run_ok(&["mkfifo", fifo]).unwrap();
    let control = |path: &str| format!("/etc/hostname\n{path}\n\n").into_bytes();
    for (what, bytes, close) in [
        ("nothing", vec![], true),
        ("an empty line", b"\n".to_vec(), false),
        ("one path", b"/etc/hostname\n\n".to_vec(), false),
        ("half a request", b"/etc/hostname\n/etc/ho".to_vec(), true),
        ("binary", (0..=255).cycle().take(4096).collect(), true),
        ("too many paths", vec![b'x'; 70_000], true),
        ("a folder", control("/etc"), false),
        ("a pipe", control(fifo), false),
        ("a device", control("/dev/zero"), false),
        ("no file", control("/nowhere"), false),
        ("another file", control("/etc/passwd"), false),
    ] {
        let begun = Instant::now();
        let answer = answer_to(&bytes, close);
        assert!(
            answer.starts_with("250 ") || answer.is_empty() && what == "too many paths",
            "{what}: {answer:?}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{what}: {:?}",
            begun.elapsed()
        );
    }
    said_once(&lab, "badrequest: more than 65536 bytes of paths");
    assert_delivered(&lab, &message(), CLEAN, 1);
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
}

#[test]
fn hundreds_of_slow_peers_do_not_hold_up_a_message() {
    let lab = lab(Config::default(), OWN_ZONE);
    let mut slow: Vec<UnixStream> = (0..400)
        .map(|_| UnixStream::connect(filter_socket()).unwrap())
        .collect();
    for stream in &mut slow {
        stream.write_all(b"/etc/host").unwrap();
    }
    let begun = Instant::now();
    assert_delivered(&lab, &message(), CLEAN, 1);
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    // Each is answered when its five seconds are over.
    let mut answer = String::new();
    slow[399].set_read_timeout(Some(LIMIT)).unwrap();
    slow[399].read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "250 Ok\n");
}

#[test]
fn a_message_from_an_unknown_process_passes_with_a_warning() {
    let lab = lab(Config::default(), OWN_ZONE);
    let control = "/run/lab-control";
    fs::write(control, format!("sbob@a.test\nfdns; x (y [{LISTED}])\nM1.2.3\nralice@lab.test\nusmtp\nOTCPREMOTEIP={LISTED}\n")).unwrap();
    let answer = answer_to(format!("/etc/hostname\n{control}\n\n").as_bytes(), false);
    assert_eq!(answer, "250 Ok\n");
    let line = said_once(&lab, "id=1.2.3,unidentified");
    assert!(line.contains(": "), "{line}");
    assert_no_bans(&lab);
}

#[test]
fn a_resolver_that_comes_later_is_found() {
    let lab = Lab::start(Config {
        tcpd_options: "-nodnslookup".into(),
        ..Config::default()
    })
    .unwrap();
    fs::write("/etc/resolv.conf", "").unwrap();
    product().start(&lab, OWN_ZONE).unwrap();
    said_once(&lab, "degraded,what=resolver");
    assert_delivered(&lab, &message(), LISTED, 1);
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\n").unwrap();
    said_once(&lab, "recovered,what=resolver");
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
}

/// A list's key is in no line of the log, whatever is wrong with the file.
#[test]
fn a_key_is_never_told() {
    let key = "abcdefghijklmnopqrstuvwxyz";
    for toml in [
        format!("[[dnsbl]]\nzone = \"{key}.bl.test\"\n"),
        format!("dnsbl = [\"{key}.bl.test\"]\n"),
        format!("[[dnsbl]]\nzone = \"{key}.bl.test\"\n{key} = 1\n"),
        format!("[[dnsbl]]\nzone = \"{key}..test\"\n"),
        format!("[[dnsbl]]\nzone = \"{key}.bl.test\"\nzone = \"{key}.bl.test\"\n"),
        format!("allow = \"{key}\"\n"),
    ] {
        let lab = Lab::start(Config {
            dns: Dns::None,
            tcpd_options: "-nodnslookup".into(),
            ..Config::default()
        })
        .unwrap();
        product().install(&lab, "", &["--no-start"]).unwrap();
        fs::write("/etc/courier/filters/rblfilter.toml", &toml).unwrap();
        product().filterctl_start(&lab).unwrap();
        assert_delivered(&lab, &message(), LISTED, 1);
        lab.wait_for_log("rblfilter[", LIMIT).unwrap();
        let check = lab.run(&["rblfilter", "config", "check"]).unwrap();
        let told = [
            lab.log_matching(""),
            vec![String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned()],
        ]
        .concat();
        assert!(
            !told.iter().any(|line| line.contains(key)),
            "{toml}: {told:?}"
        );
    }
}

#[test]
fn nameservers_can_be_configured_with_their_ports() {
    let lab = Lab::start(Config {
        tcpd_options: "-nodnslookup".into(),
        ..Config::default()
    })
    .unwrap();
    fs::write("/etc/resolv.conf", "").unwrap();
    let toml = format!("watch = \"off\"\n[lookup]\nnameservers = [\"127.0.0.1:53\"]\n{OF_LOOKUP}");
    product().start(&lab, &toml).unwrap();
    assert_banned(&lab, &lab.send(&message(), ip(LISTED)), LISTED, LISTED);
}
