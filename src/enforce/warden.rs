//! The filter's end of the warden: asks for one, asks it, asks for another.
//!
//! The warden is the one process that may touch the kernel's sets. Without it
//! nobody is banned; all else goes on. The supervisor starts it and brings its
//! socket, where one is wanted. Many requests are in flight at the same time; an
//! answer is known by its serial number.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{error, fmt};

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rblfilter_warden::layers::Layers;
use rblfilter_warden::request::{Outcome, REPLY_LEN, Reply, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::log::Event;
use crate::sys::Datagrams;

/// How long a request may take, its wait for those before it included.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for what a person asked for, who waits for it.
const PATIENCE_BY_HAND: Duration = Duration::from_secs(5);
/// How long the warden may be silent before it is given up: a set of a million
/// takes it a second or two to read, on a busy machine ten times that. One that
/// is given up then reads it all over again.
const GIVE_UP: Duration = Duration::from_secs(30);
/// How long requests wait for a warden that is to come; later ones do not.
const COMES: Duration = Duration::from_secs(1);
/// How often one that does not come is asked for: the supervisor may have refused, as
/// others ended a moment ago, or have been replaced meanwhile.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// The most requests in flight; the next one waits.
const IN_FLIGHT: usize = 1024;
/// How long nobody is banned in a set in which that was not possible.
const SET_REST: Duration = Duration::from_secs(1);

/// The warden, running or not.
#[derive(Debug)]
pub struct Warden {
    state: Mutex<State>,
    in_flight: Semaphore,
    /// Notified where one is wanted.
    wanted: Notify,
    /// Notified where one has come.
    come: Notify,
    overheard: Arc<Overheard>,
}

/// What the warden said to somebody who no longer listened.
#[derive(Debug, Default)]
struct Overheard {
    told: Mutex<Told>,
    noted: Notify,
}

#[derive(Debug, Default)]
struct Told {
    /// What it says once of a set, for IPv4 and IPv6.
    sets: [Option<Outcome>; 2],
    /// What it has banned late.
    bans: Vec<IpNetwork>,
}

/// An answer that came when nobody waited for it any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// What it tells of the set of which family (IPv6's?), and will not tell again.
    Set(bool, Outcome),
    /// This is banned since, of which nobody knows.
    Banned(IpNetwork),
}

impl Overheard {
    /// Notes the reply to one who is gone, who wanted `banned` banned.
    fn note(&self, reply: Reply, banned: Option<IpNetwork>) {
        let mut told = self.told();
        if reply.outcome.is_told_once() {
            told.sets[usize::from(reply.ipv6)] = Some(reply.outcome);
        }
        // Where nobody takes them, they are bounded.
        if reply.outcome.is_new() && told.bans.len() < IN_FLIGHT {
            told.bans.extend(banned);
        }
        drop(told);
        self.noted.notify_one();
    }

    fn take(&self) -> Option<Late> {
        let mut told = self.told();
        for ipv6 in [false, true] {
            if let Some(outcome) = told.sets[usize::from(ipv6)].take() {
                return Some(Late::Set(ipv6, outcome));
            }
        }
        told.bans.pop().map(Late::Banned)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    /// Since when one is wanted, while there is none.
    wanted: Option<Instant>,
    /// When it was asked for last.
    asked: Option<Instant>,
    serial: u32,
}

#[derive(Debug)]
struct Running {
    socket: Arc<Datagrams>,
    waiting: Arc<Mutex<Waiting>>,
    reader: JoinHandle<()>,
}

/// Who waits for the answer of a running warden.
#[derive(Debug, Default)]
struct Waiting {
    by_serial: HashMap<u32, Waits>,
    /// Since when it has not answered, while it was asked.
    silent_since: Option<Instant>,
    /// What it is bound by, as it last said.
    layers: Option<Layers>,
    /// Whether it has ended.
    gone: bool,
}

#[derive(Debug)]
enum Waits {
    /// Somebody does.
    One(oneshot::Sender<io::Result<Answer>>),
    /// Nobody any longer; but what is banned is to be known.
    NobodyFor(IpNetwork),
}

/// A reply, and the descriptor that came with it.
pub type Answer = (Reply, Option<OwnedFd>);

/// Why the warden did not answer.
#[derive(Debug)]
pub enum Error {
    /// None runs, and none has come.
    Missing,
    /// It ended, or its socket failed.
    Gone(io::Error),
    /// It does not answer within this time.
    Silent(Duration),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => {
                f.write_str("it does not run (rblfilter config check; the log tells why)")
            }
            // The errno of its socket says nothing of why.
            Self::Gone(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::NotConnected
                        | io::ErrorKind::UnexpectedEof
                ) =>
            {
                f.write_str("it has ended (rblfilter config check; the log tells why)")
            }
            Self::Gone(error) => write!(f, "it has ended: {error}"),
            Self::Silent(time) => write!(f, "no answer within {} s", time.as_secs()),
        }
    }
}

// The operating system's word is part of the text, so there is no source.
impl error::Error for Error {}

impl Default for Warden {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            in_flight: Semaphore::new(IN_FLIGHT),
            wanted: Notify::new(),
            come: Notify::new(),
            overheard: Arc::default(),
        }
    }
}

impl Warden {
    /// Returns when one is wanted and there is none: [`Warden::arrived`] is to
    /// bring it. It is asked for every few seconds in which it is needed; another
    /// follows unasked when it has ended.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A warden has been started, with `socket` as the way to it. One that was
    /// there before is given up.
    pub fn arrived(&self, socket: OwnedFd) {
        match Running::new(socket, Arc::clone(&self.overheard)) {
            Ok(running) => self.state().come(running),
            // It ends, as its socket is closed here; another one follows.
            Err(error) => log::warn!("{}", Event::new("warden").text(error)),
        }
        self.come.notify_waiters();
    }

    /// Asks the warden, which may have to come first.
    ///
    /// # Errors
    /// Where there is no answer within a second.
    pub async fn ask(&self, request: Request) -> Result<Reply, Error> {
        let answer = self.exchange(request, PATIENCE).await;
        answer.map(|(reply, _)| reply)
    }

    /// The same for what an admin wants, or what has time.
    ///
    /// # Errors
    /// Where there is no answer within five seconds.
    pub async fn ask_patiently(&self, request: Request) -> Result<Reply, Error> {
        let answer = self.exchange(request, PATIENCE_BY_HAND).await;
        answer.map(|(reply, _)| reply)
    }

    /// Asks the warden for a socket on which the kernel tells of every exec;
    /// the reply alone where it cannot be had.
    ///
    /// # Errors
    /// Where there is no answer within a second.
    pub async fn watch(&self) -> Result<Answer, Error> {
        self.exchange(Request::Watch, PATIENCE).await
    }

    /// Waits for an answer that came when nobody waited for it any longer.
    pub async fn overheard(&self) -> Late {
        loop {
            if let Some(late) = self.overheard.take() {
                return late;
            }
            self.overheard.noted.notified().await;
        }
    }

    /// What the one that runs is bound by, as it last said.
    #[must_use]
    pub fn layers(&self) -> Option<Layers> {
        let state = self.state();
        let waiting = lock(&state.running.as_ref()?.waiting);
        waiting.layers.filter(|_| !waiting.gone)
    }

    async fn exchange(&self, request: Request, patience: Duration) -> Result<Answer, Error> {
        // The semaphore is never closed.
        let asked = async {
            let _place = self.in_flight.acquire().await;
            let mut asked = self.register().await?;
            let message = request.encode(asked.serial);
            if let Err(error) = asked.socket.send(&message).await {
                asked.waiting().gone = true;
                return Err(Error::Gone(error));
            }
            asked.place.bans = banned_by(request);
            match asked.answer.await {
                Ok(answer) => answer.map_err(Error::Gone),
                // It was given up, be it by another request.
                Err(_) => Err(Error::Gone(Errno::EPIPE.into())),
            }
        };
        timeout(patience, asked).await.unwrap_or_else(|_| {
            Err(match self.state().running {
                Some(_) => Error::Silent(patience),
                None => Error::Missing,
            })
        })
    }

    /// Registers a request with a warden that runs.
    async fn register(&self) -> Result<Asked, Error> {
        loop {
            let mut come = pin!(self.come.notified());
            // From here on none comes unheard.
            come.as_mut().enable();
            if let Some(asked) = self.state().ask(Instant::now(), &self.wanted)? {
                return Ok(asked);
            }
            come.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request to be sent.
struct Asked {
    serial: u32,
    socket: Arc<Datagrams>,
    place: Place,
    answer: oneshot::Receiver<io::Result<Answer>>,
}

/// A place among those that wait; where the caller's time runs out, the answer
/// comes too late, under a serial number that nobody waits for.
struct Place {
    serial: u32,
    /// What the request bans, once it is sent.
    bans: Option<IpNetwork>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        if let Some(waits) = waiting.by_serial.get_mut(&self.serial)
            && let Some(network) = self.bans
        {
            *waits = Waits::NobodyFor(network);
        } else {
            waiting.by_serial.remove(&self.serial);
        }
    }
}

/// What a request is to ban.
fn banned_by(request: Request) -> Option<IpNetwork> {
    match request {
        Request::Ban { network, .. }
        | Request::Restore { network, .. }
        | Request::BanByHand { network, .. } => Some(network),
        Request::Check
        | Request::Look { .. }
        | Request::LookAtRule { .. }
        | Request::Watch
        | Request::Unban { .. }
        | Request::Flush { .. } => None,
    }
}

/// The sets in which nothing can be banned for a moment, as the warden said.
#[derive(Debug, Default)]
pub struct SetsRest {
    /// Until when, for IPv4 and IPv6.
    until: Mutex<[Option<Instant>; 2]>,
}

impl SetsRest {
    fn until(&self) -> MutexGuard<'_, [Option<Instant>; 2]> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing could be banned in the set of this family.
    pub fn rest(&self, ipv6: bool, now: Instant) {
        self.until()[usize::from(ipv6)] = Some(now + SET_REST);
    }

    /// Whether that was a moment ago.
    #[must_use]
    pub fn is_resting(&self, ipv6: bool, now: Instant) -> bool {
        self.until()[usize::from(ipv6)].is_some_and(|until| now < until)
    }
}

impl State {
    /// Registers a request with a warden that runs; `None` where one may come.
    fn ask(&mut self, now: Instant, wanted: &Notify) -> Result<Option<Asked>, Error> {
        self.look(now);
        let Some(running) = &self.running else {
            let since = *self.wanted.get_or_insert(now);
            let asked = self.asked.filter(|asked| now < *asked + ASK_EVERY);
            if asked.is_none() {
                self.asked = Some(now);
                wanted.notify_one();
            }
            return if now.duration_since(since) < COMES {
                Ok(None)
            } else {
                Err(Error::Missing)
            };
        };
        self.serial = self.serial.wrapping_add(1);
        let (sender, answer) = oneshot::channel();
        let mut waiting = lock(&running.waiting);
        waiting.by_serial.insert(self.serial, Waits::One(sender));
        waiting.silent_since.get_or_insert(now);
        Ok(Some(Asked {
            serial: self.serial,
            socket: Arc::clone(&running.socket),
            place: Place {
                serial: self.serial,
                bans: None,
                waiting: Arc::clone(&running.waiting),
            },
            answer,
        }))
    }

    fn come(&mut self, running: Running) {
        self.end();
        (self.wanted, self.asked) = (None, None);
        self.running = Some(running);
    }

    /// Gives up a warden that has ended, or has been silent for too long.
    fn look(&mut self, now: Instant) {
        let Some(running) = &self.running else {
            return;
        };
        let waiting = lock(&running.waiting);
        let silent = waiting
            .silent_since
            .is_some_and(|since| now.duration_since(since) > GIVE_UP);
        let gone = waiting.gone;
        drop(waiting);
        if gone || silent {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}

impl Running {
    fn new(socket: OwnedFd, overheard: Arc<Overheard>) -> io::Result<Self> {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let socket = Arc::new(Datagrams::new(socket)?);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let reader = tokio::spawn(read(Arc::clone(&socket), Arc::clone(&waiting), overheard));
        Ok(Self {
            socket,
            waiting,
            reader,
        })
    }

    /// Leaves a warden that is of no use any more: it ends with its socket.
    fn end(self) {
        self.reader.abort();
        // Whoever waits for it waits for nothing.
        lock(&self.waiting).by_serial.clear();
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Asked {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.place.waiting)
    }
}

/// Hands each answer to whom it is for, until the warden ends.
async fn read(socket: Arc<Datagrams>, waiting: Arc<Mutex<Waiting>>, overheard: Arc<Overheard>) {
    let error = loop {
        match socket.receive(receive).await {
            Ok(answer) => {
                let late = lock(&waiting).take(answer);
                if let Some((reply, banned)) = late {
                    overheard.note(reply, banned);
                }
            }
            Err(error) => break error,
        }
    };
    let mut waiting = lock(&waiting);
    waiting.gone = true;
    for (_, waits) in waiting.by_serial.drain() {
        if let Waits::One(sender) = waits {
            // Who waits no longer needs no answer.
            let _ = sender.send(Err(io::Error::new(error.kind(), error.to_string())));
        }
    }
}

impl Waiting {
    /// Hands it to whom it is for; where nobody waits for it any longer, it comes
    /// back, with what was to be banned.
    fn take(&mut self, answer: Answer) -> Option<(Reply, Option<IpNetwork>)> {
        let reply = answer.0;
        self.layers = Some(reply.layers);
        let waits = self.by_serial.remove(&reply.serial);
        self.silent_since = (!self.by_serial.is_empty()).then(Instant::now);
        match waits {
            Some(Waits::One(sender)) => sender.send(Ok(answer)).err().map(|_| (reply, None)),
            Some(Waits::NobodyFor(network)) => Some((reply, Some(network))),
            // Of a question that was given up.
            None => Some((reply, None)),
        }
    }
}

/// One reply, and the descriptor that came with it.
fn receive(socket: &OwnedFd) -> io::Result<Answer> {
    let mut bytes = [0; REPLY_LEN + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut handed = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            handed = descriptors.last();
        }
    }
    if received.bytes == 0 {
        return Err(Errno::EPIPE.into());
    }
    let reply = Reply::decode(&bytes[..received.bytes]).ok_or(Errno::EPROTO)?;
    Ok((reply, handed))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType};

    use super::*;

    /// Registers a request as [`State::ask`] does, with no warden running.
    fn wait(waiting: &Arc<Mutex<Waiting>>, serial: u32) -> oneshot::Receiver<io::Result<Answer>> {
        let (sender, answer) = oneshot::channel();
        let mut waiting = lock(waiting);
        waiting.by_serial.insert(serial, Waits::One(sender));
        waiting.silent_since.get_or_insert_with(Instant::now);
        answer
    }

    #[tokio::test]
    async fn each_gets_its_own_answer_in_whatever_order_and_the_rest_an_error() {
        let (ours, theirs) = socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_NONBLOCK,
        )
        .unwrap();
        let socket = Arc::new(Datagrams::new(ours).unwrap());
        let waiting = Arc::<Mutex<Waiting>>::default();
        let (first, second, third) = (wait(&waiting, 1), wait(&waiting, 2), wait(&waiting, 3));
        let overheard = Arc::<Overheard>::default();
        let reader = tokio::spawn(read(
            Arc::clone(&socket),
            Arc::clone(&waiting),
            Arc::clone(&overheard),
        ));
        // 9: of one that is waited for no longer.
        for (serial, outcome) in [
            (2, Outcome::Kept),
            (9, Outcome::Emptied),
            (1, Outcome::Done),
        ] {
            let reply = Reply {
                serial,
                outcome,
                ipv6: false,
                layers: Layers::default(),
            };
            let flags = MsgFlags::empty();
            socket::send(theirs.as_raw_fd(), &reply.encode(), flags).unwrap();
        }
        assert_eq!(first.await.unwrap().unwrap().0.outcome, Outcome::Done);
        assert_eq!(second.await.unwrap().unwrap().0.outcome, Outcome::Kept);
        assert_eq!(overheard.take(), Some(Late::Set(false, Outcome::Emptied)));
        assert_eq!(overheard.take(), None);
        assert!(lock(&waiting).silent_since.is_some(), "one waits still");
        drop(theirs);
        assert!(third.await.unwrap().is_err());
        reader.await.unwrap();
        assert!(lock(&waiting).gone);
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap()
    }

    #[tokio::test]
    async fn requests_wait_for_the_one_that_is_asked_for_and_after_its_end_for_the_next() {
        let warden = Arc::new(Warden::default());
        for round in 0..2 {
            let (ours, theirs) = pair();
            let asked = tokio::spawn({
                let warden = Arc::clone(&warden);
                async move { warden.ask(Request::Check).await }
            });
            warden.wanted().await;
            warden.arrived(ours);
            let mut bytes = [0; 64];
            let served = tokio::task::spawn_blocking(move || {
                let length = socket::recv(theirs.as_raw_fd(), &mut bytes, MsgFlags::empty());
                let (serial, _) = Request::decode(&bytes[..length.unwrap()]).unwrap();
                let reply = Reply {
                    serial,
                    outcome: Outcome::Done,
                    ipv6: false,
                    layers: Layers::default(),
                };
                let flags = MsgFlags::empty();
                socket::send(theirs.as_raw_fd(), &reply.encode(), flags).unwrap();
                // It ends.
            });
            assert_eq!(
                asked.await.unwrap().unwrap().outcome,
                Outcome::Done,
                "{round}"
            );
            served.await.unwrap();
            while !lock(&warden.state().running.as_ref().unwrap().waiting).gone {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn where_none_comes_the_first_wait_a_second_and_the_rest_not_at_all() {
        let warden = Warden::default();
        let first = warden.ask(Request::Check).await;
        assert!(matches!(first, Err(Error::Missing)), "{first:?}");
        let begun = Instant::now();
        for _ in 0..100 {
            let next = warden.ask(Request::Check).await;
            assert!(matches!(next, Err(Error::Missing)), "{next:?}");
        }
        assert!(begun.elapsed() < PATIENCE);
    }

    /// One that answers nothing.
    #[tokio::test]
    async fn one_that_is_silent_costs_each_a_second_and_no_place() {
        let warden = Warden::default();
        let (ours, _theirs) = pair();
        warden.arrived(ours);
        let [a, b, c, d] = std::array::from_fn(|_| warden.ask(Request::Check));
        let begun = Instant::now();
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        assert!(begun.elapsed() < PATIENCE * 2, "at the same time");
        for answer in [a, b, c, d] {
            assert!(matches!(answer, Err(Error::Silent(PATIENCE))), "{answer:?}");
        }
        assert_eq!(warden.in_flight.available_permits(), IN_FLIGHT);
        let mut state = warden.state();
        assert!(
            lock(&state.running.as_ref().unwrap().waiting)
                .by_serial
                .is_empty()
        );
        state.look(Instant::now());
        assert!(state.running.is_some(), "a large set takes it longer");
    }

    #[tokio::test]
    async fn what_an_admin_wants_may_take_longer() {
        let warden = Warden::default();
        let (ours, theirs) = pair();
        warden.arrived(ours);
        let slow = std::thread::spawn(move || {
            let mut bytes = [0; 64];
            let length = socket::recv(theirs.as_raw_fd(), &mut bytes, MsgFlags::empty());
            let (serial, _) = Request::decode(&bytes[..length.unwrap()]).unwrap();
            std::thread::sleep(PATIENCE + Duration::from_millis(500));
            let reply = Reply {
                serial,
                outcome: Outcome::Done,
                ipv6: false,
                layers: Layers::default(),
            };
            let flags = MsgFlags::empty();
            socket::send(theirs.as_raw_fd(), &reply.encode(), flags).unwrap();
            theirs
        });
        let answer = warden.ask_patiently(Request::Flush { ipv6: false }).await;
        assert_eq!(answer.unwrap().outcome, Outcome::Done);
        slow.join().unwrap();
    }

    #[test]
    fn a_set_that_failed_rests_for_a_moment_and_the_other_does_not() {
        let (rest, now) = (SetsRest::default(), Instant::now());
        assert!(!rest.is_resting(false, now));
        rest.rest(false, now);
        assert!(rest.is_resting(false, now) && !rest.is_resting(true, now));
        assert!(!rest.is_resting(false, now + SET_REST));
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_given_up_after_half_a_minute() {
        let warden = Warden::default();
        let (ours, _theirs) = pair();
        warden.arrived(ours);
        let begun = Instant::now();
        let asked = warden.state().ask(begun, &warden.wanted).unwrap();
        let asked = asked.expect("one that runs");
        let later = |seconds: u64| begun + Duration::from_secs(seconds);
        warden.state().look(later(30));
        assert!(warden.state().running.is_some());
        let next = warden.state().ask(later(31), &warden.wanted).unwrap();
        assert!(next.is_none(), "another one is wanted");
        warden.wanted().await;
        assert!(warden.state().running.is_none());
        assert!(asked.answer.await.is_err(), "it waits for nothing");
    }
}
