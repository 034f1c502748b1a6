//! The lives of couriertcpd's children by the kernel's own clock: fork, exec and exit, told by the proc connector.
//!
//! It works in the initial namespaces alone, but tells of every process there is: so it is opened, and its thread
//! started, before the benchmark moves into a lab. It counts nothing that it did not see whole.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
    sockopt,
};

/// `CN_IDX_PROC` and `CN_VAL_PROC` (include/uapi/linux/connector.h).
const CN_PROC: u32 = 1;
/// `PROC_CN_MCAST_LISTEN` (include/uapi/linux/cn_proc.h), and the events.
const LISTEN: u32 = 1;
const NONE: u32 = 0;
const FORK: u32 = 1;
const EXEC: u32 = 2;
const EXIT: u32 = 0x8000_0000;
/// `struct nlmsghdr`, `struct cn_msg`.
const NLMSG_HEADER: usize = 16;
const CN_MSG: usize = 20;
const NLMSG_DONE: u32 = 3;
/// Some fifty thousand events; the times are the kernel's, so nobody has to hurry.
const BUFFER: usize = 32 << 20;
/// Less than a message takes: while it is in the slot, its process says whose it is.
const LOOK: Duration = Duration::from_millis(2);
/// How the environment of a legitimate sender's courieresmtpd says so.
const LEGITIMATE: &[u8] = b"\0TCPREMOTEIP=::ffff:127.1.";
const PATIENCE: Duration = Duration::from_millis(500);

/// What the kernel tells of a process (not of its threads).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The subscription stands.
    Acknowledged,
    /// A parent has a child.
    Fork {
        /// The number of the parent.
        parent: i32,
        /// That of the child.
        child: i32,
    },
    /// It runs another program.
    Exec(i32),
    /// It has ended.
    Exit(i32),
}

/// One child of couriertcpd, in nanoseconds of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it was forked: just after accept.
    pub fork: u64,
    /// When it became courieresmtpd, if it did.
    pub exec: Option<u64>,
    /// When it ended.
    pub exit: u64,
    /// Whether it was a legitimate sender's.
    pub legitimate: bool,
}

#[derive(Debug)]
struct Open {
    fork: u64,
    exec: Option<u64>,
    legitimate: bool,
}

/// The lives of one process's children, from their events.
#[derive(Debug, Default)]
pub struct Lives {
    parent: i32,
    open: HashMap<i32, Open>,
    /// Those that have ended, in that order.
    pub ended: Vec<Life>,
    /// How often events were lost.
    pub overruns: u32,
}

impl Lives {
    /// Takes one event in. `is_legitimate` looks at a process that has just become courieresmtpd; one that has ended
    /// before that was nobody's who sent a message.
    pub fn take(&mut self, at: u64, event: Event, is_legitimate: impl FnOnce(i32) -> bool) {
        match event {
            Event::Fork { parent, child } if parent == self.parent => {
                let open = Open {
                    fork: at,
                    exec: None,
                    legitimate: false,
                };
                self.open.insert(child, open);
            }
            Event::Exec(pid) => {
                if let Some(open) = self.open.get_mut(&pid)
                    && open.exec.is_none()
                {
                    open.exec = Some(at);
                    open.legitimate = is_legitimate(pid);
                }
            }
            Event::Exit(pid) => {
                if let Some(open) = self.open.remove(&pid) {
                    self.ended.push(Life {
                        fork: open.fork,
                        exec: open.exec,
                        exit: at,
                        legitimate: open.legitimate,
                    });
                }
            }
            Event::Acknowledged | Event::Fork { .. } => {}
        }
    }

    /// The most at a time, and the mean, between two times; those that have not ended count until `to`.
    #[must_use]
    pub fn slots(&self, from: u64, to: u64) -> (usize, f64) {
        let open = self.open.values().map(|open| (open.fork, to));
        let spans = self.ended.iter().map(|life| (life.fork, life.exit));
        let (mut steps, mut total) = (Vec::new(), 0_u64);
        for (fork, exit) in spans.chain(open) {
            let (fork, exit) = (fork.max(from), exit.min(to));
            if fork < exit {
                total += exit - fork;
                steps.push((fork, 1_isize));
                steps.push((exit, -1));
            }
        }
        // Of one moment the ends come first.
        steps.sort_unstable();
        let (mut now, mut peak) = (0, 0);
        for (_, step) in steps {
            now += step;
            peak = peak.max(now);
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let mean = total as f64 / to.saturating_sub(from).max(1) as f64;
        (usize::try_from(peak).unwrap_or(0), mean)
    }
}

/// A running observation.
#[derive(Debug)]
pub struct Observer {
    end: Arc<AtomicBool>,
    parent: Arc<AtomicI32>,
    thread: JoinHandle<Lives>,
}

impl Observer {
    /// Subscribes and starts a thread, both in the calling thread's namespaces.
    ///
    /// # Errors
    /// Where the kernel does not tell: not in the initial namespaces, or not root.
    pub fn start() -> io::Result<Self> {
        let socket = subscribe()?;
        let (end, parent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicI32::new(0)),
        );
        let (ended, whose) = (Arc::clone(&end), Arc::clone(&parent));
        let thread = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || observe(&socket, &ended, &whose))?;
        Ok(Self {
            end,
            parent,
            thread,
        })
    }

    /// From now on the children of this process count; its number is that of the initial pid namespace.
    pub fn follow(&self, parent: i32) {
        self.parent.store(parent, Ordering::Relaxed);
    }

    /// Ends it and tells what was seen.
    ///
    /// # Errors
    /// If the thread panicked.
    pub fn finish(self) -> io::Result<Lives> {
        self.end.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| io::Error::other("the kernel's observer panicked"))
    }
}

/// The kernel's clock of these events.
#[must_use]
pub fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn subscribe() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(CONNECTOR),
    )?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    bind(&socket, &SocketAddrNetlink::new(0, CN_PROC))?;
    let words = [40, NLMSG_DONE, 0, 0, CN_PROC, CN_PROC, 0, 0, 4, LISTEN];
    let request: Vec<u8> = words
        .iter()
        .flat_map(|word: &u32| word.to_ne_bytes())
        .collect();
    send(&socket, &request, SendFlags::empty())?;
    // In another pid namespace the request is ignored without a word.
    let end = Instant::now() + PATIENCE;
    let mut acknowledged = false;
    while !acknowledged {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        wait(&socket, left)?;
        drain(&socket, |event| {
            acknowledged |= matches!(event, Some((_, Event::Acknowledged)));
        })?;
    }
    Ok(socket)
}

fn observe(socket: &OwnedFd, end: &AtomicBool, parent: &AtomicI32) -> Lives {
    let mut lives = Lives::default();
    loop {
        let last = end.load(Ordering::Relaxed);
        lives.parent = parent.load(Ordering::Relaxed);
        let drained = drain(socket, |event| match event {
            Some((at, event)) => lives.take(at, event, is_legitimate),
            None => lives.overruns += 1,
        });
        if last || drained.is_err() {
            return lives;
        }
        // Not at once for each event: they keep, and the processor is the server's. How a session ended does not tell
        // whose it was: courieresmtpd takes a SIGTERM for an end like any other once it has said its greeting.
        std::thread::sleep(LOOK);
    }
}

fn is_legitimate(pid: i32) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .windows(LEGITIMATE.len())
        .any(|part| part == LEGITIMATE)
}

fn wait(socket: &OwnedFd, limit: Duration) -> io::Result<()> {
    let limit: Timespec = limit.try_into().map_err(io::Error::other)?;
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&limit))?;
    Ok(())
}

/// All that is there; `None` for a loss.
fn drain(socket: &OwnedFd, mut take: impl FnMut(Option<(u64, Event)>)) -> io::Result<()> {
    let mut bytes = [0_u8; 4096];
    loop {
        match recv(socket, &mut bytes[..], RecvFlags::empty()) {
            Ok((length, _)) => events(&bytes[..length]).for_each(|event| take(Some(event))),
            Err(rustix::io::Errno::NOBUFS) => take(None),
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The events of processes in a datagram, with their times.
fn events(datagram: &[u8]) -> impl Iterator<Item = (u64, Event)> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(word(rest, 0)?).ok()?;
        let message = rest.get(NLMSG_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
    .filter_map(event)
}

fn event(message: &[u8]) -> Option<(u64, Event)> {
    if (word(message, 0)?, word(message, 4)?) != (CN_PROC, CN_PROC) {
        return None;
    }
    let event = message.get(CN_MSG..)?;
    let at = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    let number = |index: usize| i32::try_from(word(event, 16 + 4 * index)?).ok();
    // Of each pair the first is the thread, the second the process.
    let event = match word(event, 0)? {
        NONE => Event::Acknowledged,
        FORK if number(2)? == number(3)? => Event::Fork {
            parent: number(1)?,
            child: number(3)?,
        },
        EXEC => Event::Exec(number(1)?),
        EXIT if number(0)? == number(1)? => Event::Exit(number(1)?),
        _ => return None,
    };
    Some((at, event))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(what: u32, at: u32, data: [u32; 4]) -> Vec<u8> {
        let [a, b, c, d] = data;
        // The time is a u64: low word first on little-endian machines, which the tests' are.
        let words = [
            76, 3, 0, 0, 1, 1, 9, 0, 40, what, 0, at, 0, a, b, c, d, 0, 0,
        ];
        words
            .iter()
            .flat_map(|word: &u32| word.to_ne_bytes())
            .collect()
    }

    #[test]
    fn forks_execs_and_exits_of_processes_are_read() {
        let datagram = [
            message(FORK, 5, [10, 10, 11, 11]),
            message(FORK, 6, [10, 10, 12, 11]),
            message(EXEC, 7, [11, 11, 0, 0]),
            message(EXIT, 8, [12, 11, 0, 0]),
            message(EXIT, 9, [11, 11, 15, 17]),
            message(2048, 9, [11, 11, 15, 17]),
        ]
        .concat();
        let read: Vec<_> = events(&datagram).collect();
        let fork = Event::Fork {
            parent: 10,
            child: 11,
        };
        let wanted = [(5, fork), (7, Event::Exec(11)), (9, Event::Exit(11))];
        assert_eq!(read, wanted, "threads and other events are passed over");
        for end in 0..datagram.len() {
            let _ = events(&datagram[..end]).count();
        }
    }

    #[test]
    fn peak_and_mean_count_what_overlaps() {
        let mut lives = Lives {
            parent: 10,
            ..Lives::default()
        };
        let fork = |child| Event::Fork { parent: 10, child };
        for (at, event) in [
            (100, fork(1)),
            (110, Event::Exec(1)),
            (150, fork(2)),
            (
                160,
                Event::Fork {
                    parent: 9,
                    child: 7,
                },
            ),
            (200, Event::Exit(1)),
            (200, fork(3)),
            (250, Event::Exit(2)),
        ] {
            lives.take(at, event, |pid| pid == 1);
        }
        let first = Life {
            fork: 100,
            exec: Some(110),
            exit: 200,
            legitimate: true,
        };
        assert_eq!(lives.ended[0], first);
        assert!(!lives.ended[1].legitimate && lives.ended.len() == 2);
        let (peak, mean) = lives.slots(100, 300);
        assert_eq!(peak, 2);
        assert!((mean - 1.5).abs() < 1e-9, "{mean}");
    }
}
