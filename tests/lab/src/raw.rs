//! Packets that no socket of the kernel's would send: first packets of connections from any address, that go no
//! further, and whatever bytes a test makes of them. They never leave the lab's loopback.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

/// A raw socket of the calling thread's network.
#[derive(Debug)]
pub struct Raw(OwnedFd);

impl Raw {
    /// Opens one.
    ///
    /// # Errors
    /// If the kernel refuses: it takes root.
    pub fn open() -> io::Result<Self> {
        let (family, kind) = (AddressFamily::Inet, SockType::Raw);
        let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        Ok(Self(fd))
    }

    /// Sends a whole IPv4 packet to 127.0.0.1. The kernel fills in its length and the header's checksum.
    ///
    /// # Errors
    /// If the kernel does not send it.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let to = SockaddrIn::new(127, 0, 0, 1, 0);
        sendto(self.0.as_raw_fd(), packet, &to, MsgFlags::empty())?;
        Ok(())
    }
}

/// The first packet of a connection from `source` to `port` of 127.0.0.1.
#[must_use]
pub fn syn(source: Ipv4Addr, source_port: u16, port: u16) -> Vec<u8> {
    let mut tcp = [0; 20];
    tcp[0..2].copy_from_slice(&source_port.to_be_bytes());
    tcp[2..4].copy_from_slice(&port.to_be_bytes());
    tcp[7] = 1;
    tcp[12] = 5 << 4;
    tcp[13] = 2;
    tcp[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    // RFC 9293 §3.1: with a header of addresses, protocol and length before it.
    let mut summed = [source.octets(), Ipv4Addr::LOCALHOST.octets()].concat();
    summed.extend([0, 6, 0, 20]);
    summed.extend(tcp);
    let sum = summed.chunks(2).fold(0_u32, |sum, two| {
        sum + u32::from(u16::from_be_bytes([two[0], two[1]]))
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let checksum = !u16::try_from(folded & 0xffff).unwrap_or(0);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(source.octets());
    packet.extend(Ipv4Addr::LOCALHOST.octets());
    packet.extend(tcp);
    packet
}
