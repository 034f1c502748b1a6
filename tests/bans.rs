//! Bans that end, come back and are taken away by hand, in a real Courier with
//! a real DNSBL and real ipsets.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Output;
use std::time::Duration;

use common::*;
use nix::sys::signal::Signal;
use rblfilter_lab::{Config, Lab, wait_for};
use serde_json::Value;

const STATE: &str = "/var/lib/courier/rblfilter/state.db";
const CONTROL: &str = "/var/lib/courier/rblfilter/control";
const LISTED2: &str = "127.66.1.3";

/// The same, with this backend.
fn of(backend: &str, ban: &str) -> String {
    toml(&format!("backend = \"{backend}\"\n{ban}"))
}

/// Judgement at the end of data, answers that are kept a second, and the rest
/// of a `[ban]` table.
fn toml(ban: &str) -> String {
    format!(
        "watch = \"off\"\n[ban]\n{ban}\n[cache]\nmin-ttl = \"1s\"\nmax-ttl = \"1s\"\nmax-negative-ttl = \"1s\"\n{ZONE}"
    )
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The exit status of a command, and what it said.
fn run(lab: &Lab, words: &[&str]) -> (Option<i32>, String) {
    let output = lab.run(words).unwrap();
    (output.status.code(), told(&output))
}

/// What `rblfilter list --json` says.
fn list(lab: &Lab) -> Vec<Value> {
    // After a start, the commands are served a moment later than the mail.
    let listed = || {
        let (code, text) = run(lab, &["rblfilter", "list", "--json"]);
        (code != Some(69)).then_some((code, text))
    };
    let (code, text) = wait_for(LIMIT, listed).expect("the filter serves commands");
    assert_eq!(code, Some(0), "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Sends a message of `source` and waits until it is banned; the log's line.
fn ban(lab: &Lab, source: &str) -> String {
    lab.clear_log();
    let outcome = lab.send(&message(), ip(source));
    assert!(!outcome.accepted(), "{outcome:?}");
    lab.wait_for_log(",action=ban", LIMIT).unwrap()
}

/// The seconds that `net` has left in the kernel's set.
fn left(lab: &Lab, net: &str) -> Option<u32> {
    let set = if net.contains(':') {
        "rblfilter6"
    } else {
        "rblfilter4"
    };
    let members = lab.set_members(set).unwrap();
    members
        .into_iter()
        .find(|member| member.net == net)?
        .timeout
}

fn wait_for_left(lab: &Lab, net: &str) -> u32 {
    wait_for(LIMIT, || left(lab, net)).unwrap_or_else(|| panic!("{net} is not banned"))
}

fn wait_until_free(lab: &Lab, net: &str) {
    wait_for(Duration::from_secs(40), || {
        left(lab, net).is_none().then_some(())
    })
    .unwrap_or_else(|| panic!("{net} is banned"));
}

fn database() -> rusqlite::Connection {
    rusqlite::Connection::open(STATE).unwrap()
}

/// Waits until the file tells of so many bans.
fn wait_for_rows(count: u32) {
    let rows = || {
        let query = "SELECT count(*) FROM bans";
        let rows: u32 = database().query_row(query, [], |row| row.get(0)).ok()?;
        (rows == count).then_some(())
    };
    wait_for(LIMIT, rows).unwrap_or_else(|| panic!("{count} bans in the file"));
}

fn worker(lab: &Lab) -> i32 {
    let worker = || {
        lab.processes()
            .into_iter()
            .find(|process| {
                let arguments = lab.arguments(process.pid);
                arguments.iter().any(|word| word == "supervised-worker")
            })
            .map(|process| process.pid)
    };
    wait_for(LIMIT, worker).unwrap()
}

#[test]
fn a_repeat_after_the_end_is_banned_for_longer() {
    let lab = lab(
        Config::default(),
        &toml("time = \"4s\"\nmax-time = \"20s\""),
    );
    let first = ban(&lab, LISTED);
    assert!(first.contains(",bantime=4s,killed="), "{first}");
    for (time, offence) in [(8, 2), (16, 3), (20, 4)] {
        wait_until_free(&lab, LISTED);
        wait_for_rows(0);
        let line = ban(&lab, LISTED);
        let expected = format!(",bantime={time}s,offence={offence},");
        assert!(line.contains(&expected), "{line}");
        assert!((1..=time).contains(&wait_for_left(&lab, LISTED)));
        if offence == 2 {
            // What counts outlives a restart, while the ban runs and after it.
            wait_for_rows(1);
            product().filterctl_stop(&lab).unwrap();
            product().filterctl_start(&lab).unwrap();
        }
    }
    let entry = &list(&lab)[0];
    assert_eq!(entry["offence"], 4, "{entry}");
}

#[test]
fn a_ban_ends_when_no_list_names_the_client_and_not_when_none_answers() {
    let mut lab = lab(Config::default(), &toml("look-again = \"2s\""));
    ban(&lab, LISTED);
    ban(&lab, LISTED2);
    let (code, text) = run(
        &lab,
        &["rblfilter", "ban", "127.9.9.9", "--reason", "by hand"],
    );
    assert_eq!(code, Some(0), "{text}");
    // A list that falls silent has the bans lifted that are newer than its last
    // test; these are older than the worker.
    wait_for_rows(3);
    lab.clear_log();
    lab.dns_stop().unwrap();
    let pid = worker(&lab);
    lab.kill(pid, Signal::SIGKILL).unwrap();
    lab.wait_for_log("degraded,what=dnsbl", Duration::from_secs(40))
        .unwrap();
    // No answer: nobody is let in, through several look-ups.
    std::thread::sleep(Duration::from_secs(6));
    assert!(lab.log_matching("freed,").is_empty());
    assert!(lab.log_matching("lifted,").is_empty());
    assert_eq!(lab.set_members("rblfilter4").unwrap().len(), 3);
    lab.dns_start(rblfilter_lab::Dns::Rbldnsd).unwrap();
    lab.dns_list(&[(format!("{LISTED2}/32"), [127, 0, 0, 2].into())])
        .unwrap();
    let line = lab.wait_for_log("freed,", Duration::from_secs(60)).unwrap();
    assert!(
        line.ends_with(&format!("freed,ip=[::ffff:{LISTED}],reason=unlisted")),
        "{line}"
    );
    wait_until_free(&lab, LISTED);
    assert_delivered(&lab, &message(), LISTED, 1);
    assert!(left(&lab, LISTED2).is_some(), "the other one is listed");
    assert!(
        left(&lab, "127.9.9.9").is_some(),
        "no list was asked for it"
    );
    let names: Vec<Value> = list(&lab).iter().map(|e| e["network"].clone()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn bans_come_back_after_a_restart_and_into_a_set_that_was_emptied() {
    let lab = lab(Config::default(), &toml("time = \"100s\""));
    ban(&lab, LISTED);
    ban(&lab, LISTED6);
    wait_for_rows(2);
    product().filterctl_stop(&lab).unwrap();
    assert!(left(&lab, LISTED).is_some(), "a stop frees nobody");
    for set in ["rblfilter4", "rblfilter6"] {
        lab.run_ok(&["ipset", "flush", set]).unwrap();
    }
    product().filterctl_start(&lab).unwrap();
    for net in [LISTED, "fd00:66:1:2::/64"] {
        let seconds = wait_for_left(&lab, net);
        assert!((50..=100).contains(&seconds), "{net}: {seconds}");
    }
    let line = lab.wait_for_log("restored,bans=2,of=2", LIMIT).unwrap();
    assert!(line.contains("took="), "{line}");
    assert!(lab.send(&impatient(), ip(LISTED)).not_answered());
    // The file as another boot left it, whose clock was a day ahead, and as one
    // that was a day behind: never longer than the ban itself.
    for (seconds, back) in [("seconds + 86400", false), ("seconds - 86400", true)] {
        product().filterctl_stop(&lab).unwrap();
        lab.run_ok(&["ipset", "flush", "rblfilter4"]).unwrap();
        let sql = format!("UPDATE times SET boot = 'another', seconds = {seconds}");
        database().execute(&sql, []).unwrap();
        lab.clear_log();
        product().filterctl_start(&lab).unwrap();
        lab.wait_for_log("store,bans=", LIMIT).unwrap();
        if back {
            let bans: Vec<Value> = list(&lab);
            assert!(bans.is_empty(), "they ended a day ago: {bans:?}");
        }
        assert!(left(&lab, LISTED).is_none_or(|seconds| seconds <= 100));
    }
}

#[test]
fn a_killed_worker_forgets_nothing_that_it_acknowledged() {
    for backend in BACKENDS {
        let lab = lab(Config::default(), &of(backend, ""));
        let flush: &[&str] = match backend {
            "ipset" => &["ipset", "flush", "rblfilter4"],
            _ => &["nft", "flush set inet rblfilter rblfilter4"],
        };
        for number in 0..20 {
            let address = format!("127.9.0.{number}");
            let (code, text) = run(&lab, &["rblfilter", "ban", &address, "--for", "2h"]);
            assert_eq!(code, Some(0), "{text}");
            assert!(!text.contains("may forget"), "{text}");
            if number % 5 == 4 {
                // Between the ban and the next start: the set is emptied too.
                let pid = worker(&lab);
                lab.kill(pid, Signal::SIGKILL).unwrap();
                lab.run_ok(flush).unwrap();
                let next = || (worker(&lab) != pid).then_some(());
                wait_for(LIMIT, next).unwrap();
                let back = || {
                    let bans = usize::try_from(number + 1).unwrap();
                    let members = banned(&lab, backend, false);
                    let longest = members.iter().filter_map(|member| member.timeout).max();
                    assert!(longest.is_none_or(|longest| longest <= 7200));
                    (members.len() == bans).then_some(())
                };
                wait_for(Duration::from_secs(30), back)
                    .unwrap_or_else(|| panic!("{backend}: {:?}", banned(&lab, backend, false)));
            }
        }
        assert_eq!(list(&lab).len(), 20);
    }
}

/// A verdict's ban is not acknowledged to anybody, so a worker that is killed
/// at once may forget it; the kernel does not, nor does it hold it for longer.
#[test]
fn a_worker_that_is_killed_between_a_ban_and_its_writing_bans_nobody_for_longer() {
    for backend in BACKENDS {
        let lab = lab(Config::default(), &of(backend, "time = \"100s\""));
        for host in 2..6 {
            let source = format!("127.66.1.{host}");
            let pid = worker(&lab);
            assert!(!lab.send(&message(), ip(&source)).accepted());
            let in_the_kernel = || {
                let members = banned(&lab, backend, false);
                members.into_iter().find(|member| member.net == source)
            };
            wait_for(LIMIT, in_the_kernel).unwrap();
            // Rows are written 0.2 s later.
            lab.kill(pid, Signal::SIGKILL).unwrap();
            wait_for(LIMIT, || (worker(&lab) != pid).then_some(())).unwrap();
            list(&lab);
            let left = in_the_kernel().expect("banned still").timeout.unwrap();
            assert!(left <= 100, "{backend}: {left}");
            let bans = list(&lab);
            let longest = bans.iter().filter_map(|ban| ban["left"].as_u64()).max();
            assert!(longest.is_none_or(|left| left <= 100), "{bans:?}");
        }
        // Each of them ends.
        assert_delivered(&lab, &message(), CLEAN, 1);
    }
}

/// By itself, everywhere.
#[test]
fn a_ban_that_is_over_is_gone_from_the_kernel_the_list_and_the_file() {
    for backend in BACKENDS {
        let lab = lab(Config::default(), &of(backend, "time = \"12s\""));
        for source in [LISTED, LISTED6] {
            let ipv6 = source.contains(':');
            ban(&lab, source);
            wait_for(LIMIT, || {
                (!banned(&lab, backend, ipv6).is_empty()).then_some(())
            })
            .unwrap_or_else(|| panic!("{backend}: {source} is banned"));
            wait_for(LIMIT * 2, || {
                banned(&lab, backend, ipv6).is_empty().then_some(())
            })
            .unwrap_or_else(|| panic!("{backend}: {source} is free"));
            wait_for_rows(0);
            wait_for(LIMIT, || list(&lab).is_empty().then_some(())).unwrap();
        }
        let query = "SELECT count(*) FROM offences";
        let offences: u32 = database().query_row(query, [], |row| row.get(0)).unwrap();
        assert_eq!(offences, 2, "they are remembered for the next time");
        assert!(lab.log_matching("emptied,").is_empty(), "nobody took them");
    }
}

#[test]
fn a_damaged_file_is_set_aside_and_bans_go_on() {
    let lab = lab(Config::default(), &toml(""));
    ban(&lab, LISTED);
    wait_for_rows(1);
    product().filterctl_stop(&lab).unwrap();
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{STATE}{end}"));
    }
    fs::write(STATE, "this is no database, and longer than its header is").unwrap();
    lab.clear_log();
    product().filterctl_start(&lab).unwrap();
    let line = lab.wait_for_log("degraded,what=store", LIMIT).unwrap();
    assert!(line.contains("not a database; it is kept as "), "{line}");
    let folder = fs::read_dir("/var/lib/courier/rblfilter").unwrap();
    let kept = folder
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.starts_with("state.db.corrupt-"));
    assert!(kept.is_some());
    ban(&lab, LISTED2);
    lab.wait_for_log("recovered,what=store", LIMIT).unwrap();
    wait_for_rows(1);
    assert_delivered(&lab, &message(), CLEAN, 1);
}

#[test]
fn the_admins_hand_bans_frees_and_lets_in() {
    let lab = lab(
        Config::default(),
        &format!("watch = \"off\"\n[allow]\nnetworks = [\"127.8.0.0/16\"]\n{ZONE}"),
    );
    ban(&lab, LISTED);
    // Unban: free at once, let in whatever the lists say, also after a restart.
    let (code, text) = run(&lab, &["rblfilter", "unban", &format!("[::ffff:{LISTED}]")]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains(&format!("{LISTED} is no longer banned; let in for 1day")),
        "{text}"
    );
    assert_eq!(left(&lab, LISTED), None);
    assert_delivered(&lab, &message(), LISTED, 1);
    product().filterctl_stop(&lab).unwrap();
    product().filterctl_start(&lab).unwrap();
    assert_delivered(&lab, &message(), LISTED, 2);
    let entry = list(&lab).remove(0);
    assert_eq!(
        (&entry["what"], &entry["by"]),
        (&"allow".into(), &"hand".into())
    );
    let (_, text) = run(&lab, &["rblfilter", "allow", LISTED, "--for", "0s"]);
    assert!(
        text.contains(&format!("{LISTED} is no longer let in")),
        "{text}"
    );
    ban(&lab, LISTED);

    // Allow: before anything happens.
    let (code, text) = run(
        &lab,
        &["rblfilter", "allow", "127.66.2.0/24", "--for", "1h"],
    );
    assert_eq!(code, Some(0), "{text}");
    assert_delivered(&lab, &message(), "127.66.2.9", 3);

    // Ban, with who and why.
    lab.clear_log();
    let words = [
        "rblfilter",
        "ban",
        "127.9.9.9",
        "--for",
        "2h",
        "--reason",
        "too, much\n\u{1b}[31m",
    ];
    let (code, text) = run(&lab, &words);
    assert_eq!(code, Some(0), "{text}");
    assert!((7100..=7200).contains(&left(&lab, "127.9.9.9").unwrap()));
    assert!(lab.send(&impatient(), ip("127.9.9.9")).not_answered());
    let line = lab.wait_for_log("byhand,", LIMIT).unwrap();
    assert!(
        line.ends_with(
            "byhand,what=ban,ip=[::ffff:127.9.9.9],user=root,for=7200s: too, much\\x0a\\x1b[31m"
        ),
        "{line}"
    );
    let entries = list(&lab);
    let entry = entries
        .iter()
        .find(|e| e["network"] == "127.9.9.9/32")
        .unwrap();
    assert_eq!(entry["by"], "root");
    assert_eq!(entry["reason"], "too, much\n\u{1b}[31m");
    assert!(
        entry["left"].as_u64().unwrap() <= 7200 && entry["since"].is_u64(),
        "{entry}"
    );
    let entry = entries
        .iter()
        .find(|e| e["network"] == format!("{LISTED}/32"))
        .unwrap();
    assert_eq!(entry["zones"], serde_json::json!(["bl.test"]));
    assert_eq!(
        (&entry["by"], &entry["offence"]),
        (&"lists".into(), &1.into())
    );
    let (_, text) = run(&lab, &["rblfilter", "list"]);
    assert!(
        text.contains("by root: too, much\\n\\u{1b}[31m\n"),
        "{text}"
    );

    // What ends is named, and who is let in is not banned.
    lab.run_ok(&["rblfilter", "ban", "127.66.4.0/24"]).unwrap();
    let (code, text) = run(&lab, &["rblfilter", "allow", "127.66.4.9", "--for", "1h"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("127.66.4.0/24 is no longer banned"), "{text}");
    assert_eq!(left(&lab, "127.66.4.0/24"), None);
    let (_, text) = run(&lab, &["rblfilter", "ban", "127.66.4.0/24", "--force"]);
    assert!(text.contains("127.66.4.9 is no longer let in"), "{text}");
    let (_, text) = run(&lab, &["rblfilter", "unban", "127.66.4.9", "--for", "0s"]);
    assert!(text.contains("127.66.4.0/24 is no longer banned"), "{text}");
    for wrong in ["0s", "400days"] {
        let (code, text) = run(&lab, &["rblfilter", "ban", "127.66.4.9", "--for", wrong]);
        assert_eq!(code, Some(64), "{text}");
        assert!(text.contains("at most 24 days"), "{text}");
    }

    // Whom nobody may ban.
    for (address, expected) in [
        ("127.8.1.1", "is in allow.networks"),
        ("127.0.0.1", "or holds an own address"),
        ("127.66.2.9", "is let in by hand"),
    ] {
        let (code, text) = run(&lab, &["rblfilter", "ban", address]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(expected), "{text}");
        assert_eq!(left(&lab, address), None);
    }
    let (code, text) = run(&lab, &["rblfilter", "ban", "127.66.2.9", "--force"]);
    assert_eq!(code, Some(0), "{text}");
    // What is wrong changes nothing.
    let before = list(&lab).len();
    for wrong in ["x", "127.1.1.1/8", "127.0.0.0/33", "0.0.0.0/0"] {
        for what in ["ban", "unban", "allow"] {
            let (code, text) = run(&lab, &["rblfilter", what, wrong]);
            assert_eq!(code, Some(64), "{text}");
        }
    }
    assert_eq!(list(&lab).len(), before);
    // A network, and an allowlisted one because he says so; never an own one.
    for words in [&["127.9.0.0/16"][..], &["127.8.0.0/16", "--force"]] {
        let words = [&["rblfilter", "ban"], words].concat();
        let (code, text) = run(&lab, &words);
        assert_eq!(code, Some(0), "{text}");
    }
    assert!(lab.send(&impatient(), ip("127.8.1.1")).not_answered());
    let words = ["rblfilter", "ban", "127.0.0.0/24", "--force"];
    let (code, text) = run(&lab, &words);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the warden did not ban"), "{text}");
    // Both come back, too.
    product().filterctl_stop(&lab).unwrap();
    lab.run_ok(&["ipset", "flush", "rblfilter4"]).unwrap();
    product().filterctl_start(&lab).unwrap();
    wait_for_left(&lab, "127.9.0.0/16");
    // What the kernel alone holds goes, too.
    let words = ["ipset", "add", "rblfilter4", "127.9.7.7", "timeout", "600"];
    lab.run_ok(&words).unwrap();
    let (code, text) = run(&lab, &["rblfilter", "unban", "--all"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("5 bans are ended"), "{text}");
    assert_no_bans(&lab);
    lab.run_ok(&["rblfilter", "allow", "127.66.2.0/24", "--for", "0s"])
        .unwrap();
    let (_, text) = run(&lab, &["rblfilter", "list"]);
    assert!(!text.contains("banned since"), "{text}");
}

/// What `unban` says where the filter is stopped is what works, and so is its next
/// step.
#[test]
fn a_stopped_filters_set_is_left_by_the_command_that_unban_names() {
    for backend in ["ipset", "nftables"] {
        let lab = lab(Config::default(), &of(backend, ""));
        ban(&lab, LISTED);
        ban(&lab, LISTED6);
        wait_for_rows(2);
        product().filterctl_stop(&lab).unwrap();
        assert!(lab.send(&impatient(), ip(LISTED)).not_answered());
        let (code, text) = run(&lab, &["rblfilter", "unban", LISTED, LISTED6]);
        assert_eq!(code, Some(69), "{text}");
        assert!(text.contains("the filter does not run"), "{text}");
        let commands: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| {
                line.starts_with("ipset del ") || line.starts_with("nft delete element ")
            })
            .collect();
        assert_eq!(commands.len(), 2, "{text}");
        for command in commands {
            lab.run_ok(&["sh", "-c", command]).unwrap();
        }
        assert_delivered(&lab, &message(), LISTED, 1);
        assert_delivered(&lab, &message(), LISTED6, 2);
        let next = format!("rblfilter unban {LISTED} {LISTED6}");
        assert!(text.ends_with(&format!("    {next}\n")), "{text}");
        product().filterctl_start(&lab).unwrap();
        lab.wait_for_log("restored,bans=2,of=2", LIMIT).unwrap();
        by_hand(&lab, &["unban", LISTED, LISTED6]);
        assert_delivered(&lab, &message(), LISTED, 3);

        // Whoever looks it up is told so, with the filter and without.
        for runs in [true, false] {
            if !runs {
                product().filterctl_stop(&lab).unwrap();
            }
            let (code, text) = run(&lab, &["rblfilter", "lookup", LISTED]);
            assert_eq!(code, Some(0), "{text}");
            for part in [
                "127.66.1.2: pass, score 10\n".to_owned(),
                "  let in by hand until 2".to_owned(),
                format!("whatever the lists say (rblfilter allow {LISTED} --for 0s ends that)"),
                "listed 127.0.0.2".to_owned(),
            ] {
                assert!(text.contains(&part), "{part}: {text}");
            }
        }
        let (code, text) = run(&lab, &["rblfilter", "lookup", LISTED2]);
        assert!(code == Some(1) && !text.contains("let in"), "{text}");
    }
}

#[test]
fn an_ipv6_client_beside_a_good_one_is_banned_alone() {
    let networks = ["fd00:66:1:2::5/128", "fd00:66:1:3::/64", "fd00:66:1:4::/64"];
    let listed = networks.map(|network| (network.into(), [127, 0, 0, 2].into()));
    let config = Config {
        listed: listed.to_vec(),
        ..Config::default()
    };
    let lab = lab(config, &toml(""));
    // The listed client's neighbour is not, and its mail accepted.
    let (good, bad) = ("fd00:66:1:2::7", LISTED6);
    assert_delivered(&lab, &message(), good, 1);
    run(&lab, &["rblfilter", "allow", "fd00:66:1:3::7"]);
    ban(&lab, bad);
    wait_for_left(&lab, bad);
    assert_eq!(left(&lab, "fd00:66:1:2::/64"), None);
    // And one that is let in by hand counts as one.
    ban(&lab, "fd00:66:1:3::8");
    wait_for_left(&lab, "fd00:66:1:3::8");
    ban(&lab, "fd00:66:1:4::8");
    wait_for_left(&lab, "fd00:66:1:4::/64");
    // An address finds the network that keeps it out.
    let (_, text) = run(&lab, &["rblfilter", "unban", "fd00:66:1:4::99"]);
    assert!(
        text.contains("fd00:66:1:4::/64 is no longer banned"),
        "{text}"
    );
    assert_eq!(left(&lab, "fd00:66:1:4::/64"), None);
}

#[test]
fn the_control_socket_is_for_root_and_couriers_group() {
    let lab = lab(Config::default(), &toml(""));
    // Commands are served a moment later than mail.
    let socket = wait_for(LIMIT, || fs::metadata(CONTROL).ok()).unwrap();
    let courier = nix::unistd::User::from_name("courier").unwrap().unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(
        (socket.mode() & 0o777, socket.uid(), socket.gid()),
        (0o660, courier.uid.as_raw(), courier.gid.as_raw())
    );
    // The filter does not wait for a slow disk.
    let state = wait_for(LIMIT, || fs::metadata(STATE).ok()).unwrap();
    assert_eq!(state.mode() & 0o777, 0o600);
    let group = courier.gid.to_string();
    let run_as = |words: &[&str]| {
        let words = [&["setpriv"], words, &["rblfilter", "list"]].concat();
        run(&lab, &words)
    };
    let nobody = ["--reuid", "65534", "--regid", "65534"];
    let (code, text) = run_as(&[&nobody[..], &["--clear-groups"]].concat());
    assert_eq!(code, Some(77), "{text}");
    assert!(text.contains("permission denied"), "{text}");
    let (code, text) = run_as(&[&nobody[..], &["--groups", &group]].concat());
    assert_eq!(code, Some(0), "{text}");
    // Somebody who reaches the socket all the same is looked at.
    for path in ["/var/lib/courier", "/var/lib/courier/rblfilter", CONTROL] {
        lab.run_ok(&["chmod", "0777", path]).unwrap();
    }
    let (code, text) = run_as(&[&nobody[..], &["--clear-groups"]].concat());
    assert_eq!(code, Some(77), "{text}");
    lab.wait_for_log("refused,uid=65534", LIMIT).unwrap();
    // It survives its worker, and says so when nobody listens.
    let pid = worker(&lab);
    lab.kill(pid, Signal::SIGKILL).unwrap();
    let served = || (run(&lab, &["rblfilter", "list"]).0 == Some(0)).then_some(());
    wait_for(LIMIT, served).unwrap();
    product().filterctl_stop(&lab).unwrap();
    let (code, text) = run(&lab, &["rblfilter", "unban", LISTED]);
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("the filter does not run"), "{text}");
}

/// The warden makes it anew, and what it held is put in again.
#[test]
fn a_set_that_is_destroyed_under_the_filter_is_filled_again() {
    let lab = lab(Config::default(), &toml(""));
    ban(&lab, LISTED);
    ban(&lab, LISTED2);
    for words in [
        &["iptables", "-F", "INPUT"][..],
        &["ipset", "destroy", "rblfilter4"],
    ] {
        lab.run_ok(words).unwrap();
    }
    ban(&lab, "127.66.1.4");
    for net in [LISTED, LISTED2, "127.66.1.4"] {
        assert!(wait_for_left(&lab, net) <= 3600);
    }
}

#[test]
fn a_set_that_is_emptied_under_the_filter_is_filled_again() {
    let lab = lab(Config::default(), &toml(""));
    ban(&lab, LISTED);
    ban(&lab, LISTED2);
    lab.run_ok(&["ipset", "flush", "rblfilter4"]).unwrap();
    // The next verdict on one of them finds it out.
    let line = ban(&lab, LISTED);
    assert!(!line.contains("offence="), "no repeat: {line}");
    assert!(wait_for_left(&lab, LISTED) <= 3600);
    assert!(wait_for_left(&lab, LISTED2) <= 3600);
}

/// A reboot in the middle of a wave.
#[test]
fn two_hundred_thousand_bans_come_back() {
    for backend in BACKENDS {
        come_back(backend);
    }
}

fn come_back(backend: &str) {
    const BANS: u32 = 200_000;
    let lab = lab(Config::default(), &of(backend, ""));
    ban(&lab, LISTED);
    wait_for_rows(1);
    product().filterctl_stop(&lab).unwrap();
    for what in ["remove", "apply"] {
        lab.run_ok(&["rblfilter", "firewall", what]).unwrap();
    }
    let mut connection = database();
    let transaction = connection.transaction().unwrap();
    {
        let mut statement = transaction
            .prepare(
                "INSERT INTO bans SELECT ?1, ?2, since, until + 3600, 1, zones, rests_on, own, NULL, NULL, 0 FROM bans WHERE network = ?3",
            )
            .unwrap();
        for number in 0..BANS {
            let address = std::net::Ipv4Addr::from(0x7f80_0000 + number);
            let row = (
                format!("{address}/32"),
                address.to_string(),
                format!("{LISTED}/32"),
            );
            statement.execute(row).unwrap();
        }
    }
    transaction.commit().unwrap();
    lab.clear_log();
    product().filterctl_start(&lab).unwrap();
    // Mail flows all the while.
    assert_delivered(&lab, &message(), CLEAN, 1);
    // Who is freed while the set is filled is not put in again.
    let freed: Vec<String> = (0..20)
        .map(|number| std::net::Ipv4Addr::from(0x7f80_0000 + number * 9999).to_string())
        .collect();
    let mut words = vec!["unban", "--for", "0s"];
    words.extend(freed.iter().map(String::as_str));
    list(&lab);
    by_hand(&lab, &words);
    let line = lab
        .wait_for_log("restored,bans=", Duration::from_secs(240))
        .unwrap();
    println!("{line}");
    let left = usize::try_from(BANS + 1).unwrap() - freed.len();
    let number = |after: &str| -> usize {
        let (_, rest) = line.split_once(after).unwrap();
        rest.split(',').next().unwrap().parse().unwrap()
    };
    let (restored, of) = (number("restored,bans="), number(",of="));
    assert!((left..=of).contains(&restored), "{line}");
    let members = banned(&lab, backend, false);
    assert_eq!(members.len(), left, "{backend}");
    assert!(!members.iter().any(|member| freed.contains(&member.net)));
    assert_eq!(list(&lab).len(), left);
    let begun = std::time::Instant::now();
    let text = by_hand(&lab, &["unban", "--all"]);
    println!("{} in {:?}", text.trim(), begun.elapsed());
    assert!(banned(&lab, backend, false).is_empty());
    wait_for_rows(0);
    let mut degraded = lab.log_matching("degraded");
    // On a busy machine they come later, and all the same; so does a warden's answer.
    degraded.retain(|line| !is_late(line) && !line.contains("warden: no answer within 1 s"));
    assert!(degraded.is_empty(), "{degraded:?}");
}
