//! A disk that is full or blocked, and a file of bans that is damaged, while a
//! real Courier receives mail: bans go on in the kernel, mail flows, what was
//! in the way is kept, and it is said once when it begins and once when it ends.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use common::*;
use nix::unistd::User;
use rblfilter_lab::{Config, Lab, wait_for};

const FOLDER: &str = "/var/lib/courier/rblfilter";
const STATE: &str = "/var/lib/courier/rblfilter/state.db";
const FILLER: &str = "/var/lib/courier/rblfilter/filler";
/// A file that could not be opened is tried again after 30 s, with the next
/// write, of which there is one a minute at least.
const REPAIR: Duration = Duration::from_secs(150);

/// Sends a message of the listed `source`, and waits until the kernel shuts it
/// out.
fn ban(lab: &Lab, source: &str) {
    assert!(!lab.send(&impatient(), ip(source)).accepted(), "{source}");
    assert_banned_too(lab, source);
}

/// The networks in the file; none where it cannot be read.
fn rows() -> Option<Vec<String>> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
    let database = rusqlite::Connection::open_with_flags(STATE, flags).ok()?;
    let mut statement = database
        .prepare("SELECT network FROM bans ORDER BY network")
        .ok()?;
    let rows = statement.query_map([], |row| row.get(0)).ok()?;
    rows.collect::<Result<_, _>>().ok()
}

fn wait_for_rows(sources: &[&str]) {
    let wanted: Vec<String> = sources
        .iter()
        .map(|source| format!("{source}/32"))
        .collect();
    let there = || (rows().as_ref() == Some(&wanted)).then_some(());
    wait_for(REPAIR, there).unwrap_or_else(|| panic!("{:?}, wanted {wanted:?}", rows()));
}

/// It was told that the store does not work, with this reason, and once.
fn assert_degraded(lab: &Lab, reason: &str) {
    let line = lab.wait_for_log("degraded,what=store", LIMIT).unwrap();
    assert!(line.contains(reason) || is_late(&line), "{line}");
}

/// And that it works again. Each once since the log was cleared.
fn assert_recovered(lab: &Lab) {
    lab.wait_for_log("recovered,what=store", REPAIR).unwrap();
    for told in ["degraded,what=store", "recovered,what=store"] {
        let lines = lab.log_matching(told);
        // Once more where the file took its time.
        let late = lab.log_matching("degraded,what=store");
        let late = late.iter().filter(|line| is_late(line)).count();
        assert!((1..=1 + late).contains(&lines.len()), "{lines:?}");
    }
}

/// What was set aside.
fn kept() -> Vec<String> {
    let entries = fs::read_dir(FOLDER).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_kept = |name: &String| {
        name.starts_with("state.db.corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm")
    };
    names.filter(is_kept).collect()
}

/// All bans of the file come back into a set that was emptied.
fn assert_all_come_back(lab: &Lab, sources: &[&str]) {
    product().filterctl_stop(lab).unwrap();
    lab.run_ok(&["ipset", "flush", "rblfilter4"]).unwrap();
    product().filterctl_start(lab).unwrap();
    for source in sources {
        assert_banned_too(lab, source);
    }
}

fn courier() -> (Option<u32>, Option<u32>) {
    let courier = User::from_name("courier").unwrap().unwrap();
    (Some(courier.uid.as_raw()), Some(courier.gid.as_raw()))
}

/// rblfilter installed and not started, with a small disk of its own.
fn on_a_small_disk() -> Lab {
    let lab = Lab::start(Config::default()).unwrap();
    product().install(&lab, ZONE, &["--no-start"]).unwrap();
    let (uid, gid) = courier();
    let options = format!(
        "size=1m,mode=0750,uid={},gid={}",
        uid.unwrap(),
        gid.unwrap()
    );
    lab.run_ok(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", FOLDER])
        .unwrap();
    lab
}

fn fill() {
    let mut filler = fs::File::create(FILLER).unwrap();
    let error = (0..1024).find_map(|_| filler.write_all(&[b'x'; 4096]).err());
    let error = error.expect("the disk is not full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn on_a_full_disk_bans_go_on_and_are_written_once_there_is_room() {
    let lab = on_a_small_disk();
    product().filterctl_start(&lab).unwrap();
    ban(&lab, LISTED);
    wait_for_rows(&[LISTED]);
    fill();
    lab.clear_log();
    let others = ["127.66.1.3", "127.66.1.4", "127.66.1.5"];
    for (number, source) in others.into_iter().enumerate() {
        ban(&lab, source);
        assert_degraded(&lab, "full");
        assert_delivered(&lab, &message(), CLEAN, number + 1);
    }
    // The admin is told that his may be forgotten; it is done all the same.
    let by_hand = lab.run_ok(&["rblfilter", "ban", "127.9.9.9"]).unwrap();
    assert_banned_too(&lab, "127.9.9.9");
    assert!(by_hand.contains("may forget"), "{by_hand}");
    fs::remove_file(FILLER).unwrap();
    ban(&lab, "127.66.1.6");
    assert_recovered(&lab);
    let all = [
        LISTED,
        others[0],
        others[1],
        others[2],
        "127.66.1.6",
        "127.9.9.9",
    ];
    wait_for_rows(&all);
    assert_all_come_back(&lab, &all);
}

#[test]
fn on_a_disk_that_is_full_at_the_start_bans_go_on() {
    let lab = on_a_small_disk();
    fill();
    product().filterctl_start(&lab).unwrap();
    assert_degraded(&lab, "full");
    ban(&lab, LISTED);
    assert_delivered(&lab, &message(), CLEAN, 1);
    fs::remove_file(FILLER).unwrap();
    assert_recovered(&lab);
    wait_for_rows(&[LISTED]);
}

/// Somebody damages the file while the filter has it open; what is left of it
/// is kept, if there is anything.
fn damaged_while_open(damage: impl FnOnce(), reason: &str, keeps: usize) {
    let lab = lab(Config::default(), ZONE);
    ban(&lab, LISTED);
    wait_for_rows(&[LISTED]);
    lab.clear_log();
    damage();
    ban(&lab, "127.66.1.3");
    assert_degraded(&lab, reason);
    assert_delivered(&lab, &message(), CLEAN, 1);
    assert_recovered(&lab);
    assert_eq!(kept().len(), keeps, "{:?}", kept());
    // The earlier ban, too, which the damaged file had.
    wait_for_rows(&[LISTED, "127.66.1.3"]);
    assert_all_come_back(&lab, &[LISTED, "127.66.1.3"]);
}

#[test]
fn a_file_that_is_overwritten_while_it_is_open_is_set_aside() {
    let overwrite = || {
        let size = fs::metadata(STATE).unwrap().len();
        let mut file = OpenOptions::new().write(true).open(STATE).unwrap();
        file.write_all(&vec![b'x'; usize::try_from(size).unwrap()])
            .unwrap();
    };
    damaged_while_open(overwrite, "it is kept as ", 1);
}

#[test]
fn a_file_that_is_cut_off_while_it_is_open_is_set_aside() {
    let cut = || {
        let file = OpenOptions::new().write(true).open(STATE).unwrap();
        file.set_len(0).unwrap();
    };
    damaged_while_open(cut, "it is kept as ", 1);
}

#[test]
fn a_file_that_is_removed_while_it_is_open_is_made_anew() {
    let remove = || fs::remove_file(STATE).unwrap();
    damaged_while_open(remove, "removed", 0);
}

#[test]
fn a_directory_in_the_place_of_the_open_file_is_set_aside() {
    let replace = || {
        fs::remove_file(STATE).unwrap();
        fs::create_dir(STATE).unwrap();
    };
    damaged_while_open(replace, "it is kept as ", 1);
}

/// Before the filter starts, something is in the way; it is kept.
fn in_the_way_at_the_start(put: impl FnOnce(), reason: &str) {
    let lab = lab(Config::default(), ZONE);
    ban(&lab, LISTED);
    wait_for_rows(&[LISTED]);
    product().filterctl_stop(&lab).unwrap();
    put();
    lab.clear_log();
    product().filterctl_start(&lab).unwrap();
    assert_degraded(&lab, reason);
    assert_banned_too(&lab, LISTED);
    ban(&lab, "127.66.1.3");
    assert_delivered(&lab, &message(), CLEAN, 1);
    assert_recovered(&lab);
    assert_eq!(kept().len(), 1, "{:?}", kept());
    wait_for_rows(&["127.66.1.3"]);
}

#[test]
fn a_directory_in_its_place_at_the_start_is_set_aside() {
    let put = || {
        fs::remove_file(STATE).unwrap();
        fs::create_dir(STATE).unwrap();
        fs::write(Path::new(STATE).join("something"), "of the admin's").unwrap();
    };
    in_the_way_at_the_start(put, "no file; it is kept as ");
}

#[test]
fn garbage_at_the_start_is_set_aside() {
    let put = || fs::write(STATE, vec![b'x'; 20_000]).unwrap();
    in_the_way_at_the_start(put, "not a database; it is kept as ");
}

/// As after a downgrade.
#[test]
fn a_newer_versions_file_at_the_start_is_set_aside() {
    let put = || {
        let database = rusqlite::Connection::open(STATE).unwrap();
        database.pragma_update(None, "user_version", 99).unwrap();
    };
    in_the_way_at_the_start(put, "version 99");
}

#[test]
fn a_file_that_cannot_be_written_at_the_start_is_kept_and_used_once_it_can() {
    let lab = lab(Config::default(), ZONE);
    ban(&lab, LISTED);
    wait_for_rows(&[LISTED]);
    product().filterctl_stop(&lab).unwrap();
    chown(STATE, Some(0), Some(0)).unwrap();
    fs::set_permissions(STATE, Permissions::from_mode(0o400)).unwrap();
    lab.clear_log();
    product().filterctl_start(&lab).unwrap();
    assert_degraded(&lab, "denied");
    ban(&lab, "127.66.1.3");
    assert_delivered(&lab, &message(), CLEAN, 1);
    let (uid, gid) = courier();
    fs::set_permissions(STATE, Permissions::from_mode(0o600)).unwrap();
    chown(STATE, uid, gid).unwrap();
    assert_recovered(&lab);
    assert!(kept().is_empty(), "{:?}", kept());
    // What it held, and what came meanwhile.
    wait_for_rows(&[LISTED, "127.66.1.3"]);
    assert_all_come_back(&lab, &[LISTED, "127.66.1.3"]);
}

/// A disk on which every write hangs: the test holds the file's lock. A write that
/// waits for it gives up after 5 s, and is told of: until then, somebody else is
/// banned and the mail of a third delivered. (On a busy machine not always.)
#[test]
fn no_sentence_waits_for_a_disk_that_hangs() {
    let lab = lab(Config::default(), ZONE);
    ban(&lab, LISTED);
    let mut all = vec![LISTED.to_owned()];
    let mut delivered = 0;
    for round in 0..4 {
        let wanted: Vec<&str> = all.iter().map(String::as_str).collect();
        wait_for_rows(&wanted);
        lab.clear_log();
        let database = rusqlite::Connection::open(STATE).unwrap();
        database.execute_batch("BEGIN IMMEDIATE").unwrap();
        let sources = [3, 4].map(|host| format!("127.66.{}.{host}", round + 1));
        for source in &sources {
            ban(&lab, source);
            delivered += 1;
            assert_delivered(&lab, &message(), CLEAN, delivered);
        }
        let first_still_waits = lab.log_matching("degraded,what=store").is_empty();
        let before: Vec<String> = all.iter().map(|source| format!("{source}/32")).collect();
        assert_eq!(rows().unwrap(), before, "they wait");
        database.execute_batch("ROLLBACK").unwrap();
        all.extend(sources);
        if first_still_waits {
            let wanted: Vec<&str> = all.iter().map(String::as_str).collect();
            wait_for_rows(&wanted);
            return;
        }
    }
    panic!("each time the first write had given up before the last message was delivered");
}

/// It is done, and the answer says so.
#[test]
fn a_command_waits_a_second_for_the_disk() {
    let lab = lab(Config::default(), OWN_ZONE);
    ban(&lab, LISTED);
    wait_for_rows(&[LISTED]);
    let database = rusqlite::Connection::open(STATE).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let told = by_hand(&lab, &["ban", "127.9.9.9"]);
    assert!(told.contains("a restart may forget it"), "{told}");
    assert_banned_too(&lab, "127.9.9.9");
    database.execute_batch("ROLLBACK").unwrap();
    wait_for_rows(&[LISTED, "127.9.9.9"]);
    let told = by_hand(&lab, &["ban", "127.9.9.10"]);
    assert!(!told.contains("forget"), "{told}");
}

/// The filter starts without its bans, and has them when they are read.
#[test]
fn a_file_that_cannot_be_read_at_the_start_is_not_waited_for_for_long() {
    let lab = lab(Config::default(), ZONE);
    ban(&lab, LISTED);
    wait_for_rows(&[LISTED]);
    product().filterctl_stop(&lab).unwrap();
    lab.run_ok(&["ipset", "flush", "rblfilter4"]).unwrap();
    let locked = rusqlite::Connection::open(STATE).unwrap();
    // So that readers wait too.
    locked
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
        .unwrap();
    lab.clear_log();
    product().filterctl_start(&lab).unwrap();
    let line = lab.wait_for_log("degraded,what=store", LIMIT).unwrap();
    assert!(is_late(&line), "{line}");
    assert_delivered(&lab, &message(), CLEAN, 1);
    assert_no_bans(&lab);
    locked.execute_batch("ROLLBACK").unwrap();
    drop(locked);
    assert_banned_too(&lab, LISTED);
}
