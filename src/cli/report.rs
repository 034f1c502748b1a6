//! `rblfilter report`: what a mail log tells.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use super::{colour, exit};
use crate::duration;
use crate::report::{
    Clock, Error, Journal, LONGEST_HOLD, Look, Options, Report, Source, Table, Tally, in_order,
    now, page, text,
};

/// Where rsyslog writes, on Debian.
pub(super) const MAIL_LOG: &str = "/var/log/mail.log";

/// What a mail log tells of connections, slots, refusals, bans and waves
///
/// Reads Courier's mail log, its own lines and ours, and tells what happened:
/// connections, slots, refusals, bans, networks, waves, refused clients that may
/// be legitimate, and what rblfilter would have done with those that Courier
/// refused. A progress bar is shown for long logs where standard error is a
/// terminal; colours where standard output is one, unless NO_COLOR is set.
#[derive(Debug, Args)]
pub struct Command {
    /// Logs, plain or compressed (gzip, xz, zstd, bzip2), in any order; "-" is
    /// standard input [default: /var/log/mail.log, or the journal where there
    /// is none]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Read the journal
    #[arg(long, conflicts_with = "files")]
    journal: bool,
    /// Read the journal in this folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "files")]
    journal_directory: Option<PathBuf>,
    /// From then on: a time (2026-11-24T09:00:00Z, "2026-11-24 09:00",
    /// 2026-11-24), local where it names no zone, or so long ago (2h, "1day 6h")
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Before then
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// How long a session counts after its last line, as Courier logs no end of
    /// most; 10m at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = hold)]
    hold: i64,
    /// Cut addresses down to networks (/24, /48) and domains to their last part
    #[arg(long)]
    anonymise: bool,
    /// Write a page with charts to this file, too, that needs no script and no
    /// network; "-" is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print all numbers as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print one table as CSV; without a name, the first of these
    #[arg(long, value_name = "TABLE", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "time")]
    csv: Option<Table>,
}

/// What went wrong, and the exit status.
type Failure = (String, u8);

pub fn run(command: &Command) -> ExitCode {
    match report(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err((message, code)) => {
            eprintln!("rblfilter: {message}");
            code.into()
        }
    }
}

fn report(command: &Command) -> Result<(), Failure> {
    let zone = TimeZone::system();
    let when = |text: &Option<String>| -> Result<Option<i64>, Failure> {
        let parse = |text: &String| moment(text, now(), &zone);
        let parsed = text.as_ref().map(parse).transpose();
        parsed.map_err(|message| (message, exit::USAGE))
    };
    let (since, until) = (when(&command.since)?, when(&command.until)?);
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        let text = "nothing lies between --since and --until: --since comes first";
        return Err((text.into(), exit::USAGE));
    }
    if let Some(hint) = table_hint(command) {
        return Err((hint, exit::USAGE));
    }
    let sources = sources(command, since, until);
    let options = Options {
        zone: zone.clone(),
        since,
        until,
        hold: command.hold,
        anonymise: command.anonymise,
    };
    let report = read(sources, options).map_err(|error| {
        let denied = matches!(&error, Error::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied);
        let code = if denied { exit::PERMISSION } else { exit::NO_INPUT };
        (error.to_string(), code)
    })?;
    print(command, &report)
}

/// What is meant by `--csv candidates`, which names a file.
fn table_hint(command: &Command) -> Option<String> {
    command.csv?;
    let name = command.files.iter().find_map(|file| {
        let name = file.to_str().filter(|_| !file.exists())?;
        Table::from_str(name, false).ok().map(|_| name)
    })?;
    Some(format!(
        "cannot read {name}: no such file; a table is named with an equals sign, --csv={name}"
    ))
}

/// Seconds that a session may be said to hold its slot.
fn hold(text: &str) -> Result<i64, String> {
    let expected = || {
        let most = LONGEST_HOLD / 60;
        format!("{text:?} is out of range, expected {most}m at most, for example \"30s\"")
    };
    let hold = duration::parse(text)?;
    let hold = i64::try_from(hold.as_secs()).map_err(|_| expected())?;
    (hold <= LONGEST_HOLD).then_some(hold).ok_or_else(expected)
}

/// What is to be read.
fn sources(command: &Command, since: Option<i64>, until: Option<i64>) -> Vec<Source> {
    let journal = command.journal
        || command.journal_directory.is_some()
        || command.files.is_empty() && !Path::new(MAIL_LOG).exists();
    if journal {
        return vec![Source::Journal(Journal {
            since,
            until,
            directory: command.journal_directory.clone(),
            deliveries: false,
        })];
    }
    if command.files.is_empty() {
        return vec![Source::File(MAIL_LOG.into())];
    }
    let source = |path: &PathBuf| {
        if path == Path::new("-") {
            Source::Input
        } else {
            Source::File(path.clone())
        }
    };
    command.files.iter().map(source).collect()
}

fn read(sources: Vec<Source>, options: Options) -> Result<Report, Error> {
    let zone = options.zone.clone();
    let sources = in_order(sources, &zone)?;
    let bar = bar(sources.iter().map(Source::size).sum());
    let mut tally = Tally::new(options);
    let mut before = 0;
    for source in &sources {
        let opened = source.open()?;
        let mut clock = Clock::new(zone.clone(), opened.newest);
        for block in opened.blocks {
            let block = block?;
            tally.read(&mut clock, &block.bytes);
            if let Some(bar) = &bar {
                bar.set_position(before + block.position);
            }
        }
        before += source.size();
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(tally.finish())
}

/// Where somebody waits for more than a moment.
pub(super) fn bar(bytes: u64) -> Option<ProgressBar> {
    const LONG: u64 = 32 << 20;
    if bytes < LONG || !io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(bytes);
    let style = "{wide_bar} {bytes} of {total_bytes}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    Some(bar)
}

fn print(command: &Command, report: &Report) -> Result<(), Failure> {
    let to_stdout = command.html.as_deref() == Some(Path::new("-"));
    if let Some(path) = &command.html
        && !to_stdout
    {
        // It names clients: nobody's but the admin's, unless it is there already.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(path);
        let written = file.and_then(|mut file| file.write_all(page(report).as_bytes()));
        written.map_err(|error| {
            let code = if error.kind() == io::ErrorKind::PermissionDenied {
                exit::PERMISSION
            } else {
                exit::CANNOT_WRITE
            };
            (format!("cannot write {}: {error}", path.display()), code)
        })?;
        eprintln!("rblfilter: the page is in {}", path.display());
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = if to_stdout {
        out.write_all(page(report).as_bytes())
    } else if command.json {
        serde_json::to_writer_pretty(&mut out, report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else if let Some(table) = command.csv {
        table.write(report, &mut out)
    } else {
        out.write_all(text(report, look()).as_bytes())
    };
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err((
            format!("cannot write the report: {error}"),
            exit::CANNOT_WRITE,
        )),
    }
}

fn look() -> Look {
    Look {
        unicode: colour::has_unicode(),
        colour: colour::wanted(),
    }
}

/// A point in time as people write it; local where it names no zone.
pub(super) fn moment(text: &str, now: i64, zone: &TimeZone) -> Result<i64, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_second());
    }
    if let Ok(ago) = duration::parse(text) {
        let ago = i64::try_from(ago.as_secs()).unwrap_or(i64::MAX);
        return Ok(now.saturating_sub(ago));
    }
    let civil = text
        .parse::<DateTime>()
        .or_else(|_| text.parse::<Date>().map(|date| date.at(0, 0, 0, 0)));
    civil
        .and_then(|civil| zone.to_timestamp(civil))
        .map(Timestamp::as_second)
        .map_err(|_| {
            format!(
                "{text:?} is no time, expected for example 2026-11-24, \"2026-11-24 09:00\" or 2026-11-24T09:00:00Z; or how long ago, in {}",
                duration::EXPECTED
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_holds_its_slot_for_so_long_at_most() {
        assert_eq!(hold("10m"), Ok(600));
        assert!(hold("11m").unwrap_err().contains("10m at most"));
        for (text, expected) in [("x", duration::EXPECTED), ("5", "without a unit")] {
            let error = hold(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        for (text, expected) in [
            ("2026-11-24T09:00:00Z", Some(1_795_510_800)),
            ("2026-11-24T10:00:00+01:00", Some(1_795_510_800)),
            ("2026-11-24 10:00", Some(1_795_510_800)),
            ("2026-11-24T10:00:00", Some(1_795_510_800)),
            ("2026-11-24", Some(1_795_474_800)),
            ("2h", Some(1_795_510_800)),
            ("1h 59m 60s", Some(1_795_510_800)),
            ("yesterday", None),
            ("", None),
            ("2026-13-24", None),
        ] {
            let parsed = moment(text, 1_795_518_000, &zone);
            assert_eq!(parsed.ok(), expected, "{text}");
        }
    }
}
