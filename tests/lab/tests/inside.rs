//! What a test can see and do inside a lab.
#![allow(clippy::unwrap_used)] // Also in the helpers, which clippy.toml does not exempt.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use rblfilter_lab::smtp::{Client, Message};
use rblfilter_lab::{Config, Lab, wait_for};

const LIMIT: Duration = Duration::from_secs(10);
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 1, 2, 3);

#[test]
fn sessions_and_slots_are_seen_and_a_killed_one_shows_as_cut_off() {
    let lab = Lab::start(Config::default()).unwrap();
    assert_eq!(lab.slots_used().unwrap(), 0);
    let mut client = lab.connect(CLIENT).unwrap();
    assert_eq!(lab.block_on(client.read_reply()).unwrap().code, 220);
    let port = client.local_addr().unwrap().port();
    let sessions = lab.sessions().unwrap();
    assert_eq!(sessions.len(), 1);
    assert_eq!(
        sessions[0].remote,
        Some((IpAddr::V4(CLIENT), port)),
        "{sessions:?}"
    );
    assert_eq!(
        (sessions[0].comm.as_str(), sessions[0].ppid),
        ("courieresmtpd", lab.couriertcpd_pid().unwrap())
    );
    assert!(
        lab.environment(sessions[0].pid)
            .contains(&("TCPLOCALPORT".into(), "25".into()))
    );
    assert!(!lab.arguments(sessions[0].pid).is_empty());

    lab.kill(sessions[0].pid, Signal::SIGTERM).unwrap();
    let error = lab
        .block_on(client.command("EHLO client.test"))
        .unwrap_err();
    assert!(
        matches!(
            error.kind(),
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
        ),
        "{error}"
    );
    wait_for(LIMIT, || (lab.slots_used().unwrap() == 0).then_some(())).unwrap();
    // Until couriertcpd has reaped it, it can still be signalled.
    wait_for(LIMIT, || lab.kill(sessions[0].pid, Signal::SIGTERM).err()).unwrap();
}

#[test]
fn a_banned_client_is_not_answered() {
    let lab = Lab::start(Config::default()).unwrap();
    assert!(!lab.has_set("bans").unwrap());
    lab.run_ok(&["ipset", "create", "bans", "hash:net", "timeout", "600"])
        .unwrap();
    lab.run_ok(&["ipset", "add", "bans", "127.1.2.3", "timeout", "60"])
        .unwrap();
    lab.run_ok(&["ipset", "add", "bans", "127.9.0.0/16"])
        .unwrap();
    lab.run_ok(&[
        "iptables",
        "-I",
        "INPUT",
        "-m",
        "set",
        "--match-set",
        "bans",
        "src",
        "-j",
        "DROP",
    ])
    .unwrap();
    assert!(lab.has_set("bans").unwrap());
    let mut members = lab.set_members("bans").unwrap();
    members.sort_by(|a, b| a.net.cmp(&b.net));
    assert_eq!(
        members.iter().map(|m| m.net.as_str()).collect::<Vec<_>>(),
        ["127.1.2.3", "127.9.0.0/16"]
    );
    assert!(
        members[0]
            .timeout
            .is_some_and(|seconds| (50..=60).contains(&seconds)),
        "{members:?}"
    );

    let message = Message {
        patience: Duration::from_millis(300),
        ..Message::default()
    };
    assert!(lab.send(&message, CLIENT).not_answered());
    assert!(lab.send(&message, Ipv4Addr::new(127, 1, 2, 4)).accepted());
    assert!(lab.set_members("none").is_err());
}

#[test]
fn programs_run_inside_and_orphans_are_reaped() {
    let lab = Lab::start(Config {
        courier: false,
        ..Config::default()
    })
    .unwrap();
    assert_eq!(
        lab.run_ok(&["sh", "-c", "cat /proc/1/comm"]).unwrap(),
        "sh\n"
    );
    let output = lab
        .run(&["sh", "-c", "echo to stderr >&2; exit 3"])
        .unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(3), b"to stderr\n".as_slice())
    );
    assert!(lab.run_ok(&["false"]).is_err());
    assert_eq!(
        lab.command("id")
            .arg("-u")
            .user(5000, 5000)
            .output()
            .unwrap()
            .stdout,
        b"5000\n"
    );

    // Leaves a daemon behind that holds its output open: not waited for.
    assert_eq!(
        lab.run_ok(&["sh", "-c", "sleep 100 & echo done"]).unwrap(),
        "done\n"
    );
    let mut cat = lab
        .command("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", cat.pid())).unwrap();
    assert_eq!(comm, "cat\n");
    assert!(cat.wait().unwrap().success());
    assert!(cat.signal(Signal::SIGTERM).is_err());
    lab.run_ok(&["sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.01 &) ; done"])
        .unwrap();
    let zombies = || lab.processes().iter().any(|process| process.state == 'Z');
    let orphans = || {
        lab.processes()
            .iter()
            .filter(|process| process.comm == "sleep")
            .count()
    };
    // The two that stay are pid 1's own and the daemon's.
    wait_for(LIMIT, || (orphans() == 2 && !zombies()).then_some(())).unwrap();
}

#[test]
fn threads_of_the_test_are_inside_too() {
    let lab = Lab::start(Config::default()).unwrap();
    std::thread::scope(|scope| {
        for last in 1..=4 {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                assert!(
                    runtime
                        .block_on(Message::default().send(Ipv4Addr::new(127, 5, 5, last).into()))
                        .accepted()
                );
            });
        }
    });
    assert_eq!(lab.wait_for_mail(4, LIMIT).unwrap().len(), 4);
    lab.clear_mailbox();
    assert!(lab.mailbox().is_empty());
    lab.clear_log();
    assert!(lab.log().is_empty());
    assert!(
        lab.wait_for_log("never said", Duration::from_millis(50))
            .is_err()
    );
}

#[test]
fn port_25_stops_and_starts_with_another_configuration() {
    let lab = Lab::start(Config {
        tarpit: false,
        ..Config::default()
    })
    .unwrap();
    lab.esmtpd_stop().unwrap();
    let refused = lab.send(&Message::default(), CLIENT).error.unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    lab.append_config("esmtpd", "BLACKLISTS='-block=bl.test,BLOCK2'\n")
        .unwrap();
    lab.esmtpd_start().unwrap();
    assert!(
        lab.send(&Message::default(), Ipv4Addr::new(127, 66, 0, 1))
            .accepted()
    );
    assert!(!lab.dns_queries().is_empty());
}

#[test]
fn hundreds_of_sessions_are_held_by_one_thread() {
    let lab = Lab::start(Config::default()).unwrap();
    let clients = lab.block_on(async {
        let mut clients = Vec::new();
        for number in 0..200 {
            let source = Ipv4Addr::new(127, 7, 0, number).into();
            let mut client = Client::connect(source, (Ipv4Addr::LOCALHOST, 25).into())
                .await
                .unwrap();
            assert_eq!(client.read_reply().await.unwrap().code, 220);
            clients.push(client);
        }
        clients
    });
    assert_eq!(lab.slots_used().unwrap(), 200);
    drop(clients);
    wait_for(LIMIT, || (lab.slots_used().unwrap() == 0).then_some(())).unwrap();
}
