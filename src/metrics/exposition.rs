//! What is counted, for Prometheus: as OpenMetrics 1.0, and as the text format
//! 0.0.4 that node_exporter's textfiles want. docs/metrics.md says what each
//! metric means.
//!
//! Bounded: labels are the configuration's lists, couriertcpd's instances
//! ([`MOST_LISTENERS`]) and words of ours; never an address or what a client says.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Metrics, Sentences};
use crate::dnsbl::{Counts, Said};
use crate::gate::PACKETS;
use crate::latency::Latency;

/// The instances of couriertcpd that are told.
pub const MOST_LISTENERS: usize = 32;

/// How it all is at a moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Whether sentences are carried out.
    pub enforce: bool,
    /// By what sessions are seen.
    pub watch: &'static str,
    /// The worker, where /proc tells of it.
    pub process: Option<Process>,
    /// Sessions that are followed.
    pub sessions: usize,
    /// Bans that run.
    pub bans: usize,
    /// Networks that are let in by hand.
    pub allowed: usize,
    /// Networks whose past bans are remembered.
    pub remembered: usize,
    /// Each couriertcpd: its name, its slots in use, all of them.
    pub listeners: Vec<(String, usize, Option<usize>)>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The lists.
    pub lists: Vec<List>,
    /// The lists' answers that are kept, and how many can be.
    pub cache: (usize, usize),
    /// How often they were of use.
    pub answers: Counts,
    /// What can fail, and how many of it have.
    pub degraded: Vec<(String, usize)>,
}

/// A process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// When it was started, in seconds since 1970.
    pub start: f64,
    /// Bytes of memory that it has.
    pub resident: u64,
    /// Seconds of processor time that it took.
    pub cpu: f64,
    /// Descriptors that are open.
    pub descriptors: u64,
}

/// A list.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// How it is shown: no key is in it.
    pub name: String,
    /// What it says.
    pub said: Said,
    /// For `ipv4` and `ipv6` clients, whether it is believed.
    pub believed: Vec<(&'static str, bool)>,
}

/// As OpenMetrics 1.0.
#[must_use]
pub fn open_metrics(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("rblfilter");
    registry.register_collector(Box::new(snapshot));
    let mut encoded = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut encoded, &registry);
    encoded
}

/// The same as the text format 0.0.4: a counter is called as its samples are, and
/// there are no units and no end.
#[must_use]
pub fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        if line.starts_with("# HELP ") {
            help = line.strip_prefix("# HELP ");
            continue;
        }
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let end = if kind == "counter" { "_total" } else { "" };
        if let Some((_, help)) = help.take().and_then(|help| help.split_once(' ')) {
            let _ = writeln!(text, "# HELP {name}{end} {help}");
        }
        let _ = writeln!(text, "# TYPE {name}{end} {kind}");
    }
    text
}

type Label = (&'static str, String);

/// Writes one metric after the other.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn all<L, V>(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        kind: MetricType,
        samples: impl IntoIterator<Item = (L, V)>,
        mut write: impl FnMut(&V, MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result
    where
        L: IntoIterator<Item = Label>,
    {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in samples {
            let labels: Vec<Label> = labels.into_iter().collect();
            if labels.is_empty() {
                // There is one of it.
                return write(&value, encoder);
            }
            write(&value, encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges((name, help, None), [([], value)])
    }

    fn gauges<L: IntoIterator<Item = Label>>(
        &mut self,
        of: (&str, &str, Option<Unit>),
        samples: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        self.all(of, MetricType::Gauge, samples, |value, encoder| {
            ConstGauge::new(*value).encode(encoder)
        })
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, [([], value)])
    }

    fn counters<L: IntoIterator<Item = Label>>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.all(
            (name, help, None),
            MetricType::Counter,
            samples,
            |value, encoder| ConstCounter::new(*value).encode(encoder),
        )
    }

    fn seconds<L: IntoIterator<Item = Label>>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, Latency)>,
    ) -> fmt::Result {
        self.all(
            (name, help, Some(Unit::Seconds)),
            MetricType::Histogram,
            samples,
            |value, encoder| value.encode(encoder),
        )
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Writer(encoder);
        self.of_process(&mut to)?;
        self.of_sessions(&mut to)?;
        self.of_bans(&mut to)?;
        self.of_lists(&mut to)?;
        self.of_gate(&mut to)?;
        to.gauges(
            (
                "degraded",
                "Parts that do not work, of each kind (docs/logging.md: degraded)",
                None,
            ),
            self.degraded
                .iter()
                .map(|(what, count)| ([("what", what.clone())], count_of(*count))),
        )
    }
}

impl Snapshot {
    fn of_process(&self, to: &mut Writer<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        to.gauges(
            ("build_info", "The program's version", None),
            [([("version", version)], 1.0)],
        )?;
        to.gauge(
            "enforce",
            "1: sentences are carried out; 0: mode is observe",
            f64::from(u8::from(self.enforce)),
        )?;
        to.gauges(
            ("watch_info", "By what sessions are seen", None),
            [([("by", self.watch.to_owned())], 1.0)],
        )?;
        let Some(process) = self.process else {
            return Ok(());
        };
        to.gauges(
            (
                "process_start_time",
                "When the worker was started, since 1970",
                Some(Unit::Seconds),
            ),
            [([], process.start)],
        )?;
        to.gauges(
            (
                "process_resident_memory",
                "Memory that the worker has",
                Some(Unit::Bytes),
            ),
            [([], process.resident as f64)],
        )?;
        to.all(
            (
                "process_cpu",
                "Processor time that the worker took",
                Some(Unit::Seconds),
            ),
            MetricType::Counter,
            [([], process.cpu)],
            |value, encoder| ConstCounter::new(*value).encode(encoder),
        )?;
        to.gauge(
            "process_open_fds",
            "Descriptors that the worker has open",
            process.descriptors as f64,
        )
    }

    fn of_sessions(&self, to: &mut Writer<'_>) -> fmt::Result {
        let metrics = &*self.metrics;
        to.counter(
            "sessions",
            "Sessions that were seen when they connected",
            metrics.sessions.get(),
        )?;
        to.gauge(
            "sessions_open",
            "Sessions that are followed now",
            count_of(self.sessions),
        )?;
        to.counter(
            "messages",
            "Messages that reached the filter at the end of their data",
            metrics.messages.get(),
        )?;
        let sentences = [
            ("gate", &metrics.at_gate),
            ("connect", &metrics.at_connect),
            ("message", &metrics.at_message),
        ];
        to.counters(
            "sentences",
            "What was decided, by where and what; in observe too",
            sentences.into_iter().flat_map(|(at, sentences)| {
                let Sentences {
                    exempt,
                    pass,
                    reject,
                    ban,
                } = sentences;
                [
                    ("exempt", exempt),
                    ("pass", pass),
                    ("reject", reject),
                    ("ban", ban),
                ]
                .map(|(sentence, count)| {
                    (
                        [("at", at.to_owned()), ("sentence", sentence.to_owned())],
                        count.get(),
                    )
                })
            }),
        )?;
        let ended = [
            ("connect", &metrics.ended.connect),
            ("message", &metrics.ended.message),
            ("silence", &metrics.ended.silence),
            ("hand", &metrics.ended.hand),
        ];
        to.counters(
            "sessions_ended",
            "Sessions that were ended: listed at connect, with a refused message, silent while slots were short, or by hand",
            ended.map(|(reason, count)| ([("reason", reason.to_owned())], count.get())),
        )?;
        to.counter(
            "watch_gaps",
            "Times that the kernel's word of new sessions had a gap",
            metrics.gaps.get(),
        )?;
        let listeners = || self.listeners.iter().take(MOST_LISTENERS);
        let names = unique(listeners().map(|(name, ..)| name));
        let label = |name: &String| [("listener", name.clone())];
        to.gauges(
            (
                "slots_used",
                "Connection slots of a couriertcpd that are in use",
                None,
            ),
            names
                .iter()
                .zip(listeners())
                .map(|(name, (_, used, _))| (label(name), count_of(*used))),
        )?;
        to.gauges(
            (
                "slots_max",
                "Connection slots that a couriertcpd has (MAXDAEMONS)",
                None,
            ),
            names
                .iter()
                .zip(listeners())
                .filter_map(|(name, (_, _, all))| Some((label(name), count_of((*all)?)))),
        )?;
        to.seconds(
            "verdict",
            "From the sight of a session to its sentence",
            [([], metrics.to_sentence.clone())],
        )?;
        to.seconds(
            "message_wait",
            "How long messages waited for the filter's answer",
            [([], metrics.waited.clone())],
        )
    }

    fn of_bans(&self, to: &mut Writer<'_>) -> fmt::Result {
        let metrics = &*self.metrics;
        to.gauge("bans", "Bans that run now", count_of(self.bans))?;
        to.counter("bans_set", "Bans that were set", metrics.bans.get())?;
        to.gauge(
            "allowed_networks",
            "Networks that are let in by hand now",
            count_of(self.allowed),
        )?;
        to.gauge(
            "former_bans",
            "Networks whose past bans are remembered",
            count_of(self.remembered),
        )?;
        let full = [("replaced", &metrics.replaced), ("grown", &metrics.grown)];
        to.counters(
            "set_full",
            "Bans that found the kernel's set full, by how room was made",
            full.map(|(room, count)| ([("room", room.to_owned())], count.get())),
        )?;
        to.counter(
            "set_emptied",
            "Times that the kernel's set was found missing, or emptied by somebody else",
            metrics.emptied.get(),
        )
    }

    fn of_lists(&self, to: &mut Writer<'_>) -> fmt::Result {
        let names = unique(self.lists.iter().map(|list| &list.name));
        let lists = || names.iter().zip(&self.lists);
        let by_result =
            |name: &str, result: &str| [("list", name.to_owned()), ("result", result.to_owned())];
        to.counters(
            "list_questions",
            "Questions to a list, by what came of them",
            lists().flat_map(|(name, list)| {
                let said = &list.said;
                [
                    ("listed", &said.listed),
                    ("not-listed", &said.unlisted),
                    ("timeout", &said.timeouts),
                    ("error", &said.errors),
                ]
                .map(|(result, count)| (by_result(name, result), count.get()))
            }),
        )?;
        to.counters(
            "list_kept_answers",
            "Answers of a list that were known already",
            lists().flat_map(|(name, list)| {
                let said = &list.said;
                [
                    ("listed", &said.kept_listed),
                    ("not-listed", &said.kept_unlisted),
                ]
                .map(|(result, count)| (by_result(name, result), count.get()))
            }),
        )?;
        to.seconds(
            "list_latency",
            "How long a list took to answer",
            lists().map(|(name, list)| ([("list", name.clone())], list.said.latency.clone())),
        )?;
        to.gauges(
            (
                "list_believed",
                "1: the list has passed its last test and is believed; 0: it convicts nobody",
                None,
            ),
            lists().flat_map(|(name, list)| {
                list.believed.iter().map(|(family, believed)| {
                    (
                        [("list", name.clone()), ("family", (*family).to_owned())],
                        f64::from(u8::from(*believed)),
                    )
                })
            }),
        )?;
        to.gauge(
            "cache_entries",
            "Answers of lists that are kept",
            count_of(self.cache.0),
        )?;
        to.gauge(
            "cache_entries_max",
            "Answers of lists that can be kept",
            count_of(self.cache.1),
        )?;
        to.counters(
            "answers",
            "Answers of lists that were wanted: known already, asked for, or of these given by no list",
            [
                ("kept", self.answers.hits),
                ("asked", self.answers.misses),
                ("unknown", self.answers.unknown),
            ]
            .map(|(source, count)| ([("source", source.to_owned())], count)),
        )
    }

    fn of_gate(&self, to: &mut Writer<'_>) -> fmt::Result {
        to.counters(
            "gate_packets",
            "First packets that came to the gate, by what became of them (docs/logging.md: gate)",
            PACKETS.map(|(result, count)| {
                (
                    [("result", result.to_owned())],
                    self.metrics.packets.of(count).get(),
                )
            }),
        )
    }
}

/// A count as Prometheus has it.
fn count_of(count: usize) -> f64 {
    #[allow(clippy::cast_precision_loss)] // beyond 2^53 nobody counts
    let count = count as f64;
    count
}

/// The names, each once: of two that are equal the second gets a number. Equal
/// labels would make a scrape of no use as a whole.
fn unique<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = HashSet::new();
    names
        .map(|name| {
            let mut unique = name.clone();
            let mut number = 2;
            while !seen.insert(unique.clone()) {
                unique = format!("{name} {number}");
                number += 1;
            }
            unique
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let list = |name: &str| List {
            name: name.into(),
            believed: vec![("ipv4", true), ("ipv6", false)],
            ..List::default()
        };
        let snapshot = Snapshot {
            process: Some(Process::default()),
            listeners: vec![("esmtpd".into(), 7, Some(300)), ("esmtpd".into(), 1, None)],
            lists: vec![list("bl.test"), list("bl.test"), list("a\"b\\c\nd")],
            degraded: vec![("warden".into(), 1)],
            ..Snapshot::default()
        };
        snapshot.metrics.sessions.inc_by(3);
        snapshot
            .metrics
            .to_sentence
            .observe(std::time::Duration::from_millis(2));
        snapshot.lists[0].said.listed.inc();
        snapshot
    }

    #[test]
    fn it_is_open_metrics() {
        let text = open_metrics(snapshot());
        for line in [
            "# TYPE rblfilter_sessions counter",
            "rblfilter_sessions_total 3",
            "rblfilter_slots_used{listener=\"esmtpd\"} 7.0",
            "rblfilter_slots_used{listener=\"esmtpd 2\"} 1.0",
            "rblfilter_slots_max{listener=\"esmtpd\"} 300.0",
            "# UNIT rblfilter_verdict_seconds seconds",
            "rblfilter_verdict_seconds_count 1",
            "rblfilter_list_questions_total{list=\"bl.test\",result=\"listed\"} 1",
            "rblfilter_list_believed{list=\"bl.test 2\",family=\"ipv6\"} 0.0",
            "rblfilter_degraded{what=\"warden\"} 1.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("list=\"a\\\"b\\\\c\\nd\""), "{text}");
    }

    #[test]
    fn no_two_samples_are_of_the_same_name_and_labels() {
        let text = open_metrics(snapshot());
        let mut seen = HashSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let series = line.rsplit_once(' ').unwrap().0;
            assert!(seen.insert(series), "{series}");
        }
    }

    #[test]
    fn a_counter_is_called_as_its_samples_are_in_the_text_format() {
        let text = classic(&open_metrics(snapshot()));
        for line in [
            "# HELP rblfilter_sessions_total Sessions that were seen when they connected",
            "# TYPE rblfilter_sessions_total counter",
            "rblfilter_sessions_total 3",
            "# TYPE rblfilter_verdict_seconds histogram",
            "# TYPE rblfilter_process_cpu_seconds_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("# UNIT") && !text.contains("EOF"));
    }

    #[test]
    fn so_many_listeners_are_told() {
        let mut snapshot = snapshot();
        snapshot.listeners = (0..100).map(|n| (n.to_string(), 1, Some(2))).collect();
        let text = open_metrics(snapshot);
        let told = text
            .lines()
            .filter(|line| line.starts_with("rblfilter_slots_used{"));
        assert_eq!(told.count(), MOST_LISTENERS);
    }
}
