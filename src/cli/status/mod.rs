//! `rblfilter status`: how the running filter is, once or again and again.

mod page;
pub mod units;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use crossterm::cursor::MoveTo;
use crossterm::queue;
use crossterm::terminal::{Clear, ClearType, size};

use super::json::in_ascii;
use super::terminal::{Taken, on_signal};
use super::{ask, colour, exit};
use crate::control::{Answer, Request};
use crate::status::Status;
use page::{Look, render};

pub use page::wrapped;

/// The page of a status, for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn page_of(status: &Status) -> String {
    render(status, Look::default())
}

/// How the running filter is
///
/// Its mode and how long its worker has been running, by what it sees sessions,
/// what the gate does, how many connection slots each couriertcpd has in use and
/// had in the last ten minutes, the bans, what was decided and done since the
/// start and in the last minute and how long that took, each list's health,
/// answers and latency, which layers of the sandbox bind worker and warden, and
/// what does not work, why and what to do. Exit status: 69 where the filter does
/// not run, 77 where the user may not ask.
#[derive(Debug, Args)]
pub struct Command {
    /// Print one JSON object (its names: docs/status.md)
    #[arg(long)]
    json: bool,
    /// Tell it again every so many seconds: in place on a terminal, else one
    /// after the other [default: 2]
    #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = pause)]
    watch: Option<u64>,
}

/// The seconds between two looks.
fn pause(text: &str) -> Result<u64, String> {
    let seconds = text.parse().ok();
    seconds
        .filter(|seconds| (1..=86_400).contains(seconds))
        .ok_or_else(|| {
            format!("{text:?} is no pause, expected whole seconds, 1 to 86400, for example 5")
        })
}

pub fn run(command: &Command) -> ExitCode {
    match command.watch {
        None => match tell(command.json) {
            Ok(text) => {
                // A closed standard output leaves nobody to tell.
                let _ = io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Err(error) => error.report(),
        },
        Some(seconds) => watch(command, Duration::from_secs(seconds)),
    }
}

/// Asks the filter how it is.
///
/// # Errors
/// Where it cannot be asked.
pub fn status() -> Result<Status, ask::Error> {
    let mut status = None;
    ask::ask(&Request::Status, |answer| {
        if let Answer::Status(told) = answer {
            status = Some(*told);
        }
        Ok(())
    })?;
    status.ok_or_else(|| ask::Error::Failed("the filter told nothing".into()))
}

/// What is to be printed.
fn tell(json: bool) -> Result<String, ask::Error> {
    let status = status()?;
    if !json {
        let look = Look {
            colour: colour::wanted(),
            unicode: colour::has_unicode(),
        };
        return Ok(render(&status, look));
    }
    let json = serde_json::to_string(&status);
    json.map(|json| in_ascii(&json) + "\n")
        .map_err(|error| ask::Error::Failed(error.to_string()))
}

/// What the watch hears.
enum Heard {
    Told(Result<String, ask::Error>),
    /// One that asks it to end.
    Signal,
}

/// Asks in a thread of its own: a filter that hangs may take long, and a signal is
/// not to wait for it.
fn ask_aside(json: bool, heard: Sender<Heard>) -> io::Result<()> {
    let ask = move || {
        // It has ended where nobody listens.
        let _ = heard.send(Heard::Told(tell(json)));
    };
    let thread = thread::Builder::new().name("asker".into()).spawn(ask);
    thread.map(drop)
}

/// Tells it until a signal comes. A filter that is stopped meanwhile is waited
/// for.
fn watch(command: &Command, pause: Duration) -> ExitCode {
    // Nobody watches what is not for him, or was never there.
    let mut told = match tell(command.json) {
        Ok(text) => text,
        Err(error) => return error.report(),
    };
    let (sender, heard) = mpsc::channel();
    let cannot = |error: io::Error| {
        eprintln!("rblfilter: cannot watch: {error}");
        exit::SOFTWARE.into()
    };
    let signals = sender.clone();
    let listening = on_signal(move |_| {
        // It has ended where nobody listens.
        let _ = signals.send(Heard::Signal);
    });
    if let Err(error) = listening {
        return cannot(error);
    }
    let in_place = !command.json && io::stdout().is_terminal();
    let _taken = match in_place.then(|| Taken::take(false)).transpose() {
        Ok(taken) => taken,
        Err(error) => {
            eprintln!("rblfilter: cannot use the terminal: {error}");
            return exit::SOFTWARE.into();
        }
    };
    let mut next = Instant::now();
    loop {
        let written = if in_place {
            redraw(&told)
        } else {
            // Pages are told apart by an empty line.
            let end = if command.json { "" } else { "\n" };
            let mut out = io::stdout();
            write!(out, "{told}{end}").and_then(|()| out.flush())
        };
        // Nobody reads any more.
        if written.is_err() {
            return ExitCode::SUCCESS;
        }
        next = (next + pause).max(Instant::now());
        match heard.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return ExitCode::SUCCESS,
        }
        if let Err(error) = ask_aside(command.json, sender.clone()) {
            return cannot(error);
        }
        let Ok(Heard::Told(answer)) = heard.recv() else {
            return ExitCode::SUCCESS;
        };
        told = match answer {
            Ok(text) => text,
            Err(error) if command.json => {
                eprintln!("rblfilter: {error}");
                String::new()
            }
            Err(error) => format!("rblfilter: {error}\n"),
        };
    }
}

/// Writes `text` in the place of what is on the screen, as far as it fits.
fn redraw(text: &str) -> io::Result<()> {
    let (_, rows) = size().unwrap_or((80, 24));
    let lines: Vec<&str> = text.lines().collect();
    let mut out = io::BufWriter::new(io::stdout());
    for (row, line) in (0..rows).zip(fitting(&lines, rows.into())) {
        // Cleared first: past its last column a line would lose a character.
        queue!(out, MoveTo(0, row), Clear(ClearType::CurrentLine))?;
        write!(out, "{line}")?;
    }
    out.flush()
}

/// So many rows of `lines`, of which the last tells how many more there are.
fn fitting(lines: &[&str], rows: usize) -> Vec<String> {
    let mut fitting: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    if lines.len() > rows && rows > 0 {
        let more = lines.len() - rows + 1;
        fitting[rows - 1] = format!("({more} more lines)");
    }
    fitting.resize(rows, String::new());
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_whole_seconds() {
        assert_eq!(pause("5"), Ok(5));
        for text in ["0", "1.5", "x", "86401", "-1", ""] {
            let expected =
                format!("{text:?} is no pause, expected whole seconds, 1 to 86400, for example 5");
            assert_eq!(pause(text), Err(expected));
        }
    }

    #[test]
    fn what_does_not_fit_is_told_in_the_last_row() {
        let lines = ["a", "b", "c"];
        for (rows, expected) in [
            (0, &[][..]),
            (1, &["(3 more lines)"]),
            (2, &["a", "(2 more lines)"]),
            (3, &["a", "b", "c"]),
            (4, &["a", "b", "c", ""]),
        ] {
            assert_eq!(fitting(&lines, rows), expected, "{rows}");
        }
    }
}
