//! Reloads by themselves, where that is wished: when the configuration's file changes,
//! or the one that it includes.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::reloads::{Failure, Reloads};
use crate::config;
use crate::log::Event;
use crate::sys::watched;

/// How long the files must have been left alone before they are read.
const QUIET: Duration = Duration::from_millis(1500);

/// The first pause before a reload that failed without a fault of the file is tried
/// again, doubled each time, and the longest.
const AGAIN: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(3600);

/// The files of a configuration as they are at a moment: the one, and the one that it
/// includes where it names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    main: File,
    included: Option<(PathBuf, File)>,
}

/// A file at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    /// What stands in it; `None`: it cannot be read.
    text: Option<Vec<u8>>,
    /// Whose it is, and its mode: user, group, mode.
    of: Option<(u32, u32, u32)>,
}

impl File {
    fn at(path: &Path) -> Self {
        let of = |meta: fs::Metadata| (meta.uid(), meta.gid(), meta.mode());
        Self {
            text: fs::read(path).ok(),
            of: fs::metadata(path).ok().map(of),
        }
    }
}

impl Files {
    /// The configuration in `path`, and what it includes, as they are now.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let included = config::included(path);
        Self {
            main: File::at(path),
            included: included.map(|path| {
                let file = File::at(&path);
                (path, file)
            }),
        }
    }

    /// Whether these say something else than `before` did; and where that was refused,
    /// for whose a file was, perhaps, whether that is another's now. One that is gone, or
    /// cannot be read, is no configuration, and none that is on its way.
    fn are_news(&self, before: &Self, refused: bool) -> bool {
        let texts = |files: &Self| {
            let included = files.included.as_ref();
            let included = included.map(|(path, file)| (path.clone(), file.text.clone()));
            (files.main.text.clone(), included)
        };
        self.main.text.is_some() && (texts(self) != texts(before) || refused && self != before)
    }
}

impl Reloads {
    /// Reloads whenever the files say something else than `now`, until the future
    /// is dropped. What is wrong is told once; what could not be put into service is
    /// tried again.
    pub async fn on_change(self: Arc<Self>, mut now: Files) {
        let (mut pause, mut refused) = (AGAIN, false);
        let mut watch = None;
        loop {
            let watched = match Watch::of(self.file(), &now, watch.take()) {
                Ok(watched) => watched,
                Err(error) => {
                    let event = Event::new("noreload").text(format!(
                        "changes of {} are not seen: {error}",
                        self.file().display()
                    ));
                    log::error!("{event}");
                    return;
                }
            };
            // They may have changed before we watched.
            let file = self.file().to_owned();
            let files = tokio::task::spawn_blocking(move || Files::at(&file)).await;
            let Ok(files) = files else { return };
            let mut again = false;
            if files.are_news(&now, refused) {
                // It is told in the log.
                let result = self.ask_for_another("change").await;
                again = matches!(result, Err(Failure::Unlucky(_)));
                refused = matches!(result, Err(Failure::Refused(_)));
                if !again {
                    pause = AGAIN;
                }
            }
            if !again && files.main.text.is_some() && files != now {
                now = files;
                if watched.folders != folders(self.file(), &now) {
                    // What they include is elsewhere now.
                    continue;
                }
            }
            let changed = watched.changed();
            let changed = if again {
                let changed = timeout(pause, changed).await;
                pause = (pause * 2).min(LONGEST);
                changed.unwrap_or(Ok(()))
            } else {
                changed.await
            };
            if changed.is_err() {
                return;
            }
            watch = Some(watched);
        }
    }
}

/// Tells of changes in the folders of the files, as editors put a new one in the place
/// of the one before.
#[derive(Debug)]
struct Watch {
    folders: Vec<PathBuf>,
    inotify: AsyncFd<OwnedFd>,
}

impl Watch {
    /// A watch of `file` and of what `files` include: `before`, where that is one.
    fn of(file: &Path, files: &Files, before: Option<Self>) -> io::Result<Self> {
        let folders = folders(file, files);
        if let Some(before) = before.filter(|before| before.folders == folders) {
            return Ok(before);
        }
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CREATE;
        for (number, folder) in folders.iter().enumerate() {
            match inotify.add_watch(folder, changes) {
                // That there is none, or that it is closed, is told where it is read.
                Err(_) if number > 0 => {}
                watched => drop(watched?),
            }
        }
        Ok(Self {
            folders,
            inotify: watched(inotify.into(), Interest::READABLE)?,
        })
    }

    /// Returns once something has changed, and been left alone since.
    async fn changed(&self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        loop {
            self.drain();
            ready.clear_ready();
            // Editors write in more than one step.
            match timeout(QUIET, self.inotify.readable()).await {
                Ok(again) => ready = again?,
                Err(_) => return Ok(()),
            }
        }
    }

    fn drain(&self) {
        let mut bytes = [0; 4096];
        let fd = self.inotify.get_ref().as_fd();
        // What changed is looked at in the file itself.
        while nix::unistd::read(fd, &mut bytes).is_ok_and(|length| length > 0) {}
    }
}

/// The folders of `file`, and of what `files` include.
fn folders(file: &Path, files: &Files) -> Vec<PathBuf> {
    let included = files.included.iter().map(|(path, _)| path.as_path());
    let folder = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
    [file].into_iter().chain(included).map(folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> File {
        File {
            text: Some(text.into()),
            of: Some((0, 0, mode)),
        }
    }

    fn with(main: File, keys: Option<File>) -> Files {
        Files {
            main,
            included: keys.map(|keys| ("/keys".into(), keys)),
        }
    }

    #[test]
    fn what_either_file_says_is_news_and_whose_it_is_where_it_was_refused() {
        let gone = File {
            text: None,
            of: None,
        };
        let begun = with(file("a", 0o640), Some(file("k", 0o640)));
        for (files, news, after_a_refusal) in [
            (begun.clone(), false, false),
            (with(file("b", 0o640), Some(file("k", 0o640))), true, true),
            (with(file("a", 0o640), Some(file("l", 0o640))), true, true),
            (with(file("a", 0o640), Some(gone.clone())), true, true),
            (with(file("a", 0o640), None), true, true),
            (with(file("a", 0o644), Some(file("k", 0o640))), false, true),
            (with(file("a", 0o640), Some(file("k", 0o600))), false, true),
            // No configuration.
            (with(gone, Some(file("l", 0o640))), false, false),
        ] {
            assert_eq!(files.are_news(&begun, false), news, "{files:?}");
            assert_eq!(files.are_news(&begun, true), after_a_refusal, "{files:?}");
        }
    }
}
