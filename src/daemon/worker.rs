//! The process that does the filter's work. The order of its start:
//!
//! 1. descriptors: those that the supervisor handed on are ours; no privilege
//!    that there may be is kept;
//! 2. the log;
//! 3. the configuration (a wrong one: every message is accepted; a worker that
//!    is to take another's place ends, and that one serves on);
//! 4. the process that looks up aliases, and the walls (`sys::sandbox`): nothing
//!    has been read from outside yet;
//! 5. where another one serves, it is waited for to give up its place
//!    ([`super::handover`]);
//! 6. what the lists said before, their tests, the bans that still run, and the
//!    warden; the control socket;
//! 7. ready: courierfilter's descriptor 3 is closed, last.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl;
use rblfilter_warden::policy::Layer;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

use super::changes::Files;
use super::control::{Answers, Control, Doers};
use super::custody::Custody;
use super::filter::{Filter, Prepared};
use super::handover::{self, Baton};
use super::link::Word;
use super::lookups;
use super::reloads::{self, Reloads};
use super::service::{Ended, Handed, Service, is_at_end};
use super::supervised::{self, Told};
use super::{EX_CONFIG, EX_SOFTWARE, OWN_PROGRAM, filter_name};
use crate::config::{self, Config};
use crate::courier::aliases::Aliases;
use crate::courier::paths::Paths;
use crate::log::{self as event_log, Event};
use crate::place::Place;
use crate::sys::{descriptors, run_soon, sandbox};

/// The first argument of a worker.
pub const ROLE: &str = "supervised-worker";

/// The second: the version of what supervisor and worker say to one another, and
/// of what one supervisor tells the next. Programs of two versions do not work
/// together; then the filter has to be stopped and started.
pub const VERSION: &str = "3";

/// How long the start and the stop wait for what the lists said to be read and
/// written.
const DISK_TIME: Duration = Duration::from_secs(3);

/// A worker's arguments: whether it is the next one beside another, the socket's
/// place (which may be another's by the time that the worker looks), then the numbers
/// of the descriptors of the listener, the link, and the ready pipe where it has not
/// been closed yet. Descriptor 0 is courierfilter's.
pub(super) fn arguments(numbers: &[RawFd], socket: &Place, is_next: bool) -> Vec<OsString> {
    let turn = if is_next { NEXT } else { FIRST };
    let mut arguments = vec![ROLE.into(), VERSION.into(), turn.into()];
    arguments.extend(socket.to_arguments());
    arguments.extend(numbers.iter().map(|number| number.to_string().into()));
    arguments
}

const FIRST: &str = "first";
const NEXT: &str = "next";

/// Works until courierfilter closes descriptor 0. `arguments` are those after
/// the role.
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    let Some(handed) = handed(arguments) else {
        eprintln!("rblfilter: {ROLE} is for rblfilter itself");
        return ExitCode::from(64);
    };
    let name = filter_name();
    // Where it was started as what the supervisor runs, it would be called "exe".
    if let Ok(name) = CString::new(name.as_str()) {
        let _ = prctl::set_name(&name);
    }
    // Of this thread, which is the only one yet, and of all that it starts.
    let dropped = sandbox::drop_privileges();
    let log = match event_log::start(&name) {
        Ok(guard) => Some(guard),
        Err(error) => {
            eprintln!("{name}: cannot log to syslog: {error}");
            None
        }
    };
    log_panics();
    let code = start(handed, &name, dropped).unwrap_or_else(|error| {
        log::error!("{}", Event::new("failed").text(error));
        ExitCode::from(EX_SOFTWARE)
    });
    drop(log);
    code
}

/// What was handed to this process.
struct Descriptors {
    /// Another worker serves.
    is_next: bool,
    stop: OwnedFd,
    listener: UnixListener,
    link: OwnedFd,
    ready: Option<OwnedFd>,
    place: Place,
}

fn handed(arguments: &[OsString]) -> Option<Descriptors> {
    let [version, turn, path, of, numbers @ ..] = arguments else {
        return None;
    };
    if version != VERSION || (turn != FIRST && turn != NEXT) {
        return None;
    }
    let numbers: Option<Vec<RawFd>> = numbers
        .iter()
        .map(|number| number.to_str()?.parse().ok().filter(|number| *number > 2))
        .collect();
    let mut owned = descriptors::handed(&numbers?)?.into_iter();
    let (stop, listener, link) = (owned.next()?, owned.next()?, owned.next()?);
    Some(Descriptors {
        is_next: turn == NEXT,
        stop,
        listener: UnixListener::from(listener),
        link,
        ready: owned.next(),
        place: Place::from_arguments(path, of)?,
    })
}

fn start(handed: Descriptors, name: &str, dropped: sandbox::Dropped) -> io::Result<ExitCode> {
    let paths = Paths::from_env();
    // What is read now is in force, whatever comes in between.
    let files = Files::at(&paths.config());
    let config = config::read(&paths.config());
    if let Ok(config) = &config {
        log::set_max_level(config.log_level);
        event_log::set_lines_per_second(config.log_lines);
    }
    // After the log's thread was started, which need not.
    if let Err(error) = run_soon() {
        log::debug!("{}", Event::new("limits").text(error));
    }
    let config = match config {
        Ok(config) => Some(config),
        Err(error) if handed.is_next => {
            let text = format!("{error}; the configuration before stays in force");
            log::error!("{}", Event::new("noreload").text(text));
            return Ok(ExitCode::from(EX_CONFIG));
        }
        Err(error) => {
            let event = Event::new("disabled").text(format!(
                "{error}; every message is accepted until the file is right and read again (rblfilter reload)"
            ));
            log::error!("{event}");
            None
        }
    };
    let wanted = config
        .as_ref()
        .map_or(Layer::Auto, |config| config.sandbox.seccomp);
    let needs_aliases = config.as_ref().is_some_and(needs_aliases);
    let prepared = prepare(&paths, name, dropped, wanted, needs_aliases);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(64)
        .build()?;
    let ended = runtime.block_on(work(handed, config, paths, prepared, files));
    // A thread that hangs on a dead disk must not hold up the stop.
    runtime.shutdown_background();
    if let Ok(true) = ended {
        log::info!("{}", Event::new("stopped"));
    }
    ended.map(|_| ExitCode::SUCCESS)
}

/// Works until the stop, or until another worker has taken our place; whether it
/// was the stop. `files` are the configuration's, as it was read.
async fn work(
    handed: Descriptors,
    config: Option<Config>,
    paths: Paths,
    prepared: Prepared,
    files: Files,
) -> io::Result<bool> {
    let (state, file) = (paths.state(), paths.config());
    let on_change = config
        .as_ref()
        .is_some_and(|config| config.reload_on_change);
    let needs_aliases = config.as_ref().is_some_and(needs_aliases);
    let filter = config.map(|config| Arc::new(Filter::new(config, paths, prepared)));
    let (supervisor, mut told) = supervised::listen(handed.link, filter.clone())?;
    // It must be there before we are alone, should the supervisor die meanwhile.
    if handed.is_next && filter.as_ref().is_some_and(|filter| filter.needs_warden()) {
        supervisor.say(Word::Warden);
    }
    supervisor.say(Word::Ready);
    let Some(baton) = place(&mut told).await else {
        return Ok(false);
    };
    let (control, baton) = match baton {
        Some(baton) => handover::take(baton).await,
        None => (None, None),
    };
    let reloads = Arc::new(Reloads::new(supervisor.clone(), file, filter.clone()));
    let custody = match &filter {
        Some(_) if baton.is_some() => Custody::take_over(&state).await,
        Some(_) => Custody::take(&state).await,
        None => None,
    };
    let running = Running::start(filter.as_ref(), handed.is_next).await;
    let doers = Doers {
        filter: filter.clone(),
        reloads: Arc::clone(&reloads),
    };
    // Where the filter was stopped while we started, the commands are the next one's.
    let control = (!is_at_end(&handed.stop))
        .then(|| Control::start(&state, control, doers))
        .flatten();
    let mut service = Service::new(
        Handed {
            stop: handed.stop,
            listener: handed.listener,
            told,
            reloads: Arc::clone(&reloads),
            ready: handed.ready,
            place: handed.place,
        },
        filter.clone(),
    )?;
    if let Some(baton) = baton {
        // One that is gone needs no word.
        let _ = baton.say(Word::Serving, None);
    }
    supervisor.say(Word::Serving);
    if let Some(filter) = filter.as_ref().filter(|filter| filter.has_gate()) {
        filter.gate().want();
    }
    let lookups = filter.clone().filter(|_| needs_aliases).map(|filter| {
        let keep = lookups::keep(filter, Arc::clone(&reloads), files.clone(), handed.is_next);
        tokio::spawn(keep)
    });
    let changes = on_change.then(|| tokio::spawn(Arc::clone(&reloads).on_change(files)));
    let baton = loop {
        match service.serve().await {
            Ended::Stop => break None,
            Ended::Retire(baton) => match Baton::of(baton) {
                Some(baton) => break Some(Some(baton)),
                // It died before it could hand over the other end: our place is ours.
                None if service.becomes_alone().await => reloads.failed(reloads::ALONE),
                // The next one died, and it starts another.
                None => break Some(None),
            },
        }
    };
    for asking in changes.into_iter().chain(lookups) {
        asking.abort();
    }
    if let Some(filter) = &filter {
        filter.gate().close();
        filter.leave_off();
    }
    running.leave_off();
    let Some(baton) = baton else {
        service.take_backlog().await;
        reloads.failed("the filter is stopped");
        // The next one may start already, and waits for what is on disk.
        let given_up = async {
            let answers = match control {
                Some(control) => control.stop().await.map(|(_, answers)| answers),
                None => None,
            };
            give_up(filter.as_ref(), &running, custody).await;
            given(answers).await;
        };
        tokio::join!(given_up, service.finish());
        if let Some(filter) = filter {
            filter.stopped();
            filter.finish_kills().await;
        }
        return Ok(true);
    };
    let (listener, answers) = match control {
        // Messages are taken as long as commands are waited for.
        Some(control) => service.serve_during(control.stop()).await.unzip(),
        None => (None, None),
    };
    give_up(filter.as_ref(), &running, custody).await;
    let serves = match baton {
        Some(baton) => baton.pass(listener.as_ref()).await,
        None => false,
    };
    drop(listener);
    if serves {
        reloads.done();
    } else {
        reloads.failed("the new worker has ended, another one is started; the log tells why");
        if service.is_stopped() {
            // The supervisor may not know yet that nobody else serves them.
            service.take_backlog().await;
        } else if service.is_alone() {
            let text = "every message is accepted until the filter is stopped and started: the new worker has ended, and so has the supervisor";
            log::error!("{}", Event::new("disabled").text(text));
            service.accept_all();
            while let Ended::Retire(_) = service.serve().await {}
            service.take_backlog().await;
        }
    }
    tokio::join!(given(answers), service.finish());
    if let Some(filter) = filter {
        filter.finish_kills().await;
        filter.stopped();
    }
    Ok(false)
}

/// Gives up what is on disk, with all that goes there: who comes after us reads it.
async fn give_up(filter: Option<&Arc<Filter>>, running: &Running, custody: Option<Custody>) {
    let Some(filter) = filter else { return };
    filter.retire().await;
    running.end();
    let (is_closed, ()) = tokio::join!(filter.close_store(), write_cache(Arc::clone(filter)));
    if !is_closed {
        // It is written still: the lock ends with us.
        std::mem::forget(custody);
    }
}

/// Waits until the commands are answered.
async fn given(answers: Option<Answers>) {
    if let Some(answers) = answers {
        answers.given().await;
    }
}

/// Waits for the word that this is our place, and what comes with it; `None` where
/// it will not be.
async fn place(told: &mut Receiver<Told>) -> Option<Option<OwnedFd>> {
    loop {
        if let Told::Take(baton) = told.recv().await? {
            return Some(baton);
        }
    }
}

/// What goes on as long as the service.
struct Running {
    /// What ends sessions, and the keeping of bans.
    watch: Option<JoinHandle<()>>,
    lists: Option<JoinHandle<()>>,
}

impl Running {
    /// Takes up what was left on disk, and begins. A next worker's service does not
    /// wait for the look whether bans work.
    async fn start(filter: Option<&Arc<Filter>>, is_next: bool) -> Self {
        let Some(filter) = filter else {
            return Self {
                watch: None,
                lists: None,
            };
        };
        log::info!("{}", filter.started());
        let reader = Arc::clone(filter);
        on_disk(move || reader.read_cache()).await;
        let lists = tokio::spawn(Arc::clone(filter).keep_lists());
        filter.open_store().await;
        let check = {
            let filter = Arc::clone(filter);
            async move { filter.check().await }
        };
        if is_next {
            tokio::spawn(check);
        } else {
            check.await;
        }
        // Who was ended must end, be it that another worker serves by then.
        tokio::spawn(Arc::clone(filter).see_to_kills());
        Self {
            watch: Some(tokio::spawn(Arc::clone(filter).run())),
            lists: Some(lists),
        }
    }

    /// Ends no more sessions but those that are refused.
    fn leave_off(&self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }

    /// Lifts no more bans.
    fn end(&self) {
        if let Some(lists) = &self.lists {
            lists.abort();
        }
    }
}

/// Writes what the lists said.
async fn write_cache(filter: Arc<Filter>) {
    on_disk(move || filter.write_cache()).await;
}

/// Works on a thread, for a limited time: a disk that hangs must not hold us up.
async fn on_disk(work: impl FnOnce() + Send + 'static) {
    let done = tokio::task::spawn_blocking(work);
    let _ = tokio::time::timeout(DISK_TIME, done).await;
}

/// Whether anybody's aliases may have to be looked up.
fn needs_aliases(config: &Config) -> bool {
    !config.exempt_recipients.is_empty()
}

/// Starts what runs `aliaslookup`, as the worker cannot run anything after
/// this, where it is needed, and builds the worker's walls.
fn prepare(
    paths: &Paths,
    name: &str,
    dropped: sandbox::Dropped,
    seccomp: Layer,
    needs_aliases: bool,
) -> Prepared {
    // The program that this process runs, be it replaced since: one of another version
    // may want other arguments.
    let program = Path::new(OWN_PROGRAM);
    let aliases =
        needs_aliases.then(|| Aliases::start(program, name, &paths.aliaslookup(), seccomp));
    if let Some(Err(error)) = &aliases {
        let text = format!("no look-ups of aliases: {error}");
        log::warn!("{}", Event::new("limits").text(text));
    }
    let layers = sandbox::enter(dropped, seccomp, |layer, error| {
        let event = Event::new("sandbox").field("without", layer);
        log::warn!("{}", event.text(error));
    });
    Prepared {
        aliases: aliases.and_then(Result::ok).map(Arc::new),
        layers,
    }
}

/// A panic is a bug of ours: it is logged, and costs what it happened in alone.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        log::error!("{}", Event::new("bug").text(info));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_is_not_waited_for_for_long() {
        let (done, hangs) = std::sync::mpsc::channel::<()>();
        let begun = std::time::Instant::now();
        on_disk(move || assert!(hangs.recv().is_err())).await;
        assert!(begun.elapsed() >= DISK_TIME);
        drop(done);
    }
}
