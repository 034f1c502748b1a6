//! The filter's end of the warden: starts it, asks it, starts it again.
//!
//! The warden is the one process that may touch the kernel's sets. Without it
//! nobody is banned; all else goes on.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{error, fmt};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType};
use rblfilter_warden::request::{REPLY_LEN, Reply, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::sys::watched;

/// How long a request may take, its wait for those before it included.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the warden may be silent before it is given up: a large set takes
/// it a second or two to read.
const GIVE_UP: Duration = Duration::from_secs(10);
/// The least time between two starts, doubled each time that a warden ended
/// without an answer.
const RESTART_AFTER: Duration = Duration::from_secs(5);
const LONGEST_RESTART: Duration = Duration::from_secs(300);
/// How long nobody is banned in a set in which that was not possible.
const SET_REST: Duration = Duration::from_secs(1);

/// The warden, running or not.
#[derive(Debug)]
pub struct Warden {
    program: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    /// When it may be started (again).
    start_from: Option<Instant>,
    /// The pause before the start after that.
    pause: Option<Duration>,
    serial: u32,
    /// Since when a running warden has not answered.
    silent_since: Option<Instant>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    socket: AsyncFd<OwnedFd>,
}

/// A reply, and the descriptor that came with it.
pub type Answer = (Reply, Option<OwnedFd>);

/// Why the warden did not answer.
#[derive(Debug)]
pub enum Error {
    /// It cannot be started.
    Start(PathBuf, io::Error),
    /// It ended a moment ago and is not started again yet.
    Resting,
    /// It ended, or its socket failed.
    Gone(io::Error),
    /// It does not answer in time.
    Silent,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(program, error) => write!(f, "cannot start {}: {error}", program.display()),
            Self::Resting => f.write_str("it has ended and is started again in a moment"),
            Self::Gone(error) => write!(f, "it has ended: {error}"),
            Self::Silent => write!(f, "no answer within {} s", PATIENCE.as_secs()),
        }
    }
}

// The operating system's word is part of the text, so there is no source.
impl error::Error for Error {}

impl Warden {
    /// A warden to be started from `program` when it is first asked.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            state: Mutex::default(),
        }
    }

    /// Asks the warden; starts it where it is not running.
    ///
    /// # Errors
    /// Where there is no answer within a second.
    pub async fn ask(&self, request: Request) -> Result<Reply, Error> {
        self.exchange(request).await.map(|(reply, _)| reply)
    }

    /// Asks the warden for a socket on which the kernel tells of every exec;
    /// the reply alone where it cannot be had.
    ///
    /// # Errors
    /// Where there is no answer within a second.
    pub async fn watch(&self) -> Result<Answer, Error> {
        self.exchange(Request::Watch).await
    }

    async fn exchange(&self, request: Request) -> Result<Answer, Error> {
        let asked = async { self.state.lock().await.ask(request, &self.program).await };
        timeout(PATIENCE, asked).await.unwrap_or(Err(Error::Silent))
    }
}

/// The sets in which nothing can be banned for a moment, as the warden said.
#[derive(Debug, Default)]
pub struct SetsRest {
    /// Until when, for IPv4 and IPv6.
    until: std::sync::Mutex<[Option<Instant>; 2]>,
}

impl SetsRest {
    fn until(&self) -> std::sync::MutexGuard<'_, [Option<Instant>; 2]> {
        self.until
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Nothing could be banned in the set of this family.
    pub fn rest(&self, ipv6: bool, now: Instant) {
        self.until()[usize::from(ipv6)] = Some(now + SET_REST);
    }

    /// Whether that was a moment ago.
    #[must_use]
    pub fn is_resting(&self, ipv6: bool, now: Instant) -> bool {
        self.until()[usize::from(ipv6)].is_some_and(|until| now < until)
    }
}

impl State {
    async fn ask(&mut self, request: Request, program: &Path) -> Result<Answer, Error> {
        self.serial = self.serial.wrapping_add(1);
        let now = Instant::now();
        if self
            .silent_since
            .is_some_and(|since| now.duration_since(since) > GIVE_UP)
        {
            self.end();
        }
        if self.running.is_none() {
            self.start(program, now)?;
        }
        // Where the caller's time runs out in here, the answer comes too late,
        // under a serial number that nobody waits for.
        self.silent_since.get_or_insert(now);
        let Some(running) = &self.running else {
            return Err(Error::Resting);
        };
        match running.exchange(request, self.serial).await {
            Ok(answer) => {
                self.silent_since = None;
                self.pause = None;
                Ok(answer)
            }
            Err(error) => {
                self.end();
                Err(Error::Gone(error))
            }
        }
    }

    fn start(&mut self, program: &Path, now: Instant) -> Result<(), Error> {
        if self.start_from.is_some_and(|from| now < from) {
            return Err(Error::Resting);
        }
        let pause = self.pause.unwrap_or(RESTART_AFTER);
        self.start_from = Some(now + pause);
        self.pause = Some((pause * 2).min(LONGEST_RESTART));
        let running =
            Running::start(program).map_err(|error| Error::Start(program.into(), error))?;
        self.running = Some(running);
        Ok(())
    }

    fn end(&mut self) {
        self.silent_since = None;
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}

impl Running {
    fn start(program: &Path) -> io::Result<Self> {
        let (ours, theirs) = socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let child = Command::new(program)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            socket: watched(ours, Interest::READABLE | Interest::WRITABLE)?,
        })
    }

    async fn exchange(&self, request: Request, serial: u32) -> io::Result<Answer> {
        let message = request.encode(serial);
        loop {
            let mut ready = self.socket.writable().await?;
            let sent = ready.try_io(|socket| {
                let flags = MsgFlags::MSG_NOSIGNAL;
                Ok(socket::send(socket.as_fd().as_raw_fd(), &message, flags)?)
            });
            if let Ok(sent) = sent {
                sent?;
                break;
            }
        }
        loop {
            let mut ready = self.socket.readable().await?;
            let Ok(received) = ready.try_io(|socket| receive(socket.get_ref())) else {
                continue;
            };
            match received? {
                (reply, handed) if reply.serial == serial => return Ok((reply, handed)),
                // An answer to a question that was given up.
                _ => {}
            }
        }
    }

    /// Ends a warden that is of no use any more; it is our own child.
    fn end(mut self) {
        // It may be in the middle of a system call, which its end waits for; the
        // event loop does not.
        tokio::task::spawn_blocking(move || {
            // It may have ended already; then there is only its status to collect.
            let _ = self.child.kill();
            let _ = self.child.wait();
        });
    }
}

/// One reply, and the descriptor that came with it.
fn receive(socket: &OwnedFd) -> io::Result<Answer> {
    let mut bytes = [0; REPLY_LEN + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut handed = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            handed = descriptors.last();
        }
    }
    if received.bytes == 0 {
        return Err(Errno::EPIPE.into());
    }
    let reply = Reply::decode(&bytes[..received.bytes]).ok_or(Errno::EPROTO)?;
    Ok((reply, handed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_failed_rests_for_a_moment_and_the_other_does_not() {
        let (rest, now) = (SetsRest::default(), Instant::now());
        assert!(!rest.is_resting(false, now));
        rest.rest(false, now);
        assert!(rest.is_resting(false, now) && !rest.is_resting(true, now));
        assert!(!rest.is_resting(false, now + SET_REST));
    }
}
