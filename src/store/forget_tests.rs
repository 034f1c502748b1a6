//! Who is forgotten, and what is over.

use super::*;

/// How often a text stands in the files of the folder.
fn found(folder: &Folder, text: &str) -> usize {
    let files = folder.names().into_iter();
    let bytes = files.flat_map(|name| fs::read(folder.0.join(name)).unwrap());
    let bytes: Vec<u8> = bytes.collect();
    memchr::memmem::find_iter(&bytes, text.as_bytes()).count()
}

fn forget(store: &Store, network: &str) -> Result<Forgotten, String> {
    forget_all(store, &[network.parse().unwrap()]).map(|all| all[0])
}

fn forget_all(store: &Store, networks: &[IpNetwork]) -> Result<Vec<Forgotten>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(store.forget(networks, Duration::from_secs(60)))
}

/// As many as a command may name: all are gone through once for all of them.
#[test]
fn of_many_that_are_forgotten_together_each_is_told_what_was_his() {
    let folder = Folder::new("forget-many");
    let (store, ..) = start(&folder, NOW);
    let client = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
    let six = |number: u16| IpAddr::from([0xfd00, 1, 2, 3, 0, 0, 7, 0x1000 + number]);
    let rows = (0..4_000)
        .map(client)
        .map(|client| Write::Sender(client, NOW));
    let sixes = (0..500).map(|number| {
        let client = six(number);
        let network = IpNetwork::from(client).to_string();
        Write::Ban(Box::new(Ban {
            client,
            ..ban(&network, NOW, NOW + 60)
        }))
    });
    for writes in rows.chain(sixes).collect::<Vec<_>>().chunks(5000) {
        commit(&store, writes.to_vec()).unwrap();
    }
    let aside = |time: u32, text: &str| {
        let path = folder.0.join(format!("state.db.corrupt-{time}"));
        fs::write(path, format!("{}{text}", "10.1.1.x".repeat(1 << 17))).unwrap();
    };
    aside(NOW - 1, "10.200.0.1");
    aside(NOW - 2, "fd00:1:2:3::7:11f3/128");
    let fours = (0..500).map(|number| client(number * 7));
    let networks: Vec<IpNetwork> = fours
        .chain((0..500).map(six))
        .map(IpNetwork::from)
        .collect();
    let forgotten = forget_all(&store, &networks).unwrap();
    let (fours, sixes) = forgotten.split_at(500);
    assert!(
        fours
            .iter()
            .all(|of| (of.senders, of.bans, of.files) == (1, 0, 0))
    );
    assert!(sixes.iter().all(|of| (of.senders, of.bans) == (0, 1)));
    let places = sixes.iter().enumerate();
    let files: Vec<usize> = places
        .filter(|(_, of)| of.files > 0)
        .map(|(place, _)| place)
        .collect();
    assert_eq!(files, [499]);
    assert_eq!(found(&folder, "fd00:1:2:3"), 0);
    let aside = folder
        .names()
        .into_iter()
        .filter(|name| name.contains("corrupt"));
    assert_eq!(aside.count(), 1, "nobody of those is in it");
    drop(store);
    let (_store, loaded, _) = start(&folder, NOW);
    assert_eq!((loaded.bans.len(), loaded.senders.len()), (0, 3_500));
}

#[test]
fn of_who_is_forgotten_no_byte_is_left() {
    let folder = Folder::new("forget");
    let (store, ..) = start(&folder, NOW);
    // Many, so that SQLite moves rows from page to page.
    let number = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
    let past = Past {
        count: 3,
        ended: NOW - 9,
    };
    for round in 0..3 {
        let mut writes = Vec::new();
        for client in (0..3000).map(number) {
            let network = IpNetwork::from(client);
            writes.push(match round {
                0 => Write::Ban(Box::new(ban(&network.to_string(), NOW, NOW + 60))),
                1 => Write::End(network, Some(past)),
                _ => Write::Sender(client, NOW),
            });
        }
        commit(&store, writes).unwrap();
    }
    let of_it = "10.0.7.77";
    let wide = "fd00:1:2:3::/64";
    let six: IpAddr = "fd00:1:2:3::5".parse().unwrap();
    let mut by_hand = ban("10.0.7.0/24", NOW, NOW + 60);
    by_hand.hand = Some(Arc::default());
    let writes = vec![
        Write::Ban(Box::new(ban("10.0.7.77/32", NOW, NOW + 60))),
        Write::Ban(Box::new(by_hand)),
        Write::Allow("10.0.7.77/32".parse().unwrap(), NOW + 60),
        Write::Ban(Box::new(Ban {
            client: six,
            ..ban(wide, NOW, NOW + 60)
        })),
        Write::Sender(six, NOW),
    ];
    commit(&store, writes).unwrap();
    assert!(found(&folder, of_it) > 0 && found(&folder, "fd00:1:2:3::") > 0);
    let forgotten = forget(&store, "10.0.7.77/32").unwrap();
    assert_eq!(
        forgotten,
        Forgotten {
            bans: 1,
            offences: 0,
            allows: 1,
            senders: 1,
            files: 0
        }
    );
    assert_eq!(found(&folder, of_it), 0);
    let forgotten = forget(&store, &format!("{six}/128")).unwrap();
    assert_eq!((forgotten.bans, forgotten.senders), (1, 1));
    assert_eq!(found(&folder, "fd00:1:2:3::"), 0);
    // A network: counts and senders of all in it; the ban by hand is of it, too.
    let forgotten = forget(&store, "10.0.7.0/24").unwrap();
    assert_eq!((forgotten.bans, forgotten.offences), (1, 255));
    assert_eq!(forgotten.senders, 255);
    assert_eq!(found(&folder, "10.0.7."), 0);
    assert!(found(&folder, "10.0.8.8") > 0, "all others are there");
    drop(store);
    let (_store, loaded, _) = start(&folder, NOW);
    assert_eq!((loaded.past.len(), loaded.senders.len()), (2744, 2744));
}

#[test]
fn files_that_were_set_aside_go_with_who_is_in_them_or_in_time() {
    let folder = Folder::new("aside-forget");
    let aside = |time: u32, text: &str| {
        let path = folder.0.join(format!("state.db.corrupt-{time}"));
        fs::write(&path, format!("xx{text}/32yy")).unwrap();
        fs::write(path.with_extension(format!("corrupt-{time}-wal")), "w").unwrap();
    };
    let (store, ..) = start(&folder, NOW);
    aside(NOW - 1, "10.0.0.1");
    aside(NOW - 2, "10.0.0.2");
    aside(NOW - 3, &format!("{}fd00:1:2:3::/64", "x".repeat(3 << 20)));
    let kept = |folder: &Folder| {
        let names = folder.names().into_iter();
        let names = names.filter(|name| name.contains("corrupt"));
        names.count() / 2
    };
    assert_eq!(forget(&store, "10.9.9.9/32").unwrap().files, 0);
    assert_eq!(forget(&store, "10.0.0.1/32").unwrap().files, 1);
    assert_eq!(kept(&folder), 2);
    assert_eq!(forget(&store, "fd00:1:2:3::77/128").unwrap().files, 1);
    // Nobody can look for a whole network in them.
    assert_eq!(forget(&store, "192.168.0.0/24").unwrap().files, 1);
    assert_eq!(kept(&folder), 0);
    aside(NOW - 100, "10.0.0.1");
    aside(NOW - 50, "10.0.0.1");
    store.tidy(NOW - 100);
    commit(&store, Vec::new()).unwrap();
    commit(&store, Vec::new()).unwrap();
    assert_eq!(kept(&folder), 1);
}

/// A filter that was stopped when a ban ended did not write its end.
#[test]
fn a_ban_whose_end_nobody_wrote_leaves_the_file_with_the_others() {
    let folder = Folder::new("unwritten");
    let mut database = Database::open(&folder.file()).unwrap();
    let write = |until| Write::Ban(Box::new(ban("10.0.0.1/32", until - 60, until)));
    database.write(&[write(NOW - 10)], NOW).unwrap();
    let bans = |database: &Database| -> u32 {
        let query = "SELECT count(*) FROM bans";
        let connection = &database.connection;
        connection.query_row(query, [], |row| row.get(0)).unwrap()
    };
    database
        .write(&[Write::ForgetOffences(NOW - 11)], NOW)
        .unwrap();
    assert_eq!(bans(&database), 1, "it counts still");
    database
        .write(&[Write::ForgetOffences(NOW - 10)], NOW)
        .unwrap();
    assert_eq!(bans(&database), 0);
}

/// What is handed over while all is gathered anew does not bring it back.
#[test]
fn who_is_forgotten_in_the_middle_of_a_repair_stays_forgotten() {
    let folder = Folder::new("forget-repair");
    let (store, ..) = start(&folder, NOW);
    let of_it = Write::Ban(Box::new(ban("10.0.0.1/32", NOW, NOW + 60)));
    let other = Write::Ban(Box::new(ban("10.0.0.2/32", NOW, NOW + 60)));
    store.lost.store(true, Relaxed);
    let repair = store.repair().unwrap();
    let rows = vec![of_it, other];
    forget(&store, "10.0.0.1/32").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime
        .block_on(repair.write(Box::new(rows.into_iter())))
        .unwrap();
    drop(store);
    let (_store, loaded, _) = start(&folder, NOW);
    assert_eq!(loaded.bans.len(), 1);
    assert_eq!(loaded.bans[0].network.to_string(), "10.0.0.2/32");
}
