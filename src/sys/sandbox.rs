//! The worker's walls: after them it holds no capability, gains nothing by an
//! exec, and makes only those system calls that it is made of.
//!
//! No Landlock: it forbids to look into processes outside (their environment,
//! which tells who the client is), and so would blind the watch.

use std::error::Error;

use caps::CapSet;
use nix::libc;
use nix::sys::prctl;
use rblfilter_warden::layers::Layers;
use rblfilter_warden::policy::Layer;
use rblfilter_warden::seccomp::{Allowed, BASE, BASE_OLD, Fence, Filters, Only, Threads};

/// What the worker does beside [`BASE`]. It starts threads, and no process:
/// clone(2) without `CLONE_THREAD` fails, and so does clone3(2), whose
/// arguments a filter cannot see; a C library then takes the former.
const CALLS: &[Allowed] = &[
    // Threads.
    (libc::SYS_clone, Only::With(0, libc::CLONE_THREAD)),
    (libc::SYS_set_tid_address, Only::Any),
    (libc::SYS_sched_getattr, Only::OneOf(0, &[0])),
    (libc::SYS_sched_setattr, Only::OneOf(0, &[0])),
    (
        libc::SYS_prctl,
        Only::OneOf(0, &[libc::PR_SET_NAME, libc::PR_SET_VMA]),
    ),
    (libc::SYS_prlimit64, Only::OneOf(0, &[0])),
    (libc::SYS_getrusage, Only::Any),
    (libc::SYS_sysinfo, Only::Any),
    (libc::SYS_getcpu, Only::Any),
    // The event loop.
    (libc::SYS_epoll_create1, Only::Any),
    (libc::SYS_epoll_ctl, Only::Any),
    (libc::SYS_epoll_pwait, Only::Any),
    (libc::SYS_eventfd2, Only::Any),
    (libc::SYS_pipe2, Only::Any),
    (libc::SYS_timerfd_create, Only::Any),
    (libc::SYS_timerfd_settime, Only::Any),
    (
        libc::SYS_ioctl,
        Only::OneOf(1, &[FIONBIO, FIONREAD, TCGETS]),
    ),
    // DNS; the filter socket, the control socket, syslog, the warden; the
    // silence of connections (sock_diag), and which interfaces there are.
    (
        libc::SYS_socket,
        Only::OneOf(
            0,
            &[
                libc::AF_UNIX,
                libc::AF_INET,
                libc::AF_INET6,
                libc::AF_NETLINK,
            ],
        ),
    ),
    (libc::SYS_socketpair, Only::OneOf(0, &[libc::AF_UNIX])),
    (libc::SYS_connect, Only::Any),
    (libc::SYS_bind, Only::Any),
    (libc::SYS_listen, Only::Any),
    (libc::SYS_accept4, Only::Any),
    (libc::SYS_shutdown, Only::Any),
    (libc::SYS_getsockname, Only::Any),
    (libc::SYS_getpeername, Only::Any),
    (libc::SYS_getsockopt, Only::Any),
    (libc::SYS_setsockopt, Only::Any),
    (libc::SYS_sendto, Only::Any),
    (libc::SYS_sendmsg, Only::Any),
    (libc::SYS_sendmmsg, Only::Any),
    (libc::SYS_recvfrom, Only::Any),
    (libc::SYS_recvmsg, Only::Any),
    (libc::SYS_recvmmsg, Only::Any),
    // Files: control files, /proc, the configuration, the state folder.
    (libc::SYS_openat, Only::Any),
    (libc::SYS_faccessat, Only::Any),
    (libc::SYS_faccessat2, Only::Any),
    (libc::SYS_statfs, Only::Any),
    (libc::SYS_fstatfs, Only::Any),
    (libc::SYS_getcwd, Only::Any),
    (libc::SYS_pwrite64, Only::Any),
    (libc::SYS_pwritev, Only::Any),
    (libc::SYS_preadv, Only::Any),
    (libc::SYS_fsync, Only::Any),
    (libc::SYS_fdatasync, Only::Any),
    (libc::SYS_ftruncate, Only::Any),
    (libc::SYS_fallocate, Only::Any),
    (libc::SYS_fadvise64, Only::Any),
    (libc::SYS_flock, Only::Any),
    (libc::SYS_fchmod, Only::Any),
    (libc::SYS_fchmodat, Only::Any),
    (libc::SYS_mkdirat, Only::Any),
    (libc::SYS_unlinkat, Only::Any),
    (libc::SYS_renameat, Only::Any),
    (libc::SYS_renameat2, Only::Any),
    (libc::SYS_utimensat, Only::Any),
    (libc::SYS_inotify_init1, Only::Any),
    (libc::SYS_inotify_add_watch, Only::Any),
    (libc::SYS_inotify_rm_watch, Only::Any),
    // Sessions.
    (libc::SYS_pidfd_open, Only::Any),
    (libc::SYS_pidfd_send_signal, Only::Any),
    (libc::SYS_wait4, Only::Any),
    (libc::SYS_waitid, Only::Any),
    (libc::SYS_getgroups, Only::Any),
];

/// ioctl(2)'s requests: libc gives them as `c_ulong`, the kernel looks at 32
/// bits (include/uapi/asm-generic/ioctls.h).
const FIONBIO: i32 = 0x5421;
const FIONREAD: i32 = 0x541B;
const TCGETS: i32 = 0x5401;

/// The same, by calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[Allowed] = &[
    (libc::SYS_open, Only::Any),
    (libc::SYS_access, Only::Any),
    (libc::SYS_epoll_wait, Only::Any),
    (libc::SYS_pipe, Only::Any),
    (libc::SYS_chmod, Only::Any),
    (libc::SYS_mkdir, Only::Any),
    (libc::SYS_unlink, Only::Any),
    (libc::SYS_rename, Only::Any),
    (libc::SYS_rmdir, Only::Any),
    (libc::SYS_getdents, Only::Any),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[Allowed] = &[];

/// What became of the thread's privileges.
#[derive(Debug)]
pub struct Dropped {
    capabilities: Result<(), caps::errors::CapsError>,
    no_new_privs: nix::Result<()>,
}

/// Gives up the calling thread's capabilities, and to gain any by an exec;
/// those that it starts later have none either. Call it before it starts one.
#[must_use]
pub fn drop_privileges() -> Dropped {
    Dropped {
        capabilities: drop_capabilities(),
        no_new_privs: prctl::set_no_new_privs(),
    }
}

/// Builds the filter of system calls, where `seccomp` wants it, for all threads
/// that run; returns which layers there are. Each is for itself; `without` is
/// told of one that cannot be had, and why.
pub fn enter(dropped: Dropped, seccomp: Layer, without: impl Fn(&str, &dyn Error)) -> Layers {
    let mut layers = Layers::default();
    match dropped.capabilities {
        Ok(()) => layers.capabilities = true,
        Err(error) => without("capabilities", &error),
    }
    match dropped.no_new_privs {
        Ok(()) => layers.no_new_privs = true,
        Err(error) => without("no_new_privs", &error),
    }
    if seccomp == Layer::Off {
        return layers;
    }
    let filtered = Filters::new(&[BASE, BASE_OLD, CALLS, OLD_CALLS])
        .and_then(|filters| filters.install(Threads::All));
    match filtered {
        Ok(()) => layers.seccomp = true,
        Err(error) => without("seccomp", &error),
    }
    layers
}

/// Binds the calling thread, and the programs that it starts: they gain nothing by
/// an exec, and where `seccomp` wants it, they open no socket that leaves the
/// machine and reach into no other process, nor the kernel ([`Fence`]). `without` is
/// told of what cannot be had, and why.
pub fn fence(seccomp: Layer, without: impl Fn(&str, &dyn Error)) {
    if let Err(error) = prctl::set_no_new_privs() {
        without("no_new_privs", &error);
    }
    if seccomp == Layer::Auto
        && let Err(error) = Fence::new().and_then(|fence| fence.install())
    {
        without("seccomp", &error);
    }
}

/// Courier's user has none, unless somebody gave it one.
fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    // Old kernels have no ambient set.
    let _ = caps::clear(None, CapSet::Ambient);
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        if !caps::read(None, set)?.is_empty() {
            caps::clear(None, set)?;
        }
    }
    Ok(())
}
