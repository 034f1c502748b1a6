//! What two labs in the machine's own network namespace would share: one of them at a time.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::{Error, wait_for};

/// Longer than a benchmark's run takes.
const LIMIT: Duration = Duration::from_secs(300);
const NAME: &str = "rblfilter-lab.lock";

/// Waits until no other lab uses the machine's network namespace, and keeps others out while the file lives. To be
/// called in the machine's mount namespace.
///
/// # Errors
/// If another lab stays.
pub(crate) fn lock() -> Result<File, Error> {
    let folder = ["/run/lock", "/var/lock", "/tmp"]
        .into_iter()
        .find(|folder| Path::new(folder).is_dir())
        .unwrap_or("/tmp");
    let path = format!("{folder}/{NAME}");
    // Not through a link that somebody else left in a folder that all may write to.
    if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
        let source = std::io::Error::other("it is no file");
        return Err(Error::io("lock", path, source));
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|e| Error::io("open", &path, e))?;
    wait_for(LIMIT, || file.try_lock().ok()).ok_or_else(|| Error::Timeout {
        what: format!("the end of another lab in the machine's namespaces ({path})"),
        limit: LIMIT,
    })?;
    Ok(file)
}

/// Whether the lab's ports are free, for an error that says which one is not.
///
/// # Errors
/// The first that is taken.
pub(crate) fn ports_are_free(tcp: &[SocketAddr], dns: Ipv4Addr) -> Result<(), Error> {
    for address in tcp {
        TcpListener::bind(address)
            .map_err(|e| Error::io("listen on", format!("TCP {address}"), e))?;
    }
    UdpSocket::bind((dns, 53))
        .map(drop)
        .map_err(|e| Error::io("listen on", format!("UDP {dns}:53"), e))
}
