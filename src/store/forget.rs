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
use crate::enforce::forget::is_of;

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
        let forgotten = networks
            .iter()
            .map(|network| delete(&transaction, *network))
            .collect::<Result<_, _>>()?;
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

/// Deletes the rows that are of `network`.
pub fn delete(transaction: &Transaction<'_>, network: IpNetwork) -> Result<Forgotten, Error> {
    let mut forgotten = Forgotten::default();
    let tables: [(&str, &str, &mut usize); 4] = [
        ("bans", "network, user IS NOT NULL", &mut forgotten.bans),
        ("offences", "network, 0", &mut forgotten.offences),
        ("allows", "network, 1", &mut forgotten.allows),
        ("senders", "client, 0", &mut forgotten.senders),
    ];
    for (table, columns, count) in tables {
        let column = columns.split(',').next().unwrap_or_default();
        let found: Vec<String> = {
            let mut statement = transaction.prepare(&format!("SELECT {columns} FROM {table}"))?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                // A value of another type than ours is nobody's.
                if let (Ok(text), Ok(by_hand)) = (row.get::<_, String>(0), row.get(1))
                    && let Some(kept) = parsed(&text)
                    && is_of(kept, network, by_hand)
                {
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
        *count = found.len();
    }
    Ok(forgotten)
}

fn parsed(text: &str) -> Option<IpNetwork> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNetwork::from))
}
