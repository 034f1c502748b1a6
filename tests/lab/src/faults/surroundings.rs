//! Faults of what rblfilter relies on: the DNS server, the disk, the kernel's sets and rules, syslogd, the clock.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::unistd::{Group, User};

use super::scenario::Mend;
use super::stage::{Role, Stage};
use crate::{Dns, Error, Lab};

const STATE: &str = "/var/lib/courier/rblfilter";
const FILLER: &str = "/var/lib/courier/rblfilter/filler";
/// Room for the file of bans, and little more.
const DISK: &str = "2m";
/// What the filter's clock is ahead of the machine's.
const CLOCK: &str = "/run/lab/clock";

/// Something else answers on port 53; afterwards rbldnsd does again.
pub(super) fn dns(stage: &mut Stage, instead: Dns) -> Result<Mend, Error> {
    stage.lab.dns_start(instead)?;
    Ok(Mend::by(|stage: &mut Stage| {
        stage.lab.dns_start(Dns::Rbldnsd)
    }))
}

/// A disk of its own for the filter's files.
pub(super) fn small_disk(lab: &Lab) -> Result<(), Error> {
    let failed = |e: nix::Error| Error::io("mount a tmpfs on", STATE, e.into());
    let id = |text: Option<u32>| text.map_or_else(|| "0".to_owned(), |id| id.to_string());
    let uid = User::from_name("courier").map_err(failed)?;
    let gid = Group::from_name("courier").map_err(failed)?;
    let options = format!(
        "size={DISK},mode=0750,uid={},gid={}",
        id(uid.map(|user| user.uid.as_raw())),
        id(gid.map(|group| group.gid.as_raw()))
    );
    lab.run_ok(&["mkdir", "-p", STATE])?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        STATE,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )
    .map_err(failed)
}

/// Not a byte is left on it.
pub(super) fn fill_disk(_: &mut Stage) -> Result<Mend, Error> {
    let failed = |e| Error::io("fill", FILLER, e);
    let mut file = fs::File::create(FILLER).map_err(failed)?;
    for size in [64 * 1024, 1] {
        let bytes = vec![0; size];
        while file.write_all(&bytes).is_ok() {}
    }
    Ok(Mend::by(|_: &mut Stage| {
        fs::remove_file(FILLER).map_err(|e| Error::io("remove", FILLER, e))
    }))
}

/// Programs that must succeed; afterwards the admin puts sets and rules in order.
pub(super) fn firewall(stage: &mut Stage, commands: &[&[&str]]) -> Result<Mend, Error> {
    for words in commands {
        stage.lab.run_ok(words)?;
    }
    Ok(Mend::by(|stage: &mut Stage| {
        stage
            .lab
            .run_ok(&["rblfilter", "firewall", "apply"])
            .map(drop)
    }))
}

/// The reader of /dev/log is gone, and comes back with another socket.
pub(super) fn syslog(stage: &mut Stage) -> Result<Mend, Error> {
    stage.lab.syslog_stop();
    Ok(Mend::by(|stage: &mut Stage| stage.lab.syslog_start()))
}

/// Gives the filter a clock of its own (libfaketime); Courier and the machine keep theirs. The warden, whose capability
/// makes the loader careful, keeps the machine's too.
pub(super) fn own_clock(lab: &Lab) -> Result<(), Error> {
    let library = faketime().ok_or(Error::Missing {
        program: "libfaketimeMT.so.1",
        package: "faketime",
    })?;
    fs::write(CLOCK, "+0\n").map_err(|e| Error::io("write", CLOCK, e))?;
    let before = fs::read_to_string("/etc/courier/courierd")
        .map_err(|e| Error::io("read", "/etc/courier/courierd", e))?;
    lab.run_ok(&["courierfilter", "stop"])?;
    lab.append_config(
        "courierd",
        &format!(
            "\nLD_PRELOAD={}\nFAKETIME_TIMESTAMP_FILE={CLOCK}\nFAKETIME_NO_CACHE=1\nFAKETIME_DONT_FAKE_MONOTONIC=1\n",
            library.display()
        ),
    )?;
    lab.run_ok(&["courierfilter", "start"])?;
    // courierd itself, which reads it too, is not to have it when it is started again.
    fs::write("/etc/courier/courierd", before)
        .map_err(|e| Error::io("write", "/etc/courier/courierd", e))
}

fn faketime() -> Option<PathBuf> {
    ["/usr/lib", "/usr/lib64"]
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| Path::new(path).exists())
}

/// The filter's clock jumps, and back again.
pub(super) fn step_clock(stage: &mut Stage, by: &'static str) -> Result<Mend, Error> {
    let maps = format!("/proc/{}/maps", stage.pid(Role::Worker)?);
    let maps = fs::read_to_string(&maps).map_err(|e| Error::io("read", &maps, e))?;
    if !maps.contains("libfaketime") {
        return Err(Error::Load("the worker has no clock of its own".into()));
    }
    let set =
        |to: &str| fs::write(CLOCK, format!("{to}\n")).map_err(|e| Error::io("write", CLOCK, e));
    set(by)?;
    Ok(Mend::by(move |_: &mut Stage| set("+0")))
}
