//! A session's processes: which `courieresmtpd` a message comes from, and how
//! to be sure that it still is that one.
//!
//! `couriertcpd → courieresmtpd → submit`, all of Courier's user. A handle here
//! is a pidfd: once the process has ended, it stays ended, whoever gets its
//! number next. What is read from `/proc` counts only while the pidfd says
//! that the process still lives.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::{error, fmt, io};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procfs::process::Process;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::session::{self, Session};

const SESSION: &str = "courieresmtpd";
const LISTENER: &str = "couriertcpd";
const SUBMIT: &str = "submit";
const LOGGER: &str = "courierlogger";
const TLS: &str = "couriertls";

/// A process, held by its pidfd and its `/proc` folder.
#[derive(Debug)]
pub struct Handle {
    pid: i32,
    pidfd: OwnedFd,
    proc: Process,
}

/// Why a session could not be told.
#[derive(Debug)]
pub enum Error {
    /// A process ended before it was understood.
    Gone(&'static str),
    /// The peer is no `submit` of a `courieresmtpd` of `couriertcpd`.
    NotASession(String),
    /// `/proc` could not be read.
    Proc(&'static str, procfs::ProcError),
    /// The environment does not say who is connected.
    Environment(session::Error),
    /// A child of couriertcpd that is not a session yet.
    Early,
    /// No pidfd could be had.
    PidFd(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(what) => write!(f, "{what} has ended"),
            Self::NotASession(what) => f.write_str(what),
            Self::Proc(what, error) => write!(f, "cannot read /proc of {what}: {error}"),
            Self::Environment(error) => write!(f, "{SESSION}'s environment: {error}"),
            Self::Early => f.write_str("it has not become a session yet"),
            Self::PidFd(error) => write!(f, "cannot open a pidfd: {error}"),
        }
    }
}

// The causes' words are part of the text, so there is no source.
impl error::Error for Error {}

impl Error {
    /// Whether the process may yet become a session: it has not called exec,
    /// or its environment is not filled in.
    #[must_use]
    pub fn is_early(&self) -> bool {
        matches!(
            self,
            Self::Environment(session::Error::Missing(_)) | Self::Early
        )
    }
}

impl Handle {
    /// Takes hold of process `pid`, whichever it is now.
    fn open(pid: i32, what: &'static str) -> Result<Self, Error> {
        let number = Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .ok_or(Error::Gone(what))?;
        let pidfd = match pidfd_open(number, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Err(Error::Gone(what)),
            Err(error) => return Err(Error::PidFd(error.into())),
        };
        Self::with_pidfd(pid, pidfd, what)
    }

    /// Takes hold of the process of `pidfd`, whose number is, or was, `pid`.
    fn with_pidfd(pid: i32, pidfd: OwnedFd, what: &'static str) -> Result<Self, Error> {
        let proc = Process::new(pid).map_err(|error| proc_error(what, error))?;
        let handle = Self { pid, pidfd, proc };
        // It lives, so the number was not handed on between the two.
        if handle.is_alive() {
            Ok(handle)
        } else {
            Err(Error::Gone(what))
        }
    }

    /// Whether the process still lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends `signal` to this process alone; `Ok(false)` where it has ended.
    ///
    /// # Errors
    /// Where the kernel does not let us.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Its name and its parent's number.
    fn name_and_parent(&self, what: &'static str) -> Result<(String, i32), Error> {
        let stat = self.proc.stat().map_err(|error| proc_error(what, error))?;
        Ok((stat.comm, stat.ppid))
    }

    /// The numbers of its children.
    fn children(&self, what: &'static str) -> Result<Vec<i32>, Error> {
        let failed = |error| proc_error(what, error);
        let task = self.proc.task_main_thread().map_err(failed)?;
        let children = task.children().map_err(failed)?;
        Ok(children
            .into_iter()
            .filter_map(|pid| i32::try_from(pid).ok())
            .collect())
    }
}

impl AsFd for Handle {
    /// The pidfd: readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn proc_error(what: &'static str, error: procfs::ProcError) -> Error {
    match error {
        procfs::ProcError::NotFound(_) => Error::Gone(what),
        error => Error::Proc(what, error),
    }
}

/// A running `couriertcpd`.
#[derive(Debug)]
pub struct Listener {
    /// `/proc/PID/task/PID/children`, held open: it is read a hundred times a
    /// second, and reads of one that has ended fail.
    children: File,
}

impl Listener {
    /// The `couriertcpd`s whose numbers stand in the files `*.pid` of `piddir`.
    #[must_use]
    pub fn all(piddir: &Path) -> Vec<Self> {
        let entries = fs::read_dir(piddir).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "pid"))
            .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
            .filter_map(Self::open)
            .collect()
    }

    fn open(pid: i32) -> Option<Self> {
        let handle = Handle::open(pid, LISTENER).ok()?;
        let (name, _) = handle.name_and_parent(LISTENER).ok()?;
        let children = File::open(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        // It lives, so the file is its own.
        (name == LISTENER && handle.is_alive()).then_some(Self { children })
    }

    /// The numbers of its children: its sessions, and its logger. None, where
    /// it has ended.
    #[must_use]
    pub fn children(&self) -> Vec<i32> {
        let mut text = Vec::with_capacity(4096);
        let mut bytes = [0; 4096];
        while let Ok(length) = self.children.read_at(&mut bytes, text.len() as u64) {
            if length == 0 {
                break;
            }
            text.extend_from_slice(&bytes[..length]);
        }
        let text = String::from_utf8_lossy(&text);
        text.split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect()
    }
}

/// The process at the other end of the filter socket.
#[derive(Debug)]
pub struct Peer {
    /// Its number when it connected, `SO_PEERCRED` (unix(7)).
    pub pid: i32,
    /// Its pidfd where the kernel gives one, `SO_PEERPIDFD` (Linux 6.5).
    pub pidfd: Option<OwnedFd>,
}

/// A session that was identified, with the processes that make it.
#[derive(Debug)]
pub struct Identified {
    /// Who is connected.
    pub session: Session,
    esmtpd: Arc<Handle>,
    listener: i32,
}

impl Identified {
    /// The session whose `submit` is process `peer`, by its parent
    /// `courieresmtpd`, by its parent `couriertcpd`.
    ///
    /// # Errors
    /// Where one of the three is not what it should be, or ended meanwhile.
    pub fn of_submit(peer: Peer, block_variables: &[String]) -> Result<Self, Error> {
        let submit = match peer.pidfd {
            Some(pidfd) => Handle::with_pidfd(peer.pid, pidfd, SUBMIT)?,
            None => Handle::open(peer.pid, SUBMIT)?,
        };
        let (name, parent) = submit.name_and_parent(SUBMIT)?;
        if name != SUBMIT {
            return Err(Error::NotASession(format!(
                "the peer is {name:?}, not {SUBMIT}"
            )));
        }
        let esmtpd = Handle::open(parent, SESSION)?;
        let identified = Self::of_esmtpd(esmtpd, block_variables)?;
        // submit lives and still has that parent, so the parent we opened is it.
        let (_, parent_now) = submit.name_and_parent(SUBMIT)?;
        if parent_now == parent && submit.is_alive() {
            Ok(identified)
        } else {
            Err(Error::Gone(SUBMIT))
        }
    }

    /// The session of process `pid`, where that is a `courieresmtpd` of a
    /// `couriertcpd`. Just after its exec the environment is not there yet:
    /// [`Error::is_early`].
    ///
    /// # Errors
    /// Where it is another process, or ended meanwhile.
    pub fn of_session(pid: i32, block_variables: &[String]) -> Result<Self, Error> {
        Self::of_esmtpd(Handle::open(pid, SESSION)?, block_variables)
    }

    fn of_esmtpd(esmtpd: Handle, block_variables: &[String]) -> Result<Self, Error> {
        let listener = check_lineage(&esmtpd)?;
        let session = read_session(&esmtpd, block_variables)?;
        Ok(Self {
            session,
            esmtpd: Arc::new(esmtpd),
            listener,
        })
    }

    /// Looks again whether this is, at this moment, the session that was
    /// judged: `courieresmtpd`, child of the same `couriertcpd`, for the same
    /// client.
    ///
    /// # Errors
    /// Where it has ended or is another.
    pub fn verify(&self) -> Result<(), Error> {
        let listener = check_lineage(&self.esmtpd)?;
        let now = read_session(&self.esmtpd, &[])?;
        let same = listener == self.listener
            && (now.client, now.client_port, now.local_port)
                == (
                    self.session.client,
                    self.session.client_port,
                    self.session.local_port,
                );
        if !same {
            return Err(Error::NotASession(format!(
                "process {} serves another client now",
                self.esmtpd.pid
            )));
        }
        Ok(())
    }

    /// `courieresmtpd`.
    #[must_use]
    pub fn esmtpd(&self) -> &Arc<Handle> {
        &self.esmtpd
    }

    /// The `submit` that `courieresmtpd` has at the moment, if any.
    #[must_use]
    pub fn submit(&self) -> Option<Arc<Handle>> {
        self.esmtpd
            .children(SESSION)
            .ok()?
            .into_iter()
            .find_map(|pid| {
                let child = Handle::open(pid, SUBMIT).ok()?;
                let (name, parent) = child.name_and_parent(SUBMIT).ok()?;
                (name == SUBMIT && parent == self.esmtpd.pid && child.is_alive())
                    .then(|| Arc::new(child))
            })
    }

    /// Whether the client has logged in since the session was identified, as
    /// the arguments of the `submit` that serves it now tell (it is started
    /// anew after AUTH).
    #[must_use]
    pub fn has_logged_in(&self) -> bool {
        let arguments = self.submit().and_then(|submit| submit.proc.cmdline().ok());
        arguments.is_some_and(|arguments| {
            let tells = |word: &String| word == "-src=authsmtp" || word.starts_with("-auth=");
            arguments.iter().any(tells)
        })
    }

    /// Whether at least one in `share` of the slots is in use: each of
    /// couriertcpd's children holds one, but for the `courierlogger` that it
    /// started beside them. True, too, where that cannot be told.
    #[must_use]
    pub fn slots_are_scarce(&self, share: usize) -> bool {
        let slots = self
            .session
            .slots
            .and_then(|slots| usize::try_from(slots).ok());
        let children = Handle::open(self.listener, LISTENER).and_then(|it| it.children(LISTENER));
        let (Some(slots), Ok(children)) = (slots, children) else {
            return true;
        };
        let scarce = |used: usize| used * share >= slots;
        // Which child is the logger matters only where one more or less does.
        if scarce(children.len()) != scarce(children.len().saturating_sub(1)) {
            let is_logger = |pid: &i32| {
                let stat = Process::new(*pid).and_then(|process| process.stat());
                stat.is_ok_and(|stat| stat.comm == LOGGER)
            };
            return scarce(children.iter().filter(|pid| !is_logger(pid)).count());
        }
        scarce(children.len())
    }
}

/// Checks that `esmtpd` is a `courieresmtpd`, child of a `couriertcpd`;
/// returns that one's number.
fn check_lineage(esmtpd: &Handle) -> Result<i32, Error> {
    let (name, parent) = esmtpd.name_and_parent(SESSION)?;
    if name == LISTENER {
        return Err(Error::Early);
    }
    if name != SESSION {
        return Err(Error::NotASession(format!(
            "the sender is {name:?}, not {SESSION}"
        )));
    }
    let exe = esmtpd
        .proc
        .exe()
        .map_err(|error| proc_error(SESSION, error))?;
    // A program that was upgraded under a running session reads "… (deleted)".
    let file = exe
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if file.trim_end_matches(" (deleted)") != SESSION {
        return Err(Error::NotASession(format!(
            "the sender runs {}, not {SESSION}",
            exe.display()
        )));
    }
    let (mut name, grandparent) = Handle::open(parent, LISTENER)?.name_and_parent(LISTENER)?;
    let mut listener = parent;
    // On port 465 TLS comes first: couriertls is what couriertcpd started.
    if name == TLS {
        listener = grandparent;
        name = Handle::open(listener, LISTENER)?
            .name_and_parent(LISTENER)?
            .0;
    }
    if name != LISTENER {
        return Err(Error::NotASession(format!(
            "{SESSION}'s parent is {name:?}, not {LISTENER}"
        )));
    }
    if esmtpd.is_alive() {
        Ok(listener)
    } else {
        Err(Error::Gone(SESSION))
    }
}

fn read_session(esmtpd: &Handle, block_variables: &[String]) -> Result<Session, Error> {
    let environment: HashMap<String, String> = esmtpd
        .proc
        .environ()
        .map_err(|error| proc_error(SESSION, error))?
        .into_iter()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    let session =
        Session::from_environment(&environment, block_variables).map_err(Error::Environment)?;
    if esmtpd.is_alive() {
        Ok(session)
    } else {
        Err(Error::Gone(SESSION))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_no_submit_is_no_session() {
        let own = i32::try_from(std::process::id()).unwrap();
        let error = Identified::of_submit(
            Peer {
                pid: own,
                pidfd: None,
            },
            &[],
        )
        .unwrap_err();
        assert!(matches!(error, Error::NotASession(_)), "{error}");
    }

    #[test]
    fn a_process_that_has_ended_is_gone_and_gets_no_signal() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let handle = Handle::open(pid, SUBMIT).unwrap();
        assert!(handle.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!handle.is_alive());
        assert!(!handle.signal(Signal::TERM).unwrap());
        assert!(matches!(Handle::open(pid, SUBMIT), Err(Error::Gone(_))));
    }
}
