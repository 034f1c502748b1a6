//! `rblfilter.toml` as it is written: every key, its type, its default.

use rblfilter_warden::policy::{
    DEFAULT_GATE_ASKS, DEFAULT_GATE_LIMIT, DEFAULT_GATE_QUEUE, DEFAULT_MAX_ENTRIES,
    DEFAULT_NEW_PER_SECOND, DEFAULT_SET4, DEFAULT_SET6,
};
use serde::Deserialize;
use toml::Spanned;

use crate::log::LINES_PER_SECOND;

/// A value and where it stands, so that a wrong one can be pointed at.
pub type Text = Spanned<String>;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct File {
    pub include: Text,
    pub mode: Text,
    pub watch: Text,
    pub poll_interval: Text,
    pub ports: Spanned<Vec<Spanned<i64>>>,
    /// A list of names, or a table of scores.
    pub block_variables: Spanned<toml::Value>,
    pub exempt_recipients: Vec<Text>,
    pub kill: Text,
    pub grace: Text,
    pub retention: Text,
    pub allow: Allow,
    pub guard: Guard,
    pub gate: Gate,
    pub score: Score,
    pub never_ban: NeverBan,
    pub ban: Ban,
    pub firewall: Firewall,
    pub reply: Reply,
    pub lookup: Lookup,
    pub cache: Cache,
    pub log: Log,
    pub metrics: Metrics,
    pub reload: Reload,
    pub sandbox: Sandbox,
    pub dnsbl: Vec<Dnsbl>,
    pub dnswl: Vec<Dnswl>,
}

/// The file that `include` names: lists alone.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Included {
    pub dnsbl: Vec<Dnsbl>,
    pub dnswl: Vec<Dnswl>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Allow {
    pub networks: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Guard {
    pub enabled: bool,
    pub high_water: Spanned<i64>,
    pub low_water: Spanned<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Gate {
    pub enabled: Spanned<bool>,
    pub limit: Text,
    pub queue: Spanned<i64>,
    pub asks_per_second: Spanned<i64>,
    pub max_entries: Spanned<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Score {
    pub reject: Spanned<f64>,
    pub ban: Spanned<f64>,
    pub ban_needs: Spanned<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NeverBan {
    pub relays: Vec<Text>,
    pub spf: Vec<Text>,
    pub dnswl: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Metrics {
    pub listen: Text,
    pub textfile: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Cache {
    pub entries: Spanned<i64>,
    pub min_ttl: Text,
    pub max_ttl: Text,
    pub max_negative_ttl: Text,
    pub stale: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Ban {
    pub time: Text,
    pub factor: Spanned<f64>,
    pub max_time: Text,
    pub window: Text,
    pub look_again: Text,
    pub set4: Text,
    pub set6: Text,
    pub prefix6: Spanned<i64>,
    pub backend: Text,
    pub max_entries: Spanned<i64>,
    pub when_full: Text,
    pub new_per_second: Spanned<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Firewall {
    pub manage: bool,
    pub packet: Text,
    pub limit: Text,
    pub limit_per_network: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Reply {
    pub text: Text,
    pub contact: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Lookup {
    pub limit: Text,
    pub query_limit: Text,
    pub in_flight: Spanned<i64>,
    pub nameservers: Vec<Text>,
    pub query_non_global: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Log {
    pub level: Text,
    pub lines_per_second: Spanned<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Reload {
    pub on_change: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Sandbox {
    pub seccomp: Text,
    pub landlock: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Dnsbl {
    pub zone: Text,
    pub name: Option<Text>,
    #[serde(default = "all_codes")]
    pub codes: Codes,
    pub score: Option<Spanned<f64>>,
    pub message: Option<Text>,
    #[serde(default = "yes")]
    pub ipv4: bool,
    #[serde(default = "yes")]
    pub ipv6: bool,
    pub lookup_url: Option<Text>,
    #[serde(default = "yes")]
    pub self_test: bool,
    #[serde(default)]
    pub max_queries_per_day: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Dnswl {
    pub zone: Text,
    pub name: Option<Text>,
    pub codes: Option<Codes>,
    pub score: Option<Spanned<f64>>,
    pub trust: Option<Spanned<Trust>>,
    #[serde(default = "yes")]
    pub ipv4: bool,
    #[serde(default = "yes")]
    pub ipv6: bool,
    #[serde(default = "yes")]
    pub self_test: bool,
    #[serde(default)]
    pub max_queries_per_day: Option<Spanned<i64>>,
}

/// Each an address or a range, or a table of some with their own score.
pub type Codes = Spanned<Vec<Spanned<toml::Value>>>;

/// The scores of DNSWL's four levels.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Trust {
    pub none: f64,
    pub low: f64,
    pub medium: f64,
    pub high: f64,
}

/// A default: a value that stands nowhere in the file.
fn unwritten<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn text(value: &str) -> Text {
    unwritten(value.to_owned())
}

fn texts(values: &[&str]) -> Vec<Text> {
    values.iter().map(|value| text(value)).collect()
}

fn yes() -> bool {
    true
}

/// What a list answers for a listed address by RFC 5782 §2.1, less the values
/// that lists use for errors (127.0.0.1, 127.0.0.255, 127.255.255.0/24).
pub fn all_codes() -> Codes {
    let ranges = ["127.0.0.2-127.0.0.254", "127.0.1.0-127.255.254.255"];
    unwritten(ranges.map(|range| unwritten(range.into())).into())
}

impl Default for File {
    fn default() -> Self {
        Self {
            include: text(""),
            mode: text("enforce"),
            watch: text("auto"),
            poll_interval: text("10ms"),
            ports: unwritten(vec![unwritten(25)]),
            block_variables: unwritten(toml::Value::from(vec!["BLOCK", "BLOCK2"])),
            exempt_recipients: texts(&["postmaster", "abuse"]),
            kill: text("always"),
            grace: text("10s"),
            retention: text("30d"),
            allow: Allow::default(),
            guard: Guard::default(),
            gate: Gate::default(),
            score: Score::default(),
            never_ban: NeverBan::default(),
            ban: Ban::default(),
            firewall: Firewall::default(),
            reply: Reply::default(),
            lookup: Lookup::default(),
            cache: Cache::default(),
            log: Log::default(),
            metrics: Metrics::default(),
            reload: Reload::default(),
            sandbox: Sandbox::default(),
            dnsbl: Vec::new(),
            dnswl: Vec::new(),
        }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            enabled: true,
            high_water: unwritten(80),
            low_water: unwritten(60),
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            enabled: unwritten(false),
            limit: text(DEFAULT_GATE_LIMIT),
            queue: unwritten(DEFAULT_GATE_QUEUE.into()),
            asks_per_second: unwritten(DEFAULT_GATE_ASKS.into()),
            max_entries: unwritten(DEFAULT_MAX_ENTRIES.into()),
        }
    }
}

impl Default for Ban {
    fn default() -> Self {
        Self {
            time: text("1h"),
            factor: unwritten(2.0),
            max_time: text("24h"),
            window: text("7d"),
            look_again: text("1h"),
            set4: text(DEFAULT_SET4),
            set6: text(DEFAULT_SET6),
            prefix6: unwritten(64),
            backend: text("auto"),
            max_entries: unwritten(DEFAULT_MAX_ENTRIES.into()),
            when_full: text("replace"),
            new_per_second: unwritten(DEFAULT_NEW_PER_SECOND.into()),
        }
    }
}

impl Default for Firewall {
    fn default() -> Self {
        Self {
            manage: true,
            packet: text("drop"),
            limit: text(""),
            limit_per_network: text(""),
        }
    }
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            text: text("Client [{ip}] is listed by {zone} {lookup_url} {contact}"),
            contact: text(""),
        }
    }
}

impl Default for Lookup {
    fn default() -> Self {
        Self {
            limit: text("2s"),
            query_limit: text("900ms"),
            in_flight: unwritten(512),
            nameservers: Vec::new(),
            query_non_global: false,
        }
    }
}

impl Default for Score {
    fn default() -> Self {
        Self {
            reject: unwritten(5.0),
            ban: unwritten(10.0),
            ban_needs: unwritten(1),
        }
    }
}

impl Default for NeverBan {
    fn default() -> Self {
        Self {
            relays: Vec::new(),
            spf: Vec::new(),
            dnswl: true,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            entries: unwritten(1_000_000),
            min_ttl: text("1m"),
            max_ttl: text("6h"),
            max_negative_ttl: text("15m"),
            stale: text("6h"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: text(""),
            textfile: text(""),
        }
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            seccomp: text("auto"),
            landlock: text("auto"),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: text("info"),
            lines_per_second: unwritten(LINES_PER_SECOND.into()),
        }
    }
}
