//! What a report says, as numbers: what the terminal, the page, JSON and CSV
//! are all made from.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

use super::series::Series;
use super::slots::Sat;

/// A second since 1970; RFC 3339 in JSON and CSV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Timestamp::from_second(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "@{}", self.0),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The first and the last line that counted.
    pub period: Option<(Moment, Moment)>,
    /// Lines that were read.
    pub lines: u64,
    /// Bytes of them, uncompressed.
    pub bytes: u64,
    /// Lines of Courier's sessions or rblfilter that were understood and in the time asked for.
    pub counted_lines: u64,
    /// Lines that are not in the time asked for, whoever's they are.
    pub outside: u64,
    /// The first and the last of them.
    pub outside_period: Option<(Moment, Moment)>,
    /// Lines without a stamp that is known.
    pub no_stamp: u64,
    /// Bounds that were reached, in words.
    pub limits: Vec<String>,
    /// Sums.
    pub totals: Totals,
    /// The slots.
    pub slots: SlotsSummary,
    /// Refusals by list or reply, the most frequent first.
    pub refusals: Vec<Refusal>,
    /// The networks with the most connections.
    pub networks: Vec<Network>,
    /// By how much each of their counts may be too low.
    pub networks_error: u64,
    /// Connections in a minute that are usual at the end of the log.
    pub usual: f64,
    /// All waves; of more than a thousand, the largest are listed.
    pub waves_found: u64,
    /// In order.
    pub waves: Vec<Wave>,
    /// All of them; at most `CANDIDATES` are listed.
    pub candidates_found: u64,
    /// Refused clients that may be legitimate, the likeliest first.
    pub candidates: Vec<Candidate>,
    /// What rblfilter would have done with those that Courier refused.
    pub without: Without,
    /// What rblfilter said of itself that is not well.
    pub troubles: Vec<Trouble>,
    /// Where the log names addresses and domains, they are cut down.
    pub anonymised: bool,
    /// The counts over time.
    #[serde(serialize_with = "points")]
    pub series: Series,
    /// For people.
    #[serde(skip)]
    pub zone: TimeZone,
}

/// Candidates that are listed.
pub const CANDIDATES: usize = 1000;

/// Sums over the whole time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Connections that couriertcpd took, also those that it dropped at once.
    pub connections: u64,
    /// Different addresses.
    pub addresses: u64,
    /// That number is an estimate.
    pub addresses_estimated: bool,
    /// Messages that came by SMTP and were taken over.
    pub accepted: u64,
    /// Those of clients that had logged in.
    pub authenticated: u64,
    /// Sessions refused by rblfilter.
    pub listed_by_us: u64,
    /// Sessions refused because of Courier's lists (511, `-drop`).
    pub listed_by_courier: u64,
    /// Sessions refused for other reasons (5xx).
    pub refused: u64,
    /// Sessions told to try again (4xx).
    pub deferred: u64,
    /// Connections above MAXPERIP or MAXPERC.
    pub too_many: u64,
    /// Bans that verdicts made.
    pub bans: u64,
    /// Bans by hand.
    pub bans_by_hand: u64,
    /// Sessions that rblfilter ended after a verdict.
    pub ended: u64,
    /// Sessions that the slot guard ended.
    pub shed: u64,
    /// Verdicts in `observe`, which did nothing.
    pub observed: u64,
    /// Sessions that were silent until Courier's own limit.
    pub timed_out: u64,
}

/// The slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SlotsSummary {
    /// How many there are, where the log told.
    pub all: Option<u32>,
    /// Most in use, by the estimate.
    pub most: u32,
    /// When that was.
    pub most_at: Option<Moment>,
    /// Most in use, by Courier's own count.
    pub counted: u32,
    /// How often Courier said that all are in use.
    pub full: u64,
    /// How long a session counts after its last line, where its end is not in the log, in seconds.
    pub hold: i64,
}

/// One list or reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// `rblfilter` or `courier`.
    pub by: &'static str,
    /// The list's name, or the reply.
    pub what: String,
    /// Verdicts, or replies.
    pub times: u64,
    /// Bans.
    pub bans: u64,
}

/// One network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    /// /24 or /64; shorter where the report is anonymised.
    pub network: String,
    /// Connections.
    pub connections: u64,
    /// Sessions that were refused.
    pub refused: u64,
    /// Bans.
    pub bans: u64,
    /// Messages that were taken over.
    pub accepted: u64,
}

/// One wave; see `waves.rs` for the rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wave {
    /// When it began.
    pub begin: Moment,
    /// Its length in seconds.
    pub seconds: i64,
    /// Connections.
    pub connections: u64,
    /// Connections in its fullest ten seconds, as a rate a minute.
    pub peak_a_minute: u64,
    /// When that was.
    pub peak_at: Moment,
    /// Different addresses.
    pub addresses: u64,
    /// Sessions that were refused.
    pub refused: u64,
    /// Most slots in use, by the estimate.
    pub slots: u32,
}

/// Why a refused client may be legitimate; the strongest reason first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// It delivered before its first refusal and after its last.
    BeforeAndAfter,
    /// It delivered before.
    Before,
    /// It delivered after.
    After,
    /// Another client of its network delivered.
    Network,
    /// Its sender's domain delivered from somewhere else.
    Domain,
}

/// A refused client that may be legitimate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its address, or network where the report is anonymised.
    pub client: String,
    /// The domain that it last named as its sender's.
    pub domain: Option<String>,
    /// The rule.
    pub because: Because,
    /// How often it was refused because of a list.
    pub refused: u64,
    /// Messages that it delivered, or its sender's domain by rule `domain`.
    pub delivered: u64,
    /// Its first refusal.
    pub first: Moment,
    /// Its last.
    pub last: Moment,
}

/// What rblfilter would have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Without {
    /// Sessions that Courier refused because of its lists and that held their slots on.
    pub sessions: u64,
    /// Those that were silent until Courier's own limit.
    pub timed_out: u64,
    /// Their slot-seconds between first and last line.
    pub slot_seconds_seen: u64,
    /// Their slot-seconds by the estimate.
    pub slot_seconds_assumed: u64,
    /// Bans that it would have set, with its defaults.
    pub bans: u64,
    /// Connections that these would have kept out.
    pub kept_out: u64,
}

impl Without {
    /// With what the sessions cost.
    #[must_use]
    pub fn of(sat: Sat, bans: u64, kept_out: u64) -> Self {
        Self {
            sessions: sat.sessions,
            timed_out: sat.timed_out,
            slot_seconds_seen: sat.seen,
            slot_seconds_assumed: sat.assumed,
            bans,
            kept_out,
        }
    }
}

/// What rblfilter said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The event and its object.
    pub what: String,
    /// How often.
    pub times: u64,
}

/// A step of the series, as programs get it.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Its beginning.
    pub begin: Moment,
    /// Its length.
    pub seconds: i64,
    /// Connections.
    pub connections: u64,
    /// Messages taken over.
    pub accepted: u64,
    /// Sessions refused because of a list.
    pub listed: u64,
    /// Sessions refused for other reasons.
    pub refused: u64,
    /// Bans.
    pub bans: u64,
    /// Sessions ended by the slot guard.
    pub shed: u64,
    /// Slots in use in the mean, by the estimate.
    pub slots_mean: f64,
    /// Most slots in use, by the estimate.
    pub slots_most: u32,
    /// Most slots in use, by Courier's own count; 0 where it did not tell.
    pub slots_counted: u32,
}

impl Report {
    /// The steps for programs.
    pub fn points(&self) -> impl Iterator<Item = Point> {
        points_of(&self.series)
    }
}

fn points_of(series: &Series) -> impl Iterator<Item = Point> {
    let seconds = series.width();
    series.steps().map(move |(begin, counts)| Point {
        begin: Moment(begin),
        seconds,
        connections: counts.connections,
        accepted: counts.accepted,
        listed: counts.listed,
        refused: counts.refused,
        bans: counts.bans,
        shed: counts.shed,
        #[allow(clippy::cast_precision_loss)] // for people
        slots_mean: (counts.slot_seconds as f64 / seconds as f64 * 100.0).round() / 100.0,
        slots_most: counts.most(seconds),
        slots_counted: counts.counted,
    })
}

fn points<S: Serializer>(series: &Series, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(points_of(series))
}
