//! How long a client has been silent, as its TCP connection tells
//! (sock_diag(7), `struct tcp_info` in include/uapi/linux/tcp.h).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

/// One datagram of a dump is at most 32 KiB (`netlink_dump`,
/// net/netlink/af_netlink.c).
const DATAGRAM: usize = 64 * 1024;
/// The most datagrams of one dump: some hundred connections are in each.
const DATAGRAMS: usize = 4096;
/// Whichever connection it is (`INET_DIAG_NOCOOKIE`, include/uapi/linux/inet_diag.h).
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// Where the fields stand in `struct tcp_info`.
const LAST_DATA_SENT: usize = 44;
const LAST_DATA_RECV: usize = 52;
const RTT: usize = 68;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The client's.
    pub client: SocketAddr,
    /// This host's.
    pub local: SocketAddr,
}

/// A TCP connection, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    family: u8,
    id: SocketId,
    /// Bytes have come that nobody has read yet.
    pub unread: bool,
    /// Since when bytes have neither come nor gone.
    pub silence: Duration,
    /// What a packet takes there and back.
    pub round_trip: Duration,
}

impl Connection {
    fn key(&self) -> Key {
        let end = |address: IpAddr, port| SocketAddr::new(address.to_canonical(), port);
        Key {
            client: end(self.id.destination_address, self.id.destination_port),
            local: end(self.id.source_address, self.id.source_port),
        }
    }
}

/// The kernel's word on connections.
#[derive(Debug)]
pub struct Sockets(OwnedFd);

impl Sockets {
    /// # Errors
    /// Where the kernel has no sock_diag.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(SOCK_DIAG),
        )?;
        connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// The established connections to `port` of this host.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub fn to_port(&self, port: u16) -> io::Result<HashMap<Key, Connection>> {
        let mut all = HashMap::new();
        for (family, mut id) in [
            (AF_INET, SocketId::new_v4()),
            (AF_INET6, SocketId::new_v6()),
        ] {
            id.source_port = port;
            self.ask(family, id, NLM_F_DUMP, |connection| {
                all.insert(connection.key(), connection);
            })?;
        }
        Ok(all)
    }

    /// The connection between these ends; `None` where there is none.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub fn of(&self, key: &Key) -> io::Result<Option<Connection>> {
        let (family, mut id) = if key.local.is_ipv4() {
            (AF_INET, SocketId::new_v4())
        } else {
            (AF_INET6, SocketId::new_v6())
        };
        id.cookie = NO_COOKIE;
        (id.source_address, id.source_port) = (key.local.ip(), key.local.port());
        (id.destination_address, id.destination_port) = (key.client.ip(), key.client.port());
        let mut found = None;
        self.ask(family, id, 0, |connection| found = Some(connection))?;
        // Where there is none, the kernel tells of who listens there.
        Ok(found.filter(|connection| connection.key() == *key))
    }

    /// The same connection as it is now; `None` where it has ended.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub fn again(&self, connection: &Connection) -> io::Result<Option<Connection>> {
        let mut now = None;
        let id = connection.id.clone();
        self.ask(connection.family, id, 0, |answer| {
            now = Some(answer).filter(|answer| answer.id == connection.id);
        })?;
        Ok(now)
    }

    fn ask(
        &self,
        family: u8,
        socket_id: SocketId,
        flags: u16,
        mut each: impl FnMut(Connection),
    ) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let request = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: StateFlags::ESTABLISHED,
            socket_id,
        });
        let mut message = NetlinkMessage::new(header, request.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(&self.0, &bytes, SendFlags::empty())?;
        let mut bytes = vec![0; DATAGRAM];
        for _ in 0..DATAGRAMS {
            // The kernel has answered by now: it does so within send or recv.
            let (length, _) = recv(&self.0, &mut bytes[..], RecvFlags::DONTWAIT)?;
            if read(&bytes[..length], flags == 0, &mut each)? {
                return Ok(());
            }
        }
        Err(io::Error::other("sock_diag: an answer without end"))
    }
}

/// Reads the messages of one datagram; whether the answer ends with it. That to
/// a question for one connection has no end mark.
pub(crate) fn read(
    mut bytes: &[u8],
    single: bool,
    each: &mut impl FnMut(Connection),
) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes)
            .map_err(|error| io::Error::other(format!("sock_diag: {error}")))?;
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                if let Some(connection) = connection(&response) {
                    each(connection);
                }
                if single {
                    return Ok(true);
                }
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                // Not the crate's to_io, which panics on the least number there is.
                let code = error.raw_code().wrapping_neg();
                let error = io::Error::from_raw_os_error(code);
                // There is no such connection (any more).
                return if single && error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) {
                    Ok(true)
                } else {
                    Err(error)
                };
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn connection(response: &InetResponse) -> Option<Connection> {
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(bytes) => Some(bytes.as_slice()),
        _ => None,
    })?;
    let word = |at: usize| {
        let bytes = info.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let milliseconds = |at| Some(Duration::from_millis(word(at)?.into()));
    let silence = milliseconds(LAST_DATA_RECV)?.min(milliseconds(LAST_DATA_SENT)?);
    Some(Connection {
        family: response.header.family,
        id: response.header.socket_id.clone(),
        unread: response.header.recv_queue > 0,
        silence,
        round_trip: Duration::from_micros(word(RTT)?.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread::sleep;

    #[test]
    fn a_connection_tells_how_long_it_has_been_silent() {
        for server in ["127.0.0.1:0", "[::]:0"] {
            let listener = TcpListener::bind(server).unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut session = listener.accept().unwrap().0;
            let key = Key {
                client: client.local_addr().unwrap(),
                local: client.peer_addr().unwrap(),
            };
            let sockets = Sockets::open().unwrap();
            let found = sockets.to_port(port).unwrap();
            // The client's own end is not to this port.
            assert_eq!(found.keys().collect::<Vec<_>>(), [&key], "{server}");
            let connection = &found[&key];
            let alone = sockets.of(&key).unwrap().unwrap();
            assert_eq!(alone.id, connection.id);
            assert!(!connection.unread && connection.silence < Duration::from_secs(1));
            sleep(Duration::from_millis(30));
            let later = sockets.again(connection).unwrap().unwrap();
            assert!(later.silence >= Duration::from_millis(20), "{later:?}");
            client.write_all(b"NOOP").unwrap();
            let spoken = sockets.again(connection).unwrap().unwrap();
            assert!(
                spoken.unread && spoken.silence < later.silence,
                "{spoken:?}"
            );
            session.read_exact(&mut [0; 4]).unwrap();
            assert!(!sockets.again(connection).unwrap().unwrap().unread);
            drop((client, session));
            assert_eq!(sockets.again(connection).unwrap(), None);
            assert_eq!(sockets.of(&key).unwrap(), None, "one that listens is none");
        }
    }

    #[test]
    fn no_bytes_do_harm() {
        for bytes in [&[0; 3][..], &[0; 16], &[255; 64]] {
            let _ = read(bytes, true, &mut |_| {});
        }
        // An error whose number has no opposite, as the fuzzer found.
        let mut error = [20_u32, 2, 0, 0, i32::MIN.cast_unsigned()].map(u32::to_ne_bytes);
        assert!(read(error.as_flattened(), true, &mut |_| {}).is_err());
        error[4] = (-Errno::NOENT.raw_os_error()).to_ne_bytes();
        assert!(read(error.as_flattened(), true, &mut |_| {}).unwrap());
    }
}
