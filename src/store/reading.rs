//! The file of bans, as a command of root's opens it beside the filter, or without
//! it. The file and its folder are Courier's user's, who may have been taken over:
//! nothing in the folder is made, changed or followed, nothing that the file says
//! is run, and nothing lasts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::database::Error;

/// How long all that is asked of the file may take.
const TIME: Duration = Duration::from_secs(5);
/// Steps of SQLite's between two looks at the clock.
const STEPS: i32 = 10_000;

/// Whether what is in the journal beside the file counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// Not: no lock is taken then, whoever else has the file open.
    Ignored,
    /// It does, as it may hold all that was written since a while before a crash.
    Read,
}

/// Opens the file at `path`, which no link may lead to; `None` where there is none.
///
/// # Errors
/// Where it is none, cannot be read, or holds something else than tables.
pub fn open(path: &Path, journal: Journal) -> Result<Option<Connection>, Error> {
    if !is_there(path)? {
        return Ok(None);
    }
    let wal = beside(path, "-wal");
    let has_journal = journal == Journal::Read
        && is_there(&wal)?
        && fs::symlink_metadata(&wal).is_ok_and(|meta| meta.len() > 0)
        && is_there(&beside(path, "-shm"))?;
    let way = if has_journal {
        // Without it, SQLite would make or change what is shared, as root.
        "readonly_shm"
    } else {
        "immutable"
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let uri = format!("file:{}?{way}=1", path.display());
    let mut connection = Connection::open_with_flags(uri, flags)?;
    let end = Instant::now() + TIME;
    connection.progress_handler(STEPS, Some(move || Instant::now() > end))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // Those that `sqlite_schema` tells may be others than it says.
    let others = "SELECT count(*) FROM pragma_table_list WHERE type <> 'table'";
    let others: u32 = connection.query_row(others, [], |row| row.get(0))?;
    if others > 0 {
        return Err(Error::Foreign);
    }
    Ok(Some(connection))
}

/// Whether there is a file. Something else than one, as a FIFO on which SQLite
/// would wait for ever, is an error.
fn is_there(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => Ok(true),
        Ok(_) => Err(Error::NoFile),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::LookAt(error)),
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("rblfilter-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::canonicalize(folder).unwrap()
    }

    fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(&path).unwrap()))
            .collect()
    }

    fn number(path: &Path, journal: Journal) -> u32 {
        let connection = open(path, journal).unwrap().unwrap();
        connection
            .query_row("SELECT count(*) FROM bans", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn a_crashs_journal_is_read_and_nothing_beside_it_made_or_changed() {
        let (live, dead) = (folder("live"), folder("dead"));
        let path = live.join("state.db");
        let filter = Connection::open(&path).unwrap();
        filter.pragma_update(None, "journal_mode", "WAL").unwrap();
        let make = "CREATE TABLE bans (network TEXT); PRAGMA wal_checkpoint(TRUNCATE);";
        filter.execute_batch(make).unwrap();
        filter.execute("INSERT INTO bans VALUES ('x')", []).unwrap();
        for (path, _) in files(&live) {
            fs::copy(&path, dead.join(path.file_name().unwrap())).unwrap();
        }
        for (folder, what) in [(&live, "running"), (&dead, "crashed")] {
            let path = folder.join("state.db");
            let before = files(folder);
            assert_eq!(before.len(), 3, "{what}: {:?}", before.keys());
            assert_eq!(number(&path, Journal::Ignored), 0, "{what}");
            assert!(files(folder) == before, "{what}");
            assert_eq!(number(&path, Journal::Read), 1, "{what}");
            let after = files(folder);
            assert_eq!(after.len(), 3, "{what}: {:?}", after.keys());
            for end in ["", "-wal"] {
                let path = beside(&path, end);
                assert!(after[&path] == before[&path], "{what}: {end}");
            }
        }
        drop(filter);
        // As the stop leaves it: one file, and it stays one.
        assert_eq!(number(&path, Journal::Read), 1);
        assert_eq!(files(&live).len(), 1);
        fs::remove_dir_all(&live).unwrap();
        fs::remove_dir_all(&dead).unwrap();
    }

    #[test]
    fn what_whoever_has_couriers_user_put_there_is_neither_waited_for_nor_run() {
        let folder = folder("hostile");
        let path = folder.join("state.db");
        assert!(open(&path, Journal::Read).unwrap().is_none());
        let error = |path: &Path| open(path, Journal::Read).unwrap_err().to_string();
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert_eq!(error(&path), "it is no file");
        fs::remove_file(&path).unwrap();

        let endless = "CREATE VIEW bans AS WITH RECURSIVE r(network) AS
            (SELECT 1 UNION ALL SELECT network + 1 FROM r) SELECT * FROM r";
        Connection::open(&path)
            .unwrap()
            .execute_batch(endless)
            .unwrap();
        assert!(
            error(&path).contains("other than tables"),
            "{}",
            error(&path)
        );
        let link = folder.join("link.db");
        symlink(&path, &link).unwrap();
        assert_eq!(error(&link), "it is no file");
        // A folder that is a link: the last part alone is looked at first.
        symlink(&folder, folder.join("other")).unwrap();
        assert!(open(&folder.join("other/state.db"), Journal::Read).is_err());
        fs::remove_file(&path).unwrap();

        // The journal's companions, too.
        let filter = Connection::open(&path).unwrap();
        filter.execute_batch("CREATE TABLE bans (x)").unwrap();
        drop(filter);
        fs::write(beside(&path, "-wal"), "x").unwrap();
        mkfifo(&beside(&path, "-shm"), Mode::S_IRWXU).unwrap();
        assert_eq!(error(&path), "it is no file");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn no_question_lasts() {
        let folder = folder("endless");
        let path = folder.join("state.db");
        let filter = Connection::open(&path).unwrap();
        filter.execute_batch("CREATE TABLE bans (x)").unwrap();
        drop(filter);
        let connection = open(&path, Journal::Read).unwrap().unwrap();
        let endless = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r";
        let counted = connection.query_row(endless, [], |row| row.get::<_, u32>(0));
        let error = counted.unwrap_err();
        let code = error.sqlite_error_code();
        assert_eq!(
            code,
            Some(rusqlite::ErrorCode::OperationInterrupted),
            "{error}"
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
