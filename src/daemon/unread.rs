//! Accepting a message without a look at it, while no worker can.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::ACCEPTED;
use crate::courier::request::MAX_PATHS;

/// How long one request is read, where nobody else waits.
pub const REQUEST_TIME: Duration = Duration::from_secs(1);
/// The same where somebody does: `submit` has written all before it is accepted,
/// so that one that is slow is most likely none.
const SHORT: Duration = Duration::from_millis(50);
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts one message without a look at it; whether there was one. It is read
/// until `end`, and in any case what it has sent already.
pub fn accept_one(listener: &UnixListener, end: Instant) -> bool {
    let Ok((mut stream, _)) = listener.accept() else {
        // No descriptor is left, most likely: do not ask without pause.
        thread::sleep(ACCEPT_PAUSE);
        return false;
    };
    let short = end.min(Instant::now() + SHORT);
    let mut seen = Vec::new();
    let mut bytes = [0; 4096];
    // submit must have written all before it is answered, or it would not read.
    while !seen.windows(2).any(|two| two == b"\n\n") && seen.len() <= MAX_PATHS {
        let now = Instant::now();
        let until = if another_waits(listener) { short } else { end };
        // Where somebody comes meanwhile, this one has had long enough.
        let left = until.saturating_duration_since(now).min(SHORT);
        let read = stream
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .and_then(|()| stream.read(&mut bytes));
        match read {
            Ok(0) => break,
            Ok(length) => {
                seen.extend_from_slice(&bytes[..length]);
                // What has been sent is read to its end: what is left unread would
                // cost the other one its reply.
                if now >= until && length < bytes.len() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && now < until => {}
            Err(_) => break,
        }
    }
    // A submit that is gone has no use for its reply.
    let _ = stream.set_write_timeout(Some(SHORT));
    let _ = writeln!(stream, "{ACCEPTED}");
    true
}

fn another_waits(listener: &UnixListener) -> bool {
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::{env, fs};

    #[test]
    fn a_request_is_accepted_unread() {
        let path = env::temp_dir().join(format!("rblfilter-accept-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        for (request, close) in [(&b"/d\n/c\n\n"[..], false), (b"half", true), (b"", true)] {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(request).unwrap();
            if close {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            accept_one(&listener, Instant::now() + REQUEST_TIME * 10);
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "250 Ok\n");
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn one_who_says_nothing_does_not_keep_the_next_waiting() {
        let path = env::temp_dir().join(format!("rblfilter-slow-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let mut peers: Vec<UnixStream> = (0..20)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        peers[19].write_all(b"/d\n/c\n\n").unwrap();
        let begun = Instant::now();
        for _ in 0..20 {
            assert!(accept_one(&listener, begun + Duration::from_secs(600)));
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
        // Whose time has run out is answered all the same.
        peers.push(UnixStream::connect(&path).unwrap());
        peers[20].write_all(b"/d\n/c\n\n").unwrap();
        assert!(accept_one(&listener, begun));
        for mut peer in peers {
            let mut answer = String::new();
            peer.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "250 Ok\n");
        }
        fs::remove_file(path).unwrap();
    }
}
