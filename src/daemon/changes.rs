//! Reloads by themselves, where that is wished: when the configuration's file changes,
//! or the one that it includes.

use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout, timeout_at};

use super::reloads::{Failure, Reloads};
use crate::config;
use crate::log::Event;
use crate::sys::watched;

/// How long the files must have been left alone before they are read.
const QUIET: Duration = Duration::from_millis(1500);
/// How long after the first change they are read at the latest.
const LATEST: Duration = Duration::from_secs(10);
/// How often a folder that is not watched is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The most changes that are taken at once.
const MOST_EVENTS: usize = 16_384;

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
            let mut watched = match Watch::of(self.file(), &now, watch.take()) {
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
                if watched.paths != paths(self.file(), &now) {
                    // What they include is elsewhere now.
                    continue;
                }
            }
            let limit = match (again, watched.is_partial) {
                (true, _) => Some(pause),
                (false, true) => Some(LOOK_AGAIN),
                (false, false) => None,
            };
            if again {
                pause = (pause * 2).min(LONGEST);
            }
            let changed = watched.changed();
            let changed = match limit {
                Some(limit) => timeout(limit, changed).await.unwrap_or(Ok(())),
                None => changed.await,
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
    paths: Vec<PathBuf>,
    /// What is looked at in the folders; `None`: all, as a link may lead through it.
    names: Option<Vec<OsString>>,
    /// A folder is not watched, as there is none (any more).
    is_partial: bool,
    inotify: AsyncFd<OwnedFd>,
}

/// What has been seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Something that may be a change of the files.
    ours: bool,
    /// The end of a folder.
    end: bool,
}

impl Watch {
    /// A watch of `file` and of what `files` include: `before`, where that is one.
    fn of(file: &Path, files: &Files, before: Option<Self>) -> io::Result<Self> {
        let paths = paths(file, files);
        let is_link = |path: &PathBuf| path.is_symlink();
        let own = |path: &PathBuf| path.file_name().map(OsStr::to_owned);
        let names = (!paths.iter().any(is_link)).then(|| paths.iter().filter_map(own).collect());
        if let Some(before) = before.filter(|before| before.paths == paths && !before.is_partial) {
            return Ok(Self { names, ..before });
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE;
        let mut is_partial = false;
        for (number, path) in paths.iter().enumerate() {
            let folder = path.parent().unwrap_or(Path::new("/"));
            match inotify::add_watch(&inotify, folder, changes) {
                // That there is none, or that it is closed, is told where it is read.
                Err(_) if number > 0 => is_partial = true,
                watched => drop(watched?),
            }
        }
        Ok(Self {
            paths,
            names,
            is_partial,
            inotify: watched(inotify, Interest::READABLE)?,
        })
    }

    /// Returns once something has changed, and been left alone since; or for long not.
    async fn changed(&mut self) -> io::Result<()> {
        let (mut quiet, mut latest) = (None, None);
        loop {
            let readable = self.inotify.readable();
            let mut ready = match quiet {
                None => readable.await?,
                Some(quiet) => match timeout_at(quiet, readable).await {
                    Ok(ready) => ready?,
                    Err(_) => return Ok(()),
                },
            };
            ready.clear_ready();
            drop(ready);
            let seen = self.drain();
            self.is_partial |= seen.end;
            let now = Instant::now();
            if seen.ours {
                // Editors write in more than one step.
                let latest = *latest.get_or_insert(now + LATEST);
                quiet = Some(latest.min(now + QUIET));
            }
            // Others may never be quiet.
            if quiet.is_some_and(|quiet| now >= quiet) {
                return Ok(());
            }
        }
    }

    /// Takes what was seen; what changed is looked at in the file itself.
    fn drain(&self) -> Seen {
        let mut bytes = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.inotify, &mut bytes);
        let mut seen = Seen::default();
        for _ in 0..MOST_EVENTS {
            let Ok(event) = events.next() else {
                return seen;
            };
            let name = event.file_name().map(CStr::to_bytes).map(OsStr::from_bytes);
            // Without a name it is the folder's, or that events were lost.
            seen.ours |= match (name, &self.names) {
                (Some(name), Some(names)) => names.iter().any(|own| own == name),
                _ => true,
            };
            seen.end |= event.events().contains(ReadFlags::IGNORED);
        }
        // There is more.
        seen.ours = true;
        seen
    }
}

/// `file`, and what `files` include.
fn paths(file: &Path, files: &Files) -> Vec<PathBuf> {
    let included = files.included.iter().map(|(path, _)| path.as_path());
    [file]
        .into_iter()
        .chain(included)
        .map(Path::to_owned)
        .collect()
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
    /// A folder with a file and what it includes, in the folder of that.
    fn folder(name: &str) -> (PathBuf, PathBuf, Files) {
        let folder = std::env::temp_dir().join(format!("rblfilter-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (main, keys) = (folder.join("main"), folder.join("keys/keys"));
        fs::write(&main, format!("include = {keys:?}\n")).unwrap();
        let files = Files::at(&main);
        assert!(files.included.is_some());
        (folder, main, files)
    }

    #[tokio::test]
    async fn what_others_write_is_no_change_and_a_folder_may_come_and_go() {
        let (folder, main, files) = folder("changes-names");
        let watch = Watch::of(&main, &files, None).unwrap();
        assert!(watch.is_partial);
        fs::write(folder.join("other"), "").unwrap();
        assert_eq!(watch.drain(), Seen::default());
        fs::write(&main, "").unwrap();
        assert!(watch.drain().ours);
        // It is there now.
        let keys = folder.join("keys");
        fs::create_dir(&keys).unwrap();
        let watch = Watch::of(&main, &files, Some(watch)).unwrap();
        assert!(!watch.is_partial);
        fs::write(keys.join("keys"), "").unwrap();
        assert_eq!(
            watch.drain(),
            Seen {
                ours: true,
                end: false
            }
        );
        fs::remove_dir_all(&keys).unwrap();
        assert!(watch.drain().end);
        // Through a link anything may be what changes the file.
        fs::rename(&main, folder.join("there")).unwrap();
        std::os::unix::fs::symlink("there", &main).unwrap();
        let watch = Watch::of(&main, &files, None).unwrap();
        fs::write(folder.join("there"), "").unwrap();
        assert!(watch.drain().ours);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn what_never_rests_is_read_all_the_same() {
        let (folder, main, files) = folder("changes-noise");
        let mut watch = Watch::of(&main, &files, None).unwrap();
        let noise = async {
            loop {
                fs::write(&main, "").unwrap();
                tokio::time::sleep(QUIET / 10).await;
            }
        };
        let changed = timeout(LATEST * 6, watch.changed());
        let result = tokio::select! {
            result = changed => result,
            () = noise => unreachable!(),
        };
        result.expect("it is read").unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
}
