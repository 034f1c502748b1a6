//! The filter as courierfilter runs it: a supervisor, and the worker that it
//! starts and starts again.
//!
//! courierfilter never restarts a filter, and a filter's socket without a
//! listener stops all mail. So the process that courierfilter knows does
//! nothing but hold the socket and its children; what reads bytes from outside
//! is the worker, and what may change the kernel's sets is the warden.

mod changes;
mod children;
mod control;
mod custody;
mod exporter;
mod filter;
mod handover;
mod link;
mod lookups;
mod never_ban;
mod pulse;
mod reloads;
mod restarts;
mod service;
mod supervised;
mod supervisor;
mod unread;
mod worker;

use std::env;
use std::ffi::OsStr;
use std::path::Path;

pub use never_ban::NeverBan;
pub use supervisor::{ROLE as SUPERVISOR_ROLE, resume, run as supervise};
pub use worker::{ROLE as WORKER_ROLE, run as work};

/// sysexits(3): an internal error.
const EX_SOFTWARE: u8 = 70;
/// The same: a configuration that is wrong.
const EX_CONFIG: u8 = 78;

/// What this process runs, be it replaced since (proc(5)).
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The reply to a message that is accepted.
const ACCEPTED: &str = "250 Ok";

/// Whether this process's parent is courierfilter, by its name: an accident
/// with pipes makes no supervisor. (It keeps nobody out: a name is free to
/// choose, and courierfilter's program file is not ours to read, as it has
/// changed its user. A supervisor has no right that whoever starts it lacks.)
/// Where the name cannot be read, it may be.
#[must_use]
pub fn is_started_by_courierfilter() -> bool {
    let path = format!("/proc/{}/comm", std::os::unix::process::parent_id());
    std::fs::read_to_string(path).map_or(true, |name| name.trim_end() == "courierfilter")
}

/// The name under which courierfilter started us: the last part of `argv[0]`.
fn filter_name() -> String {
    env::args_os()
        .next()
        .as_deref()
        .map(Path::new)
        .and_then(Path::file_name)
        .and_then(OsStr::to_str)
        .filter(|name| !name.starts_with('.'))
        .unwrap_or("rblfilter")
        .to_owned()
}
