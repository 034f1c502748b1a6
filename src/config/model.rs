//! The checked model: what the rest of the house works with.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use ipnetwork::IpNetwork;
use log::LevelFilter;
use rblfilter_warden::policy::{Backend, MAX_BAN_SECONDS, MAX_SET_NAME, WhenFull};
use rblfilter_warden::protected::canonical;
use toml::Spanned;

use super::error::Problem;
use super::file::{self, File};
use super::lists;
use crate::dnsbl::{Bounds, Score, Thresholds, Zone};
use crate::enforce::durations::Durations;
use crate::guard::plan::Marks;
use crate::reply::Template;

/// A configuration in which everything has been checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether sentences are carried out.
    pub mode: Mode,
    /// How sessions are seen when they connect.
    pub watch: Watch,
    /// The local TCP ports whose sessions are judged.
    pub ports: Vec<u16>,
    /// The environment variables that hold couriertcpd's verdicts.
    pub block_variables: Vec<String>,
    /// What a verdict in each of them is worth.
    pub block_scores: Vec<Score>,
    /// Recipients (lower case, local part or whole address) that are never refused.
    pub exempt_recipients: Vec<String>,
    /// When a refused session is ended.
    pub kill: KillPolicy,
    /// Networks that are never judged.
    pub allow: Vec<IpNetwork>,
    /// Where the slot guard begins and leaves off; `None`: there is none.
    pub guard: Option<Marks>,
    /// From how many points on a client is refused and banned.
    pub thresholds: Thresholds,
    /// Who is never banned.
    pub never_ban: NeverBan,
    /// How addresses are banned.
    pub ban: Ban,
    /// The rules that shut them out.
    pub firewall: Firewall,
    /// The text after `554 5.7.1`.
    pub reply: Template,
    /// How the lists are asked.
    pub resolver: Resolver,
    /// How long their answers are kept.
    pub cache: Bounds,
    /// The least serious level that is logged.
    pub log_level: LevelFilter,
    /// The DNS lists, those that speak for a client at the end.
    pub zones: Vec<Zone>,
}

/// Who is refused with a text, but never ended or banned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeverBan {
    /// Networks.
    pub relays: Vec<IpNetwork>,
    /// Domains whose SPF records' addresses are meant.
    pub spf: Vec<Name>,
}

/// Whether sentences are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reject, kill and ban.
    Enforce,
    /// Decide and log alone.
    Observe,
}

/// How sessions are seen when they connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// By what.
    pub by: WatchBy,
    /// How often couriertcpd's children are looked at, where they are polled.
    pub interval: Duration,
}

/// By what sessions are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchBy {
    /// The kernel's word where it gives it, else polling.
    Auto,
    /// The kernel's word; polling, with an error in the log, where it gives none.
    Events,
    /// Polling.
    Poll,
    /// Nothing: sessions are judged at the end of data alone.
    Off,
}

/// When a refused session is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillPolicy {
    /// At once.
    Always,
    /// At once while a fifth of the slots or more is in use; else the client
    /// has this long to read its 554.
    Pressure {
        /// The longest that the client is left.
        grace: Duration,
    },
}

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

/// How the lists are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// The longest that a message waits for all lists together.
    pub limit: Duration,
    /// The longest that one query is waited for; there are two tries.
    pub query_limit: Duration,
    /// The most queries that are open at the same time.
    pub in_flight: usize,
    /// Whether private addresses are looked up too.
    pub query_non_global: bool,
    /// Nameservers; none: those in `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
}

/// The longest `lookup.limit`: courieresmtpd's own client would not wait longer.
const MAX_LIMIT: Duration = Duration::from_secs(30);

/// The largest set, and the most bans in a second.
const MOST_ENTRIES: usize = 16_000_000;
const MOST_PER_SECOND: usize = 200_000;

/// Checks what serde could not; `included` are the lists of the file that
/// `include` names.
pub fn check(text: &str, file: File, included: Vec<Zone>) -> Result<Config, Problem> {
    let check = Check { text };
    let mut thresholds = check.thresholds(&file.score, file.never_ban.dnswl)?;
    let reply = check.reply(&file.reply)?;
    let blocks = check.variables(&file.block_variables, thresholds.ban)?;
    let mut zones = lists::check(
        text,
        file.dnsbl,
        file.dnswl,
        &thresholds,
        file.reply.contact.get_ref(),
    )?;
    for zone in included {
        if zones.iter().any(|other| other.origin() == zone.origin()) {
            let message = format!("include: {} stands in both files", zone.name());
            return check.wrong(file.include.span(), message);
        }
        zones.push(zone);
    }
    // In the order of the files, with those that speak for a client at the end.
    zones.sort_by_key(Zone::allows);
    let against =
        zones.iter().filter(|zone| !zone.allows()).count() + usize::from(!blocks.is_empty());
    if thresholds.ban_needs > against.max(1) {
        return check.wrong(
            file.score.ban_needs.span(),
            format!(
                "score.ban-needs: {} lists must agree, but there are {against} (couriertcpd's are one): nobody would ever be banned",
                thresholds.ban_needs
            ),
        );
    }
    thresholds.ban_needs = thresholds.ban_needs.max(1);
    let limit = check.duration(
        "lookup.limit",
        &file.lookup.limit,
        Duration::from_millis(100)..=MAX_LIMIT,
    )?;
    let grace = check.duration(
        "grace",
        &file.grace,
        Duration::ZERO..=Duration::from_secs(60),
    )?;
    Ok(Config {
        mode: check.one_of(
            "mode",
            &file.mode,
            &[("enforce", Mode::Enforce), ("observe", Mode::Observe)],
        )?,
        watch: Watch {
            by: check.one_of(
                "watch",
                &file.watch,
                &[
                    ("auto", WatchBy::Auto),
                    ("events", WatchBy::Events),
                    ("poll", WatchBy::Poll),
                    ("off", WatchBy::Off),
                ],
            )?,
            interval: check.duration(
                "poll-interval",
                &file.poll_interval,
                Duration::from_millis(1)..=Duration::from_secs(10),
            )?,
        },
        ports: check.ports(&file.ports)?,
        block_variables: blocks.iter().map(|(name, _)| name.clone()).collect(),
        block_scores: blocks.iter().map(|(_, score)| *score).collect(),
        exempt_recipients: check.recipients(&file.exempt_recipients)?,
        kill: check.one_of(
            "kill",
            &file.kill,
            &[
                ("always", KillPolicy::Always),
                ("pressure", KillPolicy::Pressure { grace }),
            ],
        )?,
        allow: file
            .allow
            .networks
            .iter()
            .map(|n| check.network("allow.networks", n))
            .collect::<Result<_, _>>()?,
        guard: check.guard(&file.guard)?,
        thresholds,
        never_ban: NeverBan {
            relays: file
                .never_ban
                .relays
                .iter()
                .map(|n| check.network("never-ban.relays", n))
                .collect::<Result<_, _>>()?,
            spf: file
                .never_ban
                .spf
                .iter()
                .map(|domain| check.domain("never-ban.spf", domain))
                .collect::<Result<_, _>>()?,
        },
        ban: check.ban(&file.ban)?,
        firewall: check.firewall(&file.firewall)?,
        reply,
        resolver: Resolver {
            limit,
            query_limit: check
                .duration(
                    "lookup.query-limit",
                    &file.lookup.query_limit,
                    Duration::from_millis(50)..=MAX_LIMIT,
                )?
                .min(limit / 2),
            in_flight: check.within("lookup.in-flight", &file.lookup.in_flight, 1..=16_384)?,
            query_non_global: file.lookup.query_non_global,
            nameservers: file
                .lookup
                .nameservers
                .iter()
                .map(|server| check.nameserver(server))
                .collect::<Result<_, _>>()?,
        },
        cache: check.cache(&file.cache)?,
        log_level: check.one_of(
            "log.level",
            &file.log.level,
            &[
                ("error", LevelFilter::Error),
                ("warn", LevelFilter::Warn),
                ("info", LevelFilter::Info),
                ("debug", LevelFilter::Debug),
            ],
        )?,
        zones,
    })
}

/// The points at which a client is refused and banned.
pub fn thresholds(text: &str, score: &file::Score, dnswl: bool) -> Result<Thresholds, Problem> {
    Check { text }.thresholds(score, dnswl)
}

/// The text that problems are located in.
pub(super) struct Check<'a> {
    pub(super) text: &'a str,
}

impl Check<'_> {
    pub(super) fn wrong<T>(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Result<T, Problem> {
        Err(Problem::at(self.text, span, message))
    }

    fn one_of<T: Copy>(
        &self,
        key: &str,
        value: &Spanned<String>,
        choices: &[(&str, T)],
    ) -> Result<T, Problem> {
        if let Some((_, choice)) = choices.iter().find(|(name, _)| name == value.get_ref()) {
            return Ok(*choice);
        }
        let names: Vec<String> = choices
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let (last, rest) = names
            .split_last()
            .map_or(("", &[][..]), |(l, r)| (l.as_str(), r));
        let expected = format!("{} or {last}", rest.join(", "));
        self.wrong(
            value.span(),
            format!(
                "{key}: unknown value {:?}, expected {expected}",
                value.get_ref()
            ),
        )
    }

    fn duration(
        &self,
        key: &str,
        value: &Spanned<String>,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, Problem> {
        let Ok(duration) = humantime::parse_duration(value.get_ref()) else {
            return self.wrong(
                value.span(),
                format!(
                    "{key}: {:?} is no duration, expected for example \"1h\", \"90s\" or \"1h 30m\"",
                    value.get_ref()
                ),
            );
        };
        if range.contains(&duration) {
            return Ok(duration);
        }
        self.wrong(
            value.span(),
            format!(
                "{key}: {} is out of range, expected {} to {}",
                value.get_ref(),
                humantime::format_duration(*range.start()),
                humantime::format_duration(*range.end())
            ),
        )
    }

    fn ports(&self, ports: &Spanned<Vec<u16>>) -> Result<Vec<u16>, Problem> {
        if ports.get_ref().is_empty() {
            return self.wrong(ports.span(), "ports: expected at least one TCP port");
        }
        if ports.get_ref().contains(&0) {
            return self.wrong(ports.span(), "ports: 0 is no TCP port, expected 1 to 65535");
        }
        // The firewall's rule names them (iptables-extensions(8), multiport).
        if ports.get_ref().len() > 15 {
            return self.wrong(ports.span(), "ports: expected at most 15 TCP ports");
        }
        Ok(ports.get_ref().clone())
    }

    fn thresholds(&self, score: &file::Score, dnswl: bool) -> Result<Thresholds, Problem> {
        let positive = |key: &str, value: &Spanned<f64>| match self.score(key, value)? {
            score if score.is_positive() => Ok(score),
            _ => self.wrong(value.span(), format!("{key}: expected more than 0")),
        };
        let reject = positive("score.reject", &score.reject)?;
        let ban = positive("score.ban", &score.ban)?;
        if reject > ban {
            let span = if score.ban.span().is_empty() {
                score.reject.span()
            } else {
                score.ban.span()
            };
            let message =
                format!("score.ban: {ban} is less than score.reject, expected {reject} or more");
            return self.wrong(span, message);
        }
        Ok(Thresholds {
            reject,
            ban,
            ban_needs: self.within("score.ban-needs", &score.ban_needs, 1..=100)?,
            vouched_never_ban: dnswl,
        })
    }

    pub(super) fn score(&self, key: &str, value: &Spanned<f64>) -> Result<Score, Problem> {
        match Score::from_points(*value.get_ref()) {
            Some(score) => Ok(score),
            None => self.wrong(
                value.span(),
                format!("{key}: expected a number, -100000 to 100000"),
            ),
        }
    }

    fn within(
        &self,
        key: &str,
        value: &Spanned<usize>,
        range: RangeInclusive<usize>,
    ) -> Result<usize, Problem> {
        let number = *value.get_ref();
        if range.contains(&number) {
            return Ok(number);
        }
        let (least, most) = (range.start(), range.end());
        self.wrong(
            value.span(),
            format!("{key}: {number} is out of range, expected {least} to {most}"),
        )
    }

    fn cache(&self, cache: &file::Cache) -> Result<Bounds, Problem> {
        let week = Duration::from_secs(7 * 24 * 3600);
        let second = Duration::from_secs(1);
        let min_ttl = self.duration("cache.min-ttl", &cache.min_ttl, second..=week)?;
        Ok(Bounds {
            entries: self.within("cache.entries", &cache.entries, 1000..=100_000_000)?,
            min_ttl,
            max_ttl: self.duration("cache.max-ttl", &cache.max_ttl, min_ttl..=week)?,
            max_negative_ttl: self.duration(
                "cache.max-negative-ttl",
                &cache.max_negative_ttl,
                min_ttl..=week,
            )?,
            stale: self.duration("cache.stale", &cache.stale, Duration::ZERO..=week)?,
        })
    }

    fn domain(&self, key: &str, value: &Spanned<String>) -> Result<Name, Problem> {
        let text = value.get_ref();
        Zone::new(text)
            .map(|zone| zone.origin().clone())
            .map_or_else(
                || self.wrong(value.span(), format!("{key}: {text:?} is no domain name")),
                Ok,
            )
    }

    /// The variables in a list, worth a ban each, or in a table with their
    /// scores.
    fn variables(
        &self,
        variables: &Spanned<toml::Value>,
        ban: Score,
    ) -> Result<Vec<(String, Score)>, Problem> {
        let wrong = || {
            self.wrong(
                variables.span(),
                "block-variables: expected a list of names, [\"BLOCK\"], or a table of scores, { BLOCK = 10, BLOCK2 = 5 }",
            )
        };
        let mut all = Vec::new();
        match variables.get_ref() {
            toml::Value::Array(names) => {
                for name in names {
                    let Some(name) = name.as_str() else {
                        return wrong();
                    };
                    all.push((name.to_owned(), ban));
                }
            }
            toml::Value::Table(table) => {
                for (name, value) in table {
                    let score = lists::number(value).and_then(Score::from_points);
                    let Some(score) = score.filter(|score| !score.is_negative()) else {
                        return self.wrong(
                            variables.span(),
                            format!("block-variables: {name}: expected a number, 0 to 100000"),
                        );
                    };
                    all.push((name.clone(), score));
                }
            }
            _ => return wrong(),
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for (name, _) in &all {
            if name.is_empty() || !name.chars().all(fits) {
                return self.wrong(
                    variables.span(),
                    format!("block-variables: {name:?} is no name of an environment variable"),
                );
            }
        }
        Ok(all)
    }

    fn recipients(&self, recipients: &[Spanned<String>]) -> Result<Vec<String>, Problem> {
        for recipient in recipients {
            let name = recipient.get_ref();
            let domain = name.split_once('@').map(|(_, domain)| domain);
            let fits = |c: char| c.is_ascii_graphic() || !c.is_ascii();
            if name.is_empty()
                || name.starts_with('@')
                || domain.is_some_and(|domain| domain.is_empty() || domain.contains('@'))
                || !name.chars().all(fits)
            {
                return self.wrong(
                    recipient.span(),
                    format!("exempt-recipients: {name:?} is no recipient, expected for example \"postmaster\" or \"abuse@example.org\""),
                );
            }
        }
        Ok(recipients
            .iter()
            .map(|recipient| recipient.get_ref().to_lowercase())
            .collect())
    }

    fn network(&self, key: &str, value: &Spanned<String>) -> Result<IpNetwork, Problem> {
        let text = value.get_ref();
        let Ok(network) = text.parse::<IpNetwork>() else {
            return self.wrong(
                value.span(),
                format!(
                    "{key}: {text:?} is no network, expected for example \"10.0.0.0/8\" or \"2001:db8::1\""
                ),
            );
        };
        if network.ip() == network.network() {
            return Ok(canonical(network));
        }
        self.wrong(
            value.span(),
            format!(
                "{key}: {text:?} has host bits set, expected \"{}/{}\"",
                network.network(),
                network.prefix()
            ),
        )
    }

    fn guard(&self, guard: &file::Guard) -> Result<Option<Marks>, Problem> {
        let (high, low) = (*guard.high_water.get_ref(), *guard.low_water.get_ref());
        if !(20..=94).contains(&high) {
            return self.wrong(
                guard.high_water.span(),
                format!("guard.high-water: {high} is out of range, expected 20 to 94 (percent)"),
            );
        }
        if !(10..high).contains(&low) {
            return self.wrong(
                guard.low_water.span(),
                format!(
                    "guard.low-water: {low} is out of range, expected 10 to {} (percent, below guard.high-water)",
                    high - 1
                ),
            );
        }
        let marks = Marks {
            high: high.into(),
            low: low.into(),
        };
        Ok(guard.enabled.then_some(marks))
    }

    fn ban(&self, ban: &file::Ban) -> Result<Ban, Problem> {
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
        if ban.set4.get_ref() == ban.set6.get_ref() {
            return self.wrong(
                ban.set6.span(),
                format!(
                    "ban.set6: {:?} is the name of the IPv4 set already, expected another",
                    ban.set6.get_ref()
                ),
            );
        }
        let prefix6 = *ban.prefix6.get_ref();
        if !(48..=128).contains(&prefix6) {
            return self.wrong(
                ban.prefix6.span(),
                format!("ban.prefix6: {prefix6} is out of range, expected 48 to 128"),
            );
        }
        Ok(Ban {
            seconds: seconds(time),
            durations: Durations {
                time: seconds(time),
                factor,
                max_time: seconds(max_time),
                window: seconds(window),
            },
            look_again: seconds(look_again),
            set4: ban.set4.get_ref().clone(),
            set6: ban.set6.get_ref().clone(),
            prefix6,
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

    fn number(
        &self,
        key: &str,
        value: &Spanned<usize>,
        range: RangeInclusive<usize>,
    ) -> Result<u32, Problem> {
        let number = self.within(key, value, range)?;
        // In range by the check above.
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn firewall(&self, firewall: &file::Firewall) -> Result<Firewall, Problem> {
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

    fn reply(&self, reply: &file::Reply) -> Result<Template, Problem> {
        let contact = reply.contact.get_ref();
        if !contact.chars().all(printable) || contact.len() > 100 {
            return self.wrong(
                reply.contact.span(),
                "reply.contact: expected at most 100 printable ASCII characters",
            );
        }
        Template::parse(reply.text.get_ref(), contact)
            .or_else(|error| self.wrong(reply.text.span(), format!("reply.text: {error}")))
    }

    fn nameserver(&self, value: &Spanned<String>) -> Result<SocketAddr, Problem> {
        let text = value.get_ref();
        text.parse::<IpAddr>()
            .map(|ip| SocketAddr::new(ip, 53))
            .or_else(|_| text.parse())
            .or_else(|_| {
                self.wrong(
                    value.span(),
                    format!(
                        "lookup.nameservers: {text:?} is no address, expected for example \"127.0.0.1\" or \"[::1]:5353\""
                    ),
                )
            })
    }
}

/// A time that was checked to be short.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

pub(super) fn printable(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic()
}
