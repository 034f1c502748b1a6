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

fn filter(toml: &str) -> Arc<Filter> {
    let config = config::parse(toml).unwrap();
    Arc::new(Filter::new(config, Paths::from_env(), Prepared::default()))
}

fn net(text: &str) -> IpNetwork {
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
fn warden(
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
                Request::Look { ipv6 } => ipv6,
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
        let mut found = Vec::new();
        while found.len() < count {
            let request = heard.recv_timeout(LIMIT).expect("it is asked");
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
    let filling = tokio::spawn({
        let filter = Arc::clone(&filter);
        async move { filter.keep_filled().await }
    });
    next(heard, 2, is_restore).await;
    filling.abort();
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
    assert!(matches!(late, Err(Error::Silent)), "{late:?}");
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
