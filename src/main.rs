//! Which role this process has: the filter, where courierfilter started it (no
//! arguments, descriptors 0 and 3 are pipes); else one of the admin's commands.

use std::process::ExitCode;

use rblfilter::sys::descriptors;
use rblfilter::{cli, daemon};

fn main() -> ExitCode {
    if std::env::args_os().len() <= 1
        && let Some(inherited) = descriptors::inherited()
    {
        return daemon::run(inherited);
    }
    cli::run()
}
