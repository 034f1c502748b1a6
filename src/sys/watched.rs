//! Descriptors in the event loop.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

/// Puts `fd` into the event loop of the current runtime.
///
/// # Errors
/// Where the kernel cannot poll it.
pub fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor from here until it is
    // dropped, and AsyncFd takes it out of the event loop before it drops it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// How long one waits for room where it cannot be waited for.
const ROOM: Duration = Duration::from_millis(5);

/// A socket of datagrams. It is watched for what comes alone: one that is watched
/// for room, too, wakes us for each datagram that the other end has read.
#[derive(Debug)]
pub struct Datagrams {
    socket: AsyncFd<OwnedFd>,
    /// Who waits for room.
    turn: Mutex<()>,
}

impl Datagrams {
    /// # Errors
    /// Where the kernel cannot poll it.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: watched(socket, Interest::READABLE)?,
            turn: Mutex::new(()),
        })
    }

    /// Waits until `receive` has something: it takes one datagram without waiting.
    ///
    /// # Errors
    /// Those of `receive`.
    pub async fn receive<T>(
        &self,
        mut receive: impl FnMut(&OwnedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let mut ready = self.socket.readable().await?;
            // Else it was not ready after all.
            if let Ok(received) = ready.try_io(|socket| receive(socket.get_ref())) {
                return received;
            }
        }
    }

    /// Sends one, and waits for room where there is none.
    ///
    /// # Errors
    /// Where the other end is gone, or the datagram too long.
    pub async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        if let Some(sent) = self.try_send(datagram) {
            return sent;
        }
        let _turn = self.turn.lock().await;
        loop {
            if let Some(sent) = self.try_send(datagram) {
                return sent;
            }
            if self.room().await.is_err() {
                // That we have no descriptor to spare says nothing of the other end.
                tokio::time::sleep(ROOM).await;
            }
        }
    }

    /// `None`: there is no room.
    fn try_send(&self, datagram: &[u8]) -> Option<io::Result<()>> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            return match socket::send(self.socket.as_raw_fd(), datagram, flags) {
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => None,
                result => Some(result.map(drop).map_err(Into::into)),
            };
        }
    }

    async fn room(&self) -> io::Result<()> {
        let again = watched(self.socket.get_ref().try_clone()?, Interest::WRITABLE)?;
        let _room = again.writable().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_datagram_waits_for_room_and_none_is_lost() {
        let flags = SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let ours = Datagrams::new(ours).unwrap();
        let mut sent = 0_u32;
        while let Ok(result) =
            timeout(Duration::from_millis(50), ours.send(&sent.to_be_bytes())).await
        {
            result.unwrap();
            sent += 1;
        }
        assert!(sent > 0, "some have room");
        let number = sent.to_be_bytes();
        let last = ours.send(&number);
        tokio::pin!(last);
        let waits = timeout(Duration::from_millis(1), &mut last).await;
        assert!(waits.is_err(), "there is no room");
        let receive = || {
            let mut bytes = [0; 4];
            let length = socket::recv(theirs.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
            assert_eq!(length, 4);
            u32::from_be_bytes(bytes)
        };
        for number in 0..sent {
            assert_eq!(receive(), number);
        }
        let went = timeout(Duration::from_secs(10), last).await;
        went.expect("it goes out once there is room").unwrap();
        assert_eq!(receive(), sent);
        drop(theirs);
        let error = ours.send(b"gone").await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EPIPE as i32));
    }
}
