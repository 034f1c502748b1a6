//! The process that courierfilter knows. It holds descriptor 0, the filter
//! socket, and its children: the worker, and the warden that the worker works
//! with. It starts each again that has died or is silent, and while no worker can
//! run, it accepts every message itself. It reads nothing from outside but past
//! the end of a request, and of its children only words of one byte
//! ([`super::link`]).
//!
//! A worker asks for a warden when it needs one (where nobody is banned,
//! nothing with a capability runs). Each worker has a warden of its own: the
//! supervisor makes the pair of sockets, starts the warden with one, and hands
//! the other to the worker; the same again for a warden that died. A warden
//! ends when its worker is gone and the socket with it. The same goes for the
//! gate, where the worker asks for one.
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
//!
//! # Reload and upgrade
//!
//! Both are one: the worker says [`Word::Reload`], and another worker is started
//! from the installed program, which reads the configuration as it is now. When
//! it is [`Word::Ready`], each of the two gets an end of a baton: first the one
//! that serves, with [`Word::Retire`], then the other, with [`Word::Take`]. From
//! then on they agree between themselves (`handover.rs`), whatever becomes of
//! the supervisor. What waits in the socket's backlog meanwhile waits for the
//! new one. When that is [`Word::Serving`] and the program's file is not the one
//! that this process runs, this process goes on as the installed one: it keeps
//! its number, descriptor 0, the socket, and its children.
//!
//! Where it can fail:
//!
//! - The configuration is wrong, the program cannot be run, is of another
//!   version of this protocol, ends at once, or is not ready in time: the new
//!   worker is no more, the one that serves is told [`Word::Failed`], and serves
//!   on.
//! - The new one dies before it has the baton: the same. After: the one before
//!   has given up, and another is started.
//! - The one that serves dies before it has given up: the new one sees the end of
//!   the baton, or is told to take at once.
//! - This process is killed before both have their ends: the one that serves
//!   sees that baton and link have no other end, and serves on; the new one sees its
//!   link's end, and ends. After: they need it no longer.
//! - The installed program cannot be run when this process is to become it: this
//!   process goes on as it is. That it can, and speaks the same words, the new
//!   worker has shown. If it died after that, it would be as if this process had
//!   been killed.

mod resume;

use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use log::Level;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::SockFlag;
use rustix::process::Pid;

use super::children::{Child, Role, Stage, start_helper};
use super::link::{self, Link, Word};
use super::pulse::woke_late;
use super::restarts::Restarts;
use super::unread::{REQUEST_TIME, accept_one};
use super::{EX_SOFTWARE, OWN_PROGRAM, filter_name, worker};
use crate::courier::filter_socket::FilterSocket;
use crate::courier::paths::Paths;
use crate::log::{Direct, Event};
use crate::sys::code::Code;
use crate::sys::descriptors::{self, Inherited};
use crate::sys::{forbid_tracing, ignore_signals, spawn_with};

pub use resume::{ROLE, resume};

/// The most requests that the supervisor accepts once it has been told to stop.
const BACKLOG: usize = 1024;
/// How long that may take in all; those who are left then are accepted at once.
/// (A `filterctl start` one second after the stop is not to be lost.)
const BACKLOG_TIME: Duration = Duration::from_millis(500);
/// How long a worker may not have been heard of at the stop: one that hangs would
/// hold the socket for ever.
const SILENCE: Duration = Duration::from_secs(3);
/// How long the pages that are used again and again are kept.
const SHED_EVERY: Duration = Duration::from_secs(1);
/// sysexits(3): how a worker ends that does not understand what it was started with.
const EX_USAGE: i32 = 64;
/// Words that are heard of a child at once.
const WORDS: usize = 64;
/// Workers that may be on their way out while another one comes.
const LEAVING: usize = 4;

/// Supervises until courierfilter closes descriptor 0.
#[must_use]
pub fn run(inherited: Inherited) -> ExitCode {
    forbid_tracing();
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
            let (stop, ready) = (inherited.stop, Some(inherited.ready));
            Supervisor::new(name, &paths, socket, stop, ready).map_err(|error| error.to_string())
        });
    match started {
        Ok(mut supervisor) => {
            supervisor.workers = Restarts::due(Instant::now());
            supervisor.run(&mut log);
            ExitCode::SUCCESS
        }
        Err(error) => failed(&mut log, &error),
    }
}

fn failed(log: &mut Direct, error: &str) -> ExitCode {
    log.write(Level::Error, &Event::new("failed").text(error));
    ExitCode::from(EX_SOFTWARE)
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
    /// The installed program does not understand us: the worker that serves is
    /// started from the one that this process runs.
    is_outdated: bool,
    /// Of the worker that serves.
    wardens: Restarts,
    /// See there.
    gates: Restarts,
    /// Its own.
    code: Code,
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
        stop: OwnedFd,
        ready: Option<OwnedFd>,
    ) -> io::Result<Self> {
        socket.listener.set_nonblocking(true)?;
        Ok(Self {
            name,
            program: env::current_exe()?,
            warden: paths.warden(),
            socket,
            stop,
            ready,
            children: Vec::new(),
            workers: Restarts::default(),
            is_outdated: false,
            wardens: Restarts::default(),
            gates: Restarts::default(),
            code: Code::find(),
        })
    }

    fn run(&mut self, log: &mut Direct) {
        let (mut shed, mut children) = (Instant::now(), 0);
        loop {
            self.start_due(Instant::now(), log);
            let planned = self.next();
            let now = Instant::now();
            if shed <= now || self.children.len() != children {
                // For want of memory, it is to be ended last.
                self.code.shed();
                (shed, children) = (now + SHED_EVERY, self.children.len());
            }
            let woken = self.wait(planned);
            if woken.request || !woken.ended.is_empty() {
                shed = now;
            }
            if woken.stop {
                self.end(log);
                return;
            }
            if woke_late(planned, Instant::now()) {
                let now = Instant::now();
                self.children.iter_mut().for_each(|child| child.spare(now));
            }
            for pid in woken.said {
                self.hear(pid, log);
            }
            for pid in woken.ended {
                self.bury(pid, log);
            }
            self.end_the_silent(Instant::now(), log);
            if woken.request {
                accept_one(&self.socket.listener, Instant::now() + REQUEST_TIME);
            }
        }
    }

    /// Starts what is due.
    fn start_due(&mut self, now: Instant, log: &mut Direct) {
        let is_due = |restarts: &mut Restarts| restarts.due.take_if(|due| *due <= now).is_some();
        // Each that was killed and does not end holds memory: there are not to be many.
        let undead = self.children.iter().filter(|child| child.is_killed());
        if undead.count() > LEAVING && self.workers.due.is_some_and(|due| due <= now) {
            self.workers.due = Some(now + SILENCE);
        }
        if is_due(&mut self.workers)
            && let Err(error) = self.start_worker(Stage::Serving)
        {
            let why = format!("cannot start {}: {error}", self.program.display());
            self.lost(Role::Worker, &why, log);
        }
        if is_due(&mut self.wardens)
            && let Some(worker) = self.server()
            && !self.has(Role::Warden, worker)
        {
            self.start_helper(Role::Warden, worker, log);
        }
        if is_due(&mut self.gates)
            && let Some(worker) = self.server()
            && !self.has(Role::Gate, worker)
        {
            self.start_helper(Role::Gate, worker, log);
        }
    }

    /// The worker that serves, or is about to.
    fn server(&self) -> Option<Pid> {
        self.worker_in(Stage::Serving)
    }

    fn worker_in(&self, stage: Stage) -> Option<Pid> {
        let mut children = self.children.iter();
        let worker = children.find(|child| child.role == Role::Worker && child.stage() == stage);
        worker.map(Child::pid)
    }

    fn has(&self, role: Role, worker: Pid) -> bool {
        let its = |child: &Child| child.role == role && child.of == Some(worker);
        self.children.iter().any(its)
    }

    fn child(&mut self, pid: Pid) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.pid() == pid)
    }

    /// Says a word to a child. One that cannot be told has ended, or will be
    /// given up.
    fn say(&self, pid: Pid, word: Word, descriptor: Option<BorrowedFd<'_>>) -> bool {
        let child = self.children.iter().find(|child| child.pid() == pid);
        child
            .and_then(|child| child.link.as_ref())
            .is_some_and(|link| link.say(word, descriptor).is_ok())
    }

    /// Starts a worker that serves at once, or one beside that.
    fn start_worker(&mut self, stage: Stage) -> io::Result<()> {
        let (link, theirs) = Link::pair()?;
        // Handed on once, and closed here in any case: courierfilter waits for it.
        let ready = self.ready.take();
        let mut handed = vec![self.socket.listener.as_fd(), theirs.as_fd()];
        handed.extend(ready.as_ref().map(AsFd::as_fd));
        let is_next = stage == Stage::Coming;
        let program = if self.is_outdated && !is_next {
            Path::new(OWN_PROGRAM)
        } else {
            &self.program
        };
        let started = spawn_with(program, &self.name, &self.stop, &handed, |numbers| {
            worker::arguments(numbers, self.socket.place(), is_next)
        })?;
        let child = Child::of(started, Role::Worker, stage, link, None)?;
        let pid = child.pid();
        self.children.push(child);
        if stage == Stage::Serving {
            self.say(pid, Word::Take, None);
        }
        Ok(())
    }

    /// Starts a warden or a gate for this worker, and hands its socket over.
    fn start_helper(&mut self, role: Role, worker: Pid, log: &mut Direct) {
        let word = match role {
            Role::Gate => Word::Gate,
            Role::Warden | Role::Worker => Word::Warden,
        };
        let started = || {
            let (for_worker, theirs) = link::pair(SockFlag::empty())?;
            let helper = start_helper(&self.warden, role, theirs, worker)?;
            // Where it cannot be told, the helper ends with its socket.
            self.say(worker, word, Some(for_worker.as_fd()));
            Ok(helper)
        };
        match started() {
            Ok(helper) => self.children.push(helper),
            Err(error) => {
                let error: io::Error = error;
                let why = format!("cannot start {}: {error}", self.warden.display());
                self.lost(role, &why, log);
            }
        }
    }

    /// Starts one that this worker has asked for, unless it has one, or is to have
    /// one after a pause.
    fn want(&mut self, role: Role, worker: Pid, log: &mut Direct) {
        let restarts = match role {
            Role::Gate => &self.gates,
            Role::Warden | Role::Worker => &self.wardens,
        };
        // The pause after wardens that ended is one for all: who is refused here
        // asks again.
        let waits =
            restarts.due.is_some() && (role == Role::Warden || self.server() == Some(worker));
        // One that leaves bans nobody any more.
        let leaves = self.worker_in(Stage::Leaving) == Some(worker);
        if !waits && !leaves && !self.has(role, worker) {
            self.start_helper(role, worker, log);
        }
    }

    /// One has ended, or could not be started, for the reason `why`: another one
    /// follows.
    fn lost(&mut self, role: Role, why: &str, log: &mut Direct) {
        let restarts = match role {
            Role::Worker => &mut self.workers,
            Role::Warden => &mut self.wardens,
            Role::Gate => &mut self.gates,
        };
        if let Some(pause) = restarts.ended(Instant::now()) {
            let event = Event::new(role.name()).field("pause", format!("{}s", pause.as_secs()));
            log.write(Level::Error, &event.text(why));
        }
    }

    /// Does what a child has asked for.
    fn hear(&mut self, pid: Pid, log: &mut Direct) {
        for _ in 0..WORDS {
            let Some(child) = self.child(pid) else { return };
            let (role, stage) = (child.role, child.stage());
            let Some(link) = &child.link else { return };
            let word = match link.hear() {
                Ok(Some((word, _))) => word,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It has ended, which its pidfd tells.
                Ok(None) => {
                    child.link = None;
                    return;
                }
                Err(error) => {
                    child.link = None;
                    let event = Event::new(role.name());
                    let event = event.text(format!("it says what is no word ({error})"));
                    log.write(Level::Error, &event);
                    // It has ended already where this fails.
                    let _ = child.kill();
                    return;
                }
            };
            child.pulse.beat(Instant::now());
            match (role, word) {
                (Role::Worker, Word::Warden) => self.want(Role::Warden, pid, log),
                (Role::Worker, Word::Gate) => self.want(Role::Gate, pid, log),
                (Role::Worker, Word::Reload) if stage == Stage::Serving => self.reload(pid, log),
                (Role::Worker, Word::Ready) if stage == Stage::Coming => self.hand_over(pid),
                (Role::Worker, Word::Serving) if stage == Stage::Serving && !self.is_outdated => {
                    self.renew(log);
                }
                // They live, or say what is not theirs to say.
                _ => {}
            }
        }
    }

    /// Starts a worker that is to take the place of `pid`.
    fn reload(&mut self, pid: Pid, log: &mut Direct) {
        let leaving = |child: &&Child| child.stage() == Stage::Leaving;
        let why = if self.worker_in(Stage::Coming).is_some() {
            "another one is on its way already".to_owned()
        } else if self.children.iter().filter(leaving).count() >= LEAVING {
            "too many have not ended yet that were replaced".to_owned()
        } else {
            match self.start_worker(Stage::Coming) {
                Ok(()) => return,
                Err(error) => format!("cannot start {}: {error}", self.program.display()),
            }
        };
        self.refuse(pid, &why, log);
    }

    /// Tells the worker that serves that no other one takes its place.
    fn refuse(&self, pid: Pid, why: &str, log: &mut Direct) {
        let text = format!("no new worker: {why}; the one before serves on");
        log.write(Level::Error, &Event::new("noreload").text(text));
        self.say(pid, Word::Failed, None);
    }

    /// Has the worker that serves give its place to `next`.
    fn hand_over(&mut self, next: Pid) {
        let now = Instant::now();
        let mut baton = None;
        if let Some(before) = self.server() {
            // First the one before: without a next one there, it serves on.
            if let Ok((first, second)) = link::pair(SockFlag::SOCK_NONBLOCK)
                && self.say(before, Word::Retire, Some(first.as_fd()))
            {
                baton = Some(second);
            } else if let Some(child) = self.child(before) {
                // It cannot be told: it must not serve beside the next.
                let _ = child.kill();
            }
            if let Some(child) = self.child(before) {
                child.enter(Stage::Leaving, now);
            }
        }
        self.say(next, Word::Take, baton.as_ref().map(AsFd::as_fd));
        if let Some(child) = self.child(next) {
            child.enter(Stage::Serving, now);
        }
        // The warden and the gate of the one before go with it.
        self.wardens.due = None;
        self.gates.due = None;
        self.workers.due = None;
        // The next one was started from the installed program, and speaks as we do.
        self.is_outdated = false;
    }

    /// Collects a child that has ended, and sees to its successor.
    fn bury(&mut self, pid: Pid, log: &mut Direct) {
        let Some(place) = self.children.iter().position(|child| child.pid() == pid) else {
            return;
        };
        let (how, code) = match self.children[place].collect() {
            Ok(Some(status)) => (format!("it has ended ({status})"), status.code()),
            Ok(None) => return,
            Err(error) => (format!("it is lost ({error})"), None),
        };
        let child = self.children.swap_remove(place);
        let why = format!("{how}, another is started");
        match (child.role, child.stage()) {
            (Role::Worker, Stage::Serving) => {
                if code == Some(EX_USAGE) && !self.is_outdated {
                    self.is_outdated = true;
                    let text = format!(
                        "{} is of a version that needs a stop and a start (filterctl stop rblfilter; sleep 1; filterctl start rblfilter); until then the one before goes on",
                        self.program.display()
                    );
                    log.write(Level::Error, &Event::new("outdated").text(text));
                }
                self.replace(&why, log);
            }
            (Role::Worker, Stage::Coming) => {
                if let Some(server) = self.server() {
                    self.refuse(server, &how, log);
                }
            }
            // The one after it sees the baton's end.
            (Role::Worker, Stage::Leaving) => {}
            (role, _) => self.helper_ended(role, child.of, &why, log),
        }
    }

    /// The worker that served is no more.
    fn replace(&mut self, why: &str, log: &mut Direct) {
        // Warden and gate end with it, and the next one has others.
        self.wardens.due = None;
        self.gates.due = None;
        self.lost(Role::Worker, why, log);
        if let Some(next) = self.worker_in(Stage::Coming) {
            self.hand_over(next);
        }
    }

    /// The warden or the gate of this worker is no more, which counts where the
    /// worker may have another.
    fn helper_ended(&mut self, role: Role, of: Option<Pid>, why: &str, log: &mut Direct) {
        let worker = self.children.iter().find(|child| Some(child.pid()) == of);
        let counts = match role {
            Role::Gate => of.is_some() && of == self.server(),
            Role::Warden | Role::Worker => {
                worker.is_some_and(|worker| worker.stage() != Stage::Leaving)
            }
        };
        if counts {
            self.lost(role, why, log);
        }
    }

    /// One that was killed does not end, as it waits for a disk that is dead, say:
    /// it is held for lost.
    fn give_up(&mut self, pid: Pid, now: Instant, log: &mut Direct) {
        let Some(child) = self.child(pid) else { return };
        let (role, stage, of) = (child.role, child.stage(), child.of.take());
        child.enter(Stage::Leaving, now);
        let why = "it was ended, and is still there; another is started";
        match (role, stage) {
            (Role::Worker, Stage::Serving) => self.replace(why, log),
            (Role::Worker, Stage::Coming) => {
                if let Some(server) = self.server() {
                    self.refuse(server, "it was ended, and is still there", log);
                }
            }
            (Role::Worker, Stage::Leaving) => {}
            (role, _) => self.helper_ended(role, of, why, log),
        }
    }

    /// Ends those that are silent, or do not get on. Their ends follow.
    fn end_the_silent(&mut self, now: Instant, log: &mut Direct) {
        let mut undead = Vec::new();
        for child in &mut self.children {
            let Some(why) = child.is_over(now) else {
                continue;
            };
            if child.is_killed() {
                child.spare(now);
                undead.push(child.pid());
                continue;
            }
            log.write(Level::Error, &Event::new(child.role.name()).text(why));
            child.end(now);
        }
        for pid in undead {
            self.give_up(pid, now, log);
        }
    }

    /// When to look next, be it that nothing happens.
    fn next(&self) -> Option<Instant> {
        let due = [self.workers.due, self.wardens.due, self.gates.due];
        let due = due.into_iter().flatten();
        due.chain(self.children.iter().map(Child::until)).min()
    }

    /// Waits for something to do, until `end`.
    fn wait(&self, end: Option<Instant>) -> Woken {
        let timeout = end.map_or(PollTimeout::NONE, |end| {
            let left = end.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.stop.as_fd())];
        // A worker that runs takes what waits there, be it in a moment.
        let alone = self.server().is_none();
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

    /// Takes the socket out of `submit`'s sight, and tells the workers.
    fn end(&self, log: &mut Direct) {
        if let Err(error) = self.socket.unlink() {
            log.write(Level::Error, &Event::new("failed").text(error));
        }
        for child in self
            .children
            .iter()
            .filter(|child| child.role == Role::Worker)
        {
            self.say(child.pid(), Word::Unlinked, None);
        }
        let hangs = self.end_hanging(log);
        if hangs || self.server().is_none() {
            // Nobody else serves those who had found the socket before.
            let end = Instant::now() + BACKLOG_TIME;
            let mut left = BACKLOG;
            while left > 0 && accept_one(&self.socket.listener, end) {
                left -= 1;
            }
        }
    }

    /// Ends the workers that hang, which nobody would do once we are gone; whether the
    /// one that serves was among them.
    fn end_hanging(&self, log: &mut Direct) -> bool {
        let mut served = false;
        for child in &self.children {
            let hangs = child.pulse.silence(Instant::now()) > SILENCE && !child.has_spoken();
            if child.role != Role::Worker || !hangs {
                continue;
            }
            let text = "it has not been heard of at the stop, and is ended";
            log.write(Level::Error, &Event::new(child.role.name()).text(text));
            // It has ended already where this fails.
            let _ = child.kill();
            served |= child.stage() == Stage::Serving;
        }
        served
    }
}
