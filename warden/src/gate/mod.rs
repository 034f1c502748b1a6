//! The gate: holds the first packet of a new client's connection while the
//! filter's worker finds out what the lists say of it.
//!
//! It is a process of its own beside the one that keeps the bans, so that no
//! packet waits for a set of a million entries. It is started by the supervisor
//! with its socket to the worker as descriptor 0, and tells on descriptor 1, ten
//! times a second, that it lives: one that is stopped would block new
//! clients, and is killed. It ends with the worker; the kernel then lets all
//! packets in (`bypass`).

mod counts;
mod pending;
mod queue;
mod sets;

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags};
use rblfilter_warden::packet::syn;
use rblfilter_warden::policy::{Backend, Policy};
use rblfilter_warden::protected::{Protected, canonical};
use rblfilter_warden::question::{AT_ONCE, Client, RECORD, Record};
use rblfilter_warden::{BEAT, CONFIG_FILE, SYSCONFDIR};
use rustix::event::{PollFd, PollFlags, poll};

use self::pending::{Entry, MOST_HELD, Packet, Pending};
use self::queue::Queue;
use self::sets::Sets;
use crate::{sandbox, say};

/// How often it tells that it lives; the supervisor waits for half a second.
const BEAT_EVERY: Duration = Duration::from_millis(100);
/// How often it tells what it has done.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// Packets, and datagrams of the worker, that are read before the rest is seen to.
const READ_AT_ONCE: usize = 512;
/// How long packets are gathered while they come fast: to wake us and the worker
/// is dearer than what is to be done for one of them.
const GATHER: Duration = Duration::from_millis(5);
/// How fast that is: more looks at the queue than one in that time, on the average
/// of this one. Until then nobody waits.
const FAST: Duration = Duration::from_millis(100);
/// How long another gate may take to let the queue go.
const COMES_FREE: Duration = Duration::from_secs(5);
/// The longest that any packet is held.
const LONGEST_LIMIT: Duration = Duration::from_millis(900);

/// Runs until the worker is gone.
///
/// # Errors
/// Where the configuration cannot be read or has no gate, or the queue cannot
/// be had.
pub fn run() -> Result<(), Box<dyn Error>> {
    let policy = Policy::read(&Path::new(SYSCONFDIR).join(CONFIG_FILE))?;
    if !policy.gate.enabled || policy.ban.backend == Backend::DryRun {
        return Err("the configuration has no gate".into());
    }
    let limit = humantime::parse_duration(&policy.gate.limit)?.min(LONGEST_LIMIT);
    if let Err(error) = caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        say::line(format_args!("gate: cannot raise cap_net_admin: {error}"));
    }
    let mut relays: Vec<_> = policy.never_ban.relays.into_iter().map(canonical).collect();
    relays.extend(policy.allow.networks);
    let observes = policy.mode == "observe";
    let mut gate = Gate {
        // It may have waited for us already.
        pending: Pending::new(
            limit.saturating_sub(GATHER),
            policy.gate.asks_per_second,
            observes,
        ),
        protected: Protected::new(relays),
        sets: Sets::start(policy.ban.backend, policy.sandbox)?,
    };
    // What takes privileges is done, and no other thread is started.
    sandbox::enter(policy.sandbox);
    let most = u32::try_from(MOST_HELD * 3 / 2)?;
    let mut queue = gate
        .open(policy.gate.queue, most)
        .map_err(|error| format!("queue {}: {}", policy.gate.queue, explained(&error)))?;
    gate.serve(&mut queue)
}

fn explained(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => "another program reads it; choose another with gate.queue".into(),
        Some(Errno::EPERM) => {
            "operation not permitted (the warden's cap_net_admin file capability is missing)".into()
        }
        _ => error.to_string(),
    }
}

struct Gate {
    pending: Pending,
    protected: Protected,
    sets: Sets,
}

impl Gate {
    /// Takes the queue, once a gate before this one has let it go.
    fn open(&mut self, number: u16, most: u32) -> io::Result<Queue> {
        let end = Instant::now() + COMES_FREE;
        loop {
            beat();
            let now = Instant::now();
            let opened = Queue::open(number, most, |packet, payload| {
                self.arrived(packet, payload, now);
            });
            match opened {
                Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && now < end => {
                    thread::sleep(BEAT_EVERY);
                }
                opened => return opened,
            }
        }
    }

    fn arrived(&mut self, packet: Packet, payload: &[u8], now: Instant) {
        match syn(payload) {
            Some(syn) => {
                let client = Client {
                    address: syn.source,
                    port: syn.port,
                };
                self.pending.arrived(packet, client, now);
            }
            None => self.pending.odd(packet),
        }
    }

    fn serve(&mut self, queue: &mut Queue) -> Result<(), Box<dyn Error>> {
        let (mut next_beat, mut count) = (Instant::now(), Instant::now());
        let mut look = Instant::now();
        loop {
            let now = Instant::now();
            if now >= next_beat {
                beat();
                next_beat = now + BEAT_EVERY;
            }
            if now >= count {
                tell(&self.pending.counts.take());
                count = now + COUNT_EVERY;
            }
            let speaks = self.wait(queue, look, next_beat.min(count))?;
            let now = Instant::now();
            if look <= now {
                let gather = self.read(queue)?;
                look = look.max(now.checked_sub(FAST).unwrap_or(now)) + gather;
            }
            let there = !speaks || self.hear();
            let now = Instant::now();
            if there {
                self.pending.expire(now);
            } else {
                self.pending.release_all(now);
            }
            let decided = self.pending.take_decided();
            if !decided.is_empty() {
                queue.decide(&decided)?;
            }
            if !there {
                return Ok(());
            }
            self.ask();
        }
    }

    /// Takes the packets that wait; for how long the next ones are gathered.
    fn read(&mut self, queue: &mut Queue) -> io::Result<Duration> {
        for already in 0..READ_AT_ONCE {
            let now = Instant::now();
            if !queue.read(|packet, payload| self.arrived(packet, payload, now))? {
                // Of one that only looks on, they are not to be held at all.
                let gathers = already > 0 && !self.pending.observes();
                return Ok(if gathers { GATHER } else { Duration::ZERO });
            }
        }
        Ok(Duration::ZERO)
    }

    /// Until something is to be done, at the latest `at`; the queue is of no
    /// interest before `look`. Whether the worker is to be heard.
    fn wait(&self, queue: &Queue, look: Instant, at: Instant) -> io::Result<bool> {
        let at = self.pending.next().map_or(at, |next| next.min(at));
        let now = Instant::now();
        let gathers = now < look;
        let at = if gathers { at.min(look) } else { at };
        let timeout = at.saturating_duration_since(now);
        let timeout = timeout.try_into().map_err(io::Error::other)?;
        let stdin = io::stdin();
        let worker = if self.pending.has_questions() {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        };
        let mut fds = [
            PollFd::from_borrowed_fd(stdin.as_fd(), worker),
            PollFd::from_borrowed_fd(queue.as_fd(), PollFlags::IN),
        ];
        let wanted = if gathers { 1 } else { 2 };
        match poll(&mut fds[..wanted], Some(&timeout)) {
            Ok(_) => Ok(!(fds[0].revents() - PollFlags::OUT).is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Hears the worker; whether it is there.
    fn hear(&mut self) -> bool {
        let mut bytes = [0; RECORD * AT_ONCE];
        let mut entries: Vec<Entry> = Vec::new();
        let mut there = true;
        for _ in 0..READ_AT_ONCE {
            let flags = MsgFlags::MSG_DONTWAIT;
            match socket::recv(io::stdin().as_raw_fd(), &mut bytes, flags) {
                Ok(length) if length > 0 => {
                    let now = Instant::now();
                    for record in Record::all_in(&bytes[..length]) {
                        self.obey(record, &mut entries, now);
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => {
                    there = false;
                    break;
                }
            }
        }
        self.sets.put(entries, Instant::now());
        there
    }

    fn obey(&mut self, record: Record, entries: &mut Vec<Entry>, now: Instant) {
        match record {
            Record::Verdict {
                client,
                verdict,
                seconds,
            } => {
                let protected = &mut self.protected;
                let is_protected = |address| is_protected(protected, address, now);
                let entry = self
                    .pending
                    .answered(client, verdict, seconds, is_protected, now);
                entries.extend(entry);
            }
            Record::Forget(network) => {
                self.sets.put(std::mem::take(entries), now);
                self.sets.forget(network);
            }
            // Those are ours to say.
            Record::Who(_) | Record::Count(..) => {}
        }
    }

    /// Sends what questions there is room for; the rest waits.
    fn ask(&mut self) {
        loop {
            let clients = self.pending.questions();
            if clients.is_empty() {
                return;
            }
            let records = clients.iter().map(|client| Record::Who(*client));
            if !say(records) {
                return;
            }
            self.pending.sent(clients.len());
        }
    }
}

/// Whether nobody may drop what `address` sends: where our own addresses are
/// not known, it may be one.
fn is_protected(protected: &mut Protected, address: IpAddr, now: Instant) -> bool {
    if let Err(error) = protected.refresh(now) {
        say::line(format_args!("gate: cannot list own addresses: {error}"));
    }
    !protected.knows_own() || protected.overlaps(address.into())
}

/// Sends records in one datagram; false: there is no room at the moment, or
/// nobody to hear it, which reading tells.
fn say(records: impl Iterator<Item = Record>) -> bool {
    let bytes: Vec<u8> = records.flat_map(|record| record.encode()).collect();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    socket::send(io::stdin().as_raw_fd(), &bytes, flags).is_ok()
}

/// What cannot be told at once is lost: it is statistics.
fn tell(records: &[Record]) {
    if !records.is_empty() {
        say(records.iter().copied());
    }
}

/// Tells the supervisor that it lives. One that is gone, or does not listen, is
/// none of our trouble: we serve as long as the worker.
fn beat() {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let _ = socket::send(io::stdout().as_raw_fd(), &[BEAT], flags);
}
