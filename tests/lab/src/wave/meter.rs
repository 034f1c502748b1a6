//! What is read while a wave runs: the slots in use, and what the filter's processes take.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use crate::Lab;

/// Between two looks at the slots.
const LOOK: Duration = Duration::from_millis(3);
/// A point of the series is the most of so long.
pub const POINT: Duration = Duration::from_millis(500);

/// The slots in use, as looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slots {
    /// The most that were seen.
    pub peak: usize,
    /// The mean of all looks while spammers came.
    pub mean: f64,
    /// The peak of each half second.
    pub series: Vec<usize>,
}

/// Looks at the children of couriertcpd, in a thread of its own.
#[derive(Debug)]
pub struct Meter {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Slots>,
}

impl Meter {
    /// Starts it in the lab. The mean is that of this long; after it the last senders wait, and nobody else comes.
    ///
    /// # Errors
    /// If couriertcpd does not run.
    pub fn start(lab: &Lab, length: Duration) -> io::Result<Self> {
        let pid = lab.couriertcpd_pid()?;
        let children = File::open(format!("/proc/{pid}/task/{pid}/children"))?;
        // couriertcpd's courierlogger is no session.
        let others = count(&children, &mut Vec::new())?.saturating_sub(lab.slots_used()?);
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::Builder::new()
            .name("meter".into())
            .spawn(move || look(&children, others, length, &ended))?;
        Ok(Self { end, thread })
    }

    /// Ends it and tells what was seen.
    ///
    /// # Errors
    /// If the thread panicked.
    pub fn finish(self) -> io::Result<Slots> {
        self.end.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| io::Error::other("the meter panicked"))
    }
}

fn look(children: &File, others: usize, length: Duration, end: &AtomicBool) -> Slots {
    let mut slots = Slots::default();
    let (mut looks, mut total) = (0_u32, 0.0);
    let (begun, mut buffer) = (Instant::now(), Vec::new());
    while !end.load(Ordering::Relaxed) {
        // A couriertcpd that has ended has no sessions.
        let used = count(children, &mut buffer)
            .unwrap_or(0)
            .saturating_sub(others);
        let point = begun.elapsed().as_millis() / POINT.as_millis();
        let point = usize::try_from(point).unwrap_or(0);
        if slots.series.len() <= point {
            slots.series.resize(point + 1, 0);
        }
        slots.series[point] = slots.series[point].max(used);
        slots.peak = slots.peak.max(used);
        if begun.elapsed() < length {
            looks += 1;
            total += f64::from(u32::try_from(used).unwrap_or(0));
        }
        std::thread::sleep(LOOK);
    }
    slots.mean = total / f64::from(looks.max(1));
    slots
}

/// How many numbers the file holds.
fn count(children: &File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.resize(16 * 1024, 0);
    let mut length = 0;
    loop {
        let more = children.read_at(&mut buffer[length..], length as u64)?;
        if more == 0 {
            break;
        }
        length += more;
        if length == buffer.len() {
            buffer.resize(2 * length, 0);
        }
    }
    Ok(numbers(&buffer[..length]))
}

/// Each number is followed by a blank (proc_pid_task_children(5)).
fn numbers(text: &[u8]) -> usize {
    text.split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
        .count()
}

/// The memory of some processes, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What each has, shared pages counted for each.
    pub rss: u64,
    /// The same, shared pages divided.
    pub pss: u64,
    /// The most that each ever had.
    pub peak: u64,
}

impl Memory {
    /// That of the processes with these numbers now.
    #[must_use]
    pub fn of(pids: &[i32]) -> Self {
        let mut all = Self::default();
        for pid in pids {
            let read =
                |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let (status, smaps) = (read("status"), read("smaps_rollup"));
            all.rss += kib(&status, "VmRSS:");
            all.peak += kib(&status, "VmHWM:");
            all.pss += kib(&smaps, "Pss:");
        }
        all
    }
}

fn kib(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// That of all threads of these, to the nanosecond (`/proc/PID/task/TID/schedstat`); of those that run on alone.
#[must_use]
pub fn exact_time(pids: &[i32]) -> Duration {
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let threads = pids
        .iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
    let nanos = threads
        .flatten()
        .flatten()
        .filter_map(|entry| of_thread(entry.path()));
    Duration::from_nanos(nanos.sum())
}

/// The processor time of this process.
#[must_use]
pub fn own_time() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| {
            let whole = u64::try_from(time.tv_sec()).ok()?;
            let micros = u64::try_from(time.tv_usec()).ok()?;
            Some(Duration::from_secs(whole) + Duration::from_micros(micros))
        })
        .sum()
}

/// The processor time of these processes by their own count, to 10 ms; for machines without cgroups.
#[must_use]
pub fn processor_time(pids: &[i32]) -> Duration {
    let ticks: u64 = pids
        .iter()
        .filter_map(|pid| procfs::process::Process::new(*pid).ok()?.stat().ok())
        .map(|stat| stat.utime + stat.stime)
        .sum();
    Duration::from_millis(ticks * 1000 / procfs::ticks_per_second().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_are_read() {
        assert_eq!(numbers(b""), 0);
        assert_eq!(numbers(b"12 345 6789 "), 3);
        let text = "Name:\trblfilter\nVmHWM:\t    9000 kB\nVmRSS:\t    8192 kB\n";
        assert_eq!((kib(text, "VmRSS:"), kib(text, "Pss:")), (8192, 0));
    }
}
