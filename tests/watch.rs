//! Sessions judged when they connect, on a real Courier. In the lab's
//! namespaces the kernel tells of no execs, so these poll.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::*;
use rblfilter_lab::smtp::{Client, Message};
use rblfilter_lab::stub::{Answer, Stub};
use rblfilter_lab::{Config, Dns, Lab, PASSWORD, USER, wait_for};

/// A client that connects and then says nothing.
fn silent(lab: &Lab, source: &str) -> Client {
    lab.connect(ip(source)).unwrap()
}

/// The session is ended by the server: the client reads the end.
fn assert_cut_off(lab: &Lab, client: &mut Client) {
    let end = lab.block_on(async {
        loop {
            if let Err(error) = client.read_reply().await {
                return error.kind();
            }
        }
    });
    assert_ne!(end, std::io::ErrorKind::TimedOut, "nothing ended it");
}

fn banned(lab: &Lab, net: &str) -> bool {
    lab.set_members("rblfilter4")
        .unwrap()
        .iter()
        .any(|member| member.net == net)
}

#[test]
fn a_listed_client_is_ended_and_banned_before_it_says_a_word() {
    let lab = lab(Config::default(), ZONE);
    lab.wait_for_log("watching,by=poll", LIMIT).unwrap();
    let mut bystander = silent(&lab, CLEAN);
    let begun = Instant::now();
    let mut client = silent(&lab, LISTED);
    assert_cut_off(&lab, &mut client);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_ended(&lab, LISTED);
    assert_banned_too(&lab, LISTED);
    let line = lab.wait_for_log("listed,ip=", LIMIT).unwrap();
    assert!(
        line.contains(
            "zone=bl.test,code=127.0.0.2,score=10,at=connect,action=ban,bantime=3600s,killed=1"
        ),
        "{line}"
    );
    assert!(lab.send(&impatient(), ip(LISTED)).not_answered());
    assert_eq!(lab.block_on(bystander.read_reply()).unwrap().code, 220);
    assert_delivered(&lab, &message(), CLEAN, 1);
}

/// BLOCK: Courier answers 511 at RCPT, and no filter ever hears of it. This is
/// the wave of the blog post.
#[test]
fn a_client_that_courier_itself_rejects_does_not_keep_its_slot() {
    let blacklists = "-block=bl.test,BLOCK,Listed_by_bl.test".into();
    let lab = lab(
        Config {
            blacklists,
            ..Config::default()
        },
        "",
    );
    for host in 1..=30 {
        drop(silent(&lab, CLEAN));
        std::mem::forget(silent(&lab, &format!("127.66.1.{host}")));
    }
    let free = || (lab.slots_used().unwrap() == 0).then_some(());
    wait_for(LIMIT, free).expect("every slot is free again");
    let all = || (lab.set_members("rblfilter4").unwrap().len() == 30).then_some(());
    wait_for(LIMIT, all).expect("all are banned");
}

#[test]
fn sessions_that_are_there_already_are_judged_too() {
    let lab = Lab::start(Config::default()).unwrap();
    let mut listed = silent(&lab, LISTED);
    let mut clean = silent(&lab, CLEAN);
    assert_eq!(lab.block_on(clean.read_reply()).unwrap().code, 220);
    product().start(&lab, ZONE).unwrap();
    assert_cut_off(&lab, &mut listed);
    assert_eq!(lab.block_on(clean.command("NOOP")).unwrap().code, 250);
}

/// The next filter may know better: its configuration may be another.
#[test]
fn whom_a_stopped_filter_is_judging_it_neither_ends_nor_bans() {
    const FREED: &str = "127.66.8.7";
    let late = Stub {
        list: Answer::After(Duration::from_millis(1500)),
        ..Stub::default()
    };
    let config = Config {
        dns: Dns::Stub(late),
        ..Config::default()
    };
    let lab = lab(config, &format!("[lookup]\nlimit = \"10s\"\n{OF_LOOKUP}"));
    lab.wait_for_log("watching,by=poll", LIMIT).unwrap();
    // The list has passed its test.
    wait_for(LIMIT, || {
        let _ = lab.send(&impatient(), ip(LISTED));
        banned(&lab, LISTED).then_some(())
    })
    .unwrap();
    let messages = || status(&lab)["counted"]["messages"].as_u64();
    let before = messages();
    let mut freed = silent(&lab, FREED);
    // The filter does not end before this one is answered.
    let sender = sending(message(), CLEAN);
    let judged = || (messages() > before).then_some(());
    wait_for(LIMIT, judged).unwrap();
    lab.run_ok(&["filterctl", "stop", "rblfilter"]).unwrap();
    let allow = format!(
        "printf '[allow]\nnetworks = [\"{FREED}\"]\n' >>/etc/courier/filters/rblfilter.toml"
    );
    lab.run_ok(&["sh", "-c", &allow]).unwrap();
    product().filterctl_start(&lab).unwrap();
    lab.wait_for_log("]: stopped", LIMIT).unwrap();
    assert!(sender.join().unwrap().accepted());
    assert!(!banned(&lab, FREED));
    assert_eq!(lab.block_on(freed.read_reply()).unwrap().code, 220);
    assert_eq!(lab.block_on(freed.command("NOOP")).unwrap().code, 250);
}

#[test]
fn whoever_is_trusted_keeps_the_session() {
    let lab = lab(
        Config {
            smtp_access: vec![
                "127.66.7\tallow,RELAYCLIENT".into(),
                "127.66.9\tallow,BLOCK".into(),
            ],
            msa: true,
            ..Config::default()
        },
        &format!("[allow]\nnetworks = [\"127.66.8.0/24\"]\n{ZONE}"),
    );
    let submission = Message {
        port: 587,
        ..message()
    };
    for (count, (source, message)) in [
        ("127.66.7.1", &message()),
        ("127.66.8.1", &message()),
        ("127.66.9.1", &message()),
        ("127.66.10.1", &submission),
        ("127.0.0.1", &message()),
        (CLEAN, &message()),
    ]
    .into_iter()
    .enumerate()
    {
        assert_delivered(&lab, message, source, count + 1);
    }
    assert_no_bans(&lab);
}

/// Where a client may log in, nothing happens until the end of data shows that
/// it did not.
#[test]
fn a_client_that_may_yet_log_in_is_judged_at_the_end_of_data() {
    let lab = lab(
        Config {
            esmtp_auth: "PLAIN".into(),
            ..Config::default()
        },
        ZONE,
    );
    let mut user = silent(&lab, "127.66.3.1");
    lab.block_on(user.read_reply()).unwrap();
    lab.block_on(user.command("EHLO x.test")).unwrap();
    // Longer than the watch takes to look, and the list to answer.
    lab.wait_for_log("watching,", LIMIT).unwrap();
    let asked = || {
        lab.dns_queries()
            .iter()
            .any(|name| name.starts_with("1.3.66.127."))
            .then_some(())
    };
    wait_for(LIMIT, asked).expect("the list was asked at connect");
    assert_eq!(lab.block_on(user.command("NOOP")).unwrap().code, 250);
    let login = Message {
        auth: Some((USER.into(), PASSWORD.into())),
        ..message()
    };
    assert_delivered(&lab, &login, "127.66.3.2", 1);
    assert_no_bans(&lab);
    let outcome = lab.send(&message(), ip(LISTED));
    assert_banned(&lab, &outcome, LISTED, LISTED);
    assert!(
        !lab.wait_for_log("listed,ip=", LIMIT)
            .unwrap()
            .contains("at=connect")
    );
}

/// The answer that was asked for at connect is there at the end of data: one
/// question for both, and no wait.
#[test]
fn a_client_is_asked_for_once() {
    let lab = lab(Config::default(), ZONE);
    for _ in 0..3 {
        assert!(lab.send(&message(), ip(CLEAN)).accepted());
    }
    let asked = lab
        .dns_queries()
        .iter()
        .filter(|name| name.starts_with("3.2.1.127.bl"))
        .count();
    assert_eq!(asked, 1);
}

#[test]
fn a_couriertcpd_that_was_started_again_is_watched() {
    let lab = lab(Config::default(), ZONE);
    lab.esmtpd_stop().unwrap();
    lab.esmtpd_start().unwrap();
    let mut client = silent(&lab, LISTED);
    assert_cut_off(&lab, &mut client);
    assert_ended(&lab, LISTED);
}

#[test]
fn with_a_dead_list_everybody_keeps_the_session() {
    let config = Config {
        dns: Dns::Silent,
        tcpd_options: "-nodnslookup".into(),
        ..Config::default()
    };
    let lab = lab(config, &format!("[lookup]\nlimit = \"500ms\"\n{OF_LOOKUP}"));
    let mut client = silent(&lab, LISTED);
    lab.wait_for_log("degraded,what=dnsbl", LIMIT).unwrap();
    lab.block_on(client.read_reply()).unwrap();
    assert_eq!(lab.block_on(client.command("NOOP")).unwrap().code, 250);
    assert_no_bans(&lab);
}

#[test]
fn observe_touches_no_session() {
    let lab = lab(Config::default(), &format!("mode = \"observe\"\n{ZONE}"));
    let mut client = silent(&lab, LISTED);
    let line = lab
        .wait_for_log("at=connect,action=none,would=ban", LIMIT)
        .unwrap();
    assert!(line.contains(LISTED), "{line}");
    lab.block_on(client.read_reply()).unwrap();
    assert_eq!(lab.block_on(client.command("NOOP")).unwrap().code, 250);
    assert_no_bans(&lab);
}

#[test]
fn events_that_cannot_be_had_are_told_and_replaced_by_polling() {
    let lab = lab(Config::default(), &format!("watch = \"events\"\n{ZONE}"));
    lab.wait_for_log("noevents: ", LIMIT).unwrap();
    let mut client = silent(&lab, LISTED);
    assert_cut_off(&lab, &mut client);
}

#[test]
fn without_pressure_a_listed_client_is_let_be_until_slots_are_scarce() {
    let config = Config {
        max_daemons: 10,
        ..Config::default()
    };
    let lab = lab(config, &format!("kill = \"pressure\"\n{ZONE}"));
    let mut client = silent(&lab, LISTED);
    lab.block_on(client.read_reply()).unwrap();
    let asked = || {
        lab.dns_queries()
            .iter()
            .any(|name| name.starts_with("2.1.66.127."))
            .then_some(())
    };
    wait_for(LIMIT, asked).expect("it was judged");
    assert_eq!(
        lab.block_on(client.command("EHLO x.test")).unwrap().code,
        250
    );
    assert_no_bans(&lab);
    let _other = silent(&lab, CLEAN);
    assert_cut_off(&lab, &mut client);
    assert_banned_too(&lab, LISTED);
    assert!(lab.wait_for_log("at=connect,action=ban", LIMIT).is_ok());
}

/// A couriertcpd serves imapd, too; its children are no sessions of ours.
#[test]
fn children_of_another_couriertcpd_are_left_alone() {
    let lab = lab(Config::default(), ZONE);
    lab.run_ok(&[
        "couriertcpd",
        "-pid=/run/courier/imapd.pid",
        "-nodnslookup",
        "-noidentlookup",
        "-address=127.0.0.1",
        "1143",
        "/bin/sh",
        "-c",
        "echo ready; exec sleep 300",
    ])
    .unwrap_or_else(|error| panic!("{error}"));
    let mut user = lab
        .block_on(Client::connect(
            ip(LISTED),
            "127.0.0.1:1143".parse().unwrap(),
        ))
        .unwrap();
    // Not SMTP, so no reply; but something is said.
    assert!(lab.block_on(user.read_reply()).is_err());
    let imapd = || {
        lab.processes()
            .iter()
            .find(|process| process.comm == "sleep")
            .map(|process| process.pid)
    };
    let pid = wait_for(LIMIT, imapd).unwrap();
    // The watch sees those that come after it.
    let mut client = silent(&lab, "127.66.1.3");
    assert_cut_off(&lab, &mut client);
    assert_eq!(imapd(), Some(pid), "it lives");
    assert!(!banned(&lab, LISTED));
}

#[test]
fn a_session_that_ends_by_itself_is_no_error_wherever_it_is() {
    let lab = lab(Config::default(), ZONE);
    let steps = [
        "EHLO client.test",
        "MAIL FROM:<bob@client.test>",
        "RCPT TO:<alice@lab.test>",
        "DATA",
    ];
    for round in 0..3 {
        for (host, source) in ["127.1.4", "127.66.4"].iter().enumerate() {
            for step in 0..=steps.len() {
                let source = format!("{source}.{}", 1 + round * 10 + step + host * 100);
                let mut client = silent(&lab, &source);
                for line in &steps[..step] {
                    // A listed one is ended meanwhile.
                    let _ = lab.block_on(client.command(line));
                }
                drop(client);
            }
        }
    }
    let gone = || (lab.slots_used().unwrap() == 0).then_some(());
    wait_for(LIMIT, gone).expect("no session is left");
    assert_delivered(&lab, &message(), CLEAN, 1);
    for word in ["bug", "spared", "outlived", "unidentified", "degraded"] {
        let lines = lab.log_matching(&format!(": {word}"));
        assert!(lines.is_empty(), "{lines:?}");
    }
}
