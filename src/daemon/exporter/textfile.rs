//! A file for node_exporter's textfile collector, written anew every so often:
//! beside it first, and then put in its place, so that nobody reads half of it. It
//! is removed at the stop: an old one would go on to be told.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::Source;
use crate::degraded::{Degraded, Part};
use crate::place::Place;

/// How often it is written; Prometheus looks about as often.
const EVERY: Duration = Duration::from_secs(15);

/// The file as it was written last; removed when nobody writes it any longer.
#[derive(Debug, Default)]
struct Kept(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    place: Option<Place>,
    /// Nobody is to write any more; a thread may be about to.
    closed: bool,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut state = state(&self.0);
        state.closed = true;
        if let Some(place) = state.place.take() {
            place.remove_soon();
        }
    }
}

/// Never held while anything is done on the disk: the event loop takes it, too.
fn state(kept: &Mutex<State>) -> MutexGuard<'_, State> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes until the future is dropped.
pub async fn keep(source: &Arc<Source>, path: &Path, degraded: &Degraded) {
    let part = || Part::Metrics("textfile");
    let kept = Kept::default();
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let written = match source.texts().await {
            Ok(texts) => {
                let (path, kept) = (path.to_owned(), Arc::clone(&kept.0));
                // A disk that hangs must not hold up the mail.
                let writing = move || put(&kept, &path, texts.classic.as_bytes());
                let done = tokio::task::spawn_blocking(writing).await;
                done.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => degraded.leave(&part(), Instant::now()),
            Err(error) => {
                let text = format!("cannot write {}: {error}", path.display());
                degraded.enter(part(), text, Instant::now());
            }
        }
    }
}

/// Where it is written before it is put in its place; node_exporter reads
/// `*.prom` alone.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// Writes the file, and removes it where nobody was to write any more meanwhile.
fn put(kept: &Mutex<State>, path: &Path, text: &[u8]) -> io::Result<()> {
    let place = write(path, text)?;
    let mut state = state(kept);
    if state.closed {
        drop(state);
        return place.remove();
    }
    state.place = Some(place);
    Ok(())
}

fn write(path: &Path, text: &[u8]) -> io::Result<Place> {
    let new = beside(path);
    // What is left of one that was killed; a link would lead elsewhere.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
    let written = file
        .write_all(text)
        // Whatever the umask is.
        .and_then(|()| file.set_permissions(Permissions::from_mode(0o644)))
        .and_then(|()| Place::at(&new))
        .and_then(|place| {
            fs::rename(&new, path)?;
            Ok(place.renamed(path.to_owned()))
        });
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::stat::{Mode, umask};
    use std::os::unix::fs::symlink;

    #[test]
    fn the_file_is_whole_and_for_all_to_read_and_no_link_is_followed() {
        let folder = std::env::temp_dir().join(format!("rblfilter-text-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, other) = (folder.join("x.prom"), folder.join("other"));
        fs::write(&other, "somebody's").unwrap();
        symlink(&other, beside(&path)).unwrap();
        symlink(&other, &path).unwrap();
        // Whatever the umask; this thread's alone.
        let one = path.clone();
        let narrow = move || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            umask(Mode::from_bits_truncate(0o077));
            write(&one, b"one\n").unwrap();
            fs::metadata(&one).unwrap().permissions().mode()
        };
        let mode = std::thread::spawn(narrow).join().unwrap();
        assert_eq!(mode & 0o777, 0o644);
        write(&path, b"two\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two\n");
        assert_eq!(fs::read(&other).unwrap(), b"somebody's");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        assert!(write(&folder.join("no/x.prom"), b"").is_err());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_is_put_there_after_the_end_is_removed() {
        let folder = std::env::temp_dir().join(format!("rblfilter-late-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("x.prom");
        let kept = Kept::default();
        // The thread that writes has it for longer than the task that began it.
        let late = Arc::clone(&kept.0);
        put(&late, &path, b"one\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\n");
        drop(kept);
        let end = Instant::now() + Duration::from_secs(10);
        while path.exists() {
            assert!(Instant::now() < end, "it is there still");
            std::thread::yield_now();
        }
        put(&late, &path, b"two\n").unwrap();
        assert!(!path.exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
