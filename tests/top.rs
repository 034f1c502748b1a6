//! `rblfilter top` in a terminal, over a real Courier.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/screen.rs"]
mod screen;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::*;
use nix::sys::signal::Signal;
use rblfilter_lab::{Config, wait_for};
use screen::{Screen, pictures};
use serde_json::{Value, json};

const TOP: [&str; 2] = ["rblfilter", "top"];
const SMALL: (u16, u16) = (80, 24);
const NOBODY: u32 = 65534;

/// What the control socket answers.
fn asked(request: &Value) -> Value {
    let mut stream = UnixStream::connect("/var/lib/courier/rblfilter/control").unwrap();
    writeln!(stream, "{request}").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// The open sessions, once there are so many.
fn sessions(count: usize) -> Vec<Value> {
    let told = || {
        let told = asked(&json!({"do": "sessions"}))["sessions"].clone();
        let sessions = told["sessions"].as_array()?.clone();
        assert_eq!(told["total"], sessions.len());
        let judged = sessions.iter().all(|it| it["verdict"] != "judging");
        (sessions.len() == count && judged).then_some(sessions)
    };
    wait_for(LIMIT, told).expect("the sessions")
}

fn end(session: &Value) -> Value {
    asked(&json!({
        "do": "end",
        "pid": session["pid"],
        "client": session["client"],
        "port": session["port"],
    }))
}

#[test]
fn it_shows_what_is_and_does_what_is_confirmed() {
    let lab = lab(few_slots(), ZONE);
    let clients = held(&lab, 12);
    // They stay until they are cut off.
    let _listed: Vec<_> = (1..=9)
        .map(|host| lab.connect([127, 66, 7, host]))
        .collect();
    for host in 1..=9 {
        assert_banned_too(&lab, &format!("127.66.7.{host}"));
    }
    let mut screen = Screen::start(&TOP, SMALL, &[]);
    let text = screen.wait_until("the sessions", |text| {
        text.contains("slots of esmtpd: 12 of 40 (30 %), 1") && text.contains("127.1.7.1 ")
    });
    for part in [
        "1 Sessions 12",
        "2 Bans 9",
        "3 Lists 1",
        "4 Troubles 0",
        "watching by poll",
        "ban 9",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(screen.has_colours());
    // A row that was chosen is ended once that is confirmed, and not before.
    screen.press("j");
    screen.press("e");
    screen.wait_for("End the session of 127.1.7.2, port ");
    screen.press("n");
    screen.wait_until("no question", |text| !text.contains("(y/n)"));
    assert_eq!(sessions(12).len(), 12, "nobody was ended");
    screen.press("e");
    screen.wait_for("End the session of 127.1.7.2, port ");
    screen.picture("top-end.svg");
    screen.press("y");
    screen.wait_for("the session of 127.1.7.2, port ");
    screen.wait_until("11 sessions", |text| {
        text.contains("1 Sessions 11") && !text.contains("127.1.7.2 ")
    });
    let line = lab
        .wait_for_log("byhand,what=end,ip=[::ffff:127.1.7.2]", LIMIT)
        .unwrap();
    assert!(line.contains(",user=root,killed="), "{line}");
    // So is one banned.
    screen.press("b");
    screen.wait_for("Ban 127.1.7.3 for the longest time that a verdict bans?  (y/n)");
    screen.press("y");
    screen.wait_for("127.1.7.3 is banned for ");
    assert_banned_too(&lab, "127.1.7.3");
    screen.press("2");
    screen.wait_until("the bans", |text| {
        text.contains("127.1.7.3") && text.contains("rblfilter top") && text.contains("127.66.7.9")
    });
    screen.picture("top-bans.svg");
    // The newest comes first.
    screen.press("u");
    screen.wait_for("End the ban of 127.1.7.3, and let it in for 24 h?");
    screen.press("y");
    screen.wait_for("127.1.7.3 is no longer banned; let in for 1day");
    screen.wait_until("let in", |text| {
        text.contains("let in    1day") || text.contains("let in  23h 59m")
    });
    screen.press("3");
    screen.wait_for("believed");
    screen.press("4");
    screen.wait_for("what does not work");
    screen.press("?");
    screen.wait_for("Any key closes this");
    screen.press("x1");
    // Another size.
    screen.resize(40, 10);
    screen.wait_until("what fits", |text| {
        text.contains("1Sessions") && text.contains("127.1.7.1 ") && !text.contains("slots of")
    });
    screen.resize(120, 40);
    screen.wait_until("all of it", |text| {
        text.contains("slots of esmtpd: 11 of 40") && text.contains("?: keys")
    });
    screen.resize(80, 24);
    screen.wait_for("e: end  b: ban");
    screen.press("p");
    screen.wait_for("PAUSED");
    drop(clients);
    screen.press("p");
    screen.wait_for("1 Sessions 0");
    screen.press("q");
    assert!(screen.ended().success());
    screen.assert_restored();
}

#[test]
fn slots_over_time_are_drawn_up_to_their_maximum() {
    let lab = lab(
        Config {
            listed: vec![
                ("127.66.0.0/16".into(), [127, 0, 0, 2].into()),
                ("127.67.0.0/16".into(), [127, 0, 0, 3].into()),
            ],
            smtp_access: vec!["127.1.5\tallow,RELAYCLIENT".into()],
            ..few_slots()
        },
        "[lookup]\nquery-non-global = true\n[[dnsbl]]\nzone = \"bl.test\"\ncodes = [\"127.0.0.2\", { codes = \"127.0.0.3\", score = 5 }]\n",
    );
    let mut screen = Screen::start(&TOP, SMALL, &[]);
    screen.wait_for("slots of esmtpd: 0 of 40 (0 %)");
    // They come and go, not so many that the guard would end some.
    for count in [4, 9, 17, 28, 26, 21, 25, 12] {
        let clients = held(&lab, count);
        screen.wait_for(&format!("slots of esmtpd: {count} of 40"));
        drop(clients);
    }
    let rounds = if pictures() { 50 } else { 0 };
    for round in 0..rounds {
        let clients = held(&lab, 2 + round * 5 % 17);
        std::thread::sleep(Duration::from_millis(1300));
        drop(clients);
    }
    // Some mail, and lists that name somebody.
    for host in 1..=9 {
        assert!(
            lab.send(&message(), ip(&format!("127.1.9.{host}")))
                .accepted()
        );
    }
    let _listed: Vec<_> = (1..=30)
        .map(|host| lab.connect([127, 66, 7, host]))
        .collect();
    let mut clients = held(&lab, 3);
    for source in [[127, 67, 1, 2], [127, 67, 1, 3], [127, 1, 5, 9]] {
        let mut client = lab.connect(source).unwrap();
        greet(&lab, &mut client);
        clients.push(client);
    }
    clients.extend(held(&lab, 8));
    for verdict in ["pass", "reject   bl.test", "exempt"] {
        screen.wait_for(verdict);
    }
    let text = screen.wait_until("the chart", |text| {
        text.contains("slots of esmtpd: 14 of 40 (35 %), ")
            && text.contains(" at most in ")
            && text.contains('█')
    });
    assert!(text.contains("     40 ─────"), "{text}");
    screen.picture("top.svg");
    screen.press("\u{3}");
    assert!(screen.ended().success(), "Ctrl-C is a key here");
    screen.assert_restored();
}

#[test]
fn the_terminal_is_left_in_order_and_a_stopped_filter_waited_for() {
    let lab = lab(few_slots(), ZONE);
    let mut screen = Screen::start(&TOP, SMALL, &[]);
    screen.wait_for("slots of esmtpd: 0 of 40");
    product().filterctl_stop(&lab).unwrap();
    screen.wait_for("the filter does not run (filterctl start rblfilter); trying again");
    product().filterctl_start(&lab).unwrap();
    screen.wait_until("it is back", |text| {
        !text.contains("trying again") && text.contains("running for")
    });
    screen.signal(Signal::SIGTERM);
    assert_eq!(screen.ended().code(), Some(128 + 15));
    screen.assert_restored();
    for signal in [Signal::SIGHUP, Signal::SIGINT] {
        let mut screen = Screen::start(&TOP, SMALL, &[]);
        screen.wait_for("slots of esmtpd");
        screen.signal(signal);
        let expected = if signal == Signal::SIGINT { 0 } else { 129 };
        assert_eq!(screen.ended().code(), Some(expected));
        screen.assert_restored();
    }
}

#[test]
fn it_is_plain_where_the_terminal_is_and_says_where_it_cannot_be() {
    let lab = lab(few_slots(), ZONE);
    let _clients = held(&lab, 3);
    for variables in [
        &[("NO_COLOR", "1"), ("LC_ALL", "C")][..],
        &[("TERM", "vt100")],
    ] {
        let mut screen = Screen::start(&TOP, SMALL, variables);
        let text = screen.wait_until("all of it", |text| {
            text.contains("slots of esmtpd: 3 of 40")
                && text.contains("127.1.7.3")
                && text.contains("q: quit")
        });
        assert!(text.is_ascii() && text.contains("     40 -----"), "{text}");
        assert!(!screen.has_colours(), "{variables:?}");
        screen.press("q");
        assert!(screen.ended().success());
        screen.assert_restored();
    }
    let mut dumb = Screen::start(&TOP, SMALL, &[("TERM", "dumb")]);
    assert_eq!(dumb.ended().code(), Some(64));
    dumb.wait_for("rblfilter status --watch");
    let output = lab.run(&TOP).unwrap();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("top needs a terminal"), "{said}");
    // Nobody's and nobody there.
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "rblfilter",
        "top",
    ];
    assert_eq!(NOBODY, 65534);
    let mut nobody = Screen::start(&nobody, SMALL, &[]);
    assert_eq!(nobody.ended().code(), Some(77));
    nobody.wait_for("permission denied");
    product().filterctl_stop(&lab).unwrap();
    let mut gone = Screen::start(&TOP, SMALL, &[]);
    assert_eq!(gone.ended().code(), Some(69));
    gone.wait_for("the filter does not run");
    gone.assert_restored();
}

#[test]
fn a_session_is_ended_by_hand_only_as_the_one_that_it_is() {
    let lab = lab(few_slots(), ZONE);
    let mut clients = held(&lab, 2);
    let all = sessions(2);
    let first = &all[0];
    assert_eq!(
        (&first["client"], &first["verdict"], &first["state"]),
        (&"127.1.7.1".into(), &"pass".into(), &"open".into())
    );
    for (key, value) in [
        ("client", json!("127.1.7.2")),
        ("port", json!(1)),
        ("pid", all[1]["pid"].clone()),
        ("pid", json!(1)),
    ] {
        let mut other = first.clone();
        other[key] = value;
        let told = end(&other);
        assert!(
            told["error"].as_str().unwrap().contains("has ended"),
            "{key}: {told}"
        );
    }
    assert_eq!(sessions(2).len(), 2);
    assert!(end(first)["done"].as_str().unwrap().ends_with("is ended"));
    assert_ended(&lab, "127.1.7.1");
    assert_eq!(sessions(1)[0]["client"], "127.1.7.2");
    let status: Value =
        serde_json::from_str(&lab.run_ok(&["rblfilter", "status", "--json"]).unwrap()).unwrap();
    assert_eq!(status["counted"]["ended"]["hand"], 1);
    assert!(
        lab.block_on(clients[1].command("NOOP"))
            .unwrap()
            .is_positive()
    );
}

/// A message of it may just have been accepted, for all that we can tell: it is
/// ended once it has been silent for a while, so that it has its answer.
#[test]
fn a_session_that_has_sent_a_message_is_ended_by_hand_once_it_is_silent() {
    let lab = lab(few_slots(), ZONE);
    let mut client = held(&lab, 1).remove(0);
    assert!(
        message_in(&lab, &mut client, "<alice@lab.test>")
            .unwrap()
            .is_positive()
    );
    lab.wait_for_mail(1, LIMIT).unwrap();
    let session = sessions(1).remove(0);
    assert_eq!(session["state"], "message");
    for _ in 0..3 {
        // It has spoken at this moment.
        assert!(lab.block_on(client.command("NOOP")).unwrap().is_positive());
        let told = end(&session);
        let Some(error) = told["error"].as_str() else {
            // A machine that took a second for that.
            eprintln!("too slow to tell: {told}");
            break;
        };
        assert!(
            error.contains("try again when it has been silent"),
            "{error}"
        );
    }
    let ended = || end(&session)["done"].as_str().map(str::to_owned);
    wait_for(LIMIT, ended).expect("it is silent");
    assert_ended(&lab, "127.1.7.1");
    assert_eq!(lab.wait_for_mail(1, LIMIT).unwrap().len(), 1, "once");
}

#[test]
fn in_observe_nobody_is_ended_by_hand() {
    let lab = lab(few_slots(), &format!("mode = \"observe\"\n{ZONE}"));
    let _client = held(&lab, 1);
    let session = sessions(1).remove(0);
    let told = end(&session);
    assert!(
        told["error"].as_str().unwrap().contains("observe mode"),
        "{told}"
    );
    assert_eq!(sessions(1).len(), 1);
}
