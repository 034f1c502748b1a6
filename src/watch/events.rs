//! Listening to the kernel's proc connector: a thread that does nothing but
//! read and hand over.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::{Sighting, connector};
use crate::sys::run_soon;

/// How long the reader of a full queue is left alone before it is told that it
/// must look at everything.
const GAP_AGAIN: Duration = Duration::from_millis(10);

/// Starts to read `socket`, which is subscribed.
///
/// # Errors
/// Where no thread can be started.
pub fn start(socket: OwnedFd, sightings: Sender<Sighting>) -> io::Result<()> {
    thread::Builder::new()
        .name("proc-events".into())
        .spawn(move || read(&socket, &sightings))?;
    Ok(())
}

/// Ends when nobody listens any more, or the socket fails.
fn read(socket: &OwnedFd, sightings: &Sender<Sighting>) {
    // Where it cannot be had, all comes a little later.
    let _ = run_soon();
    let mut bytes = [0_u8; 16 * 1024];
    // A gap that could not be told for lack of room is told first.
    let mut gap = false;
    loop {
        if gap {
            // It must be told, also where nothing happens any more.
            match sightings.try_send(Sighting::Gap) {
                Ok(()) => gap = false,
                Err(TrySendError::Full(_)) => thread::sleep(GAP_AGAIN),
                Err(TrySendError::Closed(_)) => return,
            }
        }
        let flags = if gap {
            RecvFlags::DONTWAIT
        } else {
            RecvFlags::empty()
        };
        match recv(socket, &mut bytes[..], flags) {
            Ok((length, _)) => {
                for pid in connector::execs(&bytes[..length]) {
                    match sightings.try_send(Sighting::Exec(pid)) {
                        Ok(()) => {}
                        Err(TrySendError::Full(_)) => gap = true,
                        Err(TrySendError::Closed(_)) => return,
                    }
                }
            }
            // The kernel had no room for all of them.
            Err(Errno::NOBUFS) => gap = true,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}
