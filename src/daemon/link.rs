//! What the supervisor and its children say to one another: words of one byte,
//! each a message of its own on a `SOCK_SEQPACKET` pair, some with a
//! descriptor. Nothing else is ever read from a child. Of the same kind is the
//! baton, between a worker and the one that takes its place.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::watched;

/// A word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// To a worker: courierfilter says stop, and the filter socket is unlinked.
    Unlinked,
    /// From a worker: it needs a warden. To it: the descriptor that comes with
    /// this is the socket of one.
    Warden,
    /// The same of a gate.
    Gate,
    /// From a child: it lives.
    Beat,
    /// From a worker: another one should take its place.
    Reload,
    /// From a worker: it has what it needs, and may take another's place.
    Ready,
    /// To a worker: serve, once the baton that comes with this says so; at once
    /// where none comes.
    Take,
    /// From a worker: it serves. On the baton, to the one before: the same.
    Serving,
    /// To a worker: give all up, and say so on the baton that comes with this.
    Retire,
    /// To a worker: the one that should have taken its place did not start.
    Failed,
    /// On the baton, to the next worker: all is given up. The descriptor that
    /// comes with this is the control socket.
    Released,
}

/// The words and what stands for them.
const WORDS: [(Word, u8); 11] = [
    (Word::Unlinked, b'u'),
    (Word::Warden, b'w'),
    (Word::Gate, b'q'),
    (Word::Beat, rblfilter_warden::BEAT),
    (Word::Reload, b'l'),
    (Word::Ready, b'y'),
    (Word::Take, b't'),
    (Word::Serving, b's'),
    (Word::Retire, b'r'),
    (Word::Failed, b'f'),
    (Word::Released, b'g'),
];

/// One end of a pair; it never blocks.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// Both ends of a new `SOCK_SEQPACKET` pair, kept from children.
///
/// # Errors
/// What the kernel says.
pub fn pair(flags: SockFlag) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    Ok(socket::socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        flags,
    )?)
}

impl Link {
    /// Both ends of a new link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pair(SockFlag::SOCK_NONBLOCK)?;
        Ok((Self(ours), theirs))
    }

    /// Says `word`, and hands `descriptor` over.
    ///
    /// # Errors
    /// Where the other one is gone, or has not listened for long (`WouldBlock`).
    pub fn say(&self, word: Word, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        say(self.0.as_fd(), word, descriptor)
    }

    /// The next word; `None` where the other one is gone.
    ///
    /// # Errors
    /// Where there is none at the moment (`WouldBlock`), or it is none.
    pub fn hear(&self) -> io::Result<Option<Heard>> {
        hear(self.0.as_fd())
    }
}

impl From<OwnedFd> for Link {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// An end of a pair in the event loop.
#[derive(Debug)]
pub struct Listening(AsyncFd<OwnedFd>);

impl Listening {
    /// Puts this end into the event loop of the current runtime.
    ///
    /// # Errors
    /// Where it is no socket.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(watched(fd, Interest::READABLE)?))
    }

    /// As [`Link::say`].
    ///
    /// # Errors
    /// As there.
    pub fn say(&self, word: Word, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        say(self.0.get_ref().as_fd(), word, descriptor)
    }

    /// Waits for the next word; `None` where the other one is gone. Nothing is
    /// lost where it is dropped half-way.
    ///
    /// # Errors
    /// Where what came is no word.
    pub async fn hear(&self) -> io::Result<Option<Heard>> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(heard) = ready.try_io(|fd| hear(fd.as_fd())) {
                return heard;
            }
        }
    }

    /// Whether the other one is gone, and has said nothing that was not heard.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(self.0.get_ref().as_fd(), PollFlags::POLLIN)];
        // At its end it is both; with a word left, and no end, the first alone.
        poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0]
                .revents()
                .is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A word, and the descriptor that came with it.
pub type Heard = (Word, Option<OwnedFd>);

/// [`Link::say`], on a descriptor.
fn say(fd: BorrowedFd<'_>, word: Word, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let byte = WORDS.iter().find(|(known, _)| *known == word);
    let bytes = [byte.map_or(0, |(_, byte)| *byte)];
    let handed: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // There is room for the one.
    if !handed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&handed));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(fd, &[IoSlice::new(&bytes)], &mut control, flags)?;
    Ok(())
}

/// [`Link::hear`], on a descriptor.
fn hear(fd: BorrowedFd<'_>) -> io::Result<Option<Heard>> {
    let mut bytes = [0; 2];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = match recvmsg(fd, &mut iov, &mut control, flags) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
        received => received?,
    };
    let mut handed = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            handed = descriptors.last();
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let word = WORDS
        .iter()
        .find(|(_, byte)| [*byte][..] == bytes[..received.bytes]);
    let (word, _) = word.ok_or(ErrorKind::InvalidData)?;
    Ok(Some((*word, handed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn each_word_is_heard_as_it_was_said_with_its_descriptor() {
        let (link, theirs) = Link::pair().unwrap();
        for (word, _) in WORDS {
            link.say(word, None).unwrap();
        }
        for (word, _) in WORDS {
            let heard = hear(theirs.as_fd()).unwrap().unwrap();
            assert!(heard.0 == word && heard.1.is_none());
        }
        let none = hear(theirs.as_fd()).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::WouldBlock);
        let (read, write) = nix::unistd::pipe().unwrap();
        say(theirs.as_fd(), Word::Warden, Some(read.as_fd())).unwrap();
        drop(read);
        let (word, handed) = link.hear().unwrap().unwrap();
        assert_eq!(word, Word::Warden);
        nix::unistd::write(&write, b"x").unwrap();
        let mut byte = [0];
        let mut handed = File::from(handed.unwrap());
        handed.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        drop(theirs);
        assert!(link.hear().unwrap().is_none(), "the other one is gone");
        assert!(link.say(Word::Unlinked, None).is_err());
    }

    #[test]
    fn what_is_no_word_is_an_error() {
        let (link, theirs) = Link::pair().unwrap();
        for bytes in [&b"x"[..], b"uu", b"u\n"] {
            rustix::net::send(&theirs, bytes, SendFlags::empty()).unwrap();
            let error = link.hear().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
