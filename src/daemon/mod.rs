//! The filter as courierfilter runs it. The order of its start:
//!
//! 1. descriptors: 0 and 3 are ours, leaked ones are closed;
//! 2. the log;
//! 3. the configuration (a wrong one: the filter accepts every message);
//! 4. the filter socket;
//! 5. the resolver and the warden;
//! 6. ready: descriptor 3 is closed, last.

mod filter;
mod service;

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config;
use crate::courier::filter_socket::FilterSocket;
use crate::courier::paths::Paths;
use crate::log::{self as event_log, Event};
use crate::sys::descriptors::{self, Inherited};

use filter::Filter;

/// Where syslogd listens.
const SYSLOG: &str = "/dev/log";
/// sysexits(3): an internal error.
const EX_SOFTWARE: u8 = 70;

/// Runs the filter until courierfilter ends it.
#[must_use]
pub fn run(inherited: Inherited) -> ExitCode {
    let name = filter_name();
    let log = match event_log::start(Path::new(SYSLOG), &name) {
        Ok(guard) => Some(guard),
        Err(error) => {
            eprintln!("{name}: cannot log to syslog: {error}");
            None
        }
    };
    log_panics();
    let code = match start(inherited, &name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let event = Event::new("failed").text(&*error);
            // The queue ends with the process, so courierlogger hears of it too.
            eprintln!("{event}");
            log::error!("{event}");
            ExitCode::from(EX_SOFTWARE)
        }
    };
    drop(log);
    code
}

fn start(inherited: Inherited, name: &str) -> Result<(), Box<dyn std::error::Error>> {
    for step in [descriptors::close_leaked, descriptors::raise_limit] {
        if let Err(error) = step() {
            log::warn!("{}", Event::new("limits").text(error));
        }
    }
    let paths = Paths::from_env();
    let config = config::read(&paths.config());
    if let Ok(config) = &config {
        log::set_max_level(config.log_level);
    }
    let socket = FilterSocket::bind(&paths, name)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(64)
        .build()?;
    runtime.block_on(async {
        let filter = match config {
            Ok(config) => {
                let filter = Filter::new(config, paths);
                log::info!("{}", filter.started());
                filter.check_warden().await;
                Some(Arc::new(filter))
            }
            Err(error) => {
                let event = Event::new("disabled").text(format!(
                    "{error}; every message is accepted until the file is right and the filter started again (filterctl stop {name}; filterctl start {name})"
                ));
                log::error!("{event}");
                None
            }
        };
        service::run(socket, filter, inherited).await
    })?;
    // A thread that hangs on a dead disk must not hold up the stop.
    runtime.shutdown_background();
    log::info!("{}", Event::new("stopped"));
    Ok(())
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

/// A panic is a bug of ours: it is logged, and costs what it happened in alone.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        log::error!("{}", Event::new("bug").text(info));
    }));
}
