//! The filter's side of the sets, with a warden of the test's own.

use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;

use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType};
use rblfilter_warden::layers::Layers;

use super::*;
use crate::config;
use crate::courier::paths::Paths;
use crate::daemon::filter::Prepared;
use crate::enforce::book::Hand;
use crate::enforce::grounds::Grounds;

/// Longer than anything takes that is not broken.
const LIMIT: Duration = Duration::from_secs(30);

pub(in super::super) fn filter(toml: &str) -> Arc<Filter> {
    let config = config::parse(toml).unwrap();
    Arc::new(Filter::new(config, Paths::from_env(), Prepared::default()))
}

pub(in super::super) fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// Writes a ban of an hour into the book.
fn book(filter: &Filter, network: &str, hand: Option<bool>) {
    let (network, now) = (net(network), filter.now());
    let record = Record {
        network,
        client: network.ip(),
        since: now,
        until: now + 3600,
        count: 1,
        grounds: Arc::new(Grounds::default()),
        hand: hand.map(|forced| {
            Arc::new(Hand {
                forced,
                ..Hand::default()
            })
        }),
    };
    assert!(filter.book().insert(record, now));
}

/// Starts a warden that answers so, and tells what it is asked; `None`: it does
/// not answer. It ends with the filter.
pub(in super::super) fn warden(
    filter: &Filter,
    mut answer: impl FnMut(Request) -> Option<Outcome> + Send + 'static,
) -> mpsc::Receiver<Request> {
    let (ours, theirs) = socket::socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    let (asked, heard) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = [0; 64];
        loop {
            let length = socket::recv(theirs.as_raw_fd(), &mut bytes, MsgFlags::empty());
            let Some((serial, request)) = length.ok().and_then(|n| Request::decode(&bytes[..n]))
            else {
                return;
            };
            let _ = asked.send(request);
            let ipv6 = match request {
                Request::Look { ipv6 } | Request::LookAtRule { ipv6, .. } => ipv6,
                Request::Ban { network, .. }
                | Request::Restore { network, .. }
                | Request::BanByHand { network, .. }
                | Request::Unban { network } => network.is_ipv6(),
                _ => false,
            };
            let Some(outcome) = answer(request) else {
                continue;
            };
            let reply = Reply {
                serial,
                outcome,
                ipv6,
                layers: Layers::default(),
            };
            let flags = MsgFlags::MSG_NOSIGNAL;
            let _ = socket::send(theirs.as_raw_fd(), &reply.encode(), flags);
        }
    });
    filter.warden_arrived(ours);
    heard
}

/// Waits, on a thread of its own, for the next `count` requests of this kind.
async fn next(
    heard: mpsc::Receiver<Request>,
    count: usize,
    kind: fn(&Request) -> bool,
) -> (mpsc::Receiver<Request>, Vec<Request>) {
    let waiting = tokio::task::spawn_blocking(move || {
        let (mut found, end) = (Vec::new(), Instant::now() + LIMIT);
        while found.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            let request = heard.recv_timeout(left).expect("it is asked");
            found.extend(Some(request).filter(kind));
        }
        (heard, found)
    });
    waiting.await.unwrap()
}

fn is_restore(request: &Request) -> bool {
    matches!(request, Request::Restore { .. })
}

/// What became of the sets meanwhile it cannot know, and somebody who asks it
/// for something else first must not change that.
#[tokio::test]
async fn a_new_warden_is_given_all_bans_whatever_it_was_asked_before() {
    let filter = filter("");
    book(&filter, "10.0.0.1/32", None);
    book(&filter, "fd00:1::/64", None);
    let heard = warden(&filter, |_| Some(Outcome::Done));
    let network = net("10.0.0.9/32");
    let first = Request::Ban {
        network,
        seconds: 60,
    };
    filter.warden.ask(first).await.unwrap();
    let filling = keep_filled(&filter);
    next(heard, 2, is_restore).await;
    filling.abort();
}

fn keep_filled(filter: &Arc<Filter>) -> tokio::task::JoinHandle<()> {
    let filter = Arc::clone(filter);
    tokio::spawn(async move { filter.keep_filled().await })
}

/// It was said that nobody is banned, and nobody would know of it.
#[tokio::test]
async fn what_a_slow_warden_bans_too_late_is_taken_back() {
    let filter = filter("");
    book(&filter, "10.0.0.2/32", None);
    let mut bans = 0;
    let heard = warden(&filter, move |request| {
        if matches!(request, Request::Ban { .. }) {
            bans += 1;
            // The second comes with it.
            if bans == 1 {
                thread::sleep(Duration::from_millis(1300));
            }
        }
        Some(Outcome::Done)
    });
    let ban = |network: &str| {
        filter.warden.ask(Request::Ban {
            network: net(network),
            seconds: 60,
        })
    };
    // The one that the book has stays banned.
    let (known, unknown) = tokio::join!(ban("10.0.0.2/32"), ban("10.0.0.1/32"));
    for answer in [known, unknown] {
        assert!(matches!(answer, Err(Error::Silent(_))), "{answer:?}");
    }
    let looking = tokio::spawn({
        let filter = Arc::clone(&filter);
        async move { filter.keep_looking().await }
    });
    let (heard, asked) = next(heard, 1, |request| matches!(request, Request::Unban { .. })).await;
    let network = net("10.0.0.1/32");
    assert_eq!(asked, [Request::Unban { network }]);
    sleep(Duration::from_millis(300)).await;
    assert!(
        !heard
            .try_iter()
            .any(|request| matches!(request, Request::Unban { .. }))
    );
    looking.abort();
}

/// A ban that could not be put in again is not forgotten.
#[tokio::test]
async fn a_set_that_was_not_filled_to_its_end_is_filled_again() {
    let filter = filter("");
    book(&filter, "10.0.0.1/32", None);
    let mut first = true;
    let heard = warden(&filter, move |_| {
        let permitted = !std::mem::take(&mut first);
        let outcome = [Outcome::NotPermitted, Outcome::Done][usize::from(permitted)];
        Some(outcome)
    });
    let filling = keep_filled(&filter);
    next(heard, 2, is_restore).await;
    filling.abort();
}

/// More bans run than fit: those that end last are in, and there it ends.
#[tokio::test]
async fn a_full_set_is_filled_as_far_as_it_goes_and_not_again() {
    let filter = filter("");
    for host in 0..=255_u8 {
        for more in 0..10_u8 {
            book(&filter, &format!("10.0.{more}.{host}/32"), None);
        }
    }
    book(&filter, "fd00:1::/64", None);
    let mut room = 100;
    let heard = warden(&filter, move |request| match request {
        Request::Restore { network, .. } if network.is_ipv4() => {
            let outcome = if room > 0 {
                Outcome::Done
            } else {
                Outcome::Full
            };
            room = u32::saturating_sub(room, 1);
            Some(outcome)
        }
        _ => Some(Outcome::Done),
    });
    let families = filter.lacking.taken().await;
    assert_eq!(filter.refill(families).await, Some([false; 2]));
    let asked = heard.try_iter().filter(is_restore).count();
    assert!(asked <= 100 + AT_ONCE + 1, "{asked}");
    assert!(filter.full.is_met(false) && !filter.full.is_met(true));
    assert!(!filter.degraded.is_entered(&Part::Set("rblfilter4".into())));
    // One that made room for others and is banned again is no sign of a flush.
    filter.note_missing(false, Outcome::Done);
    for outcome in [Outcome::Replaced, Outcome::Grown, Outcome::Extended] {
        filter.note_missing(true, outcome);
    }
    assert!(!filter.lacking.is_noted());
    filter.note_missing(true, Outcome::Done);
    assert!(filter.lacking.is_noted());
}

/// So many in a second: they do not fail each other.
#[tokio::test]
async fn wide_and_forced_bans_are_put_in_again_at_the_wardens_pace() {
    let filter = filter("");
    for second in 0..60_u8 {
        book(&filter, &format!("10.{second}.0.0/16"), Some(false));
    }
    book(&filter, "10.99.0.1/32", Some(true));
    let heard = warden(&filter, |_| Some(Outcome::Done));
    let families = filter.lacking.taken().await;
    let begun = Instant::now();
    assert_eq!(filter.refill(families).await, Some([false; 2]));
    assert!(begun.elapsed() >= WIDE_EVERY * 60, "{:?}", begun.elapsed());
    let asked: Vec<Request> = heard.try_iter().collect();
    assert_eq!(asked.iter().filter(|r| is_restore(r)).count(), 60);
    assert_eq!(asked.len(), 61, "the forced one by hand");
}

/// The book's whole seconds and the kernel's differ by parts of one.
#[test]
fn a_ban_that_runs_is_asked_for_so_that_it_is_kept() {
    let filter = filter("");
    book(&filter, "10.0.0.1/32", None);
    let book = filter.book();
    let next = book.next(net("10.0.0.1/32"), filter.now());
    assert!(next.running && next.asked() < next.seconds);
    let next = book.next(net("10.0.0.2/32"), filter.now());
    assert_eq!(next.asked(), next.seconds);
}

/// The warden says once that a set was emptied.
#[tokio::test]
async fn what_comes_after_the_time_is_heard_all_the_same() {
    let filter = filter("");
    book(&filter, "10.0.0.1/32", None);
    let heard = warden(&filter, |request| match request {
        Request::Look { .. } => {
            thread::sleep(Duration::from_millis(1500));
            Some(Outcome::Emptied)
        }
        _ => Some(Outcome::Done),
    });
    // It has been filled since it came.
    filter.lacking.taken().await;
    let late = filter.warden.ask(Request::Look { ipv6: false }).await;
    assert!(matches!(late, Err(Error::Silent(_))), "{late:?}");
    let keeping = tokio::spawn({
        let filter = Arc::clone(&filter);
        async move { tokio::join!(filter.keep_filled(), filter.keep_looking()) }
    });
    next(heard, 1, is_restore).await;
    keeping.abort();
}

#[test]
fn a_full_set_is_said_so_once_a_minute_with_the_bans_that_found_it_so() {
    let (full, now) = (Full::default(), Instant::now());
    assert_eq!(full.met(false, now), Some(1));
    for _ in 0..9 {
        assert_eq!(full.met(false, now + Duration::from_secs(59)), None);
    }
    assert_eq!(full.met(true, now), Some(1), "the other set is another");
    assert_eq!(full.met(false, now + SAY_FULL_EVERY), Some(10));
}

#[tokio::test]
async fn what_is_lacking_is_told_once() {
    let lacking = Lacking::default();
    lacking.note(true);
    lacking.note(true);
    assert_eq!(lacking.taken().await, [false, true]);
    lacking.note(false);
    assert_eq!(lacking.taken().await, [true, false]);
}

/// Whoever empties it again and again has it filled once in ten seconds.
#[tokio::test]
async fn a_set_that_is_emptied_again_at_once_is_filled_after_a_pause() {
    let filter = filter("");
    book(&filter, "10.0.0.1/32", None);
    let heard = warden(&filter, |_| Some(Outcome::Done));
    let filling = keep_filled(&filter);
    filter.lacking.note(false);
    let (heard, _) = next(heard, 1, is_restore).await;
    let begun = Instant::now();
    filter.lacking.note(false);
    next(heard, 1, is_restore).await;
    // The pause began a moment before.
    assert!(begun.elapsed() > REFILL_AFTER / 2, "{:?}", begun.elapsed());
    filling.abort();
}
