//! The SQLite file: its tables, what is read and what is written.

use std::fs::{self, File, OpenOptions};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{error, fmt, io};

use ipnetwork::IpNetwork;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior,
    params,
};

use super::times::{Stamp, carried};
use super::{Ban, Loaded, Rows, Write, forget};
use crate::enforce::book::{Hand, MOST_PAST};
use crate::enforce::durations::Past;

/// The version of the tables below (`PRAGMA user_version`).
const VERSION: u32 = 2;
/// What every file of SQLite begins with (its "Database File Format", 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// How long another process's transaction is waited for: a worker that stops
/// writes while the next one starts.
pub const BUSY_TIME: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE bans (
        network TEXT PRIMARY KEY, client TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
        count INTEGER NOT NULL, zones TEXT NOT NULL, rests_on TEXT NOT NULL, own INTEGER NOT NULL,
        user TEXT, reason TEXT, forced INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
    CREATE TABLE offences (network TEXT PRIMARY KEY, count INTEGER NOT NULL, ended INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE allows (network TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE senders (client TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE times (one INTEGER PRIMARY KEY CHECK (one = 1), boot TEXT NOT NULL, uptime INTEGER NOT NULL, seconds INTEGER NOT NULL);
    PRAGMA user_version = 2;
";

/// What makes the tables of version 1 into these. It did not say which bans by
/// hand were forced: none counts as one, so that none goes against the allowlist.
const FROM_1: &str = "
    ALTER TABLE bans ADD COLUMN forced INTEGER NOT NULL DEFAULT 0;
    PRAGMA user_version = 2;
";

/// Why the file is of no use.
#[derive(Debug)]
pub enum Error {
    /// It cannot be made.
    Make(io::Error),
    /// It cannot be looked at.
    LookAt(io::Error),
    /// It holds something else than tables.
    Foreign,
    /// Something else is in its place.
    NoFile,
    /// Somebody removed it, or put another in its place, while it was open.
    Removed,
    /// Somebody wrote over it while it was open.
    Overwritten,
    /// What SQLite says.
    Sqlite(rusqlite::Error),
    /// It has tables of another version.
    Version(u32),
    /// Another process reads it.
    Busy,
}

impl Error {
    /// Whether the file itself is at fault, so that a new one helps.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Make(_) | Self::LookAt(_) | Self::Busy => false,
            Self::Foreign | Self::NoFile | Self::Removed | Self::Overwritten | Self::Version(_) => {
                true
            }
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => true,
                // "no such table": of our version, but not of our form.
                Some(ErrorCode::Unknown) => error.to_string().contains("no such"),
                _ => false,
            },
        }
    }

    /// Whether another program is about to write the file, or has it open.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            ),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(error) => write!(f, "cannot be made: {error}"),
            Self::LookAt(error) => write!(f, "{error}"),
            Self::Foreign => write!(f, "it holds other than tables"),
            Self::NoFile => write!(f, "it is no file"),
            Self::Busy => write!(f, "another program has it open (stop that one)"),
            Self::Removed => write!(f, "it was removed or replaced"),
            Self::Overwritten => write!(f, "it was overwritten"),
            Self::Sqlite(error) => write!(f, "{error}"),
            Self::Version(version) => {
                write!(f, "its tables are of version {version}, expected {VERSION}")
            }
        }
    }
}

// What caused it is part of the text, so there is no source.
impl error::Error for Error {}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// The open file.
#[derive(Debug)]
pub struct Database {
    // Dropped in this order: a file that is closed takes SQLite's locks on it along (fcntl(2)).
    pub(super) connection: Connection,
    file: File,
}

impl Database {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // SQLite would make it readable by everybody; its companions take the
        // same mode.
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::IsADirectory => Error::NoFile,
                _ => Error::Make(error),
            })?;
        if !file.metadata().map_err(Error::Make)?.is_file() {
            return Err(Error::NoFile);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIME)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // What was acknowledged outlives the loss of power: one fsync a batch.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // What is deleted is overwritten, and not only given free.
        connection.pragma_update(None, "secure_delete", "ON")?;
        connection.set_prepared_statement_cache_capacity(32);
        if version(&connection)? != VERSION {
            make_tables(&connection)?;
        }
        Ok(Self { connection, file })
    }

    /// Looks whether the open file is still the one at `path`, and looks like
    /// one: SQLite would not notice, and write to what nobody finds again.
    pub fn look(&self, path: &Path) -> Result<(), Error> {
        let of = |file: &fs::Metadata| (file.dev(), file.ino());
        let ours = self.file.metadata().map_err(Error::Make)?;
        // The admin may have put it elsewhere, with a link in its place.
        match fs::metadata(path) {
            Ok(there) if of(&there) == of(&ours) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Make(error));
            }
            _ => return Err(Error::Removed),
        }
        let mut begin = [0; MAGIC.len()];
        match self.file.read_exact_at(&mut begin, 0) {
            Ok(()) if begin == *MAGIC => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(Error::Make(error)),
            _ => Err(Error::Overwritten),
        }
    }

    /// Reads all that is of use at `now`. A row that cannot be is passed over.
    /// What the file holds is in the seconds of `now` from then on.
    /// Of the networks' pasts none that is over for `window` seconds.
    pub fn load(&self, now: u32, window: u32) -> Result<Loaded, Error> {
        let present = Stamp::now(now);
        let then = stamp(&self.connection)?.map_or(now, |stamp| stamp.is_now(&present));
        let mut loaded = Loaded::default();
        let counts = |ended: u32| now.saturating_sub(ended) < window;
        // In the file's own seconds; more than are remembered are not read.
        let from = i64::from(then) - i64::from(window);
        let query = format!(
            "SELECT network, count, ended FROM offences WHERE ended > {from} ORDER BY ended DESC LIMIT {MOST_PAST}"
        );
        self.each(&query, |row| {
            let ended = moved(row.get(2)?, then, now);
            let past = Past {
                count: row.get(1)?,
                ended,
            };
            loaded
                .past
                .extend(network(row, 0)?.map(|network| (network, past)));
            Ok(())
        })?;
        // Those that are over count for the network's past.
        self.each(
            "SELECT network, client, since, until, count, zones, rests_on, own, user, reason, forced FROM bans",
            |row| {
                let Some(ban) = ban(row)? else { return Ok(()) };
                match carried(ban.since, ban.until, then, now) {
                    Some((since, until)) => loaded.bans.push(Ban { since, until, ..ban }),
                    None => {
                        let (count, ended) = (ban.count, moved(ban.until, then, now));
                        if count > 0 && counts(ended) {
                            loaded.past.push((ban.network, Past { count, ended }));
                        }
                    }
                }
                Ok(())
            },
        )?;
        self.each("SELECT network, until FROM allows", |row| {
            let until = moved(row.get(1)?, then, now);
            if until > now {
                loaded
                    .allows
                    .extend(network(row, 0)?.map(|network| (network, until)));
            }
            Ok(())
        })?;
        self.each("SELECT client, at FROM senders", |row| {
            let at = moved(row.get(1)?, then, now).min(now);
            let client: String = row.get(0)?;
            loaded
                .senders
                .extend(client.parse().ok().map(|client: IpAddr| (client, at)));
            Ok(())
        })?;
        self.shift(i64::from(now) - i64::from(then), &present)?;
        loaded.past.sort_by_key(|(_, past)| past.ended);
        Ok(loaded)
    }

    /// The file's seconds become those of this process.
    fn shift(&self, by: i64, stamp: &Stamp) -> Result<(), Error> {
        let transaction = self.connection.unchecked_transaction()?;
        if by != 0 {
            for statement in [
                "UPDATE bans SET since = max(0, since + ?1), until = max(0, until + ?1)",
                "UPDATE offences SET ended = max(0, ended + ?1)",
                "UPDATE allows SET until = max(0, until + ?1)",
                "UPDATE senders SET at = max(0, at + ?1)",
            ] {
                transaction.execute(statement, [by])?;
            }
        }
        put_stamp(&transaction, stamp)?;
        transaction.commit()?;
        Ok(())
    }

    fn each(
        &self,
        query: &str,
        mut take: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), Error> {
        let mut statement = self.connection.prepare(query)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match take(row) {
                // A value of another type than ours.
                Err(error) if error.sqlite_error_code().is_none() => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Writes all of it, or nothing.
    pub fn write(&mut self, writes: &[Write], now: u32) -> Result<(), Error> {
        self.transact(writes, now, |_| Ok(()))
    }

    /// Writes `rows`, then `writes`, in the place of all bans, offences and
    /// allows there are (`keep`: beside them), or nothing.
    pub fn replace(
        &mut self,
        rows: Rows,
        keep: bool,
        writes: &[Write],
        now: u32,
    ) -> Result<(), Error> {
        self.transact(writes, now, |transaction| {
            if !keep {
                transaction
                    .execute_batch("DELETE FROM bans; DELETE FROM offences; DELETE FROM allows;")?;
            }
            for row in rows {
                put(transaction, &row)?;
            }
            Ok(())
        })
    }

    fn transact(
        &mut self,
        writes: &[Write],
        now: u32,
        first: impl FnOnce(&Transaction<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // What is to be written may take some seconds.
        let stamp = Stamp::now(now);
        let transaction = self.connection.transaction()?;
        first(&transaction)?;
        for write in writes {
            put(&transaction, write)?;
        }
        put_stamp(&transaction, &stamp)?;
        transaction.commit()?;
        Ok(())
    }
}

/// When the file was last written to, by its own clock.
pub(super) fn stamp(connection: &Connection) -> rusqlite::Result<Option<Stamp>> {
    connection
        .query_row("SELECT boot, uptime, seconds FROM times", [], |row| {
            Ok(Stamp {
                boot: row.get(0)?,
                uptime: row.get(1)?,
                seconds: row.get(2)?,
            })
        })
        .optional()
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Makes the tables, or what they were into what they are, once: another process
/// may be about to do the same.
fn make_tables(connection: &Connection) -> Result<(), Error> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let tables: u32 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (version(&transaction)?, tables) {
        (VERSION, _) => {}
        (0, 0) => transaction.execute_batch(TABLES)?,
        (1, _) => transaction.execute_batch(FROM_1)?,
        (other, _) => return Err(Error::Version(other)),
    }
    transaction.commit()?;
    Ok(())
}

/// A moment of the file in the seconds of this process.
pub(super) fn moved(at: u32, then: u32, now: u32) -> u32 {
    let at = i64::from(at) + i64::from(now) - i64::from(then);
    u32::try_from(at.max(0)).unwrap_or(u32::MAX)
}

fn network(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<IpNetwork>> {
    let text: String = row.get(column)?;
    Ok(text.parse().ok())
}

pub(super) fn ban(row: &Row<'_>) -> rusqlite::Result<Option<Ban>> {
    let client: String = row.get(1)?;
    let (Some(network), Ok(client)) = (network(row, 0)?, client.parse()) else {
        return Ok(None);
    };
    let words = |column| -> rusqlite::Result<Vec<String>> {
        let text: String = row.get(column)?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let user: Option<String> = row.get(8)?;
    let reason: Option<String> = row.get(9)?;
    let forced: bool = row.get(10)?;
    Ok(Some(Ban {
        network,
        client,
        since: row.get(2)?,
        until: row.get(3)?,
        count: row.get(4)?,
        zones: words(5)?,
        rests_on: words(6)?,
        own: row.get(7)?,
        hand: user.map(|user| {
            Arc::new(Hand {
                user,
                reason: reason.unwrap_or_default(),
                forced,
            })
        }),
    }))
}

pub(super) fn put_stamp(transaction: &Transaction<'_>, stamp: &Stamp) -> Result<(), Error> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO times VALUES (1, ?1, ?2, ?3)")?
        .execute(params![stamp.boot, stamp.uptime, stamp.seconds])?;
    Ok(())
}

fn put(transaction: &Transaction<'_>, write: &Write) -> Result<(), Error> {
    let run = |statement: &str, values: &[&dyn rusqlite::ToSql]| {
        let mut statement = transaction.prepare_cached(statement)?;
        statement.execute(values)
    };
    match write {
        Write::Ban(ban) => {
            let hand = ban.hand.as_deref();
            run(
                "INSERT OR REPLACE INTO bans VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                params![
                    ban.network.to_string(),
                    ban.client.to_string(),
                    ban.since,
                    ban.until,
                    ban.count,
                    ban.zones.join(" "),
                    ban.rests_on.join(" "),
                    ban.own,
                    hand.map(|hand| &hand.user),
                    hand.map(|hand| &hand.reason),
                    hand.is_some_and(|hand| hand.forced)
                ],
            )?;
            run(
                "DELETE FROM offences WHERE network = ?1",
                params![ban.network.to_string()],
            )?;
        }
        Write::End(network, past) => {
            let network = network.to_string();
            run("DELETE FROM bans WHERE network = ?1", params![network])?;
            match past {
                Some(past) => run(
                    "INSERT OR REPLACE INTO offences VALUES (?1, ?2, ?3)",
                    params![network, past.count, past.ended],
                )?,
                None => run("DELETE FROM offences WHERE network = ?1", params![network])?,
            };
        }
        Write::Allow(network, until) => {
            run(
                "INSERT OR REPLACE INTO allows VALUES (?1, ?2)",
                params![network.to_string(), until],
            )?;
        }
        Write::EndAllow(network) => {
            run(
                "DELETE FROM allows WHERE network = ?1",
                params![network.to_string()],
            )?;
        }
        Write::Sender(client, at) => {
            run(
                "INSERT OR REPLACE INTO senders VALUES (?1, ?2)",
                params![client.to_string(), at],
            )?;
        }
        Write::Forget(networks) => {
            forget::delete(transaction, networks)?;
        }
        Write::ForgetSenders(before) => {
            run("DELETE FROM senders WHERE at < ?1", params![before])?;
        }
        Write::ForgetOffences(until) => {
            run("DELETE FROM offences WHERE ended <= ?1", params![until])?;
            // Those that ended while nobody was there to write it.
            run("DELETE FROM bans WHERE until <= ?1", params![until])?;
            let offences = "SELECT count(*) FROM offences";
            let held: i64 = transaction.query_row(offences, [], |row| row.get(0))?;
            let most = i64::try_from(MOST_PAST).unwrap_or(i64::MAX);
            if held > most {
                run(
                    "DELETE FROM offences WHERE network IN (SELECT network FROM offences ORDER BY ended LIMIT ?1)",
                    params![held - most],
                )?;
            }
        }
    }
    Ok(())
}
