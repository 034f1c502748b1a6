//! A process of Courier's, and how to be sure that it still is that one.
//!
//! A handle here is a pidfd: once the process has ended, it stays ended,
//! whoever gets its number next. What is read from `/proc` counts only while
//! the pidfd says that the process still lives.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::{error, fmt, io};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procfs::process::Process;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::session;

/// The program that speaks SMTP with a client.
pub(super) const SESSION: &str = "courieresmtpd";
/// The program that listens.
pub(super) const LISTENER: &str = "couriertcpd";
/// The program that takes a message in.
pub(super) const SUBMIT: &str = "submit";

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
    pub(super) fn open(pid: i32, what: &'static str) -> Result<Self, Error> {
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
    pub(super) fn with_pidfd(pid: i32, pidfd: OwnedFd, what: &'static str) -> Result<Self, Error> {
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

    /// Its folder in `/proc`.
    pub(super) fn proc(&self) -> &Process {
        &self.proc
    }

    /// Its name and its parent's number.
    pub(super) fn name_and_parent(&self, what: &'static str) -> Result<(String, i32), Error> {
        let stat = self.proc.stat().map_err(|error| proc_error(what, error))?;
        Ok((stat.comm, stat.ppid))
    }

    /// The numbers of its children.
    pub(super) fn children(&self, what: &'static str) -> Result<Vec<i32>, Error> {
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

pub(super) fn proc_error(what: &'static str, error: procfs::ProcError) -> Error {
    match error {
        procfs::ProcError::NotFound(_) => Error::Gone(what),
        error => Error::Proc(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
