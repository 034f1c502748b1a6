//! Programs, links and folders.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, getxattr, statvfs};

use super::super::facts::{File, Install, Seen};
use super::super::texts;
use crate::courier::paths::Paths;
use crate::sys;

/// The units that make sets and rules at boot.
const UNITS: [&str; 2] = ["rblfilter-sets.service", "rblfilter-firewall.service"];
/// Where units and the links that enable them are (systemd.unit(5)).
const UNIT_FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// What of courierfilter.service may take capabilities away or hide processes.
const PROPERTIES: &str = "LoadState,NoNewPrivileges,CapabilityBoundingSet,ProtectProc";

pub(super) fn look(paths: &Paths) -> Install {
    let filter = paths.libexecdir.join("filters/rblfilter");
    let warden = paths.warden();
    let folders = [filter.parent(), warden.parent()];
    Install {
        filter: file(&filter),
        link: link(&paths.sysconfdir.join("filters/active/rblfilter")),
        capability: capability(&warden),
        nosuid: statvfs(&warden)
            .map(|stat| stat.f_flag.contains(StatVfsMountFlags::NOSUID))
            .map_err(|error| cannot("look at the file system of", &warden, error.into())),
        folders: folders
            .into_iter()
            .flatten()
            .filter_map(|folder| file(folder).ok()?)
            .collect(),
        warden: file(&warden),
        state: file(&paths.state()),
        socket: socket(paths),
        boot_units: boot_units(),
        unit: unit(),
    }
}

pub(in super::super) fn unseen(error: &str) -> Install {
    let text = || error.to_owned();
    Install {
        filter: Err(text()),
        link: Err(text()),
        warden: Err(text()),
        capability: Err(text()),
        nosuid: Err(text()),
        folders: Vec::new(),
        state: Err(text()),
        socket: Err(text()),
        boot_units: None,
        unit: Vec::new(),
    }
}

/// Courier's user and group: its state folder is that user's.
pub(super) fn ids(paths: &Paths) -> Option<(u32, u32)> {
    let meta = fs::metadata(&paths.localstatedir).ok()?;
    Some((meta.uid(), meta.gid()))
}

/// What is at `path`, not followed where it is a link.
pub(super) fn file(path: &Path) -> Seen<Option<File>> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(File {
            path: path.to_owned(),
            uid: meta.uid(),
            gid: meta.gid(),
            mode: meta.mode() & 0o7777,
        })),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(cannot("look at", path, error)),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

pub(super) fn cannot(what: &str, path: &Path, error: io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

fn link(path: &Path) -> Seen<Option<std::path::PathBuf>> {
    match fs::read_link(path) {
        Ok(target) => Ok(Some(target)),
        // Something else than a link leads to itself.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(Some(path.to_owned())),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(cannot("read", path, error)),
    }
}

fn capability(path: &Path) -> Seen<bool> {
    let mut value = [0; 64];
    match getxattr(path, "security.capability", &mut value) {
        Ok(length) => Ok(texts::permits(
            value.get(..length).unwrap_or_default(),
            texts::NET_ADMIN,
        )),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(cannot("read the capability of", path, error.into())),
    }
}

/// The socket, in whichever folder.
fn socket(paths: &Paths) -> Seen<Option<File>> {
    for folder in ["allfilters", "filters"] {
        if let Some(socket) = file(&paths.localstatedir.join(folder).join("rblfilter"))? {
            return Ok(Some(socket));
        }
    }
    Ok(None)
}

/// Those that nothing at boot wants.
fn boot_units() -> Option<Vec<&'static str>> {
    let has_systemd = [
        "/usr/bin/systemctl",
        "/bin/systemctl",
        "/run/systemd/system",
    ]
    .iter()
    .any(|path| Path::new(path).exists());
    has_systemd.then(|| {
        let enabled = |unit: &str| {
            UNIT_FOLDERS
                .iter()
                .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
                .map(|entry| entry.path())
                .filter(|path| {
                    let name = path.extension().and_then(|extension| extension.to_str());
                    matches!(name, Some("wants" | "requires"))
                })
                .any(|folder| fs::symlink_metadata(folder.join(unit)).is_ok())
        };
        UNITS.into_iter().filter(|unit| !enabled(unit)).collect()
    })
}

/// What systemd will give courierfilter the next time.
fn unit() -> Vec<(String, String)> {
    if !Path::new("/run/systemd/system").exists() {
        return Vec::new();
    }
    let shown = sys::program("systemctl")
        .args(["show", "-p", PROPERTIES, "courierfilter.service"])
        .output();
    shown.map_or_else(
        |_| Vec::new(),
        |output| texts::properties(&String::from_utf8_lossy(&output.stdout)),
    )
}
