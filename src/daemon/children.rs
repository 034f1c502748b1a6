//! The supervisor's children: what each is, how it is known, and how one
//! supervisor hands them to the next.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{self, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use rblfilter_warden::GATE_ROLE;

use super::link::Link;
use super::pulse::Pulse;
use super::{handover, service};
use crate::enforce::kill::TERM_PATIENCE;
use crate::sys::set_apart;

/// How long a child may take to its first word, where it may be silent for less
/// later.
const STARTS: Duration = Duration::from_secs(5);
/// How long a worker may take to leave: to give all up (`handover.rs`), to hear that
/// the next one serves, to answer what is open, and to see to it that whom it ended
/// is gone.
const LEAVING: Duration = handover::RELEASE
    .saturating_add(handover::PATIENCE)
    .saturating_add(service::LONGEST_DRAIN)
    .saturating_add(TERM_PATIENCE);
/// How long one that is killed may take to end, before it is held for lost.
const DEATH: Duration = Duration::from_secs(1);

/// What a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves the filter socket.
    Worker,
    /// It changes the kernel's sets for one worker.
    Warden,
    /// It holds packets while one worker judges them.
    Gate,
}

impl Role {
    /// What it is called in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Warden => "warden",
            Self::Gate => "gate",
        }
    }

    /// How long it may be silent; the first two say a word every second, the gate
    /// ten.
    fn patience(self) -> Duration {
        match self {
            // It takes in a million bans at its start.
            Self::Worker => Duration::from_secs(10),
            // It reads a set of a million for a second or two, on a busy machine for
            // ten times that.
            Self::Warden => Duration::from_secs(25),
            // While it is stopped, no new client gets in.
            Self::Gate => Duration::from_millis(500),
        }
    }
}

/// What a worker is about to do. (A warden serves from its start.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It was started beside another, and makes ready.
    Coming,
    /// It serves, or does once the one before it has given all up.
    Serving,
    /// It answers what is open, and ends.
    Leaving,
}

impl Stage {
    /// How long it may last.
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Coming => Some(Duration::from_secs(20)),
            Self::Serving => None,
            Self::Leaving => Some(LEAVING),
        }
    }
}

/// A running child, or one that has ended and was not collected yet.
#[derive(Debug)]
pub struct Child {
    /// What it is for.
    pub role: Role,
    pid: Pid,
    pidfd: OwnedFd,
    /// The way to it and back, until its other end is closed.
    pub link: Option<Link>,
    /// Whether it is heard of.
    pub pulse: Pulse,
    stage: Stage,
    /// By when it is to have left this stage.
    by: Option<Instant>,
    is_killed: bool,
    /// The worker that it serves, where it is not one.
    pub of: Option<Pid>,
}

impl Child {
    /// The child that was just started. One that cannot be watched is ended, as
    /// it must not go on beside the next.
    ///
    /// # Errors
    /// Where it cannot be watched.
    pub fn of(
        mut child: process::Child,
        role: Role,
        stage: Stage,
        link: Link,
        of: Option<Pid>,
    ) -> io::Result<Self> {
        // Nobody else can have collected it, so that the number is its own.
        let opened = || {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
            Ok((pid, pidfd_open(pid, PidfdFlags::empty())?))
        };
        match opened() {
            Ok((pid, pidfd)) => Ok(Self::new(role, stage, pid, pidfd, Some(link), of)),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    fn new(
        role: Role,
        stage: Stage,
        pid: Pid,
        pidfd: OwnedFd,
        link: Option<Link>,
        of: Option<Pid>,
    ) -> Self {
        let now = Instant::now();
        let mut pulse = Pulse::new(role.patience(), now);
        // Until it has said its first word it holds no packets.
        pulse.grant(now + STARTS);
        Self {
            role,
            pid,
            pidfd,
            link,
            pulse,
            stage,
            by: stage.limit().map(|limit| now + limit),
            is_killed: false,
            of,
        }
    }

    /// What it is about to do.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// It is about to do something else now.
    pub fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.by = stage.limit().map(|limit| now + limit);
    }

    /// When to look at it next.
    #[must_use]
    pub fn until(&self) -> Instant {
        let pulse = self.pulse.until();
        self.by.map_or(pulse, |by| by.min(pulse))
    }

    /// Why it is to be ended, where it is.
    pub fn is_over(&mut self, now: Instant) -> Option<&'static str> {
        if self.pulse.is_over(now) {
            Some("it has not been heard of for too long, and is ended")
        } else if self.by.is_some_and(|by| now >= by) {
            Some("it takes too long, and is ended")
        } else {
            None
        }
    }

    /// It is as if it had begun what it does now.
    pub fn spare(&mut self, now: Instant) {
        self.pulse.beat(now);
        self.enter(self.stage, now);
    }

    /// Whether it has said something that was not heard yet.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        self.link.as_ref().is_some_and(|link| {
            let mut fds = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable once it has ended.
    #[must_use]
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// How it has ended, where it has; it is collected then.
    ///
    /// # Errors
    /// Where it is no child of ours.
    pub fn collect(&self) -> io::Result<Option<ExitStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let Some(status) = waitid(WaitId::PidFd(self.pidfd.as_fd()), options)? else {
            return Ok(None);
        };
        let exited = status.exit_status().map(|code| code << 8);
        let raw = exited.or(status.terminating_signal()).unwrap_or(0);
        Ok(Some(ExitStatus::from_raw(raw)))
    }

    /// Ends it at once, after the kernel's word that it is a child of ours.
    ///
    /// # Errors
    /// Where it is not, or what the kernel says.
    pub fn kill(&self) -> io::Result<()> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        Ok(pidfd_send_signal(&self.pidfd, Signal::KILL)?)
    }

    /// Ends it as [`Child::kill`] does; it is over once more where it does not end in
    /// a moment.
    pub fn end(&mut self, now: Instant) {
        // It has ended already where this fails.
        let _ = self.kill();
        self.pulse.beat(now);
        self.is_killed = true;
        self.by = Some(now + DEATH);
    }

    /// Whether it was killed, and has yet to end.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.is_killed
    }

    /// The descriptors that the next supervisor needs to hold it.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let link = self.link.as_ref().map(|link| link.as_fd().as_raw_fd());
        [Some(self.pidfd.as_raw_fd()), link]
            .into_iter()
            .flatten()
            .collect()
    }

    /// What the next supervisor needs to know of it: `role,stage,pid,of`, and its
    /// descriptors.
    #[must_use]
    pub fn to_words(&self) -> String {
        let stage = match self.stage {
            Stage::Coming => 'c',
            Stage::Serving => 's',
            Stage::Leaving => 'l',
        };
        let of = self.of.map_or(0, |of| of.as_raw_nonzero().get());
        let mut words = format!(
            "{},{stage},{},{of}",
            self.role.name(),
            self.pid.as_raw_nonzero()
        );
        for number in self.descriptors() {
            words.push_str(&format!(",{number}"));
        }
        words
    }

    /// The numbers of the descriptors in [`Child::to_words`].
    #[must_use]
    pub fn numbers(words: &str) -> Option<Vec<RawFd>> {
        words
            .split(',')
            .skip(4)
            .map(|word| word.parse().ok())
            .collect()
    }

    /// The child of these words, whose descriptors are the next ones of `owned`;
    /// `None` where the words are wrong, or it is no child of ours.
    pub fn from_words(words: &str, owned: &mut impl Iterator<Item = OwnedFd>) -> Option<Self> {
        let parts: Vec<&str> = words.split(',').collect();
        let [role, stage, pid, of] = *parts.first_chunk::<4>()?;
        let role = [Role::Worker, Role::Warden, Role::Gate]
            .into_iter()
            .find(|known| known.name() == role)?;
        let stage = match stage {
            "c" => Stage::Coming,
            "s" => Stage::Serving,
            "l" => Stage::Leaving,
            _ => return None,
        };
        let pid = Pid::from_raw(pid.parse().ok()?)?;
        let of = Pid::from_raw(of.parse().ok()?);
        let pidfd = owned.next()?;
        let link = if parts.len() > 5 {
            Some(Link::from(owned.next()?))
        } else {
            None
        };
        let child = Self::new(role, stage, pid, pidfd, link, of);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(child.pidfd.as_fd()), options).ok()?;
        Some(child)
    }
}

/// Starts a warden or a gate, which are both the program at `program`, with
/// `socket` as its descriptor 0, and the link to us as its descriptor 1. It is told
/// nothing of our environment.
///
/// # Errors
/// What the kernel says.
pub fn start_helper(program: &Path, role: Role, socket: OwnedFd, worker: Pid) -> io::Result<Child> {
    let (link, theirs) = Link::pair()?;
    let mut command = Command::new(program);
    if role == Role::Gate {
        command.arg(GATE_ROLE);
    }
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::from(theirs));
    set_apart(&mut command);
    Child::of(command.spawn()?, role, Stage::Serving, link, Some(worker))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_it_ended_is_told_and_it_is_collected_once() {
        for (shell, told) in [
            ("exit 7", "exit status: 7"),
            ("kill -9 $$", "signal: 9 (SIGKILL)"),
        ] {
            let child = Command::new("/bin/sh").args(["-c", shell]).spawn().unwrap();
            let (link, _theirs) = Link::pair().unwrap();
            let child = Child::of(child, Role::Worker, Stage::Serving, link, None).unwrap();
            let end = Instant::now() + Duration::from_secs(20);
            let status = loop {
                if let Some(status) = child.collect().unwrap() {
                    break status;
                }
                assert!(Instant::now() < end);
                std::thread::yield_now();
            };
            assert_eq!(status.to_string(), told);
            assert!(child.collect().is_err(), "it is gone");
        }
    }

    #[test]
    fn one_that_leaves_has_time_to_answer_and_then_to_outlive_whom_it_ended() {
        let child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let (link, _theirs) = Link::pair().unwrap();
        let mut child = Child::of(child, Role::Worker, Stage::Serving, link, None).unwrap();
        let now = Instant::now();
        child.enter(Stage::Leaving, now);
        // One after the other, each at its longest.
        let answered = now + handover::RELEASE + handover::PATIENCE + service::LONGEST_DRAIN;
        assert!(child.by.unwrap() >= answered + TERM_PATIENCE);
        child.kill().unwrap();
        waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    }

    #[test]
    fn the_next_supervisor_knows_what_the_one_before_did() {
        let child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let (link, _theirs) = Link::pair().unwrap();
        let of = Pid::from_raw(7);
        let mut child = Child::of(child, Role::Warden, Stage::Serving, link, of).unwrap();
        child.enter(Stage::Leaving, Instant::now());
        let words = child.to_words();
        assert_eq!(Child::numbers(&words), Some(child.descriptors()));
        let copies = || {
            let link = child.link.as_ref().unwrap().as_fd().try_clone_to_owned();
            [child.pidfd.try_clone().unwrap(), link.unwrap()].into_iter()
        };
        let next = Child::from_words(&words, &mut copies()).unwrap();
        assert_eq!(
            (next.role, next.stage, next.of),
            (Role::Warden, Stage::Leaving, of)
        );
        assert!(next.pid == child.pid && next.link.is_some());
        for wrong in [
            "",
            "warden,s,1",
            "cook,s,1,0,3,4",
            "warden,x,1,0,3,4",
            "warden,s,x,0,3",
        ] {
            assert!(Child::from_words(wrong, &mut copies()).is_none(), "{wrong}");
        }
        next.kill().unwrap();
        waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
        assert!(next.kill().is_err(), "it is no child of ours any longer");
        assert!(Child::from_words(&words, &mut copies()).is_none());
    }
}
