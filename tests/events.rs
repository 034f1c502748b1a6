//! The kernel's word of each exec, which it gives in the initial namespaces
//! alone: only the mount namespace is private here.
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send,
    socketpair,
};
use rblfilter::watch::connector::execs;
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
    let mut bytes = [0; 16 * 1024];
    while !wanted.is_empty() && Instant::now() < end {
        let mut fds = [PollFd::new(
            std::os::fd::AsFd::as_fd(&events),
            PollFlags::POLLIN,
        )];
        if poll(&mut fds, PollTimeout::from(100_u8)).unwrap() == 0 {
            continue;
        }
        let length = recv(events.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        assert_eq!(
            execs(&bytes[..length]).count(),
            1,
            "nothing but execs comes"
        );
        for pid in execs(&bytes[..length]) {
            wanted.retain(|wanted| *wanted != pid);
        }
    }
    assert!(wanted.is_empty(), "not told of: {wanted:?}");
    drop(ours);
    assert_eq!(warden.wait().unwrap().code(), Some(0));
}
