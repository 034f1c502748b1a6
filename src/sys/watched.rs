//! Descriptors in the event loop.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Puts `fd` into the event loop of the current runtime.
///
/// # Errors
/// Where the kernel cannot poll it.
pub fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor from here until it is
    // dropped, and AsyncFd takes it out of the event loop before it drops it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
