//! Looking at couriertcpd's children: for little more than one read each time,
//! with no privilege, in any namespace. A thread that does nothing else.
//!
//! Each `courieresmtpd` opens its program file first, which inotify(7) tells
//! of, so that there is nothing to look at while nobody connects. Where that
//! file cannot be watched, or a session comes without a word, the children are
//! looked at all the time.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::{SESSION, Sighting};
use crate::courier::listener::{Listener, Listeners};
use crate::courier::process::{comm, numbers};
use crate::sys::run_soon;

/// How often the pid files are read (a couriertcpd that was started again has
/// another number), and the children looked at, whatever inotify says.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the program file is watched anew: an upgrade may have replaced it.
const WATCH_AGAIN: Duration = Duration::from_secs(60);
/// What an exec takes between the opening of the file and the new name.
const EXEC_TIME: Duration = Duration::from_millis(1);
/// So often is looked again that fast after a word of inotify.
const FAST_LOOKS: u32 = 5;
/// A child that is no session yet is looked at so often each time, then each
/// so manieth time.
const OFTEN: u32 = 8;
/// A session of which inotify said nothing for so long was not told of.
const RECENT: Duration = Duration::from_secs(5);
/// A child that has not called exec yet: it waits for DNS.
const LOOKS_UP: &str = "couriertcpd";

/// Starts to look, at intervals of `every` while anybody may be connecting.
/// `program` is the file of `courieresmtpd`.
///
/// # Errors
/// Where no thread can be started.
pub fn start(
    every: Duration,
    program: &Path,
    listeners: Arc<Listeners>,
    sightings: Sender<Sighting>,
) -> io::Result<()> {
    let mut poller = Poller {
        listeners,
        sightings,
        before: HashMap::new(),
        seen: HashSet::new(),
        pending: HashMap::new(),
    };
    let hints = Hints::new(program);
    thread::Builder::new()
        .name("poll-children".into())
        .spawn(move || poller.run(every, hints))?;
    Ok(())
}

/// Nobody listens any more.
struct Closed;

struct Poller {
    listeners: Arc<Listeners>,
    sightings: Sender<Sighting>,
    /// What each listener's children file held, as it was read.
    before: HashMap<i32, Vec<u8>>,
    /// The children that are known for what they are.
    seen: HashSet<i32>,
    /// Those that may yet become sessions, and how often each was looked at.
    pending: HashMap<i32, u32>,
}

impl Poller {
    fn run(&mut self, every: Duration, mut hints: Hints) {
        // Where it cannot be had, all comes a little later.
        let _ = run_soon();
        let mut all = self.listeners.look();
        let mut looked = Instant::now();
        let mut fast = 0;
        loop {
            if looked.elapsed() >= LOOK_EVERY {
                all = self.listeners.look();
                looked = Instant::now();
            }
            match self.look(&all) {
                Ok(new) => hints.have_told_of(new),
                Err(Closed) => return,
            }
            let somebody_comes = !self.pending.is_empty() && hints.are_recent();
            let pause = if hints.work() && !somebody_comes {
                LOOK_EVERY
            } else if fast > 0 && !self.pending.is_empty() {
                EXEC_TIME
            } else {
                every
            };
            fast -= fast.min(1);
            if hints.wait(pause) {
                fast = FAST_LOOKS;
                thread::sleep(EXEC_TIME);
            }
        }
    }

    /// Looks at the children of `all`; returns how many sessions are new.
    fn look(&mut self, all: &[Arc<Listener>]) -> Result<usize, Closed> {
        let (mut text, mut children) = (Vec::new(), Vec::new());
        let mut changed = !self.pending.is_empty();
        for listener in all {
            listener.read_children(&mut text);
            children.extend(numbers(&text));
            let before = self.before.entry(listener.pid()).or_default();
            if *before != text {
                changed = true;
                std::mem::swap(before, &mut text);
            }
        }
        if !changed {
            return Ok(0);
        }
        self.before
            .retain(|pid, _| all.iter().any(|listener| listener.pid() == *pid));
        let now: HashSet<i32> = children.iter().copied().collect();
        self.seen.retain(|pid| now.contains(pid));
        self.pending.retain(|pid, _| now.contains(pid));
        let mut new = 0;
        for pid in children {
            if self.seen.contains(&pid) {
                continue;
            }
            let looks = self.pending.entry(pid).or_default();
            *looks += 1;
            // One that waits for DNS may do so for minutes.
            if *looks > OFTEN && !looks.is_multiple_of(OFTEN) {
                continue;
            }
            match comm(pid).as_str() {
                SESSION => match self.sightings.try_send(Sighting::Exec(pid)) {
                    Ok(()) => new += 1,
                    // Told of at the next look.
                    Err(TrySendError::Full(_)) => continue,
                    Err(TrySendError::Closed(_)) => return Err(Closed),
                },
                LOOKS_UP => continue,
                // It has ended; or it is the logger, or another daemon's.
                _ => {}
            }
            self.pending.remove(&pid);
            self.seen.insert(pid);
        }
        if self.sightings.is_closed() {
            return Err(Closed);
        }
        Ok(new)
    }
}

/// The word of inotify that a `courieresmtpd` starts.
struct Hints {
    program: PathBuf,
    inotify: Option<Inotify>,
    watched: Instant,
    told: Instant,
}

impl Hints {
    fn new(program: &Path) -> Self {
        let mut hints = Self {
            program: program.to_owned(),
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok(),
            watched: Instant::now(),
            // What is there at the start needs no word.
            told: Instant::now(),
        };
        hints.watch();
        hints
    }

    /// Watches the program file, whichever it is now. To watch one again that
    /// is watched changes nothing.
    fn watch(&mut self) {
        let watched = self
            .inotify
            .as_ref()
            .is_some_and(|it| it.add_watch(&self.program, AddWatchFlags::IN_OPEN).is_ok());
        if !watched {
            self.inotify = None;
        }
        self.watched = Instant::now();
    }

    fn work(&self) -> bool {
        self.inotify.is_some()
    }

    /// Whether there was a word lately.
    fn are_recent(&self) -> bool {
        self.told.elapsed() < RECENT
    }

    /// `new` sessions have come. Where there was no word, none can be had here.
    fn have_told_of(&mut self, new: usize) {
        if new > 0 && !self.are_recent() {
            self.inotify = None;
        }
    }

    /// Waits for `pause`, or until a `courieresmtpd` starts; whether one does.
    fn wait(&mut self, pause: Duration) -> bool {
        if self.watched.elapsed() >= WATCH_AGAIN && self.work() {
            self.watch();
        }
        let Some(inotify) = &self.inotify else {
            thread::sleep(pause);
            return false;
        };
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        let pause = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
        // Interrupted, or over: look.
        if poll(&mut fds, pause).unwrap_or(0) == 0 {
            return false;
        }
        // One word is as good as many; those that come later wake us again.
        let _ = inotify.read_events();
        self.told = Instant::now();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_program_that_is_opened_is_told_of() {
        let program = std::env::temp_dir().join(format!("rblfilter-hint-{}", std::process::id()));
        fs::write(&program, "").unwrap();
        let mut hints = Hints::new(&program);
        assert!(hints.work() && !hints.wait(Duration::from_millis(1)));
        fs::read(&program).unwrap();
        assert!(hints.wait(Duration::from_secs(5)));
        assert!(!hints.wait(Duration::from_millis(1)), "once");
        fs::remove_file(&program).unwrap();
        assert!(!Hints::new(&program).work(), "there is no such file");
    }
}
