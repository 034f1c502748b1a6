//! The kernel's word of each exec, which it gives in the initial namespaces
//! alone: only the mount namespace is private here, and no set is there to ban
//! anybody in.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send,
    socketpair,
};
use rblfilter::watch::connector::execs;
use rblfilter_lab::smtp::{Client, Message};
use rblfilter_lab::{Config, Lab, PASSWORD, Spaces, USER, wait_for};
use rblfilter_warden::request::{Outcome, Reply, Request};

/// A warden of ours, with an empty configuration; and the socket that it was
/// told to hand over.
fn subscribed() -> (OwnedFd, OwnedFd, std::process::Child) {
    let programs = Path::new(env!("CARGO_BIN_EXE_rblfilter")).parent().unwrap();
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    let script = "mount -t tmpfs none /etc/courier && mkdir /etc/courier/filters && \
                  touch /etc/courier/filters/rblfilter.toml && exec \"$0\"";
    let warden = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(programs.join("rblfilter-warden"))
        .stdin(Stdio::from(theirs))
        .spawn()
        .unwrap();
    send(
        ours.as_raw_fd(),
        &Request::Watch.encode(1),
        MsgFlags::empty(),
    )
    .unwrap();
    let mut bytes = [0; 64];
    let mut iov = [std::io::IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(
        ours.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .unwrap();
    let handed = message.cmsgs().unwrap().find_map(|control| match control {
        // SAFETY: the kernel has just made this descriptor for us.
        #[allow(unsafe_code)]
        ControlMessageOwned::ScmRights(fds) => Some(unsafe { OwnedFd::from_raw_fd(fds[0]) }),
        _ => None,
    });
    let length = message.bytes;
    let reply = Reply::decode(&bytes[..length]).unwrap();
    assert_eq!(reply.outcome, Outcome::Done);
    (ours, handed.unwrap(), warden)
}

#[test]
fn the_warden_hands_over_a_socket_that_tells_of_every_exec() {
    let (ours, events, mut warden) = subscribed();
    // More than the default buffer would hold while nobody reads.
    let mut wanted: Vec<i32> = (0..600)
        .map(|_| {
            let mut child = Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            i32::try_from(child.id()).unwrap()
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(20);
    let (mut bytes, mut others) = ([0; 16 * 1024], 0);
    while !wanted.is_empty() && Instant::now() < end {
        let mut fds = [PollFd::new(
            std::os::fd::AsFd::as_fd(&events),
            PollFlags::POLLIN,
        )];
        if poll(&mut fds, PollTimeout::from(100_u8)).unwrap() == 0 {
            continue;
        }
        let length = recv(events.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        others += usize::from(execs(&bytes[..length]).next().is_none());
        for pid in execs(&bytes[..length]) {
            wanted.retain(|wanted| *wanted != pid);
        }
    }
    assert!(wanted.is_empty(), "not told of: {wanted:?}");
    // Forks and exits wake nobody, but for those before the filter was there.
    assert!(others < 100, "{others}");
    drop(ours);
    assert_eq!(warden.wait().unwrap().code(), Some(0));
}

fn config() -> Config {
    Config {
        spaces: Spaces::Machine,
        ..Config::default()
    }
}

/// A lab in which the watch is told by the kernel.
fn told(config: Config, toml: &str) -> Lab {
    let lab = lab(config, toml);
    lab.wait_for_log("watching,by=events", LIMIT).unwrap();
    lab
}

fn silent(lab: &Lab, source: &str) -> Client {
    lab.connect(ip(source)).unwrap()
}

fn is_ended(lab: &Lab, client: &mut Client) -> bool {
    lab.block_on(async {
        loop {
            if let Err(error) = client.read_reply().await {
                return error.kind() != std::io::ErrorKind::TimedOut;
            }
        }
    })
}

/// Starts so many programs, one after the other.
fn flood(count: usize) {
    for _ in 0..count {
        Command::new("true").status().unwrap();
    }
}

/// The sentences in the log, each session's one.
fn listed(lab: &Lab) -> usize {
    lab.log_matching(",at=connect,action=").len()
}

#[test]
fn listed_clients_are_ended_at_once_and_others_are_not() {
    let lab = told(config(), ZONE);
    let sets = || lab.run_ok(&["ipset", "list", "-name"]).unwrap();
    let before = sets();
    let mut clean = silent(&lab, CLEAN);
    for host in 1..=20 {
        let begun = Instant::now();
        let mut client = silent(&lab, &format!("127.66.1.{host}"));
        assert!(is_ended(&lab, &mut client));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    wait_for(LIMIT, || (listed(&lab) == 20).then_some(())).unwrap();
    assert_eq!(lab.block_on(clean.read_reply()).unwrap().code, 220);
    assert_delivered(&lab, &message(), CLEAN, 1);
    assert_eq!(sets(), before, "the machine's firewall is not touched");
}

/// The same by Courier's own verdict, which no list of ours has to be asked for.
#[test]
fn couriers_verdict_ends_a_session_before_it_says_a_word() {
    let config = Config {
        blacklists: "-block=bl.test,BLOCK,Listed".into(),
        ..config()
    };
    let lab = told(config, "");
    let mut client = silent(&lab, LISTED);
    assert!(is_ended(&lab, &mut client));
    assert_delivered(&lab, &message(), CLEAN, 1);
}

#[test]
fn sessions_that_are_there_already_are_judged_too() {
    let lab = Lab::start(config()).unwrap();
    let mut listed = silent(&lab, LISTED);
    let mut clean = silent(&lab, CLEAN);
    assert_eq!(lab.block_on(clean.read_reply()).unwrap().code, 220);
    product().start(&lab, ZONE).unwrap();
    assert!(is_ended(&lab, &mut listed));
    assert_eq!(lab.block_on(clean.command("NOOP")).unwrap().code, 250);
}

#[test]
fn a_couriertcpd_that_was_started_again_is_watched() {
    let lab = told(config(), ZONE);
    lab.esmtpd_stop().unwrap();
    lab.esmtpd_start().unwrap();
    let mut client = silent(&lab, LISTED);
    assert!(is_ended(&lab, &mut client));
}

#[test]
fn ten_thousand_other_programs_cost_no_session() {
    // Each session is to have its line; a fast machine makes more than are written in a second.
    let lab = told(
        config(),
        &format!("[log]\nlines-per-second = 100000\n{ZONE}"),
    );
    let others = std::thread::spawn(|| flood(10_000));
    let mut clients = 0;
    while !others.is_finished() {
        clients += 1;
        let source = format!("127.66.{}.{}", 2 + clients / 250, 1 + clients % 250);
        assert!(is_ended(&lab, &mut silent(&lab, &source)), "{source}");
    }
    others.join().unwrap();
    assert!(clients > 100, "{clients}");
    wait_for(LIMIT, || (listed(&lab) == clients).then_some(()))
        .unwrap_or_else(|| panic!("{} of {clients}", listed(&lab)));
}

/// While the worker does not read, more programs start than the socket has room
/// for. Whoever connected meanwhile is found all the same.
#[test]
fn after_a_gap_every_session_is_looked_at() {
    let lab = told(config(), ZONE);
    let worker = lab
        .processes()
        .into_iter()
        .find(|it| it.comm == "rblfilter" && lab.arguments(it.pid).len() > 1)
        .expect("the worker");
    // It would replace a worker that does not speak.
    let supervisor = worker.ppid;
    lab.kill(supervisor, Signal::SIGSTOP).unwrap();
    lab.kill(worker.pid, Signal::SIGSTOP).unwrap();
    flood(25_000);
    let mut listed = silent(&lab, LISTED);
    let mut clean = silent(&lab, CLEAN);
    assert_eq!(lab.block_on(clean.read_reply()).unwrap().code, 220);
    lab.kill(worker.pid, Signal::SIGCONT).unwrap();
    lab.kill(supervisor, Signal::SIGCONT).unwrap();
    assert!(is_ended(&lab, &mut listed));
    assert_eq!(lab.block_on(clean.command("NOOP")).unwrap().code, 250);
    product().filterctl_stop(&lab).unwrap();
    let line = lab.wait_for_log("counted,", LIMIT).unwrap();
    assert!(!line.ends_with("gaps=0"), "{line}");
}

/// Users log in from addresses that lists name: on port 25 where that is
/// offered, also some seconds after STARTTLS, and on port 587.
#[test]
fn who_may_log_in_is_let_be() {
    let lab = told(
        Config {
            esmtp_auth_tls: "PLAIN".into(),
            msa: true,
            ..config()
        },
        ZONE,
    );
    let login = Message {
        auth: Some((USER.into(), PASSWORD.into())),
        ..message()
    };
    let late = Duration::from_secs(4);
    let outcome = lab.send_tls_after(late, &login, ip("127.66.3.1")).unwrap();
    assert!(outcome.accepted(), "{outcome:?}");
    let submission = Message { port: 587, ..login };
    let outcome = lab.send(&submission, ip("127.66.3.2"));
    assert!(outcome.accepted(), "{outcome:?}");
    lab.wait_for_mail(2, LIMIT).unwrap();
    assert_eq!(listed(&lab), 0);
}
