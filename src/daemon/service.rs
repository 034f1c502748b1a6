//! The filter socket's service: accepts connections, answers each, leaves off when
//! courierfilter says so, or another worker takes its place.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ACCEPTED;
use super::filter::{Decision, Filter, READ_TIME};
use super::reloads::{self, Reloads};
use super::supervised::Told;
use crate::config::MAX_LIMIT;
use crate::courier::filter_socket;
use crate::courier::identified::Peer;
use crate::courier::request;
use crate::log::Event;
use crate::place::Place;
use crate::sys::watched;

/// Requests that are served at the same time; further ones wait in the
/// socket's backlog.
const MAX_REQUESTS: usize = 1024;
/// How long the supervisor may take to say that it has unlinked the socket.
const UNLINK_TIME: Duration = Duration::from_secs(1);
/// How long the stop waits for open requests, at the least: as long as one may
/// take to be judged and answered.
const DRAIN: Duration = Duration::from_secs(10);
/// The same, at the most (`filter::patience` of the longest `lookup.limit`, and
/// [`REPLY_TIME`]).
pub const LONGEST_DRAIN: Duration = MAX_LIMIT
    .saturating_add(READ_TIME)
    .saturating_add(REPLY_TIME);
/// How long before that a grace ends, so that what follows it can be done.
const LAST: Duration = Duration::from_secs(2);
/// How long the end of the link to a supervisor that is gone may take to show.
const GONE: Duration = Duration::from_millis(500);
/// How long `submit` may take to take its reply.
const REPLY_TIME: Duration = Duration::from_secs(5);
/// The pause after the system had no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the supervisor hands to its worker, which listens to it.
#[derive(Debug)]
pub struct Handed {
    /// courierfilter's descriptor 0: end of file is the stop.
    pub stop: OwnedFd,
    /// The filter socket.
    pub listener: std::os::unix::net::UnixListener,
    /// What the supervisor says.
    pub told: mpsc::Receiver<Told>,
    /// Who waits for another worker.
    pub reloads: Arc<Reloads>,
    /// courierfilter's descriptor 3, where nobody was ready yet.
    pub ready: Option<OwnedFd>,
    /// Where the socket is.
    pub place: Place,
}

/// Why the service has left off.
#[derive(Debug)]
pub enum Ended {
    /// courierfilter has closed descriptor 0, and the socket is unlinked.
    Stop,
    /// Another worker takes its place; this is the baton.
    Retire(OwnedFd),
}

/// The service of the filter socket.
#[derive(Debug)]
pub struct Service {
    listener: UnixListener,
    place: Place,
    stop_pipe: AsyncFd<OwnedFd>,
    told: mpsc::Receiver<Told>,
    reloads: Arc<Reloads>,
    hangup: Signal,
    filter: Option<Arc<Filter>>,
    /// Says that nobody is left a grace any longer.
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
    free: Arc<Semaphore>,
}

impl Service {
    /// The service, which says that it is ready. Without a `filter`, every message
    /// is accepted.
    ///
    /// # Errors
    /// Where it cannot start.
    pub fn new(handed: Handed, filter: Option<Arc<Filter>>) -> io::Result<Self> {
        handed.listener.set_nonblocking(true)?;
        let service = Self {
            listener: UnixListener::from_std(handed.listener)?,
            place: handed.place,
            stop_pipe: watched(handed.stop, Interest::READABLE)?,
            told: handed.told,
            reloads: handed.reloads,
            hangup: signal(SignalKind::hangup())?,
            filter,
            stopping: watch::Sender::new(false),
            tasks: JoinSet::new(),
            free: Arc::new(Semaphore::new(MAX_REQUESTS)),
        };
        drop(handed.ready);
        Ok(service)
    }

    /// Serves until courierfilter closes descriptor 0, or another worker takes
    /// our place. (SIGTERM and SIGINT are ignored since the supervisor: they are
    /// not how a filter is stopped, and one that ended by them would hold up mail.)
    pub async fn serve(&mut self) -> Ended {
        let mut supervised = true;
        loop {
            let while_accepting = tokio::select! {
                () = accept(&self.listener, &self.filter, &self.stopping, &mut self.tasks, &self.free) => continue,
                () = end_of_file(&self.stop_pipe) => None,
                told = self.told.recv(), if supervised => Some(told),
                _ = self.hangup.recv() => {
                    log::info!("{}", Event::new("ignored").field("signal", "SIGHUP").text("to read the configuration again: rblfilter reload"));
                    continue;
                }
            };
            match while_accepting {
                None => {
                    self.unlink().await;
                    return Ended::Stop;
                }
                Some(Some(Told::Retire(baton))) => return Ended::Retire(baton),
                Some(Some(Told::Failed)) => self.reloads.failed(
                    "the new worker did not start, the one before serves on; the log tells why",
                ),
                // courierfilter has closed descriptor 0, which comes first or in a moment.
                Some(Some(Told::Unlinked)) => return Ended::Stop,
                // We have taken already.
                Some(Some(Told::Take(_))) => {}
                Some(None) => {
                    supervised = false;
                    self.reloads.failed(reloads::ALONE);
                    if let Some(filter) = &self.filter {
                        filter.is_alone();
                    }
                }
            }
        }
    }

    /// Accepts every message from now on.
    pub fn accept_all(&mut self) {
        self.filter = None;
    }

    /// Whether courierfilter has said that it is over.
    pub fn is_stopped(&self) -> bool {
        is_at_end(self.stop_pipe.get_ref())
    }

    /// Whether the supervisor is gone.
    pub fn is_alone(&self) -> bool {
        self.told.is_closed() && self.told.is_empty()
    }

    /// Whether the supervisor has gone since it last spoke, which shows at once.
    pub async fn becomes_alone(&mut self) -> bool {
        let gone = async { while self.told.recv().await.is_some() {} };
        timeout(GONE, gone).await.is_ok()
    }

    /// Accepts messages until `other` is done.
    pub async fn serve_during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return done,
                () = accept(&self.listener, &self.filter, &self.stopping, &mut self.tasks, &self.free) => {}
            }
        }
    }

    /// Serves those who wait in the socket's backlog, who came in before it was
    /// unlinked, and accepts nobody any more.
    pub async fn take_backlog(&mut self) {
        // Nobody is left a grace any longer.
        self.stopping.send_replace(true);
        loop {
            let accepted = accept(
                &self.listener,
                &self.filter,
                &self.stopping,
                &mut self.tasks,
                &self.free,
            );
            if timeout(Duration::ZERO, accepted).await.is_err() {
                return;
            }
        }
    }

    /// Answers what is open, for a limited time.
    pub async fn finish(mut self) {
        let patience = self.filter.as_ref().map(|filter| filter.patience());
        let end = Instant::now() + DRAIN.max(patience.unwrap_or_default() + REPLY_TIME);
        drop(self.listener);
        let mut grace = std::pin::pin!(sleep_until(end - LAST));
        loop {
            tokio::select! {
                ended = self.tasks.join_next() => if ended.is_none() { return },
                // What is left of a grace ends now.
                () = &mut grace, if !*self.stopping.borrow() => {
                    self.stopping.send_replace(true);
                }
                () = sleep_until(end) => return,
            }
        }
    }

    /// Takes the socket out of `submit`'s sight, unless the supervisor did.
    async fn unlink(&mut self) {
        let unlinked = async {
            loop {
                match self.told.recv().await {
                    Some(Told::Unlinked) => return true,
                    Some(_) => {}
                    // Its end without a word: the supervisor was killed.
                    None => return false,
                }
            }
        };
        if let Ok(true) = timeout(UNLINK_TIME, unlinked).await {
            return;
        }
        if let Err(error) = filter_socket::unlink(&self.place) {
            log::error!("{}", Event::new("failed").text(error));
        }
    }
}

/// Whether courierfilter has closed the other end of the pipe already.
pub fn is_at_end(stop: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    // There is no error here but an interruption.
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Returns when the pipe's other end is closed.
async fn end_of_file(pipe: &AsyncFd<OwnedFd>) {
    loop {
        let Ok(mut ready) = pipe.readable().await else {
            return;
        };
        match nix::unistd::read(pipe.get_ref().as_fd(), &mut [0; 64]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
        ready.clear_ready();
    }
}

/// Accepts one connection, and gathers the tasks that have ended. Nothing is
/// lost where it is dropped half-way.
async fn accept(
    listener: &UnixListener,
    filter: &Option<Arc<Filter>>,
    stopping: &watch::Sender<bool>,
    tasks: &mut JoinSet<()>,
    free: &Arc<Semaphore>,
) {
    while tasks.try_join_next().is_some() {}
    // The semaphore is never closed.
    let Ok(place) = Arc::clone(free).acquire_owned().await else {
        return;
    };
    let deciding = match filter {
        Some(filter) => Some(filter.deciding().await),
        None => None,
    };
    match listener.accept().await {
        Ok((stream, _)) => {
            if let Some(filter) = filter {
                filter.accepts(Ok(()));
            }
            let (filter, stop) = (filter.clone(), stopping.subscribe());
            let limit = request::time_limit(free.available_permits(), MAX_REQUESTS);
            tasks.spawn(async move {
                let sentence = serve(stream, limit, filter.as_ref()).await;
                // The request is answered: its place is free again.
                drop(place);
                if let (Some(filter), Some(sentenced), Some(deciding)) =
                    (filter, sentence, deciding)
                {
                    filter.carry_out(*sentenced, stop, deciding).await;
                }
            });
        }
        Err(error) => {
            if let Some(filter) = filter {
                filter.accepts(Err(&error));
            }
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Answers one request. Whatever goes wrong, the answer is "accepted"; what is
/// left to do about a refused one comes back.
async fn serve(
    mut stream: UnixStream,
    limit: Duration,
    filter: Option<&Arc<Filter>>,
) -> Option<Box<super::filter::Sentenced>> {
    let begun = Instant::now();
    let decision = decide(&mut stream, limit, filter).await;
    if let Some(filter) = filter {
        filter.waited(begun.elapsed());
    }
    match decision {
        Decision::Accept => {
            reply(&mut stream, ACCEPTED).await;
            None
        }
        Decision::Nobody => None,
        Decision::Refuse(text, sentenced) => {
            reply(&mut stream, &text).await;
            Some(sentenced)
        }
    }
}

async fn decide(
    stream: &mut UnixStream,
    limit: Duration,
    filter: Option<&Arc<Filter>>,
) -> Decision {
    let request = match request::read(stream, limit).await {
        Ok(Some(request)) => request,
        Ok(None) => return Decision::Accept,
        Err(error) => {
            log::warn!("{}", Event::new("badrequest").text(error));
            return Decision::Accept;
        }
    };
    let Some(filter) = filter else {
        return Decision::Accept;
    };
    let peer = match peer(stream) {
        Ok(peer) => peer,
        Err(error) => {
            log::warn!("{}", Event::new("unidentified").text(error));
            return Decision::Accept;
        }
    };
    // A task of its own: a bug costs the verdict, not the message. The panic is
    // logged where it happens.
    let judgement = tokio::spawn(Arc::clone(filter).judge(request, peer));
    if let Ok(decision) = timeout(filter.patience(), judgement).await {
        decision.unwrap_or(Decision::Accept)
    } else {
        let text = "it took too long to judge, and is accepted unjudged";
        log::warn!("{}", Event::new("late").text(text));
        Decision::Accept
    }
}

/// The process at the other end, which must be of our own user or root.
fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let credentials = stream.peer_cred()?;
    let uid = credentials.uid();
    if uid != geteuid().as_raw() && uid != 0 {
        return Err(io::Error::other(format!(
            "the peer runs as uid {uid}, not as Courier"
        )));
    }
    let pid = credentials
        .pid()
        .ok_or_else(|| io::Error::other("the peer has no pid here"))?;
    Ok(Peer {
        pid,
        pidfd: getsockopt(&stream, sockopt::PeerPidfd).ok(),
    })
}

async fn reply(stream: &mut UnixStream, text: &str) {
    let line = format!("{text}\n");
    let sent = timeout(REPLY_TIME, async {
        stream.write_all(line.as_bytes()).await?;
        stream.shutdown().await
    });
    // A submit that is gone has no use for its reply.
    if let Ok(Err(error)) = sent.await {
        log::debug!(
            "{}",
            Event::new("unread")
                .field("fd", stream.as_raw_fd())
                .text(error)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::courier::paths::Paths;
    use crate::daemon::filter::Prepared;

    #[test]
    fn a_message_that_takes_too_long_altogether_passes() {
        // What reads files is held up, as by a dead disk.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (release, hangs) = std::sync::mpsc::channel::<()>();
            let held = tokio::task::spawn_blocking(move || hangs.recv().is_err());
            let config = crate::config::parse("lookup.limit = \"100ms\"").unwrap();
            let filter = Filter::new(config, Paths::from_env(), Prepared::default());
            let filter = Arc::new(filter);
            let (mut stream, mut submit) = UnixStream::pair().unwrap();
            submit.write_all(b"/data\n/control\n\n").await.unwrap();
            let begun = Instant::now();
            let decision = decide(&mut stream, REPLY_TIME, Some(&filter)).await;
            assert!(matches!(decision, Decision::Accept), "{decision:?}");
            assert!(begun.elapsed() >= Duration::from_millis(2_100));
            drop(release);
            assert!(held.await.unwrap());
        });
    }
}
