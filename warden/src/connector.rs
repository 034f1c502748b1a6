//! The kernel's proc connector, which tells of every exec
//! (include/uapi/linux/cn_proc.h).
//!
//! Before Linux 6.6 it takes CAP_NET_ADMIN to subscribe, and on any kernel to
//! enlarge the buffer beyond the limit; a process without may read from a
//! socket that was subscribed by one with it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
    sockopt,
};
use socket2::{SockFilter, SockRef};

/// `CN_IDX_PROC` and `CN_VAL_PROC` (include/uapi/linux/connector.h).
const CN_PROC: u32 = 1;
/// `PROC_CN_MCAST_LISTEN`.
const LISTEN: u32 = 1;
/// `NLMSG_DONE` (include/uapi/linux/netlink.h).
const NLMSG_DONE: u32 = 3;
/// Where `proc_event.what` stands: after `struct nlmsghdr` and `struct cn_msg`.
const WHAT: usize = 36;
/// `PROC_EVENT_NONE`: the acknowledgement.
const ACKNOWLEDGED: u32 = 0;
/// `PROC_EVENT_EXEC`.
const EXEC: u32 = 2;
/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_RET | BPF_K`
/// (include/uapi/linux/bpf_common.h).
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Room for the events of a burst of some ten thousand forks.
const BUFFER: usize = 8 << 20;
/// The acknowledgement comes at once, or, in a pid namespace, never.
const PATIENCE: Duration = Duration::from_millis(300);

/// A socket that every exec is told on.
///
/// # Errors
/// Where the kernel refuses (another network namespace), or does not
/// acknowledge (another pid namespace).
pub fn subscribe() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(CONNECTOR),
    )?;
    // Without the capability the limit's share must do.
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
    }
    bind(&socket, &SocketAddrNetlink::new(0, CN_PROC))?;
    // nlmsghdr: length, type, sequence, port; cn_msg: idx, val, seq, ack, length; operation.
    let words = [40, NLMSG_DONE, 0, 0, CN_PROC, CN_PROC, 0, 0, 4, LISTEN];
    let request: Vec<u8> = words
        .iter()
        .flat_map(|word: &u32| word.to_ne_bytes())
        .collect();
    send(&socket, &request, SendFlags::empty())?;
    await_acknowledgement(&socket)?;
    only_execs(&socket)?;
    Ok(socket)
}

/// Has the kernel keep all other events from the socket, a dozen for each
/// session, each of which would wake the reader. (A subscription with a mask
/// would be for Linux 6.6 and later alone, and is not acknowledged.)
fn only_execs(socket: &OwnedFd) -> io::Result<()> {
    // A filter's words are loaded in network order (networking/filter.rst).
    let exec = u32::from_be_bytes(EXEC.to_ne_bytes());
    let at = u32::try_from(WHAT).map_err(io::Error::other)?;
    let filter = [
        SockFilter::new(LOAD_WORD, 0, 0, at),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, exec),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    SockRef::from(socket).attach_filter(&filter)
}

fn await_acknowledgement(socket: &OwnedFd) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut bytes = [0_u8; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = left.try_into().map_err(io::Error::other)?;
        let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&timeout))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (length, _) = recv(socket, &mut bytes[..], RecvFlags::empty())?;
        let what = bytes[..length].get(WHAT..WHAT + 4);
        if what == Some(&ACKNOWLEDGED.to_ne_bytes()[..]) {
            return Ok(());
        }
        // Somebody's exec came first; who listens sweeps once at the start.
    }
}
