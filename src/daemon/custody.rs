//! Which of two workers the files in the state folder are in the hands of: the file
//! of bans, and what the lists said. One that was stopped may be about to write
//! them when the next one starts; a lock on the folder (flock(2)) says so, and ends
//! with the process that has it.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::log::Event;

/// How long the worker before is waited for. It gives its files up some
/// milliseconds after the stop; two and a half seconds where its lists are dead, and
/// later where a command is under way, or the disk is slow.
const LIMIT: Duration = Duration::from_secs(3);
/// How often it is looked whether it has.
const EVERY: Duration = Duration::from_millis(10);
/// How long the folder may take to be opened.
const HANGS: Duration = Duration::from_millis(500);

/// The files are in our hands until this is dropped.
#[derive(Debug)]
pub struct Custody {
    _lock: Flock<File>,
}

impl Custody {
    /// Waits until no other worker has them. `None` where one does not give them up in
    /// time, which is logged, or where the folder knows no locks: they are used all the
    /// same.
    pub async fn take(folder: &Path) -> Option<Self> {
        Self::take_within(folder, LIMIT).await
    }

    /// The same from a worker that has said that it gives them up: where it cannot, it
    /// is not waited for again.
    pub async fn take_over(folder: &Path) -> Option<Self> {
        Self::take_within(folder, Duration::ZERO).await
    }

    async fn take_within(folder: &Path, limit: Duration) -> Option<Self> {
        let path = folder.to_owned();
        let end = Instant::now() + limit;
        let taken = spawn_blocking(move || lock(File::open(path).ok()?, end));
        // The folder may be one that hangs.
        match timeout(limit + HANGS, taken).await.ok()?.ok()?? {
            Ok(lock) => Some(Self { _lock: lock }),
            Err(Held) => {
                let text = format!(
                    "the worker before has not given up its files in {} yet: they are used as they are",
                    folder.display()
                );
                log::warn!("{}", Event::new("handover").text(text));
                None
            }
        }
    }
}

/// Another has it.
struct Held;

/// The lock, tried for until `end`; `None` where there is none to be had.
fn lock(mut folder: File, end: Instant) -> Option<Result<Flock<File>, Held>> {
    loop {
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(Ok(lock)),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < end => folder = back,
            Err((_, Errno::EWOULDBLOCK)) => return Some(Err(Held)),
            Err(_) => return None,
        }
        thread::sleep(EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn the_next_one_waits_for_the_one_before_and_not_for_ever() {
        let folder = std::env::temp_dir().join(format!("rblfilter-custody-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let soon = Duration::from_millis(100);
        let first = Custody::take(&folder).await;
        assert!(first.is_some());
        let begun = Instant::now();
        assert!(Custody::take_within(&folder, soon).await.is_none());
        assert!(begun.elapsed() >= soon);
        let waiting = tokio::spawn({
            let folder = folder.clone();
            async move { Custody::take(&folder).await }
        });
        tokio::time::sleep(soon).await;
        assert!(!waiting.is_finished());
        drop(first);
        assert!(waiting.await.unwrap().is_some());
        // It is made later: there is nothing to wait for.
        fs::remove_dir_all(&folder).unwrap();
        assert!(Custody::take(&folder).await.is_none());
    }
}
