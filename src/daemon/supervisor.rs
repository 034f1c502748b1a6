//! The process that courierfilter knows. It holds descriptor 0, the filter
//! socket, and its children: the worker, and the warden that the worker works
//! with. It starts each again that has died, and while no worker can run, it
//! accepts every message itself. It reads nothing from outside but past the end
//! of a request, and of its children only words of one byte ([`super::link`]).
//!
//! A worker asks for a warden when it needs one (where nobody is banned,
//! nothing with a capability runs). Each worker has a warden of its own: the
//! supervisor makes the pair of sockets, starts the warden with one, and hands
//! the other to the worker; the same again for a warden that died. A warden
//! ends when its worker is gone and the socket with it.
//!
//! When courierfilter says stop, it takes the socket out of `submit`'s sight
//! and ends at once; the worker answers what is open and follows. (While
//! courierfilter waits for a filter's end, it is deaf: a `filterctl start` in
//! that time would be lost.)
//!
//! The order of its start: descriptors 0 and 3 are ours, leaked ones are
//! closed; the filter socket; the worker, which closes descriptor 3 when it is
//! ready. If this process is killed, worker and warden serve on.
//!
//! It never sets no_new_privs, which would void the warden's file capability.

use std::env;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::SockFlag;
use rustix::process::Pid;

use super::children::{Child, Restarts, Role, start_warden};
use super::link::{self, Link, Word};
use super::{ACCEPTED, EX_SOFTWARE, filter_name, worker};
use crate::courier::filter_socket::FilterSocket;
use crate::courier::paths::Paths;
use crate::courier::request::MAX_PATHS;
use crate::log::{Direct, Event};
use crate::sys::descriptors::{self, Inherited};
use crate::sys::{ignore_signals, spawn_with};

/// How long the supervisor reads one request that it accepts unread.
const REQUEST_TIME: Duration = Duration::from_secs(1);
/// The most of them that it accepts once it has been told to stop.
const BACKLOG: usize = 1024;
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Words that are heard of a child at once.
const WORDS: usize = 64;

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
    let paths = Paths::from_env();
    let started = FilterSocket::bind(&paths, &name)
        .map_err(|error| error.to_string())
        .and_then(|(socket, problems)| {
            for problem in problems {
                log.write(Level::Warn, &Event::new("socket").text(problem));
            }
            Supervisor::new(name, &paths, socket, inherited).map_err(|error| error.to_string())
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
    /// The worker's program, which is ours.
    program: PathBuf,
    warden: PathBuf,
    socket: FilterSocket,
    stop: OwnedFd,
    /// Handed to the first worker.
    ready: Option<OwnedFd>,
    children: Vec<Child>,
    workers: Restarts,
    wardens: Restarts,
}

/// What the supervisor has woken for.
#[derive(Default)]
struct Woken {
    stop: bool,
    /// Somebody waits at the filter socket, and no worker runs.
    request: bool,
    /// The children that have said something.
    said: Vec<Pid>,
    /// The children that have ended.
    ended: Vec<Pid>,
}

impl Supervisor {
    fn new(
        name: String,
        paths: &Paths,
        socket: FilterSocket,
        inherited: Inherited,
    ) -> io::Result<Self> {
        socket.listener.set_nonblocking(true)?;
        Ok(Self {
            name,
            program: env::current_exe()?,
            warden: paths.warden(),
            socket,
            stop: inherited.stop,
            ready: Some(inherited.ready),
            children: Vec::new(),
            workers: Restarts::due(Instant::now()),
            wardens: Restarts::default(),
        })
    }

    fn run(&mut self, log: &mut Direct) {
        loop {
            self.start_due(Instant::now(), log);
            let woken = self.wait();
            if woken.stop {
                self.end(log);
                return;
            }
            for pid in woken.said {
                self.hear(pid, log);
            }
            for pid in woken.ended {
                self.bury(pid, log);
            }
            if woken.request {
                accept_one(&self.socket.listener);
            }
        }
    }

    /// Starts what is due.
    fn start_due(&mut self, now: Instant, log: &mut Direct) {
        let is_due = |restarts: &mut Restarts| restarts.due.take_if(|due| *due <= now).is_some();
        if is_due(&mut self.workers)
            && let Err(error) = self.start_worker()
        {
            let why = format!("cannot start {}: {error}", self.program.display());
            self.lost(Role::Worker, &why, log);
        }
        if is_due(&mut self.wardens)
            && let Some(worker) = self.worker()
        {
            self.start_warden(worker, log);
        }
    }

    /// The worker, where one runs.
    fn worker(&self) -> Option<Pid> {
        let worker = self
            .children
            .iter()
            .find(|child| child.role == Role::Worker);
        worker.map(Child::pid)
    }

    fn child(&self, pid: Pid) -> Option<&Child> {
        self.children.iter().find(|child| child.pid() == pid)
    }

    fn start_worker(&mut self) -> io::Result<()> {
        let (link, theirs) = Link::pair()?;
        // Handed on once, and closed here in any case: courierfilter waits for it.
        let ready = self.ready.take();
        let mut handed = vec![self.socket.listener.as_fd(), theirs.as_fd()];
        handed.extend(ready.as_ref().map(AsFd::as_fd));
        let started = spawn_with(&self.program, &self.name, &self.stop, &handed, |numbers| {
            worker::arguments(numbers, self.socket.path())
        })?;
        let child = Child::of(started, Role::Worker, Some(link), None)?;
        self.children.push(child);
        Ok(())
    }

    /// Starts a warden for this worker, and hands its socket over.
    fn start_warden(&mut self, worker: Pid, log: &mut Direct) {
        let started = || {
            let (for_worker, for_warden) = link::pair(SockFlag::empty())?;
            let warden = start_warden(&self.warden, for_warden, worker)?;
            if let Some(link) = self.child(worker).and_then(|worker| worker.link.as_ref()) {
                // Where it cannot be told, it has ended, or will be given up; the
                // warden ends with its socket.
                let _ = link.say(Word::Warden, Some(for_worker.as_fd()));
            }
            Ok(warden)
        };
        match started() {
            Ok(warden) => self.children.push(warden),
            Err(error) => {
                let error: io::Error = error;
                let why = format!("cannot start {}: {error}", self.warden.display());
                self.lost(Role::Warden, &why, log);
            }
        }
    }

    /// One has ended, or could not be started, for the reason `why`: another one
    /// follows.
    fn lost(&mut self, role: Role, why: &str, log: &mut Direct) {
        let restarts = match role {
            Role::Worker => &mut self.workers,
            Role::Warden => &mut self.wardens,
        };
        if let Some(pause) = restarts.ended(Instant::now()) {
            let event = Event::new(role.name()).field("pause", format!("{}s", pause.as_secs()));
            log.write(Level::Error, &event.text(why));
        }
    }

    /// Does what a child has asked for.
    fn hear(&mut self, pid: Pid, log: &mut Direct) {
        for _ in 0..WORDS {
            let Some(child) = self.children.iter_mut().find(|child| child.pid() == pid) else {
                return;
            };
            let Some(link) = &child.link else { return };
            match link.hear() {
                Ok(Some((Word::Warden, _))) => {
                    let has_one = |child: &Child| child.of == Some(pid);
                    if !self.children.iter().any(has_one) && self.wardens.due.is_none() {
                        self.start_warden(pid, log);
                    }
                }
                Ok(Some((Word::Unlinked, _))) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It has ended, which its pidfd tells.
                Ok(None) => child.link = None,
                Err(error) => {
                    child.link = None;
                    let event = Event::new(child.role.name());
                    let event = event.text(format!("it says what is no word ({error})"));
                    log.write(Level::Error, &event);
                    // It has ended already where this fails.
                    let _ = child.kill();
                }
            }
        }
    }

    /// Collects a child that has ended, and sees to its successor.
    fn bury(&mut self, pid: Pid, log: &mut Direct) {
        let Some(place) = self.children.iter().position(|child| child.pid() == pid) else {
            return;
        };
        let why = match self.children[place].collect() {
            Ok(Some(status)) => format!("it has ended ({status}), another is started"),
            Ok(None) => return,
            Err(error) => format!("it is lost ({error}), another is started"),
        };
        let child = self.children.swap_remove(place);
        match child.role {
            Role::Worker => {
                // The warden ends with it, and the next one has another.
                self.wardens.due = None;
                self.lost(Role::Worker, &why, log);
            }
            Role::Warden if child.of == self.worker() => self.lost(Role::Warden, &why, log),
            Role::Warden => {}
        }
    }

    /// Waits for something to do.
    fn wait(&self) -> Woken {
        let due = [self.workers.due, self.wardens.due]
            .into_iter()
            .flatten()
            .min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            let left = due.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.stop.as_fd())];
        // A worker that runs takes what waits there, be it in a moment.
        let alone = self.worker().is_none();
        if alone {
            fds.push(readable(self.socket.listener.as_fd()));
        }
        let first = fds.len();
        for child in &self.children {
            let link: Option<BorrowedFd<'_>> = child.link.as_ref().map(AsFd::as_fd);
            // A link that is closed tells as little as the pidfd, once more.
            fds.push(readable(link.unwrap_or(child.pidfd().as_fd())));
            fds.push(readable(child.pidfd().as_fd()));
        }
        // Interrupted: look again. (There is no other error here.)
        if poll(&mut fds, timeout).is_err() {
            return Woken::default();
        }
        let any = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let mut woken = Woken {
            // courierfilter writes nothing into this pipe, so this is its end.
            stop: any(&fds[0]),
            request: alone && any(&fds[1]),
            ..Woken::default()
        };
        for (child, fds) in self.children.iter().zip(fds[first..].chunks(2)) {
            if any(&fds[0]) {
                woken.said.push(child.pid());
            }
            if any(&fds[1]) {
                woken.ended.push(child.pid());
            }
        }
        woken
    }

    /// Takes the socket out of `submit`'s sight, and tells the worker.
    fn end(&self, log: &mut Direct) {
        if let Err(error) = self.socket.unlink() {
            log.write(Level::Error, &Event::new("failed").text(error));
        }
        if let Some(worker) = self.worker().and_then(|pid| self.child(pid)) {
            if let Some(link) = &worker.link {
                // A worker that is gone needs no word.
                let _ = link.say(Word::Unlinked, None);
            }
            return;
        }
        // Nobody else serves those who had found the socket before.
        let mut left = BACKLOG;
        while left > 0 && accept_one(&self.socket.listener) {
            left -= 1;
        }
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
    use std::os::unix::net::UnixStream;

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
