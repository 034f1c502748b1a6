//! Putting the configuration, and the programs, into service as they are now:
//! on request, and where it is wished when the file changes.
//!
//! The worker that serves looks whether the file is right, so that whoever asks
//! is told what is wrong with it, and then asks the supervisor for another worker
//! (`supervisor.rs`). Where the installed program is not the one that runs, what
//! is right is for that one to say, and the new worker looks alone.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::filter::Filter;
use super::link::Word;
use super::supervised::Supervisor;
use crate::config;
use crate::degraded::Part;
use crate::log::Event;
use crate::sys::watched;

/// How long the file must have been left alone before it is read.
const QUIET: Duration = Duration::from_millis(1500);
/// How long a new worker may take to serve: the supervisor gives up one that is
/// not ready before.
const PATIENCE: Duration = Duration::from_secs(60);

/// What has become of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is under way, or there was none.
    Open,
    /// Another worker serves.
    Done,
    /// None does, for this reason.
    Failed(String),
}

/// The reloads of a worker.
#[derive(Debug)]
pub struct Reloads {
    supervisor: Supervisor,
    file: PathBuf,
    /// Whose status tells of a wrong file.
    filter: Option<Arc<Filter>>,
    /// Held while one is under way.
    one: Mutex<()>,
    outcome: watch::Sender<Outcome>,
}

impl Reloads {
    /// Reloads of the configuration in `file`, in the place of `filter`'s.
    #[must_use]
    pub fn new(supervisor: Supervisor, file: PathBuf, filter: Option<Arc<Filter>>) -> Self {
        Self {
            supervisor,
            file,
            filter,
            one: Mutex::new(()),
            outcome: watch::Sender::new(Outcome::Open),
        }
    }

    /// Another worker serves.
    pub fn done(&self) {
        self.outcome.send_replace(Outcome::Done);
    }

    /// None does, for this reason.
    pub fn failed(&self, why: &str) {
        self.outcome.send_replace(Outcome::Failed(why.into()));
    }

    /// Has another worker take our place, for `user`, and waits until it serves.
    ///
    /// # Errors
    /// Why none does, in words.
    pub async fn reload(&self, user: &str) -> Result<String, String> {
        let Ok(_one) = self.one.try_lock() else {
            return Err("a reload is under way already".into());
        };
        let event = Event::new("reload").field("user", user);
        let mut rules_differ = false;
        let result = self.ask_for_another(&mut rules_differ).await;
        match &result {
            Ok(()) => log::info!("{event}"),
            Err(error) => log::error!("{}", event.field("failed", "yes").text(error)),
        }
        let done = "the filter runs with the configuration as it is now";
        result.map(|()| match rules_differ {
            true => format!("{done}; sets or rules are others now: rblfilter firewall apply"),
            false => done.into(),
        })
    }

    /// Notes in `rules_differ` whether the firewall is to be set up anew.
    async fn ask_for_another(&self, rules_differ: &mut bool) -> Result<(), String> {
        let file = self.file.clone();
        // On a thread: the disk may be slow.
        let checked = tokio::task::spawn_blocking(move || match is_replaced() {
            true => None,
            false => Some(config::read_installed(&file)),
        });
        match checked.await {
            Ok(Some(Err(error))) => {
                self.is_wrong(&error);
                return Err(format!("{error}; the configuration before stays in force"));
            }
            Ok(Some(Ok(config))) => {
                if let Some(filter) = &self.filter {
                    *rules_differ = filter.firewall_differs(&config);
                    filter.degraded().leave(&Part::Config, Instant::now());
                }
            }
            Ok(None) | Err(_) => {}
        }
        let mut outcome = self.outcome.subscribe();
        self.outcome.send_replace(Outcome::Open);
        if !self.supervisor.say(Word::Reload) {
            return Err(ALONE.into());
        }
        let settled = outcome.wait_for(|outcome| *outcome != Outcome::Open);
        match timeout(PATIENCE, settled).await {
            Ok(Ok(outcome)) => match &*outcome {
                Outcome::Failed(why) => Err(why.clone()),
                Outcome::Done | Outcome::Open => Ok(()),
            },
            _ => Err(format!("no new worker within {} s", PATIENCE.as_secs())),
        }
    }

    /// The file is wrong: whoever starts with it accepts every message.
    fn is_wrong(&self, error: &str) {
        if let Some(filter) = &self.filter {
            let text = format!("{error}; a restart of the worker would accept every message");
            let degraded = filter.degraded();
            degraded.enter(Part::Config, text, Instant::now());
        }
    }

    /// Reloads whenever the file has another content than `now`, until the future
    /// is dropped. A wrong one is told once.
    pub async fn on_change(self: Arc<Self>, mut now: Option<Vec<u8>>) {
        let watched = match watched_folder(&self.file) {
            Ok(watched) => watched,
            Err(error) => {
                let event = Event::new("noreload").text(format!(
                    "changes of {} are not seen: {error}",
                    self.file.display()
                ));
                log::error!("{event}");
                return;
            }
        };
        loop {
            // It may have changed before we watched.
            let text = fs::read(&self.file).ok();
            if text != now {
                // One that is gone is no configuration, and none that is on its way.
                if text.is_some() {
                    // It is told in the log.
                    let _ = self.reload("change").await;
                }
                now = text;
            }
            let Ok(mut ready) = watched.readable().await else {
                return;
            };
            loop {
                drain(&watched);
                ready.clear_ready();
                // Editors write in more than one step.
                match timeout(QUIET, watched.readable()).await {
                    Ok(Ok(again)) => ready = again,
                    Ok(Err(_)) => return,
                    Err(_) => break,
                }
            }
        }
    }
}

/// What is told where the supervisor is gone.
pub const ALONE: &str = "the supervisor is gone: stop the filter and start it (filterctl stop rblfilter; sleep 1; filterctl start rblfilter)";

/// Whether the installed program is not the one that this process runs.
fn is_replaced() -> bool {
    let file = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let link = Path::new("/proc/self/exe");
    let Ok(place) = fs::read_link(link) else {
        return false;
    };
    // The kernel adds " (deleted)" to the name, under which there is none.
    match (file(link), file(&place)) {
        (Ok(running), Ok(installed)) => running != installed,
        _ => true,
    }
}

type Watched = tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>;

/// The folder of the file, as editors put a new one in the place of the one before.
fn watched_folder(file: &Path) -> std::io::Result<Watched> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_CREATE;
    inotify.add_watch(folder, changes)?;
    watched(inotify.into(), Interest::READABLE)
}

fn drain(watched: &Watched) {
    let mut bytes = [0; 4096];
    // What changed is looked at in the file itself.
    while nix::unistd::read(watched.get_ref().as_fd(), &mut bytes).is_ok_and(|length| length > 0) {}
}
