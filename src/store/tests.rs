//! The store's tests, on real files.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::enforce::book::MOST_PAST;

mod forget_tests;

const NOW: u32 = 1_800_000_000;
const WINDOW: u32 = 7 * 86_400;

/// A folder of this test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("rblfilter-store-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("state.db")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn clock(seconds: u32) -> Clock {
    let wall = UNIX_EPOCH + Duration::from_secs(seconds.into());
    Clock::new(Instant::now(), wall)
}

fn ban(network: &str, since: u32, until: u32) -> Ban {
    let network: IpNetwork = network.parse().unwrap();
    Ban {
        network,
        client: network.ip(),
        since,
        until,
        count: 2,
        zones: vec!["bl.test".into(), "other.test".into()],
        rests_on: vec!["bl.test".into()],
        own: true,
        hand: None,
    }
}

fn start(folder: &Folder, seconds: u32) -> (Store, Loaded, Arc<Degraded>) {
    let degraded = Arc::default();
    let (store, loaded) = Store::start(folder.file(), WINDOW, clock(seconds), &degraded);
    (store, loaded.blocking_recv().unwrap(), degraded)
}

fn commit(store: &Store, writes: Vec<Write>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(store.commit(writes))
}

#[test]
fn what_was_acknowledged_comes_back() {
    let folder = Folder::new("back");
    let by_hand = Ban {
        hand: Some(Arc::new(Hand {
            user: "alice".into(),
            reason: "a 'reason', with \u{1b} in it".into(),
            forced: true,
        })),
        ..ban("10.2.0.0/16", NOW, NOW + 600)
    };
    let bans = [ban("10.0.0.1/32", NOW - 10, NOW + 3590), by_hand];
    let past = Past {
        count: 3,
        ended: NOW - 50,
    };
    let other: IpNetwork = "fd00:1::/64".parse().unwrap();
    let (store, loaded, _) = start(&folder, NOW);
    assert!(loaded.bans.is_empty());
    let mut writes: Vec<Write> = bans
        .iter()
        .cloned()
        .map(|ban| Write::Ban(Box::new(ban)))
        .collect();
    writes.push(Write::End(other, Some(past)));
    writes.push(Write::Allow(other, NOW + 86_400));
    writes.push(Write::Sender(other.ip(), NOW - 5));
    commit(&store, writes).unwrap();
    // As a killed process leaves it: nothing is closed.
    let (_second, loaded, _) = start(&folder, NOW);
    let near = |one: u32, other: u32| one.abs_diff(other) <= 2;
    assert_eq!(loaded.bans.len(), 2);
    for (was, is) in bans.iter().zip(&loaded.bans) {
        assert!(
            near(was.since, is.since) && near(was.until, is.until),
            "{is:?}"
        );
        let is = Ban {
            since: was.since,
            until: was.until,
            ..is.clone()
        };
        assert_eq!(*was, is);
    }
    assert!(loaded.past[0].0 == other && near(loaded.past[0].1.ended, NOW - 50));
    assert!(loaded.allows[0].0 == other && near(loaded.allows[0].1, NOW + 86_400));
    assert!(near(loaded.senders[0].1, NOW - 5));
    drop(store);
}

/// Whose past no longer counts is not read, and goes from the file.
#[test]
fn what_is_forgiven_leaves_the_file() {
    let folder = Folder::new("forgiven");
    let mut database = Database::open(&folder.file()).unwrap();
    let network = |number: u32| IpNetwork::from(IpAddr::from(number.to_be_bytes()));
    let past = |ended| Some(Past { count: 1, ended });
    let ended = [NOW - WINDOW - 9, NOW - WINDOW + 60, NOW];
    let mut writes: Vec<Write> = (0..)
        .zip(ended)
        .map(|(number, ended)| Write::End(network(number), past(ended)))
        .collect();
    // Its end was not written: nobody was there.
    let over = ban("10.9.9.9/32", NOW - WINDOW - 90, NOW - WINDOW - 30);
    writes.push(Write::Ban(Box::new(over)));
    database.write(&writes, NOW).unwrap();
    assert_eq!(database.load(NOW, WINDOW).unwrap().past.len(), 2);
    let rows = |database: &Database| -> u32 {
        let query = "SELECT count(*) FROM offences";
        let connection = &database.connection;
        connection.query_row(query, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(rows(&database), 3);
    let forget = [Write::ForgetOffences(NOW - WINDOW)];
    database.write(&forget, NOW).unwrap();
    assert_eq!(rows(&database), 2);
    // And there are no more than the book remembers; the first to end go.
    let most = u32::try_from(MOST_PAST).unwrap();
    let fill = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {most}) INSERT INTO offences SELECT 'of ' || i, 1, {NOW} FROM n"
    );
    database.connection.execute(&fill, []).unwrap();
    database.write(&forget, NOW).unwrap();
    assert_eq!(rows(&database), most);
    let first = format!("SELECT count(*) FROM offences WHERE ended < {NOW}");
    let first: u32 = database
        .connection
        .query_row(&first, [], |row| row.get(0))
        .unwrap();
    assert_eq!(first, 0);
}

#[test]
fn a_wall_clock_that_is_set_makes_no_ban_longer() {
    for wall in [NOW - 100_000, NOW + 100_000] {
        let folder = Folder::new(&format!("clock{wall}"));
        let (store, ..) = start(&folder, NOW);
        let write = Write::Ban(Box::new(ban("10.0.0.1/32", NOW - 600, NOW + 3000)));
        commit(&store, vec![write]).unwrap();
        let (_store, loaded, _) = start(&folder, wall);
        let left = loaded.bans[0].until - wall;
        assert!((2997..=3000).contains(&left), "{left}");
        // And the file itself is in the new clock's seconds now.
        let (_store, loaded, _) = start(&folder, wall);
        assert!((2995..=3000).contains(&(loaded.bans[0].until - wall)));
    }
}

/// Or `list` would tell of another second after each reload.
#[test]
fn a_ban_begins_and_ends_when_it_did_however_often_the_file_is_read() {
    let folder = Folder::new("often");
    let wall = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seconds = || u32::try_from(wall().as_secs()).unwrap();
    let (since, until) = (seconds() - 600, seconds() + 3000);
    let (mut store, ..) = start(&folder, seconds());
    let write = Write::Ban(Box::new(ban("10.0.0.1/32", since, until)));
    commit(&store, vec![write]).unwrap();
    for _ in 0..20 {
        drop(store);
        let (next, loaded, _) = start(&folder, seconds());
        let found = &loaded.bans[0];
        assert_eq!((found.since, found.until), (since, until));
        store = next;
    }
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_made() {
    let folder = Folder::new("damaged");
    let write = || Write::Ban(Box::new(ban("10.0.0.1/32", NOW, NOW + 3600)));
    let mut database = Database::open(&folder.file()).unwrap();
    database.write(&[write()], NOW).unwrap();
    // Its last word is in the file alone now.
    drop(database);
    assert_eq!(folder.names(), ["state.db"]);
    fs::write(folder.file(), vec![b'x'; 8192]).unwrap();
    let (store, loaded, degraded) = start(&folder, NOW);
    assert!(loaded.bans.is_empty());
    assert!(degraded.is_entered(&Part::Store));
    let names = folder.names();
    let kept = names.iter().find(|name| name.contains(".corrupt-1800000"));
    let kept = kept.unwrap_or_else(|| panic!("{names:?}"));
    assert!(fs::read(folder.0.join(kept)).unwrap().starts_with(b"xxx"));
    commit(&store, vec![write()]).unwrap();
    assert!(!degraded.is_entered(&Part::Store));
    let (_store, loaded, _) = start(&folder, NOW);
    assert_eq!(loaded.bans.len(), 1);
}

/// What the first version wrote, as it made its tables.
#[test]
fn a_file_of_the_first_version_is_taken_over() {
    let folder = Folder::new("first");
    let connection = rusqlite::Connection::open(folder.file()).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE bans (
                network TEXT PRIMARY KEY, client TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
                count INTEGER NOT NULL, zones TEXT NOT NULL, rests_on TEXT NOT NULL, own INTEGER NOT NULL,
                user TEXT, reason TEXT) WITHOUT ROWID;
            CREATE TABLE offences (network TEXT PRIMARY KEY, count INTEGER NOT NULL, ended INTEGER NOT NULL) WITHOUT ROWID;
            CREATE TABLE allows (network TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
            CREATE TABLE senders (client TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
            CREATE TABLE times (one INTEGER PRIMARY KEY CHECK (one = 1), boot TEXT NOT NULL, uptime INTEGER NOT NULL, seconds INTEGER NOT NULL);
            INSERT INTO bans VALUES ('10.0.0.1/32', '10.0.0.1', 1800000000, 1800003600, 2, 'bl.test', 'bl.test', 1, NULL, NULL);
            INSERT INTO bans VALUES ('10.8.0.0/16', '10.8.0.0', 1800000000, 1800003600, 0, '', '', 0, 'root', 'phishing');
            PRAGMA user_version = 1;",
        )
        .unwrap();
    drop(connection);
    let (store, loaded, degraded) = start(&folder, NOW);
    assert!(!degraded.is_entered(&Part::Store));
    assert_eq!(
        folder.names().len(),
        3,
        "none is set aside: {:?}",
        folder.names()
    );
    assert_eq!(loaded.bans.len(), 2);
    assert_eq!((loaded.bans[0].count, &loaded.bans[0].hand), (2, &None));
    let hand = loaded.bans[1].hand.as_deref().unwrap();
    assert_eq!(
        (&*hand.user, &*hand.reason, hand.forced),
        ("root", "phishing", false)
    );
    let new = Write::Ban(Box::new(ban("10.0.0.2/32", NOW, NOW + 3600)));
    commit(&store, vec![new]).unwrap();
    let (_store, loaded, _) = start(&folder, NOW);
    assert_eq!(loaded.bans.len(), 3);
}

/// Each under a name of its own, and not without end.
#[test]
fn of_the_files_that_were_set_aside_the_newest_are_kept() {
    let folder = Folder::new("aside");
    fs::create_dir(folder.0.join("state.db.corrupt-5")).unwrap();
    fs::write(folder.0.join("state.db.corrupt-x"), "of the admin's").unwrap();
    for number in 0..6 {
        fs::write(folder.file(), number.to_string()).unwrap();
        fs::write(folder.0.join("state.db-wal"), "its log").unwrap();
        let aside = aside::set_aside(&folder.file(), NOW).unwrap().unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), number.to_string());
    }
    let names = folder.names();
    let expected = ["3", "4", "5"].map(|number| format!("state.db.corrupt-{NOW}.{number}"));
    for name in &expected {
        assert!(names.contains(name), "{names:?}");
        assert!(names.contains(&format!("{name}-wal")), "{names:?}");
    }
    assert_eq!(names.len(), 8, "{names:?}");
}

#[test]
fn a_file_behind_a_link_is_used() {
    let folder = Folder::new("link");
    std::os::unix::fs::symlink(folder.0.join("elsewhere"), folder.file()).unwrap();
    fs::write(folder.0.join("elsewhere"), "").unwrap();
    let (store, ..) = start(&folder, NOW);
    commit(&store, some(0, 3)).unwrap();
    commit(&store, some(3, 3)).unwrap();
    assert!(!store.lost.load(Relaxed));
    let (_store, loaded, _) = start(&folder, NOW);
    assert_eq!(loaded.bans.len(), 6);
}

#[test]
fn another_versions_file_is_set_aside_too() {
    let folder = Folder::new("version");
    drop(start(&folder, NOW));
    let connection = rusqlite::Connection::open(folder.file()).unwrap();
    connection.pragma_update(None, "user_version", 9).unwrap();
    drop(connection);
    let (store, loaded, _) = start(&folder, NOW);
    assert!(loaded.bans.is_empty());
    assert!(folder.names().iter().any(|name| name.contains(".corrupt-")));
    commit(&store, Vec::new()).unwrap();
}

/// A disk that is full: nothing of the batch is written, and the next one is
/// once there is room.
#[test]
fn a_full_disk_is_told_of_and_what_was_before_stays() {
    let folder = Folder::new("full");
    let mut database = Database::open(&folder.file()).unwrap();
    let bans = |from: u32| -> Vec<Write> {
        let ban = |number: u32| {
            let network = IpNetwork::from(IpAddr::from(number.to_be_bytes()));
            Write::Ban(Box::new(ban(&network.to_string(), NOW, NOW + 3600)))
        };
        (from..from + 1000).map(ban).collect()
    };
    database.write(&bans(0), NOW).unwrap();
    let pages: u32 = database
        .connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    database
        .connection
        .query_row(
            &format!("PRAGMA max_page_count = {}", pages + 1),
            [],
            |_| Ok(()),
        )
        .unwrap();
    let error = database.write(&bans(5000), NOW).unwrap_err();
    assert!(
        !error.is_damage() && error.to_string().contains("full"),
        "{error}"
    );
    assert_eq!(database.load(NOW, WINDOW).unwrap().bans.len(), 1000);
    database
        .connection
        .query_row("PRAGMA max_page_count = 100000", [], |_| Ok(()))
        .unwrap();
    let all = Box::new(bans(5000).into_iter());
    database.replace(all, false, &[], NOW).unwrap();
    assert_eq!(
        database.load(NOW, WINDOW).unwrap().bans.len(),
        1000,
        "in the place of all"
    );
}

#[test]
fn without_a_folder_bans_go_on_and_it_is_said() {
    let folder = Folder::new("none");
    let degraded = Arc::default();
    let path = folder.0.join("not/there/state.db");
    let (store, loaded) = Store::start(path, WINDOW, clock(NOW), &degraded);
    assert!(loaded.blocking_recv().unwrap().bans.is_empty());
    assert!(degraded.is_entered(&Part::Store));
    for _ in 0..QUEUE * 2 {
        store.put(Write::EndAllow("10.0.0.1/32".parse().unwrap()));
    }
    assert!(commit(&store, Vec::new()).is_err());
}

/// A writer that hangs: somebody else holds the file's lock. What is handed
/// over meanwhile waits for nothing, and what does not fit is told to be lost.
#[test]
fn whoever_hands_something_over_does_not_wait_for_the_disk() {
    let folder = Folder::new("hangs");
    let (store, _, degraded) = start(&folder, NOW);
    commit(&store, Vec::new()).unwrap();
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 0..u32::try_from(QUEUE * 2).unwrap() {
        let network = IpNetwork::from(IpAddr::from(number.to_be_bytes()));
        store.put(Write::Ban(Box::new(ban(
            &network.to_string(),
            NOW,
            NOW + 3600,
        ))));
    }
    // They were all handed over, and not one is written.
    let rows = |connection: &rusqlite::Connection| -> u32 {
        let query = "SELECT count(*) FROM bans";
        connection.query_row(query, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(rows(&other), 0);
    assert!(degraded.is_entered(&Part::Store));
    assert!(store.lost.swap(false, Relaxed));
    assert!(commit(&store, Vec::new()).is_err(), "who waits is told");
    other.execute_batch("ROLLBACK").unwrap();
    let written = || commit(&store, Vec::new()).ok();
    let begun = Instant::now();
    while written().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    assert!(!degraded.is_entered(&Part::Store));
    assert!(rows(&other) > 0);
}

/// Longer than SQLite waits by itself: it is read then, and not held for empty.
#[test]
fn a_file_that_another_program_writes_at_the_start_is_read_when_it_has() {
    let folder = Folder::new("busy");
    let (store, ..) = start(&folder, NOW);
    commit(&store, some(0, 10)).unwrap();
    drop(store);
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let unlock = thread::spawn(move || {
        thread::sleep(database::BUSY_TIME + Duration::from_secs(1));
        other.execute_batch("ROLLBACK").unwrap();
    });
    let (_store, loaded, degraded) = start(&folder, NOW);
    assert_eq!(loaded.bans.len(), 10);
    assert!(!degraded.is_entered(&Part::Store));
    unlock.join().unwrap();
}

/// Bans of different networks, from the number `from` on.
fn some(from: u32, count: u32) -> Vec<Write> {
    let ban = |number: u32| {
        let network = IpNetwork::from(IpAddr::from(number.to_be_bytes()));
        Write::Ban(Box::new(ban(&network.to_string(), NOW, NOW + 3600)))
    };
    (from..from + count).map(ban).collect()
}

fn repair(store: &Store, rows: Vec<Write>) -> Result<(), String> {
    let repair = store.repair().unwrap();
    let rows = Box::new(rows.into_iter());
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(repair.write(rows))
}

/// However long the disk takes, and whatever comes meanwhile.
#[test]
fn a_file_that_lost_something_is_given_all_of_it_on_a_slow_disk_too() {
    let folder = Folder::new("repair");
    let (store, ..) = start(&folder, NOW);
    commit(&store, some(0, 10)).unwrap();
    assert!(store.repair().is_none(), "nothing was lost");
    store.lost.store(true, Relaxed);
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let repair = store.repair().unwrap();
    assert!(store.repair().is_none(), "one at a time");
    // After it was gathered, and before it is written.
    store.put(Write::End(IpAddr::from([0, 0, 16, 0]).into(), None));
    let rows = Box::new(some(4096, 3000).into_iter());
    let unlock = thread::spawn(move || {
        thread::sleep(COMMIT_TIME + Duration::from_millis(500));
        other.execute_batch("ROLLBACK").unwrap();
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(repair.write(rows)).unwrap();
    unlock.join().unwrap();
    assert!(store.repair().is_none(), "it is whole");
    let loaded = Database::open(&folder.file())
        .unwrap()
        .load(NOW, WINDOW)
        .unwrap();
    assert_eq!(loaded.bans.len(), 2999);
    drop(store);
}

/// What stops it in the middle costs nothing that was on disk, and it is tried
/// again.
#[test]
fn a_repair_that_fails_in_the_middle_leaves_what_was() {
    let folder = Folder::new("midst");
    let mut database = Database::open(&folder.file()).unwrap();
    database.write(&some(0, 1000), NOW).unwrap();
    let limit = "PRAGMA max_page_count = 1";
    let connection = &database.connection;
    // SQLite takes what there is for the least.
    let now: u32 = connection.query_row(limit, [], |row| row.get(0)).unwrap();
    let more = format!("PRAGMA max_page_count = {}", now + 1);
    connection.query_row(&more, [], |_| Ok(())).unwrap();
    let rows = Box::new(some(5000, 20_000).into_iter());
    database.replace(rows, false, &[], NOW).unwrap_err();
    assert_eq!(database.load(NOW, WINDOW).unwrap().bans.len(), 1000);

    let (store, ..) = start(&folder, NOW);
    store.lost.store(true, Relaxed);
    drop(store.repair().unwrap());
    assert!(store.lost.load(Relaxed), "one that was given up");
    for write in some(0, u32::try_from(QUEUE).unwrap() + 1) {
        let repair = store.repair();
        assert_eq!(repair.is_some(), write == some(0, 1)[0]);
        std::mem::forget(repair);
        note(&mut store.journal(), &[write]);
    }
    let overrun = Repair {
        store: &store,
        done: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let rows = Box::new(std::iter::empty());
    runtime.block_on(overrun.write(rows)).unwrap_err();
    repair(&store, some(0, 10)).unwrap();
    assert!(store.repair().is_none());
}

/// SQLite itself would go on for ever with what nobody finds again.
#[test]
fn a_file_that_was_removed_or_overwritten_while_open_is_noticed() {
    type Damage = fn(&PathBuf);
    let damages: [(&str, Damage, usize); 4] = [
        ("removed", |file| fs::remove_file(file).unwrap(), 0),
        (
            "replaced",
            |file| {
                fs::remove_file(file).unwrap();
                fs::write(file, "another").unwrap();
            },
            1,
        ),
        (
            "directory",
            |file| {
                fs::remove_file(file).unwrap();
                fs::create_dir(file).unwrap();
            },
            1,
        ),
        (
            "overwritten",
            |file| {
                let size = fs::metadata(file).unwrap().len();
                let garbage = vec![b'x'; usize::try_from(size).unwrap()];
                let mut open = fs::OpenOptions::new().write(true).open(file).unwrap();
                std::io::Write::write_all(&mut open, &garbage).unwrap();
            },
            1,
        ),
    ];
    for (name, damage, kept) in damages {
        let folder = Folder::new(name);
        let (store, ..) = start(&folder, NOW);
        let write = |network| vec![Write::Ban(Box::new(ban(network, NOW, NOW + 3600)))];
        commit(&store, write("10.0.0.1/32")).unwrap();
        assert!(!store.lost.swap(false, Relaxed), "{name}");
        damage(&folder.file());
        commit(&store, write("10.0.0.2/32")).unwrap();
        assert!(
            store.lost.swap(false, Relaxed),
            "{name}: its owner is asked for all"
        );
        let is_kept = |name: &&String| {
            name.starts_with("state.db.corrupt-")
                && !name.ends_with("wal")
                && !name.ends_with("shm")
        };
        let names = folder.names();
        assert_eq!(names.iter().filter(is_kept).count(), kept, "{names:?}");
        let (_store, loaded, _) = start(&folder, NOW);
        assert_eq!(loaded.bans.len(), 1, "{name}");
        drop(store);
    }
}

/// It was not there in time, or not to be read: what it holds stays, beside
/// what is known by then.
#[test]
fn a_file_that_was_never_read_loses_nothing() {
    let folder = Folder::new("late");
    let write = |network| vec![Write::Ban(Box::new(ban(network, NOW, NOW + 3600)))];
    let (store, ..) = start(&folder, NOW);
    commit(&store, write("10.0.0.1/32")).unwrap();
    drop(store);
    let away = folder.0.join("away");
    let (file, other) = (folder.file(), folder.0.join("other"));
    // The last one to close it has written it all into the file.
    let begun = Instant::now();
    while folder.names() != ["state.db"] {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    fs::rename(&file, &away).unwrap();
    // What keeps root from opening it, too: its folder is none.
    fs::write(&other, "").unwrap();
    let mut writer = Writer {
        path: other.join("state.db"),
        window: WINDOW,
        clock: clock(NOW),
        degraded: Arc::default(),
        lost: Arc::default(),
        database: None,
        open_from: None,
        read: false,
    };
    assert!(writer.load().bans.is_empty());
    writer.path = away;
    writer.open_from = None;
    assert!(writer.write(&mut Batch::default()).is_ok());
    assert!(writer.lost.load(Relaxed), "its owner is asked for all");
    let mut all = Batch::default();
    let rows = Box::new(write("10.0.0.2/32").into_iter());
    all.add(Message::Everything(rows, oneshot::channel().0));
    writer.write(&mut all).unwrap();
    let database = writer.database.as_ref().unwrap();
    assert_eq!(database.load(NOW, WINDOW).unwrap().bans.len(), 2);
}

#[test]
fn a_hundred_thousand_bans_are_read() {
    let folder = Folder::new("many");
    let mut database = Database::open(&folder.file()).unwrap();
    let writes: Vec<Write> = (0..100_000_u32)
        .map(|number| {
            let network = IpNetwork::from(IpAddr::from(number.to_be_bytes()));
            Write::Ban(Box::new(ban(&network.to_string(), NOW, NOW + 3600)))
        })
        .collect();
    database.write(&writes, NOW).unwrap();
    let begun = Instant::now();
    let loaded = database.load(NOW, WINDOW).unwrap();
    println!("read in {:?}", begun.elapsed());
    assert_eq!(loaded.bans.len(), 100_000);
}
