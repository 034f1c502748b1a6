//! A process of Courier's, and how to be sure that it still is that one.
//!
//! A handle here is a pidfd: once the process has ended, it stays ended,
//! whoever gets its number next. What is read from `/proc` counts only while
//! the pidfd says that the process still lives.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::{error, fmt, fs, io};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procfs::FromRead;
use procfs::process::Stat;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::paths::Paths;
use super::session;

/// The program that speaks SMTP with a client.
pub(super) const SESSION: &str = "courieresmtpd";
/// The program that listens.
pub(super) const LISTENER: &str = "couriertcpd";
/// The program that takes a message in.
pub(super) const SUBMIT: &str = "submit";

/// A process, held by its pidfd.
#[derive(Debug)]
pub struct Handle {
    pid: i32,
    pidfd: OwnedFd,
}

/// Why a session could not be told.
#[derive(Debug)]
pub enum Error {
    /// A process ended before it was understood.
    Gone(&'static str),
    /// The peer is no `submit` of a `courieresmtpd` of `couriertcpd`.
    NotASession(String),
    /// `/proc` could not be read.
    Proc(&'static str, io::Error),
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
    pub(crate) fn open(pid: i32, what: &'static str) -> Result<Self, Error> {
        let number = Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .ok_or(Error::Gone(what))?;
        let pidfd = match pidfd_open(number, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Err(Error::Gone(what)),
            Err(error) => return Err(Error::PidFd(error.into())),
        };
        Ok(Self { pid, pidfd })
    }

    /// Takes hold of the process of `pidfd`, whose number is, or was, `pid`.
    pub(super) fn with_pidfd(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd }
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

    /// Its `/proc/PID/stat` (proc_pid_stat(5)). Like all that is read here, it
    /// is the process's own only if that lives afterwards.
    pub(super) fn stat(&self, what: &'static str) -> Result<Stat, Error> {
        let bytes = self.read("stat", what)?;
        Stat::from_read(bytes.as_slice())
            .map_err(|error| Error::Proc(what, io::Error::other(error)))
    }

    /// The whole of a file in its `/proc` folder.
    pub(super) fn read(&self, file: &str, what: &'static str) -> Result<Vec<u8>, Error> {
        read_proc(self.pid, file).map_err(|error| proc_error(what, error))
    }

    /// The file that it runs.
    pub(super) fn exe(&self, what: &'static str) -> Result<PathBuf, Error> {
        fs::read_link(format!("/proc/{}/exe", self.pid)).map_err(|error| proc_error(what, error))
    }

    /// The numbers of its children.
    pub(super) fn children(&self, what: &'static str) -> Result<Vec<i32>, Error> {
        let bytes = self.read(&format!("task/{}/children", self.pid), what)?;
        Ok(numbers(&bytes).collect())
    }

    /// Whether it is in this process's own pid namespace, and not in one below
    /// it: a container's Courier is not ours, though its processes are seen.
    pub(super) fn is_in_own_namespace(&self, what: &'static str) -> Result<bool, Error> {
        let status = self.read("status", what)?;
        let status = String::from_utf8_lossy(&status);
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        Ok(pids.is_none_or(|pids| pids.split_ascii_whitespace().count() <= 1))
    }
}

/// The numbers in the text of a `children` file (proc_tid_children(5)).
pub fn numbers(text: &[u8]) -> impl Iterator<Item = i32> + '_ {
    text.split(u8::is_ascii_whitespace)
        .filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}

/// The name of process `pid`, at a glance; empty where there is none.
#[must_use]
pub fn comm(pid: i32) -> String {
    let mut name = read_proc(pid, "comm").unwrap_or_default();
    name.truncate(name.trim_ascii_end().len());
    String::from_utf8_lossy(&name).into_owned()
}

/// The process of courierfilter, where one runs.
#[must_use]
pub fn courierfilter(paths: &Paths) -> Option<i32> {
    let pid = fs::read_to_string(paths.piddir.join("courierfilter.pid")).ok()?;
    let pid = pid.trim().parse().ok()?;
    (comm(pid) == "courierfilter").then_some(pid)
}

/// The whole of `/proc/PID/FILE`, in as few system calls as can be: these are
/// read for each session.
pub(super) fn read_proc(pid: i32, file: &str) -> io::Result<Vec<u8>> {
    /// Longer than Courier's environments.
    const ENOUGH: usize = 8 * 1024;
    let mut file = File::open(format!("/proc/{pid}/{file}"))?;
    let mut bytes = vec![0; ENOUGH];
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..]) {
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        // All that is read here comes at once, as far as there is room.
        if length < bytes.len() {
            bytes.truncate(length);
            return Ok(bytes);
        }
        bytes.resize(bytes.len() * 2, 0);
    }
}

impl AsFd for Handle {
    /// The pidfd: readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn proc_error(what: &'static str, error: io::Error) -> Error {
    // A file of one that ended since it was opened reads as "no such process".
    match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => Error::Gone(what),
        _ => Error::Proc(what, error),
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
        assert!(matches!(handle.stat(SUBMIT), Err(Error::Gone(_))));
    }

    #[test]
    fn what_proc_tells_of_a_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        let handle = Handle::open(own, SUBMIT).unwrap();
        let stat = handle.stat(SUBMIT).unwrap();
        assert_eq!((stat.pid, stat.comm), (own, comm(own)));
        assert_eq!(
            handle.exe(SUBMIT).unwrap(),
            std::env::current_exe().unwrap()
        );
        assert!(handle.is_in_own_namespace(SUBMIT).unwrap());
        assert_eq!(comm(0), "");
    }

    #[test]
    fn the_numbers_of_a_children_file() {
        assert_eq!(numbers(b"12 345 6 ").collect::<Vec<_>>(), [12, 345, 6]);
        assert_eq!(numbers(b"").count(), 0);
        assert_eq!(numbers(b"x 7\xff 8\n").collect::<Vec<_>>(), [8]);
    }
}
