//! The way to syslog: a bounded queue and a thread of its own, so that a full
//! or restarted syslogd never holds up mail.
//!
//! The syslog crate formats the lines. The socket is ours: non-blocking, and
//! opened anew after an error, which the crate's own is not. Lines that find
//! the queue full, or syslogd away for longer than it can hold, are counted,
//! and the count is logged when lines go through again. Of those that go
//! through, a wave's are summed up (`sums.rs`).

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, Formatter3164, LogFormat, Severity};

use super::Event;
use super::sums::Sums;

/// Lines that may wait for syslogd.
const QUEUE: usize = 4096;
/// How long one line is tried before it is given up, and how often.
const PATIENCE: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(20);
/// How long lines are let gather.
const GATHER: Duration = Duration::from_millis(5);
/// How long the end of the program waits for the lines that are queued.
const FLUSH: Duration = Duration::from_secs(2);

/// Lines of a kind in a second where nobody has said how many.
pub const LINES_PER_SECOND: u32 = 200;
static A_SECOND: AtomicU32 = AtomicU32::new(LINES_PER_SECOND);

/// Bounds the lines of each kind from now on; what is beyond is summed up.
pub fn set_lines_per_second(lines: u32) {
    A_SECOND.store(lines, Ordering::Relaxed);
}

/// Where syslogd listens.
const SYSLOG: &str = "/dev/log";

type Line = (Level, String);

/// The way to syslog of a process that says little and has no thread for it:
/// a line may cost half a second where syslogd does not take it.
#[derive(Debug)]
pub struct Direct(Sink);

impl Direct {
    /// For lines under the ident `ident`.
    #[must_use]
    pub fn new(ident: &str) -> Self {
        Self(Sink::new(Path::new(SYSLOG), ident, Arc::default()))
    }

    /// Writes a line; one that syslogd does not take is lost.
    pub fn write(&mut self, level: Level, event: &Event) {
        self.0.away = !self.0.send(level, &event.to_string());
    }
}

/// Writes out what is queued when it is dropped.
#[derive(Debug)]
pub struct Guard {
    sender: Option<SyncSender<Option<Line>>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            // A full queue means that syslogd is away: then there is nothing to wait for.
            let _ = sender.try_send(None);
        }
        if let Some(thread) = self.thread.take() {
            let end = Instant::now() + FLUSH;
            while !thread.is_finished() && Instant::now() < end {
                thread::sleep(RETRY);
            }
        }
    }
}

/// Sends the log facade's lines to syslog, facility mail, ident `ident`. Call
/// it once, before any other thread starts.
///
/// # Errors
/// Where the thread cannot be started, or a logger is set already.
pub fn start(ident: &str) -> io::Result<Guard> {
    let (sender, receiver) = sync_channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let sink = Sink::new(Path::new(SYSLOG), ident, Arc::clone(&lost));
    let thread = thread::Builder::new()
        .name("syslog".into())
        .spawn(move || sink.run(&receiver))?;
    log::set_boxed_logger(Box::new(Front {
        sender: sender.clone(),
        lost,
    }))
    .map_err(io::Error::other)?;
    log::set_max_level(LevelFilter::Info);
    Ok(Guard {
        sender: Some(sender),
        thread: Some(thread),
    })
}

/// The end of the queue that the rest of the program sees.
struct Front {
    sender: SyncSender<Option<Line>>,
    lost: Arc<AtomicU64>,
}

impl Log for Front {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries speak at their own levels; the admin hears ours.
        metadata.target().starts_with("rblfilter")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = (record.level(), record.args().to_string());
            if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
                self.sender.try_send(Some(line))
            {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn flush(&self) {}
}

/// The end of the queue that knows syslogd.
#[derive(Debug)]
struct Sink {
    socket: PathBuf,
    connection: Option<UnixDatagram>,
    formatter: Formatter3164,
    lost: Arc<AtomicU64>,
    /// The last line did not go through: try once a line, do not wait.
    away: bool,
}

impl Sink {
    fn new(socket: &Path, ident: &str, lost: Arc<AtomicU64>) -> Self {
        Self {
            socket: socket.to_owned(),
            connection: None,
            formatter: Formatter3164 {
                facility: Facility::LOG_MAIL,
                hostname: None,
                process: ident.to_owned(),
                pid: std::process::id(),
            },
            lost,
            away: false,
        }
    }

    fn run(mut self, receiver: &Receiver<Option<Line>>) {
        let mut sums = Sums::new(LINES_PER_SECOND);
        loop {
            let next = self.next(receiver, sums.next());
            let now = Instant::now();
            let ends = !matches!(next, Ok(Some(_)) | Err(RecvTimeoutError::Timeout));
            if let Ok(Some((level, text))) = next {
                sums.set(A_SECOND.load(Ordering::Relaxed));
                if sums.writes(level, &text, now) {
                    self.write(level, &text, 1);
                }
            }
            if ends || sums.next().is_some_and(|due| due <= now) {
                for (level, text, lines) in sums.take(now, ends) {
                    self.write(level, &text, lines);
                }
            }
            if ends {
                return;
            }
        }
    }

    /// Writes a line that tells of so many events. One that does not go through
    /// is counted, and the count is told after the first that does.
    fn write(&mut self, level: Level, text: &str, events: u64) {
        let sent = self.send(level, text);
        if !sent {
            self.lost.fetch_add(events, Ordering::Relaxed);
        } else if self.lost.load(Ordering::Relaxed) > 0 {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if !self.send(Level::Warn, &format!("recovered,what=syslog,lost={lost}")) {
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        self.away = !sent;
    }

    /// The next line, waited for until `due`. Where none waits, those of a moment
    /// are let gather: to wake for each costs more than to write it.
    fn next(
        &self,
        receiver: &Receiver<Option<Line>>,
        due: Option<Instant>,
    ) -> Result<Option<Line>, RecvTimeoutError> {
        if let Ok(line) = receiver.try_recv() {
            return Ok(line);
        }
        thread::sleep(GATHER);
        match due {
            Some(due) => receiver.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Whether the line went to syslogd.
    fn send(&mut self, level: Level, text: &str) -> bool {
        let mut line = Vec::with_capacity(text.len() + 64);
        if self
            .formatter
            .format(&mut line, severity(level), text)
            .is_err()
        {
            return false;
        }
        let end = Instant::now() + PATIENCE;
        loop {
            match self.try_send(&line) {
                Ok(()) => return true,
                Err(_) if self.away || Instant::now() >= end => return false,
                Err(_) => thread::sleep(RETRY),
            }
        }
    }

    fn try_send(&mut self, line: &[u8]) -> io::Result<()> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = UnixDatagram::unbound()?;
                connection.set_nonblocking(true)?;
                connection.connect(&self.socket)?;
                connection
            }
        };
        match connection.send(line) {
            Ok(_) => {
                self.connection = Some(connection);
                Ok(())
            }
            Err(error) => {
                // A full queue keeps its connection; after anything else it is opened anew.
                if error.kind() == ErrorKind::WouldBlock {
                    self.connection = Some(connection);
                }
                Err(error)
            }
        }
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::Error => Severity::LOG_ERR,
        Level::Warn => Severity::LOG_WARNING,
        Level::Info => Severity::LOG_INFO,
        Level::Debug | Level::Trace => Severity::LOG_DEBUG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(socket: &Path) -> Sink {
        Sink::new(socket, "rblfilter", Arc::default())
    }

    fn socket_path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("rblfilter-{name}-{}", std::process::id()))
    }

    fn received(server: &UnixDatagram) -> String {
        let mut bytes = [0; 2048];
        let len = server.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    #[test]
    fn lines_go_to_the_mail_facility_with_ident_and_pid() {
        let path = socket_path("facility");
        let server = UnixDatagram::bind(&path).unwrap();
        assert!(sink(&path).send(Level::Info, "started"));
        let line = received(&server);
        // Facility mail (2) and severity info (6): 2 * 8 + 6.
        assert!(
            line.starts_with("<22>")
                && line.ends_with(&format!(" rblfilter[{}]: started", std::process::id())),
            "{line}"
        );
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_restarted_syslogd_is_found_again() {
        let path = socket_path("restart");
        let server = UnixDatagram::bind(&path).unwrap();
        let mut sink = sink(&path);
        assert!(sink.send(Level::Info, "one"));
        received(&server);
        drop(server);
        std::fs::remove_file(&path).unwrap();
        assert!(!sink.send(Level::Info, "two"));
        let server = UnixDatagram::bind(&path).unwrap();
        assert!(sink.send(Level::Info, "three"));
        assert!(received(&server).ends_with("three"));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_full_syslogd_costs_a_bounded_time_and_is_counted() {
        let path = socket_path("full");
        let _server = UnixDatagram::bind(&path).unwrap();
        let sink = sink(&path);
        let lost = Arc::clone(&sink.lost);
        let (sender, receiver) = sync_channel(QUEUE);
        for _ in 0..2000 {
            sender.send(Some((Level::Info, "x".repeat(100)))).unwrap();
        }
        sender.send(None).unwrap();
        let begun = Instant::now();
        sink.run(&receiver);
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
        assert!(
            lost.load(Ordering::Relaxed) > 0,
            "nobody reads, so not all can have gone through"
        );
        std::fs::remove_file(path).unwrap();
    }
}
