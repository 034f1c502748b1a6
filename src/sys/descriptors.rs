//! The descriptors that courierfilter hands to a filter (courierfilter(8)).

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{SFlag, fstat};

/// Descriptor 0 and descriptor 3.
#[derive(Debug)]
pub struct Inherited {
    /// A pipe that reads end of file when the filter is to stop.
    pub stop: OwnedFd,
    /// A pipe that courierfilter waits for: closed, the filter is ready.
    pub ready: OwnedFd,
}

/// Takes descriptors 0 and 3 where both are pipes, which means that
/// courierfilter started this process; `None` where they are not. Neither is
/// handed to a child.
///
/// Call it once, at the start, before anything else opens a descriptor.
#[must_use]
pub fn inherited() -> Option<Inherited> {
    if !(is_pipe(0) && is_pipe(3)) {
        return None;
    }
    // SAFETY: both were just seen to be open, and at this time nothing else in
    // the process owns a descriptor but the standard ones; descriptor 0 is
    // read through this value alone, standard input is not used.
    let inherited = unsafe {
        Inherited {
            stop: OwnedFd::from_raw_fd(0),
            ready: OwnedFd::from_raw_fd(3),
        }
    };
    for fd in [&inherited.stop, &inherited.ready] {
        // An open descriptor takes this flag.
        let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
    Some(inherited)
}

/// Takes descriptor 0 and those numbered `numbers`, which the supervisor handed
/// to this process; `None` where one is not open, or one is named twice. None
/// is handed to a child.
///
/// Call it once, at the start, before anything else opens a descriptor.
#[must_use]
pub fn handed(numbers: &[RawFd]) -> Option<Vec<OwnedFd>> {
    let distinct = numbers
        .iter()
        .collect::<std::collections::HashSet<_>>()
        .len()
        == numbers.len();
    if !distinct || numbers.iter().any(|number| kind(*number).is_none()) || !is_pipe(0) {
        return None;
    }
    let own = |number: RawFd| {
        // SAFETY: it was just seen to be open, each number is taken once, and
        // at this time nothing in the process owns a descriptor but the
        // standard ones, of which 0 is read through this value alone.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        // An open descriptor takes this flag.
        let _ = fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        fd
    };
    Some(
        std::iter::once(0)
            .chain(numbers.iter().copied())
            .map(own)
            .collect(),
    )
}

fn is_pipe(fd: RawFd) -> bool {
    kind(fd).is_some_and(|kind| kind.contains(SFlag::S_IFIFO) && !kind.contains(SFlag::S_IFSOCK))
}

/// What kind of file the descriptor is, where it is open.
fn kind(fd: RawFd) -> Option<SFlag> {
    // SAFETY: the borrow ends with this call; where the descriptor is not open,
    // fstat says so (EBADF) and touches nothing.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Some(SFlag::from_bits_truncate(fstat(fd).ok()?.st_mode))
}

/// Closes every descriptor from 4 up: courierfilter leaks some, and while we
/// hold one, somebody waits for its end of file.
///
/// Call it once, at the start, before anything else opens a descriptor.
///
/// # Errors
/// Where `/proc/self/fd` cannot be read.
pub fn close_leaked() -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 3)
        .collect();
    for fd in open {
        // The folder's own descriptor is among them, and closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// Raises the soft limit on open descriptors to the hard one.
///
/// # Errors
/// What the kernel says.
pub fn raise_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
