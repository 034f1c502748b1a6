//! Accepting a message without a look at it, while no worker can.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use super::ACCEPTED;
use crate::courier::request::MAX_PATHS;

/// How long one request is read.
const REQUEST_TIME: Duration = Duration::from_secs(1);
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts one message without a look at it; whether there was one.
pub fn accept_one(listener: &UnixListener) -> bool {
    let Ok((mut stream, _)) = listener.accept() else {
        // No descriptor is left, most likely: do not ask without pause.
        thread::sleep(ACCEPT_PAUSE);
        return false;
    };
    let end = Instant::now() + REQUEST_TIME;
    let mut seen = Vec::new();
    let mut bytes = [0; 4096];
    // submit must have written all before it is answered, or it would not read.
    while !seen.windows(2).any(|two| two == b"\n\n") && seen.len() <= MAX_PATHS {
        let left = end.saturating_duration_since(Instant::now());
        let read = match stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))) {
            Ok(()) if !left.is_zero() => stream.read(&mut bytes),
            _ => break,
        };
        match read {
            Ok(length) if length > 0 => seen.extend_from_slice(&bytes[..length]),
            _ => break,
        }
    }
    // A submit that is gone has no use for its reply.
    let _ = stream.set_write_timeout(Some(REQUEST_TIME));
    let _ = writeln!(stream, "{ACCEPTED}");
    true
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
            accept_one(&listener);
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "250 Ok\n");
        }
        fs::remove_file(path).unwrap();
    }
}
