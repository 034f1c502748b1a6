//! A place in the file system that is ours for as long as what we put there is
//! there. It may be on a share that hangs: nothing here is for the event loop.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

/// What was put at a path.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    of: (u64, u64),
}

impl Place {
    /// What is at `path` now.
    ///
    /// # Errors
    /// As lstat(2).
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            of: which(path)?,
        })
    }

    /// Whether it is there still.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        which(&self.path).is_ok_and(|which| which == self.of)
    }

    /// Removes it; what another put in its place stays.
    pub fn remove(&self) {
        if self.is_ours() {
            // What is left of us only misleads.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// The same in a thread of its own, which nobody waits for: one of the pool's
    /// would not begin any more at the stop.
    pub fn remove_soon(self) {
        let name = "metrics".to_owned();
        // Without a thread it stays, as after a SIGKILL.
        let _ = thread::Builder::new()
            .name(name)
            .spawn(move || self.remove());
    }
}

fn which(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}
