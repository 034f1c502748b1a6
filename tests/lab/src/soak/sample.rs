//! What the filter's processes hold at a moment.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::wave::meter::Memory;
use crate::{Lab, ProcessInfo};

/// What one process holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its pid, by which it is seen that it is the same.
    pub pid: i32,
    /// KiB, shared pages counted in full.
    pub rss_kib: u64,
    /// KiB, shared pages divided among those who share them.
    pub pss_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// All of the filter at a moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds from the start.
    pub at_s: f64,
    /// Its processes by their parts.
    pub held: BTreeMap<String, Held>,
    /// Entries in the kernel's sets.
    pub banned: usize,
    /// Processes that have ended and that nobody has collected.
    #[serde(skip)]
    pub zombies: Vec<i32>,
    /// Processes of the filter, or of a session, without a parent.
    #[serde(skip)]
    pub orphans: Vec<i32>,
}

impl Sample {
    /// Looks.
    #[must_use]
    pub fn take(lab: &Lab, at_s: f64) -> Self {
        let all = lab.processes();
        let held = all
            .iter()
            .filter(|process| is_filter(process) && process.state != 'Z')
            .map(|process| (part(lab, process), held(process.pid)))
            .collect();
        let which = |of: &dyn Fn(&ProcessInfo) -> bool| {
            let found = all.iter().filter(|process| of(process));
            found.map(|process| process.pid).collect()
        };
        Self {
            at_s,
            held,
            banned: 0,
            zombies: which(&|process| process.state == 'Z'),
            orphans: which(&|process| {
                let session = ["courieresmtpd", "submit"].contains(&process.comm.as_str());
                process.ppid == 1 && process.state != 'Z' && (is_filter(process) || session)
            }),
        }
    }
}

impl Sample {
    /// With the fewer descriptors and threads of the two.
    #[must_use]
    pub fn with_least_of(mut self, before: &Self) -> Self {
        for (part, held) in &mut self.held {
            if let Some(other) = before.held.get(part).filter(|other| other.pid == held.pid) {
                held.descriptors = held.descriptors.min(other.descriptors);
                held.threads = held.threads.min(other.threads);
            }
        }
        self
    }
}

fn is_filter(process: &ProcessInfo) -> bool {
    process.comm.starts_with("rblfilter")
}

/// What a process is, and what it waits for, in words: its arguments, its state, where in the kernel it sleeps, and what
/// its standard input is.
#[must_use]
pub fn what_it_does(lab: &Lab, pid: i32) -> String {
    let said = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = said("status");
    let state = status.lines().find(|line| line.starts_with("State:"));
    let input = fs::read_link(format!("/proc/{pid}/fd/0")).unwrap_or_default();
    format!(
        "{} {}: {}, in {}, on {}",
        said("comm").trim_end(),
        lab.arguments(pid).join(" "),
        state.unwrap_or("gone"),
        said("wchan"),
        input.display()
    )
}

/// `supervisor`, `worker`, `warden`: by the program, and by the worker's first argument.
fn part(lab: &Lab, process: &ProcessInfo) -> String {
    if process.comm.starts_with("rblfilter-ward") {
        return "warden".into();
    }
    if process.comm != "rblfilter" {
        return process.comm.clone();
    }
    let arguments = lab.arguments(process.pid);
    match arguments.get(1) {
        Some(role) if role.contains("worker") => "worker".into(),
        Some(role) => role.clone(),
        None => "supervisor".into(),
    }
}

fn held(pid: i32) -> Held {
    let memory = Memory::of(&[pid]);
    let count = |folder: &str| {
        fs::read_dir(format!("/proc/{pid}/{folder}"))
            .map_or(0, |entries| u64::try_from(entries.count()).unwrap_or(0))
    };
    Held {
        pid,
        rss_kib: memory.rss,
        pss_kib: memory.pss,
        descriptors: count("fd"),
        threads: count("task"),
    }
}
