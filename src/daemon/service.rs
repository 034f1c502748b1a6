//! The filter socket's service: accepts connections, answers each, stops when
//! courierfilter says so.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::ACCEPTED;
use super::filter::{Decision, Filter};
use super::supervised::Told;
use crate::courier::filter_socket::Place;
use crate::courier::identified::Peer;
use crate::courier::request;
use crate::log::Event;
use crate::sys::watched;

/// Requests that are served at the same time; further ones wait in the
/// socket's backlog.
const MAX_REQUESTS: usize = 1024;
/// How long the supervisor may take to say that it has unlinked the socket.
const UNLINK_TIME: Duration = Duration::from_secs(1);
/// How long the stop waits for open requests.
const DRAIN: Duration = Duration::from_secs(10);
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
    /// courierfilter's descriptor 3, where nobody was ready yet.
    pub ready: Option<OwnedFd>,
    /// Where the socket is.
    pub path: PathBuf,
}

/// Serves until courierfilter closes descriptor 0. (SIGTERM and SIGINT are
/// ignored since the supervisor: they are not how a filter is stopped, and one
/// that ended by them would hold up mail.) Without a `filter`, every message is
/// accepted.
///
/// # Errors
/// Where the service cannot start.
pub async fn run(handed: Handed, filter: Option<Arc<Filter>>) -> io::Result<()> {
    handed.listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(handed.listener)?;
    let place = Place::of(handed.path);
    let mut told = handed.told;
    let stop_pipe = watched(handed.stop, Interest::READABLE)?;
    let (stopping, stop) = watch::channel(false);
    let mut service = Service {
        filter,
        stop,
        tasks: JoinSet::new(),
        free: Arc::new(Semaphore::new(MAX_REQUESTS)),
    };
    let mut hangup = signal(SignalKind::hangup())?;
    drop(handed.ready);
    let running = service
        .filter
        .clone()
        .map(|filter| tokio::spawn(filter.run()));

    loop {
        tokio::select! {
            () = service.accept(&listener) => {}
            () = end_of_file(&stop_pipe) => {
                unlink(&mut told, &place).await;
                break;
            }
            _ = hangup.recv() => {
                log::info!("{}", Event::new("ignored").field("signal", "SIGHUP").text("to read the configuration again, stop and start the filter"));
            }
        }
    }

    if let Some(running) = running {
        running.abort();
    }
    let drained = Instant::now() + DRAIN;
    // Nobody is left a grace any longer.
    let _ = stopping.send(true);
    // What is in the backlog came in before the socket was unlinked.
    while let Ok(()) = timeout(Duration::ZERO, service.accept(&listener)).await {}
    drop(listener);
    while let Ok(Some(_)) = timeout_at(drained, service.tasks.join_next()).await {}
    if let Some(filter) = service.filter {
        filter.stopped();
    }
    Ok(())
}

/// Takes the socket out of `submit`'s sight, unless the supervisor did.
async fn unlink(told: &mut mpsc::Receiver<Told>, place: &Place) {
    // Its end without a word: the supervisor was killed.
    if let Ok(Some(Told::Unlinked)) = timeout(UNLINK_TIME, told.recv()).await {
        return;
    }
    if let Err(error) = place.remove() {
        log::error!("{}", Event::new("failed").text(error));
    }
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

struct Service {
    filter: Option<Arc<Filter>>,
    stop: watch::Receiver<bool>,
    tasks: JoinSet<()>,
    free: Arc<Semaphore>,
}

impl Service {
    /// Accepts one connection, and gathers the tasks that have ended. Nothing
    /// is lost where it is dropped half-way.
    async fn accept(&mut self, listener: &UnixListener) {
        while self.tasks.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&self.free).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Some(filter) = &self.filter {
                    filter.accepts(Ok(()));
                }
                let (filter, stop) = (self.filter.clone(), self.stop.clone());
                self.tasks.spawn(async move {
                    let sentence = serve(stream, filter.as_ref()).await;
                    // The request is answered: its place is free again.
                    drop(place);
                    if let (Some(filter), Some(sentenced)) = (filter, sentence) {
                        filter.carry_out(*sentenced, stop).await;
                    }
                });
            }
            Err(error) => {
                if let Some(filter) = &self.filter {
                    filter.accepts(Err(&error));
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request. Whatever goes wrong, the answer is "accepted"; what is
/// left to do about a refused one comes back.
async fn serve(
    mut stream: UnixStream,
    filter: Option<&Arc<Filter>>,
) -> Option<Box<super::filter::Sentenced>> {
    let decision = decide(&mut stream, filter).await;
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

async fn decide(stream: &mut UnixStream, filter: Option<&Arc<Filter>>) -> Decision {
    let request = match request::read(stream).await {
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
