//! The host: kernel, clock, log, disk.

use std::fmt::Display;
use std::fs;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::statvfs;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::super::facts::{Host, Seen};
use super::super::texts;
use super::files::cannot;
use crate::courier::paths::Paths;
use crate::store::{self, FILE, Journal};
use crate::sys;

/// Where syslogd listens.
const SYSLOG: &str = "/dev/log";

pub(super) fn look(paths: &Paths) -> Host {
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|error| cannot("read", Path::new(path), error))
    };
    Host {
        kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        pidfd: pidfd_open(getpid(), PidfdFlags::empty())
            .map(drop)
            .map_err(|error| format!("cannot open a pidfd: {error}")),
        mounts: read("/proc/self/mountinfo"),
        synchronised: sys::clock::is_synchronised()
            .map_err(|error| format!("cannot ask the kernel for its clock: {error}")),
        now: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs()),
        last_seen: last_seen(&paths.real_state().join(FILE)),
        log: log(),
        free: free(&paths.localstatedir),
        ipv6: read("/proc/net/if_inet6").is_ok_and(|text| texts::has_global_ipv6(&text)),
    }
}

pub(super) fn unseen(error: &str) -> Host {
    let text = || error.to_owned();
    Host {
        kernel: Err(text()),
        pidfd: Ok(()),
        mounts: Err(text()),
        synchronised: Err(text()),
        now: 0,
        last_seen: Err(text()),
        log: Err(text()),
        free: Err(text()),
        ipv6: false,
    }
}

/// The time that stands in the file of bans. Read as it lies on the disk: nothing
/// is locked, made or followed in a folder that is the filter's.
fn last_seen(path: &Path) -> Seen<Option<u64>> {
    let cannot = |error: &dyn Display| Err(format!("cannot read {}: {error}", path.display()));
    let connection = match store::open_to_read(path, Journal::Ignored) {
        Ok(Some(connection)) => connection,
        Ok(None) => return Ok(None),
        Err(error) => return cannot(&error),
    };
    let seconds = connection.query_row("SELECT seconds FROM times", [], |row| row.get::<_, u32>(0));
    match seconds {
        Ok(seconds) => Ok(Some(seconds.into())),
        // All of it may yet be in the journal beside it.
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
        Err(rusqlite::Error::SqliteFailure(_, Some(text))) if text.starts_with("no such table") => {
            Ok(None)
        }
        Err(error) => cannot(&error),
    }
}

/// Whether somebody listens at /dev/log. Nothing is written to it.
fn log() -> Seen<()> {
    let refused = |error| cannot("connect to", Path::new(SYSLOG), error);
    let datagram = UnixDatagram::unbound().map_err(refused)?;
    match datagram.connect(SYSLOG) {
        Ok(()) => Ok(()),
        // Another kind of socket.
        Err(error) if error.raw_os_error() == Some(nix::libc::EPROTOTYPE) => {
            UnixStream::connect(SYSLOG).map(drop).map_err(refused)
        }
        Err(error) => Err(refused(error)),
    }
}

fn free(path: &Path) -> Seen<(u64, u64)> {
    let stat = statvfs(path).map_err(|error| cannot("look at", path, error.into()))?;
    let files = if stat.f_files == 0 {
        // Its file system does not count them.
        u64::MAX
    } else {
        stat.f_favail
    };
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), files))
}
