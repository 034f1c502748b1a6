//! Mail through the lab's Courier, by every way that a client may come.
#![allow(clippy::unwrap_used)] // Also in the helpers, which clippy.toml does not exempt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use rblfilter_lab::smtp::{Message, Stage};
use rblfilter_lab::{Config, Dns, Lab, PASSWORD, USER};

const LIMIT: Duration = Duration::from_secs(10);

fn four(a: u8, b: u8, c: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, a, b, c))
}

fn six(group: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, group, 0, 0, 0, 0, 0, host))
}

fn auth() -> Option<(String, String)> {
    Some((USER.into(), PASSWORD.into()))
}

#[test]
fn a_message_arrives_and_the_log_has_the_client() {
    let begin = Instant::now();
    let lab = Lab::start(Config::default()).unwrap();
    println!("the lab started in {:?}", begin.elapsed());
    assert!(begin.elapsed() < LIMIT);

    let outcome = lab.send(
        &Message {
            subject: "hello".into(),
            ..Message::default()
        },
        four(1, 2, 3),
    );
    assert!(outcome.accepted(), "{outcome:?}");
    assert_eq!(outcome.stage, Stage::Done);
    let mail = lab.wait_for_mail(1, LIMIT).unwrap();
    assert!(
        mail[0].contains("Subject: hello") && mail[0].contains("[::ffff:127.1.2.3]"),
        "{mail:?}"
    );
    lab.wait_for_log("courieresmtpd: started,ip=[::ffff:127.1.2.3]", LIMIT)
        .unwrap();
    assert!(
        std::fs::read_to_string("/var/log/mail.log")
            .unwrap()
            .contains("127.1.2.3")
    );
    assert!(
        lab.courier_tmp_files().is_empty(),
        "{:?}",
        lab.courier_tmp_files()
    );
    rblfilter_lab::wait_for(LIMIT, || lab.queue_files().is_empty().then_some(())).unwrap();
}

#[test]
fn a_message_arrives_over_ipv6() {
    let lab = Lab::start(Config::default()).unwrap();
    let outcome = lab.send(&Message::default(), six(1, 5));
    assert!(outcome.accepted(), "{outcome:?}");
    assert!(lab.wait_for_mail(1, LIMIT).unwrap()[0].contains("[fd00:1::5]"));
    let message = Message {
        server: Some(Ipv6Addr::LOCALHOST.into()),
        ..Message::default()
    };
    assert!(lab.send(&message, Ipv6Addr::LOCALHOST).accepted());
}

#[test]
fn a_listed_client_gets_its_511_at_once_without_tarpit() {
    let config = Config {
        blacklists: "-block=bl.test,BLOCK,Listed_by_bl.test".into(),
        tarpit: false,
        ..Config::default()
    };
    let mut lab = Lab::start(config).unwrap();
    for (source, listed) in [
        (four(66, 1, 1), true),
        (six(0x66, 1), true),
        (four(1, 1, 1), false),
        (six(1, 1), false),
    ] {
        let outcome = lab.send(&Message::default(), source);
        assert_eq!(
            outcome.refused_code(),
            listed.then_some(511),
            "{source}: {outcome:?}"
        );
        assert_eq!(
            outcome.stage,
            if listed { Stage::Rcpt } else { Stage::Done }
        );
        assert_eq!(outcome.accepted(), !listed);
    }
    assert!(
        lab.dns_queries().contains(&"1.1.66.127.bl.test".to_owned()),
        "{:?}",
        lab.dns_queries()
    );

    lab.dns_list(&[("127.1.1.1".into(), Ipv4Addr::new(127, 0, 0, 4))])
        .unwrap();
    assert_eq!(
        lab.send(&Message::default(), four(1, 1, 1)).refused_code(),
        Some(511)
    );
    assert!(lab.send(&Message::default(), four(66, 1, 1)).accepted());
}

#[test]
fn a_message_arrives_through_starttls() {
    let lab = Lab::start(Config {
        esmtp_auth_tls: "PLAIN".into(),
        ..Config::default()
    })
    .unwrap();
    for (source, auth) in [
        (four(1, 2, 4), None),
        (six(1, 6), None),
        (four(1, 2, 5), auth()),
    ] {
        let login = auth.is_some();
        let outcome = lab
            .send_tls(
                &Message {
                    auth,
                    ..Message::default()
                },
                source,
            )
            .unwrap();
        assert!(outcome.accepted(), "{outcome:?}");
        assert_eq!(
            outcome
                .replies
                .iter()
                .any(|(said, _)| said.starts_with("AUTH")),
            login
        );
    }
    let mail = lab.wait_for_mail(3, LIMIT).unwrap();
    assert!(mail.iter().all(|text| text.contains("TLS")), "{mail:?}");
    assert!(
        mail.iter().any(|text| text.contains("[::ffff:127.1.2.4]")),
        "{mail:?}"
    );
}

#[test]
fn a_client_may_log_in_on_port_25() {
    let lab = Lab::start(Config {
        esmtp_auth: "PLAIN LOGIN".into(),
        tarpit: false,
        ..Config::default()
    })
    .unwrap();
    let outcome = lab.send(
        &Message {
            auth: auth(),
            ..Message::default()
        },
        four(1, 2, 6),
    );
    assert!(outcome.accepted(), "{outcome:?}");
    let wrong = Message {
        auth: Some((USER.into(), "wrong".into())),
        ..Message::default()
    };
    let outcome = lab.send(&wrong, four(1, 2, 7));
    assert_eq!(
        (outcome.stage, outcome.refused_code()),
        (Stage::Auth, Some(535)),
        "{outcome:?}"
    );
}

#[test]
fn port_587_serves_who_logs_in() {
    let config = Config {
        msa: true,
        msa_auth_required: true,
        tarpit: false,
        ..Config::default()
    };
    let lab = Lab::start(config).unwrap();
    let message = Message {
        port: 587,
        ..Message::default()
    };
    assert!(
        lab.send(
            &Message {
                auth: auth(),
                ..message.clone()
            },
            four(1, 2, 8)
        )
        .accepted()
    );
    let outcome = lab.send(&message, four(1, 2, 8));
    assert_eq!(outcome.refused_code(), Some(535), "{outcome:?}");
}

#[test]
fn mail_to_the_role_accounts_arrives() {
    let lab = Lab::start(Config::default()).unwrap();
    for (number, name) in [
        "postmaster@lab.test",
        "abuse@lab.test",
        "Postmaster@LAB.test",
    ]
    .into_iter()
    .enumerate()
    {
        let outcome = lab.send(
            &Message {
                to: vec![name.into()],
                ..Message::default()
            },
            four(1, 2, 9),
        );
        assert!(outcome.accepted(), "{outcome:?}");
        lab.wait_for_mail(number + 1, LIMIT).unwrap();
    }
}

#[test]
fn nobody_may_relay_unless_the_configuration_says_so() {
    let config = Config {
        smtp_access: vec!["127.1.9\tallow,RELAYCLIENT".into()],
        tarpit: false,
        ..Config::default()
    };
    let lab = Lab::start(config).unwrap();
    let message = Message {
        to: vec!["carol@elsewhere.test".into()],
        ..Message::default()
    };
    assert_eq!(
        lab.send(&message, Ipv4Addr::LOCALHOST).refused_code(),
        Some(513)
    );
    assert!(lab.send(&message, four(1, 9, 1)).accepted());
}

/// Courier's resolver does not take the refusal of a port for an answer, so a session waits out its retries.
#[test]
fn without_dns_the_greeting_waits_and_the_slot_is_held() {
    for dns in [Dns::None, Dns::Silent] {
        let mut lab = Lab::start(Config {
            dns,
            ..Config::default()
        })
        .unwrap();
        let mut client = lab.connect(four(1, 2, 3)).unwrap();
        let early = lab.block_on(async {
            tokio::time::timeout(Duration::from_millis(300), client.read_reply()).await
        });
        assert!(early.is_err(), "{early:?}");
        let sessions = lab.sessions().unwrap();
        assert_eq!(
            (
                sessions.len(),
                sessions[0].comm.as_str(),
                sessions[0].remote
            ),
            (1, "couriertcpd", None)
        );
        lab.dns_start(Dns::Rbldnsd).unwrap();
        assert!(lab.send(&Message::default(), four(1, 2, 4)).accepted());
    }
    let config = Config {
        dns: Dns::None,
        tcpd_options: "-nodnslookup".into(),
        ..Config::default()
    };
    let lab = Lab::start(config).unwrap();
    assert!(lab.send(&Message::default(), four(1, 2, 3)).accepted());
}
