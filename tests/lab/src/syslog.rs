//! The lab's syslog: a thread behind /dev/log that keeps every line in memory and, as rsyslog writes it, in
//! /var/log/mail.log.

use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Error;

/// The host's name in the file.
const HOST: &str = "lab";

/// One syslog message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Facility × 8 + severity, as sent.
    pub priority: u8,
    /// The text after the time stamp: `courieresmtpd: started,ip=[…]`.
    pub text: String,
    /// When it arrived.
    pub at: Instant,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<LogLine>>,
    grown: Condvar,
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Vec<LogLine>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiver; its thread ends with it.
pub(crate) struct Syslog {
    shared: Arc<Shared>,
    receiver: Option<Receiver>,
}

struct Receiver {
    socket: UnixDatagram,
    thread: JoinHandle<()>,
}

impl Syslog {
    /// Binds /dev/log of the calling thread's mount namespace.
    pub(crate) fn start() -> Result<Self, Error> {
        let mut syslog = Self {
            shared: Arc::default(),
            receiver: None,
        };
        syslog.start_again()?;
        Ok(syslog)
    }

    /// Binds a new /dev/log, in the place of one that is left of an earlier receiver.
    pub(crate) fn start_again(&mut self) -> Result<(), Error> {
        self.stop();
        let failed = |e| Error::io("listen on", "/dev/log", e);
        match std::fs::remove_file("/dev/log") {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let socket = UnixDatagram::bind("/dev/log").map_err(failed)?;
        std::fs::set_permissions("/dev/log", Permissions::from_mode(0o666)).map_err(failed)?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open("/var/log/mail.log")
            .map_err(|e| Error::io("write", "/var/log/mail.log", e))?;
        let (receiver, sink) = (
            socket.try_clone().map_err(failed)?,
            Arc::clone(&self.shared),
        );
        let run = move || {
            let mut buffer = vec![0; 65536];
            while let Ok(length) = receiver.recv(&mut buffer) {
                if length == 0 {
                    break;
                }
                let datagram = String::from_utf8_lossy(&buffer[..length]);
                let line = parse(&datagram);
                let _ = writeln!(file, "{} {HOST} {}", stamp(&datagram), line.text);
                sink.lines().push(line);
                sink.grown.notify_all();
            }
        };
        let thread = std::thread::Builder::new()
            .name("lab-syslog".into())
            .spawn(run)
            .map_err(failed)?;
        self.receiver = Some(Receiver { socket, thread });
        Ok(())
    }

    /// Closes the socket, as a syslogd that ends does; the file stays.
    pub(crate) fn stop(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            let _ = receiver.socket.shutdown(Shutdown::Both);
            let _ = receiver.thread.join();
        }
    }

    pub(crate) fn lines(&self) -> Vec<LogLine> {
        self.shared.lines().clone()
    }

    pub(crate) fn clear(&self) {
        self.shared.lines().clear();
    }

    pub(crate) fn matching(&self, part: &str) -> Vec<String> {
        self.shared
            .lines()
            .iter()
            .filter(|line| line.text.contains(part))
            .map(|line| line.text.clone())
            .collect()
    }

    /// The first line, of the past or the future, that contains `part`.
    pub(crate) fn wait_for(&self, part: &str, limit: Duration) -> Result<String, Error> {
        let deadline = Instant::now() + limit;
        let mut lines = self.shared.lines();
        let mut seen = 0;
        loop {
            if let Some(line) = lines
                .iter()
                .skip(seen)
                .find(|line| line.text.contains(part))
            {
                return Ok(line.text.clone());
            }
            seen = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let what = format!(
                    "the log line {part:?}; the last of {} is {:?}",
                    lines.len(),
                    lines.last()
                );
                return Err(Error::Timeout { what, limit });
            }
            (lines, _) = self
                .shared
                .grown
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner);
            seen = seen.min(lines.len());
        }
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The sender's own time stamp, as rsyslog takes it over.
fn stamp(datagram: &str) -> &str {
    let rest = datagram.split_once('>').map_or(datagram, |(_, rest)| rest);
    rest.get(..15).unwrap_or("Jan  1 00:00:00")
}

/// `<PRI>Mon dd hh:mm:ss text`, RFC 3164 as the C library writes it: without a host name.
fn parse(datagram: &str) -> LogLine {
    let datagram = datagram.trim_end_matches(['\n', '\0']);
    let (priority, rest) = datagram
        .strip_prefix('<')
        .and_then(|rest| rest.split_once('>'))
        .and_then(|(number, rest)| Some((number.parse().ok()?, rest)))
        .unwrap_or((13, datagram));
    let stamped = rest.is_char_boundary(16)
        && rest.len() >= 16
        && rest.as_bytes()[6] == b' '
        && rest.as_bytes()[9] == b':'
        && rest.as_bytes()[12] == b':';
    let text = if stamped { &rest[16..] } else { rest };
    LogLine {
        priority,
        text: text.to_owned(),
        at: Instant::now(),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_header_of_a_syslog_message_is_taken_off() {
        for (datagram, priority, text) in [
            (
                "<22>Nov  3 01:02:03 courieresmtpd: started",
                22,
                "courieresmtpd: started",
            ),
            (
                "<22>Nov 23 01:02:03 rblfilter[7]: x\n",
                22,
                "rblfilter[7]: x",
            ),
            ("<22>rblfilter[7]: no stamp", 22, "rblfilter[7]: no stamp"),
            ("no header at all", 13, "no header at all"),
            ("<300>odd", 13, "<300>odd"),
            ("", 13, ""),
        ] {
            let line = parse(datagram);
            assert_eq!(
                (line.priority, line.text.as_str()),
                (priority, text),
                "{datagram:?}"
            );
        }
    }
}
