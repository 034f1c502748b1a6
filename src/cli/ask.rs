//! Asking the running filter, over its control socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;
use std::{fmt, fs};

use rblfilter_warden::policy::MAX_BAN_SECONDS;

use super::exit;
use crate::control::{Answer, Request, SOCKET};
use crate::courier::filter_socket;
use crate::courier::paths::Paths;
use crate::courier::process::courierfilter;
use crate::duration;

/// How long the filter may take for an answer: a million bans take it a while.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is told where courierfilter believes that the filter runs: it starts none
/// that is started, and Courier's mail waits for it.
const ENDED: &str = "the filter has ended, and every message is answered 432: filterctl stop rblfilter; sleep 1; filterctl start rblfilter";

/// Why nobody listens, what becomes of mail, and what to do.
fn absent(paths: &Paths) -> &'static str {
    let link = paths.sysconfdir.join("filters/active/rblfilter");
    let is_started = fs::symlink_metadata(link).is_ok();
    // Of one that is dead: submit cannot connect to it.
    let is_waited_for = filter_socket::exists(paths, "rblfilter");
    match (courierfilter(paths).is_some(), is_started) {
        (_, true) if is_waited_for => ENDED,
        (true, true) => {
            "the filter has ended, and mail is accepted unfiltered: filterctl stop rblfilter; sleep 1; filterctl start rblfilter"
        }
        (true, false) => "the filter does not run (filterctl start rblfilter)",
        (false, true) => {
            "courierfilter does not run, and mail is accepted unfiltered (courierfilter start)"
        }
        (false, false) => {
            "neither courierfilter nor the filter runs (courierfilter start; filterctl start rblfilter)"
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// Nobody listens.
    NotRunning(String),
    /// The socket is not for this user.
    NotPermitted(String),
    /// The filter says no.
    Refused(String),
    /// Anything else.
    Failed(String),
}

impl Error {
    /// Whether it tells `what`.
    pub fn is_about(&self, what: &str) -> bool {
        self.to_string().contains(what)
    }

    /// Says it, and how to exit.
    pub fn report(&self) -> ExitCode {
        let code = match self {
            Self::NotRunning(_) => exit::UNAVAILABLE,
            Self::NotPermitted(_) => exit::PERMISSION,
            Self::Refused(_) => 1,
            Self::Failed(_) => exit::SOFTWARE,
        };
        eprintln!("rblfilter: {self}");
        code.into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::NotRunning(text)
        | Self::NotPermitted(text)
        | Self::Refused(text)
        | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

/// Asks `request`, and hands each line of the answer but its last to `each`;
/// what was done, in words, of the last.
///
/// # Errors
/// Where the filter cannot be asked, or says no.
pub fn ask(
    request: &Request,
    mut each: impl FnMut(Answer) -> io::Result<()>,
) -> Result<String, Error> {
    let paths = Paths::from_env();
    let path = paths.state().join(SOCKET);
    let shown = path.display().to_string();
    let failed = |error: io::Error| Error::Failed(format!("cannot ask {shown}: {error}"));
    let mut stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            Error::NotRunning(absent(&paths).into())
        }
        ErrorKind::PermissionDenied => Error::NotPermitted(format!(
            "cannot ask {shown}: permission denied (sudo; for root, or a member of Courier's group)"
        )),
        _ => failed(error),
    })?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut line = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    // One that answers before it has read all closes: its answer tells why.
    let sent = stream.write_all(&line);
    for line in BufReader::new(&stream).lines() {
        let line = line.map_err(failed)?;
        match serde_json::from_str(&line).map_err(|error| failed(error.into()))? {
            Answer::Done(text) => return Ok(text),
            Answer::End => return Ok(String::new()),
            Answer::Error(text) if text.starts_with("permission denied") => {
                return Err(Error::NotPermitted(text));
            }
            Answer::Error(text) => return Err(Error::Refused(text)),
            told @ (Answer::Entry(_)
            | Answer::Status(_)
            | Answer::Sessions(_)
            | Answer::Known(_)) => {
                each(told).map_err(failed)?;
            }
        }
    }
    sent.map_err(failed)?;
    Err(Error::Failed(format!("{shown}: no answer")))
}

/// Asks for something to be done, and prints what was.
pub fn have_done(request: &Request) -> ExitCode {
    have_done_or(request, || None)
}

/// The same; says `otherwise`, if there is any, where the filter does not run.
pub fn have_done_or(request: &Request, otherwise: impl FnOnce() -> Option<String>) -> ExitCode {
    match ask(request, |_| Ok(())) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let code = error.report();
            if let Error::NotRunning(_) = error
                && let Some(text) = otherwise()
            {
                eprint!("{text}");
            }
            code
        }
    }
}

/// Seconds that a ban can last, of a duration as people write it.
///
/// # Errors
/// What was expected.
pub fn ban_seconds(text: &str) -> Result<u32, String> {
    let seconds = duration::parse(text)?.as_secs();
    let fits = |seconds: &u32| (1..=MAX_BAN_SECONDS).contains(seconds);
    u32::try_from(seconds).ok().filter(fits).ok_or_else(|| {
        format!(
            "{text:?} is out of range, expected at least 1 s and at most {} days, for example \"2h\"",
            MAX_BAN_SECONDS / (24 * 60 * 60)
        )
    })
}

/// Seconds, of a duration as people write it.
///
/// # Errors
/// What was expected.
pub fn seconds(text: &str) -> Result<u32, String> {
    u32::try_from(duration::parse(text)?.as_secs())
        .map_err(|_| format!("{text:?} is out of range, expected at most 136 years"))
}
