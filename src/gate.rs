//! The worker's end of the gate: takes its questions, has them answered, all at
//! the same time, and tells it what changes.
//!
//! The gate's process (`warden/src/gate/`) holds the packets, and lets in what
//! is not answered in time. Nothing here waits for anybody: what there is no
//! room for is lost, and the packet let in.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags};
use prometheus_client::metrics::counter::Counter;
use rblfilter_warden::question::{AT_ONCE, Client, Count, HELD, RECORD, Record, Verdict};
use tokio::sync::{Notify, mpsc};

use crate::courier::esmtpd::{Daemons, Objection};
use crate::courier::smtpaccess::Trusted;
use crate::log::Event;
use crate::sys::Datagrams;

/// Questions that may be open; those beyond are unknown.
const MOST_OPEN: usize = 8192;
/// Answers that may wait to be sent.
const MOST_WAITING: usize = 16_384;

/// What becomes of packets, and how each is called wherever it is told.
pub const PACKETS: [(&str, Count); 8] = [
    ("passed", Count::Passed),
    ("dropped", Count::Dropped),
    ("unknown", Count::Unknown),
    ("late", Count::Late),
    ("overflow", Count::Overflow),
    ("odd", Count::Odd),
    ("joined", Count::Joined),
    ("spared", Count::Spared),
];

/// What is answered: the verdict, and for how many seconds it holds.
pub type Answer = (Verdict, u32);

/// Who knows what to answer.
pub trait Keeper: Send + Sync + 'static {
    /// What is to become of `client`'s packet.
    fn first_packet(self: Arc<Self>, client: Client) -> impl Future<Output = Answer> + Send;
    /// The gate has done so many more of these.
    fn counted(&self, count: Count, more: u64);
}

/// The gate, as the worker knows it.
#[derive(Debug, Default)]
pub struct Gate {
    /// Notified where one is wanted.
    wanted: Notify,
    /// Notified, once, where none is wanted any longer.
    closing: Notify,
    closed: AtomicBool,
    /// The way to the one that runs.
    running: Mutex<Option<mpsc::Sender<Record>>>,
    off: Mutex<Off>,
}

/// Whom the gate leaves alone.
#[derive(Debug, Default)]
struct Off {
    /// Ports, by Courier's configuration.
    by_configuration: BTreeMap<u16, Objection>,
    /// And by what sessions there have shown.
    by_session: BTreeMap<u16, Objection>,
    trusted: Vec<IpNetwork>,
}

impl Gate {
    fn off(&self) -> MutexGuard<'_, Off> {
        self.off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Option<mpsc::Sender<Record>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running().is_some()
    }

    /// One is wanted from now on.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits until one is wanted that does not run.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// None is wanted any longer; the one that runs lets all packets in, and ends.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.closing.notify_one();
    }

    /// Whether this client's packets are let in, whatever the lists say.
    #[must_use]
    pub fn leaves_alone(&self, client: Client) -> bool {
        let off = self.off();
        off.by_configuration.contains_key(&client.port)
            || off.by_session.contains_key(&client.port)
            || is_in(&off.trusted, client.address)
    }

    /// Whether Courier's configuration has nothing against it at one of `ports`, at
    /// least: then there is to be a rule for it.
    #[must_use]
    pub fn has_port(&self, ports: &[u16]) -> bool {
        let off = self.off();
        let has_none = |port| !off.by_configuration.contains_key(port);
        ports.iter().any(has_none)
    }

    /// A session on `port` has shown what is against dropping packets there.
    /// True where that is news.
    pub fn learn(&self, port: u16, objection: Objection) -> bool {
        let news = self.off().by_session.insert(port, objection).is_none();
        if news {
            // Whom it denied may have wanted to log in.
            self.forget_all();
        }
        news
    }

    /// What Courier's configuration says now; those ports whose objection is
    /// new, and those that have none any longer.
    pub fn configure(
        &self,
        objections: BTreeMap<u16, Objection>,
        trusted: Trusted,
    ) -> (Vec<(u16, Objection)>, Vec<u16>) {
        let mut off = self.off();
        let known = &off.by_configuration;
        let new = objections
            .iter()
            .filter(|(port, objection)| known.get(port) != Some(objection));
        let new: Vec<_> = new.map(|(port, o)| (*port, o.clone())).collect();
        let gone = known.keys().filter(|port| !objections.contains_key(port));
        let gone: Vec<u16> = gone.copied().collect();
        // Sorted and each once, as it was read.
        let more_trusted = off.trusted != trusted.networks;
        off.by_configuration = objections;
        off.trusted = trusted.networks;
        drop(off);
        if more_trusted || !new.is_empty() {
            self.forget_all();
        }
        (new, gone)
    }

    /// Nobody in `network` is to be denied by a verdict of before.
    pub fn forget(&self, network: IpNetwork) {
        let sender = self.running().clone();
        if let Some(sender) = sender {
            // A full channel is emptied in a moment; this must not be lost.
            if let Err(mpsc::error::TrySendError::Full(record)) =
                sender.try_send(Record::Forget(network))
            {
                tokio::spawn(async move { sender.send(record).await });
            }
        }
    }

    /// Nobody at all is.
    pub fn forget_all(&self) {
        for everybody in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            // A prefix of 0 fits any address.
            if let Ok(network) = IpNetwork::new(everybody, 0) {
                self.forget(network);
            }
        }
    }

    /// Serves the gate at the other end of `socket` until it is gone, and then
    /// wants another; or until none is wanted.
    ///
    /// # Errors
    /// Where the socket is none.
    pub async fn serve(&self, socket: OwnedFd, keeper: Arc<impl Keeper>) -> io::Result<()> {
        let socket = Datagrams::new(socket)?;
        let (sender, answers) = mpsc::channel(MOST_WAITING);
        *self.running() = Some(sender.clone());
        // What was denied before this worker's time may rest on what it does not know.
        self.forget_all();
        let open = Arc::new(AtomicUsize::new(0));
        tokio::select! {
            () = hear(&socket, &sender, &open, &keeper) => {}
            () = say(&socket, answers) => {}
            () = self.closing.notified() => {}
        }
        *self.running() = None;
        if !self.closed.load(Ordering::Relaxed) {
            self.want();
        }
        Ok(())
    }
}

/// Whether one of the networks, sorted by their first addresses, holds it; they
/// may lie within one another.
fn is_in(networks: &[IpNetwork], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// Takes questions until the gate is gone.
async fn hear<K: Keeper>(
    socket: &Datagrams,
    sender: &mpsc::Sender<Record>,
    open: &Arc<AtomicUsize>,
    keeper: &Arc<K>,
) {
    let mut bytes = [0; RECORD * AT_ONCE];
    loop {
        let length = match receive(socket, &mut bytes).await {
            Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => continue,
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        for record in Record::all_in(&bytes[..length]) {
            match record {
                Record::Who(client) => answer(client, sender, open, keeper).await,
                Record::Count(count, more) => keeper.counted(count, more),
                // Those are ours to say.
                Record::Verdict { .. } | Record::Forget(_) => {}
            }
        }
    }
}

async fn receive(socket: &Datagrams, bytes: &mut [u8]) -> io::Result<usize> {
    let receive = |socket: &OwnedFd| {
        let flags = MsgFlags::MSG_DONTWAIT;
        Ok(socket::recv(socket.as_raw_fd(), bytes, flags)?)
    };
    socket.receive(receive).await
}

/// Has a question answered: at once where all is known, else by a task.
async fn answer<K: Keeper>(
    client: Client,
    sender: &mpsc::Sender<Record>,
    open: &Arc<AtomicUsize>,
    keeper: &Arc<K>,
) {
    if open.load(Ordering::Relaxed) >= MOST_OPEN {
        put(sender, client, (Verdict::Unknown, 0));
        return;
    }
    let mut owed = Owed {
        sender: sender.clone(),
        client,
        answer: (Verdict::Unknown, 0),
    };
    let mut answer: Pin<Box<_>> = Box::pin(Arc::clone(keeper).first_packet(client));
    // A bug costs this answer alone; it is logged where it happens.
    let first = std::future::poll_fn(|context| {
        let poll = AssertUnwindSafe(|| answer.as_mut().poll(context));
        Poll::Ready(catch_unwind(poll))
    });
    match first.await {
        Ok(Poll::Ready(answer)) => owed.answer = answer,
        Ok(Poll::Pending) => {
            let place = Place::take(open);
            tokio::spawn(async move {
                // All of it, not its answer alone.
                let mut owed = owed;
                owed.answer = answer.await;
                drop(place);
            });
        }
        Err(_) => {}
    }
}

/// An answer that is sent when this is dropped, be it by a panic.
struct Owed {
    sender: mpsc::Sender<Record>,
    client: Client,
    answer: Answer,
}

impl Drop for Owed {
    fn drop(&mut self) {
        put(&self.sender, self.client, self.answer);
    }
}

/// A place among the open questions; given back also after a panic.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn put(sender: &mpsc::Sender<Record>, client: Client, (verdict, seconds): Answer) {
    // Full, or gone: the gate lets the packet in at its limit.
    let _ = sender.try_send(Record::Verdict {
        client,
        verdict,
        seconds,
    });
}

/// Sends answers, as many as there are together, until the gate is gone.
async fn say(socket: &Datagrams, mut answers: mpsc::Receiver<Record>) {
    let mut records = Vec::with_capacity(AT_ONCE);
    while answers.recv_many(&mut records, AT_ONCE).await > 0 {
        if records.len() < AT_ONCE {
            // Others may be ready in this moment: one datagram wakes the gate once.
            tokio::task::yield_now().await;
        }
        while records.len() < AT_ONCE
            && let Ok(record) = answers.try_recv()
        {
            records.push(record);
        }
        let bytes: Vec<u8> = records.drain(..).flat_map(|r| r.encode()).collect();
        if socket.send(&bytes).await.is_err() {
            return;
        }
    }
}

/// What is against dropping packets to which of `ports`, by Courier's
/// configuration in `sysconfdir`, and whom the admin trusts.
#[must_use]
pub fn objections(
    sysconfdir: &Path,
    ports: &[u16],
    block_variables: &[String],
) -> (BTreeMap<u16, Objection>, Trusted) {
    let all = |objection: &Objection| {
        let ports = ports.iter().map(|port| (*port, objection.clone()));
        (ports.collect(), Trusted::default())
    };
    let daemons = match Daemons::read(sysconfdir) {
        Ok(daemons) => daemons,
        Err(error) => return all(&Objection::Unreadable(error.to_string())),
    };
    let mut trusted = Trusted::default();
    for folder in daemons.access_folders() {
        match Trusted::read(&folder, block_variables) {
            Ok(more) => {
                trusted.anybody |= more.anybody;
                trusted.networks.extend(more.networks);
            }
            Err(error) => {
                let text = format!("cannot read {}: {error}", folder.display());
                return all(&Objection::Unreadable(text));
            }
        }
    }
    if trusted.anybody {
        return all(&Objection::Relays);
    }
    trusted.networks.sort_unstable();
    trusted.networks.dedup();
    let objections = ports
        .iter()
        .filter_map(|port| Some((*port, daemons.objection(*port)?)));
    (objections.collect(), trusted)
}

/// What the gate has counted, since the worker's start.
#[derive(Debug)]
pub struct Counted([Counter; Count::ALL.len()]);

impl Default for Counted {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Counted {
    /// So many more.
    pub fn add(&self, count: Count, more: u64) {
        self.of(count).inc_by(more);
    }

    /// The counter.
    #[must_use]
    pub fn of(&self, count: Count) -> &Counter {
        // Each has its place.
        &self.0[count.place()]
    }

    /// A line that tells them, with a histogram of how long packets were held;
    /// `None` where the gate has seen none.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        let get = |count| self.of(count).get();
        if Count::ALL.iter().all(|count| get(*count) == 0) {
            return None;
        }
        let event = PACKETS
            .into_iter()
            .fold(Event::new("gate"), |event, (name, count)| {
                event.field(name, get(count))
            });
        let bounds = HELD.iter().map(|micros| match micros {
            0..1000 => format!("{micros}us"),
            _ => format!("{}ms", micros / 1000),
        });
        let names = bounds.map(|bound| format!("held-{bound}"));
        let names = names.chain(std::iter::once("held-longer".to_owned()));
        Some((0..).zip(names).fold(event, |event, (bucket, name)| {
            event.field(&name, get(Count::Held(bucket)))
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType};

    use super::*;

    fn client(address: &str) -> Client {
        Client {
            address: address.parse().unwrap(),
            port: 25,
        }
    }

    /// Knows 127.1 at once, 127.2 in a moment, and breaks at 127.3.
    struct Quick(Counted);

    impl Keeper for Quick {
        async fn first_packet(self: Arc<Self>, client: Client) -> Answer {
            match client.address {
                IpAddr::V4(v4) if v4.octets()[1] == 1 => (Verdict::Drop, 60),
                IpAddr::V4(v4) if v4.octets()[1] == 2 => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    (Verdict::Pass, 7)
                }
                _ => panic!("a bug"),
            }
        }

        fn counted(&self, count: Count, more: u64) {
            self.0.add(count, more);
        }
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_NONBLOCK;
        socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
    }

    async fn next(socket: &Datagrams) -> Vec<Record> {
        let mut bytes = [0; RECORD * AT_ONCE];
        let length = receive(socket, &mut bytes).await.unwrap();
        assert!(length > 0, "the gate's end was closed");
        Record::all_in(&bytes[..length]).collect()
    }

    #[tokio::test]
    async fn each_question_has_its_answer_and_a_bug_costs_one_alone() {
        let (ours, theirs) = pair();
        let gate = Arc::new(Gate::default());
        let keeper = Arc::new(Quick(Counted::default()));
        let serving = {
            let (gate, keeper) = (Arc::clone(&gate), Arc::clone(&keeper));
            tokio::spawn(async move { gate.serve(ours, keeper).await })
        };
        let theirs = Datagrams::new(theirs).unwrap();
        let mut heard = next(&theirs).await;
        assert!(
            heard
                .iter()
                .all(|record| matches!(record, Record::Forget(_)))
        );
        let asked = ["127.2.0.1", "127.3.0.1", "127.1.0.1"].map(client);
        let mut records: Vec<Record> = asked.map(Record::Who).to_vec();
        records.push(Record::Count(Count::Joined, 3));
        let bytes: Vec<u8> = records.iter().flat_map(Record::encode).collect();
        theirs.send(&bytes).await.unwrap();
        let verdict = |client, verdict, seconds| Record::Verdict {
            client,
            verdict,
            seconds,
        };
        heard.clear();
        while heard.len() < 3 {
            heard.extend(next(&theirs).await);
        }
        assert_eq!(
            heard,
            [
                verdict(asked[1], Verdict::Unknown, 0),
                verdict(asked[2], Verdict::Drop, 60),
                verdict(asked[0], Verdict::Pass, 7)
            ]
        );
        assert_eq!(keeper.0.of(Count::Joined).get(), 3);
        gate.forget("127.1.0.1".parse().unwrap());
        assert_eq!(
            next(&theirs).await,
            [Record::Forget("127.1.0.1".parse().unwrap())]
        );
        drop(theirs);
        serving.await.unwrap().unwrap();
        assert!(gate.running().is_none());
    }

    #[test]
    fn a_port_with_an_objection_and_a_trusted_network_are_left_alone() {
        let gate = Gate::default();
        let at = |address: &str, port| Client {
            port,
            ..client(address)
        };
        assert!(!gate.leaves_alone(at("127.1.0.1", 25)));
        let trusted = Trusted {
            networks: vec!["127.1.0.0/16".parse().unwrap()],
            anybody: false,
        };
        let objections = BTreeMap::from([(26, Objection::Proxy)]);
        let (new, gone) = gate.configure(objections.clone(), trusted.clone());
        assert_eq!((new.len(), gone.len()), (1, 0));
        assert!(gate.leaves_alone(at("127.1.0.1", 25)));
        assert!(gate.leaves_alone(at("127.2.0.1", 26)));
        assert!(!gate.leaves_alone(at("127.2.0.1", 25)));
        let (new, gone) = gate.configure(objections, trusted);
        assert!(new.is_empty() && gone.is_empty(), "nothing new");
        assert!(gate.learn(25, Objection::LogIn("ESMTPAUTH")));
        assert!(!gate.learn(25, Objection::LogIn("ESMTPAUTH")));
        assert!(gate.leaves_alone(at("127.2.0.1", 25)));
        let (_, gone) = gate.configure(BTreeMap::new(), Trusted::default());
        assert_eq!(gone, [26]);
        assert!(
            gate.leaves_alone(at("127.2.0.1", 25)),
            "a session showed it"
        );
    }

    #[test]
    fn what_was_counted_is_told_with_a_histogram() {
        let counted = Counted::default();
        assert!(counted.event().is_none());
        counted.add(Count::Dropped, 5);
        counted.add(Count::held(700), 2);
        counted.add(Count::held(9_000_000), 1);
        assert_eq!(
            counted.event().unwrap().to_string(),
            "gate,passed=0,dropped=5,unknown=0,late=0,overflow=0,odd=0,joined=0,spared=0,held-500us=0,held-1ms=2,held-5ms=0,held-20ms=0,held-100ms=0,held-300ms=0,held-600ms=0,held-1000ms=0,held-longer=1"
        );
    }
}
