//! The host.

use super::super::catalogue::*;
use super::super::facts::Facts;
use super::super::texts::{hidden, release};
use super::{Out, restart_courierfilter};

/// The oldest kernel (Linux 5.10), see README.
const OLDEST: (u32, u32) = (5, 10);
/// Seconds by which the clock may have gone back, as clocks are set.
const SMALL_JUMP: u64 = 300;
/// What a million answers and bans take, and what few open files are.
const MEMORY: u64 = 256 << 20;
const FILES: u64 = 4096;
/// Free bytes and files below which a disk is full, or soon.
const FULL: (u64, u64) = (16 << 20, 100);
const LITTLE: (u64, u64) = (256 << 20, 2000);

pub(super) fn examine(facts: &Facts, out: Out) {
    proc(facts, out);
    kernel(facts, out);
    clock(facts, out);
    out.push(match &facts.host.log {
        Ok(()) => LOG_MISSING.ok("syslogd listens at /dev/log"),
        Err(error) => LOG_MISSING
            .warning(format!("lines do not reach the log: {error}"))
            .run(if facts.systemd {
                "systemctl restart systemd-journald.socket systemd-journald"
            } else {
                "service rsyslog restart"
            }),
    });
    limits(facts, out);
    disk(facts, out);
}

fn proc(facts: &Facts, out: Out) {
    // What courierfilter sees, the filter sees; a unit may hide more.
    let process = facts.courier.courierfilter.as_ref();
    let own = process.and_then(|process| process.mounts.as_ref().ok());
    let (mounts, is_own) = match (own, &facts.host.mounts) {
        (Some(mounts), host) => (
            mounts,
            host.as_ref().is_ok_and(|host| hidden(host).is_none()),
        ),
        (None, Ok(mounts)) => (mounts, false),
        (None, Err(error)) => {
            out.push(PROC_HIDDEN.unknown(error));
            return;
        }
    };
    let gid = facts.courier_ids.map(|(_, gid)| gid);
    let by_unit = facts
        .install
        .unit
        .iter()
        .any(|(name, value)| name == "ProtectProc" && !value.is_empty() && value != "default");
    out.push(match hidden(mounts) {
        Some(hidden) if Some(hidden.gid) != gid => {
            let what = "processes are hidden from Courier's user (/proc is mounted with hidepid=)";
            let finding = PROC_HIDDEN.problem(what);
            if is_own || by_unit {
                finding.by_hand(format!(
                    "take ProtectProc= out of courierfilter.service (systemctl edit courierfilter), then: {}",
                    restart_courierfilter(facts)
                ))
            } else {
                finding.run(format!(
                    "mount -o remount,hidepid=2,gid={} /proc  # and in /etc/fstab",
                    gid.unwrap_or_default()
                ))
            }
        }
        Some(_) => PROC_HIDDEN.ok("/proc is hidden, but for Courier's group"),
        None => PROC_HIDDEN.ok("Courier's user sees processes"),
    });
}

fn kernel(facts: &Facts, out: Out) {
    let known = match &facts.host.kernel {
        Ok(text) => text,
        Err(error) => {
            out.push(KERNEL_OLD.unknown(error));
            return;
        }
    };
    let newer = "boot a newer kernel (Linux 5.10 or later)";
    out.push(match (release(known), &facts.host.pidfd) {
        (_, Err(error)) => KERNEL_OLD
            .problem(format!("Linux {known}: {error}"))
            .by_hand(newer),
        (Some(release), _) if release < OLDEST => KERNEL_OLD
            .problem(format!("this is Linux {known}"))
            .by_hand(newer),
        _ => KERNEL_OLD.ok(format!("Linux {known}")),
    });
}

fn clock(facts: &Facts, out: Out) {
    out.push(match &facts.host.synchronised {
        Ok(true) => CLOCK_UNSYNCHRONISED.ok("the clock is synchronised"),
        Ok(false) => CLOCK_UNSYNCHRONISED
            .note("nobody keeps the clock right, as far as the kernel knows")
            .run("timedatectl set-ntp true"),
        Err(error) => CLOCK_UNSYNCHRONISED.unknown(error),
    });
    match &facts.host.last_seen {
        Ok(None) => {}
        Ok(Some(seen)) => {
            let back = seen.saturating_sub(facts.host.now);
            out.push(if back > SMALL_JUMP {
                CLOCK_JUMPED
                    .warning(format!(
                        "the clock is {} behind the time at which the file of bans was last written",
                        humantime::format_duration(std::time::Duration::from_secs(back))
                    ))
                    .run("date; timedatectl set-ntp true")
            } else {
                CLOCK_JUMPED.ok("the clock has not gone back")
            });
        }
        Err(error) => out.push(CLOCK_JUMPED.unknown(error)),
    }
}

fn limits(facts: &Facts, out: Out) {
    let Some(process) = &facts.courier.courierfilter else {
        return;
    };
    out.push(match process.memory {
        Some(bytes) if bytes < MEMORY => MEMORY_LIMIT
            .warning(format!(
                "courierfilter and its filters may have {} MiB of memory together",
                bytes >> 20
            ))
            .run("systemctl set-property courierfilter.service MemoryMax=512M"),
        Some(bytes) => MEMORY_LIMIT.ok(format!("its memory is limited to {} MiB", bytes >> 20)),
        None => MEMORY_LIMIT.ok("its memory is not limited"),
    });
    out.push(match process.open_files {
        Some(files) if files < FILES => OPEN_FILES
            .warning(format!("courierfilter's filters may have {files} files open"))
            .by_hand(format!(
                "LimitNOFILE=65536 in courierfilter.service (systemctl edit courierfilter), then: {}",
                restart_courierfilter(facts)
            )),
        Some(files) => OPEN_FILES.ok(format!("it may have {files} files open")),
        None => OPEN_FILES.ok("its open files are not limited"),
    });
}

fn disk(facts: &Facts, out: Out) {
    let folder = facts.paths.localstatedir.display();
    out.push(match &facts.host.free {
        Ok((bytes, files)) => {
            let what = format!("{folder} has {} MiB and {files} files left", bytes >> 20);
            let room = format!("make room in the file system of {folder} (df -h; df -i)");
            if *bytes < FULL.0 || *files < FULL.1 {
                DISK_FULL.problem(what).by_hand(room)
            } else if *bytes < LITTLE.0 || *files < LITTLE.1 {
                DISK_FULL.warning(what).by_hand(room)
            } else {
                DISK_FULL.ok(format!("{folder} has {} MiB left", bytes >> 20))
            }
        }
        Err(error) => DISK_FULL.unknown(error),
    });
}
