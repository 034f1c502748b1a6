//! What the status looks like.

use super::*;
use crate::status::{Cache, Degraded, Ended, Said, Sandbox};

fn list(name: &str, family: &str, health: Health) -> List {
    List {
        name: name.into(),
        allows: false,
        family: family.into(),
        health,
        passed: Some(61),
    }
}

fn walls_on() -> Walls {
    Walls {
        capabilities: true,
        no_new_privs: true,
        seccomp: true,
        landlock: 7,
    }
}

fn plain(status: &Status) -> String {
    let look = Look {
        colour: false,
        unicode: true,
    };
    render(status, look)
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        mode: "enforce".into(),
        pid: 4711,
        uptime: 3 * 3600 + 125,
        watch: "events".into(),
        gate: Gate {
            state: "off".into(),
            drops: false,
        },
        sessions: 1,
        listeners: vec![Listener {
            name: "esmtpd".into(),
            pid: 1,
            used: 12,
            slots: Some(300),
            each_second: vec![0, 1, 150, 300, 12],
        }],
        bans: 1234,
        lists: vec![
            list("bl.test", "ipv4", Health::Believed),
            list("bl.test", "ipv6", Health::Believed),
        ],
        zones: vec![Zone {
            name: "bl.test".into(),
            allows: false,
            counted: Said {
                asked: 1_000_000,
                hits: 1,
                answers: 1_000_000,
                listed: 340_000,
                timeouts: 1,
                errors: 0,
                took: Took {
                    count: 1_000_000,
                    median_us: Some(800),
                    p99_us: Some(12_000),
                },
            },
            minute: Said::default(),
        }],
        counted: Counted {
            sessions: 1_000_000,
            at_connect: Sentences {
                exempt: 0,
                pass: 1,
                reject: 1_000_000,
                ban: 12_345_678,
            },
            to_sentence: Took {
                count: 1,
                median_us: Some(1200),
                p99_us: Some(1_500_000),
            },
            ..Counted::default()
        },
        sandbox: Sandbox {
            worker: walls_on(),
            warden: Some(walls_on()),
        },
        cache: Cache {
            entries: 1,
            most: 1_000_000,
        },
        ..Status::default()
    }
}

#[test]
fn what_it_looks_like() {
    let expected = "\
rblfilter   0.1.0, enforce, running for 3h 2m (worker 4711)
watching    by events; 1 session is followed
gate        off
slots       esmtpd: 12 of 300 in use (4 %); 300 at most in 5s
            | ▁▄█▁|
bans        1,234 addresses and networks are banned, 0 are let in by hand
since start sessions 1,000,000, messages 0, listed 0, bans 0
            ended: 0 listed, 0 refused, 0 silent, 0 by hand
last minute sessions 0, messages 0, listed 0, bans 0
            ended: 0 listed, 0 refused, 0 silent, 0 by hand
sentences                            exempt      pass    reject       ban
            connect  since start          0         1 1,000,000     12.3M
                     last minute          0         0         0         0
            message  since start          0         0         0         0
                     last minute          0         0         0         0
verdict     median 1.2 ms, p99 1.5 s; last minute: none
mail waits  none; last minute: none
answers     from the cache 0, asked for 0, unknown 0; 1 of 1,000,000 kept
lists       bl.test: believed, tested 1m 1s ago
                              asked    cached    failed  lists   median      p99
              since start 1,000,000         1         1   34 %   800 us    12 ms
              last minute         0         0         0      -        -        -
sandbox     worker: no capability, no_new_privs, seccomp
            warden: cap_net_admin alone, no_new_privs, seccomp, landlock 7
degraded    nothing
";
    assert_eq!(plain(&status()), expected);
}

#[test]
fn nothing_at_all_is_told_as_well() {
    let text = plain(&Status {
        version: "0.1.0".into(),
        mode: "observe".into(),
        watch: "off".into(),
        standing: 2,
        dry_run: true,
        ..Status::default()
    });
    for part in [
        "running for 0s",
        "at the end of data alone; 0 sessions are followed",
        "gate        off\n",
        "no couriertcpd runs",
        "none; couriertcpd's verdicts alone",
        "worker: CAPABILITIES AS IT WAS GIVEN, NO no_new_privs, NO seccomp",
        "warden: none in observe",
        "2 bans made before observe",
        "nobody is shut out by them",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_gate_tells_what_it_does() {
    let mut status = status();
    for (state, drops, expected) in [
        ("on", true, "on: listed clients' first packets are dropped"),
        ("on", false, "on: what it would drop is told"),
        ("down", true, "DOWN: all first packets are let in"),
    ] {
        status.gate = Gate {
            state: state.into(),
            drops,
        };
        status.counted.packets.dropped = 1;
        let text = plain(&status);
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("gate     since start"), "{text}");
        assert!(text.contains("packets dropped 1\n"), "{text}");
    }
}

#[test]
fn colours_mark_what_is_wrong_and_change_no_letter() {
    let mut status = status();
    status.lists[0].health = Health::Down;
    let look = Look {
        colour: true,
        unicode: true,
    };
    let painted = render(&status, look);
    assert!(
        painted.contains("\u{1b}[31mbl.test: DOWN, convicts nobody (ipv4 clients)\u{1b}[0m"),
        "{painted:?}"
    );
    assert_eq!(
        anstream::adapter::strip_str(&painted).to_string(),
        plain(&status)
    );
}

#[test]
fn without_block_characters_it_is_ascii() {
    let text = render(&status(), Look::default());
    assert!(text.is_ascii(), "{text}");
    assert!(text.contains("| .=@.|"), "{text}");
}

#[test]
fn whatever_there_is_stays_within_80_columns_and_is_printable() {
    let long = "x".repeat(300) + " \u{1b}[31m\n" + &"ä b ".repeat(100);
    let mut status = status();
    status.uptime = u64::MAX / 4;
    status.version = long.clone();
    status.watch = long.clone();
    status.sessions = usize::MAX;
    status.bans = usize::MAX;
    let sentences = Sentences {
        exempt: u64::MAX,
        pass: u64::MAX,
        reject: u64::MAX,
        ban: u64::MAX,
    };
    let took = Took {
        count: u64::MAX,
        median_us: Some(u64::MAX),
        p99_us: Some(u64::MAX),
    };
    status.counted = Counted {
        sessions: u64::MAX,
        messages: u64::MAX,
        listed: u64::MAX,
        bans: u64::MAX,
        shed: u64::MAX,
        hits: u64::MAX,
        misses: u64::MAX,
        unknown: u64::MAX,
        at_gate: sentences,
        at_connect: sentences,
        at_message: sentences,
        ended: Ended {
            connect: u64::MAX,
            message: u64::MAX,
            silence: u64::MAX,
            hand: u64::MAX,
        },
        to_sentence: took,
        waited: took,
        ..Counted::default()
    };
    status.minute = status.counted.clone();
    status.gate.state = "on".into();
    status.listeners = vec![
        Listener {
            name: long.clone(),
            pid: 1,
            used: 1_000_000,
            slots: Some(0),
            each_second: vec![u32::MAX; 600],
        };
        1000
    ];
    status.lists = (0..1000)
        .map(|count| list(&format!("{count}{long}"), "ipv4", Health::Down))
        .collect();
    status.zones = status
        .lists
        .iter()
        .map(|list| Zone {
            name: list.name.clone(),
            counted: Said {
                asked: u64::MAX,
                hits: u64::MAX,
                answers: u64::MAX,
                listed: u64::MAX,
                timeouts: u64::MAX,
                errors: u64::MAX,
                took,
            },
            ..Zone::default()
        })
        .collect();
    status.degraded = vec![
        Degraded {
            what: "dnsbl".into(),
            name: long.clone(),
            age: 1,
            reason: long.clone(),
            advice: long,
        };
        1000
    ];
    status.sandbox.worker = Walls::default();
    let text = plain(&status);
    for line in text.lines() {
        assert!(line.chars().count() <= WIDTH, "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    assert_eq!(text.matches("and 960 more").count(), 3);
}

#[test]
fn the_families_of_a_list_are_told_apart_where_they_differ() {
    let mut status = status();
    status.lists[1].health = Health::Down;
    let text = plain(&status);
    assert!(
        text.contains("bl.test: believed, tested 1m 1s ago (ipv4 clients)"),
        "{text}"
    );
    assert!(
        text.contains("bl.test: DOWN, convicts nobody (ipv6 clients)"),
        "{text}"
    );
    assert_eq!(text.matches("asked    cached").count(), 1, "{text}");
}
