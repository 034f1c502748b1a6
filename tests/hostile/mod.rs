//! Who speaks as somebody else, and what that costs the filter.
#![allow(dead_code)] // each test program uses its own part

use std::fs;
use std::thread::{self, JoinHandle};

use nix::unistd::User;
use rblfilter_lab::Lab;
use rustix::thread::{Gid, Uid};

/// Runs `work` on a thread with Courier's uid and gid, as a `submit` has them.
pub fn as_courier<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let user = User::from_name("courier").unwrap().unwrap();
    thread::spawn(move || {
        let (uid, gid) = (
            Uid::from_raw(user.uid.as_raw()),
            Gid::from_raw(user.gid.as_raw()),
        );
        rustix::thread::set_thread_groups(&[gid]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        work()
    })
}

/// The process that reads what comes.
pub fn worker(lab: &Lab) -> i32 {
    let is_worker = |pid: i32| lab.arguments(pid).iter().any(|a| a == "supervised-worker");
    let mut all = lab.processes().into_iter().map(|p| p.pid);
    all.find(|pid| is_worker(*pid)).expect("a worker")
}

pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The most memory that it ever had, in KiB.
pub fn most_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}
