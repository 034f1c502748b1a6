//! A session and the processes that make it: `couriertcpd → courieresmtpd →
//! submit`, all of Courier's user. On port 465 `couriertls` stands between the
//! first two.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use procfs::process::Stat;

use super::listener::{Listener, Listeners};
use super::process::{Error, Handle, LISTENER, SESSION, SUBMIT};
use super::session::{Environment, Session};

const TLS: &str = "couriertls";

/// The process at the other end of the filter socket.
#[derive(Debug)]
pub struct Peer {
    /// Its number when it connected, `SO_PEERCRED` (unix(7)).
    pub pid: i32,
    /// Its pidfd where the kernel gives one, `SO_PEERPIDFD` (Linux 6.5).
    pub pidfd: Option<OwnedFd>,
}

/// The `submit` of a session.
#[derive(Debug)]
pub struct Submit {
    process: Handle,
    esmtpd: i32,
}

impl Submit {
    /// The `submit` at the other end of the filter socket.
    ///
    /// # Errors
    /// Where the peer is another program, or has ended.
    pub fn of_peer(peer: Peer) -> Result<Self, Error> {
        let process = match peer.pidfd {
            Some(pidfd) => Handle::with_pidfd(peer.pid, pidfd),
            None => Handle::open(peer.pid, SUBMIT)?,
        };
        let stat = process.stat(SUBMIT)?;
        if !process.is_alive() {
            return Err(Error::Gone(SUBMIT));
        }
        if stat.comm == SUBMIT {
            let esmtpd = stat.ppid;
            Ok(Self { process, esmtpd })
        } else {
            Err(Error::NotASession(format!(
                "the peer is {:?}, not {SUBMIT}",
                stat.comm
            )))
        }
    }

    /// The number of its `courieresmtpd`: of the process that had it when this
    /// was looked up, or when [`Submit::confirm`] was called.
    #[must_use]
    pub fn esmtpd(&self) -> i32 {
        self.esmtpd
    }

    /// Looks again whether it lives and has the same parent. If so, a process
    /// that was opened by that number meanwhile is its parent.
    ///
    /// # Errors
    /// Where it does not.
    pub fn confirm(&self) -> Result<(), Error> {
        let parent = self.process.stat(SUBMIT)?.ppid;
        if parent == self.esmtpd && self.process.is_alive() {
            Ok(())
        } else {
            Err(Error::Gone(SUBMIT))
        }
    }
}

/// A session that was identified, with the processes that make it.
#[derive(Debug)]
pub struct Identified {
    /// Who is connected.
    pub session: Session,
    esmtpd: Arc<Handle>,
    listener: Arc<Listener>,
    image: Image,
}

/// Where the kernel put a program's code, stack and environment. Each exec puts
/// them elsewhere, so while they are the same the program is, too, and its
/// environment.
type Image = (u64, u64, Option<u64>);

impl Identified {
    /// The session of process `pid`, where that is a `courieresmtpd` of a
    /// `couriertcpd`. Just after its exec the environment is not there yet:
    /// [`Error::is_early`].
    ///
    /// # Errors
    /// Where it is another process, or ended meanwhile.
    pub fn of_session(
        pid: i32,
        listeners: &Listeners,
        block_variables: &[String],
    ) -> Result<Self, Error> {
        let esmtpd = Handle::open(pid, SESSION)?;
        let stat = stat_of(&esmtpd)?;
        let listener = check_lineage(&esmtpd, &stat, listeners)?;
        let session = read_session(&esmtpd, block_variables)?;
        Ok(Self {
            session,
            esmtpd: Arc::new(esmtpd),
            listener,
            image: image(&stat),
        })
    }

    /// Looks again whether this is, at this moment, the session that was
    /// judged: `courieresmtpd`, child of the same `couriertcpd`, for the same
    /// client.
    ///
    /// # Errors
    /// Where it has ended or is another.
    pub fn verify(&self, listeners: &Listeners) -> Result<(), Error> {
        let stat = stat_of(&self.esmtpd)?;
        let unchanged = image(&stat) == self.image && self.image.2.is_some_and(|at| at > 0);
        if unchanged && stat.ppid == self.listener.pid() && self.listener.is_alive() {
            return if self.esmtpd.is_alive() {
                Ok(())
            } else {
                Err(Error::Gone(SESSION))
            };
        }
        // It was not wholly there when it was looked at first; or it is behind
        // couriertls; or it is another program.
        let listener = check_lineage(&self.esmtpd, &stat, listeners)?;
        let now = read_session(&self.esmtpd, &[])?;
        let same = listener.pid() == self.listener.pid()
            && (now.client, now.client_port, now.local_port)
                == (
                    self.session.client,
                    self.session.client_port,
                    self.session.local_port,
                );
        if !same {
            return Err(Error::NotASession(format!(
                "process {} serves another client now",
                self.esmtpd.pid()
            )));
        }
        Ok(())
    }

    /// `courieresmtpd`.
    #[must_use]
    pub fn esmtpd(&self) -> &Arc<Handle> {
        &self.esmtpd
    }

    /// `couriertcpd`.
    #[must_use]
    pub fn listener(&self) -> &Arc<Listener> {
        &self.listener
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
                let stat = child.stat(SUBMIT).ok()?;
                let ours = stat.comm == SUBMIT && stat.ppid == self.esmtpd.pid();
                (ours && child.is_alive()).then(|| Arc::new(child))
            })
    }

    /// Whether the client has logged in since the session was identified, as
    /// the arguments of the `submit` that serves it now tell (it is started
    /// anew after AUTH).
    #[must_use]
    pub fn has_logged_in(&self) -> bool {
        let arguments = self
            .submit()
            .and_then(|submit| submit.read("cmdline", SUBMIT).ok());
        arguments.is_some_and(|arguments| {
            let tells = |word: &[u8]| word == b"-src=authsmtp" || word.starts_with(b"-auth=");
            arguments.split(|byte| *byte == 0).any(tells)
        })
    }

    /// Whether at least one in `share` of the slots is in use. True, too, where
    /// that cannot be told.
    #[must_use]
    pub fn slots_are_scarce(&self, share: usize) -> bool {
        self.session
            .slots
            .is_none_or(|slots| self.listener.slots_used() * share >= slots)
    }
}

fn image(stat: &Stat) -> Image {
    (stat.startcode, stat.startstack, stat.env_start)
}

/// A `courieresmtpd`'s `/proc/PID/stat`.
fn stat_of(esmtpd: &Handle) -> Result<Stat, Error> {
    let stat = esmtpd.stat(SESSION)?;
    match stat.comm.as_str() {
        SESSION => Ok(stat),
        LISTENER => Err(Error::Early),
        name => Err(Error::NotASession(format!(
            "the sender is {name:?}, not {SESSION}"
        ))),
    }
}

/// Checks that `esmtpd`, of which `stat` was just read, runs `courieresmtpd` and
/// is the child of a `couriertcpd`; returns that one. Whoever calls it reads more,
/// and looks then whether the process lives.
fn check_lineage(
    esmtpd: &Handle,
    stat: &Stat,
    listeners: &Listeners,
) -> Result<Arc<Listener>, Error> {
    let exe = esmtpd.exe(SESSION)?;
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
    match listeners.get(stat.ppid) {
        Ok(listener) => Ok(listener),
        Err(error) => {
            // On port 465 TLS comes first: couriertls is what couriertcpd started.
            let parent = Handle::open(stat.ppid, TLS)?.stat(TLS)?;
            if parent.comm != TLS {
                return Err(error);
            }
            listeners.get(parent.ppid)
        }
    }
}

fn read_session(esmtpd: &Handle, block_variables: &[String]) -> Result<Session, Error> {
    let bytes = esmtpd.read("environ", SESSION)?;
    let session = Session::from_environment(&Environment::parse(&bytes), block_variables)
        .map_err(Error::Environment)?;
    // It lives, so what was read is its own.
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
        let peer = Peer {
            pid: own,
            pidfd: None,
        };
        let error = Submit::of_peer(peer).unwrap_err();
        assert!(matches!(error, Error::NotASession(_)), "{error}");
    }
}
