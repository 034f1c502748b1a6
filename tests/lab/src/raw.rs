//! Packets that no socket of the kernel's would send: first packets of connections from any address, that go no
//! further, and whatever bytes a test makes of them. They never leave the lab's loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto,
    socket,
};

/// Where packets go to: 127.0.0.1, and the lab's address of IPv6.
const TO4: Ipv4Addr = Ipv4Addr::LOCALHOST;
const TO6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// Bytes of IPv6's own header, and where it names what follows it (RFC 8200 §3).
const HEADER6: usize = 40;
const NEXT6: usize = 6;
/// IPv6's extension headers (RFC 8200 §4).
pub const HOP_BY_HOP: u8 = 0;
/// See there.
pub const FRAGMENT: u8 = 44;
/// See there.
pub const DESTINATION: u8 = 60;

/// Raw sockets of the calling thread's network, of IPv4 and IPv6.
#[derive(Debug)]
pub struct Raw([OwnedFd; 2]);

impl Raw {
    /// Opens them.
    ///
    /// # Errors
    /// If the kernel refuses: it takes root.
    pub fn open() -> io::Result<Self> {
        let open = |family| {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(family, SockType::Raw, flags, SockProtocol::Raw)
        };
        Ok(Self([
            open(AddressFamily::Inet)?,
            open(AddressFamily::Inet6)?,
        ]))
    }

    /// Sends a whole packet to the lab's server. Of IPv4 the kernel fills in the length and the header's checksum.
    ///
    /// # Errors
    /// If the kernel does not send it.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let [v4, v6] = &self.0;
        let flags = MsgFlags::empty();
        if packet.first().is_some_and(|byte| byte >> 4 == 6) {
            let to = std::net::SocketAddrV6::new(TO6, 0, 0, 0);
            sendto(v6.as_raw_fd(), packet, &SockaddrIn6::from(to), flags)?;
        } else {
            let to = std::net::SocketAddrV4::new(TO4, 0);
            sendto(v4.as_raw_fd(), packet, &SockaddrIn::from(to), flags)?;
        }
        Ok(())
    }
}

/// The first packet of a connection from `source` to `port` of the lab's server.
#[must_use]
pub fn syn(source: impl Into<IpAddr>, source_port: u16, port: u16) -> Vec<u8> {
    let mut tcp = [0; 20];
    tcp[0..2].copy_from_slice(&source_port.to_be_bytes());
    tcp[2..4].copy_from_slice(&port.to_be_bytes());
    tcp[7] = 1;
    tcp[12] = 5 << 4;
    tcp[13] = 2;
    tcp[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    let (mut packet, addresses) = match source.into() {
        IpAddr::V4(source) => (
            vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0],
            [source.octets(), TO4.octets()].concat(),
        ),
        IpAddr::V6(source) => (
            vec![0x60, 0, 0, 0, 0, 20, 6, 64],
            [source.octets(), TO6.octets()].concat(),
        ),
    };
    let checksum = checksum(&addresses, &tcp);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(addresses);
    packet.extend(tcp);
    packet
}

/// TCP's (RFC 9293 §3.1): with a header of addresses, protocol and length before it.
fn checksum(addresses: &[u8], tcp: &[u8; 20]) -> u16 {
    let mut summed = addresses.to_vec();
    summed.extend([0, 6, 0, 20]);
    summed.extend(tcp);
    let sum = summed.chunks(2).fold(0_u32, |sum, two| {
        sum + u32::from(u16::from_be_bytes([two[0], two[1]]))
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded & 0xffff).unwrap_or(0)
}

/// A packet of IPv6 with these extension headers before what it carries, each of
/// eight bytes that say nothing: options that are passed over, or a fragment that
/// is the whole.
#[must_use]
pub fn extended(packet: &[u8], headers: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (mut named_at, mut at) = (NEXT6, HEADER6);
    for kind in headers {
        let carried = std::mem::replace(&mut packet[named_at], *kind);
        // PadN of four bytes; of a fragment, its number.
        let rest: [u8; 7] = match *kind {
            FRAGMENT => [0, 0, 0, 0, 0, 0, 77],
            _ => [0, 1, 4, 0, 0, 0, 0],
        };
        let bytes = std::iter::once(carried).chain(rest);
        packet.splice(at..at, bytes);
        (named_at, at) = (at, at + 8);
    }
    with_length(packet)
}

/// A packet of IPv6 in two fragments, of which the first carries eight bytes.
#[must_use]
pub fn in_two(packet: &[u8]) -> [Vec<u8>; 2] {
    let whole = extended(packet, &[FRAGMENT]);
    let carried = HEADER6 + 8;
    let mut first = whole[..carried + 8].to_vec();
    // "More fragments"; and after eight bytes (RFC 8200 §4.5).
    first[HEADER6 + 3] = 1;
    let mut second = whole[..carried].to_vec();
    second[HEADER6 + 3] = 8;
    second.extend(&whole[carried + 8..]);
    [first, second].map(with_length)
}

fn with_length(mut packet: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(packet.len() - HEADER6).unwrap_or(u16::MAX);
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}
