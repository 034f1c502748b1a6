//! rblfilter-warden: the only process of rblfilter with a capability.
//!
//! It is started by the filter with a `SOCK_SEQPACKET` socket as descriptor 0,
//! raises `CAP_NET_ADMIN` from its file capability, and adds addresses to two
//! sets and takes them out again, whose names and whose exceptions it reads from the configuration
//! itself. It ends when the filter closes the socket. What it has to say goes
//! to standard error, which courierfilter hands to syslog.

mod connector;
mod sets;

use std::error::Error;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::socket::{self, ControlMessage, MsgFlags, SockType, sockopt};
use rblfilter_warden::policy::{MAX_BAN_SECONDS, Policy};
use rblfilter_warden::protected::Protected;
use rblfilter_warden::request::{Outcome, REQUEST_LEN, Reply, Request};
use rblfilter_warden::{CONFIG_FILE, SYSCONFDIR};

use crate::sets::Sets;

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 || !descriptor_0_is_ours() {
        eprintln!("rblfilter-warden: started by rblfilter, not by hand");
        return ExitCode::from(64);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rblfilter-warden: {}", chain(&*error));
            ExitCode::from(78)
        }
    }
}

fn descriptor_0_is_ours() -> bool {
    socket::getsockopt(&io::stdin(), sockopt::SockType)
        .is_ok_and(|kind| kind == SockType::SeqPacket)
}

fn run() -> Result<(), Box<dyn Error>> {
    let policy = Policy::read(&Path::new(SYSCONFDIR).join(CONFIG_FILE))?;
    let mut warden = Warden {
        protected: Protected::new(policy.allow.networks),
        sets: Sets::new(policy.ban.set4, policy.ban.set6),
    };
    // Without it we still answer, and every answer says what is missing.
    if let Err(error) = caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        eprintln!("rblfilter-warden: cannot raise cap_net_admin: {error}");
    }
    let mut bytes = [0; REQUEST_LEN + 1];
    loop {
        let stdin = io::stdin().as_raw_fd();
        match socket::recv(stdin, &mut bytes, MsgFlags::empty()) {
            Ok(0) => return Ok(()),
            Ok(len) => {
                let (reply, handed) = warden.answer(&bytes[..len]);
                match send(&reply, handed.as_ref()) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
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

/// The policy and the sets it speaks of.
struct Warden {
    protected: Protected,
    sets: Sets,
}

impl Warden {
    /// The reply, and the descriptor that goes with it.
    fn answer(&mut self, bytes: &[u8]) -> (Reply, Option<OwnedFd>) {
        let Some((serial, request)) = Request::decode(bytes) else {
            let outcome = Outcome::Malformed;
            return (
                Reply {
                    serial: 0,
                    outcome,
                    ipv6: false,
                },
                None,
            );
        };
        let mut handed = None;
        let (outcome, ipv6) = match request {
            Request::Watch => match connector::subscribe() {
                Ok(socket) => {
                    handed = Some(socket);
                    (Outcome::Done, false)
                }
                Err(error) => {
                    eprintln!("rblfilter-warden: proc connector: {error}");
                    (Outcome::NoEvents, false)
                }
            },
            Request::Check => self.sets.check(),
            Request::Ban { network, seconds } => {
                let outcome = self
                    .refusal(network, seconds)
                    .unwrap_or_else(|| self.sets.ban(network, seconds, Instant::now()));
                (outcome, network.is_ipv6())
            }
            // Whom it lets in again, our own two sets alone kept out.
            Request::Unban { network } => {
                let outcome = self.sets.unban(network);
                (outcome, network.is_ipv6())
            }
        };
        (
            Reply {
                serial,
                outcome,
                ipv6,
            },
            handed,
        )
    }

    /// Why this ban is not for us to set, if so.
    fn refusal(&mut self, network: ipnetwork::IpNetwork, seconds: u32) -> Option<Outcome> {
        // A ban of a verdict is one IPv4 address, or an IPv6 network no wider
        // than what one customer gets.
        let narrow = if network.is_ipv4() {
            network.prefix() == 32
        } else {
            network.prefix() >= 48
        };
        if !narrow || seconds == 0 || seconds > MAX_BAN_SECONDS || network.network() != network.ip()
        {
            return Some(Outcome::RefusedRange);
        }
        if let Err(error) = self.protected.refresh(Instant::now()) {
            eprintln!("rblfilter-warden: cannot list own addresses: {error}");
        }
        (!self.protected.knows_own() || self.protected.overlaps(network))
            .then_some(Outcome::RefusedProtected)
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
