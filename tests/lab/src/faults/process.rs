//! Faults of rblfilter's own processes.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::scenario::Mend;
use super::stage::{Role, Stage};
use crate::{Error, wait_for};

/// A worker that cannot have another descriptor.
const DESCRIPTORS: &str = "8";
/// Less than a process needs to start.
const MEMORY: u64 = 1024 * 1024;

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
    stage
        .lab
        .run_ok(&["prlimit", "--pid", &pid, &limit])
        .map(drop)
}

/// The kernel kills whichever of the filter's processes it chooses, for none may have more memory than it has.
pub(super) fn memory(stage: &mut Stage) -> Result<Mend, Error> {
    let group = stage.memory.as_ref().ok_or_else(|| {
        Error::Load("no cgroup with the memory controller can be made here".into())
    })?;
    let failed = |e| Error::io("bound the memory of", "the filter", e);
    for process in stage.filter_processes() {
        let pid = stage.lab.pid_on_machine(process.pid).map_err(failed)?;
        group.add(pid).map_err(failed)?;
    }
    group.limit(Some(MEMORY)).map_err(failed)?;
    Ok(Mend::by(move |stage: &mut Stage| {
        let Some(group) = &stage.memory else {
            return Ok(());
        };
        group.limit(None).map_err(failed)?;
        if group.kills() == 0 {
            return Err(Error::Load("the kernel killed nobody for memory".into()));
        }
        Ok(())
    }))
}
