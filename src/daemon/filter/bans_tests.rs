//! What is taken out of the file of bans, with a warden of the test's own.

use crate::control::{Answer, Request as Ask};
use crate::daemon::filter::sets::tests::{filter, net, warden};
use crate::dnsbl::Family;
use crate::enforce::book::Hand;
use crate::enforce::durations::Past;
use crate::enforce::grounds::Grounds;

use super::*;

fn in_file(filter: &Filter, network: &str) -> store::Ban {
    let (network, now) = (net(network), filter.now());
    store::Ban {
        network,
        client: network.ip(),
        since: now,
        until: now + 3600,
        count: 1,
        zones: vec!["bl.test".into()],
        rests_on: vec!["bl.test".into()],
        own: true,
        hand: None,
    }
}

fn banned(filter: &Filter) -> Vec<IpNetwork> {
    let mut networks: Vec<IpNetwork> = filter.bans().iter().map(|ban| ban.network).collect();
    networks.sort_unstable();
    networks
}

/// The admin's hand is faster than a slow disk.
#[tokio::test]
async fn a_file_that_is_read_late_puts_back_nothing_that_was_lifted_meanwhile() {
    let filter = filter("");
    let heard = warden(&filter, |_| Some(Outcome::Done));
    filter.late().awaited = true;
    let now = filter.now();
    filter.allows().insert(net("10.1.1.1/32"), now + 600, now);
    filter.allows().insert(net("10.8.8.8/32"), now + 900, now);
    filter.late().free(net("10.2.2.2/32"));
    filter.late().shut_out(net("10.3.3.3/32"));
    filter.late().end(net("10.4.4.4/32"));
    let forced = store::Ban {
        hand: Some(Arc::new(Hand {
            forced: true,
            ..Hand::default()
        })),
        ..in_file(&filter, "10.1.1.1/32")
    };
    let bans = ["10.1.1.0/24", "10.2.0.0/16", "10.4.4.4/32", "10.5.5.5/32"];
    let loaded = Loaded {
        bans: bans
            .iter()
            .map(|network| in_file(&filter, network))
            .chain([forced])
            .collect(),
        allows: vec![
            (net("10.3.0.0/16"), now + 600),
            (net("10.8.8.8/32"), now + 60),
        ],
        past: vec![(
            net("10.6.6.6/32"),
            Past {
                count: 1,
                ended: now,
            },
        )],
        ..Loaded::default()
    };
    filter.take_in(loaded).await;
    assert_eq!(banned(&filter), [net("10.1.1.1/32"), net("10.5.5.5/32")]);
    let mut freed: Vec<IpNetwork> = heard
        .try_iter()
        .filter_map(|request| match request {
            Request::Unban { network } => Some(network),
            _ => None,
        })
        .collect();
    freed.sort_unstable();
    assert_eq!(freed, [net("10.1.1.0/24"), net("10.2.0.0/16")]);
    let client = |text: &str| text.parse().unwrap();
    assert!(!filter.allows().contains(client("10.3.3.3"), now));
    assert!(filter.allows().contains(client("10.8.8.8"), now + 800));
    assert!(filter.book().past(net("10.6.6.6/32")).is_some());
}

/// One that is read in time puts all back, beside what is let in by hand.
#[tokio::test]
async fn what_is_let_in_by_hand_ends_no_ban_of_a_file_that_is_read_in_time() {
    let filter = filter("");
    let now = filter.now();
    let loaded = Loaded {
        bans: vec![in_file(&filter, "10.1.0.0/16")],
        allows: vec![(net("10.1.1.1/32"), now + 600)],
        ..Loaded::default()
    };
    filter.take_in(loaded).await;
    assert_eq!(banned(&filter), [net("10.1.0.0/16")]);
}

/// The admin's hand reaches those of before `observe`, too, for good.
#[tokio::test]
async fn bans_of_before_observe_end_by_hand() {
    let filter = filter("mode = \"observe\"\n");
    let heard = warden(&filter, |_| Some(Outcome::Done));
    let folder = std::env::temp_dir().join(format!("rblfilter-standing-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let start = || {
        let path = folder.join(store::FILE);
        store::Store::start(path, 3600, filter.clock, &filter.degraded)
    };
    let (store, loaded) = start();
    assert!(loaded.await.unwrap().bans.is_empty());
    let bans = ["10.1.1.1/32", "10.2.2.2/32", "10.3.0.0/16", "fd00:1::/64"]
        .map(|network| in_file(&filter, network));
    let writes = bans.iter().cloned().map(|ban| Write::Ban(Box::new(ban)));
    store.commit(writes.collect()).await.unwrap();
    assert!(filter.store.set(store).is_ok());
    let loaded = Loaded {
        bans: bans.to_vec(),
        ..Loaded::default()
    };
    filter.take_in(loaded).await;
    assert_eq!(filter.status().standing, 4);
    let hand = |request| {
        let filter = Arc::clone(&filter);
        async move {
            match filter.by_hand(request, "root").await {
                Answer::Done(told) => told,
                other => panic!("{other:?}"),
            }
        }
    };
    let unban = |network: &str| Ask::Unban {
        networks: vec![net(network)],
        seconds: 0,
    };
    let told = hand(unban("10.1.1.1/32")).await;
    assert_eq!(told, "10.1.1.1 is no longer banned");
    let told = hand(unban("10.3.3.3/32")).await;
    assert_eq!(told, "10.3.0.0/16 is no longer banned");
    assert!(heard.try_iter().any(|request| request
        == Request::Unban {
            network: net("10.3.0.0/16")
        }));
    assert_eq!(banned(&filter), [net("10.2.2.2/32"), net("fd00:1::/64")]);
    assert_eq!(hand(Ask::UnbanAll).await, "2 bans are ended");
    assert!(banned(&filter).is_empty());
    assert_eq!(filter.status().standing, 0);
    filter.close_store().await;
    let (_store, loaded) = start();
    assert!(loaded.await.unwrap().bans.is_empty());
    std::fs::remove_dir_all(&folder).unwrap();
}

/// As in `enforce`: the admin's hand is faster than a slow disk.
#[tokio::test]
async fn a_file_that_is_read_late_in_observe_shows_nothing_that_was_lifted_meanwhile() {
    let filter = filter("mode = \"observe\"\n");
    let heard = warden(&filter, |_| Some(Outcome::Done));
    filter.late().awaited = true;
    filter.late().free(net("10.2.2.2/32"));
    filter.late().end(net("10.4.4.4/32"));
    let loaded = Loaded {
        bans: ["10.1.1.1/32", "10.2.0.0/16", "10.4.4.4/32"]
            .map(|network| in_file(&filter, network))
            .to_vec(),
        ..Loaded::default()
    };
    filter.take_in(loaded).await;
    assert_eq!(banned(&filter), [net("10.1.1.1/32")]);
    let network = net("10.2.0.0/16");
    assert_eq!(heard.try_recv(), Ok(Request::Unban { network }));
}

/// The list was known to be wrong before the file was read.
#[tokio::test]
async fn bans_that_come_late_are_lifted_with_the_list_that_they_rest_on() {
    let filter = filter("[[dnsbl]]\nzone = \"bl.test\"\n");
    let _heard = warden(&filter, |_| Some(Outcome::Done));
    filter.note_open(0, Family::V4, None);
    let loaded = Loaded {
        bans: ["10.1.1.1/32", "fd00:1::/64"]
            .map(|network| in_file(&filter, network))
            .to_vec(),
        ..Loaded::default()
    };
    filter.take_in(loaded).await;
    filter.lift_open().await;
    assert_eq!(banned(&filter), [net("fd00:1::/64")]);
}

/// What became of the reading, the file is repaired again.
#[tokio::test]
async fn a_file_that_was_never_read_is_not_waited_for_for_ever() {
    let filter = filter("");
    let (sender, receiver) = oneshot::channel();
    {
        let mut late = filter.late();
        (late.loaded, late.awaited) = (Some(receiver), true);
    }
    drop(sender);
    filter.take_late().await;
    assert!(!filter.late().awaited);
}

/// A nameserver that never answers; it ends with what is returned.
fn silent() -> (std::net::UdpSocket, String) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let toml = format!(
        "lookup.nameservers = [\"{}\"]\nlookup.query-non-global = true\nlookup.limit = \"30s\"\n\
         lookup.query-limit = \"15s\"\n[[dnsbl]]\nzone = \"bl.test\"\nself-test = false\n",
        socket.local_addr().unwrap()
    );
    (socket, toml)
}

#[tokio::test]
async fn so_many_of_the_banned_are_looked_up_again_at_a_time() {
    let (_nameserver, toml) = silent();
    let filter = filter(&toml);
    let now = filter.now();
    let grounds = Arc::new(Grounds {
        own: true,
        ..Grounds::default()
    });
    for last in 0..40 {
        let network = net(&format!("10.1.1.{last}/32"));
        let record = Record {
            network,
            client: network.ip(),
            since: now,
            until: now + 86_400,
            count: 1,
            grounds: Arc::clone(&grounds),
            hand: None,
        };
        assert!(filter.book().insert(record, now));
    }
    let turns = Arc::new(Semaphore::new(LOOKS));
    let mut looks = JoinSet::new();
    // All are due by then.
    let later = now + 2 * filter.config.ban.look_again;
    filter.look_again(later, &turns, &mut looks);
    assert_eq!((looks.len(), turns.available_permits()), (32, 0));
    filter.look_again(later, &turns, &mut looks);
    assert_eq!(looks.len(), 32, "the others wait");
    looks.abort_all();
}
