//! Which role this process has: the supervisor, where courierfilter started it
//! (no arguments, descriptors 0 and 3 are pipes); the worker, where the
//! supervisor did, which may also go on as another program of itself; what looks
//! up aliases, where the worker did; else one of the admin's commands.

use std::ffi::OsString;
use std::process::ExitCode;

use rblfilter::courier::aliases;
use rblfilter::sys::descriptors;
use rblfilter::{cli, daemon};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        None if daemon::is_started_by_courierfilter() => match descriptors::inherited() {
            Some(inherited) => daemon::supervise(inherited),
            None => cli::run(),
        },
        None => cli::run(),
        Some((role, rest)) if role == daemon::WORKER_ROLE => daemon::work(rest),
        Some((role, rest)) if role == daemon::SUPERVISOR_ROLE => daemon::resume(rest),
        Some((role, rest)) if role == aliases::ROLE => aliases::serve(rest),
        Some(_) => cli::run(),
    }
}
