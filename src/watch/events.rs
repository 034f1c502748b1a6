//! Listening to the kernel's proc connector: a thread that does nothing but
//! read and hand over.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::{Sighting, connector};
use crate::sys::run_soon;

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
        match recv(socket, &mut bytes[..], RecvFlags::empty()) {
            Ok((length, _)) => {
                for pid in connector::execs(&bytes[..length]) {
                    if gap && sightings.try_send(Sighting::Gap).is_ok() {
                        gap = false;
                    }
                    match sightings.try_send(Sighting::Exec(pid)) {
                        Ok(()) => {}
                        Err(TrySendError::Full(_)) => gap = true,
                        Err(TrySendError::Closed(_)) => return,
                    }
                }
            }
            // The kernel had no room for all of them.
            Err(Errno::NOBUFS) => gap = true,
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if gap && sightings.try_send(Sighting::Gap).is_ok() {
            gap = false;
        }
    }
}
