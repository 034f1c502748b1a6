//! The filter's socket, where `submit` looks for it (courierfilter(8)).
//!
//! `submit` asks every socket in `allfilters`, and those in `filters` unless a
//! recipient's whitelist says otherwise. A socket without a listener is a
//! tempfail for every message, so it is renamed into place when it listens,
//! and removed before it stops.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{error, fmt};

use super::paths::Paths;
use crate::place::Place;

/// Both folders that a socket can be in.
const FOLDERS: [&str; 2] = ["allfilters", "filters"];

/// A listening socket in its place.
#[derive(Debug)]
pub struct FilterSocket {
    /// The socket itself.
    pub listener: UnixListener,
    place: Place,
}

/// What could not be done to which socket.
#[derive(Debug)]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot {} {}: {}",
            self.what,
            self.path.display(),
            self.source
        )
    }
}

// The operating system's word is part of the text, so there is no source.
impl error::Error for Error {}

/// Whether filter `name` has a socket, so that submit asks it.
#[must_use]
pub fn exists(paths: &Paths, name: &str) -> bool {
    FOLDERS
        .iter()
        .any(|folder| paths.localstatedir.join(folder).join(name).exists())
}

/// The folder for filter `name`: `allfilters` where its mode file says `all`,
/// is not there, or cannot be read; else `filters`.
fn folder(paths: &Paths, name: &str) -> (usize, Option<Error>) {
    let path = paths.mode_file(name);
    match fs::read_to_string(&path) {
        Ok(mode) => (usize::from(mode.trim() != "all"), None),
        Err(error) if error.kind() == ErrorKind::NotFound => (0, None),
        Err(source) => (
            0,
            Some(Error {
                what: "read",
                path,
                source,
            }),
        ),
    }
}

impl FilterSocket {
    /// Listens as filter `name`, in place of any socket of that name that an
    /// earlier run left behind, in whichever folder. What could not be done,
    /// but does not keep it from listening, is returned beside it.
    ///
    /// # Errors
    /// What could not be done to which socket; none is left then, as one
    /// without a listener stops all mail.
    pub fn bind(paths: &Paths, name: &str) -> Result<(Self, Vec<Error>), Error> {
        let (chosen, unread) = folder(paths, name);
        let places = FOLDERS.map(|folder| paths.localstatedir.join(folder).join(name));
        let mut problems: Vec<Error> = unread.into_iter().collect();
        problems.extend(places.iter().filter_map(|place| remove(place).err()));
        let path = places[chosen].clone();
        let hidden = path.with_file_name(format!(".{name}"));
        remove(&hidden)?;
        let listened =
            UnixListener::bind(&hidden).and_then(|listener| Ok((listener, Place::at(&hidden)?)));
        let (listener, place) = listened.map_err(|source| Error {
            what: "listen on",
            path: hidden.clone(),
            source,
        })?;
        // From here on it is removed where a step fails.
        let mut socket = Self { listener, place };
        fs::set_permissions(&hidden, Permissions::from_mode(0o660)).map_err(|source| Error {
            what: "set the mode of",
            path: hidden.clone(),
            source,
        })?;
        fs::rename(&hidden, &path).map_err(|source| Error {
            what: "make",
            path: path.clone(),
            source,
        })?;
        socket.place = socket.place.clone().renamed(path);
        Ok((socket, problems))
    }

    /// The socket at `place`, which another process made and handed on.
    #[must_use]
    pub fn handed(listener: UnixListener, place: Place) -> Self {
        Self { listener, place }
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Takes the socket out of `submit`'s sight; those who have it open are
    /// still answered. Another that has taken its place (a filter that was started
    /// again) is left there.
    ///
    /// # Errors
    /// Where it could not be removed.
    pub fn unlink(&self) -> Result<(), Error> {
        unlink(&self.place)
    }
}

impl Drop for FilterSocket {
    /// A socket without a listener stops all mail.
    fn drop(&mut self) {
        // Whoever wants to know why it cannot be removed has called unlink.
        let _ = self.unlink();
    }
}

/// Takes the socket at `place` out of `submit`'s sight, as [`FilterSocket::unlink`],
/// for a process that did not make it.
///
/// # Errors
/// Where it could not be removed.
pub fn unlink(place: &Place) -> Result<(), Error> {
    place.remove().map_err(|source| Error {
        what: "remove",
        path: place.path().into(),
        source,
    })
}

/// Removes the socket at `path`, if there is one.
///
/// # Errors
/// Where it could not be removed.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error {
            what: "remove",
            path: path.into(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(test: &str) -> Paths {
        let root = std::env::temp_dir().join(format!("rblfilter-{test}-{}", std::process::id()));
        for folder in ["filters", "allfilters", "etc/filters"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        Paths {
            sysconfdir: root.join("etc"),
            localstatedir: root.clone(),
            libexecdir: root.clone(),
            sbindir: root.clone(),
            piddir: root,
        }
    }

    fn sockets(paths: &Paths) -> Vec<String> {
        let mut found = Vec::new();
        for folder in FOLDERS {
            for entry in fs::read_dir(paths.localstatedir.join(folder)).unwrap() {
                let name = entry.unwrap().file_name();
                if name != "etc" {
                    found.push(format!("{folder}/{}", name.to_string_lossy()));
                }
            }
        }
        found
    }

    #[test]
    fn the_mode_file_chooses_the_folder_and_the_other_socket_goes() {
        let paths = paths("mode");
        for (mode, expected) in [
            (None, "allfilters/rblfilter"),
            (Some("filters\n"), "filters/rblfilter"),
            (Some("all\n"), "allfilters/rblfilter"),
        ] {
            if let Some(mode) = mode {
                fs::write(paths.mode_file("rblfilter"), mode).unwrap();
            }
            let (socket, problems) = FilterSocket::bind(&paths, "rblfilter").unwrap();
            assert!(problems.is_empty());
            assert_eq!(
                sockets(&paths),
                [expected],
                "and the stale one of the last round is gone"
            );
            let path = paths.localstatedir.join(expected);
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o660
            );
            std::os::unix::net::UnixStream::connect(path).unwrap();
            // As if it had been killed.
            std::mem::forget(socket);
        }
        fs::remove_dir_all(&paths.localstatedir).unwrap();
    }

    #[test]
    fn an_unlinked_socket_still_serves_those_who_have_it() {
        let paths = paths("unlink");
        let (socket, _) = FilterSocket::bind(&paths, "rblfilter").unwrap();
        let client = std::os::unix::net::UnixStream::connect(socket.place().path()).unwrap();
        socket.unlink().unwrap();
        assert!(sockets(&paths).is_empty());
        socket.listener.accept().unwrap();
        drop(client);
        fs::remove_dir_all(&paths.localstatedir).unwrap();
    }

    #[test]
    fn no_socket_is_removed_that_another_filter_made_since() {
        let paths = paths("place");
        let (first, _) = FilterSocket::bind(&paths, "rblfilter").unwrap();
        let (second, _) = FilterSocket::bind(&paths, "rblfilter").unwrap();
        let [path, of] = first.place().to_arguments();
        let told = Place::from_arguments(&path, &of).unwrap();
        unlink(&told).unwrap();
        drop(first);
        assert_eq!(sockets(&paths), ["allfilters/rblfilter"]);
        unlink(second.place()).unwrap();
        assert!(sockets(&paths).is_empty());
        fs::remove_dir_all(&paths.localstatedir).unwrap();
    }

    #[test]
    fn no_failure_leaves_a_socket_without_a_listener() {
        let paths = paths("failure");
        // A stale socket, whose place cannot be told for certain.
        let (stale, _) = FilterSocket::bind(&paths, "rblfilter").unwrap();
        std::mem::forget(stale);
        fs::create_dir(paths.mode_file("rblfilter")).unwrap();
        let (socket, problems) = FilterSocket::bind(&paths, "rblfilter").unwrap();
        assert_eq!(problems.len(), 1, "the mode file is a folder: {problems:?}");
        drop(socket);
        assert!(sockets(&paths).is_empty());
        // The other place is taken by a folder: said, and no obstacle.
        fs::create_dir(paths.localstatedir.join("filters/rblfilter")).unwrap();
        let (_socket, problems) = FilterSocket::bind(&paths, "rblfilter").unwrap();
        assert_eq!(problems.len(), 2, "{problems:?}");
        // Its own place is: then there is none.
        fs::write(
            paths.mode_file("other-mode").with_file_name("other-mode"),
            "",
        )
        .unwrap();
        fs::create_dir(paths.localstatedir.join("allfilters/other")).unwrap();
        fs::create_dir(paths.localstatedir.join("filters/other")).unwrap();
        assert!(FilterSocket::bind(&paths, "other").is_err());
        assert!(!paths.localstatedir.join("filters/.other").exists());
        fs::remove_dir_all(&paths.localstatedir).unwrap();
    }
}
