//! Talking to netfilter over netlink (include/uapi/linux/netfilter/nfnetlink.h):
//! messages with attributes, one alone or many in one transaction; and reading
//! what the kernel sends unasked.
//!
//! It takes CAP_NET_ADMIN, and speaks to the network namespace of the thread
//! that opened it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

/// `NFNL_SUBSYS_QUEUE`, `NFNL_SUBSYS_IPSET` and `NFNL_SUBSYS_NFTABLES`.
pub const QUEUE: u16 = 3;
/// See there.
pub const IPSET: u16 = 6;
/// See there.
pub const NFTABLES: u16 = 10;
/// `NFPROTO_UNSPEC`, `NFPROTO_INET`, `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub const FAMILY_NONE: u8 = 0;
/// See there.
pub const FAMILY_INET: u8 = 1;
/// See there.
pub const FAMILY_IPV4: u8 = 2;
/// See there.
pub const FAMILY_IPV6: u8 = 10;

/// `NLM_F_EXCL` and `NLM_F_CREATE` (include/uapi/linux/netlink.h).
pub const EXCLUSIVE: u16 = 0x200;
/// See there.
pub const CREATE: u16 = 0x400;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
/// `NLMSG_ERROR`, `NLMSG_DONE`; `NFNL_MSG_BATCH_BEGIN`, `_END`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`.
const NESTED: u16 = 0x8000;
/// In network byte order; ipset insists on the flag.
pub const NETWORK_ORDER: u16 = 0x4000;
const HEADER: usize = 20;

/// `IPSET_CMD_PROTOCOL`, `IPSET_ATTR_PROTOCOL`, and the protocol's version.
const IPSET_CMD_PROTOCOL: u16 = 1;
/// See there.
pub const IPSET_ATTR_PROTOCOL: u16 = 1;
/// See there: the oldest that all kernels of this century speak.
pub const IPSET_PROTOCOL: u8 = 6;

/// The answers to a whole transaction, each with what the kernel copies of it.
const BUFFER: usize = 8 << 20;
/// The kernel answers at once, or a table of millions after a second.
const PATIENCE: Duration = Duration::from_secs(8);

/// A message, or a part of one.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// To `subsystem`, for `family`.
    #[must_use]
    pub fn new(subsystem: u16, command: u16, family: u8, flags: u16) -> Self {
        Self::of_kind((subsystem << 8) | command, family, flags, 0)
    }

    /// To `subsystem`, about the resource of this number.
    #[must_use]
    pub fn about(subsystem: u16, command: u16, resource: u16) -> Self {
        Self::of_kind((subsystem << 8) | command, FAMILY_NONE, 0, resource)
    }

    /// Appends it to `bytes`, to be sent with others; nothing is answered but an
    /// error.
    pub fn append_to(mut self, bytes: &mut Vec<u8>) {
        self.stamp(0, 0);
        bytes.extend_from_slice(&self.bytes);
    }

    fn of_kind(kind: u16, family: u8, flags: u16, resource: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&[family, 0]);
        bytes.extend_from_slice(&resource.to_be_bytes());
        Self { bytes }
    }

    /// With an attribute more.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.bytes, kind, value);
        self
    }

    /// With a text that ends in a zero.
    #[must_use]
    pub fn with_text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.with(kind, &value)
    }

    /// With a number in network byte order.
    #[must_use]
    pub fn with_be32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_be_bytes())
    }

    /// With attributes within one.
    #[must_use]
    pub fn with_nested(self, kind: u16, value: &[u8]) -> Self {
        self.with(kind | NESTED, value)
    }

    fn stamp(&mut self, serial: u32, flags: u16) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&serial.to_ne_bytes());
    }
}

/// Appends an attribute.
pub fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Ours are short; one of more than 64 KiB the kernel would refuse.
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Appends an attribute that holds others.
pub fn put_nested(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put(bytes, kind | NESTED, value);
}

/// The attributes in `bytes`, up to the first that is none.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & !(NESTED | NETWORK_ORDER), value))
    })
}

/// The first attribute of this kind.
#[must_use]
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(other, _)| *other == kind)
        .map(|(_, value)| value)
}

/// The same, as a number in network byte order.
#[must_use]
pub fn be32(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(attribute(bytes, kind)?.try_into().ok()?))
}

/// A connection to the kernel.
#[derive(Debug)]
pub struct Netfilter {
    socket: OwnedFd,
    serial: u32,
    bytes: Vec<u8>,
}

impl AsFd for Netfilter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Netfilter {
    /// Opens one.
    ///
    /// # Errors
    /// Where the kernel has no netfilter.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(NETFILTER),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        // Without the capability nothing else will work either.
        if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
        }
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            socket,
            serial: 0,
            bytes: vec![0; 1 << 16],
        })
    }

    /// Sends one message; what the kernel answers before it says that it is
    /// done, without headers.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn ask(&mut self, mut message: Message) -> io::Result<Vec<Vec<u8>>> {
        let serial = self.next();
        message.stamp(serial, ACKNOWLEDGE);
        self.send(&message.bytes)?;
        let mut answers = Vec::new();
        self.collect(serial, |answer| answers.push(answer.to_vec()))?;
        Ok(answers)
    }

    /// Asks for all there is; each part is handed to `each`.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn dump(&mut self, mut message: Message, each: impl FnMut(&[u8])) -> io::Result<()> {
        let serial = self.next();
        message.stamp(serial, DUMP);
        self.send(&message.bytes)?;
        self.collect(serial, each)
    }

    /// Has each of `messages` done by itself; the error numbers of those that
    /// were not.
    ///
    /// # Errors
    /// Where all were refused, or the kernel cannot be reached.
    pub fn each(&mut self, messages: &mut [Message]) -> io::Result<Vec<Option<i32>>> {
        let first = self.serial.wrapping_add(1);
        let bytes = self.stamped(messages);
        self.send(&bytes)?;
        self.errors(first, messages.len(), |at, error| {
            // Who may not is told so once, for all.
            at == 0 && error == Errno::PERM.raw_os_error()
        })
    }

    /// Has all of `messages` done, or none; the error numbers of those that
    /// keep it from being done (`None`: nothing against this one).
    ///
    /// # Errors
    /// Where the whole was refused, or the kernel cannot be reached.
    pub fn transact(&mut self, messages: &mut [Message]) -> io::Result<Vec<Option<i32>>> {
        let begin = self.next();
        let mut batch = Message::of_kind(BATCH_BEGIN, FAMILY_NONE, 0, NFTABLES);
        batch.stamp(begin, 0);
        let mut bytes = batch.bytes;
        bytes.extend(self.stamped(messages));
        let mut batch = Message::of_kind(BATCH_END, FAMILY_NONE, 0, NFTABLES);
        batch.stamp(self.next(), 0);
        bytes.extend_from_slice(&batch.bytes);
        self.send(&bytes)?;
        // What is said of its beginning is said of the whole.
        let mut errors = self.errors(begin, messages.len() + 1, |at, _| at == 0)?;
        errors.remove(0);
        Ok(errors)
    }

    /// The messages with serial numbers; the last is acknowledged whatever
    /// becomes of it.
    fn stamped(&mut self, messages: &mut [Message]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let last = messages.len().saturating_sub(1);
        for (at, message) in messages.iter_mut().enumerate() {
            let serial = self.next();
            message.stamp(serial, if at == last { ACKNOWLEDGE } else { 0 });
            bytes.extend_from_slice(&message.bytes);
        }
        bytes
    }

    /// The errors of `count` messages from the serial number `first` on, when
    /// the last is acknowledged, or one that is `fatal` to all.
    fn errors(
        &mut self,
        first: u32,
        count: usize,
        fatal: impl Fn(usize, i32) -> bool,
    ) -> io::Result<Vec<Option<i32>>> {
        let mut errors = vec![None; count];
        loop {
            let length = self.receive()?;
            for (kind, serial, body) in parts(&self.bytes[..length]) {
                // A number of an earlier exchange is none of this one's.
                let at = serial.wrapping_sub(first) as usize;
                let (ERROR, Some(place)) = (kind, errors.get_mut(at)) else {
                    continue;
                };
                *place = error_in(body);
                if let Some(error) = *place
                    && fatal(at, error)
                {
                    return Err(io::Error::from_raw_os_error(error));
                }
                if at + 1 == count {
                    return Ok(errors);
                }
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// Sends `message`, and hands what else comes to `each`, with its kind,
    /// until it is acknowledged.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn ask_amid(
        &mut self,
        mut message: Message,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let serial = self.next();
        message.stamp(serial, ACKNOWLEDGE);
        self.send(&message.bytes)?;
        loop {
            let length = self.receive()?;
            let mut answer = None;
            for (kind, number, body) in parts(&self.bytes[..length]) {
                if kind == ERROR && number == serial {
                    answer = Some(error_in(body));
                } else {
                    each(kind, body.get(4..).unwrap_or(&[]));
                }
            }
            if let Some(error) = answer {
                return error.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)));
            }
        }
    }

    /// Hands the messages of a datagram that is there to `each`, with their kind;
    /// whether one was there.
    ///
    /// # Errors
    /// What the kernel says; `ENOBUFS`: there was no room for some.
    pub fn read_now(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        match recv(&self.socket, &mut self.bytes[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => {
                for (kind, _, body) in parts(&self.bytes[..length]) {
                    each(kind, body.get(4..).unwrap_or(&[]));
                }
                Ok(true)
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends messages that are complete.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        loop {
            match sendto(&self.socket, bytes, SendFlags::empty(), &kernel) {
                Err(Errno::INTR) => {}
                result => return result.map(drop).map_err(Into::into),
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match recv(&self.socket, &mut self.bytes[..], RecvFlags::empty()) {
                Ok((length, _)) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads up to the end of the answer to `serial`.
    fn collect(&mut self, serial: u32, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            let length = self.receive()?;
            for (kind, number, body) in parts(&self.bytes[..length]) {
                if number != serial {
                    continue;
                }
                match kind {
                    ERROR => {
                        let error = error_in(body).map(io::Error::from_raw_os_error);
                        return error.map_or(Ok(()), Err);
                    }
                    DONE => return Ok(()),
                    // After the family, the version and the resource.
                    _ => each(body.get(4..).unwrap_or(&[])),
                }
            }
        }
    }
}

/// The messages in what was received: kind, serial number, body.
pub(crate) fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let length = word(0)? as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let (serial, body) = (word(8)?, bytes.get(HEADER - 4..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, serial, body))
    })
}

/// The error number in an acknowledgement, unless it says that all is well;
/// ipset has some of its own, beyond 4095.
pub(crate) fn error_in(body: &[u8]) -> Option<i32> {
    let code = i32::from_ne_bytes(body.get(0..4)?.try_into().ok()?);
    (code != 0).then(|| code.wrapping_neg())
}

/// Whether this kernel has ipset.
///
/// # Errors
/// Where that cannot be asked: without CAP_NET_ADMIN.
pub fn has_ipset() -> io::Result<bool> {
    let message = Message::new(IPSET, IPSET_CMD_PROTOCOL, FAMILY_NONE, 0)
        .with(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL]);
    match Netfilter::open()?.ask(message) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_round_trip_and_garbage_ends_them() {
        let mut inner = Vec::new();
        put(&mut inner, 1, &[10, 66, 1, 2]);
        let message = Message::new(NFTABLES, 12, FAMILY_INET, CREATE)
            .with_text(1, "rblfilter")
            .with_be32(3, 7)
            .with_nested(4, &inner);
        let body = &message.bytes[HEADER..];
        assert_eq!(attribute(body, 1), Some(&b"rblfilter\0"[..]));
        assert_eq!(be32(body, 3), Some(7));
        let inner = attribute(body, 4).unwrap();
        assert_eq!(attribute(inner, 1), Some(&[10, 66, 1, 2][..]));
        for garbage in [&[][..], &[3], &[0, 0, 1, 0], &[9, 0, 1, 0, 5], &[255; 7]] {
            assert_eq!(attributes(garbage).count(), 0, "{garbage:?}");
            assert_eq!(parts(garbage).count(), 0, "{garbage:?}");
        }
    }

    #[test]
    fn an_acknowledgement_is_an_error_or_none() {
        let mut bytes = vec![20, 0, 0, 0, 2, 0, 0, 0];
        bytes.extend_from_slice(&9_u32.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(-17_i32).to_ne_bytes());
        let (kind, serial, body) = parts(&bytes).next().unwrap();
        assert_eq!((kind, serial, error_in(body)), (2, 9, Some(17)));
        assert_eq!(error_in(&[0; 4]), None);
    }
}
