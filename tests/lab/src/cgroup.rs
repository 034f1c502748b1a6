//! A cgroup for what a lab starts, so that its processor time can be told, also of what has ended.
//!
//! Version 2 counts the time of every group by itself, with no controller; where it is not mounted there is none, and
//! the lab works without.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The group and, inside it, one for the filter's own processes.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    /// Opened before the lab mounts over anything.
    procs: File,
    all: File,
    filter_procs: File,
    filter: File,
}

const PREFIX: &str = "rblfilter-lab-";

impl Cgroup {
    /// Makes it, below the calling process's own group; none where version 2 is not mounted or not writable.
    pub(crate) fn make() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/thread-self/mounts").ok()?;
        let own = fs::read_to_string("/proc/thread-self/cgroup").ok()?;
        let parent = own_group(&mounts, &own)?;
        sweep(&parent);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        let filter = path.join("filter");
        let made = fs::create_dir(&path)
            .and_then(|()| fs::create_dir(&filter))
            .and_then(|()| {
                let write = |path: PathBuf| OpenOptions::new().write(true).open(path);
                Ok(Self {
                    procs: write(path.join("cgroup.procs"))?,
                    all: File::open(path.join("cpu.stat"))?,
                    filter_procs: write(filter.join("cgroup.procs"))?,
                    filter: File::open(filter.join("cpu.stat"))?,
                    path: path.clone(),
                })
            });
        made.inspect_err(|_| remove(&path)).ok()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that a process writes `0` to, to get in.
    pub(crate) fn procs(&self) -> io::Result<File> {
        self.procs.try_clone()
    }

    /// Moves a process, by its number in the machine's pid namespace, to the filter's group.
    pub(crate) fn add_to_filter(&self, pid: i32) -> io::Result<()> {
        (&self.filter_procs).write_all(pid.to_string().as_bytes())
    }

    /// The processor time of all that was ever in it.
    pub(crate) fn all(&self) -> io::Result<Duration> {
        usage(&self.all)
    }

    /// That of the filter since it was moved.
    pub(crate) fn filter(&self) -> io::Result<Duration> {
        usage(&self.filter)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    // What has just been killed is in there for a moment more.
    let gone = || {
        let _ = fs::remove_dir(path.join("filter"));
        let _ = fs::remove_dir(path);
        (!path.exists()).then_some(())
    };
    crate::wait_for(Duration::from_secs(2), gone);
}

/// Removes what labs of processes that were killed have left.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| {
            let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
            pid.parse::<u32>().ok()
        });
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path().join("filter"));
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn own_group(mounts: &str, own: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(place)
    })?;
    let group = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(group))
}

fn usage(stat: &File) -> io::Result<Duration> {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; 1024];
    let length = stat.read_at(&mut bytes, 0)?;
    usage_of(&String::from_utf8_lossy(&bytes[..length]))
        .ok_or_else(|| io::Error::other("no usage_usec in cpu.stat"))
}

fn usage_of(text: &str) -> Option<Duration> {
    let micros = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(Duration::from_micros(micros.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_where_version_2_is_mounted() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "3:cpuset:/\n0::/user.slice\n";
        assert_eq!(
            own_group(mounts, own),
            Some("/sys/fs/cgroup/unified/user.slice".into())
        );
        assert_eq!(own_group("proc /proc proc rw 0 0\n", own), None);
    }

    #[test]
    fn the_time_is_read_in_microseconds() {
        let text = "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n";
        assert_eq!(usage_of(text), Some(Duration::from_millis(1500)));
        assert_eq!(usage_of("user_usec 1\n"), None);
    }
}
