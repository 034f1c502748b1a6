//! The checked `[ban]` and `[firewall]` tables.

use std::ops::RangeInclusive;
use std::time::Duration;

use rblfilter_warden::policy::{Backend, MAX_BAN_SECONDS, MAX_SET_NAME, WhenFull};
use toml::Spanned;

use super::error::Problem;
use super::file;
use super::model::Check;
use crate::enforce::durations::Durations;

/// The largest set, and the most bans in a second.
const MOST_ENTRIES: usize = 16_000_000;
const MOST_PER_SECOND: usize = 200_000;

/// How addresses are banned.
#[derive(Clone, Debug, PartialEq)]
pub struct Ban {
    /// How long the first time, in whole seconds.
    pub seconds: u32,
    /// How long each time.
    pub durations: Durations,
    /// How often the lists are asked again for who is banned, in whole seconds.
    pub look_again: u32,
    /// The kernel's set of IPv4 addresses.
    pub set4: String,
    /// The kernel's set of IPv6 networks.
    pub set6: String,
    /// The prefix length that an IPv6 client is banned by.
    pub prefix6: u8,
    /// What holds the sets.
    pub backend: Backend,
    /// The most entries of each.
    pub max_entries: u32,
    /// What is done when one is full.
    pub when_full: WhenFull,
    /// The most bans of verdicts in a second.
    pub new_per_second: u32,
}

/// The rules that shut the banned out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Whether they are ours; else the sets alone.
    pub manage: bool,
    /// What becomes of a packet.
    pub packet: Packet,
    /// The most new connections, those of everybody; `None`: any.
    pub limit: Option<Rate>,
    /// Those of one IPv4 /24 or IPv6 /64.
    pub limit_per_network: Option<Rate>,
}

/// What becomes of a packet that opens a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packet {
    /// Nothing is answered.
    #[default]
    Drop,
    /// A TCP reset is answered.
    Reset,
}

/// So many in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In what: "second", "minute" or "hour".
    pub per: &'static str,
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

impl std::str::FromStr for Rate {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (count, per) = text.split_once('/').ok_or(())?;
        let per = ["second", "minute", "hour"]
            .into_iter()
            .find(|name| *name == per.trim())
            .ok_or(())?;
        let count = count.trim().parse().map_err(|_| ())?;
        // What hashlimit takes (xt_hashlimit's XT_HASHLIMIT_SCALE_v2).
        if (1..=10_000).contains(&count) {
            Ok(Self { count, per })
        } else {
            Err(())
        }
    }
}

impl Check<'_> {
    pub(super) fn ban(&self, ban: &file::Ban, retention: u32) -> Result<Ban, Problem> {
        let longest = Duration::from_secs(MAX_BAN_SECONDS.into());
        let second = Duration::from_secs(1);
        let time = self.duration("ban.time", &ban.time, second..=longest)?;
        let unwritten = ban.max_time.span().is_empty();
        // The default is no less than a time that is written.
        let least = if unwritten { second } else { time };
        let max_time = self
            .duration("ban.max-time", &ban.max_time, least..=longest)?
            .max(time);
        let year = Duration::from_secs(365 * 24 * 3600);
        let window = self.duration("ban.window", &ban.window, Duration::ZERO..=year)?;
        let week = Duration::from_secs(7 * 24 * 3600);
        let look_again = self.duration("ban.look-again", &ban.look_again, second..=week)?;
        let factor = *ban.factor.get_ref();
        if !(1.0..=1000.0).contains(&factor) {
            return self.wrong(
                ban.factor.span(),
                format!("ban.factor: {factor} is out of range, expected 1 to 1000"),
            );
        }
        for (key, set) in [("set4", &ban.set4), ("set6", &ban.set6)] {
            let name = set.get_ref();
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if !(1..=MAX_SET_NAME).contains(&name.len()) || !name.chars().all(fits) {
                return self.wrong(
                    set.span(),
                    format!(
                        "ban.{key}: {name:?} is no name of a set, expected 1 to {MAX_SET_NAME} letters, digits, '-', '_' or '.'"
                    ),
                );
            }
        }
        self.no_gate_set("set4", &ban.set4)?;
        self.no_gate_set("set6", &ban.set6)?;
        if ban.set4.get_ref() == ban.set6.get_ref() {
            return self.wrong(
                ban.set6.span(),
                format!(
                    "ban.set6: {:?} is the name of the IPv4 set already, expected another",
                    ban.set6.get_ref()
                ),
            );
        }
        let prefix6 = self.within("ban.prefix6", &ban.prefix6, 48..=128)?;
        Ok(Ban {
            seconds: seconds(time),
            durations: Durations {
                time: seconds(time),
                factor,
                max_time: seconds(max_time),
                // What counts is kept no longer than anything else.
                window: seconds(window).min(retention),
            },
            look_again: seconds(look_again),
            set4: ban.set4.get_ref().clone(),
            set6: ban.set6.get_ref().clone(),
            // In range by the check above.
            prefix6: u8::try_from(prefix6).unwrap_or(128),
            backend: self.one_of(
                "ban.backend",
                &ban.backend,
                &[
                    ("auto", Backend::Auto),
                    ("ipset", Backend::Ipset),
                    ("nftables", Backend::Nftables),
                    ("dry-run", Backend::DryRun),
                ],
            )?,
            max_entries: self.number("ban.max-entries", &ban.max_entries, 1..=MOST_ENTRIES)?,
            when_full: self.one_of(
                "ban.when-full",
                &ban.when_full,
                &[("replace", WhenFull::Replace), ("grow", WhenFull::Grow)],
            )?,
            new_per_second: self.number(
                "ban.new-per-second",
                &ban.new_per_second,
                1..=MOST_PER_SECOND,
            )?,
        })
    }

    pub(super) fn number(
        &self,
        key: &str,
        value: &Spanned<i64>,
        range: RangeInclusive<usize>,
    ) -> Result<u32, Problem> {
        let number = self.within(key, value, range)?;
        // In range by the check above.
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    }

    pub(super) fn firewall(&self, firewall: &file::Firewall) -> Result<Firewall, Problem> {
        let rate = |key: &str, value: &Spanned<String>| {
            let text = value.get_ref();
            if text.is_empty() {
                return Ok(None);
            }
            text.parse().map(Some).or_else(|()| {
                self.wrong(
                    value.span(),
                    format!(
                        "firewall.{key}: {text:?} is no rate, expected for example \"50/second\" or \"90/minute\" (1 to 10000 in a second, minute or hour), or \"\""
                    ),
                )
            })
        };
        Ok(Firewall {
            manage: firewall.manage,
            packet: self.one_of(
                "firewall.packet",
                &firewall.packet,
                &[("drop", Packet::Drop), ("reset", Packet::Reset)],
            )?,
            limit: rate("limit", &firewall.limit)?,
            limit_per_network: rate("limit-per-network", &firewall.limit_per_network)?,
        })
    }
}

/// A time that was checked to be short.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}
