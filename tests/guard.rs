//! The slot guard on a real Courier: who is ended when the slots run out, and
//! who never is.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nfq::{Queue, Verdict};
use rblfilter_lab::smtp::{Client, Message};
use rblfilter_lab::{Config, Dns, Lab, PASSWORD, USER, wait_for};

const SLOTS: u32 = 20;
/// With one more session, 95 % of the slots are in use: a second's silence is
/// borne.
const ALL_BUT_TWO: u32 = 18;
/// Clients that the guard never ends: smtpaccess gives them RELAYCLIENT.
const TRUSTED: &str = "127.9.0";

fn config() -> Config {
    Config {
        max_daemons: SLOTS,
        smtp_access: vec![format!("{TRUSTED}\tallow,RELAYCLIENT")],
        ..Config::default()
    }
}

/// A client that has read the greeting, and says nothing.
fn silent(lab: &Lab, source: &str) -> Client {
    let mut client = lab.connect(ip(source)).unwrap();
    assert_eq!(lab.block_on(client.read_reply()).unwrap().code, 220);
    client
}

/// Says all that comes before a message.
async fn up_to_data(client: &mut Client) {
    for line in [
        "EHLO client.test",
        "MAIL FROM:<bob@client.test>",
        "RCPT TO:<alice@lab.test>",
        "DATA",
    ] {
        assert!(client.command(line).await.unwrap().is_positive());
    }
}

/// So many sessions that stay.
fn trusted(lab: &Lab, count: u32) -> Vec<Client> {
    (1..=count)
        .map(|host| silent(lab, &format!("{TRUSTED}.{host}")))
        .collect()
}

/// The guard is at work.
fn assert_on(lab: &Lab) {
    lab.wait_for_log("guard,couriertcpd=", LIMIT).unwrap();
}

fn sheds(lab: &Lab) -> Vec<String> {
    lab.log_matching(": shed,ip=")
}

fn is_open(lab: &Lab, source: &str) -> bool {
    let sessions = lab.sessions().unwrap();
    sessions
        .iter()
        .any(|session| session.remote.is_some_and(|(peer, _)| peer == ip(source)))
}

/// At least so many are shed.
fn assert_sheds(lab: &Lab, least: usize) {
    let enough = || (sheds(lab).len() >= least).then_some(());
    wait_for(LIMIT, enough).unwrap_or_else(|| panic!("{:?}", sheds(lab)));
}

fn assert_shed(lab: &Lab, source: &str) {
    let line = format!("shed,ip=[::ffff:{source}]");
    lab.wait_for_log(&line, LIMIT).unwrap();
    assert_ended(lab, source);
}

/// One message was delivered, and stays the only one.
fn assert_delivered_once(lab: &Lab) {
    lab.wait_for_mail(1, LIMIT).unwrap();
    wait_for(LIMIT, || lab.queue_files().is_empty().then_some(())).unwrap();
    assert_eq!(lab.mailbox().len(), 1);
}

#[test]
fn clients_that_no_list_names_do_not_take_the_last_slot() {
    let lab = lab(config(), "");
    let mut wave = Vec::new();
    let begun = Instant::now();
    // Three times as many as there are slots.
    for host in 1..=60 {
        wave.push(silent(&lab, &format!("127.1.8.{host}")));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    assert_on(&lab);
    assert_delivered(&lab, &message(), CLEAN, 1);
    assert_sheds(&lab, 41);
    assert_no_bans(&lab);
    drop(wave);
    let line = lab.wait_for_log(",state=off,", LIMIT).unwrap();
    assert!(
        line.contains(&format!("shed={}", sheds(&lab).len())),
        "{line}"
    );
}

#[test]
fn a_dead_list_does_not_take_the_slots_either() {
    let config = Config {
        dns: Dns::Silent,
        tcpd_options: "-nodnslookup".into(),
        ..config()
    };
    let lab = lab(config, ZONE);
    let _wave: Vec<Client> = (1..=40)
        .map(|host| silent(&lab, &format!("127.66.8.{host}")))
        .collect();
    assert_on(&lab);
    assert_sheds(&lab, 20);
    assert_no_bans(&lab);
}

/// Clients whose names nobody tells take slots without being seen; those that
/// are seen and silent make room.
#[test]
fn slots_that_dns_takes_wake_the_guard_too() {
    let mut lab = lab(config(), "");
    let _silent: Vec<Client> = (1..=12)
        .map(|host| silent(&lab, &format!("127.1.8.{host}")))
        .collect();
    lab.dns_start(Dns::Silent).unwrap();
    let _waiting: Vec<Client> = (1..=8)
        .map(|host| lab.connect(ip(&format!("127.1.9.{host}"))).unwrap())
        .collect();
    assert_on(&lab);
    assert_sheds(&lab, 9);
    lab.wait_for_log(",state=off,", LIMIT).unwrap();
}

#[test]
fn below_the_high_water_mark_silence_is_borne() {
    let lab = lab(config(), "");
    let _trusted = trusted(&lab, 14);
    let _client = silent(&lab, CLEAN);
    thread::sleep(Duration::from_millis(1500));
    assert!(is_open(&lab, CLEAN));
    // The sixteenth of twenty: ten seconds are borne, not one.
    let _other = silent(&lab, "127.1.2.4");
    assert_on(&lab);
    thread::sleep(Duration::from_millis(1500));
    assert!(is_open(&lab, CLEAN) && is_open(&lab, "127.1.2.4"));
    assert!(sheds(&lab).is_empty());
}

#[test]
fn who_has_delivered_mail_goes_last() {
    let lab = lab(config(), "");
    let _trusted = trusted(&lab, ALL_BUT_TWO - 2);
    let mut sender = silent(&lab, CLEAN);
    lab.block_on(sender.command("EHLO client.test")).unwrap();
    let reply = message_in(&lab, &mut sender, "<alice@lab.test>").unwrap();
    assert!(reply.is_positive(), "{reply}");
    // The sender will always have been silent for longer than this one.
    let _stranger = silent(&lab, "127.1.2.4");
    // Four seconds are borne yet; with one slot less free, it is one.
    thread::sleep(Duration::from_millis(1500));
    let _last = lab.connect(ip(&format!("{TRUSTED}.99"))).unwrap();
    assert_shed(&lab, "127.1.2.4");
    // Four again; then it must go, too.
    assert_shed(&lab, CLEAN);
    let sheds = sheds(&lab);
    assert!(
        sheds.len() == 2 && sheds[0].contains("127.1.2.4"),
        "{sheds:?}"
    );
}

#[test]
fn who_is_trusted_is_left_alone_and_so_are_other_ports() {
    let mut config = config();
    config.msa = true;
    config.smtp_access.push("127.7\tallow,BLOCK".into());
    let lab = lab(
        config,
        "[allow]\nnetworks = [\"127.8.0.0/16\"]\n[never-ban]\nrelays = [\"127.6.0.0/16\"]\n",
    );
    let _trusted = trusted(&lab, SLOTS - 4);
    let spared = ["127.8.0.1", "127.0.0.1", "127.7.0.1", "127.6.0.1"];
    let _spared = spared.map(|source| silent(&lab, source));
    assert_on(&lab);
    // Each slot of port 587 is taken, too.
    let mut users: Vec<Client> = (1..=SLOTS)
        .map(|host| {
            let server = "127.0.0.1:587".parse().unwrap();
            let source = ip(&format!("127.66.9.{host}"));
            let mut user = lab.block_on(Client::connect(source, server)).unwrap();
            assert_eq!(lab.block_on(user.read_reply()).unwrap().code, 220);
            user
        })
        .collect();
    thread::sleep(Duration::from_secs(2));
    assert!(sheds(&lab).is_empty(), "{:?}", sheds(&lab));
    for user in &mut users {
        assert_eq!(lab.block_on(user.command("NOOP")).unwrap().code, 250);
    }
    for source in spared.iter().chain([&format!("{TRUSTED}.1").as_str()]) {
        assert!(is_open(&lab, source), "{source}");
    }
}

#[test]
fn a_slow_transfer_that_moves_is_left_alone() {
    let lab = lab(config(), "");
    let _trusted = trusted(&lab, ALL_BUT_TWO);
    let mut client = silent(&lab, CLEAN);
    assert_on(&lab);
    lab.block_on(async {
        up_to_data(&mut client).await;
        for line in [
            "Subject: slow\r\n\r\n",
            "a",
            "b",
            "c",
            "d",
            "e",
            "f",
            "\r\n",
        ] {
            client.write(line.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let reply = client.command(".").await.unwrap();
        assert!(reply.is_positive(), "{reply}");
    });
    assert_delivered_once(&lab);
}

/// Whoever stalls in the middle of a command or of the data is silent as well.
#[test]
fn a_client_that_stalls_halfway_is_ended() {
    let lab = lab(config(), "");
    let _trusted = trusted(&lab, ALL_BUT_TWO);
    let mut client = silent(&lab, CLEAN);
    lab.block_on(client.write(b"EHL")).unwrap();
    assert_shed(&lab, CLEAN);
    let mut client = silent(&lab, "127.1.2.4");
    lab.block_on(async {
        up_to_data(&mut client).await;
        client.write(b"Subject: x\r\n\r\nhalf").await.unwrap();
    });
    assert_shed(&lab, "127.1.2.4");
    assert!(lab.mailbox().is_empty());
}

/// A client whose packets take 400 ms there and back, in a kernel's own queue.
#[test]
fn a_sender_far_away_is_left_alone() {
    let lab = lab(config(), "");
    let _trusted = trusted(&lab, ALL_BUT_TWO + 1);
    let rule = "iptables -w -I INPUT -s 127.5.0.0/16 -p tcp --dport 25 -j NFQUEUE --queue-num 7";
    lab.run_ok(&rule.split(' ').collect::<Vec<_>>()).unwrap();
    let mut queue = Queue::open().unwrap();
    queue.bind(7).unwrap();
    queue.set_nonblocking(true);
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let delay = thread::spawn(move || {
        let mut held = std::collections::VecDeque::new();
        while let Err(std::sync::mpsc::TryRecvError::Empty) = is_done.try_recv() {
            while let Ok(packet) = queue.recv() {
                held.push_back((Instant::now() + Duration::from_millis(400), packet));
            }
            while held.front().is_some_and(|(at, _)| *at <= Instant::now()) {
                let (_, mut packet) = held.pop_front().unwrap();
                packet.set_verdict(Verdict::Accept);
                queue.verdict(packet).unwrap();
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    // Every slot is in use with it: 250 ms are borne, beside the journey.
    let outcome = lab.send(&message(), ip("127.5.0.1"));
    assert!(outcome.accepted(), "{outcome:?}");
    assert!(outcome.elapsed > Duration::from_secs(2), "{outcome:?}");
    assert_on(&lab);
    assert_delivered_once(&lab);
    drop(done);
    delay.join().unwrap();
}

#[test]
fn a_sender_in_the_tarpit_is_left_alone() {
    let lab = lab(config(), "");
    let _trusted = trusted(&lab, ALL_BUT_TWO);
    let mut client = silent(&lab, CLEAN);
    assert_on(&lab);
    lab.block_on(client.command("EHLO client.test")).unwrap();
    let begun = Instant::now();
    lab.block_on(client.command("MAIL FROM:<bob@client.test>"))
        .unwrap();
    let refusal = lab
        .block_on(client.command("RCPT TO:<bob@elsewhere.test>"))
        .unwrap();
    assert_eq!(refusal.code, 513);
    assert!(
        begun.elapsed() > Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    lab.block_on(client.command("RSET")).unwrap();
    let reply = message_in(&lab, &mut client, "<alice@lab.test>").unwrap();
    assert!(reply.is_positive(), "{reply}");
    assert_delivered_once(&lab);
}

#[test]
fn a_sender_whose_message_another_filter_holds_is_left_alone() {
    const HOLD: Duration = Duration::from_secs(20);
    let lab = lab(config(), "");
    let place = filter_socket().with_file_name("slow");
    let other = UnixListener::bind(&place).unwrap();
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o666)).unwrap();
    chown(&place, Some(0), Some(0)).unwrap();
    let slow = thread::spawn(move || {
        let (mut request, _) = other.accept().unwrap();
        thread::sleep(HOLD);
        request.write_all(b"250 Ok\n").unwrap();
        let _ = request.read(&mut [0; 1]);
    });
    let _trusted = trusted(&lab, ALL_BUT_TWO);
    let begun = Instant::now();
    let outcome = lab.send(&message(), ip(CLEAN));
    assert!(outcome.accepted(), "{outcome:?}");
    assert!(begun.elapsed() >= HOLD);
    assert_on(&lab);
    std::fs::remove_file(filter_socket().with_file_name("slow")).unwrap();
    slow.join().unwrap();
    assert_delivered_once(&lab);
}

/// Courier waits for authdaemond as it waits for a client: in poll(2).
#[test]
fn a_user_whose_login_takes_long_is_left_alone() {
    let lab = lab(
        Config {
            esmtp_auth: "PLAIN".into(),
            ..config()
        },
        "",
    );
    let _trusted = trusted(&lab, ALL_BUT_TWO);
    let daemons: Vec<i32> = lab
        .processes()
        .iter()
        .filter(|process| process.comm == "authdaemond")
        .map(|process| process.pid)
        .collect();
    assert!(!daemons.is_empty());
    for pid in &daemons {
        lab.kill(*pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    }
    let login = Message {
        auth: Some((USER.into(), PASSWORD.into())),
        ..message()
    };
    let outcome = thread::scope(|scope| {
        let sent = {
            let login = &login;
            scope.spawn(move || own_runtime().block_on(login.send(ip("127.66.5.1"))))
        };
        assert_on(&lab);
        thread::sleep(Duration::from_secs(3));
        for pid in &daemons {
            lab.kill(*pid, nix::sys::signal::Signal::SIGCONT).unwrap();
        }
        sent.join().unwrap()
    });
    assert!(outcome.accepted(), "{outcome:?}");
    assert!(outcome.elapsed > Duration::from_secs(3), "{outcome:?}");
    assert_delivered_once(&lab);
}

#[test]
fn observe_says_when_the_guard_would_be_at_work_and_ends_nobody() {
    let lab = lab(config(), "mode = \"observe\"\n");
    let _wave: Vec<Client> = (1..=SLOTS)
        .map(|host| silent(&lab, &format!("127.1.8.{host}")))
        .collect();
    assert_on(&lab);
    thread::sleep(Duration::from_millis(1000));
    assert!(sheds(&lab).is_empty());
    assert_eq!(lab.slots_used().unwrap(), usize::try_from(SLOTS).unwrap());
}
