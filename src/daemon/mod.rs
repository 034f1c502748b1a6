//! The filter as courierfilter runs it: a supervisor, and the worker that it
//! starts and starts again.
//!
//! courierfilter never restarts a filter, and a filter's socket without a
//! listener stops all mail. So the process that courierfilter knows does
//! nothing but hold the socket and the worker; what reads bytes from outside is
//! the worker.

mod control;
mod filter;
mod never_ban;
mod service;
mod supervisor;
mod worker;

use std::env;
use std::ffi::OsStr;
use std::path::Path;

pub use never_ban::NeverBan;
pub use supervisor::run as supervise;
pub use worker::{ROLE as WORKER_ROLE, run as work};

/// sysexits(3): an internal error.
const EX_SOFTWARE: u8 = 70;

/// The reply to a message that is accepted.
const ACCEPTED: &str = "250 Ok";

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
