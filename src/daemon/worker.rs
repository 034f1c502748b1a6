//! The process that does the filter's work. The order of its start:
//!
//! 1. descriptors: those that the supervisor handed on are ours;
//! 2. the log;
//! 3. the configuration (a wrong one: every message is accepted);
//! 4. what the lists said before, their tests, the bans that still run, and the
//!    warden;
//! 5. ready: courierfilter's descriptor 3 is closed, last.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::filter::Filter;
use super::service::{self, Handed};
use super::{EX_SOFTWARE, control, filter_name, supervised};
use crate::config;
use crate::courier::paths::Paths;
use crate::log::{self as event_log, Event};
use crate::sys::{descriptors, run_soon};

/// The first argument of a worker.
pub const ROLE: &str = "supervised-worker";

/// How long the stop waits for what the lists said to be written.
const WRITE_TIME: Duration = Duration::from_secs(3);

/// A worker's arguments: the socket's path, then the numbers of the
/// descriptors of the listener, the link, and the ready pipe where
/// it has not been closed yet. Descriptor 0 is courierfilter's.
pub(super) fn arguments(numbers: &[RawFd], path: &Path) -> Vec<OsString> {
    let mut arguments = vec![ROLE.into(), path.into()];
    arguments.extend(numbers.iter().map(|number| number.to_string().into()));
    arguments
}

/// Works until courierfilter closes descriptor 0. `arguments` are those after
/// the role.
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    let Some(handed) = handed(arguments) else {
        eprintln!("rblfilter: {ROLE} is for rblfilter itself");
        return ExitCode::from(64);
    };
    let name = filter_name();
    let log = match event_log::start(&name) {
        Ok(guard) => Some(guard),
        Err(error) => {
            eprintln!("{name}: cannot log to syslog: {error}");
            None
        }
    };
    log_panics();
    let code = match start(handed, &name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", Event::new("failed").text(error));
            ExitCode::from(EX_SOFTWARE)
        }
    };
    drop(log);
    code
}

/// What was handed to this process.
struct Descriptors {
    stop: OwnedFd,
    listener: UnixListener,
    link: OwnedFd,
    ready: Option<OwnedFd>,
    path: PathBuf,
}

fn handed(arguments: &[OsString]) -> Option<Descriptors> {
    let (path, numbers) = arguments.split_first()?;
    let numbers: Option<Vec<RawFd>> = numbers
        .iter()
        .map(|number| number.to_str()?.parse().ok().filter(|number| *number > 2))
        .collect();
    let mut owned = descriptors::handed(&numbers?)?.into_iter();
    let (stop, listener, link) = (owned.next()?, owned.next()?, owned.next()?);
    Some(Descriptors {
        stop,
        listener: UnixListener::from(listener),
        link,
        ready: owned.next(),
        path: PathBuf::from(path),
    })
}

fn start(handed: Descriptors, name: &str) -> std::io::Result<()> {
    let paths = Paths::from_env();
    let config = config::read(&paths.config());
    if let Ok(config) = &config {
        log::set_max_level(config.log_level);
    }
    // After the log's thread was started, which need not.
    if let Err(error) = run_soon() {
        log::debug!("{}", Event::new("limits").text(error));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(64)
        .build()?;
    let state = paths.state();
    let ended = runtime.block_on(async {
        let filter = match config {
            Ok(config) => Some(Arc::new(Filter::new(config, paths))),
            Err(error) => {
                let event = Event::new("disabled").text(format!(
                    "{error}; every message is accepted until the file is right and the filter started again (filterctl stop {name}; sleep 1; filterctl start {name})"
                ));
                log::error!("{event}");
                None
            }
        };
        let told = supervised::listen(handed.link, filter.clone())?;
        if let Some(filter) = &filter {
            log::info!("{}", filter.started());
            filter.read_cache();
            tokio::spawn(Arc::clone(filter).keep_lists());
            filter.open_store().await;
            filter.check().await;
            tokio::spawn(control::serve(state, Arc::clone(filter)));
        }
        let handed = Handed {
            stop: handed.stop,
            listener: handed.listener,
            told,
            ready: handed.ready,
            path: handed.path,
        };
        let ended = service::run(handed, filter.clone()).await;
        if let Some(filter) = filter {
            filter.confirm_lists().await;
            filter.close_store().await;
            // On a thread: a disk that hangs must not hold up the stop.
            let written = tokio::task::spawn_blocking(move || filter.write_cache());
            let _ = tokio::time::timeout(WRITE_TIME, written).await;
        }
        ended
    });
    // A thread that hangs on a dead disk must not hold up the stop.
    runtime.shutdown_background();
    log::info!("{}", Event::new("stopped"));
    ended
}

/// A panic is a bug of ours: it is logged, and costs what it happened in alone.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        log::error!("{}", Event::new("bug").text(info));
    }));
}
