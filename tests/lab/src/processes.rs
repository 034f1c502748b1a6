//! The lab's process table, and in it the sessions of port 25.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use procfs::process::{Process, Stat};

const PID_FILE: &str = "/run/courier/esmtpd.pid";

/// One process of the lab. Pids are the lab's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its pid.
    pub pid: i32,
    /// Its parent's pid; 0 for pid 1 and for what the test started.
    pub ppid: i32,
    /// The first 15 bytes of its program's name.
    pub comm: String,
    /// `R`, `S`, `Z`, … as in proc_pid_stat(5).
    pub state: char,
}

/// One session of port 25: a child of couriertcpd, before or after it has become courieresmtpd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its pid.
    pub pid: i32,
    /// The pid of couriertcpd.
    pub ppid: i32,
    /// `couriertcpd` during the lookups, then `courieresmtpd`.
    pub comm: String,
    /// The client's address and port; `None` until courieresmtpd has started.
    pub remote: Option<(IpAddr, u16)>,
}

/// All processes, threads and zombies included as the kernel lists them, by pid.
pub(crate) fn all() -> Vec<ProcessInfo> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process that has ended meanwhile is not an error.
        if let Ok(stat) = Process::new(pid).and_then(|process| process.stat()) {
            all.push(ProcessInfo {
                pid,
                ppid: stat.ppid,
                comm: stat.comm,
                state: stat.state,
            });
        }
    }
    all.sort_by_key(|process| process.pid);
    all
}

/// The listening couriertcpd of port 25.
pub(crate) fn couriertcpd() -> io::Result<i32> {
    fs::read_to_string(PID_FILE)?
        .trim()
        .parse()
        .map_err(io::Error::other)
}

/// The children of couriertcpd, in no particular order.
pub(crate) fn sessions() -> io::Result<Vec<Session>> {
    let sessions = children()?.into_iter().map(|(process, stat)| Session {
        pid: stat.pid,
        ppid: stat.ppid,
        remote: remote(&process),
        comm: stat.comm,
    });
    Ok(sessions.collect())
}

/// How many there are.
pub(crate) fn slots_used() -> io::Result<usize> {
    Ok(children()?.len())
}

fn children() -> io::Result<Vec<(Process, Stat)>> {
    let ppid = couriertcpd()?;
    let children = fs::read_to_string(format!("/proc/{ppid}/task/{ppid}/children"))?;
    let living = children.split_whitespace().filter_map(|pid| {
        let process = Process::new(pid.parse().ok()?).ok()?;
        let stat = process.stat().ok()?;
        // couriertcpd starts courierlogger as its child, too.
        (stat.comm != "courierlogger" && stat.state != 'Z').then_some((process, stat))
    });
    Ok(living.collect())
}

/// The environment of a process, sorted; empty when it has ended.
pub(crate) fn environment(pid: i32) -> Vec<(String, String)> {
    let variables = Process::new(pid)
        .and_then(|process| process.environ())
        .unwrap_or_default();
    let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
    let mut variables: Vec<_> = variables
        .into_iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    variables.sort();
    variables
}

/// The arguments of a process; empty when it has ended.
pub(crate) fn arguments(pid: i32) -> Vec<String> {
    Process::new(pid)
        .and_then(|process| process.cmdline())
        .unwrap_or_default()
}

fn remote(process: &Process) -> Option<(IpAddr, u16)> {
    let environ = process.environ().ok()?;
    let value = |name: &str| environ.get(std::ffi::OsStr::new(name))?.to_str();
    let address: IpAddr = value("TCPREMOTEIP")?.parse().ok()?;
    Some((plain(address), value("TCPREMOTEPORT")?.parse().ok()?))
}

/// Courier writes an IPv4 client as an IPv4-mapped IPv6 address.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => Ipv6Addr::to_ipv4_mapped(&six).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}
