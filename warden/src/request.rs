//! The fixed-size messages between the filter and the warden.
//!
//! They travel over a `SOCK_SEQPACKET` socket pair, one message a datagram, so
//! the warden never parses anything of variable length. Integers are little
//! endian. Whatever is not exactly of this form is no request.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::layers::Layers;
use crate::policy::{DENY, PASS, gate_set};

/// Bytes in a request.
pub const REQUEST_LEN: usize = 32;
/// Bytes in a reply.
pub const REPLY_LEN: usize = 16;

const VERSION: u8 = 1;

/// What the filter asks of the warden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Are the sets there, of the right type and family?
    Check,
    /// Is the set of one family still what it was, and does it hold what it
    /// should? Cheap, however much it holds.
    Look {
        /// That of IPv6, else that of IPv4.
        ipv6: bool,
    },
    /// Does a rule use this set of the gate's?
    LookAtRule {
        /// Which.
        of: GateSet,
        /// That of IPv6, else that of IPv4.
        ipv6: bool,
    },
    /// Open the kernel's proc connector and hand the subscribed socket over,
    /// with the reply.
    Watch,
    /// Put `network` into the set of its family for `seconds`; a ban that
    /// runs longer already is left as it is.
    Ban {
        /// An IPv4 address (`/32`) or an IPv6 network.
        network: IpNetwork,
        /// How long, in seconds, at least 1.
        seconds: u32,
    },
    /// Take `network` out of the set of its family, where it is in.
    Unban {
        /// The network, as it was banned.
        network: IpNetwork,
    },
    /// Take all out of the set of one family, as an admin wants it.
    Flush {
        /// That of IPv6, else that of IPv4.
        ipv6: bool,
    },
    /// Put a ban that was there before into its set again, for what is left
    /// of it.
    Restore {
        /// The network, as it was banned.
        network: IpNetwork,
        /// How long it has left, in seconds, at least 1.
        seconds: u32,
    },
    /// Put what the admin names into the set of its family.
    BanByHand {
        /// An IPv4 network, /8 or narrower, or an IPv6 one, /32 or narrower.
        network: IpNetwork,
        /// How long, in seconds, at least 1.
        seconds: u32,
        /// Also where it holds an allowlisted address (never one of the
        /// host's own, of its gateways or its nameservers).
        force: bool,
    },
}

/// A set that one rule of the gate's alone uses, by which that rule is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GateSet {
    /// Who is passed: the rule that sends all others to the queue.
    Pass = 0,
    /// Who is denied: the rule that drops them.
    Deny = 1,
}

impl GateSet {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Pass, Self::Deny];

    /// The set's name.
    #[must_use]
    pub fn name(self, ipv6: bool) -> String {
        gate_set(
            match self {
                Self::Pass => PASS,
                Self::Deny => DENY,
            },
            ipv6,
        )
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Done: for a ban, the entry is new; for its end, it is gone.
    Done = 0,
    /// The entry was there and now runs longer.
    Extended = 1,
    /// The entry was there and already runs at least as long.
    Kept = 2,
    /// Refused: the network holds an allowlisted or own address.
    RefusedProtected = 3,
    /// Refused: a prefix or time that is never asked for.
    RefusedRange = 4,
    /// The kernel has no set of that name.
    NoSet = 5,
    /// The set is of another type or family, or has no timeouts.
    WrongSet = 6,
    /// The kernel says that we may not.
    NotPermitted = 7,
    /// The set is full.
    Full = 8,
    /// Anything else; the warden has said what on its standard error.
    Failed = 9,
    /// This was no request.
    Malformed = 10,
    /// The kernel does not tell this process of others' execs.
    NoEvents = 11,
    /// Done, in a set that had to be made anew, so that the other entries are
    /// gone. To a check: one of the sets, or both.
    Remade = 12,
    /// Done; the set was full, and the bans that end soonest made room.
    Replaced = 13,
    /// Done; the set was full, and was enlarged.
    Grown = 14,
    /// Refused: too many of this kind in a second.
    TooMany = 15,
    /// Refused: the network holds an allowlisted address, and was not forced.
    RefusedAllowlisted = 16,
    /// To a look: somebody else emptied the set, or put another in its place.
    Emptied = 17,
    /// To a look: the set is as it should be, but no rule uses it that would drop
    /// anybody (nor, of the gate's, send him to the queue).
    Unused = 18,
}

impl Outcome {
    const ALL: [Self; 19] = [
        Self::Done,
        Self::Extended,
        Self::Kept,
        Self::RefusedProtected,
        Self::RefusedRange,
        Self::NoSet,
        Self::WrongSet,
        Self::NotPermitted,
        Self::Full,
        Self::Failed,
        Self::Malformed,
        Self::NoEvents,
        Self::Remade,
        Self::Replaced,
        Self::Grown,
        Self::TooMany,
        Self::RefusedAllowlisted,
        Self::Emptied,
        Self::Unused,
    ];

    /// Whether the address is banned now.
    #[must_use]
    pub fn is_banned(self) -> bool {
        self.is_new() || matches!(self, Self::Extended | Self::Kept)
    }

    /// Whether it tells what the warden will not tell again: that the set lost
    /// what it held.
    #[must_use]
    pub fn is_told_once(self) -> bool {
        matches!(self, Self::Remade | Self::Emptied)
    }

    /// Whether what was asked for was done now; for a ban, that it was not
    /// there before.
    #[must_use]
    pub fn is_new(self) -> bool {
        matches!(
            self,
            Self::Done | Self::Remade | Self::Replaced | Self::Grown
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Extended => "extended",
            Self::Kept => "already banned for longer",
            Self::RefusedProtected => {
                "refused: an allowlisted or own address, a gateway or a nameserver"
            }
            Self::RefusedRange => "refused: prefix or time out of range",
            Self::NoSet => "the set does not exist (create it with: rblfilter firewall apply)",
            Self::WrongSet => {
                "the set is not of the type that it must be (ipset: hash:net with a timeout and this family)"
            }
            Self::NotPermitted => {
                "operation not permitted (the warden's cap_net_admin file capability is missing)"
            }
            Self::Full => "the set is full",
            Self::Failed => "the kernel refused",
            Self::Malformed => "malformed request",
            Self::NoEvents => "the kernel tells of no execs here",
            Self::Remade => "done, in a set that was missing and has been made anew",
            Self::Replaced => "done; the set is full, and the bans that end soonest made room",
            Self::Grown => "done; the set was full, and has been enlarged",
            Self::TooMany => "refused: too many in a second",
            Self::RefusedAllowlisted => "refused: it holds an allowlisted address",
            Self::Emptied => "it was emptied, or another was put in its place",
            Self::Unused => {
                "no firewall rule drops who is in it, so nobody is shut out (mend it with: rblfilter firewall apply)"
            }
        })
    }
}

/// The warden's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The serial number of the request that this answers.
    pub serial: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// Of which family the set is that this is about; to a check, of that
    /// which is not as it should be.
    pub ipv6: bool,
    /// What the warden is bound by.
    pub layers: Layers,
}

impl Request {
    /// The request as bytes; `serial` comes back in the reply.
    #[must_use]
    pub fn encode(&self, serial: u32) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        bytes[0] = VERSION;
        bytes[4..8].copy_from_slice(&serial.to_le_bytes());
        match self {
            Self::Check => bytes[1] = 1,
            Self::Watch => bytes[1] = 3,
            Self::Look { ipv6 } => {
                bytes[1] = 7;
                bytes[12] = u8::from(*ipv6);
            }
            Self::LookAtRule { of, ipv6 } => {
                bytes[1] = 9;
                bytes[12] = u8::from(*ipv6);
                bytes[13] = *of as u8;
            }
            Self::Flush { ipv6 } => {
                bytes[1] = 8;
                bytes[12] = u8::from(*ipv6);
            }
            Self::Ban { network, seconds } => {
                bytes[1] = 2;
                bytes[8..12].copy_from_slice(&seconds.to_le_bytes());
                put(&mut bytes, *network);
            }
            Self::Unban { network } => {
                bytes[1] = 4;
                put(&mut bytes, *network);
            }
            Self::Restore { network, seconds } => {
                bytes[1] = 5;
                bytes[8..12].copy_from_slice(&seconds.to_le_bytes());
                put(&mut bytes, *network);
            }
            Self::BanByHand {
                network,
                seconds,
                force,
            } => {
                bytes[1] = 6;
                bytes[8..12].copy_from_slice(&seconds.to_le_bytes());
                bytes[12] = u8::from(*force);
                put(&mut bytes, *network);
            }
        }
        bytes
    }

    /// The serial number and the request in `bytes`; `None` for anything that
    /// [`Request::encode`] does not make.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(u32, Self)> {
        let bytes: &[u8; REQUEST_LEN] = bytes.try_into().ok()?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let serial = word(4);
        let request = match bytes[1] {
            1 => Self::Check,
            3 => Self::Watch,
            2 => Self::Ban {
                network: network_in(bytes)?,
                seconds: word(8),
            },
            4 => Self::Unban {
                network: network_in(bytes)?,
            },
            5 => Self::Restore {
                network: network_in(bytes)?,
                seconds: word(8),
            },
            6 => Self::BanByHand {
                network: network_in(bytes)?,
                seconds: word(8),
                force: bytes[12] == 1,
            },
            7 => Self::Look {
                ipv6: bytes[12] == 1,
            },
            8 => Self::Flush {
                ipv6: bytes[12] == 1,
            },
            9 => Self::LookAtRule {
                of: *GateSet::BOTH.get(usize::from(bytes[13]))?,
                ipv6: bytes[12] == 1,
            },
            _ => return None,
        };
        // One form only: a message with stray bytes is not ours.
        (request.encode(serial) == *bytes).then_some((serial, request))
    }
}

/// Writes a request's network.
fn put(bytes: &mut [u8; REQUEST_LEN], network: IpNetwork) {
    bytes[3] = network.prefix();
    match network.ip() {
        IpAddr::V4(ip) => {
            bytes[2] = 4;
            bytes[16..20].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes[2] = 6;
            bytes[16..32].copy_from_slice(&ip.octets());
        }
    }
}

fn network_in(bytes: &[u8; REQUEST_LEN]) -> Option<IpNetwork> {
    let address: IpAddr = match bytes[2] {
        4 => Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]).into(),
        6 => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&bytes[16..32]);
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    IpNetwork::new(address, bytes[3]).ok()
}

impl Reply {
    /// The reply as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; REPLY_LEN] {
        let mut bytes = [0; REPLY_LEN];
        bytes[0] = VERSION;
        bytes[1] = self.outcome as u8;
        bytes[2] = u8::from(self.ipv6);
        bytes[3] = self.layers.encode();
        bytes[4..8].copy_from_slice(&self.serial.to_le_bytes());
        bytes
    }

    /// The reply in `bytes`; `None` for anything that [`Reply::encode`] does
    /// not make.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REPLY_LEN] = bytes.try_into().ok()?;
        let reply = Self {
            serial: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            outcome: *Outcome::ALL.get(usize::from(bytes[1]))?,
            ipv6: bytes[2] == 1,
            layers: Layers::decode(bytes[3])?,
        };
        (reply.encode() == *bytes).then_some(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(network: &str, seconds: u32) -> Request {
        Request::Ban {
            network: network.parse().unwrap(),
            seconds,
        }
    }

    #[test]
    fn requests_and_replies_round_trip() {
        for request in [
            Request::Check,
            Request::Watch,
            Request::Look { ipv6: false },
            Request::Look { ipv6: true },
            Request::LookAtRule {
                of: GateSet::Pass,
                ipv6: true,
            },
            Request::LookAtRule {
                of: GateSet::Deny,
                ipv6: false,
            },
            Request::Flush { ipv6: false },
            Request::Flush { ipv6: true },
            ban("127.66.1.2/32", 3600),
            ban("2001:db8:1:2::/64", u32::MAX),
            Request::Unban {
                network: "2001:db8:1:2::/64".parse().unwrap(),
            },
            Request::Restore {
                network: "127.66.1.2/32".parse().unwrap(),
                seconds: 9,
            },
            Request::BanByHand {
                network: "127.0.0.0/8".parse().unwrap(),
                seconds: 9,
                force: true,
            },
            Request::BanByHand {
                network: "fd00::/32".parse().unwrap(),
                seconds: 9,
                force: false,
            },
        ] {
            assert_eq!(Request::decode(&request.encode(77)), Some((77, request)));
        }
        for outcome in Outcome::ALL {
            for ipv6 in [false, true] {
                let reply = Reply {
                    serial: u32::MAX,
                    outcome,
                    ipv6,
                    layers: Layers {
                        landlock: 7,
                        seccomp: ipv6,
                        ..Layers::default()
                    },
                };
                assert_eq!(Reply::decode(&reply.encode()), Some(reply));
            }
        }
    }

    #[test]
    fn anything_else_is_no_request() {
        let good = ban("127.66.1.2/32", 3600).encode(1);
        assert_eq!(Request::decode(&good[..31]), None);
        assert_eq!(Request::decode(&[]), None);
        for (at, value) in [
            (0, 2),
            (1, 9),
            (1, 10),
            (2, 5),
            (3, 33),
            (12, 1),
            (20, 1),
            (31, 1),
        ] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Request::decode(&bad), None, "byte {at} = {value}");
        }
        let mut bad = Reply {
            serial: 0,
            outcome: Outcome::Done,
            ipv6: false,
            layers: Layers::default(),
        }
        .encode();
        bad[1] = 19;
        assert_eq!(Reply::decode(&bad), None);
    }
}
