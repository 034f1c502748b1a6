//! The supervisor's children: what each is, how it is known, when it is started
//! again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{self, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use super::link::Link;
use crate::sys::in_own_session;

/// What a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves the filter socket.
    Worker,
    /// It changes the kernel's sets for one worker.
    Warden,
}

impl Role {
    /// What it is called in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Warden => "warden",
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
        link: Option<Link>,
        of: Option<Pid>,
    ) -> io::Result<Self> {
        // Nobody else can have collected it, so that the number is its own.
        let opened = || {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
            Ok((pid, pidfd_open(pid, PidfdFlags::empty())?))
        };
        match opened() {
            Ok((pid, pidfd)) => Ok(Self {
                role,
                pid,
                pidfd,
                link,
                of,
            }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
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

    /// Ends it at once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, Signal::KILL)?)
    }
}

/// Starts the warden at `program`, with `socket` as its descriptor 0. It is
/// told nothing of our environment.
///
/// # Errors
/// What the kernel says.
pub fn start_warden(program: &Path, socket: OwnedFd, worker: Pid) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null());
    in_own_session(&mut command);
    Child::of(command.spawn()?, Role::Warden, None, Some(worker))
}

/// Children of a role that may end within [`WINDOW`] before the next one has to
/// wait.
const AT_ONCE: usize = 2;
const WINDOW: Duration = Duration::from_secs(60);
/// The wait after those, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When the children of a role have ended, and when the next one is due.
#[derive(Debug, Default)]
pub struct Restarts {
    ends: VecDeque<Instant>,
    /// When the next one is to be started.
    pub due: Option<Instant>,
    /// Whether the latest pause was the longest already.
    settled: bool,
}

impl Restarts {
    /// The first one is due then.
    #[must_use]
    pub fn due(then: Instant) -> Self {
        Self {
            due: Some(then),
            ..Self::default()
        }
    }

    /// One has ended, or could not be started: the next one is due after this
    /// pause. `None`: the same as the last time, which need not be told again.
    pub fn ended(&mut self, now: Instant) -> Option<Duration> {
        self.ends.push_back(now);
        // As many as the longest pause lets end in this time, and more.
        let window = |end: &Instant| now.saturating_duration_since(*end) < WINDOW;
        self.ends.retain(window);
        let mut pause = pause(self.ends.len());
        if self.settled && self.ends.len() > 1 {
            // It is a pause of its own that lets so few end in a minute.
            pause = LONGEST_PAUSE;
        }
        self.due = Some(now + pause);
        let told = self.settled;
        self.settled = pause == LONGEST_PAUSE;
        (!(told && self.settled)).then_some(pause)
    }
}

/// How long to wait when so many have ended within the last minute.
fn pause(ended: usize) -> Duration {
    match u32::try_from(ended.saturating_sub(AT_ONCE)) {
        Ok(0) => Duration::ZERO,
        Ok(further) if further < 6 => (FIRST_PAUSE * 2_u32.pow(further - 1)).min(LONGEST_PAUSE),
        _ => LONGEST_PAUSE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_in_a_minute_waits_and_each_further_one_longer() {
        let seconds: Vec<u64> = (0..10).map(|ended| pause(ended).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(usize::MAX).as_secs(), 30);
    }

    #[test]
    fn what_never_lives_is_tried_every_half_minute_and_told_once() {
        let (mut restarts, mut now) = (Restarts::default(), Instant::now());
        let mut told = 0;
        let mut pauses = Vec::new();
        for _ in 0..30 {
            told += usize::from(restarts.ended(now).is_some());
            let due = restarts.due.unwrap();
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses[..8], [0, 0, 1, 2, 4, 8, 16, 30]);
        assert!(pauses[8..].iter().all(|pause| *pause == 30), "{pauses:?}");
        assert_eq!(told, 8);
        // One that has lived for long is replaced at once.
        now += Duration::from_secs(3600);
        assert_eq!(restarts.ended(now), Some(Duration::ZERO));
    }

    #[test]
    fn how_it_ended_is_told_and_it_is_collected_once() {
        for (shell, told) in [
            ("exit 7", "exit status: 7"),
            ("kill -9 $$", "signal: 9 (SIGKILL)"),
        ] {
            let child = Command::new("/bin/sh").args(["-c", shell]).spawn().unwrap();
            let child = Child::of(child, Role::Worker, None, None).unwrap();
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
}
