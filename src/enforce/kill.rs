//! Ending a session: `courieresmtpd` and its `submit`, and nothing else.
//!
//! SIGTERM lets Courier remove its files; SIGKILL is for a process that
//! outlives it by five seconds. Each process is signalled through a pidfd,
//! after a last look at what it is; never by number, never by group
//! (couriertcpd is in the same one).

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::Interest;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::courier::identified::Identified;
use crate::courier::listener::Listeners;
use crate::courier::process::{Error, Handle};
use crate::log::Event;
use crate::sys::watched;

/// How long a process may outlive its SIGTERM.
pub const TERM_PATIENCE: Duration = Duration::from_secs(5);
/// How often those that got one are looked at.
const SEE_EVERY: Duration = Duration::from_millis(100);
/// How often the slots are counted while a client is left its grace.
const PRESSURE_EVERY: Duration = Duration::from_millis(200);
/// How often a process is looked at beside its pidfd.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Pressure: a fifth of the slots or more is in use.
const PRESSURE_SHARE: usize = 5;

/// Ends sessions.
#[derive(Debug, Default)]
pub struct Killer {
    /// Who got SIGTERM and may still live, and when that must have had its
    /// effect.
    sentenced: Mutex<Vec<(Instant, Arc<Handle>)>>,
    added: Notify,
}

impl Killer {
    fn sentenced(&self) -> MutexGuard<'_, Vec<(Instant, Arc<Handle>)>> {
        self.sentenced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the session; returns how many processes were signalled: `submit`
    /// often ends by itself when it has read a 554. Zero, where the session has
    /// ended or is not the one that was judged.
    pub fn end(&self, identified: &Identified, listeners: &Listeners) -> usize {
        let spared = || Event::new("spared").ip(identified.session.client);
        match identified.verify(listeners) {
            Ok(()) => {}
            Err(Error::Gone(_)) => return 0,
            Err(error) => {
                log::warn!("{}", spared().text(error));
                return 0;
            }
        }
        // submit is found through its parent, so before that ends.
        let submit = identified.submit();
        let deadline = Instant::now() + TERM_PATIENCE;
        let mut signalled = 0;
        for process in [Some(Arc::clone(identified.esmtpd())), submit]
            .into_iter()
            .flatten()
        {
            match process.signal(Signal::TERM) {
                Ok(true) => {
                    signalled += 1;
                    self.sentenced().push((deadline, process));
                    self.added.notify_one();
                }
                Ok(false) => {}
                Err(error) => {
                    log::error!("{}", spared().field("pid", process.pid()).text(error));
                }
            }
        }
        signalled
    }

    /// Sends SIGKILL to those that do not end by themselves after SIGTERM, until
    /// the future is dropped.
    pub async fn see_to_it(&self) {
        loop {
            if self.sentenced().is_empty() {
                self.added.notified().await;
            }
            // Nearly all have ended by then; a descriptor each is held until they are
            // looked at.
            sleep(SEE_EVERY).await;
            self.see(Instant::now());
        }
    }

    /// Returns once each that got SIGTERM has ended, or got SIGKILL: within its time.
    pub async fn finish(&self) {
        while !self.sentenced().is_empty() {
            sleep(SEE_EVERY).await;
            self.see(Instant::now());
        }
    }

    fn see(&self, now: Instant) {
        self.sentenced().retain(|(deadline, process)| {
            if !process.is_alive() {
                return false;
            }
            if now < *deadline {
                return true;
            }
            if process.signal(Signal::KILL).unwrap_or(false) {
                log::warn!(
                    "{}",
                    Event::new("outlived")
                        .field("pid", process.pid())
                        .text("SIGTERM had no effect, sent SIGKILL")
                );
            }
            false
        });
    }
}

/// Returns when the process has ended.
pub async fn ended(process: &Handle) {
    while !ends_within(process, LOOK_AGAIN).await {}
}

/// Whether the process ends within `limit`.
pub async fn ends_within(process: &Handle, limit: Duration) -> bool {
    // Where the pidfd cannot be watched, the wait alone must do.
    let ended = async {
        let pidfd = process.as_fd().try_clone_to_owned();
        match pidfd.and_then(|pidfd| watched(pidfd, Interest::READABLE)) {
            Ok(pidfd) => drop(pidfd.readable().await),
            Err(_) => sleep(limit).await,
        }
    };
    let _ = timeout(limit, ended).await;
    !process.is_alive()
}

/// Leaves a refused client up to `grace` to read its 554, while less than a
/// fifth of the slots is in use and the filter is not about to `stop`.
/// Returns when the session should be ended, or has ended.
pub async fn grace(identified: &Identified, grace: Duration, mut stop: watch::Receiver<bool>) {
    let deadline = Instant::now() + grace;
    while Instant::now() < deadline
        && !*stop.borrow()
        && !identified.slots_are_scarce(PRESSURE_SHARE)
    {
        let pause = PRESSURE_EVERY.min(deadline - Instant::now());
        tokio::select! {
            ended = ends_within(identified.esmtpd(), pause) => if ended { return },
            _ = stop.changed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_gets_sigkill_in_its_time() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ignores = [0];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut ignores).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Arc::new(Handle::open(pid, "sh").unwrap());
        assert!(process.signal(Signal::TERM).unwrap());
        let (killer, now) = (Killer::default(), Instant::now());
        let deadline = now + TERM_PATIENCE;
        killer.sentenced().push((deadline, Arc::clone(&process)));
        killer.see(now + TERM_PATIENCE / 2);
        assert!(process.is_alive() && killer.sentenced().len() == 1);
        killer.finish().await;
        assert!(Instant::now() >= deadline);
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
        assert!(killer.sentenced().is_empty());
    }
}
