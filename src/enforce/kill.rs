//! Ending a session: `courieresmtpd` and its `submit`, and nothing else.
//!
//! SIGTERM lets Courier remove its files; SIGKILL is for a process that
//! outlives it by five seconds. Each process is signalled through a pidfd,
//! after a last look at what it is; never by number, never by group
//! (couriertcpd is in the same one).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::courier::process::{Error, Handle, Identified};
use crate::log::Event;
use crate::sys::watched;

/// How long a process may outlive its SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(5);
/// How often the slots are counted while a client is left its grace.
const PRESSURE_EVERY: Duration = Duration::from_millis(200);
/// How often a process is looked at beside its pidfd.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Pressure: a fifth of the slots or more is in use.
const PRESSURE_SHARE: usize = 5;

/// Ends the session; returns how many processes were signalled: `submit` often
/// ends by itself when it has read a 554. Zero, where the session has ended or
/// is not the one that was judged.
pub fn end(identified: &Identified) -> usize {
    match identified.verify() {
        Ok(()) => {}
        Err(Error::Gone(_)) => return 0,
        Err(error) => {
            log::warn!(
                "{}",
                Event::new("spared")
                    .ip(identified.session.client)
                    .text(error)
            );
            return 0;
        }
    }
    // submit is found through its parent, so before that ends.
    let submit = identified.submit();
    let mut signalled = 0;
    for process in [Some(Arc::clone(identified.esmtpd())), submit]
        .into_iter()
        .flatten()
    {
        match process.signal(Signal::TERM) {
            Ok(true) => {
                signalled += 1;
                tokio::spawn(outlived(process));
            }
            Ok(false) => {}
            Err(error) => {
                let event = Event::new("spared").ip(identified.session.client);
                log::error!("{}", event.field("pid", process.pid()).text(error));
            }
        }
    }
    signalled
}

/// Sends SIGKILL to a process that does not end by itself after SIGTERM.
async fn outlived(process: Arc<Handle>) {
    if !ends_within(&process, TERM_PATIENCE).await {
        let killed = process.signal(Signal::KILL).unwrap_or(false);
        if killed {
            log::warn!(
                "{}",
                Event::new("outlived")
                    .field("pid", process.pid())
                    .text("SIGTERM had no effect, sent SIGKILL")
            );
        }
    }
}

/// Returns when the process has ended.
pub async fn ended(process: &Handle) {
    while !ends_within(process, LOOK_AGAIN).await {}
}

async fn ends_within(process: &Handle, limit: Duration) -> bool {
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
