//! Events in, a report out: the sums, and the tables that the other files keep.

use std::net::IpAddr;

use jiff::tz::TimeZone;

use super::candidates::{Candidates, masked};
use super::distinct::Distinct;
use super::frequent::{Count, Frequent};
use super::labels::{Labels, printable, reply};
use super::line::{self, Event, Ours};
use super::series::Series;
use super::slots::{Client, Mark, Slots, packed, unpacked};
use super::stamp::Clock;
use super::summary::{
    CANDIDATES, Candidate, Moment, Network, Refusal, Report, SlotsSummary, Totals, Trouble, Wave,
    Without,
};
use super::waves::{self, Detector, Step};
use crate::courier::log_line::LogLine;

/// Networks that are counted.
const NETWORKS: usize = 32_768;
/// Those that are listed.
const LISTED_NETWORKS: usize = 100;
/// Addresses that are counted exactly.
const ADDRESSES: usize = 65_536;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of the reader, and of stamps that name none.
    pub zone: TimeZone,
    /// Lines before this second do not count.
    pub since: Option<i64>,
    /// Lines from this second on do not count.
    pub until: Option<i64>,
    /// How long a session counts after its last line, where its end is not in the log, in seconds.
    pub hold: i64,
    /// Addresses are cut down to /24 and /48, domains to their last part.
    pub anonymise: bool,
}

#[derive(Debug, Default)]
struct NetworkCount {
    connections: u64,
    refused: u64,
    bans: u64,
    accepted: u64,
}

impl Count for NetworkCount {
    fn weight(&self) -> u64 {
        self.connections + self.refused + self.accepted
    }
}

#[derive(Debug, Default)]
struct Verdicts {
    times: u64,
    bans: u64,
}

/// The sums so far.
#[derive(Debug)]
pub struct Tally {
    options: Options,
    lines: u64,
    bytes: u64,
    counted: u64,
    no_stamp: u64,
    outside: u64,
    outside_period: Option<(i64, i64)>,
    period: Option<(i64, i64)>,
    totals: Totals,
    addresses: Distinct,
    series: Series,
    slots: Slots,
    counted_slots: u32,
    full: u64,
    lists: Labels<Verdicts>,
    replies: Labels<u64>,
    troubles: Labels<u64>,
    networks: Frequent<u128, NetworkCount>,
    candidates: Candidates,
    played_bans: u64,
    kept_out: u64,
    step: Option<Step>,
    detector: Detector,
}

impl Tally {
    /// Nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            slots: Slots::new(options.hold),
            options,
            lines: 0,
            bytes: 0,
            counted: 0,
            no_stamp: 0,
            outside: 0,
            outside_period: None,
            period: None,
            totals: Totals::default(),
            addresses: Distinct::new(ADDRESSES),
            series: Series::default(),
            counted_slots: 0,
            full: 0,
            lists: Labels::default(),
            replies: Labels::default(),
            troubles: Labels::default(),
            networks: Frequent::new(NETWORKS),
            candidates: Candidates::default(),
            played_bans: 0,
            kept_out: 0,
            step: None,
            detector: Detector::default(),
        }
    }

    /// Reads lines, each ended by a newline but perhaps the last.
    pub fn read(&mut self, clock: &mut Clock, block: &[u8]) {
        self.bytes += block.len() as u64;
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', block) {
            self.line(clock, &block[begin..end]);
            begin = end + 1;
        }
        if begin < block.len() {
            self.line(clock, &block[begin..]);
        }
    }

    fn line(&mut self, clock: &mut Clock, line: &[u8]) {
        self.lines += 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(head) = clock.head(line) else {
            self.no_stamp += u64::from(!line.is_empty());
            return;
        };
        if self.options.since.is_some_and(|since| head.at < since)
            || self.options.until.is_some_and(|until| head.at >= until)
        {
            self.outside += 1;
            self.outside_period = Some(with(self.outside_period, head.at));
            return;
        }
        if let Some((event, times)) = line::event(&head.ident, &head.message) {
            self.add(head.at, &event, times);
        }
    }

    /// Counts an event that was logged so many times.
    pub fn add(&mut self, at: i64, event: &Event<'_>, times: u64) {
        self.counted += 1;
        self.period = Some(with(self.period, at));
        self.slots.advance(at, &mut self.series);
        match event {
            Event::Courier(line) => self.courier(at, line, times),
            Event::Ours(ours) => self.ours(at, ours, times),
        }
        let used = self.slots.used();
        if used > 0 {
            self.series.in_use(at, at, used);
        }
        if let Some(step) = &mut self.step {
            step.slots = step.slots.max(used);
        }
    }

    fn courier(&mut self, at: i64, line: &LogLine<'_>, times: u64) {
        match *line {
            LogLine::Started { ip, port } => {
                let ip = packed(ip);
                if self.slots.start((ip, port)) {
                    self.connection(at, ip, 1);
                }
            }
            LogLine::Refused {
                ip,
                port,
                from,
                reply: said,
            } => self.refused(at, (packed(ip), port.unwrap_or(0)), from, said),
            LogLine::Dropped { ip } => {
                let ip = packed(ip);
                self.connection(at, ip, times);
                self.totals.listed_by_courier += times;
                self.series.at(at).listed += times;
                self.refusal(at, ip, times);
                *self.replies.of("dropped blocked connection (-drop)") += times;
                self.listed_by_courier(at, ip, None);
            }
            LogLine::TooMany { ip } => {
                let ip = packed(ip);
                self.connection(at, ip, times);
                self.totals.too_many += times;
                self.series.at(at).refused += times;
                self.refusal(at, ip, times);
            }
            LogLine::Active { slots, all } => {
                let step = self.series.at(at);
                step.counted = step.counted.max(slots);
                self.counted_slots = self.counted_slots.max(slots);
                if all {
                    self.full += times;
                    self.slots.of(slots);
                }
            }
            LogLine::Lost { ip, timed_out } => {
                let ip = packed(ip);
                self.totals.timed_out += u64::from(timed_out);
                self.slots.lost(ip, timed_out, &mut self.series);
            }
            LogLine::Accepted {
                id,
                ip: Some(ip),
                authenticated,
            } => {
                let ip = packed(ip);
                self.totals.accepted += 1;
                self.totals.authenticated += u64::from(authenticated);
                self.series.at(at).accepted += 1;
                self.network(ip).accepted += 1;
                self.slots.delivered(ip);
                if !authenticated {
                    self.candidates.delivered(at, ip, id);
                }
            }
            LogLine::Accepted { ip: None, .. } => {}
            LogLine::Sender { id, from } => self.candidates.sender(id, from),
        }
    }

    fn refused(&mut self, at: i64, client: Client, from: Option<&[u8]>, said: &[u8]) {
        *self.replies.of(&reply(said)) += 1;
        if said.first() == Some(&b'4') {
            if self.slots.refused(client, Mark::Other, &[]) {
                self.totals.deferred += 1;
            }
            return;
        }
        // submit says so where BLOCK is set.
        if said.starts_with(b"511") {
            if self.slots.refused(client, Mark::Courier, &[Mark::Ours]) {
                self.totals.listed_by_courier += 1;
                self.series.at(at).listed += 1;
                self.refusal(at, client.0, 1);
                self.listed_by_courier(at, client.0, from);
            }
        } else if self
            .slots
            .refused(client, Mark::Other, &[Mark::Ours, Mark::Courier])
        {
            self.totals.refused += 1;
            self.series.at(at).refused += 1;
            self.refusal(at, client.0, 1);
        }
    }

    /// What rblfilter would have done with a client that Courier refuses.
    fn listed_by_courier(&mut self, at: i64, ip: u128, from: Option<&[u8]>) {
        self.candidates.refused(at, ip, from);
        self.played_bans += u64::from(self.candidates.play_ban(at, ip));
    }

    fn ours(&mut self, at: i64, ours: &Ours<'_>, times: u64) {
        match ours.event {
            b"listed" => self.listed(at, ours, times),
            b"ended" => {
                self.totals.ended += times;
                if let Some(ip) = ours.ip {
                    self.slots.end((packed(ip), ours.port.unwrap_or(0)));
                }
            }
            b"shed" => {
                self.totals.shed += times;
                self.series.at(at).shed += times;
                if let Some(ip) = ours.ip {
                    self.slots.end((packed(ip), ours.port.unwrap_or(0)));
                }
            }
            b"byhand" if ours.what == b"ban" => {
                self.totals.bans_by_hand += times;
                self.series.at(at).bans += times;
            }
            b"guard" if ours.state == b"on" => {
                if let Some(used) = ours.used {
                    let step = self.series.at(at);
                    step.counted = step.counted.max(used);
                    self.counted_slots = self.counted_slots.max(used);
                }
                if let Some(slots) = ours.slots {
                    self.slots.of(slots);
                }
            }
            b"degraded" | b"disabled" | b"failed" | b"worker" | b"lifted" | b"bug" | b"late" => {
                let mut what = printable(ours.event);
                for detail in [ours.what, ours.zone] {
                    if !detail.is_empty() {
                        what.push(' ');
                        what.push_str(&printable(detail));
                    }
                }
                *self.troubles.of(&what) += times;
            }
            _ => {}
        }
    }

    fn listed(&mut self, at: i64, ours: &Ours<'_>, times: u64) {
        let ban = ours.action == b"ban";
        // A sum names no list.
        let list = if ours.zone.is_empty() {
            "(summed up)".to_owned()
        } else {
            printable(ours.zone)
        };
        let verdicts = self.lists.of(&list);
        verdicts.times += times;
        verdicts.bans += if ban { times } else { 0 };
        let client = ours.ip.map(|ip| (packed(ip), ours.port.unwrap_or(0)));
        // Its `started` may come later, or never: it was ended before that.
        if ours.at_connect
            && let Some(client) = client
            && self.slots.start(client)
        {
            self.connection(at, client.0, 1);
        }
        if ours.action == b"none" {
            self.totals.observed += times;
            if let Some((ip, _)) = client {
                self.candidates.refused(at, ip, None);
            }
            return;
        }
        if ban {
            self.totals.bans += times;
            self.series.at(at).bans += times;
        }
        let Some(client) = client else {
            self.totals.listed_by_us += times;
            self.series.at(at).listed += times;
            // Each was a connection; of some the log tells the begin.
            let ends = matches!(ours.action, b"ban" | b"kill");
            if ours.at_connect && ends {
                let since = at - i64::from(ours.seconds.unwrap_or(0)) - 1;
                let begun = self.slots.end_some(since, times);
                let times = times.saturating_sub(begun);
                self.totals.connections += times;
                self.series.at(at).connections += times;
                self.wave_step(at).connections += times;
                self.totals.ended += begun + times;
            }
            self.wave_step(at).refused += times;
            return;
        };
        if self.slots.refused(client, Mark::Ours, &[Mark::Courier]) {
            self.totals.listed_by_us += times;
            self.series.at(at).listed += times;
            self.refusal(at, client.0, times);
        }
        if ban {
            self.network(client.0).bans += times;
        }
        self.candidates.refused(at, client.0, None);
        if ours.killed.is_some() {
            self.totals.ended += times;
            self.slots.end(client);
        }
    }

    fn connection(&mut self, at: i64, ip: u128, times: u64) {
        self.totals.connections += times;
        self.addresses.add(&ip);
        self.series.at(at).connections += times;
        self.network(ip).connections += times;
        if self.candidates.would_be_banned(at, ip) {
            self.kept_out += times;
        }
        let step = self.wave_step(at);
        step.connections += times;
        step.addresses.add(&ip);
    }

    fn refusal(&mut self, at: i64, ip: u128, times: u64) {
        self.network(ip).refused += times;
        self.wave_step(at).refused += times;
    }

    fn network(&mut self, ip: u128) -> &mut NetworkCount {
        let six = if self.options.anonymise { 48 } else { 64 };
        self.networks.of(masked(ip, 24, six))
    }

    /// The step of this second; lines that are late count in the newest.
    fn wave_step(&mut self, at: i64) -> &mut Step {
        let begin = at.div_euclid(waves::STEP) * waves::STEP;
        let newer = self.step.as_ref().is_none_or(|step| step.at < begin);
        if newer && let Some(step) = self.step.take() {
            self.detector.step(step);
        }
        self.step.get_or_insert_with(|| Step::new(begin))
    }

    /// The report.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let sat = self.slots.finish();
        if let Some(step) = self.step.take() {
            self.detector.step(step);
        }
        let (found, waves_found, usual) = self.detector.finish();
        let (mut candidates, lost) = self.candidates.finish();
        if self.options.anonymise {
            candidates = anonymised(candidates);
        }
        let candidates_found = candidates.len() as u64;
        candidates.truncate(CANDIDATES);
        let mut limits = Vec::new();
        if lost {
            limits.push("more refused or delivering clients or senders' domains than are kept: some candidates and bans are missing".to_owned());
        }
        if self.slots.cut_short() > 0 {
            limits.push(format!(
                "{} sessions were too many to follow at the same time: slots are too few",
                self.slots.cut_short()
            ));
        }
        let networks_error = self.networks.error();
        if networks_error > 0 {
            limits.push(format!(
                "more networks than are counted: each of their counts may be too low by up to {networks_error}"
            ));
        }
        let all = self.slots.all();
        let most = |slots: u32| all.map_or(slots, |all| slots.min(all));
        let width = self.series.width();
        let peak = self
            .series
            .steps()
            .map(|(at, counts)| (most(counts.most(width)), std::cmp::Reverse(at)))
            .max();
        let (addresses, addresses_estimated) = self.addresses.count();
        self.totals.addresses = addresses;
        self.totals.addresses_estimated = addresses_estimated;
        Report {
            period: self
                .period
                .map(|(first, last)| (Moment(first), Moment(last))),
            lines: self.lines,
            bytes: self.bytes,
            counted_lines: self.counted,
            outside: self.outside,
            outside_period: self
                .outside_period
                .map(|(first, last)| (Moment(first), Moment(last))),
            no_stamp: self.no_stamp,
            limits,
            totals: self.totals,
            slots: SlotsSummary {
                all,
                most: peak.map_or(0, |(slots, _)| slots),
                most_at: peak
                    .filter(|(slots, _)| *slots > 0)
                    .map(|(_, at)| Moment(at.0)),
                counted: self.counted_slots,
                full: self.full,
                hold: self.options.hold,
            },
            refusals: refusals(self.lists, self.replies),
            networks: self
                .networks
                .into_sorted()
                .into_iter()
                .take(LISTED_NETWORKS)
                .map(|(ip, count)| network(ip, &count, self.options.anonymise))
                .collect(),
            networks_error,
            #[allow(clippy::cast_precision_loss)] // ten seconds
            usual: (usual * 60.0 / waves::STEP as f64 * 10.0).round() / 10.0,
            waves_found,
            waves: found
                .iter()
                .map(|wave| of_wave(wave, &self.series, all))
                .collect(),
            candidates_found,
            candidates,
            without: Without::of(sat, self.played_bans, self.kept_out),
            troubles: self
                .troubles
                .into_sorted()
                .map(|(what, times)| Trouble { what, times })
                .collect(),
            anonymised: self.options.anonymise,
            series: self.series,
            zone: self.options.zone,
        }
    }
}

/// A period that holds this second, too.
fn with(period: Option<(i64, i64)>, at: i64) -> (i64, i64) {
    period.map_or((at, at), |(first, last)| (first.min(at), last.max(at)))
}

fn refusals(lists: Labels<Verdicts>, replies: Labels<u64>) -> Vec<Refusal> {
    let ours = lists.into_sorted().map(|(what, verdicts)| Refusal {
        by: "rblfilter",
        what,
        times: verdicts.times,
        bans: verdicts.bans,
    });
    let theirs = replies.into_sorted().map(|(what, times)| Refusal {
        by: "courier",
        what,
        times,
        bans: 0,
    });
    let mut all: Vec<Refusal> = ours.chain(theirs).collect();
    all.sort_by(|a, b| (b.by, b.times, &a.what).cmp(&(a.by, a.times, &b.what)));
    all
}

fn network(ip: u128, count: &NetworkCount, anonymise: bool) -> Network {
    let ip = unpacked(ip);
    let bits = match (ip.is_ipv4(), anonymise) {
        (true, _) => 24,
        (false, false) => 64,
        (false, true) => 48,
    };
    Network {
        network: format!("{ip}/{bits}"),
        connections: count.connections,
        refused: count.refused,
        bans: count.bans,
        accepted: count.accepted,
    }
}

fn of_wave(wave: &waves::Wave, series: &Series, all: Option<u32>) -> Wave {
    // What is known by now of sessions that timed out later.
    let width = series.width();
    let during = series
        .steps()
        .filter(|(at, _)| *at >= wave.begin && at + width <= wave.end)
        .map(|(_, counts)| counts.most(width));
    let slots = during.max().unwrap_or(0).max(wave.slots);
    Wave {
        begin: Moment(wave.begin),
        seconds: wave.end - wave.begin,
        connections: wave.connections,
        peak_a_minute: wave.peak * 60 / u64::try_from(waves::STEP).unwrap_or(1),
        peak_at: Moment(wave.peak_at),
        addresses: wave.addresses.count().0,
        refused: wave.refused,
        slots: all.map_or(slots, |all| slots.min(all)),
    }
}

/// Candidates without addresses and domains; those that look the same then are one.
fn anonymised(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for mut one in candidates {
        if let Ok(ip) = one.client.parse::<IpAddr>() {
            let bits = if ip.is_ipv4() { 24 } else { 48 };
            one.client = format!("{}/{bits}", unpacked(masked(packed(ip), 24, 48)));
        }
        one.domain = one.domain.map(|domain| {
            let last = domain.rsplit('.').next().unwrap_or_default();
            format!("*.{last}")
        });
        let key = (one.client.clone(), one.domain.clone(), one.because);
        if let Some(place) = places.get(&key) {
            let known: &mut Candidate = &mut all[*place];
            known.refused += one.refused;
            known.delivered += one.delivered;
            known.first = known.first.min(one.first);
            known.last = known.last.max(one.last);
        } else {
            places.insert(key, all.len());
            all.push(one);
        }
    }
    all
}
