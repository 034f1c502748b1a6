//! Faults of rblfilter's own processes.

use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::User;

use super::memory::MemoryGroup;
use super::scenario::Mend;
use super::stage::{Role, Stage};
use crate::{Error, Lab, wait_for};

/// A worker that cannot have another descriptor.
const DESCRIPTORS: &str = "8";

/// SIGKILL, and its end.
pub(super) fn kill(stage: &mut Stage, role: Role) -> Result<Mend, Error> {
    let pid = stage.pid(role)?;
    stage.lab.kill(pid, Signal::SIGKILL)?;
    let gone = || {
        let all = stage.filter_processes();
        (!all.iter().any(|process| process.pid == pid)).then_some(())
    };
    let limit = Duration::from_secs(5);
    wait_for(limit, gone).ok_or_else(|| Error::Timeout {
        what: format!("the end of {role:?} {pid}"),
        limit,
    })?;
    Ok(Mend::nothing())
}

/// SIGSTOP; SIGCONT in the end, if it is still there.
pub(super) fn stop(stage: &mut Stage, role: Role) -> Result<Mend, Error> {
    let pid = stage.pid(role)?;
    stage.lab.kill(pid, Signal::SIGSTOP)?;
    Ok(Mend::by(move |stage: &mut Stage| {
        let there = stage
            .filter_processes()
            .iter()
            .any(|process| process.pid == pid);
        if there {
            stage.lab.kill(pid, Signal::SIGCONT)?;
        }
        Ok(())
    }))
}

/// The worker may open nothing more than it has.
pub(super) fn descriptors(stage: &mut Stage) -> Result<Mend, Error> {
    let pid = stage.pid(Role::Worker)?;
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))
        .map_err(|e| Error::io("read the limits of", "the worker", e))?;
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|line| line.split_whitespace().next())
        .unwrap_or("1024")
        .to_owned();
    set_descriptors(stage, pid, DESCRIPTORS)?;
    Ok(Mend::by(move |stage: &mut Stage| {
        // Another worker has a limit of its own.
        if stage.pid(Role::Worker)? == pid {
            set_descriptors(stage, pid, &soft)?;
        }
        Ok(())
    }))
}

fn set_descriptors(stage: &Stage, pid: i32, soft: &str) -> Result<(), Error> {
    let (pid, limit) = (pid.to_string(), format!("--nofile={soft}:"));
    let failed = |e| Error::io("bound the descriptors of", "the worker", e);
    let user = User::from_name("courier")
        .map_err(|e| failed(e.into()))?
        .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    // As its own user: for another's process root needs a capability that containers do not have.
    let output = stage
        .lab
        .command("prlimit")
        .args(["--pid", &pid, &limit])
        .user(user.uid.as_raw(), user.gid.as_raw())
        .output()
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::command("prlimit", &output))
}

/// courierfilter, and by that what it starts, may have so much memory as the group has.
pub(super) fn bound_memory(lab: &Lab, group: &MemoryGroup) -> Result<(), Error> {
    let failed = |e| Error::io("bound the memory of", "courierfilter", e);
    for process in lab.processes() {
        if process.comm == "courierfilter" {
            let pid = lab.pid_on_machine(process.pid).map_err(failed)?;
            group.add(pid).map_err(failed)?;
        }
    }
    Ok(())
}

/// No process of the filter may have more memory than it has now: the kernel kills the one that has most.
pub(super) fn memory(stage: &mut Stage) -> Result<Mend, Error> {
    let failed = |e| Error::io("bound the memory of", "the filter", e);
    let none = "no cgroup with the memory controller can be made here";
    let group = stage
        .memory
        .as_ref()
        .ok_or_else(|| Error::Load(none.into()))?;
    group.tighten().map_err(failed)?;
    let limit = Duration::from_secs(20);
    wait_for(limit, || (group.kills() > 0).then_some(())).ok_or_else(|| Error::Timeout {
        what: "a process that is killed for want of memory".into(),
        limit,
    })?;
    Ok(Mend::by(move |stage: &mut Stage| match &stage.memory {
        Some(group) => group.release().map_err(failed),
        None => Ok(()),
    }))
}
