//! The few bytes of a packet that the gate reads: who opens a connection to
//! which port. Pure; whatever is not plainly that is `None`, and is let in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// Who sent it, as far as a packet tells that; an IPv4-mapped address is IPv4.
    pub source: IpAddr,
    /// The port that it is for.
    pub port: u16,
}

/// TCP's protocol number, and IPv6's extension headers (RFC 8200 §4; RFC 4302
/// for 51): hop-by-hop, routing, destination options, authentication.
const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const AUTHENTICATION: u8 = 51;
/// More than any honest sender has; the kernel's own limit is higher.
const MOST_EXTENSIONS: usize = 8;
/// FIN, SYN, RST and ACK (RFC 9293 §3.1), as `iptables --syn` looks at them.
const FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;

/// The SYN in the first bytes of an IP packet. Fragments, other protocols and
/// what is cut off or does not fit are none.
#[must_use]
pub fn syn(packet: &[u8]) -> Option<Syn> {
    let (source, tcp) = match packet.first()? >> 4 {
        4 => of_ipv4(packet)?,
        6 => of_ipv6(packet)?,
        _ => return None,
    };
    // Data offset: a header of at least 20 bytes.
    if tcp.get(12)? >> 4 < 5 || tcp.get(13)? & FLAGS != SYN {
        return None;
    }
    let port = u16::from_be_bytes([*tcp.get(2)?, *tcp.get(3)?]);
    Some(Syn { source, port })
}

/// RFC 791 §3.1.
fn of_ipv4(packet: &[u8]) -> Option<(IpAddr, &[u8])> {
    let length = usize::from(packet[0] & 0x0f) * 4;
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]);
    // "More fragments", and the offset.
    if length < 20 || fragment & 0x3fff != 0 || *packet.get(9)? != TCP {
        return None;
    }
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    Some((Ipv4Addr::from(source).into(), packet.get(length..)?))
}

/// RFC 8200 §3 and §4.
fn of_ipv6(packet: &[u8]) -> Option<(IpAddr, &[u8])> {
    let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
    let mut next = *packet.get(6)?;
    let mut rest = packet.get(40..)?;
    for _ in 0..=MOST_EXTENSIONS {
        let length = match next {
            TCP => return Some((IpAddr::from(source).to_canonical(), rest)),
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(*rest.get(1)?) + 1) * 8,
            AUTHENTICATION => (usize::from(*rest.get(1)?) + 2) * 4,
            // A fragment (44) too, be it the first.
            _ => return None,
        };
        next = *rest.first()?;
        rest = rest.get(length..)?;
    }
    None
}

/// A SYN as a client sends it, for tests and benchmarks: checksums are not
/// filled in.
#[must_use]
pub fn example(source: IpAddr, port: u16) -> Vec<u8> {
    let mut tcp = vec![0x40, 0x00, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN];
    tcp[2..4].copy_from_slice(&port.to_be_bytes());
    tcp.resize(20, 0);
    let mut packet;
    match source {
        IpAddr::V4(source) => {
            packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0];
            packet.extend(source.octets());
            packet.extend(Ipv4Addr::LOCALHOST.octets());
        }
        IpAddr::V6(source) => {
            packet = vec![0x60, 0, 0, 0, 0, 20, TCP, 64];
            packet.extend(source.octets());
            packet.extend(Ipv6Addr::LOCALHOST.octets());
        }
    }
    packet.extend(tcp);
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4() -> Vec<u8> {
        example("127.66.1.2".parse().unwrap(), 25)
    }

    fn v6() -> Vec<u8> {
        example("fd00:66::5".parse().unwrap(), 2525)
    }

    /// With extension headers between the IPv6 header and TCP: each one's kind
    /// and its bytes, the first of which is put in.
    fn extended(headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut packet = v6();
        let mut at = 40;
        let mut kind_at = 6;
        for (kind, bytes) in headers {
            packet[kind_at] = *kind;
            packet.splice(at..at, bytes.iter().copied());
            kind_at = at;
            at += bytes.len();
        }
        packet[kind_at] = TCP;
        packet
    }

    #[test]
    fn the_sender_and_the_port_are_read() {
        let found = syn(&v4()).unwrap();
        assert_eq!(found.source, IpAddr::from([127, 66, 1, 2]));
        assert_eq!(found.port, 25);
        let found = syn(&v6()).unwrap();
        assert_eq!(found.source, "fd00:66::5".parse::<IpAddr>().unwrap());
        assert_eq!(found.port, 2525);
        // IPv4 options, and TCP's.
        let mut options = v4();
        options[0] = 0x46;
        options.splice(20..20, [1, 1, 1, 0]);
        assert_eq!(syn(&options), syn(&v4()));
        // With ECN, a SYN has two flags more (RFC 3168 §6.1.1).
        let mut ecn = v4();
        ecn[33] |= 0xc0;
        assert_eq!(syn(&ecn), syn(&v4()));
        let mapped = example("::ffff:127.66.1.2".parse().unwrap(), 25);
        assert_eq!(syn(&mapped), syn(&v4()));
    }

    #[test]
    fn extension_headers_are_passed_over() {
        let eight = vec![0; 8];
        let mut sixteen = vec![0; 16];
        sixteen[1] = 1;
        let mut authentication = vec![0; 24];
        authentication[1] = 4;
        for headers in [
            vec![(HOP_BY_HOP, eight.clone())],
            vec![(DESTINATION, sixteen.clone()), (ROUTING, eight.clone())],
            vec![(AUTHENTICATION, authentication)],
            vec![(DESTINATION, eight.clone()); MOST_EXTENSIONS],
        ] {
            assert_eq!(syn(&extended(&headers)), syn(&v6()), "{headers:?}");
        }
        let fragment = vec![(44, eight.clone())];
        assert_eq!(syn(&extended(&fragment)), None, "a fragment");
        let many = vec![(DESTINATION, eight); MOST_EXTENSIONS + 1];
        assert_eq!(syn(&extended(&many)), None, "too many");
    }

    #[test]
    fn what_is_no_whole_syn_is_none() {
        for (at, value, why) in [
            (0, 0x75, "no IP"),
            (0, 0x44, "a header too short"),
            (0, 0x4f, "a header beyond the end"),
            (6, 0x20, "the first fragment"),
            (7, 0x01, "a later fragment"),
            (9, 17, "UDP"),
            (32, 0x40, "a TCP header too short"),
            (33, 0x12, "a SYN and ACK"),
            (33, 0x10, "an ACK"),
            (33, 0x03, "a SYN and FIN"),
            (33, 0x00, "no flag"),
        ] {
            let mut packet = v4();
            packet[at] = value;
            assert_eq!(syn(&packet), None, "{why}");
        }
        for packet in [v4(), v6()] {
            // Up to the flags all is needed, what follows is not.
            let flags = packet.len() - 7;
            for length in 0..flags {
                assert_eq!(syn(&packet[..length]), None, "{length} bytes");
            }
            assert!(syn(&packet[..flags + 1]).is_some());
        }
    }

    proptest! {
        /// Whatever comes, it is read or not, and nothing else happens.
        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = syn(&bytes);
        }

        /// A packet with some bytes changed never names a sender that is not
        /// where a sender's address stands.
        #[test]
        fn a_damaged_packet_names_nobody_else(ipv6: bool, changes in proptest::collection::vec((0_usize..60, any::<u8>()), 0..6), cut in 0_usize..64) {
            let mut packet = if ipv6 { v6() } else { v4() };
            for (at, value) in changes {
                if let Some(byte) = packet.get_mut(at) {
                    *byte = value;
                }
            }
            packet.truncate(cut.max(packet.len().saturating_sub(8)));
            if let Some(found) = syn(&packet) {
                let there = if packet[0] >> 4 == 4 {
                    IpAddr::from(<[u8; 4]>::try_from(&packet[12..16]).unwrap())
                } else {
                    IpAddr::from(<[u8; 16]>::try_from(&packet[8..24]).unwrap()).to_canonical()
                };
                prop_assert_eq!(found.source, there);
            }
        }
    }
}
