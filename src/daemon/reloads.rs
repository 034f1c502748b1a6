//! Putting the configuration, and the programs, into service as they are now:
//! on request, and where it is wished when a file changes ([`super::changes`]).
//!
//! The worker that serves looks whether the file is right, so that whoever asks
//! is told what is wrong with it, and then asks the supervisor for another worker
//! (`supervisor.rs`). Where the installed program is not the one that runs, what
//! is right is for that one to say, and the new worker looks alone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::OWN_PROGRAM;
use super::changes::Files;
use super::filter::Filter;
use super::link::Word;
use super::supervised::Supervisor;
use crate::config;
use crate::degraded::Part;
use crate::log::Event;

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
    /// The line of the one for which the supervisor was asked, until it is known what
    /// has become of it.
    asked: std::sync::Mutex<Option<Event>>,
}

/// Why there is no other worker.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file is wrong.
    Refused(String),
    /// It did not come to be, and may the next time.
    Unlucky(String),
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
            asked: std::sync::Mutex::default(),
        }
    }

    /// The file that they put into service.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Another worker serves.
    pub fn done(&self) {
        if let Some(event) = self.asked() {
            log::info!("{event}");
        }
        self.outcome.send_replace(Outcome::Done);
    }

    /// None does, for this reason.
    pub fn failed(&self, why: &str) {
        if let Some(event) = self.asked() {
            log::error!("{}", event.field("failed", "yes").text(why));
        }
        self.outcome.send_replace(Outcome::Failed(why.into()));
    }

    /// What is to be told here, as whoever waits may be gone by then.
    fn asked(&self) -> Option<Event> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.take()
    }

    /// Whether a reload would bring nothing else into service than what this process
    /// began with: the files are as it has `read` them, and the program is its own.
    pub(super) async fn is_as_begun(&self, read: &Files) -> bool {
        let file = self.file.clone();
        let looked = tokio::task::spawn_blocking(move || (Files::at(&file), is_replaced()));
        looked
            .await
            .is_ok_and(|(now, replaced)| !replaced && now == *read)
    }

    /// Has another worker take our place, for `user`, and waits until it serves.
    ///
    /// # Errors
    /// Why none does, in words.
    pub async fn reload(&self, user: &str) -> Result<String, String> {
        let done = "the filter runs with the configuration as it is now";
        match self.ask_for_another(user).await {
            Ok(true) => Ok(format!(
                "{done}; sets or rules are others now: rblfilter firewall apply"
            )),
            Ok(false) => Ok(done.into()),
            Err(Failure::Refused(why) | Failure::Unlucky(why)) => Err(why),
        }
    }

    /// The same, where nobody waits for it but the log: for `user`, or what stands there
    /// for one. Whether the firewall is to be set up anew.
    pub(super) async fn ask_for_another(&self, user: &str) -> Result<bool, Failure> {
        let Ok(_one) = self.one.try_lock() else {
            return Err(Failure::Unlucky("a reload is under way already".into()));
        };
        let event = Event::new("reload").field("user", user);
        let file = self.file.clone();
        // On a thread: the disk may be slow.
        let checked = tokio::task::spawn_blocking(move || match is_replaced() {
            true => None,
            false => Some(config::read_installed(&file)),
        });
        let mut rules_differ = false;
        match checked.await {
            Ok(Some(Err(error))) => {
                self.is_wrong(&error);
                let why = format!("{error}; the configuration before stays in force");
                log::error!("{}", event.field("failed", "yes").text(&why));
                return Err(Failure::Refused(why));
            }
            Ok(Some(Ok(config))) => {
                if let Some(filter) = &self.filter {
                    rules_differ = filter.firewall_differs(&config);
                    filter.degraded().leave(&Part::Config, Instant::now());
                }
            }
            Ok(None) | Err(_) => {}
        }
        let mut outcome = self.outcome.subscribe();
        self.outcome.send_replace(Outcome::Open);
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(event);
        if !self.supervisor.say(Word::Reload) {
            self.failed(ALONE);
            return Err(Failure::Unlucky(ALONE.into()));
        }
        let settled = outcome.wait_for(|outcome| *outcome != Outcome::Open);
        match timeout(PATIENCE, settled).await {
            Ok(Ok(outcome)) => match &*outcome {
                Outcome::Failed(why) => Err(Failure::Unlucky(why.clone())),
                Outcome::Done | Outcome::Open => Ok(rules_differ),
            },
            _ => {
                let why = format!("no new worker within {} s", PATIENCE.as_secs());
                self.failed(&why);
                Err(Failure::Unlucky(why))
            }
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
}

/// What is told where the supervisor is gone.
pub const ALONE: &str = "the supervisor is gone: stop the filter and start it (filterctl stop rblfilter; sleep 1; filterctl start rblfilter)";

/// Whether the installed program is not the one that this process runs.
fn is_replaced() -> bool {
    let file = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let link = Path::new(OWN_PROGRAM);
    let Ok(place) = fs::read_link(link) else {
        return false;
    };
    // The kernel adds " (deleted)" to the name, under which there is none.
    match (file(link), file(&place)) {
        (Ok(running), Ok(installed)) => running != installed,
        _ => true,
    }
}
