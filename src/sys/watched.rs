//! Descriptors in the event loop.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Puts `fd` into the event loop of the current runtime.
///
/// # Errors
/// Where the kernel cannot poll it.
pub fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor from here until it is
    // dropped, and AsyncFd takes it out of the event loop before it drops it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Sends a datagram through a socket that is watched for what comes alone, and
/// waits for room where there is none. (One that is watched for room too wakes
/// us for each datagram that the other end has read.)
///
/// # Errors
/// Where the other end is gone, or the datagram too long.
pub async fn send(socket: &AsyncFd<OwnedFd>, datagram: &[u8]) -> io::Result<()> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        match socket::send(socket.as_raw_fd(), datagram, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let again = socket.get_ref().try_clone()?;
                let _room = watched(again, Interest::WRITABLE)?.writable().await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_datagram_waits_for_room_and_none_is_lost() {
        let flags = SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let ours = watched(ours, Interest::READABLE).unwrap();
        let mut sent = 0_u32;
        while let Ok(result) =
            timeout(Duration::from_millis(50), send(&ours, &sent.to_be_bytes())).await
        {
            result.unwrap();
            sent += 1;
        }
        assert!(sent > 0, "some have room");
        let number = sent.to_be_bytes();
        let last = send(&ours, &number);
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
        let error = send(&ours, b"gone").await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EPIPE as i32));
    }
}
