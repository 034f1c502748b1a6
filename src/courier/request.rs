//! A request on the filter socket: the paths of a message's files
//! (courierfilter(8)).

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// The most bytes of paths.
pub const MAX_PATHS: usize = 64 * 1024;
/// How long they may take.
pub const MAX_TIME: Duration = Duration::from_secs(5);
/// The same while more than half of the places are taken: `submit` has sent
/// them before it is accepted, and must not wait behind peers that send nothing.
pub const SHORT_TIME: Duration = Duration::from_millis(500);

/// The files of one message, as `submit` names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The message.
    pub data: Vec<u8>,
    /// Its control files, at least one.
    pub control: Vec<Vec<u8>>,
}

/// Why there is no request.
#[derive(Debug)]
pub enum Error {
    /// More than [`MAX_PATHS`].
    TooLong,
    /// Not sent within this time.
    TooSlow(Duration),
    /// The peer closed the connection in the middle.
    Truncated,
    /// An empty line before a data file and a control file were named, or a
    /// NUL in a path.
    Malformed,
    /// The connection failed.
    Read(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "more than {MAX_PATHS} bytes of paths"),
            Self::TooSlow(limit) => write!(f, "paths not sent within {limit:?}"),
            Self::Truncated => f.write_str("connection closed before the empty line"),
            Self::Malformed => f.write_str("not the paths of a data file and its control files"),
            Self::Read(error) => write!(f, "cannot read: {error}"),
        }
    }
}

// The operating system's word is part of the text, so there is no source.
impl std::error::Error for Error {}

/// How long a peer may take while `free` of so many places are free.
#[must_use]
pub fn time_limit(free: usize, places: usize) -> Duration {
    if free < places / 2 {
        SHORT_TIME
    } else {
        MAX_TIME
    }
}

/// Reads a request within `limit`; `Ok(None)` where the peer closed the
/// connection before it sent a byte, as a health check does.
///
/// # Errors
/// Where the peer breaks a limit or sends no request.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    limit: Duration,
) -> Result<Option<Request>, Error> {
    match timeout(limit, receive(stream)).await {
        Ok(result) => result,
        Err(_) => Err(Error::TooSlow(limit)),
    }
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Request>, Error> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let seen = bytes.len();
        match stream.read_buf(&mut bytes).await {
            Ok(0) if bytes.is_empty() => return Ok(None),
            Ok(0) => return Err(Error::Truncated),
            Ok(_) => {}
            Err(error) => return Err(Error::Read(error)),
        }
        if let Some(end) = end_of_paths(&bytes, seen) {
            return parse(&bytes[..end]).map(Some).ok_or(Error::Malformed);
        }
        if bytes.len() > MAX_PATHS {
            return Err(Error::TooLong);
        }
    }
}

/// Where the empty line stands, looking no further back than needed: what was
/// there before `seen` had none.
fn end_of_paths(bytes: &[u8], seen: usize) -> Option<usize> {
    if bytes.first() == Some(&b'\n') {
        return Some(0);
    }
    let from = seen.saturating_sub(1);
    bytes[from..]
        .windows(2)
        .position(|two| two == b"\n\n")
        .map(|at| from + at)
}

/// The paths before the empty line.
fn parse(bytes: &[u8]) -> Option<Request> {
    let mut paths = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
    let data = paths.next()?;
    let control: Vec<Vec<u8>> = paths.collect();
    let fits = |path: &Vec<u8>| !path.is_empty() && !path.contains(&0);
    (!control.is_empty() && fits(&data) && control.iter().all(fits))
        .then_some(Request { data, control })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> Result<Option<Request>, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(read(&mut &bytes[..], MAX_TIME))
    }

    #[test]
    fn paths_end_at_the_empty_line() {
        let request = read_all(b"/d/1\n/c/1\n/c/2\n\nmore").unwrap().unwrap();
        assert_eq!(request.data, b"/d/1");
        assert_eq!(request.control, [b"/c/1".to_vec(), b"/c/2".to_vec()]);
        assert_eq!(read_all(b"").unwrap(), None);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for bytes in [
            &b"\n"[..],
            b"/d/1\n\n",
            b"\n\n",
            b"/d\0\n/c\n\n",
            b"\n/c\n\n",
        ] {
            assert!(
                matches!(read_all(bytes), Err(Error::Malformed)),
                "{bytes:?}"
            );
        }
        assert!(matches!(read_all(b"/d/1\n/c/1\n"), Err(Error::Truncated)));
        assert!(matches!(
            read_all(&vec![b'x'; MAX_PATHS + 1]),
            Err(Error::TooLong)
        ));
    }

    #[test]
    fn peers_have_less_time_when_places_are_scarce() {
        for (free, expected) in [(1024, MAX_TIME), (512, MAX_TIME), (511, SHORT_TIME)] {
            assert_eq!(time_limit(free, 1024), expected, "{free}");
        }
    }

    #[test]
    fn the_empty_line_is_found_across_reads() {
        for seen in 0..=6 {
            assert_eq!(end_of_paths(b"/d\n/c\n\n", seen), Some(5), "{seen}");
        }
        assert_eq!(end_of_paths(b"/d\n/c\n", 0), None);
    }
}
