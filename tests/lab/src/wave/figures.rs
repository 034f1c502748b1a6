//! What one run showed: for people as text, for programs as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// All figures of one run. Times are in the unit that their name ends in; what could not be had is null.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// What guarded the server.
    pub guard: String,
    /// `private` or `machine`.
    pub spaces: String,
    /// How rblfilter watched: `events` or `poll`.
    pub watch: Option<String>,
    /// What was sent, in words.
    pub wave: String,
    /// How long new sessions were started.
    pub seconds: u64,
    /// The connection slots.
    pub slots: Slots,
    /// The spammers' sessions.
    pub spam: Spam,
    /// The legitimate mail.
    pub mail: Mail,
    /// Processor time.
    pub cpu: Cpu,
    /// The memory of the filter's processes at the end, in KiB.
    pub memory: Option<Memory>,
    /// Addresses in the kernel's set at the end.
    pub banned: Option<usize>,
    /// What the reader must know.
    pub notes: Vec<String>,
}

/// The connection slots.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Slots {
    /// How many there are.
    pub all: u32,
    /// The most that were in use when looked at.
    pub peak: usize,
    /// The mean of all looks while spammers came.
    pub mean: f64,
    /// The peak of each half second.
    pub series: Vec<usize>,
    /// The most at a time by the kernel's fork and exit events.
    pub kernel_peak: Option<usize>,
    /// The mean by the same.
    pub kernel_mean: Option<f64>,
}

/// The spammers' sessions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Spam {
    /// Connects that were tried.
    pub connects: u64,
    /// Those that nobody answered.
    pub unanswered: u64,
    /// The packets that open a connection and were dropped by the rules; a client sends several.
    pub dropped: Option<u64>,
    /// Those that saw a 220.
    pub greeted: u64,
    /// Messages that the server took over.
    pub accepted: u64,
    /// Sessions that the server ended.
    pub ended: usize,
    /// How long those were open, as the client saw it.
    pub open_ms: Option<Percentiles>,
    /// Sessions that couriertcpd began each second, mail included.
    pub sessions_per_second: Option<f64>,
    /// From the exec of courieresmtpd to its end, of those that did not hang up by themselves. A legitimate session that
    /// is over before the meter looks whose it is (2 ms, more on a busy machine) is taken for one of them.
    pub exec_to_kill_ms: Option<Percentiles>,
    /// From the fork after accept to the end, of these and of those that never became courieresmtpd.
    pub accept_to_end_ms: Option<Percentiles>,
}

/// The legitimate mail.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Mail {
    /// Messages that were begun.
    pub offered: u64,
    /// Those that were accepted.
    pub accepted: u64,
    /// From the connect to the 250 after the data.
    pub latency_ms: Option<Percentiles>,
    /// The same of those that were begun in the second half.
    pub latency_late_ms: Option<Percentiles>,
    /// The same of the first from each address, and of its next ones.
    pub latency_first_ms: Option<Percentiles>,
    /// See there.
    pub latency_next_ms: Option<Percentiles>,
}

/// Processor time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cpu {
    /// Seconds of all processes of the lab, the load generator apart.
    pub all_s: Option<f64>,
    /// Seconds of the load generator and the meters, and of a slow or silent list's server.
    pub generator_s: Option<f64>,
    /// Seconds of the filter's processes.
    pub filter_s: Option<f64>,
    /// The same, as a part of one processor.
    pub filter_percent: Option<f64>,
    /// The same before the wave.
    pub filter_idle_percent: Option<f64>,
    /// The gate's process alone, as a part of one processor.
    pub gate_percent: Option<f64>,
    /// What a packet that went through the queue has cost the gate, and the worker with the rest, in microseconds: the
    /// median of slices of a quarter second.
    pub packet_us: Option<(f64, f64)>,
}

/// Memory in KiB, the sum of the filter's processes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    /// Shared pages counted for each.
    pub rss_kib: u64,
    /// Shared pages divided.
    pub pss_kib: u64,
    /// The most ever, each process's own.
    pub peak_kib: u64,
}

/// The middle and the tail, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many there were.
    pub count: usize,
    /// Half of them took no longer.
    pub p50: f64,
    /// Of a hundred, 99.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Percentiles {
    /// By nearest rank; none of nothing.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let rank = |percent: usize| {
            let index = (times.len() * percent).div_ceil(100).max(1) - 1;
            times.get(index).map(|time| time.as_secs_f64() * 1e3)
        };
        Some(Self {
            count: times.len(),
            p50: rank(50)?,
            p99: rank(99)?,
            max: rank(100)?,
        })
    }
}

/// `12` or `1.2` or `0.123`: three figures that matter.
fn short(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 1.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

fn pair(of: Option<&Percentiles>) -> String {
    of.map_or("–".into(), |it| {
        format!("{} / {}", short(it.p50), short(it.p99))
    })
}

fn one(number: Option<f64>) -> String {
    number.map_or("–".into(), short)
}

impl Figures {
    /// `rblfilter (events)`.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.watch {
            Some(watch) => format!("{}, {watch}", self.guard),
            None => format!("{}, {}", self.guard, self.spaces),
        }
    }

    /// One figure a line.
    #[must_use]
    pub fn list(&self) -> String {
        let mut text = format!("{}\n{}\n", self.wave, self.title());
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<44}{value}");
        };
        row(
            "slots, peak / mean",
            format!(
                "{} / {:.2} of {}",
                self.slots.peak, self.slots.mean, self.slots.all
            ),
        );
        if let (Some(peak), Some(mean)) = (self.slots.kernel_peak, self.slots.kernel_mean) {
            row("  by the kernel's events", format!("{peak} / {mean:.2}"));
        }
        let series: Vec<String> = self.slots.series.iter().map(usize::to_string).collect();
        row("  peaks of each half second", series.join(" "));
        let spam = &self.spam;
        row(
            "spammers' connects, unanswered, greeted",
            format!("{}, {}, {}", spam.connects, spam.unanswered, spam.greeted),
        );
        if let Some(dropped) = spam.dropped {
            row("  their packets dropped by the rules", dropped.to_string());
        }
        row("  messages accepted", spam.accepted.to_string());
        row("  ended by the server", spam.ended.to_string());
        row(
            "  open, ms p50 / p99, the client's view",
            pair(spam.open_ms.as_ref()),
        );
        row("sessions a second", one(spam.sessions_per_second));
        row(
            "exec to kill, ms p50 / p99",
            pair(spam.exec_to_kill_ms.as_ref()),
        );
        row(
            "accept to end, ms p50 / p99",
            pair(spam.accept_to_end_ms.as_ref()),
        );
        row(
            "legitimate mail accepted",
            format!("{} of {}", self.mail.accepted, self.mail.offered),
        );
        row(
            "  latency, ms p50 / p99",
            pair(self.mail.latency_ms.as_ref()),
        );
        row(
            "  in the second half",
            pair(self.mail.latency_late_ms.as_ref()),
        );
        if let Some(next) = &self.mail.latency_next_ms {
            let first = self.mail.latency_first_ms.as_ref();
            row("  the first from an address", pair(first));
            row("  its next ones", pair(Some(next)));
        }
        row("processor, s, all but the generator", one(self.cpu.all_s));
        row("  the generator", one(self.cpu.generator_s));
        row(
            "  the filter, s / % of one processor",
            format!(
                "{} / {}",
                one(self.cpu.filter_s),
                one(self.cpu.filter_percent)
            ),
        );
        row("  the filter idle, %", one(self.cpu.filter_idle_percent));
        row("  the gate alone, %", one(self.cpu.gate_percent));
        if let Some((gate, rest)) = self.cpu.packet_us {
            row(
                "  a packet, us, gate / worker",
                format!("{gate:.1} / {rest:.1}"),
            );
        }
        if let Some(memory) = self.memory {
            row(
                "memory of the filter, KiB RSS / PSS / peak",
                format!(
                    "{} / {} / {}",
                    memory.rss_kib, memory.pss_kib, memory.peak_kib
                ),
            );
        }
        if let Some(banned) = self.banned {
            row("addresses banned", banned.to_string());
        }
        for note in &self.notes {
            let _ = writeln!(text, "  note: {note}");
        }
        text
    }

    /// A line of a Markdown table, below [`HEAD`].
    #[must_use]
    pub fn markdown(&self, wave: &str) -> String {
        let (peak, mean) = (self.slots.peak, self.slots.mean);
        let mut guard = self.title();
        if !self.notes.is_empty() {
            guard = format!("{guard} ({})", self.notes.join("; "));
        }
        let cells = [
            wave.to_owned(),
            guard,
            format!("{peak} / {}", short(mean)),
            format!("{} of {}", self.spam.unanswered, self.spam.connects),
            pair(self.spam.exec_to_kill_ms.as_ref()),
            format!("{} of {}", self.mail.accepted, self.mail.offered),
            pair(self.mail.latency_ms.as_ref()),
            pair(self.mail.latency_late_ms.as_ref()),
            one(self.spam.sessions_per_second),
            one(self.cpu.all_s),
            one(self.cpu.filter_percent),
            self.memory
                .map_or("–".into(), |memory| short(memory.rss_kib as f64 / 1024.0)),
        ];
        format!("| {} |", cells.join(" | "))
    }
}

/// The head of the table of [`Figures::markdown`].
pub const HEAD: &str = "\
| wave | guard | slots, peak / mean | connects unanswered | exec to kill, ms p50 / p99 | legitimate mail | its latency, ms p50 / p99 \
| in the second half | sessions/s | CPU s, all | CPU %, filter | MiB, filter |
|---|---|---|---|---|---|---|---|---|---|---|---|";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let times = |list: &[u64]| list.iter().map(|ms| Duration::from_millis(*ms)).collect();
        assert_eq!(Percentiles::of(Vec::new()), None);
        let one = Percentiles::of(times(&[7])).unwrap();
        assert_eq!((one.count, one.p50, one.p99, one.max), (1, 7.0, 7.0, 7.0));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        let all = Percentiles::of(times(&hundred)).unwrap();
        assert_eq!((all.p50, all.p99, all.max), (50.0, 99.0, 100.0));
        let two = Percentiles::of(times(&[1, 2])).unwrap();
        assert_eq!((two.p50, two.p99), (1.0, 2.0));
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [1234.5, 12.34, 1.234, 0.1234, 0.0].map(short).into();
        assert_eq!(shown, ["1234", "12.3", "1.23", "0.123", "0.000"]);
    }

    #[test]
    fn a_row_has_as_many_cells_as_the_head() {
        let cells = |line: &str| line.matches('|').count();
        let row = Figures::default().markdown("100/s");
        assert_eq!(cells(&row), cells(HEAD.lines().next().unwrap()));
    }
}
