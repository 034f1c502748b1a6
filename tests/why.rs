//! `rblfilter why` of clients and messages of a real Courier: banned, shed, let
//! in, unknown, refused, delivered; with the filter running and stopped.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;

use common::*;
use rblfilter_lab::smtp::Client;
use rblfilter_lab::{Config, Lab, wait_for};
use serde_json::Value;

/// A list that is worth a refusal, and no ban.
const HALF: &str = "watch = \"off\"\n[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\nscore = 5.0\nlookup-url = \"https://bl.test/{ip}\"\n";

const LOG: &str = "/var/log/mail.log";

/// The exit status of a command, and what it said; within 80 columns, and without
/// a byte that steers a terminal.
fn said(lab: &Lab, words: &[&str]) -> (i32, String) {
    let output = lab.run(words).unwrap();
    let text = String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap();
    if output.stderr.is_empty() {
        for line in text.lines().filter(|line| !line.starts_with('{')) {
            assert!(line.chars().count() <= 80, "{line:?}");
        }
    }
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
    println!("$ {}\n{text}", words.join(" "));
    (output.status.code().unwrap(), text)
}

fn why(lab: &Lab, words: &[&str]) -> (i32, String) {
    said(
        lab,
        &[&["env", "TZ=UTC", "rblfilter", "why"], words].concat(),
    )
}

/// The text without its line breaks.
fn told(lab: &Lab, words: &[&str]) -> String {
    let (code, text) = why(lab, words);
    assert_eq!(code, 0, "{text}");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn assert_tells(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

/// What `--json` says.
fn facts(lab: &Lab, words: &[&str]) -> Value {
    let (_, text) = why(lab, &[&["--json"], words].concat());
    assert!(text.is_ascii());
    serde_json::from_str(&text).unwrap()
}

/// The id that stands in the log's line with this part.
fn id_of(line: &str) -> String {
    let rest = line.split_once("id=").unwrap().1;
    rest.split([',', ':']).next().unwrap().to_owned()
}

fn silent(lab: &Lab, source: &str) -> Client {
    let mut client = lab.connect(ip(source)).unwrap();
    assert_eq!(lab.block_on(client.read_reply()).unwrap().code, 220);
    client
}

#[test]
fn a_client_that_was_banned_as_it_connected_has_its_whole_story() {
    let lab = lab(Config::default(), ZONE);
    let _client = lab.connect(ip(LISTED)).unwrap();
    lab.wait_for_log("at=connect,action=ban", LIMIT).unwrap();
    assert_banned_too(&lab, LISTED);
    let text = told(&lab, &[LISTED]);
    assert_tells(
        &text,
        &[
            "127.66.1.2 is banned since ",
            "as bl.test lists it.",
            "the set holds it: its connections are dropped",
            "bl.test: listed 127.0.0.2, score 10, asked ",
            "as it connected: listed by bl.test (127.0.0.2), score 10: banned for 1h, session ended",
            "The kernel would drop its packets",
            "rblfilter unban 127.66.1.2",
            "allow.networks = [\"127.66.1.2\"]",
            "bl.test lists 127.66.1.2",
        ],
    );
    assert!(!text.contains("could not be looked at"), "{text}");
    // As the log writes it, and as IPv6 does.
    for other in ["[::ffff:127.66.1.2]", "::ffff:127.66.1.2", "[127.66.1.2]"] {
        assert_tells(&told(&lab, &[other]), &["127.66.1.2 is banned since "]);
    }
    let facts = facts(&lab, &[LISTED]);
    assert_eq!(facts["in-kernel-set"], true);
    assert_eq!(facts["filter"]["held"]["bans"][0]["zones"][0], "bl.test");
    assert_eq!(facts["filter"]["said"][0]["listed"], true);
    assert_eq!(facts["log"]["counts"]["ban"], 1);
    assert_eq!(facts["not-looked-at"], serde_json::json!([]));

    // A member of Courier's group sees the same, but not the kernel's set.
    let words = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--groups=courier",
        "rblfilter",
        "why",
        LISTED,
    ];
    let (code, text) = said(&lab, &words);
    assert_eq!(code, 0, "{text}");
    assert_tells(
        &text,
        &["127.66.1.2 is banned since ", "What could not be looked at"],
    );

    // The list names it no longer, and somebody lets it in.
    by_hand(&lab, &["unban", LISTED]);
    let text = told(&lab, &[LISTED]);
    assert_tells(
        &text,
        &[
            "127.66.1.2 is let in by hand until",
            "whatever the lists say (rblfilter allow 127.66.1.2 --for 0s ends that).",
            "The last time that lists named it was",
            "root ended its ban and let it in for 1day",
            "the set does not hold it",
            "It would be let in, as somebody lets it in by hand.",
            "rblfilter allow 127.66.1.2 --for 0s ends that it is let in by hand",
        ],
    );
    for other in [
        "lets it in for 24 h",
        "allow.networks = [",
        "it is in allow.networks",
    ] {
        assert!(!text.contains(other), "{other}: {text}");
    }
    assert_eq!(text.matches("rblfilter allow ").count(), 2, "{text}");
    assert_delivered(&lab, &message(), LISTED, 1);
    by_hand(&lab, &["allow", LISTED, "--for", "0s"]);
    let text = told(&lab, &[LISTED]);
    assert_tells(
        &text,
        &[
            "127.66.1.2 is not banned now.",
            "root ended that it was let in",
            "delivered to <alice@lab.test>",
            "It would be refused, ended, and banned for 1h: score 10.",
            "rblfilter allow 127.66.1.2",
        ],
    );
}

#[test]
fn a_client_that_was_banned_with_its_message_has_it_in_the_story() {
    let lab = lab(Config::default(), OWN_ZONE);
    let outcome = lab.send(&message(), ip(LISTED));
    assert!(!outcome.accepted(), "{outcome:?}");
    let line = lab.wait_for_log(",action=ban", LIMIT).unwrap();
    assert_banned_too(&lab, LISTED);
    let text = told(&lab, &[LISTED]);
    assert_tells(
        &text,
        &[
            "at the end of its data: listed by bl.test (127.0.0.2), score 10: message refused, banned for 1h",
        ],
    );
    // Its network is banned with an IPv6 client.
    let outcome = lab.send(&message(), ip(LISTED6));
    assert!(!outcome.accepted(), "{outcome:?}");
    let listed = format!("listed,ip=[{LISTED6}]");
    lab.wait_for_log(&listed, LIMIT).unwrap();
    let banned = || {
        let members = lab.set_members("rblfilter6").unwrap();
        (members.len() == 1).then_some(())
    };
    wait_for(LIMIT, banned).unwrap();
    let text = told(&lab, &["fd00:66:1:2::99"]);
    assert_tells(
        &text,
        &[
            "fd00:66:1:2::99 is banned, with its network fd00:66:1:2::/64, since",
            "[fd00:66:1:2::5, of its network] at the end of its data: listed by bl.test",
            "the set holds it",
        ],
    );

    // The same with the filter stopped: its file tells of the ban.
    let id = id_of(&line);
    product().filterctl_stop(&lab).unwrap();
    let text = told(&lab, &[LISTED]);
    assert_tells(
        &text,
        &[
            "127.66.1.2 is banned since ",
            "as bl.test lists it.",
            "the set holds it",
            "What could not be looked at the running filter: the filter does not run",
        ],
    );
    let text = told(&lab, &["fd00:66:1:2::99"]);
    assert_tells(&text, &["is banned, with its network fd00:66:1:2::/64,"]);
    let text = told(&lab, &[&id]);
    assert_tells(&text, &["was refused", "127.66.1.2 is banned since "]);
    let (code, text) = why(&lab, &["127.9.9.9"]);
    assert_eq!(code, 2, "{text}");
    assert_tells(
        &text,
        &["Nothing is known of 127.9.9.9, as far as could be looked at."],
    );
    // Somebody else has read its file; nothing is the matter with it.
    lab.clear_log();
    product().filterctl_start(&lab).unwrap();
    lab.wait_for_log("store,bans=2", LIMIT).unwrap();
}

#[test]
fn a_message_has_its_way_and_its_client() {
    let lab = lab(Config::default(), HALF);
    assert_delivered(&lab, &message(), CLEAN, 1);
    lab.wait_for_log("completed,id=", LIMIT).unwrap();
    let delivered = id_of(&lab.log_matching("newmsg,id=")[0]);
    let text = told(&lab, &[&delivered]);
    assert_tells(
        &text,
        &[
            &format!("Message {delivered}, from 127.1.2.3, was accepted and delivered."),
            "delivered to <alice@lab.test>: Message delivered.",
            "127.1.2.3 is not banned now.",
            "Delivered its last message was accepted",
            "It would be let in: score 0.",
        ],
    );
    assert!(!text.contains("If that is wrong"), "{text}");

    // By the id that another program logs with Courier's.
    let line = format!("Nov 24 10:00:00 mail scanner[7]: clean, <a.b@client.test>, {delivered}\n");
    let log = fs::OpenOptions::new().append(true).open(LOG);
    log.unwrap().write_all(line.as_bytes()).unwrap();
    let text = told(&lab, &["<a.b@client.test>"]);
    let expected = format!(
        "Message <a.b@client.test> (Courier's {delivered}), from 127.1.2.3, was accepted and delivered."
    );
    assert_tells(&text, &[&expected]);

    // A message that should have come in.
    let outcome = lab.send(&message(), ip(LISTED));
    assert_eq!(outcome.refused_code(), Some(554), "{outcome:?}");
    let line = lab.wait_for_log(",action=reject", LIMIT).unwrap();
    let refused = id_of(&line);
    let text = told(&lab, &[&refused]);
    assert_tells(
        &text,
        &[
            &format!("Message {refused}, from 127.66.1.2, was refused"),
            "as bl.test (127.0.0.2) names its client, score 5.",
            "message refused with a text, nothing else done",
            "refused: 554 5.7.1 Client [127.66.1.2] is listed by bl.test",
            "Its message would be refused with a text, and nothing else done: score 5.",
            "rblfilter allow 127.66.1.2",
            "never-ban.relays = [\"127.66.1.2\"]",
            "look it up, and ask for removal, at https://bl.test/127.66.1.2",
        ],
    );
    let json = facts(&lab, &[&refused]);
    assert_eq!(json["client"], LISTED);
    assert_eq!(json["message"]["counts"]["reject"], 1);

    // Once the admin has let it in for good.
    let path = "/etc/courier/filters/rblfilter.toml";
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, format!("{text}[allow]\nnetworks = [\"{LISTED}\"]\n")).unwrap();
    by_hand(&lab, &["reload"]);
    let text = told(&lab, &[LISTED]);
    assert_tells(
        &text,
        &["127.66.1.2 is never judged: 127.66.1.2 is in allow.networks."],
    );

    // Of nobody and nothing.
    let (code, text) = why(&lab, &["127.1.2.99"]);
    assert_eq!(code, 1, "{text}");
    assert_tells(
        &text,
        &[
            "Nothing is known of 127.1.2.99.",
            "It would be let in: score 0.",
            "bl.test",
            "not listed",
        ],
    );
    let (code, text) = why(&lab, &["0000000000000001.0000000000000002.00000003"]);
    assert_eq!(code, 1, "{text}");
    let (code, text) = why(&lab, &["<nobody@nowhere.test>"]);
    assert_eq!(code, 1, "{text}");
    assert_tells(&text, &["Courier itself logs its own id alone"]);
    for (words, status, expected) in [
        (
            &["mail.example.org"][..],
            64,
            "is no address and no message id",
        ),
        (&["127.0.0.0/8"], 64, "is a network"),
        (&[LISTED, "--since", "yesterday"], 64, "is no time"),
        (&[LISTED, "--log", "-"], 64, "expected a file instead of"),
        (
            &[LISTED, "--log", "/nonexistent"],
            66,
            "cannot read /nonexistent",
        ),
    ] {
        let (code, text) = why(&lab, words);
        assert_eq!(code, status, "{text}");
        assert_tells(&text, &[expected]);
    }
}

#[test]
fn a_client_that_was_shed_or_trusted_is_told_so() {
    let config = Config {
        max_daemons: 20,
        smtp_access: vec!["127.9.0\tallow,RELAYCLIENT".into()],
        ..Config::default()
    };
    let lab = lab(config, ZONE);
    let _trusted: Vec<Client> = (1..=15)
        .map(|host| silent(&lab, &format!("127.9.0.{host}")))
        .collect();
    let _wave: Vec<Client> = (1..=5)
        .map(|host| silent(&lab, &format!("127.1.8.{host}")))
        .collect();
    let line = lab.wait_for_log("shed,ip=", LIMIT).unwrap();
    let shed = line.split_once("[::ffff:").unwrap().1;
    let shed = shed.split(']').next().unwrap();
    let text = told(&lab, &[shed]);
    assert_tells(
        &text,
        &[
            "is not banned now.",
            "connected",
            "session ended by the slot guard, as the slots ran short",
            "It was shed because the slots ran short, not for what it is",
        ],
    );
    let text = told(&lab, &["127.9.0.1"]);
    assert_tells(
        &text,
        &[
            "127.9.0.1 is never judged: Courier's smtpaccess trusts 127.9.0.0/24.",
            "Session open for",
            "trusted (RELAYCLIENT)",
        ],
    );
}

#[test]
fn old_logs_are_read_too_and_what_others_wrote_steers_nothing() {
    let lab = lab(Config::default(), ZONE);
    let old = "Nov 23 10:00:00 mail courieresmtpd: error,relay=::ffff:127.1.7.7,port=7,from=<\x1b[31m>,to=<alice@lab.test>: 550 no\n";
    fs::write("/var/log/mail.log.1", old).unwrap();
    fs::write("/var/log/mail.log.2", old.replace("23 10", "22 10")).unwrap();
    lab.run_ok(&["gzip", "/var/log/mail.log.2"]).unwrap();
    // Another program's file.
    fs::write("/var/log/mail.logs", old.replace("23 10", "21 10")).unwrap();
    let facts = facts(&lab, &["127.1.7.7"]);
    assert_eq!(facts["log"]["counts"]["refused"], 2, "{facts}");
    let text = told(&lab, &["127.1.7.7"]);
    assert_tells(
        &text,
        &["refused: 550 no (from <\\x1b[31m> to <alice@lab.test>)"],
    );
    let (code, text) = why(&lab, &["127.1.7.7", "--since", "1h"]);
    assert_eq!(code, 1, "{text}");
    let text = told(&lab, &["127.1.7.7", "--log", "/var/log/mail.log.1"]);
    assert_tells(&text, &["refused: 550 no"]);
}
