//! The control socket: the admin's commands reach the running filter here.
//!
//! It lies in the state folder, which Courier's group alone may enter, with
//! mode 0660, and whoever connects is looked at once more: root, Courier's user,
//! or its group. Bounded: so many connections at a time, one request each, in
//! limited time. A worker that takes the place of one that gives it up has the
//! socket from it, with those who wait there; else it binds a hidden name first, so
//! that there is always one socket or none, and it is never half made.

use std::cmp::Reverse;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User, getegid, geteuid};
use procfs::process::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, RwLock, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::filter::Filter;
use super::reloads::Reloads;
use crate::control::{self, Answer, MAX_REQUEST, Request, SOCKET};
use crate::degraded::Part;
use crate::log::Event;

/// Connections at the same time, of root and of all others; further ones are
/// closed. Nobody keeps root out.
const MOST: usize = 16;
/// How long a request may take to come, and a part of an answer to be taken.
const TIME: Duration = Duration::from_secs(5);
/// Lines of a list that are written at once.
const LINES: usize = 500;
/// The pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Makes the socket in `folder`.
fn bind(folder: &Path) -> Result<UnixListener, (PathBuf, io::Error)> {
    let hidden = folder.join(format!(".{SOCKET}"));
    let failed = |error| (folder.join(SOCKET), error);
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden).map_err(failed)?;
    fs::set_permissions(&hidden, Permissions::from_mode(0o660)).map_err(failed)?;
    fs::rename(&hidden, folder.join(SOCKET)).map_err(failed)?;
    Ok(listener)
}

/// What the commands are done with.
#[derive(Clone, Debug)]
pub struct Doers {
    /// None: every message is accepted, as the configuration is wrong.
    pub filter: Option<Arc<Filter>>,
    /// The reloads.
    pub reloads: Arc<Reloads>,
}

/// Places of connections, root's and all others'.
#[derive(Debug)]
struct Places {
    roots: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Places {
    fn new() -> Self {
        let [roots, others] = [(); 2].map(|()| Arc::new(Semaphore::new(MOST)));
        Self { roots, others }
    }

    /// One for who is at the other end of `stream`, where one is left.
    fn take(&self, stream: &UnixStream) -> Option<OwnedSemaphorePermit> {
        let is_root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
        let free = if is_root { &self.roots } else { &self.others };
        Arc::clone(free).try_acquire_owned().ok()
    }
}

/// The control socket, served.
#[derive(Debug)]
pub struct Control {
    served: JoinHandle<UnixListener>,
    stop: oneshot::Sender<()>,
    /// Held to be read by each command that changes something, and by each whose
    /// request is not known yet.
    doing: Arc<RwLock<()>>,
    /// Its other ends are closed once every answer is given.
    answered: mpsc::Receiver<()>,
}

impl Control {
    /// Serves the admin's commands on the socket `handed`, or on a new one in
    /// `folder`.
    pub fn start(folder: &Path, handed: Option<OwnedFd>, doers: Doers) -> Option<Self> {
        let listener = match handed {
            Some(fd) => take_over(fd).map_err(|error| (folder.join(SOCKET), error)),
            None => bind(folder),
        };
        let listener = match listener {
            Ok(listener) => listener,
            Err((path, error)) => {
                let text = format!("cannot listen on {}: {error}", path.display());
                if let Some(filter) = &doers.filter {
                    filter.degraded().enter(Part::Control, text, Instant::now());
                }
                return None;
            }
        };
        let (stop, stopped) = oneshot::channel();
        let (alive, answered) = mpsc::channel(1);
        let doing = Arc::<RwLock<()>>::default();
        let served = tokio::spawn(serve(listener, doers, Arc::clone(&doing), stopped, alive));
        Some(Self {
            served,
            stop,
            doing,
            answered,
        })
    }

    /// Accepts no more, and waits until what was asked for is done, but not for
    /// a reload, nor for one who reads; the socket, on which others may wait, and what is left to be
    /// answered.
    pub async fn stop(self) -> Option<(UnixListener, Answers)> {
        // It ends only by this.
        let _ = self.stop.send(());
        let listener = self.served.await.ok()?;
        let _ = timeout(TIME, self.doing.write()).await;
        Some((listener, Answers(self.answered)))
    }
}

/// The commands that have not been answered yet.
#[derive(Debug)]
pub struct Answers(mpsc::Receiver<()>);

impl Answers {
    /// Waits until they are, for a limited time.
    pub async fn given(mut self) {
        let _ = timeout(TIME, self.0.recv()).await;
    }
}

/// The socket that the worker before gave up.
fn take_over(fd: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Serves the admin's commands until told to stop.
async fn serve(
    listener: UnixListener,
    doers: Doers,
    doing: Arc<RwLock<()>>,
    mut stopped: oneshot::Receiver<()>,
    alive: mpsc::Sender<()>,
) -> UnixListener {
    let free = Places::new();
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => return listener,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        let Some(place) = free.take(&stream) else {
            continue;
        };
        // Nobody waits to write before we have left off.
        let Ok(doing) = Arc::clone(&doing).try_read_owned() else {
            continue;
        };
        let (doers, alive) = (doers.clone(), alive.clone());
        tokio::spawn(async move {
            // Whoever does not take his answer does not want it.
            let _ = answer(stream, &doers, doing).await;
            drop((place, alive));
        });
    }
}

async fn answer(
    mut stream: UnixStream,
    doers: &Doers,
    doing: OwnedRwLockReadGuard<()>,
) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    if !is_trusted(&peer) {
        let event = Event::new("refused").field("uid", peer.uid());
        log::warn!(
            "{}",
            event.text("the control socket is for root and Courier's group")
        );
        let text = "permission denied: for root and Courier's group alone";
        return write(&mut stream, &[Answer::Error(text.into())]).await;
    }
    let line = match timeout(TIME, read(&mut stream)).await {
        Ok(line) => line?,
        Err(_) => return Ok(()),
    };
    let request = match control::parse(&line) {
        Ok(request) => request,
        Err(error) => return write(&mut stream, &[Answer::Error(error)]).await,
    };
    if request == Request::Reload {
        // It is over when we are: nobody may wait for it.
        drop(doing);
        let user = name(peer.uid()).await;
        let answer = match doers.reloads.reload(&user).await {
            Ok(done) => Answer::Done(done),
            Err(error) => Answer::Error(error),
        };
        return write(&mut stream, &[answer]).await;
    }
    let Some(filter) = &doers.filter else {
        let text = "the filter accepts everything, as its configuration is wrong (rblfilter config check; rblfilter reload)";
        return write(&mut stream, &[Answer::Error(text.into())]).await;
    };
    if request == Request::List {
        // A list may be read through a pager, for as long as its reader likes.
        drop(doing);
        return list(&mut stream, filter).await;
    }
    if request == Request::Allowed {
        drop(doing);
        return write(&mut stream, &allowed(filter)).await;
    }
    if let Request::Status | Request::Sessions = request {
        drop(doing);
        let filter = Arc::clone(filter);
        // It reads of /proc, and counts what may be a million bans.
        let looked = tokio::task::spawn_blocking(move || match request {
            Request::Sessions => Answer::Sessions(Box::new(filter.sessions())),
            _ => Answer::Status(Box::new(filter.status())),
        });
        let told = looked.await.map_err(io::Error::other)?;
        return write(&mut stream, &[told, Answer::End]).await;
    }
    if let Request::Why { client } = request {
        drop(doing);
        let filter = Arc::clone(filter);
        let looked = tokio::task::spawn_blocking(move || filter.known(client)).await;
        let known = looked.map_err(io::Error::other)?;
        return write(&mut stream, &[Answer::Known(Box::new(known)), Answer::End]).await;
    }
    let user = name(peer.uid()).await;
    // A task of its own: it is done also where the one who asked goes away.
    let filter = Arc::clone(filter);
    let done = tokio::spawn(async move {
        let answer = filter.by_hand(request, &user).await;
        drop(doing);
        answer
    });
    let answer = done
        .await
        .unwrap_or_else(|_| Answer::Error("a bug, see the log".into()));
    write(&mut stream, &[answer]).await
}

/// Root, Courier's user, or somebody of its group.
fn is_trusted(peer: &UCred) -> bool {
    let group = getegid().as_raw();
    if peer.uid() == 0 || peer.uid() == geteuid().as_raw() || peer.gid() == group {
        return true;
    }
    // The folder and the socket let nobody in without the group, so that this
    // says no more than they did.
    peer.pid()
        .and_then(|pid| Process::new(pid).ok())
        .and_then(|process| process.status().ok())
        .is_some_and(|status| status.euid == peer.uid() && status.groups.contains(&group))
}

/// One line, without its end; what came where it has none.
async fn read(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut bytes = [0; 4096];
    while line.len() <= MAX_REQUEST {
        let length = stream.read(&mut bytes).await?;
        if length == 0 {
            break;
        }
        if let Some(end) = bytes[..length].iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&bytes[..end]);
            break;
        }
        line.extend_from_slice(&bytes[..length]);
    }
    Ok(line)
}

async fn write(stream: &mut UnixStream, answers: &[Answer]) -> io::Result<()> {
    let mut text = Vec::new();
    for answer in answers {
        serde_json::to_writer(&mut text, answer)?;
        text.push(b'\n');
    }
    timeout(TIME, stream.write_all(&text)).await?
}

async fn list(stream: &mut UnixStream, filter: &Arc<Filter>) -> io::Result<()> {
    // The newest first; a million of them must not hold up the mail.
    let known = Arc::clone(filter);
    let sorting = tokio::task::spawn_blocking(move || {
        let mut records = known.bans();
        records.sort_unstable_by_key(|record| (Reverse(record.since), record.network));
        records
    });
    let records = sorting.await.map_err(io::Error::other)?;
    for records in records.chunks(LINES) {
        let lines = records.iter().map(|record| filter.entry(record));
        let lines: Vec<Answer> = lines.map(Answer::Entry).collect();
        write(stream, &lines).await?;
        tokio::task::yield_now().await;
    }
    write(stream, &allowed(filter)).await
}

/// Who is let in, and the end.
fn allowed(filter: &Filter) -> Vec<Answer> {
    let entries = filter.allowed().into_iter().map(Answer::Entry);
    entries.chain([Answer::End]).collect()
}

/// The name of a user, for the log.
async fn name(uid: u32) -> String {
    /// A look-up that hangs holds one thread, whoever asks meanwhile.
    static ONE: Semaphore = Semaphore::const_new(1);
    let Ok(place) = ONE.try_acquire() else {
        return format!("uid-{uid}");
    };
    // It may ask a directory server.
    let named = tokio::task::spawn_blocking(move || {
        let user = User::from_uid(Uid::from_raw(uid));
        drop(place);
        user
    });
    match timeout(Duration::from_secs(1), named).await {
        Ok(Ok(Ok(Some(user)))) => user.name,
        _ => format!("uid-{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream as Stream;

    #[tokio::test]
    async fn the_socket_takes_the_place_of_the_one_before() {
        let folder = std::env::temp_dir().join(format!("rblfilter-control-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(".control"), "left behind").unwrap();
        let first = bind(&folder).unwrap();
        let second = bind(&folder).unwrap();
        let path = folder.join(SOCKET);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        drop(first);
        let _client = Stream::connect(&path).unwrap();
        second.accept().await.unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_request_ends_with_its_line_or_its_bound() {
        for (sent, expected) in [
            (b"{}\nmore".to_vec(), 2),
            (b"half".to_vec(), 4),
            (vec![b'x'; MAX_REQUEST + 9000], MAX_REQUEST + 4096),
        ] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            let writer = tokio::spawn(async move {
                // The reader leaves off before the end.
                let _ = theirs.write_all(&sent).await;
            });
            let line = read(&mut ours).await.unwrap();
            assert!(
                line.len() <= expected && !line.contains(&b'\n'),
                "{}",
                line.len()
            );
            drop(ours);
            writer.await.unwrap();
        }
    }
}
