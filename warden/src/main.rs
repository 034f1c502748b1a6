//! rblfilter-warden: the only process of rblfilter with a capability.
//!
//! It is started by the filter with a `SOCK_SEQPACKET` socket as descriptor 0,
//! raises `CAP_NET_ADMIN` from its file capability, and adds networks to two
//! sets and takes them out again, whose names and whose exceptions it reads
//! from the configuration itself. All requests that are there are read before
//! the first is answered, so that the kernel gets them together. It ends when
//! the filter closes the socket. Every second it says on descriptor 1, where
//! that is a socket too, that it lives: from the loop itself, so that one that
//! hangs is silent. What it has to say goes to standard error,
//! which courierfilter hands to syslog.
//!
//! With the argument `gate` it is another process, see [`gate`].

mod connector;
mod dry;
mod gate;
mod ipset;
mod kernel;
mod nftables;
mod sandbox;
mod say;
mod sets;

use std::error::Error;
use std::io::{self, IoSlice, Stdout};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::sys::socket::{self, ControlMessage, MsgFlags, SockType, sockopt};
use rblfilter_warden::bucket::Bucket;
use rblfilter_warden::layers::Layers;
use rblfilter_warden::policy::{
    BY_HAND_PER_SECOND, BY_HAND_PREFIX, MAX_BAN_SECONDS, Policy, Sets as SetsPolicy,
    VERDICT_PREFIX, is_narrow,
};
use rblfilter_warden::protected::Protected;
use rblfilter_warden::request::{Outcome, REQUEST_LEN, Reply, Request};
use rblfilter_warden::{BEAT, CONFIG_FILE, GATE_ROLE, SYSCONFDIR, neighbours};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::sets::{Sets, Wish};

/// How often it says that it lives, and how long it waits for a request at most.
const BEAT_EVERY: Duration = Duration::from_secs(1);
const WAIT: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// Requests that are answered together.
const MOST_AT_ONCE: usize = 1024;
/// More than the kernel takes.
const RESTORES_PER_SECOND: u32 = 200_000;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments == ["--version"] {
        println!("rblfilter-warden {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let is_gate = arguments == [GATE_ROLE];
    if !(is_gate || arguments.is_empty()) || !is_seqpacket(&io::stdin()) {
        eprintln!("rblfilter-warden: started by rblfilter, not by hand");
        return ExitCode::from(64);
    }
    let ended = if is_gate { gate::run() } else { run() };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rblfilter-warden: {}", chain(&*error));
            ExitCode::from(78)
        }
    }
}

fn is_seqpacket(fd: &impl AsFd) -> bool {
    socket::getsockopt(fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket)
}

fn run() -> Result<(), Box<dyn Error>> {
    let policy = Policy::read(&Path::new(SYSCONFDIR).join(CONFIG_FILE))?;
    let nameservers = &policy.lookup.nameservers;
    let mut warden = Warden {
        protected: Protected::new(policy.allow.networks)
            .with_nameservers(nameservers.iter().filter_map(|n| neighbours::nameserver(n))),
        bounds: Bounds::new(&policy.ban),
        // The kernel is asked what it has with the capability alone.
        sets: None,
        policy: policy.ban,
        layers: Layers::default(),
    };
    // Without it we still answer, and every answer says what is missing.
    if let Err(error) = caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        say::line(format_args!("cannot raise cap_net_admin: {error}"));
    }
    let mut pulse = Pulse::new();
    // What takes privileges is done; from here on the worker is listened to.
    warden.layers = sandbox::enter(policy.sandbox);
    loop {
        let Some(requests) = requests(&mut pulse)? else {
            say::rest();
            return Ok(());
        };
        for (reply, handed) in warden.answer(&requests) {
            say::answered(reply.outcome);
            match send(&reply, handed.as_ref()) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => {
                    say::rest();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A request with its serial number; `None`: what came is none.
type Asked = Option<(u32, Request)>;

/// The word to the supervisor that the loop goes round.
struct Pulse {
    socket: Option<Stdout>,
    next: Instant,
}

impl Pulse {
    fn new() -> Self {
        let stdout = io::stdout();
        let is_ours = is_seqpacket(&stdout);
        Self {
            socket: is_ours.then_some(stdout),
            next: Instant::now(),
        }
    }

    /// Says it where it is time to.
    fn beat(&mut self, now: Instant) {
        if let Some(socket) = &self.socket
            && now >= self.next
        {
            // A supervisor that is gone, or does not listen, is none of our
            // concern.
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let _ = socket::send(socket.as_raw_fd(), &[BEAT], flags);
            self.next = now + BEAT_EVERY;
        }
    }
}

/// Waits for a request, and takes what else is there; `None` at the end.
fn requests(pulse: &mut Pulse) -> nix::Result<Option<Vec<Asked>>> {
    loop {
        pulse.beat(Instant::now());
        say::settle();
        let stdin = io::stdin();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, Some(&WAIT)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(Errno::from_raw(error.raw_os_error())),
        }
    }
    let stdin = io::stdin().as_raw_fd();
    let mut bytes = [0; REQUEST_LEN + 1];
    let mut requests = Vec::new();
    let mut flags = MsgFlags::empty();
    while requests.len() < MOST_AT_ONCE {
        match socket::recv(stdin, &mut bytes, flags) {
            Ok(0) | Err(Errno::ECONNRESET) if requests.is_empty() => return Ok(None),
            // The end will be there still.
            Ok(0) | Err(Errno::ECONNRESET | Errno::EAGAIN) => break,
            Ok(len) => {
                requests.push(Request::decode(&bytes[..len]));
                flags = MsgFlags::MSG_DONTWAIT;
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(requests))
}

/// Sends a reply, with the descriptor that goes with it.
fn send(reply: &Reply, handed: Option<&OwnedFd>) -> nix::Result<usize> {
    let bytes = reply.encode();
    let descriptors: Vec<RawFd> = handed.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights[..]
    };
    let iov = [IoSlice::new(&bytes)];
    socket::sendmsg::<()>(
        io::stdin().as_raw_fd(),
        &iov,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
}

/// How often each kind may be asked for in a second.
struct Bounds {
    verdicts: Bucket,
    restores: Bucket,
    by_hand: Bucket,
}

impl Bounds {
    fn new(policy: &SetsPolicy) -> Self {
        Self {
            verdicts: Bucket::new(policy.new_per_second),
            restores: Bucket::new(RESTORES_PER_SECOND),
            by_hand: Bucket::new(BY_HAND_PER_SECOND),
        }
    }
}

/// The policy and the sets it speaks of.
struct Warden {
    protected: Protected,
    bounds: Bounds,
    policy: SetsPolicy,
    sets: Option<Sets>,
    layers: Layers,
}

impl Warden {
    /// The replies, each with the descriptor that goes with it.
    fn answer(&mut self, requests: &[Asked]) -> Vec<(Reply, Option<OwnedFd>)> {
        let now = Instant::now();
        let mut replies = Vec::with_capacity(requests.len());
        // What the sets are to do, and which replies wait for it.
        let (mut wishes, mut places) = (Vec::new(), Vec::new());
        for request in requests {
            let serial = request.map_or(0, |(serial, _)| serial);
            let mut handed = None;
            let (outcome, ipv6) = match request.map(|(_, request)| request) {
                None => (Outcome::Malformed, false),
                Some(Request::Watch) => match connector::subscribe() {
                    Ok(socket) => {
                        handed = Some(socket);
                        (Outcome::Done, false)
                    }
                    Err(error) => {
                        say::line(format_args!("proc connector: {error}"));
                        (Outcome::NoEvents, false)
                    }
                },
                Some(Request::Check) => {
                    // It tells what those before it have come to.
                    self.settle(&mut wishes, &mut places, &mut replies, now);
                    self.sets().check()
                }
                Some(Request::Look { ipv6 }) => {
                    self.settle(&mut wishes, &mut places, &mut replies, now);
                    (self.sets().look(ipv6, now), ipv6)
                }
                Some(Request::LookAtRule { of, ipv6 }) => {
                    (self.sets().look_at_rule(of, ipv6), ipv6)
                }
                Some(Request::Flush { ipv6 }) => {
                    self.settle(&mut wishes, &mut places, &mut replies, now);
                    let bound = bound(&mut self.bounds.by_hand, now);
                    let outcome = bound.map_or_else(|no| no, |()| self.sets().flush(ipv6));
                    (outcome, ipv6)
                }
                Some(request) => match self.wish(request, now) {
                    Ok(wish) => {
                        wishes.push(wish);
                        places.push(replies.len());
                        (Outcome::Failed, is_ipv6(request))
                    }
                    Err(outcome) => (outcome, is_ipv6(request)),
                },
            };
            let reply = Reply {
                serial,
                outcome,
                ipv6,
                layers: self.layers,
            };
            replies.push((reply, handed));
        }
        self.settle(&mut wishes, &mut places, &mut replies, now);
        replies
    }

    /// Has the sets do what is wished, and puts it into the replies.
    fn settle(
        &mut self,
        wishes: &mut Vec<Wish>,
        places: &mut Vec<usize>,
        replies: &mut [(Reply, Option<OwnedFd>)],
        now: Instant,
    ) {
        if wishes.is_empty() {
            return;
        }
        let outcomes = self.sets().apply(wishes, now);
        for (place, outcome) in places.drain(..).zip(outcomes) {
            replies[place].0.outcome = outcome;
        }
        wishes.clear();
    }

    fn sets(&mut self) -> &mut Sets {
        self.sets.get_or_insert_with(|| Sets::new(&self.policy))
    }

    /// What the sets are to do for this request, or why not.
    fn wish(&mut self, request: Request, now: Instant) -> Result<Wish, Outcome> {
        match request {
            Request::Ban { network, seconds } => {
                // A ban of a verdict is one IPv4 address, or an IPv6 network no
                // wider than what one customer gets.
                self.check_range(network, seconds, VERDICT_PREFIX)?;
                self.check_protected(network, now)?;
                bound(&mut self.bounds.verdicts, now)?;
                Ok(Wish::Ban(network, seconds))
            }
            Request::Restore { network, seconds } => {
                self.check_range(network, seconds, BY_HAND_PREFIX)?;
                self.check_protected(network, now)?;
                bound(&mut self.bounds.restores, now)?;
                if !is_narrow(network, VERDICT_PREFIX) {
                    bound(&mut self.bounds.by_hand, now)?;
                }
                Ok(Wish::Restore(network, seconds))
            }
            Request::BanByHand {
                network,
                seconds,
                force,
            } => {
                self.check_range(network, seconds, BY_HAND_PREFIX)?;
                self.refresh(now);
                if !self.protected.knows_own() || self.protected.holds_vital(network) {
                    return Err(Outcome::RefusedProtected);
                }
                if !force && self.protected.holds_allowlisted(network) {
                    return Err(Outcome::RefusedAllowlisted);
                }
                bound(&mut self.bounds.by_hand, now)?;
                Ok(Wish::Ban(network, seconds))
            }
            // Whom it lets in again, our own sets alone kept out.
            Request::Unban { network } => {
                self.check_range(network, 1, BY_HAND_PREFIX)?;
                Ok(Wish::Unban(network))
            }
            Request::Check
            | Request::Look { .. }
            | Request::LookAtRule { .. }
            | Request::Flush { .. }
            | Request::Watch => Err(Outcome::Malformed),
        }
    }

    fn check_range(&self, network: IpNetwork, seconds: u32, least: [u8; 2]) -> Result<(), Outcome> {
        let fits = is_narrow(network, least)
            && (1..=MAX_BAN_SECONDS).contains(&seconds)
            && network.network() == network.ip();
        if fits {
            Ok(())
        } else {
            Err(Outcome::RefusedRange)
        }
    }

    fn check_protected(&mut self, network: IpNetwork, now: Instant) -> Result<(), Outcome> {
        self.refresh(now);
        if !self.protected.knows_own() || self.protected.overlaps(network) {
            Err(Outcome::RefusedProtected)
        } else {
            Ok(())
        }
    }

    fn refresh(&mut self, now: Instant) {
        if let Err(error) = self.protected.refresh(now) {
            say::line(format_args!("cannot list own addresses: {error}"));
        }
    }
}

fn bound(bucket: &mut Bucket, now: Instant) -> Result<(), Outcome> {
    if bucket.take(now) {
        Ok(())
    } else {
        Err(Outcome::TooMany)
    }
}

fn is_ipv6(request: Request) -> bool {
    match request {
        Request::Ban { network, .. }
        | Request::Unban { network }
        | Request::Restore { network, .. }
        | Request::BanByHand { network, .. } => network.is_ipv6(),
        Request::Look { ipv6 } | Request::LookAtRule { ipv6, .. } | Request::Flush { ipv6 } => ipv6,
        Request::Check | Request::Watch => false,
    }
}

/// An error and all that caused it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
