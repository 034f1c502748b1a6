//! The filter's end of the warden: starts it, asks it, starts it again.
//!
//! The warden is the one process that may touch the kernel's sets. Without it
//! nobody is banned; all else goes on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{error, fmt};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType};
use rblfilter_warden::request::{REPLY_LEN, Reply, Request};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::sys::watched;

/// How long a request may take, its wait for those before it included.
const PATIENCE: Duration = Duration::from_secs(1);
/// The least time between two starts.
const RESTART_AFTER: Duration = Duration::from_secs(5);

/// The warden, running or not.
#[derive(Debug)]
pub struct Warden {
    program: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    started: Option<Instant>,
    serial: u32,
}

#[derive(Debug)]
struct Running {
    child: Child,
    socket: AsyncFd<OwnedFd>,
}

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
        match timeout(PATIENCE, self.state.lock()).await {
            Ok(mut state) => state.ask(request, &self.program).await,
            Err(_) => Err(Error::Silent),
        }
    }
}

impl State {
    async fn ask(&mut self, request: Request, program: &PathBuf) -> Result<Reply, Error> {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let running = match self.running.take() {
            Some(running) => running,
            None => self.start(program)?,
        };
        let answer = timeout(PATIENCE, running.exchange(request, serial)).await;
        match answer {
            Ok(Ok(reply)) => {
                self.running = Some(running);
                Ok(reply)
            }
            Ok(Err(error)) => {
                running.end();
                Err(Error::Gone(error))
            }
            Err(_) => {
                running.end();
                Err(Error::Silent)
            }
        }
    }

    fn start(&mut self, program: &PathBuf) -> Result<Running, Error> {
        let now = Instant::now();
        if self
            .started
            .is_some_and(|at| now.duration_since(at) < RESTART_AFTER)
        {
            return Err(Error::Resting);
        }
        self.started = Some(now);
        Running::start(program).map_err(|error| Error::Start(program.clone(), error))
    }
}

impl Running {
    fn start(program: &PathBuf) -> io::Result<Self> {
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

    async fn exchange(&self, request: Request, serial: u32) -> io::Result<Reply> {
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
            let mut bytes = [0; REPLY_LEN + 1];
            let mut ready = self.socket.readable().await?;
            let received = ready.try_io(|socket| {
                Ok(socket::recv(
                    socket.as_fd().as_raw_fd(),
                    &mut bytes,
                    MsgFlags::empty(),
                )?)
            });
            let Ok(received) = received else { continue };
            match received? {
                0 => return Err(Errno::EPIPE.into()),
                len => match Reply::decode(&bytes[..len]) {
                    Some(reply) if reply.serial == serial => return Ok(reply),
                    // An answer to a question that was given up.
                    Some(_) => {}
                    None => return Err(Errno::EPROTO.into()),
                },
            }
        }
    }

    /// Ends a warden that is of no use any more; it is our own child.
    fn end(mut self) {
        // It may have ended already; then there is only its status to collect.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
