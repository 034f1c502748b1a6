//! What is kept of a client, and that nothing is when it is forgotten: in a real
//! Courier, with the kernel's sets, and byte by byte in the files.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use common::*;
use memchr::memmem;
use rblfilter_lab::smtp::Message;
use rblfilter_lab::{Config, Lab, wait_for};

const STATE: &str = "/var/lib/courier/rblfilter";
const DAY: i64 = 86_400;

/// The exit status of a command, and what it said.
fn run(lab: &Lab, words: &[&str]) -> (Option<i32>, String) {
    let ran = || {
        let output = lab.run(words).unwrap();
        let told = [&output.stdout[..], &output.stderr].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        // After a start, the commands are served a moment later than the mail.
        let code = output.status.code();
        (code != Some(69)).then_some((code, told))
    };
    wait_for(LIMIT, ran).expect("the filter serves commands")
}

fn forget(lab: &Lab, networks: &[&str]) -> (Option<i32>, String) {
    run(lab, &[&["rblfilter", "forget"], networks].concat())
}

/// The files in the state folder that hold an address, as text or as bytes.
fn files_with(address: &str) -> Vec<String> {
    let bytes = match ip(address) {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let bytes = Ipv6Addr::octets(&bytes);
    let mut found = Vec::new();
    for entry in fs::read_dir(STATE).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let content = fs::read(&path).unwrap();
            let holds = |needle: &[u8]| memmem::find(&content, needle).is_some();
            if holds(address.as_bytes()) || holds(&bytes) {
                found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn members(lab: &Lab, set: &str) -> Vec<String> {
    let members = lab.set_members(set).unwrap();
    members.into_iter().map(|member| member.net).collect()
}

fn ban(lab: &Lab, source: &str, net: &str) {
    assert!(!lab.send(&message(), ip(source)).accepted(), "{source}");
    let set = if source.contains(':') {
        "rblfilter6"
    } else {
        "rblfilter4"
    };
    let there = || members(lab, set).contains(&net.to_owned()).then_some(());
    wait_for(LIMIT, there).unwrap_or_else(|| panic!("{net} is not banned"));
}

fn count(table: &str) -> u32 {
    let database = rusqlite::Connection::open(format!("{STATE}/state.db")).unwrap();
    let query = format!("SELECT count(*) FROM {table}");
    database.query_row(&query, [], |row| row.get(0)).unwrap()
}

fn wait_for_count(table: &str, expected: u32) {
    let there = || (count(table) == expected).then_some(());
    wait_for(LIMIT, there).unwrap_or_else(|| panic!("{} rows in {table}", count(table)));
}

fn restart(lab: &Lab) {
    lab.clear_log();
    product().filterctl_stop(lab).unwrap();
    // The worker outlives the supervisor by what it has to write.
    lab.wait_for_log("cache,written=", 2 * LIMIT).unwrap();
    product().filterctl_start(lab).unwrap();
}

#[test]
fn of_clients_that_are_forgotten_nothing_is_left() {
    const NET6: &str = "fd00:66:1:2::/64";
    let lab = lab(Config::default(), &format!("watch = \"off\"\n{ZONE}"));
    ban(&lab, LISTED, LISTED);
    ban(&lab, LISTED6, NET6);
    assert_delivered(&lab, &message(), CLEAN, 1);
    wait_for_count("bans", 2);
    wait_for_count("senders", 1);
    // What the lists said is in a file from then on.
    restart(&lab);
    run(&lab, &["rblfilter", "list"]);
    // (Of a listing that is newer than the list's last test, nothing is kept there.)
    for (address, expected) in [
        (LISTED, &["state.db"][..]),
        (LISTED6, &["state.db"]),
        (CLEAN, &["dnsbl-cache", "state.db"]),
    ] {
        let files = files_with(address);
        for file in expected {
            assert!(files.contains(&(*file).to_owned()), "{address}: {files:?}");
        }
    }
    lab.clear_log();

    let as_logged = format!("[::ffff:{LISTED}]");
    let (code, told) = forget(&lab, &[&as_logged, LISTED6, CLEAN]);
    assert_eq!(code, Some(0), "{told}");
    for line in [
        format!("{LISTED}: deleted: 1 ban, which is ended"),
        format!("{LISTED6}: deleted: 1 ban, which is ended"),
        format!("{CLEAN}: deleted: 1 client that delivered mail, 1 answer of a list\n"),
        "The mail log is not rblfilter's, and names it until it is rotated away; so do backups.\n"
            .into(),
    ] {
        assert!(told.contains(&line), "{told}");
    }
    let (_, list) = run(&lab, &["rblfilter", "list", "--json"]);
    assert_eq!(list, "");
    for set in ["rblfilter4", "rblfilter6"] {
        assert_eq!(members(&lab, set), Vec::<String>::new());
    }
    for address in [LISTED, LISTED6, CLEAN, NET6] {
        let address = address.split('/').next().unwrap();
        assert_eq!(files_with(address), Vec::<String>::new(), "{address}");
        let logged = lab.log_matching(address);
        assert!(logged.is_empty(), "it is in the log again: {logged:?}");
    }
    lab.wait_for_log("byhand,what=forget,user=root", LIMIT)
        .unwrap();

    // Twice is the same as once, and a restart brings nothing back.
    let (code, told) = forget(&lab, &[LISTED]);
    let nothing = format!("{LISTED}: nothing was kept of it\n");
    assert!(code == Some(0) && told.contains(&nothing), "{told}");
    restart(&lab);
    let (_, list) = run(&lab, &["rblfilter", "list", "--json"]);
    assert_eq!(list, "");
    // Who comes again is judged as anybody.
    ban(&lab, LISTED, LISTED);
    assert_delivered(&lab, &message(), CLEAN, 2);
}

#[test]
fn what_counted_of_earlier_bans_is_forgotten() {
    let toml = format!("watch = \"off\"\n[ban]\ntime = \"3s\"\n{ZONE}");
    let lab = lab(Config::default(), &toml);
    let banned = || {
        lab.clear_log();
        assert!(!lab.send(&message(), ip(LISTED)).accepted());
        lab.wait_for_log(",action=ban", LIMIT).unwrap()
    };
    let until_free = || {
        let free = || members(&lab, "rblfilter4").is_empty().then_some(());
        wait_for(4 * LIMIT, free).expect("the ban ends");
        wait_for_count("offences", 1);
    };
    banned();
    until_free();
    assert!(banned().contains(",bantime=6s,offence=2,"));
    until_free();
    let (code, told) = forget(&lab, &[LISTED]);
    let deleted = format!("{LISTED}: deleted: 1 count of earlier bans, 1 answer of a list\n");
    assert!(code == Some(0) && told.contains(&deleted), "{told}");
    assert_eq!(count("offences"), 0);
    assert_eq!(files_with(LISTED), Vec::<String>::new());
    let line = banned();
    assert!(line.contains(",bantime=3s,killed="), "{line}");
}

#[test]
fn what_was_done_by_hand_to_a_network_ends_with_the_network_alone() {
    let lab = lab(Config::default(), ZONE);
    by_hand(&lab, &["ban", "127.9.9.0/24", "--for", "1h"]);
    by_hand(&lab, &["ban", "127.9.9.9", "--for", "2h"]);
    by_hand(&lab, &["allow", "127.8.8.0/24"]);
    let (code, told) = forget(&lab, &["127.9.9.9", "127.8.8.8"]);
    assert_eq!(code, Some(0), "{told}");
    for line in [
        "127.9.9.9: deleted: 1 ban, which is ended\n",
        "127.9.9.0/24 is banned by hand still: rblfilter unban 127.9.9.0/24\n",
        "127.8.8.8: nothing was kept of it\n",
        "127.8.8.0/24 is let in by hand still: rblfilter allow 127.8.8.0/24 --for 0s\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert_eq!(members(&lab, "rblfilter4"), ["127.9.9.0/24"]);
    let (code, told) = forget(&lab, &["127.9.9.0/24", "127.8.0.0/16"]);
    assert_eq!(code, Some(0), "{told}");
    for line in [
        "127.9.9.0/24: deleted: 1 ban, which is ended\n",
        "127.8.0.0/16: deleted: 1 leave to come in\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert!(members(&lab, "rblfilter4").is_empty());
    for table in ["bans", "allows"] {
        assert_eq!(count(table), 0, "{table}");
    }
    // Half the world is nobody's to forget by a slip.
    let (code, told) = forget(&lab, &["0.0.0.0/0"]);
    assert!(code == Some(64) && told.contains("too wide"), "{told}");
}

#[test]
fn a_ban_of_before_observe_is_forgotten_in_observe() {
    let toml = format!("watch = \"off\"\n{ZONE}");
    let lab = lab(Config::default(), &toml);
    ban(&lab, LISTED, LISTED);
    wait_for_count("bans", 1);
    let file = "/etc/courier/filters/rblfilter.toml";
    fs::write(file, format!("mode = \"observe\"\n{toml}")).unwrap();
    lab.run_ok(&["rblfilter", "reload"]).unwrap();
    let (code, told) = forget(&lab, &[LISTED]);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains(&format!("{LISTED}: deleted: 1 ban, which is ended")),
        "{told}"
    );
    assert!(members(&lab, "rblfilter4").is_empty());
    assert_eq!(files_with(LISTED), Vec::<String>::new());
    let (_, list) = run(&lab, &["rblfilter", "list", "--json"]);
    assert_eq!(list, "");
}

#[test]
fn whom_a_filter_that_is_stopped_keeps_is_said() {
    let lab = lab(Config::default(), ZONE);
    product().filterctl_stop(&lab).unwrap();
    let output = lab.run(&["rblfilter", "forget", LISTED]).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{told}");
    assert!(
        told.contains("does not run (filterctl start rblfilter): ask again when it runs")
            && told.contains("/var/lib/courier/rblfilter/state.db*"),
        "{told}"
    );
}

#[test]
fn the_gates_sets_forget_too() {
    let toml = format!("[gate]\nenabled = true\n{ZONE}");
    let lab = lab(Config::default(), &toml);
    let bound = || {
        let queues = lab.run_ok(&["cat", "/proc/net/netfilter/nfnetlink_queue"]);
        let queues = queues.unwrap();
        queues
            .lines()
            .any(|line| line.split_whitespace().next() == Some("25"))
            .then_some(())
    };
    wait_for(LIMIT, bound).expect("the gate reads its queue");
    assert!(lab.send(&impatient(), ip(LISTED)).not_answered());
    assert_delivered(&lab, &message(), CLEAN, 1);
    for (set, address) in [("rblfilter-deny4", LISTED), ("rblfilter-pass4", CLEAN)] {
        let there = || {
            members(&lab, set)
                .contains(&address.to_owned())
                .then_some(())
        };
        wait_for(LIMIT, there).unwrap_or_else(|| panic!("{address} is not in {set}"));
        let (code, told) = forget(&lab, &[address]);
        assert_eq!(code, Some(0), "{told}");
        let gone = || members(&lab, set).is_empty().then_some(());
        wait_for(LIMIT, gone).unwrap_or_else(|| panic!("{address} is in {set}"));
    }
}

/// The file is taken for one of another boot, so that the wall clock counts.
fn after_a_reboot(lab: &Lab, days: i64) {
    product().filterctl_stop(lab).unwrap();
    let database = rusqlite::Connection::open(format!("{STATE}/state.db")).unwrap();
    let boot = "UPDATE times SET boot = 'another'";
    assert_eq!(database.execute(boot, []).unwrap(), 1);
    drop(database);
    // SQLite's own files are Courier's again, whoever was in them.
    for end in ["-wal", "-shm"] {
        assert!(!Path::new(&format!("{STATE}/state.db{end}")).exists());
    }
    set_clock(days * DAY);
    product().filterctl_start(lab).unwrap();
    run(lab, &["rblfilter", "list"]);
}

#[test]
fn what_is_over_is_kept_for_its_retention_and_no_longer() {
    let lab = lab_with_a_clock(&format!(
        "watch = \"off\"\nretention = \"30d\"\n[ban]\ntime = \"3s\"\nwindow = \"300d\"\n{ZONE}"
    ));
    ban(&lab, LISTED, LISTED);
    let free = || members(&lab, "rblfilter4").is_empty().then_some(());
    wait_for(4 * LIMIT, free).expect("the ban ends");
    wait_for_count("offences", 1);
    assert_delivered(&lab, &message(), CLEAN, 1);
    wait_for_count("senders", 1);
    let now = fs::metadata(format!("{STATE}/state.db")).unwrap();
    let now = now
        .modified()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH);
    let aside = format!("{STATE}/state.db.corrupt-{}", now.unwrap().as_secs());
    fs::write(&aside, LISTED).unwrap();

    after_a_reboot(&lab, 29);
    // A day's are those that delivered mail, and hours the lists' answers.
    wait_for_count("senders", 0);
    let no_cache = || (!Path::new(STATE).join("dnsbl-cache").exists()).then_some(());
    wait_for(LIMIT, no_cache).expect("the lists' answers are removed");
    assert_eq!(files_with(CLEAN), Vec::<String>::new());
    assert_eq!(count("offences"), 1, "in spite of 29 days");
    assert!(Path::new(&aside).exists());

    after_a_reboot(&lab, 31);
    wait_for_count("offences", 0);
    let none = || files_with(LISTED).is_empty().then_some(());
    wait_for(LIMIT, none).unwrap_or_else(|| panic!("{:?}", files_with(LISTED)));
    assert!(!Path::new(&aside).exists());
}

/// Neither at the most talkative level nor for who is refused, exempt or let through.
#[test]
fn the_log_holds_no_recipient_and_no_sender() {
    let toml = format!("watch = \"off\"\n[log]\nlevel = \"debug\"\n{ZONE}");
    let lab = lab(Config::default(), &toml);
    let secret = |to: &str| Message {
        from: "sender-secret@client.test".into(),
        to: vec![to.into()],
        ..message()
    };
    assert!(
        lab.send(&secret("postmaster@lab.test"), ip("127.66.3.3"))
            .accepted()
    );
    lab.wait_for_log("reason=recipients", LIMIT).unwrap();
    assert!(lab.send(&secret("alice@lab.test"), ip(CLEAN)).accepted());
    lab.wait_for_log("passed,", LIMIT).unwrap();
    assert!(!lab.send(&secret("alice@lab.test"), ip(LISTED)).accepted());
    lab.wait_for_log(",action=ban", LIMIT).unwrap();
    product().filterctl_stop(&lab).unwrap();
    lab.wait_for_log("stopped", Duration::from_secs(30))
        .unwrap();
    let mut ours = lab.log_matching("rblfilter");
    ours.retain(|line| line.starts_with("rblfilter"));
    assert!(ours.len() > 5, "{ours:?}");
    for line in ours {
        for secret in ["secret", "alice", "postmaster", "@"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
    let courier = lab.log_matching("sender-secret@client.test");
    assert!(!courier.is_empty(), "Courier's own lines hold both");
}
