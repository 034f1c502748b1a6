//! The fixed-size records between the gate and the filter's worker.
//!
//! They travel over a `SOCK_SEQPACKET` socket pair, up to [`AT_ONCE`] in a
//! datagram. Integers are little endian. What is not exactly of this form is
//! passed over. No record has a serial number: what is said holds for an
//! address and a port, whoever asked, so that a worker or a gate that was
//! started again goes on where the other left off.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Bytes of a record.
pub const RECORD: usize = 32;
/// The most records in one datagram.
pub const AT_ONCE: usize = 64;

const VERSION: u8 = 1;

/// What the gate and the worker tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The gate: who is this, that opens a connection to this port?
    Who(Client),
    /// The worker: let it in, or not.
    Verdict {
        /// Who was asked for.
        client: Client,
        /// What is to be done.
        verdict: Verdict,
        /// How long that holds, in seconds; 0: for this connection alone.
        seconds: u32,
    },
    /// The worker: nobody in this network is to be kept out by a verdict of
    /// before.
    Forget(IpNetwork),
    /// The gate: so many more of this since it last said.
    Count(Count, u64),
}

/// Somebody who opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Its address.
    pub address: IpAddr,
    /// The port of ours.
    pub port: u16,
}

/// What is to be done with the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// It is let in; so are the next ones.
    Pass = 1,
    /// It is dropped; so are the next ones.
    Drop = 2,
    /// It is let in; nothing is known.
    Unknown = 3,
}

/// What the gate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Packets that were let in by a verdict.
    Passed,
    /// Packets that were dropped.
    Dropped,
    /// Packets that were let in as the lists could not be asked.
    Unknown,
    /// Packets that were let in at the limit.
    Late,
    /// Packets that were let in unasked: too many at once, or the worker silent.
    Overflow,
    /// Packets that were let in as they are no plain SYN.
    Odd,
    /// Packets that joined one of the same client that was held already.
    Joined,
    /// Packets that a verdict would have dropped, of addresses that are
    /// allowlisted or our own.
    Spared,
    /// Packets that were held for at most so long: see [`HELD`].
    Held(u8),
}

/// The bounds of the histogram of how long packets were held, in microseconds;
/// the last bucket is what is beyond.
pub const HELD: [u32; 8] = [
    500, 1_000, 5_000, 20_000, 100_000, 300_000, 600_000, 1_000_000,
];

impl Count {
    /// All of them.
    pub const ALL: [Self; 8 + HELD.len() + 1] = [
        Self::Passed,
        Self::Dropped,
        Self::Unknown,
        Self::Late,
        Self::Overflow,
        Self::Odd,
        Self::Joined,
        Self::Spared,
        Self::Held(0),
        Self::Held(1),
        Self::Held(2),
        Self::Held(3),
        Self::Held(4),
        Self::Held(5),
        Self::Held(6),
        Self::Held(7),
        Self::Held(8),
    ];

    /// Its place in [`Count::ALL`].
    #[must_use]
    pub fn place(self) -> usize {
        match self {
            Self::Passed => 0,
            Self::Dropped => 1,
            Self::Unknown => 2,
            Self::Late => 3,
            Self::Overflow => 4,
            Self::Odd => 5,
            Self::Joined => 6,
            Self::Spared => 7,
            Self::Held(bucket) => 8 + usize::from(bucket),
        }
    }

    /// The bucket of a packet that was held for so many microseconds.
    #[must_use]
    pub fn held(micros: u128) -> Self {
        let bucket = HELD.iter().filter(|bound| micros > u128::from(**bound));
        Self::Held(u8::try_from(bucket.count()).unwrap_or(u8::MAX))
    }
}

impl Record {
    /// The record as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[0] = VERSION;
        match self {
            Self::Who(client) => {
                bytes[1] = 1;
                put_client(&mut bytes, client);
            }
            Self::Verdict {
                client,
                verdict,
                seconds,
            } => {
                bytes[1] = 2;
                bytes[3] = *verdict as u8;
                bytes[4..8].copy_from_slice(&seconds.to_le_bytes());
                put_client(&mut bytes, client);
            }
            Self::Forget(network) => {
                bytes[1] = 3;
                bytes[3] = network.prefix();
                put_address(&mut bytes, network.ip());
            }
            Self::Count(count, more) => {
                bytes[1] = 4;
                bytes[3] = u8::try_from(count.place()).unwrap_or(u8::MAX);
                bytes[16..24].copy_from_slice(&more.to_le_bytes());
            }
        }
        bytes
    }

    /// The record in `bytes`; `None` for anything that [`Record::encode`] does
    /// not make.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD] = bytes.try_into().ok()?;
        let seconds = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let record = match bytes[1] {
            1 => Self::Who(client_in(bytes)?),
            2 => Self::Verdict {
                client: client_in(bytes)?,
                verdict: match bytes[3] {
                    1 => Verdict::Pass,
                    2 => Verdict::Drop,
                    3 => Verdict::Unknown,
                    _ => return None,
                },
                seconds,
            },
            3 => Self::Forget(IpNetwork::new(address_in(bytes)?, bytes[3]).ok()?),
            4 => {
                let mut more = [0; 8];
                more.copy_from_slice(&bytes[16..24]);
                let count = *Count::ALL.get(usize::from(bytes[3]))?;
                Self::Count(count, u64::from_le_bytes(more))
            }
            _ => return None,
        };
        // One form only: a record with stray bytes is not ours.
        (record.encode() == *bytes).then_some(record)
    }

    /// The records of a datagram; what is none is passed over.
    pub fn all_in(datagram: &[u8]) -> impl Iterator<Item = Self> + '_ {
        datagram.chunks(RECORD).filter_map(Self::decode)
    }
}

fn put_client(bytes: &mut [u8; RECORD], client: &Client) {
    bytes[8..10].copy_from_slice(&client.port.to_le_bytes());
    put_address(bytes, client.address);
}

fn put_address(bytes: &mut [u8; RECORD], address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            bytes[2] = 4;
            bytes[16..20].copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes[2] = 6;
            bytes[16..32].copy_from_slice(&v6.octets());
        }
    }
}

fn client_in(bytes: &[u8; RECORD]) -> Option<Client> {
    Some(Client {
        address: address_in(bytes)?,
        port: u16::from_le_bytes([bytes[8], bytes[9]]),
    })
}

fn address_in(bytes: &[u8; RECORD]) -> Option<IpAddr> {
    match bytes[2] {
        4 => Some(Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]).into()),
        6 => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&bytes[16..32]);
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(address: &str) -> Client {
        Client {
            address: address.parse().unwrap(),
            port: 25,
        }
    }

    #[test]
    fn records_round_trip_also_many_in_one_datagram() {
        let mut records = vec![
            Record::Who(client("127.66.1.2")),
            Record::Who(client("fd00:66::5")),
            Record::Forget("127.66.0.0/16".parse().unwrap()),
            Record::Forget("fd00:66::/64".parse().unwrap()),
        ];
        for verdict in [Verdict::Pass, Verdict::Drop, Verdict::Unknown] {
            records.push(Record::Verdict {
                client: client("127.66.1.2"),
                verdict,
                seconds: 600,
            });
        }
        records.extend(Count::ALL.map(|count| Record::Count(count, u64::MAX)));
        let datagram: Vec<u8> = records.iter().flat_map(Record::encode).collect();
        assert_eq!(Record::all_in(&datagram).collect::<Vec<_>>(), records);
        for (place, count) in Count::ALL.into_iter().enumerate() {
            assert_eq!(count.place(), place);
        }
    }

    #[test]
    fn each_time_has_its_bucket() {
        for (micros, bucket) in [(0, 0), (500, 0), (501, 1), (900_000, 7), (2_000_000, 8)] {
            assert_eq!(Count::held(micros), Count::Held(bucket), "{micros}");
        }
    }

    proptest! {
        /// Whatever comes is one of our records, byte for byte, or none.
        #[test]
        fn any_bytes_are_a_record_or_none(bytes: [u8; RECORD], kind in 0_u8..6, family in 0_u8..8) {
            let mut bytes = bytes;
            for shaped in [false, true] {
                if shaped {
                    (bytes[0], bytes[1], bytes[2]) = (VERSION, kind, family);
                }
                if let Some(record) = Record::decode(&bytes) {
                    prop_assert_eq!(record.encode(), bytes);
                }
            }
        }
    }
}
