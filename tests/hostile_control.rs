//! Whatever somebody of Courier's group does to the control socket, root's
//! commands and the mail go on, and what it costs is bounded.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod hostile;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use hostile::*;
use rblfilter_lab::{Config, wait_for};

const SOCKET: &str = "/var/lib/courier/rblfilter/control";
/// Longer than a place is held at most.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_thousand_connections_keep_neither_root_nor_mail_out() {
    let lab = lab(Config::default(), OWN_ZONE);
    lab.run_ok(&["rblfilter", "ban", "127.9.9.9", "--for", "1h"])
        .unwrap();
    let worker = worker(&lab);
    let (descriptors_before, memory_before) = (descriptors(worker), most_memory(worker));
    let over = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&over);
    let peer = as_courier(move || {
        let mut peers = Vec::new();
        let mut count = 0;
        while count < 1000 || !until.load(Ordering::Relaxed) {
            let Ok(mut stream) = UnixStream::connect(SOCKET) else {
                continue;
            };
            // Garbage, half a request, one without end, and a list that nobody reads.
            let said: &[u8] = match count % 5 {
                0 => b"",
                1 => b"\x1b[31m\xff\x00{\"do\":\"unban-all\n",
                2 => b"{\"do\":\"list\"",
                3 => &[b'['; 70_000],
                _ => b"{\"do\":\"list\"}\n",
            };
            let _ = stream.set_write_timeout(Some(Duration::from_millis(20)));
            let _ = stream.write_all(said);
            peers.push(stream);
            count += 1;
            if peers.len() > 1500 {
                peers.drain(..500);
            }
        }
        count
    });
    let mut most = 0;
    for number in 1..=5 {
        let list = lab.run_ok(&["rblfilter", "list"]).unwrap();
        assert!(list.contains("127.9.9.9"), "{list}");
        let address = format!("127.9.8.{number}");
        lab.run_ok(&["rblfilter", "ban", &address]).unwrap();
        assert_delivered(&lab, &message(), &format!("127.1.2.{number}"), number);
        most = most.max(descriptors(worker));
    }
    over.store(true, Ordering::Relaxed);
    assert!(peer.join().unwrap() >= 1000);
    assert!(most <= descriptors_before + 60, "{most} descriptors");
    let grown = most_memory(worker) - memory_before;
    assert!(grown < 32 << 10, "{grown} KiB more");
    assert_eq!(worker, self::worker(&lab), "it has not been restarted");
    assert_eq!(lab.set_members("rblfilter4").unwrap().len(), 6);
    for line in lab.log_matching("rblfilter[") {
        let printable = line.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        assert!(printable, "{line:?}");
    }
}

#[test]
fn one_of_the_group_is_served_again_when_places_are_free() {
    let _lab = lab(Config::default(), OWN_ZONE);
    let served = || {
        as_courier(|| {
            let mut stream = UnixStream::connect(SOCKET).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut answer = String::new();
            let _ = stream.write_all(b"{\"do\":\"list\"}\n");
            let _ = stream.read_to_string(&mut answer);
            answer
        })
        .join()
        .unwrap()
    };
    let silent = as_courier(|| {
        let connect = |_| UnixStream::connect(SOCKET).unwrap();
        (0..16).map(connect).collect::<Vec<_>>()
    })
    .join()
    .unwrap();
    // All places are taken: closed without an answer.
    let closed = wait_for(LIMIT, || served().is_empty().then_some(()));
    closed.expect("so many at the same time");
    let again = wait_for(PATIENCE, || served().contains("end").then_some(()));
    again.expect("a silent one holds its place for five seconds");
    drop(silent);
}
