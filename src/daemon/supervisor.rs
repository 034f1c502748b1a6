//! The process that courierfilter knows. It holds descriptor 0, the filter
//! socket and the worker; it starts a worker that has died again, and while
//! none can run, it accepts every message itself. It reads nothing from
//! outside but past the end of a request.
//!
//! When courierfilter says stop, it takes the socket out of `submit`'s sight
//! and ends at once; the worker answers what is open and follows. (While
//! courierfilter waits for a filter's end, it is deaf: a `filterctl start` in
//! that time would be lost.)
//!
//! The order of its start: descriptors 0 and 3 are ours, leaked ones are
//! closed; the filter socket; the worker, which closes descriptor 3 when it is
//! ready. If this process is killed, the worker serves on.

use std::collections::VecDeque;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{ACCEPTED, EX_SOFTWARE, filter_name, worker};
use crate::courier::filter_socket::FilterSocket;
use crate::courier::paths::Paths;
use crate::courier::request::MAX_PATHS;
use crate::log::{Direct, Event};
use crate::sys::descriptors::{self, Inherited};
use crate::sys::{ignore_signals, spawn_with};

/// Workers that may end within [`WINDOW`] before the next one has to wait.
const AT_ONCE: usize = 2;
const WINDOW: Duration = Duration::from_secs(60);
/// The wait after those, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the supervisor reads one request that it accepts unread.
const REQUEST_TIME: Duration = Duration::from_secs(1);
/// The most of them that it accepts once it has been told to stop.
const BACKLOG: usize = 1024;
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Supervises until courierfilter closes descriptor 0.
#[must_use]
pub fn run(inherited: Inherited) -> ExitCode {
    let name = filter_name();
    let mut log = Direct::new(&name);
    for step in [descriptors::close_leaked, descriptors::raise_limit] {
        if let Err(error) = step() {
            log.write(Level::Warn, &Event::new("limits").text(error));
        }
    }
    // The default would end us, and leave the socket without a listener.
    ignore_signals();
    let started = FilterSocket::bind(&Paths::from_env(), &name)
        .map_err(|error| error.to_string())
        .and_then(|(socket, problems)| {
            for problem in problems {
                log.write(Level::Warn, &Event::new("socket").text(problem));
            }
            Supervisor::new(name, socket, inherited).map_err(|error| error.to_string())
        });
    match started {
        Ok(mut supervisor) => {
            supervisor.run(&mut log);
            ExitCode::SUCCESS
        }
        Err(error) => {
            log.write(Level::Error, &Event::new("failed").text(error));
            ExitCode::from(EX_SOFTWARE)
        }
    }
}

struct Supervisor {
    name: String,
    program: PathBuf,
    socket: FilterSocket,
    stop: OwnedFd,
    /// Handed to the first worker.
    ready: Option<OwnedFd>,
    /// When the latest workers ended.
    ends: VecDeque<Instant>,
}

/// What the supervisor waited for.
#[derive(PartialEq, Eq)]
enum Woken {
    Stop,
    Other,
    Time,
}

struct Worker {
    child: Child,
    pidfd: OwnedFd,
    /// A byte in it says that the socket is unlinked.
    control: UnixStream,
}

impl Supervisor {
    fn new(name: String, socket: FilterSocket, inherited: Inherited) -> io::Result<Self> {
        socket.listener.set_nonblocking(true)?;
        Ok(Self {
            name,
            program: env::current_exe()?,
            socket,
            stop: inherited.stop,
            ready: Some(inherited.ready),
            ends: VecDeque::new(),
        })
    }

    fn run(&mut self, log: &mut Direct) {
        loop {
            let why = match self.start() {
                Ok(worker) => match self.tend(worker, log) {
                    Some(why) => why,
                    None => return,
                },
                Err(error) => format!("cannot start {}: {error}", self.program.display()),
            };
            let now = Instant::now();
            self.ends.push_back(now);
            self.ends.retain(|end| now.duration_since(*end) < WINDOW);
            let pause = pause(self.ends.len());
            let event = Event::new("worker").field("pause", format!("{}s", pause.as_secs()));
            log.write(Level::Error, &event.text(why));
            if self.accept_all(now + pause) == Woken::Stop {
                self.unlink(log);
                // Nobody else serves those who had found the socket before.
                let mut left = BACKLOG;
                while left > 0 && accept_one(&self.socket.listener) {
                    left -= 1;
                }
                return;
            }
        }
    }

    fn start(&mut self) -> io::Result<Worker> {
        let (control, theirs) = UnixStream::pair()?;
        // Handed on once, and closed here in any case: courierfilter waits for it.
        let ready = self.ready.take();
        let mut handed = vec![self.socket.listener.as_fd(), theirs.as_fd()];
        handed.extend(ready.as_ref().map(AsFd::as_fd));
        let mut child = spawn_with(&self.program, &self.name, &self.stop, &handed, |numbers| {
            worker::arguments(numbers, self.socket.path())
        })?;
        match pidfd_of(&child) {
            Ok(pidfd) => Ok(Worker {
                child,
                pidfd,
                control,
            }),
            // One that cannot be watched must not serve beside the next.
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Waits for the worker's end, which it returns in words, or for the stop:
    /// `None`.
    fn tend(&self, mut worker: Worker, log: &mut Direct) -> Option<String> {
        if self.wait(worker.pidfd.as_fd(), None) == Woken::Stop {
            self.unlink(log);
            // A worker that is gone needs no word.
            let _ = worker.control.write_all(b"u");
            return None;
        }
        Some(match worker.child.wait() {
            Ok(status) => format!("the worker has ended ({status}), starting another"),
            Err(error) => format!("the worker is lost ({error}), starting another"),
        })
    }

    /// Waits until the stop, until `other` is readable, or until `end`.
    fn wait(&self, other: std::os::fd::BorrowedFd<'_>, end: Option<Instant>) -> Woken {
        loop {
            let timeout = end.map_or(PollTimeout::NONE, |end| {
                let left = end.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = [
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(other, PollFlags::POLLIN),
            ];
            // Interrupted: look again. (There is no other error here.)
            let Ok(woken) = poll(&mut fds, timeout) else {
                continue;
            };
            // courierfilter writes nothing into this pipe, so this is its end.
            if fds[0].any().unwrap_or(false) {
                return Woken::Stop;
            }
            if woken > 0 {
                return Woken::Other;
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Woken::Time;
            }
        }
    }

    /// Accepts every message until `end`, or the stop.
    fn accept_all(&self, end: Instant) -> Woken {
        // The next worker must not wait for a queue that never empties.
        while Instant::now() < end {
            match self.wait(self.socket.listener.as_fd(), Some(end)) {
                Woken::Other => {
                    accept_one(&self.socket.listener);
                }
                woken => return woken,
            }
        }
        Woken::Time
    }

    fn unlink(&self, log: &mut Direct) {
        if let Err(error) = self.socket.unlink() {
            log.write(Level::Error, &Event::new("failed").text(error));
        }
    }
}

/// Our own child, which nobody else can have collected.
fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// How long to wait when so many workers have ended within the last minute.
fn pause(ended: usize) -> Duration {
    match u32::try_from(ended.saturating_sub(AT_ONCE)) {
        Ok(0) => Duration::ZERO,
        Ok(further) if further < 6 => (FIRST_PAUSE * 2_u32.pow(further - 1)).min(LONGEST_PAUSE),
        _ => LONGEST_PAUSE,
    }
}

/// Accepts one message without a look at it; whether there was one.
fn accept_one(listener: &UnixListener) -> bool {
    let Ok((mut stream, _)) = listener.accept() else {
        // No descriptor is left, most likely: do not ask without pause.
        thread::sleep(ACCEPT_PAUSE);
        return false;
    };
    let end = Instant::now() + REQUEST_TIME;
    let mut seen = Vec::new();
    let mut bytes = [0; 4096];
    // submit must have written all before it is answered, or it would not read.
    while !seen.windows(2).any(|two| two == b"\n\n") && seen.len() <= MAX_PATHS {
        let left = end.saturating_duration_since(Instant::now());
        let read = match stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))) {
            Ok(()) if !left.is_zero() => stream.read(&mut bytes),
            _ => break,
        };
        match read {
            Ok(length) if length > 0 => seen.extend_from_slice(&bytes[..length]),
            _ => break,
        }
    }
    // A submit that is gone has no use for its reply.
    let _ = stream.set_write_timeout(Some(REQUEST_TIME));
    let _ = writeln!(stream, "{ACCEPTED}");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_worker_in_a_minute_waits_and_each_further_one_longer() {
        let seconds: Vec<u64> = (0..10).map(|ended| pause(ended).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(usize::MAX).as_secs(), 30);
    }

    #[test]
    fn a_request_is_accepted_unread() {
        let path = env::temp_dir().join(format!("rblfilter-accept-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        for (request, close) in [(&b"/d\n/c\n\n"[..], false), (b"half", true), (b"", true)] {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(request).unwrap();
            if close {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            accept_one(&listener);
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "250 Ok\n");
        }
        std::fs::remove_file(path).unwrap();
    }
}
