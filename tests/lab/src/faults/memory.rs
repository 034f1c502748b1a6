//! A bound on the memory of some processes, by a cgroup of either version.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::wait_for;

/// A group of processes. It goes when it is dropped and empty.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    limit: &'static str,
}

/// No bound, in the words of version 2 and 1.
const NONE: [&str; 2] = ["max", "-1"];
/// How much the bound is lowered at a time, in bytes.
const STEP: u64 = 128 * 1024;

impl MemoryGroup {
    /// Makes one below the root of the hierarchy that has the memory controller, or below the own group; `None` where
    /// there is none or it may not be written. To be called before the thread is in a lab.
    #[must_use]
    pub fn make() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("rblfilter-memory-{}-{number}", std::process::id());
        parents(&mounts, &own).into_iter().find_map(|parent| {
            let path = parent.join(&name);
            fs::create_dir(&path).ok()?;
            let limit = ["memory.max", "memory.limit_in_bytes"]
                .into_iter()
                .find(|file| path.join(file).exists());
            let Some(limit) = limit else {
                let _ = fs::remove_dir(&path);
                return None;
            };
            Some(Self { path, limit })
        })
    }

    /// Takes a process in, by its number in the machine's pid namespace. What it has already is not counted.
    ///
    /// # Errors
    /// If it has ended.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// Nobody in it can have more than all have now together.
    ///
    /// # Errors
    /// If the kernel is against it.
    pub fn tighten(&self) -> io::Result<()> {
        let read = |file: &str| fs::read_to_string(self.path.join(file));
        let text = read("memory.current").or_else(|_| read("memory.usage_in_bytes"))?;
        let mut bytes: u64 = text.trim().parse().map_err(io::Error::other)?;
        self.limit(&bytes.to_string())?;
        // What can be given back (version 1 says when no more can) or is taken (version 2 kills).
        while self.kills() == 0 && bytes > STEP {
            bytes -= STEP;
            if self.limit(&bytes.to_string()).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// As much as they like.
    ///
    /// # Errors
    /// If the kernel is against it.
    pub fn release(&self) -> io::Result<()> {
        self.limit(NONE[usize::from(self.limit != "memory.max")])
    }

    fn limit(&self, bytes: &str) -> io::Result<()> {
        fs::write(self.path.join(self.limit), bytes)
    }

    /// How many of its processes the kernel has killed for want of memory.
    #[must_use]
    pub fn kills(&self) -> u64 {
        let of = |file: &str| {
            let text = fs::read_to_string(self.path.join(file)).ok()?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("oom_kill "))?;
            line.trim().parse().ok()
        };
        of("memory.events")
            .or_else(|| of("memory.oom_control"))
            .unwrap_or(0)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The lab, whose processes are in it, has just ended.
        let gone = || {
            let _ = fs::remove_dir(&self.path);
            (!self.path.exists()).then_some(())
        };
        wait_for(Duration::from_secs(2), gone);
    }
}

/// Where a group can be made: with version 2 at the root, which alone may have processes and groups, with version 1
/// within the own one.
fn parents(mounts: &str, own: &str) -> Vec<PathBuf> {
    let mut parents = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, place, kind, options, ..] = fields[..] else {
            continue;
        };
        match kind {
            "cgroup2" => parents.push(PathBuf::from(place)),
            "cgroup" if options.split(',').any(|option| option == "memory") => {
                let group = own.lines().find_map(|line| {
                    let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
                    (controllers == "memory").then_some(group)
                });
                let group = group.unwrap_or_default().trim_start_matches('/');
                parents.push(Path::new(place).join(group));
            }
            _ => {}
        }
    }
    parents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_hierarchy_is_found_in_either_version() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "5:cpu:/\n4:memory:/a/b\n0::/\n";
        let wanted: [PathBuf; 2] = [
            "/sys/fs/cgroup/memory/a/b".into(),
            "/sys/fs/cgroup/unified".into(),
        ];
        assert_eq!(parents(mounts, own), wanted);
        let modern = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(
            parents(modern, "0::/user.slice\n"),
            [PathBuf::from("/sys/fs/cgroup")]
        );
    }
}
