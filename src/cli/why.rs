//! `rblfilter why`: everything known of a client or a message.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use clap::Args;
use ipnetwork::IpNetwork;
use jiff::tz::TimeZone;
use nix::unistd::geteuid;
use rblfilter_warden::protected::{Protected, Protection};

use super::json::in_ascii;
use super::report::{MAIL_LOG, bar, moment};
use super::{ask, exit, lookup};
use crate::config::{self, Config};
use crate::control::{Answer, Request};
use crate::courier::paths::Paths;
use crate::courier::smtpaccess::Trusted;
use crate::enforce::ban::around;
use crate::firewall;
use crate::report::{Clock, Error, Journal, Source, in_order, now};
use crate::store::{self, FILE};
use crate::why::{Configured, Facts, Held, Known, Logs, Subject, Trace, Traced, json, story, text};

/// How far back the usual logs are read, where nothing else is asked for, in
/// seconds: 30 days.
const BACK: i64 = 30 * 24 * 3600;
/// An IPv6 client's network, where the configuration cannot be read.
const PREFIX6: u8 = 64;

/// What became of a client or a message, why, and what to do if that is wrong
///
/// For example, of a client that says that its mail is refused: rblfilter why
/// 203.0.113.9
///
/// It tells in plain words whether the client is banned or let in, since when and
/// why; what the running filter, its file of bans, the kernel's set, the
/// configuration and the mail log tell; what would follow if it connected now; what
/// to do if that is wrong, and what to tell the sender.
///
/// It works as root and as a member of Courier's group, with the filter running
/// or not, and says what it could not look at. Nothing is changed; but the lists
/// are asked for the client, unless --no-lookup is given. Exit status: 0
/// something is known, 1 nothing is known, 2 nothing is known, but not all could
/// be looked at.
#[derive(Debug, Args)]
pub struct Command {
    /// A client's address, or a message's id
    ///
    /// An address also as a log writes it ([::ffff:203.0.113.9]). An id is Courier's,
    /// as in the log and in the Received field that it adds, or its last two parts, as
    /// Courier answers the sender; or a Message-ID field's ("<id@example.org>"), where
    /// a program logs it.
    #[arg(value_name = "ADDRESS|MESSAGE-ID")]
    subject: String,
    /// Logs to read [default: the last 30 days of the usual one]
    ///
    /// Plain or compressed, in any order. The usual one is /var/log/mail.log and those
    /// that it was rotated to, or the journal where there is none.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "journal")]
    log: Vec<PathBuf>,
    /// Read the journal
    #[arg(long)]
    journal: bool,
    /// Read the log from then on: "2026-11-24 09:00", or so long ago: 2h
    ///
    /// A time (2026-11-24T09:00:00Z, "2026-11-24 09:00", 2026-11-24) or so long ago
    /// (2h, "1day 6h").
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Do not ask the lists what they say now
    #[arg(long)]
    no_lookup: bool,
    /// Tell every line that is kept of the log, not the last 40 alone
    #[arg(long)]
    all: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How long the file of bans is waited for: longer than reading it may take.
const FILE_TIME: Duration = Duration::from_secs(8);

/// What went wrong, and the exit status.
type Failure = (String, u8);

pub fn run(command: &Command, path: &Path) -> ExitCode {
    let told = tell(command, path);
    match told {
        Ok((text, code)) => {
            let mut out = io::stdout().lock();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Ok(()) => code,
                // The reader has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
                Err(error) => {
                    eprintln!("rblfilter: cannot write: {error}");
                    exit::CANNOT_WRITE.into()
                }
            }
        }
        Err((text, code)) => {
            eprintln!("rblfilter: {text}");
            code.into()
        }
    }
}

fn tell(command: &Command, path: &Path) -> Result<(String, ExitCode), Failure> {
    let usage = |text| (text, exit::USAGE);
    let subject = Subject::parse(&command.subject).map_err(usage)?;
    if command.log.iter().any(|path| path == Path::new("-")) {
        let text = "--log: a log may be read more than once, expected a file instead of \"-\"";
        return Err((text.into(), exit::USAGE));
    }
    let zone = TimeZone::system();
    let since = match &command.since {
        Some(text) => Some(moment(text, now(), &zone).map_err(usage)?),
        None if command.log.is_empty() => Some(now() - BACK),
        None => None,
    };
    let facts = gather(command, path, subject, since, &zone)?;
    let story = story(&facts, &zone, command.all);
    let text = if command.json {
        let json = serde_json::to_string(&json(&facts, &story))
            .map_err(|error| (error.to_string(), exit::SOFTWARE))?;
        format!("{}\n", in_ascii(&json))
    } else {
        text(&story)
    };
    let code = match (facts.is_anything_known(), facts.not_looked_at().is_empty()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(1),
        (false, false) => ExitCode::from(2),
    };
    Ok((text, code))
}

fn gather(
    command: &Command,
    path: &Path,
    subject: Subject,
    since: Option<i64>,
    zone: &TimeZone,
) -> Result<Facts, Failure> {
    let config = config::read(path).map_err(|error| error.to_string());
    let prefix6 = config.as_ref().map_or(PREFIX6, |config| config.ban.prefix6);
    let mut logs = Log {
        sources: sources(command, since),
        zone,
        since,
        read: Vec::new(),
    };
    let found = logs.search(&subject, prefix6);
    let (log, client) = match found {
        Ok((message, client, of_client)) => {
            let logs = Logs {
                sources: logs.read,
                message,
                client: of_client,
            };
            (Ok(logs), client)
        }
        // What was asked for by name must be there.
        Err(error) if !command.log.is_empty() => {
            let code = if is_denied(&error) {
                exit::PERMISSION
            } else {
                exit::NO_INPUT
            };
            return Err((error.to_string(), code));
        }
        Err(error) => {
            let client = match &subject {
                Subject::Client(client) => Some(*client),
                _ => None,
            };
            (Err(error.to_string()), client)
        }
    };
    let mut facts = Facts {
        subject,
        client,
        now: now(),
        filter: None,
        file: None,
        kernel: None,
        configured: None,
        path: path.to_owned(),
        log,
        forecast: None,
    };
    if let Some(client) = client {
        of_client(command, client, &config, prefix6, &mut facts);
    }
    Ok(facts)
}

/// What is known of `client` beside the log.
fn of_client(
    command: &Command,
    client: IpAddr,
    config: &Result<Config, String>,
    prefix6: u8,
    facts: &mut Facts,
) {
    let filter = ask_filter(client);
    if filter.is_err() {
        let window = config
            .as_ref()
            .map_or(u32::MAX, |config| config.ban.durations.window);
        let network = network_of(client, prefix6);
        let now = u32::try_from(facts.now).unwrap_or(u32::MAX);
        facts.file = of_file(client, network, window, now).transpose();
    }
    facts.filter = Some(filter);
    match config {
        Ok(config) => {
            facts.configured = Some(configured(config, client));
            facts.kernel = if geteuid().is_root() {
                let held = firewall::holds(config, client);
                held.map_err(|error| error.to_string()).transpose()
            } else {
                Some(Err("only root can look at it".into()))
            };
            if !command.no_lookup {
                let forecast = lookup::forecast(config, client);
                facts.forecast = Some(forecast.map_err(|error| error.to_string()));
            }
        }
        Err(error) => facts.configured = Some(Err(error.clone())),
    }
}

/// What the file holds of it; `None` where there is none. It may be on a file
/// system that hangs, and what opens it wait for ever.
fn of_file(
    client: IpAddr,
    network: IpNetwork,
    window: u32,
    now: u32,
) -> Result<Option<Held>, String> {
    let shown = Paths::from_env().state().join(FILE);
    let cannot = |error: &dyn Display| {
        let who = if geteuid().is_root() {
            ""
        } else {
            " (for root alone)"
        };
        format!("cannot read {}: {error}{who}", shown.display())
    };
    let (sender, read) = mpsc::channel();
    thread::spawn(move || {
        let path = Paths::from_env().real_state().join(FILE);
        // Nobody waits for one that is late.
        let _ = sender.send(store::kept(&path, client, network, window, now));
    });
    match read.recv_timeout(FILE_TIME) {
        Ok(kept) => kept.map_err(|error| cannot(&error)),
        Err(_) => Err(cannot(&"it did not end in time")),
    }
}

fn ask_filter(client: IpAddr) -> Result<Known, String> {
    let mut known = None;
    let asked = ask::ask(&Request::Why { client }, |answer| {
        if let Answer::Known(told) = answer {
            known = Some(*told);
        }
        Ok(())
    });
    match (asked, known) {
        (Ok(_), Some(known)) => Ok(known),
        (Ok(_), None) => Err("it did not say".into()),
        // One of before this command.
        (Err(error), _) if error.is_about("unknown variant") => {
            Err("it is of a version that does not know this (rblfilter reload)".into())
        }
        (Err(error), _) => Err(error.to_string()),
    }
}

/// What is banned with it, as far as can be told without the filter.
fn network_of(client: IpAddr, prefix6: u8) -> IpNetwork {
    match client {
        IpAddr::V4(_) => client.into(),
        IpAddr::V6(_) => around(client, prefix6),
    }
}

fn configured(config: &Config, client: IpAddr) -> Result<Configured, String> {
    let holds = |networks: &[IpNetwork]| {
        let mut networks = networks.iter();
        networks.find(|network| network.contains(client)).copied()
    };
    let mut protected = Protected::new(Vec::new());
    protected
        .refresh(Instant::now())
        .map_err(|error| format!("cannot list this host's addresses: {error}"))?;
    let folder = Paths::from_env().sysconfdir.join("smtpaccess");
    let trusted = Trusted::read(&folder, &config.block_variables)
        .map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    Ok(Configured {
        observe: config.mode == config::Mode::Observe,
        allow: holds(&config.allow),
        own: protected.protects(client) == Some(Protection::Own),
        relay: holds(&config.never_ban.relays),
        trusted: holds(&trusted.networks),
    })
}

/// What is to be read.
fn sources(command: &Command, since: Option<i64>) -> Vec<Source> {
    if !command.log.is_empty() {
        return command.log.iter().cloned().map(Source::File).collect();
    }
    let usual = Path::new(MAIL_LOG);
    if command.journal || !usual.exists() {
        return vec![Source::Journal(Journal {
            since,
            deliveries: true,
            ..Journal::default()
        })];
    }
    let mut all = vec![Source::File(usual.to_owned())];
    all.extend(rotated(usual, since).into_iter().map(Source::File));
    all
}

/// The files that `log` was rotated to (logrotate(8)), as far as they were written
/// to after `since`: `mail.log.1`, `mail.log.2.gz`, `mail.log-20261124`.
fn rotated(log: &Path, since: Option<i64>) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name()) else {
        return Vec::new();
    };
    let begin = name.to_string_lossy();
    let is_one = |path: &PathBuf| {
        let rest = path.file_name().and_then(|name| {
            let name = name.to_str()?;
            name.strip_prefix(&*begin)?.strip_prefix(['.', '-'])
        });
        rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    let is_recent = |path: &PathBuf| {
        let changed = path.metadata().and_then(|meta| meta.modified()).ok();
        let at = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let at = at.and_then(|at| i64::try_from(at.as_secs()).ok());
        since.is_none_or(|since| at.is_none_or(|at| at >= since))
    };
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(is_one).filter(is_recent).collect()
}

fn is_denied(error: &Error) -> bool {
    matches!(error, Error::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
}

/// The log, to be searched.
struct Log<'a> {
    sources: Vec<Source>,
    zone: &'a TimeZone,
    since: Option<i64>,
    read: Vec<String>,
}

/// What is about the message, who its client is, and what is about that.
type Found = (Option<Traced>, Option<IpAddr>, Option<Traced>);

impl Log<'_> {
    fn search(&mut self, subject: &Subject, prefix6: u8) -> Result<Found, Error> {
        let (message, client) = match subject {
            Subject::Client(client) => (None, Some(*client)),
            Subject::Message(id) => {
                let message = self.read(Trace::of_message(id))?;
                let client = message.client;
                (Some(message), client)
            }
            Subject::MessageId(id) => {
                let named = self.read(Trace::of_message_id(id))?;
                match named.id.clone() {
                    Some(id) => {
                        let mut message = self.read(Trace::of_message(&id))?;
                        message.id = Some(id);
                        let client = message.client;
                        (Some(message), client)
                    }
                    None => (Some(named), None),
                }
            }
        };
        let of_client = match client {
            Some(client) => {
                let network = network_of(client, prefix6);
                Some(self.read(Trace::of_client(client, network))?)
            }
            None => None,
        };
        Ok((message, client, of_client))
    }

    /// Reads all of it.
    fn read(&mut self, trace: Trace) -> Result<Traced, Error> {
        let mut trace = trace.since(self.since);
        let sources = in_order(self.sources.clone(), self.zone)?;
        self.read = sources.iter().map(Source::to_string).collect();
        let bar = bar(sources.iter().map(Source::size).sum());
        let mut before = 0;
        for source in &sources {
            let opened = source.open()?;
            let mut clock = Clock::new(self.zone.clone(), opened.newest);
            for block in opened.blocks {
                let block = block?;
                trace.read(&mut clock, &block.bytes);
                if let Some(bar) = &bar {
                    bar.set_position(before + block.position);
                }
            }
            before += source.size();
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        Ok(trace.finish(now()))
    }
}
