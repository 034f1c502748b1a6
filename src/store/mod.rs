//! What must outlive a restart: bans, offence counts, who is let in by hand,
//! and the clients that have delivered mail. An SQLite file, written by a
//! thread of its own in batches; whatever happens to the disk, no sentence
//! waits for it.
//!
//! Bounded: 20,000 messages may wait for the disk. What does not fit, or
//! could not be written, is lost from the file; the owner then hands over
//! everything anew ([`Store::repair`]), which takes its place in one transaction:
//! whatever happens in the middle, the file has what it had before, or all.

mod aside;
mod database;
mod forget;
mod kept;
mod reading;
mod times;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::degraded::{Degraded, Part};
use crate::dnsbl::Clock;
use crate::enforce::book::Hand;
use crate::enforce::durations::Past;
use crate::log::Event;
use database::Database;

pub use database::Error;
pub use forget::Forgotten;
pub use kept::{allowed, kept};
pub use reading::{Journal, open as open_to_read};

/// The file's name, in [`crate::courier::paths::Paths::state`].
pub const FILE: &str = "state.db";
/// Messages that may wait for the disk.
const QUEUE: usize = 20_000;
/// What comes within this time, or so many rows, is one transaction.
const BATCH_TIME: Duration = Duration::from_millis(200);
const BATCH: usize = 1000;
/// How long somebody waits for his rows to be on disk.
const COMMIT_TIME: Duration = Duration::from_secs(1);
/// How often the file learns what time it is, where nothing else is written.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// The pause before a file that could not be opened is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(30);

/// How long the file is tried that another program writes, at the start, and the
/// pause between.
const BUSY_PATIENCE: Duration = Duration::from_secs(60);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// A ban in the file: lists by name, as their places in the configuration may
/// change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// What is banned.
    pub network: IpNetwork,
    /// Whom it was banned for.
    pub client: IpAddr,
    /// When it began, in seconds since 1970.
    pub since: u32,
    /// When it ends.
    pub until: u32,
    /// The how many-eth it is.
    pub count: u16,
    /// The lists that named the client.
    pub zones: Vec<String>,
    /// Those without any of which it would not be.
    pub rests_on: Vec<String>,
    /// Whether the lists can be asked again.
    pub own: bool,
    /// Who asked for it, where somebody did.
    pub hand: Option<Arc<Hand>>,
}

/// Something to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A ban, in the place of the one before.
    Ban(Box<Ban>),
    /// A ban is over; what counts of the network's past from now on.
    End(IpNetwork, Option<Past>),
    /// Somebody is let in until then.
    Allow(IpNetwork, u32),
    /// Not any longer.
    EndAllow(IpNetwork),
    /// A client's mail was accepted at that time.
    Sender(IpAddr, u32),
    /// Those that delivered before this time are forgotten.
    ForgetSenders(u32),
    /// The bans that ended at this time or before count no longer; nor do those
    /// beyond [`MOST_PAST`](crate::enforce::book::MOST_PAST) that ended first.
    ForgetOffences(u32),
    /// All that is of these networks, where it comes in the middle of a repair.
    Forget(Vec<IpNetwork>),
}

/// What was in the file, in the seconds of this process.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The bans that still run.
    pub bans: Vec<Ban>,
    /// What is held against networks that are not banned.
    pub past: Vec<(IpNetwork, Past)>,
    /// Who is let in, and until when.
    pub allows: Vec<(IpNetwork, u32)>,
    /// Who has delivered mail, and when last.
    pub senders: Vec<(IpAddr, u32)>,
}

/// What is to take the place of all that is in the file; made into rows while
/// it is written, on the file's own thread.
pub type Rows = Box<dyn Iterator<Item = Write> + Send>;

enum Message {
    One(Write),
    /// Those who wait want to know that it is on disk.
    Many(Vec<Write>, oneshot::Sender<Result<(), String>>),
    /// In the place of all bans, offences and allows in the file.
    Everything(Rows, oneshot::Sender<Result<(), String>>),
    /// All that is of these networks is deleted for good, of this file and of those
    /// that were set aside.
    Forget(Vec<IpNetwork>, Forgetting),
    /// What was set aside until then is removed, and what was deleted goes from
    /// the log, too.
    Tidy(u32),
    /// Who waits wants to know that the file is closed.
    Close(oneshot::Sender<()>),
}

/// Who waits to hear what was deleted of each network.
type Forgetting = oneshot::Sender<Result<Vec<Forgotten>, String>>;

/// The file's thread.
#[derive(Debug)]
pub struct Store {
    sender: SyncSender<Message>,
    lost: Arc<AtomicBool>,
    degraded: Arc<Degraded>,
    /// What was handed over since a repair has begun.
    journal: Mutex<Option<Vec<Write>>>,
}

impl Store {
    /// Opens the file at `path` on a thread of its own; what was in it comes
    /// through the receiver. Bans that ended longer than `window` seconds ago no
    /// longer count.
    #[must_use]
    pub fn start(
        path: PathBuf,
        window: u32,
        clock: Clock,
        degraded: &Arc<Degraded>,
    ) -> (Self, oneshot::Receiver<Loaded>) {
        let (sender, messages) = sync_channel(QUEUE);
        let (loaded, receiver) = oneshot::channel();
        let lost = Arc::new(AtomicBool::new(false));
        let mut writer = Writer {
            path,
            window,
            clock,
            degraded: Arc::clone(degraded),
            lost: Arc::clone(&lost),
            database: None,
            open_from: None,
            read: false,
        };
        let started = thread::Builder::new().name("store".into()).spawn(move || {
            // Who no longer waits for it does not know it.
            let taken = loaded.send(writer.load()).is_ok();
            writer.read &= taken;
            writer.run(&messages);
        });
        if let Err(error) = started {
            degraded.enter(Part::Store, error, Instant::now());
        }
        let store = Self {
            sender,
            lost,
            degraded: Arc::clone(degraded),
            journal: Mutex::default(),
        };
        (store, receiver)
    }

    /// Has this written in its time. Never waits.
    pub fn put(&self, write: Write) {
        // Held until it is sent: nothing comes between a repair and its rows.
        let mut journal = self.journal();
        note(&mut journal, std::slice::from_ref(&write));
        self.send(Message::One(write));
    }

    fn journal(&self) -> MutexGuard<'_, Option<Vec<Write>>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: Message) -> bool {
        let Err(error) = self.sender.try_send(message) else {
            return true;
        };
        self.lost.store(true, Relaxed);
        // Without its thread there is a degraded state already.
        if let TrySendError::Full(_) = error {
            let text = "the disk does not keep up";
            self.degraded.enter(Part::Store, text, Instant::now());
        }
        false
    }

    /// Has this written and waits, up to a second, until it is on disk.
    ///
    /// # Errors
    /// Why it is not, in words.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<(), String> {
        let (done, committed) = oneshot::channel();
        let sent = {
            let mut journal = self.journal();
            note(&mut journal, &writes);
            self.send(Message::Many(writes, done))
        };
        if !sent {
            return Err("too much waits for the disk".into());
        }
        match timeout(COMMIT_TIME, committed).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("there is no store".into()),
            Err(_) => Err(format!(
                "the disk takes longer than {} s",
                COMMIT_TIME.as_secs()
            )),
        }
    }

    /// Deletes all that is of `networks`, so that no byte of it is left in the file,
    /// and waits for that, up to `limit`: it is written anew as a whole. Of each
    /// network, what that was.
    ///
    /// # Errors
    /// Why something of it may be left, in words.
    pub async fn forget(
        &self,
        networks: &[IpNetwork],
        limit: Duration,
    ) -> Result<Vec<Forgotten>, String> {
        let (done, forgotten) = oneshot::channel();
        let sent = {
            let mut journal = self.journal();
            note(&mut journal, &[Write::Forget(networks.to_vec())]);
            self.send(Message::Forget(networks.to_vec(), done))
        };
        if !sent {
            return Err("too much waits for the disk".into());
        }
        match timeout(limit, forgotten).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("there is no store".into()),
            Err(_) => Err(format!("the disk takes longer than {} s", limit.as_secs())),
        }
    }

    /// Has what was set aside at `before` or earlier removed in its time, and
    /// what was deleted removed from SQLite's log. Never waits.
    pub fn tidy(&self, before: u32) {
        self.send(Message::Tidy(before));
    }

    /// Writes all that waits and closes the file, which another process may open
    /// then; waits for that, up to `limit`. Whether it is closed. What comes later is
    /// lost from the file.
    pub async fn close(&self, limit: Duration) -> bool {
        let (done, closed) = oneshot::channel();
        match self.sender.try_send(Message::Close(done)) {
            Ok(()) => timeout(limit, closed).await.is_ok(),
            // Its thread is gone, and the file is closed.
            Err(TrySendError::Disconnected(_)) => true,
            Err(TrySendError::Full(_)) => false,
        }
    }

    /// Begins to give the file all that it should hold, where it lost something.
    /// The caller gathers it in its own time: what is handed over meanwhile is
    /// written after it. `None` where nothing was lost, or that is done already.
    #[must_use]
    pub fn repair(&self) -> Option<Repair<'_>> {
        let mut journal = self.journal();
        if journal.is_some() || !self.lost.swap(false, Relaxed) {
            return None;
        }
        *journal = Some(Vec::new());
        Some(Repair {
            store: self,
            done: false,
        })
    }
}

/// Notes what is handed over while a repair is under way; one more than would
/// wait for the disk says that there was too much.
fn note(journal: &mut Option<Vec<Write>>, writes: &[Write]) {
    if let Some(journal) = journal {
        let room = (QUEUE + 1).saturating_sub(journal.len());
        journal.extend(writes.iter().take(room).cloned());
    }
}

/// All is gathered that the file should hold. Where it does not come to its
/// end, the file counts as one that lost something still.
#[derive(Debug)]
pub struct Repair<'a> {
    store: &'a Store,
    done: bool,
}

impl Repair<'_> {
    /// Has `rows`, and what was handed over since the beginning, written in the
    /// place of all bans, offences and allows in the file, in one transaction,
    /// and waits for that.
    ///
    /// # Errors
    /// Why the file holds what it held before, in words.
    pub async fn write(mut self, rows: Rows) -> Result<(), String> {
        let (done, committed) = oneshot::channel();
        {
            let mut journal = self.store.journal();
            let since = journal.take().unwrap_or_default();
            if since.len() > QUEUE {
                return Err("too much came meanwhile".into());
            }
            let rows = Box::new(rows.chain(since));
            if !self.store.send(Message::Everything(rows, done)) {
                return Err("too much waits for the disk".into());
            }
        }
        // However long it takes: the file's thread answers, or is gone.
        committed
            .await
            .unwrap_or_else(|_| Err("there is no store".into()))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Repair<'_> {
    fn drop(&mut self) {
        if !self.done {
            *self.store.journal() = None;
            self.store.lost.store(true, Relaxed);
        }
    }
}

struct Writer {
    path: PathBuf,
    /// How long a ban that has ended counts, in seconds.
    window: u32,
    clock: Clock,
    degraded: Arc<Degraded>,
    lost: Arc<AtomicBool>,
    database: Option<Database>,
    open_from: Option<Instant>,
    /// Whether its owner knows what was in the file.
    read: bool,
}

impl Writer {
    fn now(&self) -> u32 {
        self.clock.seconds(Instant::now())
    }

    /// Opens the file and reads it. One that is damaged is set aside, and there
    /// is a new one; one that another program writes is tried again for a while:
    /// who is let in must not be forgotten for that.
    fn load(&mut self) -> Loaded {
        let patience = Instant::now() + BUSY_PATIENCE;
        let mut is_new = false;
        loop {
            match self.open().and_then(|database| {
                let loaded = database.load(self.now(), self.window)?;
                Ok((database, loaded))
            }) {
                Ok((database, loaded)) => {
                    self.database = Some(database);
                    self.read = true;
                    return loaded;
                }
                Err(error) if error.is_busy() && Instant::now() < patience => {
                    thread::sleep(BUSY_PAUSE);
                }
                Err(error) if !self.set_aside(&error) || is_new => break,
                Err(_) => is_new = true,
            }
        }
        self.open_from = Some(Instant::now() + OPEN_AGAIN);
        Loaded::default()
    }

    fn open(&self) -> Result<Database, Error> {
        Database::open(&self.path)
    }

    /// Notes the error; whether the file was damaged and is out of the way.
    fn set_aside(&mut self, error: &Error) -> bool {
        let mut text = format!("{}: {error}", self.path.display());
        let mut aside = false;
        if error.is_damage() {
            match aside::set_aside(&self.path, self.now()) {
                Ok(to) => {
                    aside = true;
                    self.read = true;
                    if let Some(to) = to {
                        text = format!("{text}; it is kept as {}", to.display());
                        // Where the store did not work before, nothing else tells.
                        let event = Event::new("setaside").field("name", to.display());
                        log::warn!("{}", event.text(error));
                    }
                }
                Err(error) => text = format!("{text}; it cannot be set aside: {error}"),
            }
        }
        // Not before: SQLite removes what belongs to a file that is closed.
        self.database = None;
        self.degraded.enter(Part::Store, text, Instant::now());
        aside
    }

    /// Writes what comes until nobody is left who could send anything.
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let first = match messages.recv_timeout(HEARTBEAT) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut batch = Batch::default();
            let end = Instant::now() + BATCH_TIME;
            let mut next = first;
            while let Some(message) = next {
                next = None;
                if batch.add(message) && batch.writes.len() < BATCH {
                    let left = end.saturating_duration_since(Instant::now());
                    next = messages.recv_timeout(left).ok();
                }
            }
            let result = self.write(&mut batch);
            for waits in batch.acknowledge {
                // He may have given up.
                let _ = waits.send(result.clone());
            }
            if let Some((networks, waits)) = batch.forget.take() {
                // He may have given up.
                let _ = waits.send(result.and_then(|()| self.forget(&networks)));
            }
            if let Some(before) = batch.tidy {
                aside::remove_older(&self.path, before);
                if let Some(database) = &self.database {
                    // It is tried again in an hour.
                    let _ = database.cut_off_log();
                }
            }
            if let Some(closed) = batch.close {
                let _ = self.write(&mut Batch::default());
                self.database = None;
                // He may have given up.
                let _ = closed.send(());
                return;
            }
        }
        // The last word on what time it is.
        let _ = self.write(&mut Batch::default());
    }

    fn forget(&mut self, networks: &[IpNetwork]) -> Result<Vec<Forgotten>, String> {
        let now = self.now();
        // Not in the way of the rest.
        let files = aside::remove_those_of(&self.path, networks);
        let Some(database) = &mut self.database else {
            return Err("the store cannot be opened".into());
        };
        let mut forgotten = database.forget(networks, now).map_err(|error| {
            // What was not deleted is to be in no later repair either: all is
            // written anew.
            self.lost.store(true, Relaxed);
            error.to_string()
        })?;
        let files = files.map_err(|error| {
            format!("a file that was set aside cannot be read or removed: {error}")
        })?;
        for place in files {
            forgotten[place].files += 1;
        }
        Ok(forgotten)
    }

    fn write(&mut self, batch: &mut Batch) -> Result<(), String> {
        if let Some(database) = &self.database
            && let Err(error) = database.look(&self.path)
            && error.is_damage()
        {
            self.set_aside(&error);
            self.open_from = None;
        }
        if self.database.is_none() && self.open_from.is_none_or(|from| Instant::now() >= from) {
            // Read for its times alone, which become ours.
            match self.open().and_then(|database| {
                database.load(self.now(), self.window)?;
                Ok(database)
            }) {
                Ok(database) => {
                    self.database = Some(database);
                    // It lacks what came meanwhile.
                    self.lost.store(true, Relaxed);
                }
                Err(error) => {
                    self.open_from = Some(Instant::now() + OPEN_AGAIN);
                    self.set_aside(&error);
                }
            }
        }
        let now = self.now();
        let Some(database) = &mut self.database else {
            return Err("the store cannot be opened".into());
        };
        let written = match batch.everything.take() {
            // What a file holds that was never read stays for the next start.
            Some(rows) => database.replace(rows, !self.read, &batch.writes, now),
            None => database.write(&batch.writes, now),
        };
        match written {
            Ok(()) => {
                self.degraded.leave(&Part::Store, Instant::now());
                Ok(())
            }
            Err(error) => {
                self.lost.store(true, Relaxed);
                if error.is_damage() {
                    self.set_aside(&error);
                    self.open_from = None;
                } else {
                    let text = format!("{}: {error}", self.path.display());
                    self.degraded.enter(Part::Store, text, Instant::now());
                }
                Err(error.to_string())
            }
        }
    }
}

/// What is written at once.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    /// What takes the place of all that was, before them.
    everything: Option<Rows>,
    acknowledge: Vec<oneshot::Sender<Result<(), String>>>,
    /// Whom to forget after it, and who waits for that.
    forget: Option<(Vec<IpNetwork>, Forgetting)>,
    /// What was set aside until then goes after it.
    tidy: Option<u32>,
    /// Who wants it to be the last.
    close: Option<oneshot::Sender<()>>,
}

impl Batch {
    /// Adds a message; whether there may be more.
    fn add(&mut self, message: Message) -> bool {
        match message {
            Message::One(write) => self.writes.push(write),
            Message::Many(writes, waits) => {
                self.writes.extend(writes);
                self.acknowledge.push(waits);
                return false;
            }
            Message::Forget(networks, waits) => {
                self.forget = Some((networks, waits));
                return false;
            }
            Message::Tidy(before) => {
                self.tidy = Some(before);
                return false;
            }
            Message::Close(closed) => {
                self.close = Some(closed);
                return false;
            }
            Message::Everything(rows, waits) => {
                // What stands before it is in it; who delivered mail may not be.
                self.writes
                    .retain(|write| matches!(write, Write::Sender(..) | Write::ForgetSenders(_)));
                self.everything = Some(rows);
                self.acknowledge.push(waits);
                return false;
            }
        }
        true
    }
}

/// A line that tells what came back.
#[must_use]
pub fn restored(loaded: &Loaded) -> Event {
    Event::new("store")
        .field("bans", loaded.bans.len())
        .field("offences", loaded.past.len())
        .field("allowed", loaded.allows.len())
        .field("senders", loaded.senders.len())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
