//! `rblfilter.toml` as it is written: every key, its type, its default.

use rblfilter_warden::policy::{DEFAULT_SET4, DEFAULT_SET6};
use serde::Deserialize;
use toml::Spanned;

/// Every key there is, as `table.key`; the sample configuration and the manual
/// page are compared with it.
#[cfg(test)]
pub const KEYS: [&str; 27] = [
    "mode",
    "watch",
    "poll-interval",
    "ports",
    "block-variables",
    "exempt-recipients",
    "kill",
    "grace",
    "allow.networks",
    "guard.enabled",
    "guard.high-water",
    "guard.low-water",
    "ban.time",
    "ban.set4",
    "ban.set6",
    "ban.prefix6",
    "reply.text",
    "reply.contact",
    "lookup.limit",
    "lookup.nameservers",
    "log.level",
    "dnsbl.zone",
    "dnsbl.name",
    "dnsbl.codes",
    "dnsbl.ipv4",
    "dnsbl.ipv6",
    "dnsbl.lookup-url",
];

/// A value and where it stands, so that a wrong one can be pointed at.
type Text = Spanned<String>;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct File {
    pub mode: Text,
    pub watch: Text,
    pub poll_interval: Text,
    pub ports: Spanned<Vec<u16>>,
    pub block_variables: Vec<Text>,
    pub exempt_recipients: Vec<Text>,
    pub kill: Text,
    pub grace: Text,
    pub allow: Allow,
    pub guard: Guard,
    pub ban: Ban,
    pub reply: Reply,
    pub lookup: Lookup,
    pub log: Log,
    pub dnsbl: Vec<Dnsbl>,
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
    pub high_water: Spanned<u8>,
    pub low_water: Spanned<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Ban {
    pub time: Text,
    pub set4: Text,
    pub set6: Text,
    pub prefix6: Spanned<u8>,
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
    pub nameservers: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Log {
    pub level: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Dnsbl {
    pub zone: Text,
    pub name: Option<Text>,
    #[serde(default = "all_codes")]
    pub codes: Spanned<Vec<Text>>,
    #[serde(default = "yes")]
    pub ipv4: bool,
    #[serde(default = "yes")]
    pub ipv6: bool,
    pub lookup_url: Option<Text>,
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
fn all_codes() -> Spanned<Vec<Text>> {
    unwritten(texts(&[
        "127.0.0.2-127.0.0.254",
        "127.0.1.0-127.255.254.255",
    ]))
}

impl Default for File {
    fn default() -> Self {
        Self {
            mode: text("enforce"),
            watch: text("auto"),
            poll_interval: text("10ms"),
            ports: unwritten(vec![25]),
            block_variables: texts(&["BLOCK", "BLOCK2"]),
            exempt_recipients: texts(&["postmaster", "abuse"]),
            kill: text("always"),
            grace: text("10s"),
            allow: Allow::default(),
            guard: Guard::default(),
            ban: Ban::default(),
            reply: Reply::default(),
            lookup: Lookup::default(),
            log: Log::default(),
            dnsbl: Vec::new(),
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

impl Default for Ban {
    fn default() -> Self {
        Self {
            time: text("1h"),
            set4: text(DEFAULT_SET4),
            set6: text(DEFAULT_SET6),
            prefix6: unwritten(64),
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
            nameservers: Vec::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: text("info"),
        }
    }
}
