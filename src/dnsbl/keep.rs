//! The cache in a file, from one start to the next: a restart in the middle of
//! a wave begins with what was known.
//!
//! `rblfilter cache 1`, the number of lists, each one's number and budget, the
//! entries, and a checksum. A file that is not of this form is passed over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Instant;

use super::answer::Answer;
use super::budget::Budget;
use super::cache::{self, Entry, Key, RECORD};
use super::lookup::Lists;
use super::selftest::Family;

const MAGIC: &[u8; 18] = b"rblfilter cache 1\n";
/// The most lists that a file can tell of.
const MOST_LISTS: u32 = 1000;
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: against a disk that lost its end, not against an enemy.
fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Lists {
    /// Writes what is known to `path`, by way of a file beside it: what lists
    /// say that are believed, and of their listings those that are older than
    /// their last passed test.
    ///
    /// # Errors
    /// What the operating system says; the file before it is whole.
    pub fn write(&self, path: &Path) -> io::Result<usize> {
        let beside = path.with_extension("new");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        let mut out = BufWriter::new(file);
        let mut sum = FNV_START;
        let mut put = |bytes: &[u8]| {
            sum = checksum(sum, bytes);
            out.write_all(bytes)
        };
        put(MAGIC)?;
        put(&u32::try_from(self.lists.len()).unwrap_or(0).to_le_bytes())?;
        for list in &self.lists {
            let budget = *list.budget.lock().unwrap_or_else(PoisonError::into_inner);
            put(&list.number.to_le_bytes())?;
            put(&budget.day.to_le_bytes())?;
            put(&budget.used.to_le_bytes())?;
        }
        let now = self.clock.seconds(Instant::now());
        let mut written = 0;
        for (key, entry) in self.cache.iter() {
            if entry.is_usable(now, &self.cache.bounds) && self.outlives(&key, &entry) {
                put(&cache::encode(&key, &entry))?;
                written += 1;
            }
        }
        out.write_all(&sum.to_le_bytes())?;
        out.into_inner()?.sync_all()?;
        fs::rename(&beside, path)?;
        Ok(written)
    }

    /// Whether the next process may believe it. What a list that lies said would
    /// be taken there for what it said before a test that it passed.
    fn outlives(&self, key: &Key, entry: &Entry) -> bool {
        let family = Family::of(key.client());
        let listed = entry.answer() != Answer::NotListed;
        let list = self.lists.iter().find(|list| list.number == key.list());
        list.is_some_and(|list| list.health(family).outlives(self.got(entry), listed))
    }

    /// Reads what is of use in the file at `path`, and tells how many entries
    /// that were; none where there is no file.
    ///
    /// # Errors
    /// What the operating system says, or that it is no such file.
    pub fn read(&self, path: &Path) -> io::Result<usize> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            file => file?,
        };
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let mut bytes = BufReader::new(file);
        let mut sum = FNV_START;
        let wrong = || io::Error::other("it is damaged, or another version's");
        let mut take = |into: &mut [u8]| -> io::Result<()> {
            bytes.read_exact(into)?;
            sum = checksum(sum, into);
            Ok(())
        };
        let mut magic = [0; MAGIC.len()];
        take(&mut magic)?;
        let mut word = [0; 4];
        take(&mut word)?;
        let lists = u32::from_le_bytes(word);
        if magic != *MAGIC || lists > MOST_LISTS {
            return Err(wrong());
        }
        let mut budgets = Vec::new();
        for _ in 0..lists {
            let (mut number, mut day, mut used) = ([0; 4], [0; 4], [0; 8]);
            take(&mut number)?;
            take(&mut day)?;
            take(&mut used)?;
            let (day, used) = (u32::from_le_bytes(day), u64::from_le_bytes(used));
            let told = false;
            budgets.push((u32::from_le_bytes(number), Budget { day, used, told }));
        }
        let head = MAGIC.len() + 4 + budgets.len() * 16;
        let entries = length.saturating_sub(head + 8);
        if entries % RECORD != 0 {
            return Err(wrong());
        }
        let now = self.clock.seconds(Instant::now());
        let mut kept = Vec::new();
        for _ in 0..entries / RECORD {
            let mut record = [0; RECORD];
            take(&mut record)?;
            if kept.len() < self.cache.bounds.entries {
                kept.extend(cache::decode(&record, now, &self.cache.bounds));
            }
        }
        let mut end = [0; 8];
        bytes.read_exact(&mut end)?;
        if u64::from_le_bytes(end) != sum {
            return Err(wrong());
        }
        for (number, budget) in budgets {
            for list in self.lists.iter().filter(|list| list.number == number) {
                *list.budget.lock().unwrap_or_else(PoisonError::into_inner) = budget;
            }
        }
        let read = kept.len();
        for (key, entry) in kept {
            self.cache.insert(key, entry);
        }
        Ok(read)
    }
}
