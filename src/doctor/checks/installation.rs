//! Programs, their rights, their files.

use super::super::catalogue::*;
use super::super::facts::{Facts, File, Filter, Process};
use super::super::finding::Finding;
use super::super::texts::NET_ADMIN;
use super::{INSTALL, Out, START_AGAIN, bans, restart_courierfilter};

pub(super) fn examine(facts: &Facts, out: Out) {
    if !facts.courier.there {
        out.push(
            COURIER_MISSING
                .problem(format!(
                    "{} is not there: no Courier is installed",
                    facts.paths.sysconfdir.display()
                ))
                .run("apt-get install courier-mta"),
        );
        return;
    }
    out.push(COURIER_MISSING.ok("Courier is installed"));
    started(facts, out);
    old_programs(facts, out);
    writable(facts, out);
    warden(facts, out);
    rights(facts, out);
    places(facts, out);
    boot(facts, out);
}

/// Whether the filter is there, and courierfilter has it run.
fn started(facts: &Facts, out: Out) {
    let install = &facts.install;
    let program = facts.paths.libexecdir.join("filters/rblfilter");
    let here = program.display();
    out.push(match &install.filter {
        Ok(Some(file)) if file.mode & 0o111 != 0 => FILTER_MISSING.ok(format!("{here} is there")),
        Ok(Some(_)) => FILTER_MISSING
            .problem(format!("{here} cannot be executed"))
            .run(format!("chmod 0755 {here}")),
        Ok(None) => FILTER_MISSING
            .problem(format!("{here} is missing: rblfilter is not installed"))
            .run(INSTALL),
        Err(error) => FILTER_MISSING.unknown(error),
    });
    let active = facts.paths.sysconfdir.join("filters/active/rblfilter");
    let active = active.display();
    let linked = match &install.link {
        Ok(Some(target)) if *target == program => {
            out.push(FILTER_NOT_ACTIVE.ok("the filter is started (filters/active names it)"));
            true
        }
        Ok(Some(target)) => {
            let target = target.display();
            out.push(
                FILTER_NOT_ACTIVE
                    .problem(format!("{active} leads to {target}, not to {here}"))
                    .run(format!("rm {active}; filterctl start rblfilter")),
            );
            false
        }
        Ok(None) => {
            out.push(
                FILTER_NOT_ACTIVE
                    .problem(format!("the filter is not started: {active} is missing"))
                    .run("filterctl start rblfilter"),
            );
            false
        }
        Err(error) => {
            out.push(FILTER_NOT_ACTIVE.unknown(error));
            false
        }
    };
    let Some(courierfilter) = &facts.courier.courierfilter else {
        out.push(
            COURIERFILTER_STOPPED
                .problem("courierfilter does not run")
                .run(if facts.systemd {
                    "systemctl start courierfilter"
                } else {
                    "courierfilter start"
                }),
        );
        return;
    };
    out.push(COURIERFILTER_STOPPED.ok(format!(
        "courierfilter runs (process {})",
        courierfilter.pid
    )));
    if !linked {
        return;
    }
    out.push(match &facts.filter {
        Filter::Runs(status) => FILTER_ENDED.ok(format!("the filter runs (worker {})", status.pid)),
        Filter::Stopped => FILTER_ENDED
            .problem("the filter was started, and does not run")
            .run(START_AGAIN),
        Filter::Unasked(error) => FILTER_ENDED.unknown(error),
        // Told elsewhere.
        Filter::Silent(_) => return,
    });
}

fn old_programs(facts: &Facts, out: Out) {
    let processes = &facts.courier.processes;
    if processes.is_empty() {
        return;
    }
    let old: Vec<&Process> = processes
        .iter()
        .filter(|process| process.replaced == Ok(true))
        .collect();
    let own = env!("CARGO_PKG_VERSION");
    let version = facts.filter.status().map(|status| status.version.as_str());
    out.push(match old.first() {
        Some(process) => OLD_PROGRAM_RUNS
            .warning(format!(
                "process {} ({}) runs a program that was replaced since",
                process.pid, process.name
            ))
            .run("rblfilter reload"),
        None if version.is_some_and(|version| version != own) => OLD_PROGRAM_RUNS
            .warning(format!(
                "version {} runs, this is {own}",
                version.unwrap_or_default()
            ))
            .run("rblfilter reload"),
        None => match processes.iter().find_map(|one| one.replaced.as_ref().err()) {
            // The version is the same at least.
            Some(error) if version.is_none() => OLD_PROGRAM_RUNS.unknown(error),
            _ => OLD_PROGRAM_RUNS.ok(format!("what runs is what is installed ({own})")),
        },
    });
}

/// Programs and their folders: root's, and nobody else writes to them.
fn writable(facts: &Facts, out: Out) {
    let install = &facts.install;
    let programs = [&install.filter, &install.warden];
    let files = programs
        .into_iter()
        .filter_map(|file| file.as_ref().ok()?.as_ref())
        .chain(&install.folders);
    let mut wrong = files.filter(|file| file.uid != 0 || file.mode & 0o022 != 0);
    out.push(match wrong.next() {
        Some(file) => {
            let path = file.path.display();
            PROGRAM_WRITABLE
                .problem(format!(
                    "{path} has owner {} and mode {:04o}: others than root can write to it",
                    file.uid, file.mode
                ))
                .run(format!(
                    "chown root {path}; chmod go-w {path}{}",
                    again(file, facts)
                ))
        }
        None => PROGRAM_WRITABLE.ok("the programs are root's alone to write"),
    });
}

/// A change of a program's owner takes its capability away.
fn again(file: &File, facts: &Facts) -> String {
    if file.path == facts.paths.warden() {
        format!("; setcap cap_net_admin=p {}", file.path.display())
    } else {
        String::new()
    }
}

/// A problem where bans are to be made, else good to know.
fn of_bans(facts: &Facts, check: &'static Check, what: String) -> Finding {
    if bans(facts) {
        check.problem(what)
    } else {
        check.note(what + " (no bans are made now)")
    }
}

fn warden(facts: &Facts, out: Out) {
    let install = &facts.install;
    let path = facts.paths.warden();
    let here = path.display();
    let file = match &install.warden {
        Ok(Some(file)) => file,
        Ok(None) => {
            let what = format!("{here} is missing");
            out.push(of_bans(facts, &WARDEN_MISSING, what).run(INSTALL));
            return;
        }
        Err(error) => {
            out.push(WARDEN_MISSING.unknown(error));
            return;
        }
    };
    let runs = facts.courier_ids.is_none_or(|(uid, gid)| {
        let bit = match (file.uid == uid, file.gid == gid) {
            (true, _) => 0o100,
            (_, true) => 0o010,
            _ => 0o001,
        };
        file.mode & bit != 0
    });
    let capable = format!("setcap cap_net_admin=p {here}");
    let group = facts.courier_ids.map_or(0, |(_, gid)| gid);
    out.push(if !runs {
        let what = format!(
            "{here} (owner {}:{}, mode {:04o}) cannot be executed by Courier's user",
            file.uid, file.gid, file.mode
        );
        of_bans(facts, &WARDEN_MISSING, what).run(format!(
            "chown 0:{group} {here}; chmod 0750 {here}; {capable}"
        ))
    } else if file.mode & 0o001 != 0 {
        WARDEN_MISSING
            .warning(format!(
                "{here} can be executed by everybody (mode {:04o})",
                file.mode
            ))
            .run(format!("chmod o-rwx {here}"))
    } else {
        WARDEN_MISSING.ok("the warden is there, for Courier's user to execute")
    });
    out.push(match &install.capability {
        Ok(true) => WARDEN_INCAPABLE.ok("the warden has its capability, cap_net_admin"),
        Ok(false) => {
            let what = format!("{here} has no capability cap_net_admin");
            of_bans(facts, &WARDEN_INCAPABLE, what).run(capable)
        }
        Err(error) => WARDEN_INCAPABLE.unknown(error),
    });
    out.push(match &install.nosuid {
        Ok(false) => WARDEN_NOSUID.ok("its file system honours capabilities"),
        Ok(true) => {
            let what = format!("the file system of {here} is mounted nosuid");
            of_bans(facts, &WARDEN_NOSUID, what)
                .by_hand("mount it without nosuid: look for it in /etc/fstab (findmnt -T shows it)")
        }
        Err(error) => WARDEN_NOSUID.unknown(error),
    });
}

/// What a unit or a container takes away from what courierfilter starts.
fn rights(facts: &Facts, out: Out) {
    let unit = |name: &str| {
        let mut all = facts.install.unit.iter();
        all.find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let process = facts.courier.courierfilter.as_ref();
    let edit = |key: &str| {
        format!(
            "take {key}= out of courierfilter.service (systemctl edit courierfilter), then: {}",
            restart_courierfilter(facts)
        )
    };
    let forbidden = match process.and_then(|process| process.no_new_privs) {
        Some(true) => Some("courierfilter runs with no_new_privs"),
        _ if unit("NoNewPrivileges") == Some("yes") => {
            Some("courierfilter.service says NoNewPrivileges=yes, for its next start")
        }
        Some(false) => None,
        None => return,
    };
    out.push(match forbidden {
        Some(what) => {
            of_bans(facts, &NO_NEW_PRIVILEGES, what.into()).by_hand(edit("NoNewPrivileges"))
        }
        None => NO_NEW_PRIVILEGES.ok("courierfilter may start programs with capabilities"),
    });
    let bounded = match process.and_then(|process| process.bounding) {
        Some(mask) if mask & (1 << NET_ADMIN) == 0 => {
            Some("cap_net_admin is not in courierfilter's bounding set")
        }
        _ if unit("CapabilityBoundingSet")
            .is_some_and(|set| !set.is_empty() && !set.contains("cap_net_admin")) =>
        {
            Some("courierfilter.service has a CapabilityBoundingSet= without CAP_NET_ADMIN")
        }
        Some(_) => None,
        None => return,
    };
    out.push(match bounded {
        Some(what) => of_bans(facts, &CAPABILITY_BOUNDED, what.into()).by_hand(format!(
            "add CAP_NET_ADMIN to CapabilityBoundingSet= of courierfilter.service, or to the container's capabilities, then: {}",
            restart_courierfilter(facts)
        )),
        None => CAPABILITY_BOUNDED.ok("cap_net_admin is in its bounding set"),
    });
}

/// The folder of what is kept, and the socket.
fn places(facts: &Facts, out: Out) {
    let Some((uid, gid)) = facts.courier_ids else {
        return;
    };
    let folder = facts.paths.state();
    let here = folder.display();
    let mend = format!("chown {uid}:{gid} {here}; chmod 0750 {here}");
    out.push(match &facts.install.state {
        Ok(Some(file)) if file.uid != uid || file.mode & 0o700 != 0o700 => STATE_FOLDER
            .problem(format!(
                "{here} has owner {} and mode {:04o}: the filter cannot write there",
                file.uid, file.mode
            ))
            .run(mend),
        Ok(Some(file)) if file.mode & 0o022 != 0 => STATE_FOLDER
            .problem(format!(
                "{here} has mode {:04o}: others can put files there",
                file.mode
            ))
            .run(mend),
        Ok(Some(_)) => STATE_FOLDER.ok(format!("{here} is Courier's user's own")),
        Ok(None) => STATE_FOLDER
            .problem(format!("{here} is missing: bans do not outlive a restart"))
            .run(format!("install -d -m 0750 -o {uid} -g {gid} {here}")),
        Err(error) => STATE_FOLDER.unknown(error),
    });
    if facts.filter.status().is_none() {
        return;
    }
    out.push(match &facts.install.socket {
        Ok(Some(file)) if file.mode & 0o007 != 0 => FILTER_SOCKET
            .problem(format!(
                "{} has mode {:04o}: everybody can speak to the filter",
                file.path.display(),
                file.mode
            ))
            .run(format!("chmod 0660 {}", file.path.display())),
        Ok(Some(file)) if file.uid != uid || file.mode & 0o600 != 0o600 => FILTER_SOCKET
            .problem(format!(
                "{} has owner {} and mode {:04o}: Courier cannot reach it",
                file.path.display(),
                file.uid,
                file.mode
            ))
            .run(START_AGAIN),
        Ok(Some(_)) => FILTER_SOCKET.ok("Courier reaches the filter's socket"),
        Ok(None) => FILTER_SOCKET
            .problem("the filter runs, and its socket is gone: Courier does not ask it")
            .run(START_AGAIN),
        Err(error) => FILTER_SOCKET.unknown(error),
    });
}

fn boot(facts: &Facts, out: Out) {
    if !bans(facts) {
        return;
    }
    out.push(match facts.install.boot_units.as_deref() {
        Some([]) => BOOT_RULES.ok("sets and rules come back after a boot"),
        Some(missing) => BOOT_RULES
            .warning(format!("not enabled: {}", missing.join(", ")))
            .run(format!("systemctl enable {}", missing.join(" "))),
        None => BOOT_RULES
            .note("there is no systemd here that makes sets and rules at boot")
            .by_hand("have `rblfilter firewall apply` run at boot"),
    });
}
