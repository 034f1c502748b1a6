//! The file systems of a lab: what must be written to lies on a tmpfs, what must be read is the machine's own.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::Error;

/// Covered for a moment while the lab is furnished, then uncovered again.
const BENCH: &str = "/mnt";
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Mounts everything; runs in the new mount namespace, before there is a pid namespace.
pub(crate) fn furnish() -> Result<(), Error> {
    tmpfs(BENCH, "mode=755")?;
    overlay("/etc", "etc")?;
    overlay("/usr", "usr")?;
    spool("/var/lib/courier")?;
    devices("/dev")?;
    umount2(BENCH, MntFlags::MNT_DETACH).map_err(|e| Error::io("detach", BENCH, e.into()))?;
    tmpfs("/var/log", "mode=755")?;
    tmpfs("/run", "mode=755")?;
    for (path, mode, owner) in [
        ("/run/courier", 0o775, "/etc/courier"),
        ("/run/courier/authdaemon", 0o750, "/var/lib/courier"),
        ("/run/lock", 0o1777, "/"),
        ("/run/lab", 0o755, "/"),
    ] {
        directory_like(Path::new(path), owner)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(|e| Error::io("chmod", path, e))?;
    }
    Ok(())
}

fn tmpfs(target: &str, options: &str) -> Result<(), Error> {
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(options),
    )
    .map_err(|e| Error::io("mount a tmpfs on", target, e.into()))
}

fn bind(source: &str, target: &str) -> Result<(), Error> {
    let none: Option<&str> = None;
    mount(
        Some(source),
        target,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .map_err(|e| Error::io("bind", format!("{source} over {target}"), e.into()))
}

/// The merged root directory shows the upper one's mode and owner, so they are copied.
fn overlay(lower: &str, name: &str) -> Result<(), Error> {
    let (upper, work) = (format!("{BENCH}/{name}"), format!("{BENCH}/{name}.work"));
    directory_like(Path::new(&upper), lower)?;
    fs::create_dir(&work).map_err(|e| Error::io("make", &work, e))?;
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount(
        Some("overlay"),
        lower,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|e| Error::io("mount an overlay on", lower, e.into()))
}

/// Only the folders, never the contents: a lab on a machine with a queue of real mail must not deliver it.
fn spool(path: &str) -> Result<(), Error> {
    let bench = format!("{BENCH}/spool");
    fs::create_dir(&bench).map_err(|e| Error::io("make", &bench, e))?;
    tmpfs(&bench, "mode=755")?;
    like(Path::new(&bench), path)?;
    let failed = |e| Error::io("read", path, e);
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            directory_like(&Path::new(&bench).join(entry.file_name()), entry.path())?;
        }
    }
    carry(&bench, path)
}

/// Always a /dev of its own: the machine may have no /dev/log, or one that is a link into its /run.
fn devices(path: &str) -> Result<(), Error> {
    let bench = format!("{BENCH}/dev");
    fs::create_dir(&bench).map_err(|e| Error::io("make", &bench, e))?;
    tmpfs(&bench, "mode=755")?;
    for node in NODES {
        // A container may lack some of them.
        if !Path::new("/dev").join(node).exists() {
            continue;
        }
        let target = format!("{bench}/{node}");
        File::create(&target).map_err(|e| Error::io("make", &target, e))?;
        bind(&format!("/dev/{node}"), &target)?;
    }
    for folder in ["pts", "shm"] {
        let target = format!("{bench}/{folder}");
        fs::create_dir(&target).map_err(|e| Error::io("make", &target, e))?;
    }
    bind("/dev/pts", &format!("{bench}/pts"))?;
    tmpfs(&format!("{bench}/shm"), "mode=1777")?;
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        // The node of that name finds no terminals when it is bound elsewhere.
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, format!("{bench}/{link}")).map_err(|e| Error::io("link", link, e))?;
    }
    carry(&bench, path)
}

fn carry(from: &str, to: &str) -> Result<(), Error> {
    let none: Option<&str> = None;
    mount(Some(from), to, none, MsFlags::MS_MOVE, none)
        .map_err(|e| Error::io("mount over", to, e.into()))
}

fn directory_like(path: &Path, model: impl AsRef<Path>) -> Result<(), Error> {
    fs::create_dir(path).map_err(|e| Error::io("make", path.display().to_string(), e))?;
    like(path, model)
}

fn like(path: &Path, model: impl AsRef<Path>) -> Result<(), Error> {
    let copy = || -> io::Result<()> {
        let model = fs::metadata(model)?;
        chown(path, Some(model.uid()), Some(model.gid()))?;
        fs::set_permissions(path, Permissions::from_mode(model.mode() & 0o7777))
    };
    copy().map_err(|e| Error::io("set the owner of", path.display().to_string(), e))
}
