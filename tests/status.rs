//! `rblfilter status` in a real Courier: while a wave runs, again and again, and
//! where it cannot be told.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/screen.rs"]
mod screen;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rblfilter_lab::{Lab, wait_for};
use screen::{Screen, pictures};
use serde_json::Value;

const NOBODY: u32 = 65534;
const CONTROL: &str = "/var/lib/courier/rblfilter/control";

fn json(lab: &Lab) -> Value {
    serde_json::from_str(&lab.run_ok(&["rblfilter", "status", "--json"]).unwrap()).unwrap()
}

/// Listed clients that come and are ended at connect.
fn wave(lab: &Lab, from: u8, to: u8) {
    // They stay until they are.
    let _clients: Vec<_> = (from..to)
        .map(|host| lab.connect([127, 66, 7, host]))
        .collect();
    let ended = || {
        let lines = lab.log_matching("at=connect,action=ban");
        (lines.len() >= usize::from(to - 1)).then_some(())
    };
    wait_for(LIMIT, ended).expect("each is ended and banned");
}

#[test]
fn a_wave_is_told_as_it_is() {
    let lab = lab(few_slots(), ZONE);
    let held_open = held(&lab, 12);
    wave(&lab, 1, 21);
    assert_delivered(&lab, &message(), CLEAN, 1);
    let told = || {
        let told = json(&lab);
        let looks = told["listeners"][0]["each-second"].as_array()?.clone();
        let seen = looks.iter().any(|used| used.as_u64() >= Some(12));
        // The median comes with the first sentence.
        (seen && looks.len() > 2).then_some(told)
    };
    let told = wait_for(LIMIT, told).expect("the slots, second by second");
    let number = |pointer: &str| {
        let value = told.pointer(pointer);
        value
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("{pointer}: {told:#}"))
    };
    for period in ["counted", "minute"] {
        let at = |name: &str| number(&format!("/{period}/{name}"));
        assert_eq!(at("at-connect/ban"), 20, "{told:#}");
        assert!(at("at-connect/pass") >= 12, "{told:#}");
        assert_eq!(at("at-message/pass"), 1, "{told:#}");
        assert_eq!(at("ended/connect"), 20, "{told:#}");
        assert_eq!((at("bans"), at("listed"), at("messages")), (20, 20, 1));
        assert_eq!(
            at("to-sentence/count"),
            at("at-connect/ban") + at("at-connect/pass")
        );
        assert!(at("to-sentence/p99-us") >= at("to-sentence/median-us"));
        assert_eq!(at("waited/count"), 1, "{told:#}");
        let zone = |name: &str| number(&format!("/zones/0/{period}/{name}"));
        assert_eq!(zone("listed"), 20, "{told:#}");
        assert!(zone("asked") >= 32 && zone("answers") >= 33, "{told:#}");
        assert_eq!((zone("timeouts"), zone("errors")), (0, 0), "{told:#}");
        assert!(zone("took/median-us") > 0, "{told:#}");
    }
    assert_eq!(number("/listeners/0/slots"), 40);
    assert_eq!(told["gate"]["state"], "off");
    assert_eq!(told["zones"][0]["name"], "bl.test");
    let mut screen = Screen::start(&["rblfilter", "status"], (80, 50), &[]);
    assert!(screen.ended().success());
    let text = screen.wait_for("degraded    nothing");
    for part in [
        "slots       esmtpd: 1",
        " of 40 in use (",
        "bans        20 addresses and networks are banned, 0 are let in by hand",
        "ended: 20 listed, 0 refused, 0 silent, 0 by hand",
        "verdict     median ",
        "lists       bl.test: believed",
        "asked    cached    failed  lists   median      p99",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(screen.has_colours(), "on a terminal");
    let plain = [("NO_COLOR", "1"), ("LC_ALL", "C")];
    let mut plain = Screen::start(&["rblfilter", "status"], (80, 50), &plain);
    assert!(plain.ended().success());
    assert!(plain.wait_for("degraded    nothing").is_ascii() && !plain.has_colours());
    let piped = lab.run_ok(&["rblfilter", "status"]).unwrap();
    assert!(!piped.contains('\u{1b}'), "{piped:?}");
    drop(held_open);
    if pictures() {
        take_picture(&lab);
    }
}

/// A picture of some minutes' comings and goings.
fn take_picture(lab: &Lab) {
    for round in 0..60_u32 {
        let clients = held(lab, u8::try_from(2 + round * 7 % 23).unwrap());
        let pause = Duration::from_millis(200 * u64::from(round % 5));
        std::thread::sleep(Duration::from_secs(1) + pause);
        drop(clients);
    }
    let _clients = held(lab, 9);
    let mut screen = Screen::start(&["rblfilter", "status"], (80, 50), &[]);
    assert!(screen.ended().success());
    screen.wait_for("degraded    nothing");
    screen.picture("status.svg");
}

#[test]
fn a_watch_on_a_terminal_redraws_in_place_and_leaves_it_as_it_was() {
    let lab = lab(few_slots(), ZONE);
    let mut screen = Screen::start(&["rblfilter", "status", "--watch", "1"], (80, 24), &[]);
    screen.wait_for("0 sessions are followed");
    let client = held(&lab, 1);
    let text = screen.wait_for("1 session is followed");
    assert!(
        !text.contains("0 sessions are followed"),
        "in place:\n{text}"
    );
    assert!(
        text.contains("more lines)"),
        "the screen is too low:\n{text}"
    );
    screen.resize(80, 60);
    screen.wait_for("degraded    nothing");
    drop(client);
    screen.wait_for("0 sessions are followed");
    // It goes on trying where the filter is stopped meanwhile.
    product().filterctl_stop(&lab).unwrap();
    screen.wait_for("the filter does not run");
    product().filterctl_start(&lab).unwrap();
    screen.wait_for("0 sessions are followed");
    screen.press("\u{3}");
    assert!(screen.ended().success());
    screen.assert_restored();
    let mut ended = Screen::start(&["rblfilter", "status", "--watch"], (80, 24), &[]);
    ended.wait_for("enforce, running for");
    ended.signal(Signal::SIGTERM);
    ended.ended();
    ended.assert_restored();
}

#[test]
fn a_watch_elsewhere_prints_one_after_the_other() {
    let _lab = lab(few_slots(), ZONE);
    for (flag, page) in [
        ("--json", "{\"version\":"),
        ("--watch=1", "rblfilter   0.1.0"),
    ] {
        let mut watch = Command::new("rblfilter")
            .args(
                ["status", "--watch", "1", flag]
                    .into_iter()
                    .take(if flag == "--json" { 4 } else { 3 }),
            )
            .env(
                "PATH",
                "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin:/usr/local/sbin",
            )
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let mut pages = 0;
        while pages < 3 {
            let line = lines.next().expect("it goes on").unwrap();
            assert!(!line.contains('\u{1b}'), "{line}");
            pages += usize::from(line.starts_with(page));
        }
        let pid = Pid::from_raw(i32::try_from(watch.id()).unwrap());
        kill(pid, Signal::SIGINT).unwrap();
        assert!(watch.wait().unwrap().success());
    }
}

#[test]
fn a_watch_of_a_filter_that_hangs_ends_with_a_signal() {
    let lab = lab(few_slots(), ZONE);
    let mut asking = UnixStream::connect(CONTROL).unwrap();
    writeln!(asking, "{{\"do\":\"status\"}}").unwrap();
    let mut answer = String::new();
    BufReader::new(asking).read_line(&mut answer).unwrap();
    product().filterctl_stop(&lab).unwrap();
    // One that answers once, and then no more.
    let _ = fs::remove_file(CONTROL);
    let control = UnixListener::bind(CONTROL).unwrap();
    let mut watch = Command::new("/usr/sbin/rblfilter")
        .args(["status", "--watch", "1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (mut first, _) = control.accept().unwrap();
    first.write_all(answer.as_bytes()).unwrap();
    writeln!(first, "\"end\"").unwrap();
    drop(first);
    let (_silent, _) = control.accept().unwrap();
    let pid = Pid::from_raw(i32::try_from(watch.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let ended = wait_for(LIMIT, || watch.try_wait().unwrap());
    if ended.is_none() {
        watch.kill().unwrap();
    }
    assert!(ended.expect("it ends at once").success());
}

#[test]
fn who_may_not_ask_and_where_nobody_answers_is_told_in_words() {
    let lab = lab(few_slots(), ZONE);
    let as_nobody = |words: &[&str]| {
        let mut command = lab.command("rblfilter");
        command.args(words).user(NOBODY, NOBODY).output().unwrap()
    };
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["status", "--watch"],
    ] {
        let output = as_nobody(words);
        assert_eq!(output.status.code(), Some(77), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("for root, or a member of Courier's group"),
            "{said}"
        );
    }
    product().filterctl_stop(&lab).unwrap();
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["status", "--watch"],
    ] {
        let output = lab.run(&[&["rblfilter"], words].concat()).unwrap();
        assert_eq!(output.status.code(), Some(69), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("the filter does not run (filterctl start rblfilter)"),
            "{said}"
        );
    }
    let wrong = lab.run(&["rblfilter", "status", "--watch", "0"]).unwrap();
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
}
