//! A place in the file system that is ours for as long as what we put there is
//! there. It may be on a share that hangs: nothing here is for the event loop.

use std::ffi::{OsStr, OsString};
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

    /// The same once it has been renamed to `path`.
    #[must_use]
    pub fn renamed(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As arguments for another process.
    #[must_use]
    pub fn to_arguments(&self) -> [OsString; 2] {
        let (device, inode) = self.of;
        [self.path.clone().into(), format!("{device}:{inode}").into()]
    }

    /// As [`Place::to_arguments`] wrote it.
    #[must_use]
    pub fn from_arguments(path: &OsStr, of: &OsStr) -> Option<Self> {
        let (device, inode) = of.to_str()?.split_once(':')?;
        Some(Self {
            path: path.into(),
            of: (device.parse().ok()?, inode.parse().ok()?),
        })
    }

    /// Whether it is there still.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        which(&self.path).is_ok_and(|which| which == self.of)
    }

    /// Removes it; what another put in its place stays. (Unless it is put there in
    /// this very moment: no system call removes a file only where it is a certain one.)
    ///
    /// # Errors
    /// Where it is there, and cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The same in a thread of its own, which nobody waits for: one of the pool's
    /// would not begin any more at the stop.
    pub fn remove_soon(self) {
        let name = "remove".to_owned();
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
