//! What the file holds of an address, deleted for good.
//!
//! A row that is deleted is overwritten (`PRAGMA secure_delete`), but copies of it
//! may stand in what SQLite rearranged, and in its log. So the file is written anew
//! as a whole (`VACUUM`), and the log emptied into it and cut off.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rusqlite::{Transaction, params};

use super::database::{Database, Error, put_stamp};
use super::times::Stamp;
use crate::enforce::forget::Whom;

/// What was kept, and is no longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Bans.
    pub bans: usize,
    /// Networks with a count of the bans that they had.
    pub offences: usize,
    /// Networks that were let in by hand.
    pub allows: usize,
    /// Clients that delivered mail.
    pub senders: usize,
    /// Files that were set aside.
    pub files: usize,
}

impl Database {
    /// Deletes all that is of `networks`, so that no byte of it is left in the file,
    /// and tells of each what that was.
    pub fn forget(&mut self, networks: &[IpNetwork], now: u32) -> Result<Vec<Forgotten>, Error> {
        let transaction = self.connection.transaction()?;
        let forgotten = delete(&transaction, networks)?;
        put_stamp(&transaction, &Stamp::now(now))?;
        transaction.commit()?;
        // A statement that is still open would be in the way.
        self.connection.flush_prepared_statement_cache();
        self.connection.execute_batch("VACUUM")?;
        self.cut_off_log()?;
        Ok(forgotten)
    }

    /// Empties SQLite's log into the file, and cuts it off: it holds what stood in
    /// the file before.
    pub fn cut_off_log(&self) -> Result<(), Error> {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy: bool = self
            .connection
            .query_row(checkpoint, [], |row| row.get(0))?;
        if busy { Err(Error::Busy) } else { Ok(()) }
    }
}

/// A table, its columns that tell whose a row is and whether it is somebody's work by
/// hand, and where its rows are counted.
type Table = (&'static str, &'static str, fn(&mut Forgotten) -> &mut usize);

const TABLES: [Table; 4] = [
    ("bans", "network, user IS NOT NULL", |of| &mut of.bans),
    ("offences", "network, 0", |of| &mut of.offences),
    ("allows", "network, 1", |of| &mut of.allows),
    ("senders", "client, 0", |of| &mut of.senders),
];

/// Deletes the rows that are of `networks`, in one pass over each table.
pub fn delete(
    transaction: &Transaction<'_>,
    networks: &[IpNetwork],
) -> Result<Vec<Forgotten>, Error> {
    let whom = Whom::new(networks);
    let mut forgotten = vec![Forgotten::default(); networks.len()];
    for (table, columns, count) in TABLES {
        let column = columns.split(',').next().unwrap_or_default();
        let found: Vec<String> = {
            let mut statement = transaction.prepare(&format!("SELECT {columns} FROM {table}"))?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                // A value of another type than ours is nobody's.
                if let (Ok(text), Ok(by_hand)) = (row.get::<_, String>(0), row.get(1))
                    && let Some(kept) = parsed(&text)
                    && let Some(place) = whom.of(kept, by_hand)
                {
                    *count(&mut forgotten[place]) += 1;
                    found.push(text);
                }
            }
            found
        };
        let delete = format!("DELETE FROM {table} WHERE {column} = ?1");
        let mut statement = transaction.prepare(&delete)?;
        for text in &found {
            statement.execute(params![text])?;
        }
    }
    Ok(forgotten)
}

fn parsed(text: &str) -> Option<IpNetwork> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNetwork::from))
}
