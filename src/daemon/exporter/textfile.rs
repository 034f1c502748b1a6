//! A file for node_exporter's textfile collector, written anew every so often:
//! beside it first, and then put in its place, so that nobody reads half of it. It
//! is removed at the stop: an old one would go on to be told.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::Source;
use crate::degraded::{Degraded, Part};

/// How often it is written; Prometheus looks about as often.
const EVERY: Duration = Duration::from_secs(15);

/// Removes the file when nobody writes it any longer.
struct Kept<'a>(&'a Path);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

/// Writes until the future is dropped.
pub async fn keep(source: &Arc<Source>, path: &Path, degraded: &Degraded) {
    let part = || Part::Metrics("textfile");
    let _kept = Kept(path);
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let written = match source.texts().await {
            Ok(texts) => {
                let path = path.to_owned();
                // A disk that hangs must not hold up the mail.
                let writing = move || write(&path, texts.classic.as_bytes());
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

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = beside(path);
    // What is left of one that was killed; a link would lead elsewhere.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&new)?;
    let written = file.write_all(text).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_file_is_whole_and_for_all_to_read_and_no_link_is_followed() {
        let folder = std::env::temp_dir().join(format!("rblfilter-text-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, other) = (folder.join("x.prom"), folder.join("other"));
        fs::write(&other, "somebody's").unwrap();
        symlink(&other, beside(&path)).unwrap();
        symlink(&other, &path).unwrap();
        write(&path, b"one\n").unwrap();
        write(&path, b"two\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two\n");
        assert_eq!(fs::read(&other).unwrap(), b"somebody's");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        assert!(write(&folder.join("no/x.prom"), b"").is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
