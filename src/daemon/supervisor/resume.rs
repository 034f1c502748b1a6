//! How one supervisor hands all that it holds to the next, which is the same
//! process with the installed program (execve(2)): its arguments tell which
//! descriptor is what. The version of that form is the words' ([`worker::VERSION`]).

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::Instant;

use log::Level;

use super::super::children::Child;
use super::super::restarts::Restarts;
use super::super::{OWN_PROGRAM, filter_name, worker};
use super::{Supervisor, failed};
use crate::courier::filter_socket::FilterSocket;
use crate::courier::paths::Paths;
use crate::log::{Direct, Event};
use crate::place::Place;
use crate::sys::{descriptors, forbid_tracing, replace_with};

/// The first argument of a supervisor that goes on where another left off.
pub const ROLE: &str = "resumed-supervisor";

/// Goes on where the supervisor left off that this process was. `arguments` are
/// those after the role, as `Supervisor::to_arguments` wrote them.
#[must_use]
pub fn resume(arguments: &[OsString]) -> ExitCode {
    forbid_tracing();
    let name = filter_name();
    let mut log = Direct::new(&name);
    match Supervisor::from_arguments(name, arguments) {
        Some(mut supervisor) => {
            let event = Event::new("upgraded").field("version", env!("CARGO_PKG_VERSION"));
            log.write(Level::Info, &event);
            supervisor.run(&mut log);
            ExitCode::SUCCESS
        }
        None => failed(
            &mut log,
            "cannot go on where the supervisor before left off",
        ),
    }
}

impl Supervisor {
    /// What the next supervisor needs to know: the words' version, where the
    /// socket is, its descriptor, how long each role waits, and a word for each child.
    fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![ROLE.into(), worker::VERSION.into()];
        arguments.extend(self.socket.place().to_arguments());
        arguments.push(self.socket.listener.as_raw_fd().to_string().into());
        let now = Instant::now();
        let roles = [&self.workers, &self.wardens, &self.gates];
        arguments.extend(roles.map(|restarts| restarts.to_words(now).into()));
        arguments.extend(self.children.iter().map(|child| child.to_words().into()));
        arguments
    }

    fn from_arguments(name: String, arguments: &[OsString]) -> Option<Self> {
        let [
            version,
            path,
            of,
            listener,
            workers,
            wardens,
            gates,
            children @ ..,
        ] = arguments
        else {
            return None;
        };
        if version != worker::VERSION {
            return None;
        }
        let children: Vec<&str> = children
            .iter()
            .map(|words| words.to_str())
            .collect::<Option<_>>()?;
        let mut numbers: Vec<RawFd> = vec![listener.to_str()?.parse().ok()?];
        for words in &children {
            numbers.extend(Child::numbers(words)?);
        }
        if numbers.iter().any(|number| *number < 3) {
            return None;
        }
        let mut owned = descriptors::handed(&numbers)?.into_iter();
        let (stop, listener) = (owned.next()?, UnixListener::from(owned.next()?));
        let socket = FilterSocket::handed(listener, Place::from_arguments(path, of)?);
        let mut next = Self::new(name, &Paths::from_env(), socket, stop, None).ok()?;
        for words in &children {
            let child = Child::from_words(words, &mut owned)?;
            next.children.push(child);
        }
        let now = Instant::now();
        let of = |words: &OsString| Restarts::from_words(words.to_str()?, now);
        (next.workers, next.wardens, next.gates) = (of(workers)?, of(wardens)?, of(gates)?);
        if next.server().is_none() {
            next.workers.due.get_or_insert(now);
        }
        Some(next)
    }

    /// Goes on as the installed program, where this process runs another.
    pub(super) fn renew(&mut self, log: &mut Direct) {
        let file = |path: &str| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
        let program = self.program.to_string_lossy().into_owned();
        let (Ok(running), Ok(installed)) = (file(OWN_PROGRAM), file(&program)) else {
            return;
        };
        if running == installed {
            return;
        }
        let children = self.children.iter().flat_map(|child| {
            let link = child.link.as_ref().map(AsFd::as_fd);
            [Some(child.pidfd().as_fd()), link].into_iter().flatten()
        });
        let mut kept = vec![self.stop.as_fd(), self.socket.listener.as_fd()];
        kept.extend(children);
        let error = replace_with(&self.program, &self.name, &kept, &self.to_arguments());
        let text = format!("cannot go on as {program}: {error}; the supervisor stays as it is");
        log.write(Level::Error, &Event::new("noreload").text(text));
    }
}
