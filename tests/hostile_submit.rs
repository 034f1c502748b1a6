//! Whatever somebody with Courier's uid says to the filter socket, mail flows
//! at the same time, nobody is ended or banned, and what it costs is bounded.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod hostile;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use hostile::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rblfilter_lab::smtp::Client;
use rblfilter_lab::{Config, Lab, wait_for};

const FOLDER: &str = "/var/lib/courier/tmp/hostile";
/// Half a minute under load is nothing wrong; what blocks, blocks for ever.
const PATIENCE: Duration = Duration::from_secs(60);

fn connect() -> UnixStream {
    let stream = UnixStream::connect(filter_socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What the filter answers, to the end; empty where it closed unread.
fn answer(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn ask(bytes: &[u8]) -> String {
    let mut stream = connect();
    let _ = stream.write_all(bytes);
    answer(&mut stream)
}

/// A session that was there before and must be there after.
fn session(lab: &Lab, source: &str) -> Client {
    let mut client = lab.connect(ip(source)).unwrap();
    greet(lab, &mut client);
    client
}

#[test]
fn control_files_that_are_no_files_pass_and_nothing_blocks() {
    let lab = lab(Config::default(), OWN_ZONE);
    let mut bystander = session(&lab, "127.1.9.9");
    lab.run_ok(&["install", "-d", "-o", "courier", "-m", "0755", FOLDER])
        .unwrap();
    let at = |name: &str| format!("{FOLDER}/{name}");
    for fifo in ["fifo", "with\ttab"] {
        lab.run_ok(&["mkfifo", "-m", "0666", &at(fifo)]).unwrap();
    }
    symlink("/etc/shadow", at("to-shadow")).unwrap();
    symlink(at("fifo"), at("to-fifo")).unwrap();
    symlink("/nowhere", at("dangling")).unwrap();
    symlink(at("loop"), at("loop")).unwrap();
    fs::write(at("roots"), "rpostmaster\n").unwrap();
    fs::set_permissions(at("roots"), Permissions::from_mode(0o600)).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    // Two bytes a recipient: what is remembered of them must not be a hundred times as much.
    fs::write(at("recipients"), "r\n".repeat(8_000_000)).unwrap();
    fs::write(at("tiny"), "s\n").unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let warm = ask(b"/etc/hostname\n/etc/hostname\n\n");
    assert_eq!(warm, "250 Ok\n");
    let worker = worker(&lab);
    let (before, descriptors_before) = (most_memory(worker), descriptors(worker));

    let control = |path: &str| format!("/etc/hostname\n{path}\n\n").into_bytes();
    let long = "x/".repeat(3000);
    let paths = [
        FOLDER,
        &at("fifo"),
        &at("with\ttab"),
        &at("to-shadow"),
        &at("to-fifo"),
        &at("dangling"),
        &at("loop"),
        &at("roots"),
        &at("sparse"),
        &at("recipients"),
        &at("socket"),
        &at("tiny/below"),
        &long,
        "/etc/shadow",
        "../../../../etc/shadow",
        "../../../etc/courier/../passwd",
        "/dev/zero",
        "/dev/tty",
        "/dev/ptmx",
        "/dev/log",
        "/proc/kmsg",
        "/proc/1/mem",
        "/proc/1/fd/0",
        "a\u{1b}]0;owned\u{7}b",
        "rblfilter[1]: started,version=6.6.6",
        "\u{fffd}\r",
    ];
    let mut requests: Vec<Vec<u8>> = paths.iter().map(|path| control(path)).collect();
    // As many files as a request can name.
    requests.push(control(&vec![at("tiny"); 1000].join("\n")));
    requests.push(control(&"/\n".repeat(30_000)));
    requests.push(b"/etc/hostname\n/etc/\xff\xfe\x01\x7f\n\n".to_vec());
    // A name with a newline is two names.
    requests.push(control(&at("new\nline")));
    let count = requests.len();
    let peer = as_courier(move || {
        let said: Vec<String> = requests.iter().map(|bytes| ask(bytes)).collect();
        said
    });
    for (number, source) in ["127.1.2.3", "127.1.2.4", "127.1.2.5"].iter().enumerate() {
        assert_delivered(&lab, &message(), source, number + 1);
    }
    let said = peer.join().unwrap();
    assert_eq!(said, vec!["250 Ok\n".to_owned(); count]);

    // Sixteen MiB of one message's control files, and what is made of them.
    let grown = most_memory(worker) - before;
    assert!(grown < 128 << 10, "{grown} KiB more");
    assert!(
        wait_for(LIMIT, || (descriptors(worker) <= descriptors_before + 8)
            .then_some(()))
        .is_some(),
        "{} descriptors",
        descriptors(worker)
    );
    let lines = lab.log_matching("rblfilter[");
    for line in &lines {
        let printable = line.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        assert!(printable && line.len() < 1100, "{line:?}");
        let (_, event) = line.split_once("]: ").unwrap();
        assert!(!event.starts_with("started,version=6.6.6"), "{line}");
    }
    assert!(
        !lines.iter().any(|line| line.contains("root:")),
        "nothing that was read is told"
    );
    assert_no_bans(&lab);
    let reply = message_in(&lab, &mut bystander, "<alice@lab.test>").unwrap();
    assert!(reply.is_positive(), "{reply}");
    assert_eq!(worker, self::worker(&lab), "it has not been restarted");
    assert!(lab.log_matching(": bug").is_empty());
}

/// How many, of which each is a thread's, and how many threads.
const CONNECTIONS: usize = 10_000;
const THREADS: usize = 20;
/// As `log.lines-per-second` is where it is not set.
const LINES_PER_SECOND: usize = 200;

#[test]
fn ten_thousand_connections_do_not_stop_the_mail() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(
        hard > 12_000,
        "for both ends of the test: ulimit -Hn {hard}"
    );
    let lab = lab(Config::default(), OWN_ZONE);
    let mut bystander = session(&lab, "127.1.9.9");
    assert_delivered(&lab, &message(), CLEAN, 1);
    let worker = worker(&lab);
    let before = most_memory(worker);

    // A third says nothing, a third says half, a third drips; all stay as long as they may.
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            as_courier(|| {
                let mut peers = Vec::new();
                for number in 0..CONNECTIONS / THREADS {
                    let mut stream = connect();
                    let half: &[u8] = match number % 3 {
                        0 => b"",
                        1 => b"/etc/hostname\n/etc/ho",
                        _ => b"/",
                    };
                    // One that had its answer already has been closed.
                    let _ = stream.write_all(half);
                    peers.push(stream);
                    for dripping in peers.iter_mut().skip(2).step_by(3).rev().take(20) {
                        let _ = dripping.write_all(b"x");
                    }
                }
                let said: Vec<String> = peers.iter_mut().map(answer).collect();
                said
            })
        })
        .collect();
    let (mut most, mut count) = (0, 1);
    let begun = Instant::now();
    while threads.iter().any(|thread| !thread.is_finished()) || count < 4 {
        count += 1;
        let outcome = lab.send(&message(), ip(&format!("127.1.3.{}", count % 250)));
        assert!(outcome.accepted(), "{outcome:?}");
        most = most.max(descriptors(worker));
        assert!(begun.elapsed() < 4 * PATIENCE, "it goes on for ever");
    }
    let said: Vec<String> = (threads.into_iter())
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    assert_eq!(said.len(), CONNECTIONS);
    assert!(said.iter().all(|answer| answer == "250 Ok\n"));
    lab.wait_for_mail(count, PATIENCE).unwrap();

    // 1,024 requests are served at a time.
    assert!(most < 1300, "{most} descriptors");
    let grown = most_memory(worker) - before;
    assert!(grown < 64 << 10, "{grown} KiB more");
    assert_eq!(worker, self::worker(&lab), "it has not been restarted");
    // Ten thousand lines are not written for it.
    lab.wait_for_log("summed,event=badrequest,lines=", LIMIT)
        .unwrap();
    let lines = lab.log_matching("badrequest").len();
    // So many of a kind are written a second, and no more.
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    assert!(lines < LINES_PER_SECOND * seconds, "{lines} in {seconds} s");
    assert_no_bans(&lab);
    let reply = message_in(&lab, &mut bystander, "<alice@lab.test>").unwrap();
    assert!(reply.is_positive(), "{reply}");
}

#[test]
fn one_who_reads_no_answer_is_left_behind() {
    let lab = lab(Config::default(), OWN_ZONE);
    let worker = worker(&lab);
    let before = descriptors(worker);
    let peers = as_courier(|| {
        let peers: Vec<UnixStream> = (0..500)
            .map(|_| {
                let mut stream = connect();
                stream
                    .write_all(b"/etc/hostname\n/etc/hostname\n\n")
                    .unwrap();
                let _ = stream.write_all(&[b'x'; 4096]);
                let _ = stream.shutdown(Shutdown::Read);
                stream
            })
            .collect();
        peers
    })
    .join()
    .unwrap();
    assert_delivered(&lab, &message(), CLEAN, 1);
    let few = || (descriptors(worker) <= before + 8).then_some(());
    wait_for(PATIENCE, few).expect("their connections are closed");
    drop(peers);
    assert!(Path::new("/var/lib/courier/allfilters/rblfilter").exists());
}
