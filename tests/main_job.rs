//! The main job, on a real Courier with a real DNSBL, ipset and firewall rule:
//! whom it refuses, bans and cuts off, and whom it leaves alone.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::*;
use rblfilter_lab::smtp::{Client, Message};
use rblfilter_lab::{Config, PASSWORD, USER};

#[test]
fn a_listed_client_is_refused_banned_and_cut_off_and_nobody_else() {
    let lab = lab(Config::default(), OWN_ZONE);
    let mut bystander = lab.connect(ip(CLEAN)).unwrap();
    lab.block_on(bystander.read_reply()).unwrap();
    let listener = lab.couriertcpd_pid().unwrap();
    let courier: Vec<i32> = lab
        .processes()
        .iter()
        .filter(|p| p.comm.starts_with("courier"))
        .map(|p| p.pid)
        .collect();

    let begun = Instant::now();
    let outcome = lab.send(&message(), ip(LISTED));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "at once, not after the tarpit"
    );
    assert_banned(&lab, &outcome, LISTED, LISTED);

    let line = lab.wait_for_log("listed,ip=", LIMIT).unwrap();
    let port = line
        .split("port=[")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .unwrap();
    let id = line
        .split("id=")
        .nth(1)
        .and_then(|rest| rest.split(',').next())
        .unwrap();
    assert!(id.len() > 20 && id.contains('.'), "{line}");
    assert!(line.starts_with("rblfilter["), "{line}");
    let (event, killed) = line.rsplit_once(",killed=").unwrap();
    assert!(
        event.ends_with(&format!(
            ": id={id},listed,ip=[::ffff:{LISTED}],port=[{port}],zone=bl.test,code=127.0.0.2,score=10,action=ban,bantime=3600s"
        )),
        "{line}"
    );
    // courieresmtpd, and submit unless that had ended by itself on its 554.
    assert!(["1", "2"].contains(&killed), "{line}");

    assert_eq!(lab.couriertcpd_pid().unwrap(), listener);
    let now: Vec<i32> = lab.processes().iter().map(|p| p.pid).collect();
    assert!(
        courier.iter().all(|pid| now.contains(pid)),
        "the whole process group lives on"
    );
    let reply = lab.block_on(bystander.command("EHLO client.test")).unwrap();
    assert_eq!(reply.code, 250, "and so does the other session");
    assert_delivered(&lab, &message(), CLEAN, 1);
}

#[test]
fn an_ipv6_client_is_banned_by_its_64() {
    let lab = lab(Config::default(), OWN_ZONE);
    let outcome = lab.send(&message(), ip(LISTED6));
    assert_banned(&lab, &outcome, LISTED6, "fd00:66:1:2::/64");
    let neighbour = lab.send(&impatient(), ip("fd00:66:1:2:ffff::1"));
    assert!(neighbour.not_answered(), "{neighbour:?}");
    assert_delivered(&lab, &message(), "fd00:1::5", 1);
}

#[test]
fn a_listed_client_behind_starttls_is_cut_off_with_its_couriertls() {
    let lab = lab(Config::default(), OWN_ZONE);
    let outcome = lab.send_tls(&message(), ip(LISTED)).unwrap();
    assert_banned(&lab, &outcome, LISTED, LISTED);
    let gone = || (!lab.processes().iter().any(|p| p.comm == "couriertls")).then_some(());
    rblfilter_lab::wait_for(LIMIT, gone).expect("couriertls ends with its session");
    let clean = lab.send_tls(&message(), ip(CLEAN)).unwrap();
    assert!(clean.accepted(), "{clean:?}");
}

#[test]
fn the_second_message_of_a_session_is_judged_like_the_first() {
    let lab = lab(Config::default(), OWN_ZONE);
    let mut client = lab.connect(ip(LISTED)).unwrap();
    greet(&lab, &mut client);
    // The first is for postmaster alone, and so never refused.
    let first = message_in(&lab, &mut client, "<postmaster@lab.test>");
    assert_eq!(first.unwrap().code, 250);
    let second = message_in(&lab, &mut client, "<alice@lab.test>");
    assert!(
        second.as_ref().map_or(true, |reply| reply.code == 554),
        "{second:?}"
    );
    assert_ended(&lab, LISTED);
    assert_banned_too(&lab, LISTED);
    assert_eq!(
        lab.wait_for_mail(1, LIMIT).unwrap().len(),
        1,
        "the first was delivered"
    );
}

/// BLOCK2, as BLOCK is refused by Courier itself at RCPT and reaches no filter.
#[test]
fn couriertcpds_verdict_convicts_without_a_zone_of_ours() {
    for (blacklists, code) in [
        // With a message couriertcpd sets the variable, without one 1.0.16 sets its companions alone.
        ("-block=bl.test,BLOCK2,\"Listed by bl.test\"", true),
        ("-block=bl.test,BLOCK2", true),
    ] {
        let lab = lab(
            Config {
                blacklists: blacklists.into(),
                ..Config::default()
            },
            "watch = \"off\"\n",
        );
        let outcome = lab.send(&message(), ip(LISTED));
        assert_banned(&lab, &outcome, LISTED, LISTED);
        let line = lab.wait_for_log("listed,ip=", LIMIT).unwrap();
        assert_eq!(
            line.contains(",zone=bl.test,code=127.0.0.2,score=10,action=ban,"),
            code,
            "{line}"
        );
        assert_delivered(&lab, &message(), CLEAN, 1);
    }
}

#[test]
fn whoever_is_trusted_is_delivered_and_left_alone() {
    let lab = lab(
        Config {
            esmtp_auth: "PLAIN LOGIN".into(),
            smtp_access: vec!["127.66.7\tallow,RELAYCLIENT".into()],
            aliases: vec![CAROL.into()],
            msa: true,
            ..Config::default()
        },
        &format!(
            "watch = \"off\"\n[allow]\nnetworks = [\"127.66.8.0/24\", \"fd00:66:8::/48\", \"::ffff:127.66.12.1\"]\n{ZONE}"
        ),
    );
    let user = Message {
        auth: Some((USER.into(), PASSWORD.into())),
        ..message()
    };
    let submission = Message {
        port: 587,
        ..message()
    };
    let postmaster = Message {
        to: vec!["postmaster@lab.test".into()],
        ..message()
    };
    for (count, (who, message, source)) in [
        ("a clean client", &message(), CLEAN),
        ("a clean IPv6 client", &message(), "fd00:1::5"),
        ("an authenticated client", &user, "127.66.6.1"),
        ("a RELAYCLIENT", &message(), "127.66.7.1"),
        ("an allowlisted network", &message(), "127.66.8.1"),
        ("an allowlisted IPv6 network", &message(), "fd00:66:8::1"),
        ("an address as the log writes it", &message(), "127.66.12.1"),
        ("another port", &submission, "127.66.9.1"),
        ("postmaster's correspondent", &postmaster, "127.66.10.1"),
        ("our own address", &message(), "127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        println!("{who}");
        assert_delivered(&lab, message, source, count + 1);
    }
    assert_no_bans(&lab);
    assert!(lab.log_matching(",listed,").is_empty());
    assert_aliases_are_looked_up(&lab, "127.66.11.1");
    // And the listed network is judged: the test can fail.
    let outcome = lab.send(&message(), ip(LISTED));
    assert_banned(&lab, &outcome, LISTED, LISTED);
}

#[test]
fn couriertcpds_allow_list_stands_above_our_zone() {
    let lab = lab(
        Config {
            smtp_access: vec!["127.66.7\tallow,BLOCK".into()],
            ..Config::default()
        },
        OWN_ZONE,
    );
    assert_delivered(&lab, &message(), "127.66.7.1", 1);
    assert_no_bans(&lab);
}

#[test]
fn observe_decides_and_touches_nothing() {
    let lab = lab(
        Config::default(),
        &format!("mode = \"observe\"\n{OWN_ZONE}"),
    );
    assert_delivered(&lab, &message(), LISTED, 1);
    let line = lab.wait_for_log("listed,ip=", LIMIT).unwrap();
    assert!(
        line.ends_with(",zone=bl.test,code=127.0.0.2,score=10,action=none,would=ban"),
        "{line}"
    );
    assert_no_bans(&lab);
    let warden = || {
        lab.processes()
            .iter()
            .any(|p| p.comm.starts_with("rblfilter-ward"))
    };
    assert!(!warden(), "nothing with a capability runs");
    // A session lives on after its message.
    let mut client = lab.connect(ip("127.66.1.9")).unwrap();
    greet(&lab, &mut client);
    assert_eq!(
        message_in(&lab, &mut client, "<alice@lab.test>")
            .unwrap()
            .code,
        250
    );
    lab.wait_for_mail(2, LIMIT).unwrap();
    assert_eq!(lab.block_on(client.command("NOOP")).unwrap().code, 250);
}

#[test]
fn without_pressure_the_client_reads_its_554_before_it_is_cut_off() {
    let toml = format!(
        "watch = \"off\"\nkill = \"pressure\"\ngrace = \"20s\"\n[reply]\ntext = \"{{ip}} on {{zone}}, {{lookup_url}}\"\n{ZONE}lookup-url = \"https://bl.test/{{ip}}\"\n"
    );
    let lab = lab(Config::default(), &toml);
    let mut client = lab.connect(ip(LISTED)).unwrap();
    greet(&lab, &mut client);
    let reply = message_in(&lab, &mut client, "<alice@lab.test>");
    let reply = reply.unwrap();
    assert_eq!(reply.code, 554);
    assert_eq!(
        reply.text(),
        format!("5.7.1 {LISTED} on bl.test, https://bl.test/{LISTED}")
    );
    // All the same.
    assert_banned_too(&lab, LISTED);
    assert_eq!(lab.sessions().unwrap().len(), 1, "and still connected");
    let line = lab
        .wait_for_log(",ended,", Duration::from_secs(30))
        .unwrap();
    assert!(line.contains(",killed="), "{line}");
    assert_ended(&lab, LISTED);
}

/// The grace is for what was refused last: it begins anew with each message.
#[test]
fn a_client_that_sends_another_message_is_not_ended_for_the_first() {
    let lab = lab(
        Config {
            tarpit: false,
            ..Config::default()
        },
        &format!("kill = \"pressure\"\ngrace = \"4s\"\n{OWN_ZONE}"),
    );
    let mut client = lab.connect(ip(LISTED)).unwrap();
    greet(&lab, &mut client);
    let first = Instant::now();
    let refused = message_in(&lab, &mut client, "<alice@lab.test>");
    assert_eq!(refused.unwrap().code, 554);
    std::thread::sleep(Duration::from_secs(2));
    let second = Instant::now();
    let refused = message_in(&lab, &mut client, "<alice@lab.test>");
    assert_eq!(refused.unwrap().code, 554);
    lab.wait_for_log(",spared,", LIMIT).unwrap();
    assert!(first.elapsed() >= Duration::from_secs(4));
    assert_eq!(lab.block_on(client.command("NOOP")).unwrap().code, 250);
    lab.wait_for_log(",ended,", LIMIT).unwrap();
    assert!(second.elapsed() >= Duration::from_secs(4));
    assert_ended(&lab, LISTED);
}

#[test]
fn under_pressure_the_client_is_cut_off_at_once() {
    let lab = lab(
        Config {
            max_daemons: 10,
            ..Config::default()
        },
        &format!("kill = \"pressure\"\ngrace = \"60s\"\n{OWN_ZONE}"),
    );
    let mut others: Vec<Client> = (1..=2)
        .map(|host| lab.connect(ip(&format!("127.1.0.{host}"))).unwrap())
        .collect();
    for other in &mut others {
        assert_eq!(lab.block_on(other.read_reply()).unwrap().code, 220);
    }
    let begun = Instant::now();
    let outcome = lab.send(&message(), ip(LISTED));
    assert_banned(&lab, &outcome, LISTED, LISTED);
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_client_behind_a_proxy_is_cut_off_but_nobody_is_banned() {
    // couriertcpd sets TCPREMOTEINFO like this for a proxied connection; smtpaccess sets it here in its place.
    let access = vec!["127.66.7\tallow,TCPREMOTEINFO=\"proxy via 127.0.0.9\"".into()];
    let lab = lab(
        Config {
            smtp_access: access,
            ..Config::default()
        },
        OWN_ZONE,
    );
    let outcome = lab.send(&message(), ip("127.66.7.1"));
    assert!(!outcome.accepted(), "{outcome:?}");
    let line = lab.wait_for_log("listed,ip=", LIMIT).unwrap();
    assert!(line.contains(",action=kill,killed="), "{line}");
    assert_ended(&lab, "127.66.7.1");
    assert_no_bans(&lab);
}

/// Courier holds a 554 back for eight seconds; a user whose first message was
/// refused may log in within the grace.
#[test]
fn a_client_that_logs_in_within_its_grace_is_spared() {
    let lab = lab(
        Config {
            esmtp_auth: "PLAIN LOGIN".into(),
            ..Config::default()
        },
        &format!("kill = \"pressure\"\ngrace = \"11s\"\n{OWN_ZONE}"),
    );
    let mut client = lab.connect(ip(LISTED)).unwrap();
    greet(&lab, &mut client);
    let refused = message_in(&lab, &mut client, "<alice@lab.test>");
    assert_eq!(refused.unwrap().code, 554);
    // base64 of "\0alice@lab.test\0secret"
    let login = lab
        .block_on(client.command("AUTH PLAIN AGFsaWNlQGxhYi50ZXN0AHNlY3JldA=="))
        .unwrap();
    assert_eq!(login.code, 235, "{login}");
    lab.block_on(client.command("MAIL FROM:<alice@lab.test>"))
        .unwrap();
    let line = lab
        .wait_for_log(",spared,", Duration::from_secs(20))
        .unwrap();
    assert!(line.contains(&format!("ip=[::ffff:{LISTED}]")), "{line}");
    let accepted = lab.block_on(async {
        client.command("RCPT TO:<alice@lab.test>").await?;
        client.command("DATA").await?;
        client.data("Subject: test\n\nHello.\n").await
    });
    assert_eq!(accepted.unwrap().code, 250);
    lab.wait_for_mail(1, LIMIT).unwrap();
}

#[test]
fn a_grace_ends_with_the_stop() {
    let lab = lab(
        Config::default(),
        &format!("kill = \"pressure\"\ngrace = \"60s\"\n{OWN_ZONE}"),
    );
    let mut client = lab.connect(ip(LISTED)).unwrap();
    greet(&lab, &mut client);
    let reply = message_in(&lab, &mut client, "<alice@lab.test>").unwrap();
    assert_eq!(reply.code, 554);
    let sessions = lab.sessions().unwrap();
    assert_eq!(sessions.len(), 1, "it has its grace");
    product().filterctl_stop(&lab).unwrap();
    let line = lab.wait_for_log(",ended,", LIMIT * 2).unwrap();
    assert!(line.contains("killed="), "{line}");
    assert_session_ended(&lab, LISTED);
}
